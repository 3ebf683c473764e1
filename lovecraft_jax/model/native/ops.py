"""The C++ functions as JAX operations: the loops of the fused layer, its matmuls, and one token of a decoder."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lovecraft_jax.model.native import build


def forward_loop(
    kernel_h_HG: jax.Array, bias_G: jax.Array, gates_x_TBG: jax.Array, carry: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As the one of fused.py."""
    (T, B, G), H = gates_x_TBG.shape, len(kernel_h_HG)
    call = _call("lstm_forward", [(T, B, G), (T, B, H), (T, B, H)], (G, H), {2: 0})
    gates_TBG, c_TBH, h_TBH = call(kernel_h_HG, bias_G, gates_x_TBG, *carry)
    return gates_TBG, c_TBH, h_TBH


def backward_loop(
    kernel_h_HG: jax.Array,
    first_c_BH: jax.Array,
    gates_TBG: jax.Array,
    c_TBH: jax.Array,
    last_grad: tuple[jax.Array, jax.Array],
    h_grad_TBH: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """As the one of fused.py."""
    (T, B, H), G = h_grad_TBH.shape, kernel_h_HG.shape[1]
    call = _call("lstm_backward", [(T, B, G), (B, H)], (G, H), {3: 0, 4: 1})
    grad_TBG, c_grad_BH = call(kernel_h_HG, first_c_BH, c_TBH, gates_TBG, *last_grad, h_grad_TBH)
    return grad_TBG, c_grad_BH


def product(a_NK: jax.Array, kernel_KC: jax.Array) -> jax.Array:
    """a @ kernel [N, C]."""
    (N, K), C = a_NK.shape, kernel_KC.shape[1]
    (product_NC,) = _call("product", [(N, C)], (K, C))(a_NK, kernel_KC)
    return product_NC


def product_transposed(a_NK: jax.Array, kernel_CK: jax.Array) -> jax.Array:
    """a @ kernel.T [N, C]."""
    (N, K), C = a_NK.shape, len(kernel_CK)
    (product_NC,) = _call("product_transposed", [(N, C)], (K, C))(a_NK, kernel_CK)
    return product_NC


def outer(a_NR: jax.Array, b_NC: jax.Array) -> jax.Array:
    """a_NR.T @ b_NC, the gradient of a kernel from all rows that went through it: [R, C]."""
    (sum_RC,) = _call("outer", [(a_NR.shape[1], b_NC.shape[1])])(a_NR, b_NC)
    return sum_RC


def token(
    ids_S: jax.Array,
    starts: Sequence[jax.Array],
    kernels: Sequence[jax.Array],
    head: tuple[jax.Array, jax.Array],
    carry: Sequence[tuple[jax.Array, jax.Array]],
) -> tuple[tuple[tuple[jax.Array, jax.Array], ...], jax.Array]:
    """As `decode` of decode.py, of packed kernels."""
    operands = [ids_S, *head, *(part for layer in zip(starts, kernels, carry, strict=True) for part in layer)]
    shapes = [(len(ids_S), len(head[1])), *(leaf.shape for leaf in jax.tree.leaves(carry))]
    logits_SV, *after = _call("lstm_token", shapes)(*jax.tree.leaves(operands))
    return tuple(zip(after[::2], after[1::2], strict=True)), logits_SV


def pack_gates(kernel_KG: jax.Array) -> jax.Array:
    """A layer's kernel in the order in which `token` reads it: panels [K, 4, lanes] of the gates of so many units."""
    parts = _vectors(kernel_KG.reshape(len(kernel_KG), 4, -1))
    return parts.transpose(2, 0, 1, 3)


def pack(kernel_KC: jax.Array) -> jax.Array:
    """The head's kernel in that order: panels [K, <= 4, lanes] of its columns, one after the other."""
    parts = _vectors(kernel_KC)
    return jnp.concatenate([parts[:, n : n + 4].ravel() for n in range(0, parts.shape[1], 4)])


def _vectors(x: jax.Array) -> jax.Array:
    """The last axis as [vectors, lanes], with zeros at the end."""
    lanes = _lanes()
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % lanes)])
    return x.reshape(*x.shape[:-1], -1, lanes)


def _call(
    name: str, shapes: list[tuple[int, ...]], packed: tuple[int, int] = (0, 0), in_place: dict[int, int] | None = None
) -> Any:
    """A function of cpp/. Its results are those of `shapes`, some of them in the place of operands, and room to
    pack a kernel of so many rows and columns in, which is left out here."""
    (K, C), lanes = packed, _lanes()
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [*shapes, (K * -(-C // lanes) * lanes,)]]
    call = jax.ffi.ffi_call(f"lovecraft_{name}", results, vmap_method="sequential", input_output_aliases=in_place)

    def checked(*operands: jax.Array) -> Sequence[jax.Array]:
        assert all(operand.dtype in (jnp.float32, jnp.int32) for operand in operands), "C++ takes the bits as they are"
        return call(*operands)[:-1]

    return checked


def _lanes() -> int:
    """Of the vectors that the library was compiled for."""
    build.start().result()
    lanes: int = build.load().lanes()
    return lanes
