"""The LSTM layer with its backward pass written out: the values and gradients of lstm.py's cell under nn.scan, faster.

Autodiff of a scan accumulates the weight gradient inside its loop and splits the gates into many small operations. Here
a loop holds only what is recurrent, one matmul and one elementwise operation on all gates per time step; everything
else is computed for all T at once. The loops exist twice: below for XLA, and in C++ for CPUs (native/).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.model.dropout import drop
from lovecraft_jax.model.matmul import dot, sum_rows
from lovecraft_jax.model.native import ops
from lovecraft_jax.model.normalization import normalise_gates, normalise_gates_backward

LSTMCarry = tuple[jax.Array, jax.Array]
"""(c_BH, h_BH), float32, in Flax's order."""


class Form(NamedTuple):
    """What a layer computes, beyond its parameters: settings of config.model. `in_cpp` runs the loops in C++."""

    dtype: jnp.dtype
    input_gate: str = "own"
    norm: str = "none"
    in_cpp: bool = False


class LoopParams(NamedTuple):
    """The parameters of the recurrence: kernel_h, the bias, the scale of a norm of the gates, and the dropout mask on h
    before the matmul with kernel_h."""

    kernel_h_HG: jax.Array
    bias_G: jax.Array
    scale_G: jax.Array | None = None
    recurrent_BH: jax.Array | None = None


class Sequence(NamedTuple):
    """All time steps, as they are saved for the backward pass. The gates are those after their activations; with a norm
    they are the normalised ones, before scale, bias and activation, and `inverse_TBN` is what each of the N gates was
    multiplied by."""

    gates_TBG: jax.Array
    c_TBH: jax.Array
    h_TBH: jax.Array
    inverse_TBN: jax.Array | None = None


class LoopGrads(NamedTuple):
    """The gradients of the gates before norm and activation [T, B, G] and of the first c [B, H]; with a norm, those of
    its scale [G] and of the bias [G] as well."""

    gates_TBG: jax.Array
    c_BH: jax.Array
    scale_G: jax.Array | None = None
    bias_G: jax.Array | None = None


Saved = tuple[LoopParams, LSTMCarry, Sequence]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def fused_lstm(params: LoopParams, gates_x_TBG: jax.Array, carry: LSTMCarry, form: Form) -> tuple[LSTMCarry, jax.Array]:
    """The carry after the last time step, and h [T, B, H], from the input's part of the gates for all time steps."""
    return _forward(params, gates_x_TBG, carry, form)[0]


def _forward(
    params: LoopParams, gates_x_TBG: jax.Array, carry: LSTMCarry, form: Form
) -> tuple[tuple[LSTMCarry, jax.Array], Saved]:
    loop = _forward_in_cpp if form.in_cpp else forward_loop
    sequence = loop(params, gates_x_TBG, carry, form)
    return ((sequence.c_TBH[-1], sequence.h_TBH[-1]), sequence.h_TBH), (params, carry, sequence)


def _backward(form: Form, saved: Saved, cotangents: tuple[LSTMCarry, jax.Array]) -> tuple:
    # Nothing below may start before the layer's gradient has arrived: otherwise XLA computes the factors of all layers
    # early and keeps them in memory.
    saved, cotangents = lax.optimization_barrier((saved, cotangents))
    params, (first_c_BH, first_h_BH), sequence = saved
    kernel_h_HG, mask_BH = params.kernel_h_HG, params.recurrent_BH
    H, G = kernel_h_HG.shape
    loop = _backward_in_cpp if form.in_cpp else backward_loop
    grads = loop(params, first_c_BH, sequence, *cotangents, form)
    h_before_TBH = jnp.concatenate([first_h_BH[None], sequence.h_TBH[:-1]])
    # Flattened before the matmul: contracting over [T, B], XLA would first transpose a copy of the whole gradient.
    h_before_NH = drop(h_before_TBH, None if mask_BH is None else mask_BH[None]).reshape(-1, H)
    grad_NG = grads.gates_TBG.reshape(-1, G)
    carry_grad = grads.c_BH, drop(dot(grads.gates_TBG[0], kernel_h_HG.T, form.dtype), mask_BH)
    kernel_grad_HG = ops.matmul_tn(h_before_NH, grad_NG) if form.in_cpp else dot(h_before_NH.T, grad_NG, form.dtype)
    bias_grad_G = sum_rows(grad_NG) if grads.bias_G is None else grads.bias_G
    return LoopParams(kernel_grad_HG, bias_grad_G, grads.scale_G), grads.gates_TBG, carry_grad


