"""Reading and comparing runs, and starting them as processes."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from lovecraft_jax.run import load_run

ROOT = Path(__file__).parents[2]
FLAGS_OF_TWO = (
    "--config=configs/tiny.py",
    "--config.train.steps=160",
    "--config.train.eval_every=80",
    "--config.train.eval_lanes=5",
    "--config.train.keep=30",
)
"""For runs of two processes: a checkpoint every ten steps, all kept, and scores in five rows, shared unevenly."""


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


def leaves(workdir: Path, checkpoint: str | int = "latest") -> dict[str, np.ndarray]:
    """The leaves of a checkpoint, by their paths."""
    state = load_run(str(workdir), checkpoint).state
    plain = state.replace(rng=jax.random.key_data(state.rng))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(plain)}


def rows(workdir: Path | epath.Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, without timings."""
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{key: value for key, value in row.items() if key != "chars_per_second"} for row in found]


def samples(workdir: Path | epath.Path) -> dict[str, str]:
    """The samples, by their names."""
    return {file.name: file.read_text() for file in (workdir / "samples").iterdir()}


@contextmanager
def started(*line: str) -> Iterator[subprocess.Popen]:
    """A running process of `python -m line` with one CPU device. It does not outlive the block."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    command, pipe = [sys.executable, "-m", *line], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
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


def launch(*flags: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """Runs two processes, each with one device, to their end."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"} | (env or {})
    line = [sys.executable, "-m", "launch.local_processes", "--local_processes", "2", *flags]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)


def works(*command: str) -> bool:
    """Whether a command exists and succeeds."""
    return bool(shutil.which(command[0])) and not subprocess.run(command, capture_output=True, check=False).returncode


MAY_MOUNT = works("unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt")
