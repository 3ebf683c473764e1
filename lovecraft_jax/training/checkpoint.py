"""Checkpoints: a state, and JSON that describes it, as one atomic Orbax step with a checksum for each leaf.

Orbax saves in the background and never leaves half a step behind. What it does not notice is a flipped byte on the
disk: that is what the checksums are for.
"""

import contextlib
import dataclasses
import json
import logging
import math
import operator
import os
import re
import sys
import warnings
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from lovecraft_jax.runtime import distributed
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import RunError, UserError

_bpc = operator.itemgetter("bpc")


class DamagedError(Exception):
    """A checkpoint that cannot be read, or whose values are not those that were saved."""


class Restored(NamedTuple):
    """A checkpoint: its step, the state, and the JSON that was saved with it."""

    step: int
    state: Any
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run in `workdir`: the latest `keep`, and the one with the fewest bits per character.

    States are dataclasses of pytrees, as TrainState is. A field that is None is not saved. A restore reads the fields
    that its target has: with training.state.Weights as the target, the weights without the optimiser's state.
    """

    def __init__(self, workdir: epath.Path, keep: int = 2, read_only: bool = False) -> None:
        if (name := os.fsencode(workdir).decode("utf-8", "backslashreplace")) != str(workdir):
            raise UserError(f"workdir={name}: not UTF-8, and Orbax writes to no such path; give another name")
        best = policies.BestN(get_metric_fn=_bpc, reverse=True, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            # Beside the policy, because without best_fn Orbax writes no metrics and forgets which was best.
            best_fn=_bpc,
            best_mode="min",
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            read_only=read_only,
            create=not read_only,
        )
        folder = workdir / "checkpoints"
        try:
            tidy = folder.exists() and distributed.is_main_process()
            distributed.on_all_processes(lambda: _tidy(folder, read_only) if tidy else None)
            self._manager = ocp.CheckpointManager(folder, options=options)
        except PermissionError as error:
            raise UserError(f"{error.filename}: {error.strerror}; give a workdir that is open to you") from None

    @property
    def steps(self) -> Sequence[int]:
        return sorted(self._manager.all_steps())

    @property
    def best_step(self) -> int | None:
        """The step with the fewest bits per character; None where none was scored."""
        scored = [step for step in self.steps if self._manager.metrics(step)]
        return min(scored, key=lambda step: _bpc(self._manager.metrics(step))) if scored else None

    def save(self, step: int, state: Any, meta: dict[str, Any], bpc: float | None = None) -> None:
        """Saves in the background; without `bpc`, or with one that is not finite, the checkpoint never counts as best.
        Raises RunError if this checkpoint, or the one before it, cannot be written."""
        metrics = {"bpc": bpc} if bpc is not None and math.isfinite(bpc) else None
        described = ocp.args.JsonSave(meta | {"checksums": checksums(state)})
        items = ocp.args.Composite(state=ocp.args.StandardSave(_fields(state)), meta=described)
        with self._raise_run_error():
            self._forget_deleted()
            self._manager.save(step, args=items, metrics=metrics, force=True)

    def restore(self, step: int, target: Any) -> Restored:
        """Returns the checkpoint of `step`. `target` has the state's fields, or some of them, as ShapeDtypeStructs with
        the shardings to restore to. Raises DamagedError, or UserError if it may not be read or fits another model."""
        self.wait()
        fields, alone = _fields(target), distributed.process_count() == 1
        local = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        to_read = fields if alone else jax.tree.map(lambda leaf: leaf.update(sharding=local), fields)
        try:
            found, meta = _read(self._manager.directory / str(step), to_read)
            saved = meta.pop("checksums")
            state = dataclasses.replace(target, **found)
            read = checksums(state)
        except Exception as error:  # Orbax raises bare Exception, ValueError, KeyError, JSONDecodeError and more
            what = f"step {step}: {_first_line(error)}"
            if shapes := re.search(r"Requested shape: (\(.*?\)).*stored shape: (\(.*?\))", str(error), re.DOTALL):
                raise UserError(
                    f"{self._manager.directory}: the checkpoint of step {step} has weights {shapes[2]} where the model "
                    f"has {shapes[1]}; put back the config.json and vocab.json, or the config, that it was trained with"
                ) from error
            raise (UserError if "permission" in what.lower() else DamagedError)(what) from error
        wrong = [name for name, value in read.items() if saved.get(name) != value]
        # A name begins with its field: "variables" in ".variables['params']['head_bias']".
        wrong += [name for name in saved if re.findall(r"\w+", name)[0] in fields and name not in read]
        if wrong:
            raise DamagedError(f"step {step}: {', '.join(wrong[:3])} differ from what was saved (checksum)")
        return Restored(step, state if alone else jax.tree.map(_put, state, target), meta)

    def restore_newest(self, target: Any, first: int | None = None) -> Restored | None:
        """Returns that of step `first` if it is good, else the newest good checkpoint; None where there are none. Warns
        of damaged ones. Raises UserError where all are damaged."""
        order = sorted(self.steps, key=lambda step: (step == first, step), reverse=True)
        for step in order:
            restored, damage = None, None
            try:
                restored = self.restore(step, target)
            except DamagedError as error:
                damage = str(error)
            damages = list(filter(None, distributed.gather(damage)))  # all processes must be able to read it
            if not damages:
                return restored
            log(f"WARNING: damaged checkpoint, {damages[0]}; trying another")
        if order:
            folder = self._manager.directory
            raise UserError(f"{folder}: all {len(order)} checkpoints are damaged; delete the folder to start over")
        return None

    def delete_after(self, step: int) -> None:
        """Deletes newer checkpoints. They are damaged, and Orbax would not save their steps again over them."""
        for newer in self.steps:
            if newer > step:
                self._manager.delete(newer)

    def wait(self) -> None:
        """Waits until everything is on the disk. Raises RunError if something could not be written."""
        with self._raise_run_error():
            self._manager.wait_until_finished()

    def close(self) -> None:
        with self._raise_run_error():
            self._manager.close()

    def _forget_deleted(self) -> None:
        """Reloads the list of checkpoints if somebody has deleted some, or the folder, so that saving goes on."""
        self._manager.wait_until_finished()
        here = [step for step in self.steps if not (self._manager.directory / str(step)).exists()]
        # On network disks, processes see a deletion at different times.
        if gone := sorted(set().union(*distributed.gather(here))):
            log(f"WARNING: {self._manager.directory}: somebody deleted the checkpoints {', '.join(map(str, gone))}")
            self._manager.directory.mkdir(parents=True, exist_ok=True)
            self._manager.reload()

    @contextlib.contextmanager
    def _raise_run_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever Orbax, TensorStore or the file system raise
            saved = f"the last good one is step {self.steps[-1]:,}" if self.steps else "there is none yet"
            why = _first_line(error)
            raise RunError(f"{self._manager.directory}: a checkpoint cannot be written ({why}); {saved}") from error


def saved_steps(workdir: epath.Path) -> list[int]:
    """Returns the steps that have a checkpoint, from the folder's listing alone."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def checksums(tree: Any) -> dict[str, str]:
    """Returns the CRC-32 of every leaf's values, dtype and shape, by the leaf's path. All processes must call it: they
    exchange the leaves that are split between them."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): _checksum(_as_numbers(leaf)) for path, leaf in leaves}


def hide_failed_tasks_of_orbax() -> None:
    """Keeps Python from printing tracebacks of the tasks that Orbax leaves behind when a file is damaged, whose errors
    are raised here as well. Entry points call this once; it changes hooks of the whole process."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def show_others(unraisable: "sys.UnraisableHookArgs") -> None:
        code = getattr(unraisable.object, "cr_code", None)
        late = str(unraisable.exc_value) == "Event loop is closed"  # TensorStore's, after a save has failed
        if not late and (code is None or f"{os.sep}orbax{os.sep}" not in code.co_filename):
            show(unraisable)

    sys.unraisablehook = show_others
    warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)


