"""Matmuls and sums in the form that XLA computes fastest, or in C++."""

import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.model.native import ops


def dot(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """x @ kernel with operands of `dtype`, accumulated in float32."""
    return jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


def dense(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype, in_cpp: bool) -> jax.Array:
    """x [..., D] @ kernel [D, C] as one matmul over all leading axes: [..., C]. With `in_cpp` it and its gradients run
    in C++ (native/ops.py), in float32 whatever `dtype` is."""
    flat_ND = x.reshape(-1, x.shape[-1])
    out_NC = _matmul(flat_ND, kernel) if in_cpp else dot(flat_ND, kernel, dtype)
    return out_NC.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _matmul(x_ND: jax.Array, kernel_DC: jax.Array) -> jax.Array:
    return ops.matmul(x_ND, kernel_DC)


def _matmul_backward(saved: tuple[jax.Array, jax.Array], grad_NC: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_ND, kernel_DC = saved
    return ops.matmul_nt(grad_NC, kernel_DC), ops.matmul_tn(x_ND, grad_NC)


_matmul.defvjp(lambda x_ND, kernel_DC: (_matmul(x_ND, kernel_DC), (x_ND, kernel_DC)), _matmul_backward)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., F] + bias [F], with `sum_rows` for the gradient of the bias."""
    return x + jnp.broadcast_to(bias, x.shape)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), lambda _, grad: (grad, sum_rows(grad)))


def sum_rows(x: jax.Array) -> jax.Array:
    """The sum over all axes but the last, as a matmul: XLA's own reduction on CPUs once took 5 % of a training step."""
    flat_NG = x.reshape(-1, x.shape[-1])
    return lax.optimization_barrier(jnp.ones(len(flat_NG), x.dtype)) @ flat_NG
