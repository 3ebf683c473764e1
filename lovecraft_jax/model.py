"""LSTMLM: token ids -> embedding or one-hot -> LSTM layers -> logits. The carry goes in and comes out.

Axes in names: B batch, T time, D features, H units, G gates (4H), V vocabulary, K steps of one dispatch, L layers.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from lovecraft_jax.lstm import LayerCarry, LSTMCell, run_layer

Carry = tuple[LayerCarry, ...]
"""One (c_BH, h_BH) a layer."""

Masks = tuple[jax.Array | None, ...]
"""Dropout masks, scaled by 1/keep: for the input [B, D], then for each layer's output [B, H]; None drops nothing."""


class LSTMLM(nn.Module):
    """A stack of LSTM layers that gives the logits of every next token.

    `embed=0` feeds tokens as one-hot vectors; `tie` uses the embedding as the head's kernel (Press and Wolf 2017).
    """

    vocab_size: int
    layers: int
    units: int
    embed: int = 0
    dropout_input: float = 0.0
    dropout: float = 0.0
    tie: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        if self.embed:
            self.embedding = nn.Embed(self.vocab_size, self.embed, name="embedding")
        features = [self.embed or self.vocab_size] + [self.units] * (self.layers - 1)
        self.cells = [LSTMCell(D, self.units, self.dtype, name=f"lstm_{i}") for i, D in enumerate(features)]
        if self.tie:
            self.head_bias = self.param("head_bias", nn.initializers.zeros, (self.vocab_size,))
        else:
            self.head = nn.Dense(self.vocab_size, dtype=self.dtype, name="head")

    def __call__(self, carry: Carry, x_BT: jax.Array, masks: Masks = ()) -> tuple[Carry, jax.Array]:
        """Ids to the carry after them and logits_BTV, float32. Without `masks` nothing is dropped."""
        masks = masks or (None,) * (self.layers + 1)
        h, scale_BT = self._input(x_BT, masks[0])
        new_carry = []
        for cell, layer_carry, mask_BH in zip(self.cells, carry, masks[1:], strict=True):
            layer_carry, h = run_layer(cell, layer_carry, h, scale_BT)
            new_carry.append(layer_carry)
            h = h if mask_BH is None else h * mask_BH[:, None]
            scale_BT = None
        return tuple(new_carry), self._logits(h)

    def initial_carry(self, batch: int) -> Carry:
        """Zeros, each leaf a buffer of its own, as donation wants them."""
        return tuple((jnp.zeros((batch, self.units)), jnp.zeros((batch, self.units))) for _ in range(self.layers))

    def dropout_masks(self, rng: jax.Array, batch: int) -> Masks:
        """One mask a row for the whole window (variational dropout, Gal and Ghahramani 2016)."""
        widths = [self.embed or self.vocab_size] + [self.units] * self.layers
        rates = [self.dropout_input] + [self.dropout] * self.layers
        keys = jax.random.split(rng, len(widths))
        return tuple(
            jax.random.bernoulli(key, 1 - rate, (batch, width)) / jnp.float32(1 - rate) if rate else None
            for key, rate, width in zip(keys, rates, widths, strict=True)
        )

    def _input(self, x_BT: jax.Array, mask_BD: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        """What the first layer reads; for one-hot input the ids themselves and the mask's entry at each id."""
        if self.embed:
            h_BTD = self.embedding(x_BT)
            return h_BTD if mask_BD is None else h_BTD * mask_BD[:, None], None
        return x_BT, None if mask_BD is None else jnp.take_along_axis(mask_BD, x_BT, axis=1)

    def _logits(self, h_BTH: jax.Array) -> jax.Array:
        if self.tie:
            kernel_HV = self.embedding.embedding.T.astype(self.dtype)
            return jnp.dot(h_BTH.astype(self.dtype), kernel_HV, preferred_element_type=jnp.float32) + self.head_bias
        return self.head(h_BTH).astype(jnp.float32)


def forward(
    model: LSTMLM, variables: Mapping[str, Any], carry: Carry, x_BT: ArrayLike, masks: Masks = ()
) -> tuple[Carry, jax.Array]:
    """The model applied to ids of any integer type: the carry after them and logits_BTV."""
    result: Any = model.apply(variables, carry, jnp.asarray(x_BT, jnp.int32), masks)
    return result


def make_model(config: ConfigDict, vocab_size: int) -> LSTMLM:
    """The model that `config.model` describes."""
    settings = config.model
    return LSTMLM(
        vocab_size=vocab_size,
        layers=settings.layers,
        units=settings.units,
        embed=settings.embed,
        dropout_input=settings.dropout_input,
        dropout=settings.dropout,
        tie=settings.tie,
        dtype=jnp.dtype(settings.dtype),
    )
