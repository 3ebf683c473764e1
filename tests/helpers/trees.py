"""Comparing trees of arrays."""

from typing import Any

import jax
import numpy as np


def on_host(tree: Any) -> Any:
    """Numpy, and bits for the random key."""

    def fetch(leaf: jax.Array) -> np.ndarray:
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(fetch, tree)


def assert_close(actual: Any, expected: Any, relative: float = 1e-5) -> None:
    """Every leaf is within `relative` times the leaf's largest value."""

    def compare(path: Any, a: np.ndarray, b: np.ndarray) -> None:
        largest = float(np.max(np.abs(b)))
        np.testing.assert_allclose(a, b, rtol=0, atol=relative * largest, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(compare, actual, expected)