def _first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _as_numbers(leaf: Any) -> Any:
    """Returns a leaf as an array of numbers: for a random key, its key data."""
    is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _checksum(leaf: Any) -> str:
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    crc = zlib.crc32(repr((np.dtype(leaf.dtype), leaf.shape)).encode())
    return f"{zlib.crc32(np.ascontiguousarray(leaf).data, crc):08x}"


def _fields(state: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass that are not None, by name, as Orbax saves them."""
    names = [field.name for field in dataclasses.fields(state)]
    return {name: value for name in names if (value := getattr(state, name)) is not None}


def _read(folder: epath.Path, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns some fields of the state saved in `folder`, with the shardings of `fields`, and the JSON beside it. Not
    through the manager that saves, which cannot restore only some of the fields."""
    # Without waiting for other processes, which may find other damage.
    me = jax.process_index()
    prefix = f"process{me}"
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me}, barrier_sync_key_prefix=prefix)
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone))
    arguments = ocp.checkpoint_utils.construct_restore_args(fields)
    state = ocp.args.PyTreeRestore(fields, restore_args=arguments, partial_restore=True)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        found = reader.restore(folder, args=ocp.args.Composite(state=state, meta=ocp.args.JsonRestore()))
    return found["state"], dict(found["meta"])


def _put(leaf: jax.Array, target: jax.ShapeDtypeStruct) -> jax.Array:
    """Returns a leaf, which every process has read whole, with the sharding of its target."""
    numbers = _as_numbers(leaf)
    value = np.asarray(numbers)
    placed = jax.make_array_from_callback(value.shape, target.sharding, lambda index: value[index])
    return placed if numbers is leaf else jax.random.wrap_key_data(placed, impl=jax.random.key_impl(leaf))


def _tidy(folder: epath.Path, read_only: bool) -> None:
    """Removes scores that are not JSON, with which Orbax would not start: their checkpoints stay, unscored. Also what a
    killed process left of a save, which Orbax would remove in a thread that outlives an early exit."""
    for file in folder.glob("*/metrics/metrics"):
        try:
            json.loads(file.read_text())
        except ValueError:
            if read_only:
                raise UserError(f"{file}: damaged; start the training again, which removes it, or delete it") from None
            log(f"WARNING: {file}: damaged; that checkpoint no longer counts as scored")
            file.unlink()
    for leftover in () if read_only else folder.glob("*.orbax-checkpoint-tmp"):
        leftover.rmtree()
