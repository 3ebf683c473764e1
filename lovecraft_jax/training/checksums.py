"""A checksum of every leaf of a state: what Orbax does not see is a byte that flips on the disk."""

import zlib
from typing import Any

import jax
import numpy as np

from lovecraft_jax.runtime import distributed


def checksums(tree: Any) -> dict[str, str]:
    """CRC-32 of every leaf's value, type and shape, by its path. The same however it is split over devices, and over
    processes, all of which must ask."""
    leaves = {jax.tree_util.keystr(path): plain(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    parts = {name: [_part(leaf)] for name, leaf in leaves.items()}
    if split := [name for name, leaf in leaves.items() if _is_split(leaf)]:
        of_processes = distributed.gather([parts[name][0] for name in split])
        parts |= dict(zip(split, map(list, zip(*of_processes, strict=True)), strict=True))
    sums = {}
    for name, leaf in leaves.items():
        crc = zlib.crc32(repr((np.dtype(leaf.dtype), leaf.shape)).encode())
        for part, size in parts[name]:  # CRC-32 is affine: this is that of all that came before and the part
            crc = zlib.crc32(bytes(size), crc) ^ zlib.crc32(bytes(size)) ^ part
        sums[name] = f"{crc:08x}"
    return sums


def plain(leaf: Any) -> Any:
    """A leaf as numbers, random keys too."""
    is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _is_split(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def _part(leaf: Any) -> tuple[int, int]:
    """CRC-32 and bytes of the rows that this process holds, which are one slice (mesh.py), or of all."""
    if _is_split(leaf):
        shards = {shard.index[0].start: shard.data for shard in leaf.addressable_shards}
        leaf = np.concatenate([shards[start] for start in sorted(shards)])
    rows = np.ascontiguousarray(leaf)
    return zlib.crc32(rows.data), rows.nbytes
