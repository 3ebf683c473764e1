"""The losses: cross-entropy, and Keras's binary cross-entropy, which the 2019 article used."""

import jax
import jax.numpy as jnp
import optax

from lovecraft_jax.data.batches import Batch

KERAS_EPSILON = 1e-7


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
