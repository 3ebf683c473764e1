"""The LSTM layer with its backward pass written out: the values and gradients of lstm.py's cell under nn.scan, faster.

Autodiff of a scan accumulates the weight gradient inside its loop and splits the gates into many small operations. Here
a loop holds only what is recurrent, one matmul and one elementwise operation on all gates per time step; everything
else is computed for all T at once. The loops exist three times: below for XLA, in lstm_blocks.py for XLA on GPUs, and
in C++ for CPUs (native/).

With a `dtype` of bfloat16, gates and h are also saved in it for the backward pass, and the layer's output is rounded to
it, as it would be for the next matmul. c, all sums and what is accumulated stay float32.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.model import lstm_blocks
from lovecraft_jax.model.dropout import drop
from lovecraft_jax.model.lstm_step import (
    Factors,
    Form,
    LoopGrads,
    LoopParams,
    LSTMCarry,
    SavedSteps,
    activate,
    at,
    factors_of,
    put,
    scale_and_shift,
)
from lovecraft_jax.model.matmul import dot, sum_rows
from lovecraft_jax.model.native import ops
from lovecraft_jax.model.normalization import normalise_gates, normalise_gates_backward

Saved = tuple[LoopParams, LSTMCarry, SavedSteps]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def fused_lstm(params: LoopParams, gates_x_TBG: jax.Array, carry: LSTMCarry, form: Form) -> tuple[LSTMCarry, jax.Array]:
    """The carry after the last time step, and h [T, B, H], from the input's part of the gates for all time steps."""
    return _forward(params, gates_x_TBG, carry, form)[0]


def _forward(
    params: LoopParams, gates_x_TBG: jax.Array, carry: LSTMCarry, form: Form
) -> tuple[tuple[LSTMCarry, jax.Array], Saved]:
    steps = _run_forward_loop(params, gates_x_TBG, carry, form)
    h_TBH = steps.h_TBH.astype(jnp.float32)
    return ((steps.c_TBH[-1], h_TBH[-1]), h_TBH), (params, carry, steps)


def _backward(form: Form, saved: Saved, cotangents: tuple[LSTMCarry, jax.Array]) -> tuple:
    # Nothing below may start before the layer's gradient has arrived: otherwise XLA computes the factors of all layers
    # early and keeps them in memory.
    saved, cotangents = lax.optimization_barrier((saved, cotangents))
    params, (first_c_BH, first_h_BH), steps = saved
    kernel_h_HG, G = params.kernel_h_HG, len(params.bias_G)
    loop = _backward_in_cpp if form.in_cpp else lstm_blocks.backward_loop if form.in_blocks else backward_loop
    grads = loop(params, first_c_BH, steps, *cotangents, form)
    h_before_TBH = jnp.concatenate([first_h_BH[None], steps.h_TBH[:-1].astype(jnp.float32)])
    # Flattened before the matmul: contracting over [T, B], XLA would first transpose a copy of the whole gradient.
    h_before_NF = params.operand(h_before_TBH).reshape(-1, len(kernel_h_HG))
    grad_NG = grads.gates_TBG.reshape(-1, G)
    operand_grad_BF = dot(grads.gates_TBG[0], kernel_h_HG.T, form.dtype)
    carry_grad = grads.c_BH, params.operand_backward(operand_grad_BF, first_h_BH.shape[-1])
    kernel_grad_HG = ops.matmul_tn(h_before_NF, grad_NG) if form.in_cpp else dot(h_before_NF.T, grad_NG, form.dtype)
    bias_grad_G = sum_rows(grad_NG.astype(jnp.float32)) if grads.bias_G is None else grads.bias_G
    gates_x_grad_TBG = grads.gates_TBG.astype(jnp.float32)
    return LoopParams(kernel_grad_HG, bias_grad_G, grads.scale_G), gates_x_grad_TBG, carry_grad


fused_lstm.defvjp(_forward, _backward)


def _run_forward_loop(params: LoopParams, gates_x_TBG: jax.Array, carry: LSTMCarry, form: Form) -> SavedSteps:
    """All time steps forward, by the form's loop."""
    if form.in_cpp:
        return _forward_in_cpp(params, gates_x_TBG, carry, form)
    if form.in_blocks:
        return lstm_blocks.forward_loop(params, gates_x_TBG, carry, form)
    # XLA for CPUs takes longer where a loop writes bfloat16: there it is rounded after the loop.
    cpu, other = (functools.partial(loop, form=form) for loop in (_forward_loop_on_cpu, forward_loop))
    return lax.platform_dependent(params, gates_x_TBG, carry, cpu=cpu, default=other)


# The loops for XLA update the buffer that they read in place; lax.scan would fill new buffers with zeros and copy them.