fused_lstm.defvjp(_forward, _backward)


# The loops for XLA update the buffer that they read in place; lax.scan would fill new buffers with zeros and copy them.


def forward_loop(params: LoopParams, gates_x_TBG: jax.Array, carry: LSTMCarry, form: Form) -> Sequence:
    """All time steps forward, from the input's part of the gates [T, B, G] and the first carry."""
    kernel_h_HG = params.kernel_h_HG
    (T, _, G), H = gates_x_TBG.shape, len(kernel_h_HG)
    scaled = scale_and_shift(H, G // H)
    kernel_h_HG = kernel_h_HG.astype(form.dtype)  # here, since XLA for GPUs would cast it again in every time step

    def step(t: jax.Array, loop: tuple) -> tuple:
        c_BH, h_BH, sequence = loop
        gates_BG = at(sequence.gates_TBG, t) + dot(drop(h_BH, params.recurrent_BH), kernel_h_HG, form.dtype)
        return step_forward(params, gates_BG, c_BH, sequence, t, scaled, form)

    return lax.fori_loop(0, T, step, (*carry, empty_sequence(params, gates_x_TBG, H)))[2]


def empty_sequence(params: LoopParams, gates_TBG: jax.Array, H: int) -> Sequence:
    """A Sequence before its first time step, whose gates are given."""
    T, B, G = gates_TBG.shape
    empty_TBH = jnp.zeros((T, B, H))
    return Sequence(gates_TBG, empty_TBH, empty_TBH, None if params.scale_G is None else jnp.zeros((T, B, G // H)))


def step_forward(
    params: LoopParams,
    gates_BG: jax.Array,
    c_BH: jax.Array,
    sequence: Sequence,
    t: jax.Array,
    scaled: tuple[jax.Array, jax.Array],
    form: Form,
) -> tuple[jax.Array, jax.Array, Sequence]:
    """Time step t from its gates before norm, bias and activation: c and h after it, and the sequence with it."""
    bias_1G, scale_G, gates = params.bias_G[None], params.scale_G, gates_BG.shape[-1] // c_BH.shape[-1]
    inverse_TBN = sequence.inverse_TBN
    if scale_G is not None:
        saved_BG, inverse_BN = normalise_gates(gates_BG, gates, form.norm)
        _, c_BH, h_BH = activate(saved_BG * scale_G[None] + bias_1G, c_BH, scaled, form.input_gate)
        assert inverse_TBN is not None
        inverse_TBN = put(inverse_TBN, inverse_BN, t)
    else:
        saved_BG, c_BH, h_BH = activate(gates_BG + bias_1G, c_BH, scaled, form.input_gate)
    after = put(sequence.gates_TBG, saved_BG, t), put(sequence.c_TBH, c_BH, t), put(sequence.h_TBH, h_BH, t)
    return c_BH, h_BH, Sequence(*after, inverse_TBN)


def backward_loop(
    params: LoopParams,
    first_c_BH: jax.Array,
    sequence: Sequence,
    last_grad: LSTMCarry,
    h_grad_TBH: jax.Array,
    form: Form,
) -> LoopGrads:
    """All time steps backward, from the gradients of the last carry and of the outputs."""
    T = len(sequence.c_TBH)
    # Transposed once, outside of the loop: on a CPU a matmul with a transposed operand takes 1.5 times as long.
    kernel_GH = lax.optimization_barrier(params.kernel_h_HG.T.astype(form.dtype))
    factors = factors_of(params, first_c_BH, sequence, form)

    def step(n: jax.Array, loop: tuple) -> tuple:
        c_grad_BH, h_grad_BH, grads = loop
        t = T - 1 - n
        h_grad_BH += at(h_grad_TBH, t)
        c_grad_BH, grad_BG, grads = step_backward(params, c_grad_BH, h_grad_BH, sequence, factors, grads, t, form)
        return c_grad_BH, drop(dot(grad_BG, kernel_GH, form.dtype), params.recurrent_BH), grads

    c_grad_BH, _, grads = lax.fori_loop(0, T, step, (*last_grad, first_grads(params, factors)))
    return loop_grads(c_grad_BH, grads)


class Factors(NamedTuple):
    """What a time step backward multiplies by. With z the gates before their activations: `gates_TBG` so that dz =
    gates * dc for all gates but o, and dz = gates * dh for o; f; and what dh adds to dc, as a factor."""

    gates_TBG: jax.Array
    f_TBH: jax.Array
    h_to_c_TBH: jax.Array


Grads = tuple[jax.Array, ...]
"""The gradients of the gates [T, B, G], in whose memory the factors are before; with a norm also those of its scale and
of the bias, summed over time, [B, G]."""


def first_grads(params: LoopParams, factors: Factors) -> Grads:
    """The gradients before the last time step."""
    sums = [] if params.scale_G is None else [jnp.zeros(factors.gates_TBG.shape[1:])] * 2
    return factors.gates_TBG, *sums


def loop_grads(c_grad_BH: jax.Array, grads: Grads) -> LoopGrads:
    """The gradients after the first time step, the last one that is computed."""
    return LoopGrads(grads[0], c_grad_BH, *map(sum_rows, grads[1:]))


def step_backward(
    params: LoopParams,
    c_grad_BH: jax.Array,
    h_grad_BH: jax.Array,
    sequence: Sequence,
    factors: Factors,
    grads: Grads,
    t: jax.Array,
    form: Form,
) -> tuple[jax.Array, jax.Array, Grads]:
    """Time step t from the gradients of its c and h: the gradients of the c before it and of its gates before norm and
    activation [B, G], and all gradients with it."""
    saved_TBG, _, _, inverse_TBN = sequence
    grad_TBG, *sums = grads
    c_grad_BH += h_grad_BH * at(factors.h_to_c_TBH, t)
    all_c = [c_grad_BH] * (grad_TBG.shape[-1] // c_grad_BH.shape[-1] - 1)
    grad_BG = jnp.concatenate([*all_c, h_grad_BH], axis=-1) * at(grad_TBG, t)
    if params.scale_G is not None:
        assert inverse_TBN is not None
        saved_BG = at(saved_TBG, t)
        sums = [sums[0] + grad_BG * saved_BG, sums[1] + grad_BG]
        grad_BG = normalise_gates_backward(grad_BG * params.scale_G[None], saved_BG, at(inverse_TBN, t), form.norm)
    return c_grad_BH * at(factors.f_TBH, t), grad_BG, (put(grad_TBG, grad_BG, t), *sums)


def factors_of(params: LoopParams, first_c_BH: jax.Array, sequence: Sequence, form: Form) -> Factors:
    """The factors of all time steps."""
    gates_TBG, c_TBH, _, _ = sequence
    G, H = gates_TBG.shape[-1], c_TBH.shape[-1]
    if params.scale_G is not None:
        z_TBG = gates_TBG * params.scale_G[None, None] + params.bias_G[None, None]
        gates_TBG = _activate_gates(z_TBG, scale_and_shift(H, G // H))
    return _factors(gates_TBG, first_c_BH, c_TBH, form.input_gate)


def _factors(gates_TBG: jax.Array, first_c_BH: jax.Array, c_TBH: jax.Array, input_gate: str) -> Factors:
    """The factors, from the gates after their activations."""
    *i, f, g, o = split_gates(gates_TBG, c_TBH.shape[-1])
    tanh_c = jnp.tanh(c_TBH)
    c_before = jnp.concatenate([first_c_BH[None], c_TBH[:-1]])
    if input_gate == "own":
        factors = [g * i[0] * (1 - i[0]), c_before * f * (1 - f), i[0] * (1 - g * g)]
    elif input_gate == "capped":
        is_free = i[0] < 1 - f
        from_i = jnp.where(is_free, g * i[0] * (1 - i[0]), 0.0)
        from_f = jnp.where(is_free, c_before, c_before - g) * f * (1 - f)
        factors = [from_i, from_f, jnp.minimum(i[0], 1 - f) * (1 - g * g)]
    else:
        factors = [(c_before - g) * f * (1 - f), (1 - f) * (1 - g * g)]
    return Factors(jnp.concatenate([*factors, tanh_c * o * (1 - o)], axis=-1), f, o * (1 - tanh_c * tanh_c))


def _forward_in_cpp(params: LoopParams, gates_x_TBG: jax.Array, carry: LSTMCarry, form: Form) -> Sequence:
    kernel_h_HG, bias_G, scale_G, mask_BH = params
    if _is_plain(params, form):
        return Sequence(*ops.forward_loop(kernel_h_HG, bias_G, gates_x_TBG, carry))
    masked_h_BH = jnp.zeros(0) if mask_BH is None else carry[1] * mask_BH
    variant = ops.variant(form.input_gate, form.norm, scale_G, bias_G, mask_BH)
    return Sequence(*ops.variant_forward_loop(variant, kernel_h_HG, gates_x_TBG, carry, masked_h_BH))


def _backward_in_cpp(
    params: LoopParams,
    first_c_BH: jax.Array,
    sequence: Sequence,
    last_grad: LSTMCarry,
    h_grad_TBH: jax.Array,
    form: Form,
) -> LoopGrads:
    kernel_h_HG, bias_G, scale_G, mask_BH = params
    gates_TBG, c_TBH, _, inverse_TBN = sequence
    if _is_plain(params, form):
        return LoopGrads(*ops.backward_loop(kernel_h_HG, first_c_BH, gates_TBG, c_TBH, last_grad, h_grad_TBH))
    variant = ops.variant(form.input_gate, form.norm, scale_G, bias_G, mask_BH)
    assert inverse_TBN is not None
    saved = gates_TBG, first_c_BH, c_TBH, inverse_TBN
    *grads, sums = ops.variant_backward_loop(variant, kernel_h_HG, *saved, last_grad, h_grad_TBH)
    return LoopGrads(*grads) if scale_G is None else LoopGrads(*grads, *(sum_rows(sums[:, n]) for n in range(2)))


def _is_plain(params: LoopParams, form: Form) -> bool:
    return form.norm == "none" and form.input_gate == "own" and params.recurrent_BH is None


def scale_and_shift(units: int, gates: int = 4) -> tuple[jax.Array, jax.Array]:
    """[1, G] each, so that tanh(z * scale) * scale + shift activates all gates with one tanh: for sigmoid(z) =
    tanh(z / 2) / 2 + 1 / 2 they are 1/2 and 1/2; for tanh 1 and 0. The gates are the last of i, f, g, o."""
    scale_1G = jnp.repeat(jnp.array([[0.5, 0.5, 1.0, 0.5][-gates:]]), units, axis=1)
    return scale_1G, jnp.repeat(jnp.array([[0.5, 0.5, 0.0, 0.5][-gates:]]), units, axis=1)


def activate(
    gates_BG: jax.Array, c_BH: jax.Array, scaled: tuple[jax.Array, jax.Array], input_gate: str = "own"
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gates after their activations, c and h. `scaled` is `scale_and_shift`, computed outside of the loop."""
    gates_BG = _activate_gates(gates_BG, scaled)
    *i, f, g, o = split_gates(gates_BG, c_BH.shape[-1])
    c_BH = f * c_BH + effective_input_gate(i, f, input_gate) * g
    return gates_BG, c_BH, o * jnp.tanh(c_BH)


def effective_input_gate(i: list[jax.Array], f: jax.Array, input_gate: str) -> jax.Array:
    """What g is multiplied by [..., H]: i, or min(i, 1 - f), or 1 - f where there is no i. Takes gates after their
    activations; `i` has one array or none."""
    if input_gate == "own":
        return i[0]
    return jnp.minimum(i[0], 1 - f) if input_gate == "capped" else 1 - f


def split_gates(gates: jax.Array, units: int) -> list[jax.Array]:
    """The gates [..., G], by their order, as [..., H] each."""
    return jnp.split(gates, gates.shape[-1] // units, axis=-1)


def _activate_gates(gates: jax.Array, scaled: tuple[jax.Array, jax.Array]) -> jax.Array:
    scale, shift = (jnp.expand_dims(values_1G, range(gates.ndim - 2)) for values_1G in scaled)
    return jnp.tanh(gates * scale) * scale + shift


def at(all_T: jax.Array, t: jax.Array) -> jax.Array:
    """The values [B, F] of time step t."""
    return lax.dynamic_index_in_dim(all_T, t, 0, keepdims=False, allow_negative_indices=False)


def put(all_T: jax.Array, now: jax.Array, t: jax.Array) -> jax.Array:
    """The values of all time steps [T, B, F], with `now` as those of t."""
    return lax.dynamic_update_index_in_dim(all_T, now, t, 0, allow_negative_indices=False)
