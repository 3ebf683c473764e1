"""The Mogrifier (Melis, Kocisky and Blunsom 2020): before a time step, the LSTM's x and h modulate each other.

    x = 2 * sigmoid(h @ Q) * x
    h = 2 * sigmoid(x @ R) * h

in turns, `model.mogrify` rounds, each with a matrix of its own. x is the layer's whole input, h what dropout has left
of it. 2 * sigmoid(0) is 1, so that small matrices leave x and h nearly as they are.

`modulate` is the reference, which LSTMCell calls in every time step. `mogrified_lstm` is a layer with its backward pass
written out, as fused_lstm is one without a Mogrifier: its loops over time hold only the matmuls that are recurrent, now
kernel_x's too, and the gradient of each matrix is one matmul for all T.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.model.dropout import drop
from lovecraft_jax.model.lstm_fused import (
    empty_steps,
    first_buffers,
    grads_from_buffers,
    rounded,
    step_backward,
    step_forward,
)
from lovecraft_jax.model.lstm_step import (
    Form,
    LoopParams,
    LSTMCarry,
    SavedSteps,
    at,
    factors_of,
    put,
    scale_and_shift,
)
from lovecraft_jax.model.matmul import dot, sum_rows

FIRST_STD = 0.01
"""Standard deviation of the initial matrices: x and h are first multiplied by 1, give or take some hundredths. Not 0,
since rounds with equal matrices would stay equal."""


class MogrifiedParams(NamedTuple):
    """The rounds' matrices, Q [H, D] and R [D, H] in turns, kernel_x, and the parameters of the recurrence."""

    rounds: tuple[jax.Array, ...]
    kernel_x_DG: jax.Array
    loop: LoopParams


class Saved(NamedTuple):
    """What is saved for the backward pass; `modulations` are what each round multiplied by, [T, B, D] or [T, B, H]."""

    params: MogrifiedParams
    x_TBD: jax.Array
    carry: LSTMCarry
    steps: SavedSteps
    modulations: tuple[jax.Array, ...]


def modulate(
    x_BD: jax.Array, h_BH: jax.Array, rounds: Sequence[jax.Array], dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
    """x and h after all rounds, and what each round multiplied by."""
    pair, modulations = [x_BD, h_BH], []
    for n, kernel in enumerate(rounds):
        to = n % 2  # x first
        modulations.append(2 * jax.nn.sigmoid(dot(pair[1 - to], kernel, dtype)))
        pair[to] = modulations[-1] * pair[to]
    return *pair, modulations  # type: ignore[return-value]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def mogrified_lstm(
    params: MogrifiedParams, x_TBD: jax.Array, carry: LSTMCarry, form: Form
) -> tuple[LSTMCarry, jax.Array]:
    """The carry after the last time step, and h [T, B, H], from x itself."""
    return _forward(params, x_TBD, carry, form)[0]


