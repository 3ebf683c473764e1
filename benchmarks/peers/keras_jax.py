"""Keras 3 on JAX: the model of its guides in a jitted step of its own (`stateless_call`), as they recommend."""

import os
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from ml_collections import ConfigDict

from benchmarks.workloads import batches, text


def train(config: ConfigDict) -> Callable[[int], None]:
    """One step a dispatch."""
    vocab_size, data, sizes, recipe = text().tokenizer.size, config.data, config.model, config.optimizer
    model = keras.Sequential([keras.Input(batch_shape=(data.batch_size, data.seq_len), dtype="int32")])
    model.add(keras.layers.Embedding(vocab_size, sizes.embed))
    for _ in range(sizes.layers):
        model.add(keras.layers.LSTM(sizes.units, return_sequences=True, stateful=True))
    model.add(keras.layers.Dense(vocab_size))
    optimizer = keras.optimizers.Adam(
        recipe.lr, recipe.beta1, recipe.beta2, epsilon=recipe.eps, global_clipnorm=recipe.clip
    )
    optimizer.build(model.trainable_variables)

    def loss_fn(trainable: Any, other: Any, x_BT: jax.Array, y_BT: jax.Array) -> tuple[jax.Array, Any]:
        logits_BTV, other = model.stateless_call(trainable, other, x_BT, training=True)
        nats_BT = keras.losses.sparse_categorical_crossentropy(y_BT, logits_BTV, from_logits=True)
        return nats_BT.mean(), other

    @jax.jit
    def train_step(state: Any, x_BT: jax.Array, y_BT: jax.Array) -> Any:
        trainable, other, moments = state
        (_, other), grads = jax.value_and_grad(loss_fn, has_aux=True)(trainable, other, x_BT, y_BT)
        trainable, moments = optimizer.stateless_apply(moments, grads, trainable)
        return trainable, other, moments

    variables = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    state = tuple([variable.value for variable in group] for group in variables)
    feed = batches(config, 1)

    def steps(count: int) -> None:
        nonlocal state
        for _ in range(count):
            batch = next(feed)
            state = train_step(state, *(ids[0].astype(np.int32) for ids in (batch.x_BT, batch.y_BT)))
        jax.block_until_ready(state)

    return steps
