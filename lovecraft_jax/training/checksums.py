"""A CRC-32 for every leaf of a state, by its path, which does not depend on how the leaf is sharded."""

import zlib
from typing import Any

import jax
import numpy as np

from lovecraft_jax.runtime import distributed


def checksums(tree: Any) -> dict[str, str]:
    """Returns the CRC-32 of every leaf's values, dtype and shape, by the leaf's path.

    All processes must call it: they exchange the checksums of their shards.
    """
    leaves = {jax.tree_util.keystr(path): as_numbers(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    parts = {name: [_checksum_of_rows(leaf)] for name, leaf in leaves.items()}
    if split := [name for name, leaf in leaves.items() if _is_split(leaf)]:
        from_processes = distributed.gather([parts[name][0] for name in split])
        parts |= dict(zip(split, map(list, zip(*from_processes, strict=True)), strict=True))
    sums = {}
    for name, leaf in leaves.items():
        crc = zlib.crc32(repr((np.dtype(leaf.dtype), leaf.shape)).encode())
        for part, size in parts[name]:  # CRC-32 is affine: this is the CRC of everything before and this part
            crc = zlib.crc32(bytes(size), crc) ^ zlib.crc32(bytes(size)) ^ part
        sums[name] = f"{crc:08x}"
    return sums


def as_numbers(leaf: Any) -> Any:
    """Returns a leaf as an array of numbers: for a random key, its key data."""
    is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _is_split(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def _checksum_of_rows(leaf: Any) -> tuple[int, int]:
    """Returns CRC-32 and bytes of the rows that this process holds: all, or one slice (runtime/mesh.py)."""
    if _is_split(leaf):
        shards = {shard.index[0].start: shard.data for shard in leaf.addressable_shards}
        leaf = np.concatenate([shards[start] for start in sorted(shards)])
    rows = np.ascontiguousarray(leaf)
    return zlib.crc32(rows.data), rows.nbytes
