"""Keras 3 on TensorFlow: as in the article of 2019, and as its guides recommend, with and without XLA."""

import os
from collections.abc import Callable, Iterator

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from benchmarks.workloads import batches, text


def _optimizer(config: ConfigDict) -> keras.Optimizer:
    recipe = config.optimizer
    return keras.optimizers.Adam(recipe.lr, recipe.beta1, recipe.beta2, epsilon=recipe.eps, global_clipnorm=recipe.clip)


def train_as_article(config: ConfigDict) -> Callable[[int], None]:
    """One-hot characters in, stateful LSTMs, a TimeDistributed softmax out, `fit` over a generator."""
    vocab_size, data, sizes = text().tokenizer.size, config.data, config.model
    model = keras.Sequential([keras.Input(batch_shape=(data.batch_size, data.seq_len, vocab_size))])
    for _ in range(sizes.layers):
        model.add(keras.layers.LSTM(sizes.units, return_sequences=True, stateful=True))
    model.add(keras.layers.TimeDistributed(keras.layers.Dense(vocab_size, activation="softmax")))
    model.compile(_optimizer(config), "categorical_crossentropy")
    one_hot = np.eye(vocab_size, dtype=np.float32)

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in batches(config, 1):
            yield one_hot[batch.x_BT[0]], one_hot[batch.y_BT[0]]

    feed = pairs()
    return lambda count: model.fit(feed, steps_per_epoch=count, verbose=0, shuffle=False) and None


def train_at_best(config: ConfigDict, xla: bool) -> Callable[[int], None]:
    """Integer characters into an embedding, logits out, and a train step of its own in one tf.function.

    Unrolled, as Keras advises for short sequences: 5 % faster. Not with XLA, where it is 25 % slower.
    """
    vocab_size, data, sizes = text().tokenizer.size, config.data, config.model
    model = keras.Sequential([keras.Input(batch_shape=(data.batch_size, data.seq_len), dtype="int32")])
    model.add(keras.layers.Embedding(vocab_size, sizes.embed))
    for _ in range(sizes.layers):
        model.add(keras.layers.LSTM(sizes.units, return_sequences=True, stateful=True, unroll=not xla))
    model.add(keras.layers.Dense(vocab_size))
    optimizer = _optimizer(config)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=xla)
    def train_step(x_BT: tf.Tensor, y_BT: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits_BTV = model(x_BT, training=True)
            nats_BT = tf.nn.sparse_softmax_cross_entropy_with_logits(y_BT, logits_BTV)
            loss = tf.reduce_mean(nats_BT)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    feed = batches(config, 1)

    def steps(count: int) -> None:
        loss = None
        for _ in range(count):
            batch = next(feed)
            loss = train_step(*(tf.constant(ids[0].astype(np.int32)) for ids in (batch.x_BT, batch.y_BT)))
        assert loss is not None
        loss.numpy()

    return steps


def generate(config: ConfigDict, streams: int) -> Callable[[int], None]:
    """A Python loop over a compiled step of a stateful model, as Keras' guides generate text."""
    vocab_size, sizes = text().tokenizer.size, config.model
    model = keras.Sequential([keras.Input(batch_shape=(streams, 1), dtype="int32")])
    model.add(keras.layers.Embedding(vocab_size, sizes.embed))
    for _ in range(sizes.layers):
        model.add(keras.layers.LSTM(sizes.units, return_sequences=True, stateful=True, unroll=True))
    model.add(keras.layers.Dense(vocab_size))

    @tf.function
    def one(x_S1: tf.Tensor) -> tf.Tensor:
        return tf.random.categorical(model(x_S1)[:, 0] / 0.7, 1)

    def characters(count: int) -> None:
        x_S1 = tf.zeros((streams, 1), tf.int64)
        generated = []
        for _ in range(count):
            x_S1 = one(x_S1)
            generated.append(x_S1)
        tf.concat(generated, 1).numpy()

    return characters
