"""The C++ functions as JAX operations: the time loops of the fused LSTM layer, its matmuls, and a decoder's token."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lovecraft_jax.config import NORMS_OF_GATES
from lovecraft_jax.model.native import build

BLOCK_ROWS = 8
"""As in cpp/lstm_variants.h."""
INPUT_GATES = ("own", "capped", "coupled")
NORMS = ("none", *NORMS_OF_GATES)
"""Both in the order of cpp/lstm_variants.h."""


def forward_loop(
    kernel_h_HG: jax.Array, bias_G: jax.Array, gates_x_TBG: jax.Array, carry: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """All time steps forward, as `forward_loop` in lstm_fused.py: returns the activated gates_TBG, c_TBH, h_TBH."""
    (T, B, G), H = gates_x_TBG.shape, len(kernel_h_HG)
    call = _call("lstm_forward", [(T, B, G), (T, B, H), (T, B, H)], (G, H), {2: 0})
    return call(kernel_h_HG, bias_G, gates_x_TBG, *carry)


def backward_loop(
    kernel_h_HG: jax.Array,
    first_c_BH: jax.Array,
    gates_TBG: jax.Array,
    c_TBH: jax.Array,
    last_grad: tuple[jax.Array, jax.Array],
    h_grad_TBH: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """All time steps backward, as `backward_loop` in lstm_fused.py: returns the gradients of the gates before their
    activations [T, B, 4H] and of the first c."""
    (T, B, H), G = h_grad_TBH.shape, kernel_h_HG.shape[1]
    call = _call("lstm_backward", [(T, B, G), (B, H)], (G, H), {3: 0, 4: 1})
    return call(kernel_h_HG, first_c_BH, c_TBH, gates_TBG, *last_grad, h_grad_TBH)


def variant_forward_loop(
    variant: Sequence[jax.Array],
    kernel_h_HG: jax.Array,
    gates_x_TBG: jax.Array,
    carry: tuple[jax.Array, jax.Array],
    masked_h_BH: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """All time steps of a layer that is not plain: returns what `lstm_step.SavedSteps` has. `variant` comes from the
    function of that name, `masked_h_BH` is the first h after dropout, empty without."""
    (T, B, G), H = gates_x_TBG.shape, len(kernel_h_HG)
    masked = (T, B, H) if masked_h_BH.size else (0,)
    shapes: list[tuple[int, ...]] = [(T, B, G), (T, B, H), (T, B, H), (T, B, G // H), masked]
    call = _call("lstm_variant_forward", shapes, (H, G), {5: 0})
    gates_TBG, c_TBH, h_TBH, inverse_TBN, _ = call(*variant, kernel_h_HG, gates_x_TBG, *carry, masked_h_BH)
    return gates_TBG, c_TBH, h_TBH, inverse_TBN


def variant_backward_loop(
    variant: Sequence[jax.Array],
    kernel_h_HG: jax.Array,
    gates_TBG: jax.Array,
    first_c_BH: jax.Array,
    c_TBH: jax.Array,
    inverse_TBN: jax.Array,
    last_grad: tuple[jax.Array, jax.Array],
    h_grad_TBH: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """All time steps backward of a layer that is not plain: returns the gradients of the gates before norm and
    activation [T, B, G] and of the first c, and those of scale and bias for each block of rows [blocks, 2, G]."""
    (T, B, G), H = gates_TBG.shape, len(kernel_h_HG)
    shapes = [(T, B, G), (B, H), (-(-B // BLOCK_ROWS), 2, G), (B, H)]
    call = _call("lstm_variant_backward", shapes, (G, H), {5: 0, 9: 1, 10: 3})
    operands = *variant, kernel_h_HG, gates_TBG, first_c_BH, c_TBH, inverse_TBN, *last_grad, h_grad_TBH
    grad_TBG, c_grad_BH, sums, _ = call(*operands)
    return grad_TBG, c_grad_BH, sums


def variant(
    input_gate: str, norm: str, scale_G: jax.Array | None, bias_G: jax.Array, recurrent_BH: jax.Array | None
) -> tuple[jax.Array, ...]:
    """What cpp/lstm_variants.h calls a Variant, as operands: its form, the norm's scale, the bias, the mask on h."""
    scale_G, recurrent_BH = (jnp.zeros(0) if values is None else values for values in (scale_G, recurrent_BH))
    return _form(input_gate, norm), scale_G, bias_G, recurrent_BH


def _form(input_gate: str, norm: str) -> jax.Array:
    return jnp.array([INPUT_GATES.index(input_gate), NORMS.index(norm)], jnp.int32)


