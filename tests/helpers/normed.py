"""Tiny models with a normalisation, and tokens for them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import tiny
from lovecraft_jax.model.lm import LanguageModel, make_model

T, B, V = 5, 8, 11
NORMS = ("layer", "batch_input", "batch")


def drawn(norm: str, backend: str = "", **changes: Any) -> tuple[LanguageModel, Any]:
    """A model of one layer, and random variables, of which statistics tell of no small numbers."""
    config = tiny.get_config()
    config.model.update({"norm": norm, "layers": 1} | changes)
    model = make_model(config, V, backend)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(5), model.initial_carry(1), jnp.zeros((1, 1), jnp.int32))

    def leaf(path: Any, shape: Any) -> np.ndarray:
        values = rng.normal(size=shape.shape).astype(np.float32)
        return values**2 + np.float32(0.5) if "variance" in jax.tree_util.keystr(path) else values

    return model, jax.tree_util.tree_map_with_path(leaf, shapes)


def tokens(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(V, size=(B, T), dtype=np.uint8)
