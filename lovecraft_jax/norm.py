"""Normalisation in an LSTM layer: `model.norm`. Each part of a cell is brought to mean 0 and variance 1, then scaled.

"layer" (Ba, Kiros and Hinton 2016, supplementary material), over the features of one row, all 4H of the gates together:

    gates = LN(h @ kernel_h) * scale_h + LN(x @ kernel_x) * scale_x + bias
    h' = sigmoid(o) * tanh(LN(c') * scale_c + shift_c)

"batch" (Cooijmans et al. 2016): the same, over the rows of the batch, at each time step by itself; scales start at 0.1,
so that gradients last. Every time step waits for two collectives over the devices, and for two more on the way back.
In the paper the statistics for evaluation are a set for each time step since a text's beginning. Here the carry
goes on without one, and they are means over time too: near a beginning, where they differ, that costs.

"batch_input" (Laurent et al. 2015): x @ kernel_x alone, over the rows and the time steps of a window (sequence-wise).
"""

import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.mesh import mean

Moments = tuple[jax.Array, jax.Array]
"""Mean and variance, of as many axes as what they are of."""

Found = dict[str, Moments]
"""The moments of a batch, by the part of the cell that they are of."""

STATISTICS = "batch_stats"
"""Flax's collection of running statistics. Training is where it is mutable."""
PARTS = {"none": "", "layer": "xhc", "batch_input": "x", "batch": "xhc"}
"""What each `norm` normalises: the gates' parts from x and from h, and the cell c."""
FIRST_SCALE = {"batch": 0.1}
"""Cooijmans et al. 2016, section 4; elsewhere 1."""
MOMENTUM = 0.99
"""Of the running statistics a step: Flax's, and Keras's."""
EPSILON = 1e-5
"""Added to a variance: Flax's for BatchNorm."""


def normalise(x: jax.Array, moments: Moments, scale_F: jax.Array) -> jax.Array:
    """x [..., F] to mean 0 and variance 1, scaled."""
    mean, variance = moments
    return (x - mean) * (lax.rsqrt(variance + EPSILON) * over(x, scale_F))


def over(x: jax.Array, values_F: jax.Array) -> jax.Array:
    """A value a feature as an array of as many axes as x [..., F]."""
    return jnp.expand_dims(values_F, range(x.ndim - 1))


def of_row(x: jax.Array) -> Moments:
    """Over the features."""
    return jnp.mean(x, axis=-1, keepdims=True), jnp.var(x, axis=-1, keepdims=True)


def of_batch(x: jax.Array, axes: tuple[int, ...]) -> Moments:
    """Over rows or time steps of all devices; to be had inside `mesh.by_rows`, in one collective."""
    first, second = mean((jnp.mean(x, axis=axes, keepdims=True), jnp.mean(x * x, axis=axes, keepdims=True)))
    return first, jnp.maximum(0.0, second - first * first)


def running(before_F: jax.Array, found: jax.Array) -> jax.Array:
    """A running statistic after a step that has found these [..., F]."""
    return MOMENTUM * before_F + (1 - MOMENTUM) * jnp.mean(found, axis=range(found.ndim - 1))