def matmul(a_NK: jax.Array, kernel_KC: jax.Array) -> jax.Array:
    """Returns a @ kernel [N, C]."""
    (N, K), C = a_NK.shape, kernel_KC.shape[1]
    return _call("matmul", [(N, C)], (K, C))(a_NK, kernel_KC)[0]


def matmul_nt(a_NK: jax.Array, kernel_CK: jax.Array) -> jax.Array:
    """Returns a @ kernel.T [N, C]."""
    (N, K), C = a_NK.shape, len(kernel_CK)
    return _call("matmul_nt", [(N, C)], (K, C))(a_NK, kernel_CK)[0]


def matmul_tn(a_NK: jax.Array, b_NC: jax.Array) -> jax.Array:
    """Returns a.T @ b [K, C]: the gradient of a kernel, summed over the N rows that it was multiplied with."""
    return _call("matmul_tn", [(a_NK.shape[1], b_NC.shape[1])])(a_NK, b_NC)[0]


def token(
    ids_S: jax.Array,
    layers: Sequence[Sequence[jax.Array]],
    head: tuple[jax.Array, jax.Array],
    carry: Sequence[tuple[jax.Array, jax.Array]],
    input_gate: str = "own",
    norm: str = "none",
) -> tuple[tuple[tuple[jax.Array, jax.Array], ...], jax.Array]:
    """One token of each stream through all layers, as `decode` in inference/decoder.py: returns the carry after it and
    the logits of the next one [S, V]. A layer is its start [V, G], or [1, G] where it does not take the token, its
    kernel from `pack_gates`, and with a norm its scale and bias. The head's kernel comes from `pack_head`."""
    empty = jnp.zeros(0)
    with_norm = [(*layer, empty, empty)[:4] for layer in layers]
    rest = [part for layer in zip(with_norm, carry, strict=True) for part in layer]
    operands = jax.tree.leaves([ids_S, *head, _form(input_gate, norm), *rest])
    working = (0, 0) if (input_gate, norm) == ("own", "none") else (len(ids_S), layers[0][0].shape[1])
    shapes = [(len(ids_S), len(head[1])), *(leaf.shape for leaf in jax.tree.leaves(carry)), working]
    logits_SV, *after, _ = _call("lstm_token", shapes)(*operands)
    return tuple(zip(after[::2], after[1::2], strict=True)), logits_SV


def pack_gates(kernel_KG: jax.Array, gates: int) -> jax.Array:
    """A layer's kernel in the order in which `token` reads it: [vectors of units, K, gates, lanes]."""
    parts = _split_into_vectors(kernel_KG.reshape(len(kernel_KG), gates, -1))
    return parts.transpose(2, 0, 1, 3)


def pack_head(kernel_KV: jax.Array, units: int) -> jax.Array:
    """The head's kernel in the order in which `token` reads it, flat. For each layer whose output it takes, `units`
    rows of it: panel after panel of up to 4 vectors of columns, each [units, vectors, lanes]."""
    parts = _split_into_vectors(kernel_KV.reshape(-1, units, kernel_KV.shape[1]))
    panels = range(0, parts.shape[2], 4)
    return jnp.concatenate([part[:, n : n + 4].ravel() for part in parts for n in panels])


def _split_into_vectors(x: jax.Array) -> jax.Array:
    """x with its last axis, padded with zeros, as [vectors, lanes]."""
    lanes = _lanes()
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % lanes)])
    return x.reshape(*x.shape[:-1], -1, lanes)


def _call(
    name: str, shapes: list[tuple[int, ...]], packed: tuple[int, int] = (0, 0), in_place: dict[int, int] | None = None
) -> Any:
    """A function of cpp/lstm.cc with results of these shapes. `packed`: rows and columns of the kernel that it packs,
    for which one more result is the memory. `in_place`: operands (by number) whose memory becomes that of a result."""
    (K, C), lanes = packed, _lanes()
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [*shapes, (K * -(-C // lanes) * lanes,)]]
    call = jax.ffi.ffi_call(f"lovecraft_{name}", results, vmap_method="sequential", input_output_aliases=in_place)

    def checked(*operands: jax.Array) -> tuple[jax.Array, ...]:
        assert all(operand.dtype in (jnp.float32, jnp.int32) for operand in operands), "C++ checks no dtype"
        return tuple(call(*operands)[:-1])

    return checked


def _lanes() -> int:
    """The floats in a SIMD vector of the machine that the library was compiled for."""
    build.start().result()
    return build.load().lanes()
