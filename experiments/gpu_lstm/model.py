"""A language model around an LSTM stack that is a parameter, its training step, and the same in float64.

Axes: V vocabulary, E embedding, H units, G = 4H gates, T time, B batch, N = T * B, K steps of one program.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.gpu_lstm.kernels import BF16, Kernels, lstm_layer
from lovecraft_jax.model.lstm_fused import Form, LoopParams, fused_lstm

V, E, LAYERS = 100, 64, 2
CLIP, LEARNING_RATE, BETA1, BETA2, EPSILON = 1.0, 1e-3, 0.9, 0.999, 1e-8
F32 = jnp.dtype("float32")
ALIGN = 256
"""Elements to which parameters in one vector are aligned: XLA then passes slices on without a copy."""

Params = dict[str, Any]
Carry = tuple[tuple[jax.Array, jax.Array], ...]
"""(c_BH, h_BH) of each layer."""
Batch = tuple[jax.Array, jax.Array]
"""ids_TB and those that follow."""
Loss = Callable[[Params, Batch, Carry], tuple[jax.Array, Carry]]


class Layer(NamedTuple):
    """run(kernel_h_HG, bias_G, gates_x_TBG, carry) -> carry, h_TBH, and the types of matmul operands and of gates_x."""

    run: Callable[[jax.Array, jax.Array, jax.Array, tuple], tuple[tuple, jax.Array]]
    dtype: jnp.dtype
    gates_dtype: jnp.dtype


def init_params(H: int) -> Params:
    """Random parameters in float32, with a forget bias of 1."""
    rng = np.random.default_rng(0)

    def draw(*shape: int, scale: float) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    params: Params = {"embedding": draw(V, E, scale=1.0)}
    for n, D in enumerate((E, H)):
        bias_G = draw(4 * H, scale=0.1)
        bias_G[H : 2 * H] += 1
        kernels = {"kernel_x": draw(D, 4 * H, scale=D**-0.5), "kernel_h": draw(H, 4 * H, scale=H**-0.5)}
        params[f"lstm_{n}"] = kernels | {"bias": bias_G}
    return params | {"head": draw(H, V, scale=H**-0.5), "head_bias": draw(V, scale=0.1)}


def init_carry(B: int, H: int) -> Carry:
    """A carry as in the midst of a text."""
    rng = np.random.default_rng(2)
    states = rng.standard_normal((LAYERS, 2, B, H)).astype(np.float32)
    return tuple((jnp.asarray(0.5 * c), jnp.asarray(np.tanh(h))) for c, h in states)


def random_batches(K: int, T: int, B: int) -> Batch:
    """Random ids [K, T, B] and those that follow."""
    ids = jnp.asarray(np.random.default_rng(1).integers(0, V, (K, T + 1, B)), jnp.int32)
    return ids[:, :-1], ids[:, 1:]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def matmul(x_ND: jax.Array, kernel_DC: jax.Array, dtype: jnp.dtype, out: jnp.dtype) -> jax.Array:
    """x @ kernel with operands of `dtype` and a result of `out`; the gradient of the kernel is float32."""
    return _dot(x_ND, kernel_DC, dtype, out)


def _dot(x: jax.Array, y: jax.Array, dtype: jnp.dtype, out: jnp.dtype) -> jax.Array:
    return jnp.dot(x.astype(dtype), y.astype(dtype), preferred_element_type=out)


def _matmul_backward(dtype: jnp.dtype, out: jnp.dtype, saved: tuple, grad_NC: jax.Array) -> tuple:
    x_ND, kernel_DC = saved
    return _dot(grad_NC, kernel_DC.T, dtype, x_ND.dtype), _dot(x_ND.T, grad_NC, dtype, F32)


matmul.defvjp(lambda x, kernel, dtype, out: (matmul(x, kernel, dtype, out), (x, kernel)), _matmul_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def look_up(table_VG: jax.Array, ids_N: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Rows of the table in `dtype`; the gradient is a matmul with one-hot rows, which beats a scatter on GPUs."""
    return table_VG.astype(dtype)[ids_N]


