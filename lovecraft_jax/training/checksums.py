"""A CRC-32 for every leaf of a state, by its path, which does not depend on how the leaf is sharded."""

import zlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def checksums(tree: Any) -> dict[str, str]:
    """Returns the CRC-32 of every leaf's values, dtype and shape, by the leaf's path. All processes must call it: they
    exchange the leaves that are split between them."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): _checksum(as_numbers(leaf)) for path, leaf in leaves}


def as_numbers(leaf: Any) -> Any:
    """Returns a leaf as an array of numbers: for a random key, its key data."""
    is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _checksum(leaf: Any) -> str:
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    crc = zlib.crc32(repr((np.dtype(leaf.dtype), leaf.shape)).encode())
    return f"{zlib.crc32(np.ascontiguousarray(leaf).data, crc):08x}"
