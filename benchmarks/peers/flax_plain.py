"""Flax's own LSTM written the obvious way: nn.RNN over OptimizedLSTMCell, a jitted step, optax."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from benchmarks.workloads import batches, text


class PlainLM(nn.Module):
    """Embedding, LSTM layers, softmax."""

    vocab_size: int
    embed: int
    units: int
    layers: int

    @nn.compact
    def __call__(self, carry: Any, x_BT: jax.Array) -> tuple[Any, jax.Array]:
        """Returns the carry after the ids and logits_BTV."""
        h = nn.Embed(self.vocab_size, self.embed)(x_BT)
        after = []
        for layer_carry in carry:
            layer = nn.RNN(nn.OptimizedLSTMCell(self.units), return_carry=True)
            layer_carry, h = layer(h, initial_carry=layer_carry)
            after.append(layer_carry)
        return after, nn.Dense(self.vocab_size)(h)


def train(config: ConfigDict) -> Callable[[int], None]:
    """One step a dispatch."""
    sizes, recipe = config.model, config.optimizer
    model = PlainLM(text().tokenizer.size, sizes.embed, sizes.units, sizes.layers)
    optimizer = optax.chain(
        optax.clip_by_global_norm(recipe.clip),
        optax.adam(recipe.lr, b1=recipe.beta1, b2=recipe.beta2, eps=recipe.eps),
    )
    zero = lambda: jnp.zeros((config.data.batch_size, sizes.units))  # noqa: E731
    carry = [(zero(), zero()) for _ in range(sizes.layers)]
    params = jax.jit(model.init)(jax.random.key(0), carry, jnp.zeros((config.data.batch_size, 1), jnp.int32))
    opt_state = optimizer.init(params)

    @jax.jit
    def train_step(params: Any, opt_state: Any, carry: Any, x_BT: jax.Array, y_BT: jax.Array) -> tuple:
        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            after, logits_BTV = model.apply(params, carry, x_BT.astype(jnp.int32))
            loss = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, y_BT.astype(jnp.int32))
            return loss.mean(), after

        (loss, after), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, after, loss

    feed = batches(config, 1)

    def steps(count: int) -> None:
        nonlocal params, opt_state, carry
        for _ in range(count):
            batch = next(feed)
            params, opt_state, carry, _loss = train_step(params, opt_state, carry, batch.x_BT[0], batch.y_BT[0])
        jax.block_until_ready(params)

    return steps


def generate(config: ConfigDict, streams: int) -> Callable[[int], None]:
    """A Python loop over a jitted step."""
    sizes = config.model
    model = PlainLM(text().tokenizer.size, sizes.embed, sizes.units, sizes.layers)
    zeros = jnp.zeros((streams, sizes.units))
    start = [(zeros, zeros) for _ in range(sizes.layers)]
    params = jax.jit(model.init)(jax.random.key(0), start, jnp.zeros((streams, 1), jnp.int32))

    @jax.jit
    def one(key: jax.Array, carry: Any, x_S: jax.Array) -> tuple[jax.Array, Any, jax.Array]:
        result: Any = model.apply(params, carry, x_S[:, None])
        carry, logits_S1V = result
        key, now = jax.random.split(key)
        return key, carry, jax.random.categorical(now, logits_S1V[:, 0] / 0.7)

    def characters(count: int) -> None:
        key, carry, x_S = jax.random.key(0), start, jnp.zeros(streams, jnp.int32)
        generated = []
        for _ in range(count):
            key, carry, x_S = one(key, carry, x_S)
            generated.append(x_S)
        jax.device_get(generated)

    return characters
