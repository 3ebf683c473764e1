"""Normalisation in an LSTM layer: `model.norm`. Parts of a cell are brought to mean 0 and variance 1, then scaled.

"layer" (Ba, Kiros and Hinton 2016, supplementary material), over the features of one row, all 4H of the gates together:

    gates = LN(h @ kernel_h) * scale_h + LN(x @ kernel_x) * scale_x + bias
    h' = sigmoid(o) * tanh(LN(c') * scale_c + shift_c)

"batch" (Cooijmans et al. 2016): the same, over the rows of the batch, at each time step by itself; scales start at 0.1,
so that gradients last. Every time step waits for two collectives over the devices, and for two more on the way back.
In the paper the statistics for evaluation are a set for each time step since a text's beginning. Here the carry
goes on without one, and they are means over time too: near a beginning, where they differ, that costs.

"batch_input" (Laurent et al. 2015): x @ kernel_x alone, over the rows and the time steps of a window (sequence-wise).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.model.matmul import sum_rows
from lovecraft_jax.runtime.mesh import mean_over_devices

Moments = tuple[jax.Array, jax.Array]
"""Mean and variance, of as many axes as what they are of."""
Found = dict[str, Moments]
"""The moments of a batch, by the part of the cell that they are of."""
Average = Callable[[tuple[jax.Array, ...]], tuple[jax.Array, ...]]

STATISTICS = "batch_stats"
"""Flax's collection of running statistics. Training is where it is mutable."""
PARTS = {"none": "", "layer": "xhc", "batch_input": "x", "batch": "xhc"}
"""What each `norm` normalises: the gates' parts from x and from h, and the cell c."""
FIRST_SCALE = {"batch": 0.1}
"""Of these, what scales start at; the others' at 1."""
MOMENTUM = 0.99
"""Of the running statistics a step: Flax's, and Keras's."""
EPSILON = 1e-5
"""Added to a variance, as Flax does."""


def over_features(parts: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Each row's mean of x [..., F]: [..., 1]."""
    return tuple(jnp.mean(x, axis=-1, keepdims=True) for x in parts)


def over_rows(parts: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The mean of x [..., B, F] over the rows of all devices, in one collective: [..., 1, F]. Inside `mesh.by_rows`."""
    found: tuple[jax.Array, ...] = mean_over_devices(tuple(jnp.mean(x, axis=-2, keepdims=True) for x in parts))
    return found


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def normalise(x: jax.Array, scale_F: jax.Array, average: Average) -> tuple[jax.Array, Moments]:
    """x [..., F] by its own moments, which are given too; no gradient goes through what is done with these.

    The gradient is written out (Ioffe and Szegedy 2015): in a layer of 150 units autodiff's takes twice as long.
    """
    return _forward(x, scale_F, average)[0]


def _forward(x: jax.Array, scale_F: jax.Array, average: Average) -> tuple[tuple[jax.Array, Moments], tuple]:
    first, second = average((x, x * x))
    moments = first, jnp.maximum(0.0, second - first * first)
    return (normalise_by(moments, x, scale_F), moments), (x, scale_F, moments)


def _backward(average: Average, saved: tuple, cotangents: tuple[jax.Array, Moments]) -> tuple[jax.Array, jax.Array]:
    (x, scale_F, (mean, variance)), (scaled_grad, _) = saved, cotangents
    per_deviation = lax.rsqrt(variance + EPSILON)
    normal = (x - mean) * per_deviation
    grad = scaled_grad * _over(x, scale_F)
    shift, along = average((grad, grad * normal))
    return (grad - shift - normal * along) * per_deviation, sum_rows(scaled_grad * normal)


normalise.defvjp(_forward, _backward)


def normalise_by(moments: Moments, x: jax.Array, scale_F: jax.Array) -> jax.Array:
    """x [..., F] by given moments, [F] or of as many axes as x."""
    mean, variance = (_over(x, moment) for moment in moments)
    return (x - mean) * lax.rsqrt(variance + EPSILON) * _over(x, scale_F)


def _over(x: jax.Array, values: jax.Array) -> jax.Array:
    """Values of the last axes of x, with as many axes as x has."""
    return jnp.expand_dims(values, range(x.ndim - values.ndim))


def running(before_F: jax.Array, found: jax.Array) -> jax.Array:
    """A running statistic after a step that has found these [..., F]."""
    return MOMENTUM * before_F + (1 - MOMENTUM) * jnp.mean(found, axis=range(found.ndim - 1))
