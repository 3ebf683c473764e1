"""Decoding: the model one token at a time, with weights that are folded beforehand.

The input's part of the gates becomes a table with a row per token, and each layer's two kernels become one, so that a
token costs one matmul per layer and one for the head: on a CPU the time goes into reading the weights.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lovecraft_jax.config import NORMS_IN_CELL, NORMS_OF_GATES
from lovecraft_jax.model.adaptive_softmax import Tail, join_log_probs, tail_logits
from lovecraft_jax.model.cell import FoldedLayer, LayerCarry
from lovecraft_jax.model.ensemble import Ensemble, Model, join_outputs
from lovecraft_jax.model.lm import Carry, LanguageModel, Variables, forward
from lovecraft_jax.model.matmul import dot
from lovecraft_jax.model.native import ops


class Folded(NamedTuple):
    """A model's weights, folded for decoding (cell.py): its layers, and the head's kernel [H, V], with skip connections
    [L * H, V], and bias [V]. For tokens that are decoded in C++ the kernels are packed as native/ops.py packs them.
    An adaptive softmax has P logits in the head, those of its first ids and of its tails, and `tails`."""

    layers: tuple[FoldedLayer, ...]
    head: tuple[jax.Array, jax.Array]
    tails: tuple[Tail, ...] = ()


Decoder = Any
"""Folded, or Variables where a norm stands inside the recurrence and cannot be folded into a kernel, and for the
Mogrifier, which changes x with h; of an ensemble a list of its members' decoders."""


def make_decoder(model: Model, variables: Variables) -> Decoder:
    """The weights as `decode` takes them."""
    if isinstance(model, Ensemble):
        return list(map(make_decoder, model.members, model.split_variables(variables)))
    if model.norm in NORMS_IN_CELL or model.mogrify:
        return variables

    def fold(model: LanguageModel) -> Folded:
        layers = []
        for n, cell in enumerate(model.cells):
            K = model.units if n else 0  # the rows of kernel_x for the layer below come first, then the token's
            token_gates_VG = None
            if n == 0 or model.skip:
                table_VD = model.embedding if model.embed else None
                token_gates_VG = cell.input_kernel.look_up(jnp.arange(model.vocab_size), table_VD, rows=slice(K, None))
            layers.append(cell.fold(token_gates_VG, slice(K)))
        tails: list[Tail] = []
        if model.is_adaptive:
            head_HV, bias_V = model.head.head_weights(model.tied_table)
            tails = model.head.tails(model.tied_table)
        else:
            head_HV, bias_V = model.embedding.T if model.tie else model.head_kernel, model.head_bias
        if model.is_projected:  # C++ computes layers and head in one call, so the head has one kernel
            head_HV = model.head_projection @ head_HV
            tails = [tail._replace(down=model.head_projection) for tail in tails]
        if model.backend == "native":
            gates = model.cell_class.gates
            layers = [layer._replace(kernel=ops.pack_gates(layer.kernel, gates)) for layer in layers]
            head_HV = ops.pack_head(head_HV, model.units)
        return Folded(tuple(layers), (head_HV, bias_V), tuple(tails))

    folded: Any = model.apply(variables, method=fold)
    return folded


jitted_make_decoder = jax.jit(make_decoder, static_argnums=0)


def decode(model: Model, decoder: Decoder, carry: Carry, ids_S: jax.Array) -> tuple[Carry, jax.Array]:
    """The carry after one token of each stream, and the logits of the next [S, V]."""
    if isinstance(model, Ensemble):
        members = zip(model.members, decoder, carry, strict=True)
        return join_outputs([decode(*member, ids_S) for member in members])
    if not isinstance(decoder, Folded):
        carry, logits_S1V = forward(model, decoder, carry, ids_S[:, None])
        return carry, logits_S1V[:, 0]
    carry, logits_SP, hidden_SH = decode_head(model, decoder, carry, ids_S)
    if not decoder.tails:
        return carry, logits_SP
    return carry, join_log_probs(logits_SP, [tail_logits(tail, hidden_SH, model.dtype) for tail in decoder.tails])


def decode_head(
    model: LanguageModel, decoder: Folded, carry: Carry, ids_S: jax.Array
) -> tuple[Carry, jax.Array, jax.Array]:
    """The carry after one token of each stream, the logits of the head [S, P], and the hidden states [S, H]."""
    cell = model.cell_class
    if model.backend == "native":
        layers = [(layer.start, layer.kernel, *(layer.after_norm or ())) for layer in decoder.layers]
        norm = model.norm if model.norm in NORMS_OF_GATES else "none"  # another is in the kernel
        carry, logits_SP = ops.token(ids_S, layers, decoder.head, carry, model.input_gate, norm)
        outputs = [cell.output(layer_carry) for layer_carry in carry]
        return carry, logits_SP, _hidden(model, outputs)
    new_carry: list[LayerCarry] = []
    outputs = []
    for layer_carry, (start, kernel, after_norm) in zip(carry, decoder.layers, strict=True):
        below = outputs[-1:]  # nothing is below the first layer
        gates_SF = dot(jnp.concatenate([*below, cell.output(layer_carry)], axis=-1), kernel, model.dtype)
        gates_SF += start[ids_S] if len(start) > 1 else start
        new_carry.append(cell.folded_step(layer_carry, gates_SF, after_norm, model.norm))
        outputs.append(cell.output(new_carry[-1]))
    hidden_SH, (head_HP, bias_P) = _hidden(model, outputs), decoder.head
    return tuple(new_carry), dot(hidden_SH, head_HP, model.dtype) + bias_P[None], hidden_SH


def _hidden(model: LanguageModel, outputs: list[jax.Array]) -> jax.Array:
    """The hidden states, of the outputs of all layers."""
    return jnp.concatenate(outputs, axis=-1) if model.skip else outputs[-1]
