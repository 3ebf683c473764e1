"""Matmuls, lookups and sums in the form that XLA computes fastest, or in C++."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.model.native import ops

MAX_ONE_HOT = 1024
"""Rows of the largest table whose gradient is a matmul on a GPU. Chosen, not measured."""


def dot(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """x @ kernel with operands of `dtype`, accumulated in float32."""
    return jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


def dense(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype, in_cpp: bool = False, out: Any = jnp.float32) -> jax.Array:
    """x [..., D] @ kernel [D, C] as one matmul over all leading axes: [..., C]. Its gradients take their operands as
    `dtype` too; below float32 `out` is the type of its result. With `in_cpp` all three run in C++ (native/ops.py), in
    float32 whatever `dtype` is."""
    flat_ND = x.reshape(-1, x.shape[-1])
    if in_cpp:
        out_NC = _matmul_in_cpp(flat_ND, kernel)
    elif dtype == jnp.float32:
        out_NC = dot(flat_ND, kernel, dtype)
    else:
        out_NC = _matmul(flat_ND.astype(dtype), kernel, out)
    return out_NC.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _matmul_in_cpp(x_ND: jax.Array, kernel_DC: jax.Array) -> jax.Array:
    return ops.matmul(x_ND, kernel_DC)


def _backward_in_cpp(saved: tuple[jax.Array, jax.Array], grad_NC: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_ND, kernel_DC = saved
    return ops.matmul_nt(grad_NC, kernel_DC), ops.matmul_tn(x_ND, grad_NC)


_matmul_in_cpp.defvjp(lambda x_ND, kernel_DC: (_matmul_in_cpp(x_ND, kernel_DC), (x_ND, kernel_DC)), _backward_in_cpp)


# JAX's own gradient would take its operands in float32: half as fast, with twice the memory traffic.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x_ND: jax.Array, kernel_DC: jax.Array, out: Any) -> jax.Array:
    return jnp.dot(x_ND, kernel_DC.astype(x_ND.dtype), preferred_element_type=out)


def _matmul_backward(out: Any, saved: tuple[jax.Array, jax.Array], grad_NC: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_ND, kernel_DC = saved
    return dot(grad_NC, kernel_DC.T, x_ND.dtype).astype(x_ND.dtype), dot(x_ND.T, grad_NC, x_ND.dtype)


_matmul.defvjp(lambda x_ND, kernel_DC, out: (_matmul(x_ND, kernel_DC, out), (x_ND, kernel_DC)), _matmul_backward)


@jax.custom_vjp
def look_up(table_VD: jax.Array, ids: jax.Array) -> jax.Array:
    """The rows of the table that `ids` [...] name: [..., D].

    Its gradient adds up all rows of a token. On a GPU that is a matmul with one-hot rows, because a scatter would add
    them in another order at each run, or, made deterministic by XLA, take longer than the LSTM's layer.
    """
    return table_VD[ids]


def _look_up_backward(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, None]:
    table_VD, ids = saved
    V, D = table_VD.shape

    def scatter(grad: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda table_VD: table_VD[ids], table_VD)(grad)[0]

    def matmul(grad: jax.Array) -> jax.Array:
        is_row_VN = jnp.arange(V)[:, None] == ids.reshape(1, -1)
        return jnp.dot(is_row_VN.astype(grad.dtype), grad.reshape(-1, D), precision=lax.Precision.HIGHEST)

    if V > MAX_ONE_HOT:
        return scatter(grad), None
    return lax.platform_dependent(grad, cuda=matmul, rocm=matmul, default=scatter), None


look_up.defvjp(lambda table_VD, ids: (table_VD[ids], (table_VD, ids)), _look_up_backward)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., F] + bias [F], with `sum_rows` for the gradient of the bias."""
    return x + jnp.broadcast_to(bias, x.shape)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), lambda _, grad: (grad, sum_rows(grad)))


def sum_rows(x: jax.Array) -> jax.Array:
    """The sum over all axes but the last, as a matmul: XLA's own reduction on CPUs once took 5 % of a training step."""
    flat_NG = x.reshape(-1, x.shape[-1])
    return lax.optimization_barrier(jnp.ones(len(flat_NG), x.dtype)) @ flat_NG
