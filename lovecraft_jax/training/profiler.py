"""--profile=N: a trace of N training steps, for TensorBoard's profile plugin and for Perfetto."""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
from etils import epath

from lovecraft_jax.runtime.files import on_store

WARMUP_DISPATCHES = 2  # not traced: the first compiles, and the second may still fill caches


class Profiler:
    """Traces as many whole dispatches as `steps` training steps take (0: none), and whatever is between them, into
    `folder`. `log` prints where the trace is; `paused` keeps the profiler's own time out of the rows of metrics."""

    def __init__(
        self, folder: epath.Path, steps: int, log: Callable[[str], None], paused: Callable[[], AbstractContextManager]
    ) -> None:
        self._folder, self._steps, self._log, self._paused = folder, steps, log, paused
        self._dispatches, self._first_step = 0, 0
        self._uploads = on_store(folder)  # where the profiler cannot write

    def start_if_due(self, step: int, state: Any) -> None:
        """To be called before every dispatch, with the state that it starts from."""
        if self._steps and self._dispatches == WARMUP_DISPATCHES:
            jax.block_until_ready(state)  # earlier dispatches are not traced
            self._written = Path(tempfile.mkdtemp() if self._uploads else os.fspath(self._folder))
            with self._paused():
                jax.profiler.start_trace(os.fspath(self._written))
            self._first_step = step + 1
        self._dispatches += 1

    def stop_if_due(self, step: int, state: Any) -> None:
        """To be called after every dispatch, with the state that it returns."""
        if self._first_step and step - self._first_step + 1 >= self._steps:
            jax.block_until_ready(state)
            with self._paused():
                self._stop(step)

    def close(self, step: int) -> None:
        """To be called after the last dispatch: ends a trace that is still on, and reports one that never began."""
        if self._first_step:
            self._stop(step)
        elif self._steps:
            self._log(f"no profile: training ended within the first {WARMUP_DISPATCHES} dispatches, which are warmup")

    def _stop(self, last: int) -> None:
        jax.profiler.stop_trace()
        first, self._first_step, self._steps = self._first_step, 0, 0
        files = sorted(file for file in self._written.rglob("*") if file.is_file())
        names = [file.relative_to(self._written).as_posix() for file in files]
        if self._uploads:
            for name, file in zip(names, files, strict=True):
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self._folder / name).write_bytes(file.read_bytes())
            shutil.rmtree(self._written)
        trace = [self._folder / name for name in names if name.endswith(".trace.json.gz")][-1]
        self._log(
            f"profile of steps {first:,} to {last:,} in {self._folder}; to open it: "
            f"tensorboard --logdir={self._folder} (pip install xprof), or load {trace} in https://ui.perfetto.dev"
        )
