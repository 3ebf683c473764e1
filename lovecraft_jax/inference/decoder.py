"""Decoding: the model one token at a time, with weights that are folded beforehand.

The input's part of the gates becomes a table with a row per token, and each layer's two kernels become one, so that a
token costs one matmul per layer and one for the head: on a CPU the time goes into reading the weights.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lovecraft_jax.config import NORMS_IN_CELL, NORMS_OF_GATES
from lovecraft_jax.model.cell import FoldedLayer, LayerCarry
from lovecraft_jax.model.ensemble import Ensemble, Model, join_outputs
from lovecraft_jax.model.lm import Carry, LanguageModel, Variables, forward, make_adaptive_softmax
from lovecraft_jax.model.matmul import dot
from lovecraft_jax.model.native import ops


class Folded(NamedTuple):
    """A model's weights, folded for decoding (cell.py): its layers, and the head's kernel [H, V], with skip connections
    [L * H, V], and bias [V]. For tokens that are decoded in C++ the kernels are packed as native/ops.py packs them.
    Instead of the latter an adaptive softmax has its parameters, and the projection and embedding if it shares this."""

    layers: tuple[FoldedLayer, ...]
    head: Any


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
                token_gates_VG = cell.look_up(jnp.arange(model.vocab_size), table_VD, rows=slice(K, None))
            layers.append(cell.fold(token_gates_VG, slice(K)))
        projection_HD = model.head_projection if model.is_projected else None
        if model.is_adaptive:
            return Folded(tuple(layers), (model.head.variables["params"], projection_HD, model.tied_table))
        head_HV = model.embedding.T if model.tie else model.head_kernel
        if projection_HD is not None:
            head_HV = projection_HD @ head_HV
        if model.backend == "native":
            gates = model.cell_class.gates
            layers = [layer._replace(kernel=ops.pack_gates(layer.kernel, gates)) for layer in layers]
            head_HV = ops.pack_head(head_HV, model.units)
        return Folded(tuple(layers), (head_HV, model.head_bias))

    folded: Any = model.apply(variables, method=fold)
    return folded


def decode(model: Model, decoder: Decoder, carry: Carry, ids_S: jax.Array) -> tuple[Carry, jax.Array]:
    """The carry after one token of each stream, and the logits of the next [S, V]."""
    if isinstance(model, Ensemble):
        members = zip(model.members, decoder, carry, strict=True)
        return join_outputs([decode(*member, ids_S) for member in members])
    if not isinstance(decoder, Folded):
        carry, logits_S1V = forward(model, decoder, carry, ids_S[:, None])
        return carry, logits_S1V[:, 0]
    if model.backend == "native" and not model.is_adaptive:
        layers = [(layer.start, layer.kernel, *(layer.after_norm or ())) for layer in decoder.layers]
        norm = model.norm if model.norm in NORMS_OF_GATES else "none"  # another is in the kernel
        return ops.token(ids_S, layers, decoder.head, carry, model.input_gate, norm)
    cell = model.cell_class
    new_carry: list[LayerCarry] = []
    outputs = [jnp.zeros((len(ids_S), 0))]  # nothing is below the first layer
    for layer_carry, (start, kernel, after_norm) in zip(carry, decoder.layers, strict=True):
        gates_SF = dot(jnp.concatenate([outputs[-1], cell.output(layer_carry)], axis=-1), kernel, model.dtype)
        gates_SF += start[ids_S] if len(start) > 1 else start
        new_carry.append(cell.folded_step(layer_carry, gates_SF, after_norm, model.norm))
        outputs.append(cell.output(new_carry[-1]))
    top_SH = jnp.concatenate(outputs, axis=-1) if model.skip else outputs[-1]
    if model.is_adaptive:
        params, projection_HD, table_VD = decoder.head
        if projection_HD is not None:
            top_SH = dot(top_SH, projection_HD, model.dtype)
        softmax = make_adaptive_softmax(model, in_cpp=False)
        log_probs_SV: Any = softmax.apply({"params": params}, top_SH, table_VD, method="log_probs")
        return tuple(new_carry), log_probs_SV
    head_HV, bias_V = decoder.head
    return tuple(new_carry), dot(top_SH, head_HV, model.dtype) + bias_V[None]