def _forward_loop_on_cpu(params: LoopParams, gates_x_TBG: jax.Array, carry: LSTMCarry, form: Form) -> SavedSteps:
    return rounded(forward_loop(params, gates_x_TBG, carry, form, jnp.dtype("float32")), form)


def rounded(steps: SavedSteps, form: Form) -> SavedSteps:
    """The time steps with gates and h in the form's dtype."""
    return steps._replace(gates_TBG=steps.gates_TBG.astype(form.dtype), h_TBH=steps.h_TBH.astype(form.dtype))


def forward_loop(
    params: LoopParams, gates_x_TBG: jax.Array, carry: LSTMCarry, form: Form, stored: jnp.dtype | None = None
) -> SavedSteps:
    """All time steps forward, from the input's part of the gates [T, B, G] and the first carry. Gates and h are saved
    as `stored`, by default the form's dtype."""
    stored = stored or form.dtype
    kernel_h_HG = params.kernel_h_HG
    (T, _, G), H = gates_x_TBG.shape, len(kernel_h_HG)
    scaled = scale_and_shift(H, G // H)
    kernel_h_HG = kernel_h_HG.astype(form.dtype)  # here, since XLA for GPUs would cast it again in every time step

    is_in_place = stored == gates_x_TBG.dtype
    empty_TBG = gates_x_TBG if is_in_place else jnp.zeros(gates_x_TBG.shape, stored)

    def step(t: jax.Array, loop: tuple) -> tuple:
        c_BH, h_BH, steps = loop
        gates_x_BG = at(steps.gates_TBG if is_in_place else gates_x_TBG, t)
        gates_BG = gates_x_BG + dot(drop(h_BH, params.recurrent_BH), kernel_h_HG, form.dtype)
        return step_forward(params, gates_BG, c_BH, steps, t, scaled, form)

    return lax.fori_loop(0, T, step, (*carry, empty_steps(params, empty_TBG)))[2]


def empty_steps(params: LoopParams, gates_TBG: jax.Array) -> SavedSteps:
    """SavedSteps before the first time step is put in. The gates are in the memory of those given, and of their dtype,
    as is h."""
    (T, B, G), H = gates_TBG.shape, len(params.kernel_h_HG)
    inverse_TBN = None if params.scale_G is None else jnp.zeros((T, B, G // H))
    return SavedSteps(gates_TBG, jnp.zeros((T, B, H)), jnp.zeros((T, B, H), gates_TBG.dtype), inverse_TBN)


def step_forward(
    params: LoopParams,
    gates_BG: jax.Array,
    c_BH: jax.Array,
    steps: SavedSteps,
    t: jax.Array,
    scaled: tuple[jax.Array, jax.Array],
    form: Form,
) -> tuple[jax.Array, jax.Array, SavedSteps]:
    """Time step t from its gates before norm, bias and activation: c and h after it, and the saved steps with it."""
    bias_1G, scale_G, gates = params.bias_G[None], params.scale_G, gates_BG.shape[-1] // c_BH.shape[-1]
    inverse_TBN = steps.inverse_TBN
    if scale_G is not None:
        saved_BG, inverse_BN = normalise_gates(gates_BG, gates, form.norm)
        _, c_BH, h_BH = activate(saved_BG * scale_G[None] + bias_1G, c_BH, scaled, form.input_gate)
        assert inverse_TBN is not None
        inverse_TBN = put(inverse_TBN, inverse_BN, t)
    else:
        saved_BG, c_BH, h_BH = activate(gates_BG + bias_1G, c_BH, scaled, form.input_gate)
    after = put(steps.gates_TBG, saved_BG, t), put(steps.c_TBH, c_BH, t), put(steps.h_TBH, h_BH, t)
    return c_BH, h_BH, SavedSteps(*after, inverse_TBN)


def backward_loop(
    params: LoopParams,
    first_c_BH: jax.Array,
    steps: SavedSteps,
    last_grad: LSTMCarry,
    h_grad_TBH: jax.Array,
    form: Form,
) -> LoopGrads:
    """All time steps backward, from the gradients of the last carry and of the outputs."""
    T = len(steps.c_TBH)
    # Transposed once, outside of the loop: on a CPU a matmul with a transposed operand takes 1.5 times as long.
    kernel_GH = lax.optimization_barrier(params.kernel_h_HG.T.astype(form.dtype))
    factors = factors_of(params, first_c_BH, steps, form)

    def step(n: jax.Array, loop: tuple) -> tuple:
        c_grad_BH, h_grad_BH, buffers = loop
        t = T - 1 - n
        h_grad_BH += at(h_grad_TBH, t)
        c_grad_BH, grad_BG, buffers = step_backward(params, c_grad_BH, h_grad_BH, steps, factors, buffers, t, form)
        return c_grad_BH, drop(dot(grad_BG, kernel_GH, form.dtype), params.recurrent_BH), buffers

    c_grad_BH, _, buffers = lax.fori_loop(0, T, step, (*last_grad, first_buffers(params, factors)))
    return grads_from_buffers(c_grad_BH, buffers, form)


Buffers = tuple[jax.Array, ...]
"""The arrays that the backward loop overwrites: [T, B, G], for the time steps done the gradients of the gates before
norm and activation, for those to come the factors `dz_TBG`; with a norm also the gradients of its scale and of the
bias, summed over the time steps done, [B, G] each."""


def first_buffers(params: LoopParams, factors: Factors) -> Buffers:
    """The buffers before the last time step, which is computed first."""
    sums = [] if params.scale_G is None else [jnp.zeros(factors.dz_TBG.shape[1:])] * 2
    return factors.dz_TBG, *sums


def grads_from_buffers(c_grad_BH: jax.Array, buffers: Buffers, form: Form) -> LoopGrads:
    """The gradients, from the buffers after the first time step, which is computed last."""
    gates_TBG, *sums = buffers
    return LoopGrads(gates_TBG.astype(form.dtype), c_grad_BH, *map(sum_rows, sums))


def step_backward(
    params: LoopParams,
    c_grad_BH: jax.Array,
    h_grad_BH: jax.Array,
    steps: SavedSteps,
    factors: Factors,
    buffers: Buffers,
    t: jax.Array,
    form: Form,
) -> tuple[jax.Array, jax.Array, Buffers]:
    """Time step t from the gradients of its c and h: the gradients of the c before it and of its gates before norm and
    activation [B, G], and the buffers with these in them."""
    saved_TBG, _, _, inverse_TBN = steps
    grad_TBG, *sums = buffers
    c_grad_BH += h_grad_BH * at(factors.h_to_c_TBH, t)
    all_c = [c_grad_BH] * (grad_TBG.shape[-1] // c_grad_BH.shape[-1] - 1)
    grad_BG = jnp.concatenate([*all_c, h_grad_BH], axis=-1) * at(grad_TBG, t)
    if params.scale_G is not None:
        assert inverse_TBN is not None
        saved_BG = at(saved_TBG, t).astype(jnp.float32)
        sums = [sums[0] + grad_BG * saved_BG, sums[1] + grad_BG]
        grad_BG = normalise_gates_backward(grad_BG * params.scale_G[None], saved_BG, at(inverse_TBN, t), form.norm)
    return c_grad_BH * at(factors.f_TBH, t), grad_BG, (put(grad_TBG, grad_BG, t), *sums)


def _forward_in_cpp(params: LoopParams, gates_x_TBG: jax.Array, carry: LSTMCarry, form: Form) -> SavedSteps:
    kernel_h_HG, bias_G, scale_G, mask_BH = params
    if _is_plain(params, form):
        return SavedSteps(*ops.forward_loop(kernel_h_HG, bias_G, gates_x_TBG, carry))
    masked_h_BH = jnp.zeros(0) if mask_BH is None else carry[1] * mask_BH
    variant = ops.variant(form.input_gate, form.norm, scale_G, bias_G, mask_BH)
    return SavedSteps(*ops.variant_forward_loop(variant, kernel_h_HG, gates_x_TBG, carry, masked_h_BH))


def _backward_in_cpp(
    params: LoopParams,
    first_c_BH: jax.Array,
    steps: SavedSteps,
    last_grad: LSTMCarry,
    h_grad_TBH: jax.Array,
    form: Form,
) -> LoopGrads:
    kernel_h_HG, bias_G, scale_G, mask_BH = params
    gates_TBG, c_TBH, _, inverse_TBN = steps
    if _is_plain(params, form):
        return LoopGrads(*ops.backward_loop(kernel_h_HG, first_c_BH, gates_TBG, c_TBH, last_grad, h_grad_TBH))
    variant = ops.variant(form.input_gate, form.norm, scale_G, bias_G, mask_BH)
    assert inverse_TBN is not None
    saved = gates_TBG, first_c_BH, c_TBH, inverse_TBN
    *grads, sums = ops.variant_backward_loop(variant, kernel_h_HG, *saved, last_grad, h_grad_TBH)
    return LoopGrads(*grads) if scale_G is None else LoopGrads(*grads, *(sum_rows(sums[:, n]) for n in range(2)))


def _is_plain(params: LoopParams, form: Form) -> bool:
    return form.norm == "none" and form.input_gate == "own" and params.recurrent_BH is None
