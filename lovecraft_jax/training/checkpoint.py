"""Checkpoints: the state and the JSON that explains it, in one atomic Orbax step, each leaf with a checksum.

Orbax writes in the background and never leaves half a step; what it does not see is a byte that flips on the disk.
"""

import contextlib
import dataclasses
import json
import logging
import os
import sys
import warnings
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from lovecraft_jax.runtime import distributed
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import RunError, UserError


def _hide_failures_left_by_orbax() -> None:
    """Orbax leaves failed tasks behind when a file is damaged. Their errors reach us as exceptions; besides, asyncio
    would print them as tracebacks, and Python those of the coroutines that it closes while they wait."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def show_others(unraisable: "sys.UnraisableHookArgs") -> None:
        code = getattr(unraisable.object, "cr_code", None)
        late = str(unraisable.exc_value) == "Event loop is closed"  # told by TensorStore after a save has failed
        if not late and (code is None or f"{os.sep}orbax{os.sep}" not in code.co_filename):
            show(unraisable)

    sys.unraisablehook = show_others
    warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)


_hide_failures_left_by_orbax()


class Damaged(Exception):
    """A checkpoint that cannot be read, or whose values are not those that were saved."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint: after which step, the state, and the JSON saved with it."""

    step: int
    state: Any
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run under `workdir`: the latest `keep`, and the one with the lowest bits per character."""

    def __init__(self, workdir: epath.Path, keep: int = 2, read_only: bool = False) -> None:
        best = policies.BestN(get_metric_fn=_bpc, reverse=True, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            # best_fn stands beside the policy: without it Orbax writes no metrics and forgets which was best.
            best_fn=_bpc,
            best_mode="min",
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            read_only=read_only,
            create=not read_only,
        )
        folder = workdir / "checkpoints"
        distributed.on_all_processes(lambda: _tidy(folder, read_only) if distributed.is_main_process() else None)
        self._manager = ocp.CheckpointManager(folder, options=options)

    @property
    def steps(self) -> Sequence[int]:
        """The steps there are, in order."""
        return sorted(self._manager.all_steps())

    @property
    def best_step(self) -> int | None:
        """The step with the lowest bits per character; None where none was scored."""
        scored = [step for step in self.steps if self._manager.metrics(step)]
        return min(scored, key=lambda step: _bpc(self._manager.metrics(step))) if scored else None

    def save(self, step: int, state: Any, meta: dict[str, Any], bpc: float | None = None) -> None:
        """Saves in the background. Without `bpc` the checkpoint never counts as best.

        Raises RunError where this one, or the one before it, cannot be written.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            meta=ocp.args.JsonSave(meta | {"checksums": checksums(state)}),
        )
        with self._cannot_save():
            self._notice_deleted()
            self._manager.save(step, args=items, metrics=None if bpc is None else {"bpc": bpc}, force=True)

    def restore(self, step: int, target: Any) -> Restored:
        """The checkpoint of `step`, put where `target`'s ShapeDtypeStructs say. Raises Damaged."""
        alone = distributed.process_count() == 1
        read = target if alone else jax.tree.map(_on_own_device, target)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(read),
            meta=ocp.args.JsonRestore(),
        )
        try:
            with contextlib.nullcontext(self._manager) if alone else _reader(self._manager.directory) as manager:
                found = manager.restore(step, args=items)
            meta = dict(found["meta"])
            saved = meta.pop("checksums")
        except Exception as error:  # Orbax raises bare Exception, ValueError, KeyError, JSONDecodeError and more
            raise Damaged(f"step {step}: {str(error).splitlines()[0][:200]}") from error
        wrong = [name for name, value in checksums(found["state"]).items() if saved.get(name) != value]
        if wrong:
            raise Damaged(f"step {step}: {', '.join(wrong[:3])} differ from what was saved (checksum)")
        return Restored(step, found["state"] if alone else jax.tree.map(_put, found["state"], target), meta)

    def restore_newest(self, target: Any, first: int | None = None) -> Restored | None:
        """The newest good checkpoint (of `first`, if given, before the others), None where there is none at all.

        A damaged one is reported and the one before it used. Raises UserError where all are damaged.
        """
        order = sorted(self.steps, key=lambda step: (step == first, step), reverse=True)
        for step in order:
            restored, damage = None, None
            try:
                restored = self.restore(step, target)
            except Damaged as error:
                damage = str(error)
            damages = list(filter(None, distributed.gather(damage)))  # what one cannot read, none may go on from
            if not damages:
                return restored
            log(f"WARNING: damaged checkpoint, {damages[0]}; trying the one before it")
        if order:
            raise UserError(
                f"{self._manager.directory}: all {len(order)} checkpoints are damaged; delete the folder to start over"
            )
        return None

    def delete_after(self, step: int) -> None:
        """Removes newer checkpoints: damaged ones, which would stand in the way of saving those steps again."""
        for newer in self.steps:
            if newer > step:
                self._manager.delete(newer)

    def wait(self) -> None:
        """Until what was saved is on the disk. Raises RunError where it could not be."""
        with self._cannot_save():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then lets go of the folder."""
        with self._cannot_save():
            self._manager.close()

    def _notice_deleted(self) -> None:
        """Somebody may have deleted checkpoints, or the folder: what is left counts, and saving goes on."""
        self._manager.wait_until_finished()
        here = [step for step in self.steps if not (self._manager.directory / str(step)).exists()]
        if gone := sorted(set().union(*distributed.gather(here))):  # network disks show it to some later than to others
            log(f"WARNING: {self._manager.directory}: somebody deleted the checkpoints {', '.join(map(str, gone))}")
            self._manager.directory.mkdir(parents=True, exist_ok=True)
            self._manager.reload()

    @contextlib.contextmanager
    def _cannot_save(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever Orbax, TensorStore or the file system raise
            saved = f"the last good one is step {self.steps[-1]:,}" if self.steps else "there is none yet"
            what = str(error).strip().splitlines()[0][:200]
            raise RunError(f"{self._manager.directory}: a checkpoint cannot be written ({what}); {saved}") from error


def saved_steps(workdir: epath.Path) -> list[int]:
    """The steps of which there are checkpoints, as the folder's listing tells."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def _reader(folder: epath.Path) -> ocp.CheckpointManager:
    """Reads for this process alone, without waiting for others: they may find damage where it finds none."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    options = ocp.CheckpointManagerOptions(read_only=True, create=False, multiprocessing_options=alone)
    return ocp.CheckpointManager(folder, options=options)


def _on_own_device(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _put(leaf: jax.Array, target: jax.ShapeDtypeStruct) -> jax.Array:
    """A leaf that every process has whole, as one over all of them."""
    numbers, sharding = plain(leaf), target.sharding
    value = np.asarray(numbers)
    placed = jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
    return placed if numbers is leaf else jax.random.wrap_key_data(placed, impl=jax.random.key_impl(leaf))


def _tidy(folder: epath.Path, read_only: bool) -> None:
    """Removes what a kill left of a save, which Orbax would do in a thread that outlives an early exit; and damaged
    scores."""
    if not folder.exists():
        return
    _drop_damaged_scores(folder, read_only)
    if not read_only:
        for leftover in folder.glob("*.orbax-checkpoint-tmp"):
            leftover.rmtree()


def _drop_damaged_scores(folder: epath.Path, read_only: bool) -> None:
    """Removes score files that are no JSON, over which Orbax would not start: their states stay, unscored."""
    for file in folder.glob("*/metrics/metrics"):
        try:
            json.loads(file.read_text())
        except ValueError:
            if read_only:
                raise UserError(
                    f"{file}: damaged; start the training again, which sets it right, or delete it"
                ) from None
            log(f"WARNING: {file}: damaged; that checkpoint no longer counts as scored")
            file.unlink()


def _bpc(metrics: Any) -> float:
    return metrics["bpc"]


def checksums(tree: Any) -> dict[str, str]:
    """CRC-32 of every leaf's value, type and shape, by its path. The same however it is split over devices, and over
    processes, all of which must ask."""
    leaves = {jax.tree_util.keystr(path): plain(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    parts = {name: [_part(leaf)] for name, leaf in leaves.items()}
    if split := [name for name, leaf in leaves.items() if _is_split(leaf)]:
        from_processes = distributed.gather([parts[name][0] for name in split])
        parts |= dict(zip(split, map(list, zip(*from_processes, strict=True)), strict=True))
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