def _look_up_backward(dtype: jnp.dtype, ids_N: jax.Array, grad_NG: jax.Array) -> tuple:
    return _dot(jnp.arange(V)[:, None] == ids_N[None], grad_NG, dtype, F32), None


look_up.defvjp(lambda table, ids, dtype: (look_up(table, ids, dtype), ids), _look_up_backward)


def loss_and_carry(layer: Layer, params: Params, batch: Batch, carry: Carry) -> tuple[jax.Array, Carry]:
    """Returns the mean cross-entropy in nats and the carry after the batch. The embedding is folded into the first
    layer: one matmul with its table."""
    ids_TB, next_TB = batch
    after, h_TBH = [], None
    for n in range(LAYERS):
        p = params[f"lstm_{n}"]
        if h_TBH is None:
            table_VG = matmul(params["embedding"], p["kernel_x"], layer.dtype, F32)
            gates_x_NG = look_up(table_VG, ids_TB.reshape(-1), layer.gates_dtype)
        else:
            gates_x_NG = matmul(h_TBH.reshape(ids_TB.size, -1), p["kernel_x"], layer.dtype, layer.gates_dtype)
        end, h_TBH = layer.run(p["kernel_h"], p["bias"], gates_x_NG.reshape(*ids_TB.shape, -1), carry[n])
        after.append(end)
    assert h_TBH is not None
    logits_NV = matmul(h_TBH.reshape(ids_TB.size, -1), params["head"], layer.dtype, F32) + params["head_bias"][None]
    is_next_NV = jnp.arange(V)[None] == next_TB.reshape(-1, 1)
    nats_N = jax.nn.logsumexp(logits_NV, axis=1) - jnp.sum(jnp.where(is_next_NV, logits_NV, 0), axis=1)
    return jnp.mean(nats_N), tuple(after)


def fused_loss(dtype: jnp.dtype) -> Loss:
    """The project's own loops, with matmul operands of `dtype`."""

    def run(kernel_h: jax.Array, bias: jax.Array, gates_x: jax.Array, carry: tuple) -> tuple[tuple, jax.Array]:
        return fused_lstm(LoopParams(kernel_h, bias), gates_x, carry, Form(dtype))

    return partial(loss_and_carry, Layer(run, dtype, F32))


def kernel_loss(kernels: Kernels) -> Loss:
    """The kernels, with parameters and carry as `to_kernel_layout` and `pad_units` return them."""

    def run(kernel_h: jax.Array, bias: jax.Array, gates_x: jax.Array, carry: tuple) -> tuple[tuple, jax.Array]:
        HP = len(kernel_h)
        kernel_h, bias, gates_x = (x.reshape(*x.shape[:-1], HP, 4) for x in (kernel_h, bias, gates_x))
        return lstm_layer(kernels, kernel_h, bias, gates_x, carry)

    return partial(loss_and_carry, Layer(run, BF16, BF16))


def packing_kernel_loss(kernels: Kernels) -> Loss:
    """The kernels, with the project's parameters, which are packed for them in every step."""
    loss = kernel_loss(kernels)

    def packed(params: Params, batch: Batch, carry: Carry) -> tuple[jax.Array, Carry]:
        H = len(params["head"])
        value, after = loss(to_kernel_layout(params), batch, pad_units(carry))
        return value, jax.tree.map(lambda x: x[:, :H], after)

    return packed


