"""Normalisation inside an LSTM layer: `model.norm`. Parts of a cell are normalised and then scaled.

"layer" (Ba, Kiros and Hinton 2016, supplementary material) gives each part of a row mean 0 and variance 1 over its
features, for the gates all 4H at once:

    gates = LN(h @ kernel_h) * scale_h + LN(x @ kernel_x) * scale_x + bias
    h' = sigmoid(o) * tanh(LN(c') * scale_c + shift_c)

"batch" (Cooijmans et al. 2016) normalises the same parts over the rows of the batch, for each time step separately;
scales start at 0.1, so that gradients do not vanish. Each time step waits for two collectives over the devices, and for
two more in the backward pass. The paper keeps separate running statistics for each time step since the beginning of a
sequence. Here the carry goes on across windows, so they are averaged over time: near the beginning of a text, where
they differ, predictions are worse.

"layer_gates" and "rms_gates" normalise the sum of both parts instead, each gate by the statistics of its own H values:

    gate = N(x @ kernel_x + h @ kernel_h) * scale_z + bias

with N(z) = (z - mean(z)) / standard deviation(z) for "layer_gates" (Ba et al. 2016), and z / root mean square(z) for
"rms_gates" (Zhang and Sennrich 2019). A gate then has the size that training gave its scale, whatever the size of what
enters it. The cell state is not normalised.

"batch_input" (Laurent et al. 2015) normalises x @ kernel_x alone, over the rows and the time steps of a window
("sequence-wise").
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.config import NORMS_OF_GATES
from lovecraft_jax.model.matmul import sum_rows
from lovecraft_jax.runtime.mesh import mean_over_devices

Moments = tuple[jax.Array, jax.Array]
"""Mean and variance, with as many axes as the array that they belong to."""
BatchMoments = dict[str, Moments]
"""The moments of a batch, by part of the cell: "x", "h", "c"."""
Average = Callable[[tuple[jax.Array, ...]], tuple[jax.Array, ...]]
"""`over_features` or `over_rows`."""

STATISTICS = "batch_stats"
"""Flax's collection of running statistics. Where it is mutable, the model is training."""
PARTS = {"none": "", "layer": "xhc", "batch_input": "x", "batch": "xhc"} | dict.fromkeys(NORMS_OF_GATES, "z")
"""What each `norm` normalises: the gates' parts from x and from h, their sum z, and the cell state c."""
FIRST_SCALE = {"batch": 0.1}
"""Initial value of the scales; 1 for the norms that are not listed."""
MOMENTUM = 0.99
"""Decay of the running statistics at each step: Flax's and Keras's default."""
EPSILON = 1e-5
"""Added to a variance or a mean square: the default of Flax's BatchNorm."""


def over_features(parts: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The means over the last axis of arrays [..., F], each [..., 1]."""
    return tuple(jnp.mean(x, axis=-1, keepdims=True) for x in parts)


def over_rows(parts: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The means of arrays [..., B, F] over the rows of all devices, each [..., 1, F], inside `mesh.shard_rows`."""
    return mean_over_devices(tuple(jnp.mean(x, axis=-2, keepdims=True) for x in parts))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def normalise(x: jax.Array, scale_F: jax.Array, average: Average) -> tuple[jax.Array, Moments]:
    """x [..., F] normalised by its own moments and scaled, and the moments, through which no gradient flows. The
    gradient is written out (Ioffe and Szegedy 2015): in a layer of 150 units autodiff's takes twice as long."""
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
    """x [..., F] normalised by the given moments, [F] or with as many axes as x, and scaled."""
    mean, variance = (_over(x, moment) for moment in moments)
    return (x - mean) * lax.rsqrt(variance + EPSILON) * _over(x, scale_F)


def _over(x: jax.Array, values: jax.Array) -> jax.Array:
    """Values that belong to the last axes of x, with leading axes of size 1, as many as x has."""
    return jnp.expand_dims(values, range(x.ndim - values.ndim))


def normalise_gates(z_BG: jax.Array, gates: int, norm: str) -> tuple[jax.Array, jax.Array]:
    """Each of the N = `gates` gates in z [B, G] normalised over its H values, and one over the standard deviation or
    root mean square of each [B, N], which `normalise_gates_backward` needs."""
    z_BNH = z_BG.reshape(len(z_BG), gates, -1)
    if norm == "layer_gates":
        z_BNH -= jnp.mean(z_BNH, axis=-1, keepdims=True)
    inverse_BN1 = lax.rsqrt(jnp.mean(z_BNH * z_BNH, axis=-1, keepdims=True) + EPSILON)
    return (z_BNH * inverse_BN1).reshape(z_BG.shape), inverse_BN1[..., 0]


def normalise_gates_backward(grad_BG: jax.Array, normal_BG: jax.Array, inverse_BN: jax.Array, norm: str) -> jax.Array:
    """The gradient of z [B, G] in `normalise_gates`, from that of its first result [B, G] and from both results."""
    shape = (*inverse_BN.shape, -1)
    grad_BNH, normal_BNH = grad_BG.reshape(shape), normal_BG.reshape(shape)
    grad = grad_BNH - normal_BNH * jnp.mean(grad_BNH * normal_BNH, axis=-1, keepdims=True)
    if norm == "layer_gates":
        grad -= jnp.mean(grad_BNH, axis=-1, keepdims=True)
    return (grad * inverse_BN[..., None]).reshape(grad_BG.shape)
