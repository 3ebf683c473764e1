"""Dropout by purpose: the rates, which are values in the program, and the masks of one training step.

A mask holds for a whole window of a row (variational dropout, Gal and Ghahramani 2016) and is scaled by 1/keep, so that
nothing is scaled in evaluation. Masks are drawn for the global batch, so that they do not depend on the devices.
Axes: B batch, D features of the input, H units, G gates, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lovecraft_jax.config import ModelConfig


class Rate(NamedTuple):
    """A dropout rate: the probability `keep` of keeping a value, and the `scale` 1/keep. Both are rounded from float64
    to float32 once, here: from a float32 rate a program would often compute another last bit."""

    keep: ArrayLike
    scale: ArrayLike

    @classmethod
    def of(cls, rate: float) -> "Rate | None":
        """The Rate for a probability of dropping a value; None for 0, which drops nothing. Raises ValueError for a rate
        that is still to be chosen."""
        if rate is None:
            raise ValueError("a dropout rate is None: training/settings_by_size.py chooses it for a text")
        return cls(np.float32(1 - rate), np.float32(1 / (1 - rate))) if rate else None


class DropoutRates(NamedTuple):
    """The rate of each kind of DropoutMasks; None where a kind is off: on and off are the pytree's structure, for which
    a program is compiled, and the rates are arguments."""

    embedding: Rate | None = None
    input: Rate | None = None
    recurrent: Rate | None = None
    output: Rate | None = None
    weights: Rate | None = None

    @classmethod
    def of(cls, config: ModelConfig) -> "DropoutRates":
        """The rates of config.model."""
        return cls(
            embedding=Rate.of(config.dropout_embedding),
            input=Rate.of(config.dropout_input),
            recurrent=Rate.of(config.dropout_recurrent),
            output=Rate.of(config.dropout),
            weights=Rate.of(config.dropout_weights),
        )


class DropoutMasks(NamedTuple):
    """The masks of one step; None drops nothing."""

    embedding: jax.Array | None = None
    """[V]: drops whole tokens, that is rows of the embedding or of the one-hot vectors (Gal and Ghahramani 2016)."""
    input: jax.Array | None = None
    """[B, D]: on the first layer's input, or every layer's token with skip connections."""
    recurrent: tuple[jax.Array, ...] | None = None
    """[B, H] per layer: on h before the recurrent matmul."""
    output: tuple[jax.Array, ...] | None = None
    """[B, H] per layer: on what a layer hands on to the next layer and to the head, not on its carry."""
    weights: tuple[jax.Array, ...] | None = None
    """[H, G] per layer: on kernel_h, the same for all rows (weight drop, Merity et al. 2018)."""

    def of_layers(self, layers: int) -> list["LayerMasks"]:
        """The masks of each layer."""
        kinds = (kind or (None,) * layers for kind in (self.recurrent, self.output, self.weights))
        return [LayerMasks(*of_layer) for of_layer in zip(*kinds, strict=True)]


class LayerMasks(NamedTuple):
    """The masks of one layer in DropoutMasks."""

    recurrent_BH: jax.Array | None = None
    output_BH: jax.Array | None = None
    weights_HG: jax.Array | None = None


NO_DROPOUT = DropoutMasks()

# Folded into a step's key. Numbers below 1 + layers would give the keys of the input's and the outputs' masks again,
# since jax.random.split(key, n)[i] is jax.random.fold_in(key, i).
_EMBEDDING_KEY, _RECURRENT_KEY, _WEIGHTS_KEY = 1_000_001, 1_000_002, 1_000_003


def draw_masks(
    rng: jax.Array, rates: DropoutRates, B: int, V: int, D: int, H: int, G: int, layers: int
) -> DropoutMasks:
    """The masks of a step with key `rng`, for the kinds that have a rate."""
    # These keys are those of runs from before there were other kinds, so that they resume exactly.
    input_key, *output_keys = jax.random.split(rng, 1 + layers)
    purposes = (_EMBEDDING_KEY, _RECURRENT_KEY, _WEIGHTS_KEY)
    embedding_key, recurrent_key, weights_key = (jax.random.fold_in(rng, purpose) for purpose in purposes)
    return DropoutMasks(
        embedding=_draw(embedding_key, rates.embedding, (V,)),
        input=_draw(input_key, rates.input, (B, D)),
        recurrent=_draw_all(jax.random.split(recurrent_key, layers), rates.recurrent, (B, H)),
        output=_draw_all(output_keys, rates.output, (B, H)),
        weights=_draw_all(jax.random.split(weights_key, layers), rates.weights, (H, G)),
    )


def drop(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """x times a mask of its shape; x itself without one."""
    return x if mask is None else x * mask


def _draw_all(keys: Sequence[jax.Array] | jax.Array, rate: Rate | None, shape: tuple[int, ...]) -> tuple | None:
    return None if rate is None else tuple(_draw(key, rate, shape) for key in keys)


def _draw(key: jax.Array, rate: Rate | None, shape: tuple[int, ...]) -> jax.Array | None:
    return None if rate is None else jnp.where(jax.random.bernoulli(key, rate.keep, shape), rate.scale, 0.0)