def to_kernel_layout(params: Params) -> Params:
    """Returns the parameters with units padded to a multiple of 32, and gates innermost: [D, 4H] -> [DP, HP * 4]."""
    H = len(params["head"])
    rows, units = ((0, -H % 32), (0, 0)), (0, -H % 32)

    def gates(w_DG: jax.Array) -> jax.Array:
        w_DHg = jnp.pad(w_DG.reshape(-1, 4, H).swapaxes(1, 2), ((0, 0), units, (0, 0)))
        return w_DHg.reshape(len(w_DG), -1)

    packed = params | {"head": jnp.pad(params["head"], rows)}
    for n in range(LAYERS):
        p = params[f"lstm_{n}"]
        kernel_x = gates(p["kernel_x"])
        packed[f"lstm_{n}"] = {
            "kernel_x": jnp.pad(kernel_x, rows) if n else kernel_x,
            "kernel_h": jnp.pad(gates(p["kernel_h"]), rows),
            "bias": gates(p["bias"][None])[0],
        }
    return packed


def pad_units(carry: Carry) -> Carry:
    """Returns the carry with units padded to a multiple of 32."""
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, -x.shape[1] % 32))), carry)


def to_vector(params: Params) -> jax.Array:
    """All parameters in one vector, so that clipping and Adam are few kernels."""
    return jnp.concatenate([jnp.pad(jnp.ravel(leaf), (0, -leaf.size % ALIGN)) for leaf in jax.tree.leaves(params)])


def from_vector(vector: jax.Array, like: Params) -> Params:
    """The parameters that `to_vector` has put into the vector."""
    leaves, at = [], 0
    for leaf in jax.tree.leaves(like):
        leaves.append(lax.slice(vector, (at,), (at + leaf.size,)).reshape(leaf.shape))
        at += leaf.size + -leaf.size % ALIGN
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def init_state(params: Any, carry: Carry) -> tuple:
    """The state before the first step: parameters (a tree or a vector), Adam's moments, the carry, the step."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.tree.map(jnp.array, (params, zeros, zeros, carry, np.float32(0)))


def make_steps(loss: Loss, like: Params | None) -> Any:
    """Returns the jitted function (state, batches) -> state, (losses_K, gradient norms_K): K training steps with
    clipping and Adam in one program. With `like` the parameters are one vector."""

    def step(state: tuple, batch: Batch) -> tuple[tuple, tuple[jax.Array, jax.Array]]:
        params, m, v, carry, n = state
        tree = params if like is None else from_vector(params, like)
        (value, carry), grads = jax.value_and_grad(loss, has_aux=True)(tree, batch, carry)
        if like is not None:
            grads = lax.optimization_barrier(to_vector(grads))
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
        scale, n = jnp.minimum(1.0, CLIP / norm), n + 1
        m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g * scale, m, grads)
        v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * jnp.square(g * scale), v, grads)
        m_scale, v_scale = 1 / (1 - BETA1**n), 1 / (1 - BETA2**n)

        def adam(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            return p - LEARNING_RATE * (m * m_scale) / (jnp.sqrt(v * v_scale) + EPSILON)

        return (jax.tree.map(adam, params, m, v), m, v, carry, n), (value, norm)

    return jax.jit(lambda state, batches: lax.scan(step, state, batches), donate_argnums=0)


def float64_gradients(params: Params, batch: Batch, carry: Carry) -> tuple:
    """Loss, carry and gradients in float64: a plain model, differentiated by JAX."""

    def loss(params: Params, carry: Carry) -> tuple[jax.Array, Carry]:
        x_TBD, after = params["embedding"][batch[0]], []
        for n in range(LAYERS):
            p = params[f"lstm_{n}"]

            def cell(state: tuple, x_BD: jax.Array, p: Params = p) -> tuple[tuple, jax.Array]:
                c, h = state
                i, f, g, o = jnp.split(x_BD @ p["kernel_x"] + h @ p["kernel_h"] + p["bias"][None], 4, axis=-1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
                return (c, h), h

            end, x_TBD = lax.scan(cell, carry[n], x_TBD)
            after.append(end)
        log_TBV = jax.nn.log_softmax(x_TBD @ params["head"] + params["head_bias"][None, None])
        return -jnp.mean(jnp.take_along_axis(log_TBV, batch[1][..., None], axis=-1)), tuple(after)

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), (params, carry))
        (value, after), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(*wide)
        return jax.tree.map(np.asarray, (value, after, grads))
