"""Tiny models with a normalisation, and batches for them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import tiny
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model.lm import LanguageModel, make_model

T, B, V = 5, 8, 11
NORMS = ("layer", "batch_input", "batch")


def settings_of(norm: str, **changes: Any) -> ConfigDict:
    """The tiny config with a norm, of one layer and without warmup."""
    config = tiny.get_config()
    config.update_from_flattened_dict({"model.norm": norm, "model.layers": 1, "optimizer.warmup": 0} | changes)
    return config


def drawn(norm: str, backend: str = "", **changes: Any) -> tuple[LanguageModel, Any]:
    """A model, and random variables, of which statistics tell of no small numbers."""
    model = make_model(settings_of(norm, **{f"model.{key}": value for key, value in changes.items()}), V, backend)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(5), model.initial_carry(1), jnp.zeros((1, 1), jnp.int32))

    def leaf(path: Any, shape: Any) -> np.ndarray:
        values = rng.normal(size=shape.shape).astype(np.float32)
        return values**2 + np.float32(0.5) if "variance" in jax.tree_util.keystr(path) else values

    return model, jax.tree_util.tree_map_with_path(leaf, shapes)


def tokens(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(V, size=(B, T), dtype=np.uint8)


def batch(seed: int) -> Batch:
    return Batch(tokens(seed), tokens(seed + 100), np.ones((B, T), np.uint8), np.zeros(B, bool))
