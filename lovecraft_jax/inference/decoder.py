"""The model one token at a time, with all that no token changes worked out beforehand.

The embedding is folded into a table of the first layer's gates, and each further layer's two kernels into one, so that
a token costs one product a layer and one for the head: what a CPU then waits for is the weights.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lovecraft_jax.config import NORMS_IN_CELL
from lovecraft_jax.model.lm import Carry, LanguageModel, Variables, forward
from lovecraft_jax.model.lstm_fused import LayerCarry, activate, scale_and_shift
from lovecraft_jax.model.matmul import dot
from lovecraft_jax.model.native import ops


class Folded(NamedTuple):
    """starts: what each layer's gates begin with, the first's a row for each token [V, 4H], the others' their bias
    [1, 4H]. kernels: the first layer's [H, 4H], the others' [2H, 4H]. head: kernel [H, V] and bias [V].

    Of a model in C++ (native.py) the kernels are packed. What normalises the input alone is folded into all of them.
    """

    starts: tuple[jax.Array, ...]
    kernels: tuple[jax.Array, ...]
    head: tuple[jax.Array, jax.Array]


Decoder = Folded | Variables
"""Variables where cells normalise: no product of one token with a kernel holds that."""


def make_decoder(model: LanguageModel, variables: Variables) -> Decoder:
    """The weights as `decode` wants them."""
    if model.norm in NORMS_IN_CELL:
        return variables

    def of(model: LanguageModel) -> Folded:
        first, *others = model.cells
        table_VG = first.look_up(jnp.arange(model.vocab_size), model.embedding if model.embed else None)
        # With running statistics the normalisation is an affine map: this is what it adds, and then what it multiplies.
        shifts_1G = [cell.normalise_input(jnp.zeros((1, 4 * cell.units))) for cell in others]
        kernels_x = [cell.normalise_input(cell.kernel_x) - shift for cell, shift in zip(others, shifts_1G, strict=True)]
        kernels = [first.kernel_h]
        kernels += [jnp.concatenate([kernel, cell.kernel_h]) for cell, kernel in zip(others, kernels_x, strict=True)]
        head_HV = model.embedding.T if model.tie else model.head_kernel
        if model.backend == "native":
            kernels, head_HV = [ops.pack_gates(kernel) for kernel in kernels], ops.pack(head_HV)
        biases_1G = (cell.bias[None] + shift for cell, shift in zip(others, shifts_1G, strict=True))
        starts = (first.normalise_input(table_VG) + first.bias[None], *biases_1G)
        return Folded(starts, tuple(kernels), (head_HV, model.head_bias))

    folded: Any = model.apply(variables, method=of)
    return folded


def decode(model: LanguageModel, decoder: Decoder, carry: Carry, ids_S: jax.Array) -> tuple[Carry, jax.Array]:
    """One token of each stream to the carry after it and the logits of the next [S, V]."""
    if not isinstance(decoder, Folded):
        carry, logits_S1V = forward(model, decoder, carry, ids_S[:, None])
        return carry, logits_S1V[:, 0]
    if model.backend == "native":
        return ops.token(ids_S, *decoder, carry)
    below_SH, scaled = jnp.zeros((len(ids_S), 0)), scale_and_shift(model.units)
    after: list[LayerCarry] = []
    for (c_SH, h_SH), start, kernel in zip(carry, decoder.starts, decoder.kernels, strict=True):
        gates_SG = dot(jnp.concatenate([below_SH, h_SH], axis=-1), kernel, model.dtype)
        gates_SG += start if after else start[ids_S]
        _, c_SH, below_SH = activate(gates_SG, c_SH, scaled)
        after.append((c_SH, below_SH))
    head_HV, bias_V = decoder.head
    return tuple(after), dot(below_SH, head_HV, model.dtype) + bias_V[None]
