"""What a prediction costs: the cross-entropy, and Keras's binary cross-entropy."""

import jax
import jax.numpy as jnp
import optax

from lovecraft_jax.data.batches import Batch

KERAS_EPSILON = 1e-7


def cross_entropy(logits_BTV: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of the cross-entropy over the batch, in nats, and the sum of the weights."""
    weight_BT = batch.weight_BT.astype(jnp.float32)
    nats_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch.y_BT.astype(jnp.int32))
    return jnp.sum(nats_BT * weight_BT), jnp.sum(weight_BT)


def binary_cross_entropy(logits_BTV: jax.Array, batch: Batch) -> jax.Array:
    """Weighted sum of the binary cross-entropy over the batch and the vocabulary: each token a question of its own,
    answered by its probability, and only the target's answer is yes.

    As Keras has it, whose `binary_crossentropy` is its mean over all: probabilities are kept 1e-7 from 0 and 1.
    """
    V = logits_BTV.shape[-1]
    is_target_BTV = batch.y_BT.astype(jnp.int32)[..., None] == jnp.arange(V)[None, None]
    probs_BTV = jnp.clip(jax.nn.softmax(logits_BTV), KERAS_EPSILON, 1 - KERAS_EPSILON)
    right_BTV = jnp.where(is_target_BTV, probs_BTV, 1 - probs_BTV)
    nats_BT = -jnp.sum(jnp.log(right_BTV), axis=-1)
    return jnp.sum(nats_BT * batch.weight_BT.astype(jnp.float32))
