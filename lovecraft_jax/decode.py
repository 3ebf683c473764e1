"""The model one token at a time, with all that no token changes worked out beforehand.

The embedding is folded into a table of the first layer's gates, and each further layer's two kernels into one, so that
a token costs one product a layer and one for the head: what a CPU then waits for is the weights.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lovecraft_jax.fused import activate, scale_and_shift
from lovecraft_jax.model import LSTMLM, Carry
from lovecraft_jax.ops import dot
from lovecraft_jax.state import Variables


class Decoder(NamedTuple):
    """table_VG: the first layer's gates from each token, its bias added. kernels, biases: of the first layer [H, 4H],
    of the others [2H, 4H] and [4H]. head_HV, head_bias_V."""

    table_VG: jax.Array
    kernels: tuple[jax.Array, ...]
    biases_G: tuple[jax.Array, ...]
    head_HV: jax.Array
    head_bias_V: jax.Array


def make_decoder(model: LSTMLM, variables: Variables) -> Decoder:
    """The weights as `decode` wants them."""

    def of(model: LSTMLM) -> Decoder:
        first, *others = model.cells
        return Decoder(
            table_VG=first.look_up(jnp.arange(model.vocab_size), model.embedding if model.embed else None)
            + first.bias[None],
            kernels=(first.kernel_h, *(jnp.concatenate([cell.kernel_x, cell.kernel_h]) for cell in others)),
            biases_G=tuple(cell.bias for cell in others),
            head_HV=model.embedding.T if model.tie else model.head_kernel,
            head_bias_V=model.head_bias,
        )

    decoder: Any = model.apply(variables, method=of)
    return decoder


def decode(decoder: Decoder, carry: Carry, ids_S: jax.Array, dtype: jnp.dtype) -> tuple[Carry, jax.Array]:
    """One token of each stream to the carry after it and the logits of the next [S, V]."""
    scaled = scale_and_shift(decoder.kernels[0].shape[0])
    (c_SH, h_SH), *others = carry
    c_SH, h_SH = activate(decoder.table_VG[ids_S] + dot(h_SH, decoder.kernels[0], dtype), c_SH, scaled)[1:]
    after = [(c_SH, h_SH)]
    for (c_SH, own_SH), kernel, bias_G in zip(others, decoder.kernels[1:], decoder.biases_G, strict=True):
        gates_SG = dot(jnp.concatenate([h_SH, own_SH], axis=-1), kernel, dtype) + bias_G[None]
        c_SH, h_SH = activate(gates_SG, c_SH, scaled)[1:]
        after.append((c_SH, h_SH))
    return tuple(after), dot(h_SH, decoder.head_HV, dtype) + decoder.head_bias_V[None]
