"""The losses: cross-entropy, and Keras's binary cross-entropy, which the 2019 article used."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model.dropout import NO_DROPOUT, DropoutMasks
from lovecraft_jax.model.ensemble import Model
from lovecraft_jax.model.lm import Carry, LanguageModel, Variables
from lovecraft_jax.model.normalization import STATISTICS

KERAS_EPSILON = 1e-7


class Costs(NamedTuple):
    """Cross-entropy of every target in nats, and where asked for its binary cross-entropy, summed over the vocabulary;
    0 at positions of weight 0. A step of scoring.py may give nats with more axes before these two, one score each."""

    nats_BT: jax.Array
    binary_BT: jax.Array | None = None


def forward_costs(
    model: Model, variables: Variables, carry: Carry, batch: Batch, binary: bool = False
) -> tuple[Carry, Costs]:
    """The carry after a batch, and its costs, of a LanguageModel or an Ensemble; norms use their running statistics."""
    carry, _, costs, _ = _apply(model, variables, carry, batch, NO_DROPOUT, binary, mutable=False)
    return carry, costs


def forward_hidden_and_costs(
    model: Model, variables: Variables, carry: Carry, batch: Batch
) -> tuple[Carry, jax.Array, Costs]:
    """The carry after a batch, the hidden states [T, B, H], and the costs, as of `forward_costs`."""
    carry, hidden_TBH, costs, _ = _apply(model, variables, carry, batch, NO_DROPOUT, binary=False, mutable=False)
    return carry, hidden_TBH, costs


def forward_costs_in_training(
    model: LanguageModel, variables: Variables, carry: Carry, batch: Batch, masks: DropoutMasks, binary: bool
) -> tuple[Carry, Costs, dict[str, Any]]:
    """The carry, the costs, and the collections that a training step changes: running statistics, if there are any.
    Norms of the batch use the statistics of this batch, over all devices: call it inside `mesh.shard_rows`."""
    carry, _, costs, changed = _apply(model, variables, carry, batch, masks, binary, mutable=[STATISTICS])
    return carry, costs, changed


def _apply(
    model: Model,
    variables: Variables,
    carry: Carry,
    batch: Batch,
    masks: DropoutMasks,
    binary: bool,
    mutable: list[str] | bool,
) -> tuple[Carry, jax.Array, Costs, dict[str, Any]]:
    def costs(model: Model) -> tuple[Carry, jax.Array, Costs]:
        x_BT, y_BT = (jnp.asarray(ids_BT, jnp.int32) for ids_BT in (batch.x_BT, batch.y_BT))
        after, hidden_TBH = model.hidden(carry, x_BT, masks)
        if isinstance(model, LanguageModel) and model.is_adaptive and not binary:  # needs no logits [B, T, V]
            return after, hidden_TBH, Costs(model.nats(hidden_TBH, y_BT) * batch.weight_BT.astype(jnp.float32))
        logits_BTV = model.logits(hidden_TBH)
        binary_BT = token_binary_cross_entropy(logits_BTV, batch) if binary else None
        return after, hidden_TBH, Costs(token_cross_entropy(logits_BTV, batch), binary_BT)

    result: Any = model.apply(variables, method=costs, mutable=mutable)
    found, changed = result if mutable else (result, {})
    return *found, dict(changed)


def token_cross_entropy(logits_BTV: jax.Array, batch: Batch) -> jax.Array:
    """Returns nats_BT, the cross-entropy of every target times its weight."""

    def by_mask(logits_BTV: jax.Array) -> jax.Array:
        target_BT = jnp.sum(jnp.where(_is_target(logits_BTV, batch), logits_BTV, 0.0), axis=-1)
        return jax.nn.logsumexp(logits_BTV, axis=-1) - target_BT

    def by_index(logits_BTV: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch.y_BT.astype(jnp.int32))

    # The gradient of an index is a scatter, which on a GPU is slow where it has to be deterministic.
    nats_BT = jax.lax.platform_dependent(logits_BTV, cuda=by_mask, rocm=by_mask, default=by_index)
    return nats_BT * batch.weight_BT.astype(jnp.float32)


def token_binary_cross_entropy(logits_BTV: jax.Array, batch: Batch) -> jax.Array:
    """Returns nats_BT, for every position the sum of V binary cross-entropies times the position's weight.

    Every token of the vocabulary is a yes-or-no question of its own, answered by its softmax probability; the answer is
    yes for the target alone. Keras's `binary_crossentropy` is the mean of this over positions and vocabulary, with
    probabilities clipped to 1e-7 from 0 and 1.
    """
    probs_BTV = jnp.clip(jax.nn.softmax(logits_BTV), KERAS_EPSILON, 1 - KERAS_EPSILON)
    right_BTV = jnp.where(_is_target(logits_BTV, batch), probs_BTV, 1 - probs_BTV)
    return -jnp.sum(jnp.log(right_BTV), axis=-1) * batch.weight_BT.astype(jnp.float32)


def _is_target(logits_BTV: jax.Array, batch: Batch) -> jax.Array:
    """Returns a boolean [B, T, V], true at each position's target."""
    return batch.y_BT.astype(jnp.int32)[..., None] == jnp.arange(logits_BTV.shape[-1])[None, None]
