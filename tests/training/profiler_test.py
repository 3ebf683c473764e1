"""--profile: a real trace of the steps that were asked for, on a disk and on an object store."""

import contextlib
import gzip
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from lovecraft_jax.training.profiler import Profiler
from tests.helpers.runs import assert_same_run, train_tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]


def test_a_profiled_run_traces_whole_dispatches_after_warmup_and_learns_the_same(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "profile"
    (line,) = [line for line in train_tiny(tmp_path, "--profile=7").splitlines() if "profile of steps 11 to 20" in line]
    trace = Path(re.findall(r"\S+\.trace\.json\.gz", line)[0])
    assert f"tensorboard --logdir={folder} " in line
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    calls = [event for event in events if event.get("name") == "PjitFunction(train_steps)"]
    nested = [a for a in calls for b in calls if b["ts"] < a["ts"] < b["ts"] + b["dur"]]
    assert len(calls) - len(nested) == 2  # of five steps each
    assert list(folder.rglob("*.xplane.pb"))
    assert_same_run(tmp_path, trained)


def test_a_trace_reaches_its_folder_and_its_own_time_is_left_out(workdir: epath.Path) -> None:
    lines: list[str] = []
    paused: list[str] = []

    @contextlib.contextmanager
    def pause():
        paused.append("begin")
        yield
        paused.append("end")

    profiler, state = Profiler(workdir / "profile", 4, lines.append, pause), jnp.zeros(3)
    for step in range(0, 12, 2):
        profiler.start_if_due(step, state)
        assert len(lines) == (step >= 8)
        state = jax.jit(jnp.cos)(state)
        profiler.stop_if_due(step + 2, state)
    profiler.close(12)
    assert paused == ["begin", "end"] * 2
    assert len(lines) == 1
    assert lines[0].startswith(f"profile of steps 5 to 8 in {workdir / 'profile'}; ")
    trace = epath.Path(lines[0].partition("load ")[2].split()[0])
    assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    Profiler(workdir / "unused", 1, lines.append, pause).close(10)
    assert lines[1:] == ["no profile: training ended within the first 2 dispatches, which are warmup"]