def _forward(
    params: MogrifiedParams, x_TBD: jax.Array, carry: LSTMCarry, form: Form
) -> tuple[tuple[LSTMCarry, jax.Array], Saved]:
    loop_params = params.loop
    (T, B, _), (H, G) = x_TBD.shape, loop_params.kernel_h_HG.shape
    scaled = scale_and_shift(H, G // H)
    # x and h side by side, so that a time step has one matmul with both kernels.
    kernel_KG = jnp.concatenate([params.kernel_x_DG, loop_params.kernel_h_HG]).astype(form.dtype)
    rounds = [kernel.astype(form.dtype) for kernel in params.rounds]

    def step(t: jax.Array, loop: tuple) -> tuple:
        c_BH, h_BH, steps, *modulations_T = loop
        x_BD, h_BH, modulations = modulate(at(x_TBD, t), drop(h_BH, loop_params.recurrent_BH), rounds, form.dtype)
        gates_BG = dot(jnp.concatenate([x_BD, h_BH], axis=-1), kernel_KG, form.dtype)
        carry_and_steps = step_forward(loop_params, gates_BG, c_BH, steps, t, scaled, form)
        return *carry_and_steps, *(put(all_T, now, t) for all_T, now in zip(modulations_T, modulations, strict=True))

    empty = [jnp.zeros((T, B, kernel.shape[1])) for kernel in rounds]
    loop = *carry, empty_steps(loop_params, jnp.zeros((T, B, G))), *empty
    _, _, steps, *modulations = lax.fori_loop(0, T, step, loop)
    steps = rounded(steps, form)
    saved = Saved(params, x_TBD, carry, steps, tuple(modulations))
    h_TBH = steps.h_TBH.astype(jnp.float32)
    return ((steps.c_TBH[-1], h_TBH[-1]), h_TBH), saved


def _backward(form: Form, saved: Saved, cotangents: tuple[LSTMCarry, jax.Array]) -> tuple[Any, ...]:
    # As in fused_lstm, nothing may start before the layer's gradient has arrived.
    saved, (last_grad, h_grad_TBH) = lax.optimization_barrier((saved, cotangents))
    params, x_TBD, (first_c_BH, first_h_BH), steps, modulations = saved
    loop_params, mask_BH = params.loop, params.loop.recurrent_BH
    T, _, D = x_TBD.shape
    # Transposed once, outside of the loop.
    kernel_GK = jnp.concatenate([params.kernel_x_DG, loop_params.kernel_h_HG]).T.astype(form.dtype)
    kernel_GK, rounds_T = lax.optimization_barrier((kernel_GK, [k.T.astype(form.dtype) for k in params.rounds]))
    factors = factors_of(loop_params, first_c_BH, steps, form)

    # Again what each round took, and the factor of the gradient of its matmul.
    h_before_TBH = jnp.concatenate([first_h_BH[None], steps.h_TBH[:-1].astype(jnp.float32)])
    pair_T, taken, slopes = [x_TBD, drop(h_before_TBH, None if mask_BH is None else mask_BH[None])], [], []
    for n, modulation in enumerate(modulations):
        to = n % 2
        taken.append(pair_T[1 - to])
        slopes.append(pair_T[to] * modulation * (1 - modulation / 2))
        pair_T[to] = modulation * pair_T[to]

    def step(n: jax.Array, loop: tuple) -> tuple:
        c_grad_BH, h_grad_BH, buffers, x_grad_TBD, *round_grads = loop
        t = T - 1 - n
        h_grad_BH += at(h_grad_TBH, t)
        c_grad_BH, grad_BG, buffers = step_backward(loop_params, c_grad_BH, h_grad_BH, steps, factors, buffers, t, form)
        pair = jnp.split(dot(grad_BG, kernel_GK, form.dtype), [D], axis=-1)
        for r in reversed(range(len(modulations))):
            to = r % 2
            grad = pair[to] * at(round_grads[r], t)
            round_grads[r] = put(round_grads[r], grad, t)
            pair[1 - to] += dot(grad, rounds_T[r], form.dtype)
            pair[to] *= at(modulations[r], t)
        return c_grad_BH, drop(pair[1], mask_BH), buffers, put(x_grad_TBD, pair[0], t), *round_grads

    loop = *last_grad, first_buffers(loop_params, factors), jnp.zeros_like(x_TBD), *slopes
    c_grad_BH, h_grad_BH, buffers, x_grad_TBD, *round_grads = lax.fori_loop(0, T, step, loop)
    grads = grads_from_buffers(c_grad_BH, buffers, form)

    def kernel_grad(x_TBF: jax.Array, grad_TBF: jax.Array) -> jax.Array:
        flat_NF, grad_NF = (leaf.reshape(-1, leaf.shape[-1]) for leaf in (x_TBF, grad_TBF))
        return dot(flat_NF.T, grad_NF, form.dtype)

    kernel_x_grad_DG, kernel_h_grad_HG = (kernel_grad(x_TBF, grads.gates_TBG) for x_TBF in pair_T)
    bias_grad_G = sum_rows(grads.gates_TBG.astype(jnp.float32)) if grads.bias_G is None else grads.bias_G
    params_grad = MogrifiedParams(
        tuple(map(kernel_grad, taken, round_grads)),
        kernel_x_grad_DG,
        LoopParams(kernel_h_grad_HG, bias_grad_G, grads.scale_G),
    )
    return params_grad, x_grad_TBD, (c_grad_BH, h_grad_BH)


mogrified_lstm.defvjp(_forward, _backward)
