"""Reading and comparing runs, and starting them as processes."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from lovecraft_jax.run import load_run
from lovecraft_jax.training.checkpoint import Checkpoints
from lovecraft_jax.training.optimizer import make_optimizer
from lovecraft_jax.training.state import TrainState, init_state

ROOT = Path(__file__).parents[2]
FLAGS_OF_TWO = (
    "--config=configs/tiny.py",
    "--config.train.steps=160",
    "--config.train.eval_every=80",
    "--config.train.eval_rows=5",
    "--config.train.keep=30",
)
"""For runs of two processes: a checkpoint every ten steps, all kept, and scores in five rows, shared unevenly."""

CLOCK = ("chars_per_second", "flops_per_second", "mfu")
"""Keys of rows that depend on the clock."""


def assert_same_run(workdir: Path, expected: Path) -> None:
    """The last states, rows without timings, and samples are the same, and no temporary file is left."""
    found, wanted = leaves(workdir), leaves(expected)
    assert found.keys() == wanted.keys()
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, wanted[name], strict=True, err_msg=name)
    assert rows(workdir) == rows(expected)
    assert samples(workdir) == samples(expected)
    assert not [path for path in workdir.rglob("*") if "tmp" in path.name or "partial" in path.name]
    assert (workdir / "metrics.jsonl").read_text().endswith("}\n")


def saved_state(workdir: Path, checkpoint: str | int = "latest") -> TrainState:
    """Returns the whole state of a checkpoint, on the first device."""
    run = load_run(str(workdir), checkpoint)
    optimizer, averaged = make_optimizer(run.config.optimizer, total_steps=1), run.config.train.average > 0
    batch_size = run.config.data.batch_size
    shapes = jax.eval_shape(lambda: init_state(run.model, optimizer.transform, batch_size, 0, averaged))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    checkpoints = Checkpoints(epath.Path(workdir), read_only=True)
    restored = checkpoints.restore(run.step, target)
    checkpoints.close()
    return restored.state


def leaves(workdir: Path, checkpoint: str | int = "latest") -> dict[str, np.ndarray]:
    """Returns the leaves of a checkpoint's state, by their paths."""
    state = saved_state(workdir, checkpoint)
    numbers = state.replace(rng=jax.random.key_data(state.rng))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(numbers)}


def all_rows(workdir: Path | epath.Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, as strict JSON, which has no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line, parse_constant=refuse) for line in lines if line.endswith("\n")]


def rows(workdir: Path | epath.Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, without timings."""
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in all_rows(workdir)]


def samples(workdir: Path | epath.Path) -> dict[str, str]:
    """The samples, by their names."""
    return {file.name: file.read_text() for file in (workdir / "samples").iterdir()}


def one_device(**more: str) -> dict[str, str]:
    """The environment of a process with one CPU device."""
    return os.environ | {"JAX_NUM_CPU_DEVICES": "1"} | more


@contextmanager
def started(*line: str, before: Sequence[str] = ()) -> Iterator[subprocess.Popen]:
    """A running process of `before python -m line` with one CPU device. It does not outlive the block."""
    command, pipe = [*before, sys.executable, "-m", *line], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=one_device(), stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], Any], process: subprocess.Popen) -> None:
    """Returns within milliseconds after the condition became true, as it may not stay so."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)  # the process may have only this core


def train_tiny(workdir: Path, *flags: str) -> str:
    """Trains the tiny config in a process with one device, to its end; returns what is on standard error."""
    line = [sys.executable, "-m", "lovecraft_jax.train", "--config=configs/tiny.py", f"--workdir={workdir}", *flags]
    done = subprocess.run(line, cwd=ROOT, env=one_device(), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def launch(*flags: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """Runs two processes, each with one device, to their end."""
    line = [sys.executable, "-m", "launch.local_processes", "--local_processes", "2", *flags]
    return subprocess.run(
        line, cwd=ROOT, env=one_device(**env or {}), capture_output=True, text=True, timeout=200, check=False
    )


def evaluate(command: Callable[..., subprocess.CompletedProcess], workdir: Path, *flags: str) -> dict[str, Any]:
    """The JSON that the command `evaluate` prints."""
    done = command("evaluate", f"--workdir={workdir}", *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def works(*command: str) -> bool:
    """Whether a command exists and succeeds."""
    return bool(shutil.which(command[0])) and not subprocess.run(command, capture_output=True, check=False).returncode


MAY_MOUNT = works("unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt")


def shorten_reports(patch: pytest.MonkeyPatch) -> None:
    """Makes reports from fewer and shorter samples."""
    patch.setattr("lovecraft_jax.report.collect.SAMPLES", 2)
    patch.setattr("lovecraft_jax.report.collect.LENGTH", 2000)
