"""`python -m lovecraft_jax.train` with a record of where its seconds go: `python -m benchmarks.traced_train FILE BEGAN
FLAGS...`, where BEGAN is the time (seconds since the epoch) at which the process was started. benchmarks.training runs
it.

FILE gets the seconds from BEGAN at which each part began and ended, and how long JAX traced and XLA compiled.
"""

import dataclasses
import functools
import json
import runpy
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Trace:
    """Parts of a run with when they began and ended, and JAX's own durations by event and function."""

    def __init__(self, began: float) -> None:
        self._began = began
        self.spans: list[dict[str, Any]] = []
        self.jax: dict[str, float] = defaultdict(float)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        start = time.time()
        try:
            yield
        finally:
            self.spans.append({"name": name, "start": start - self._began, "end": time.time() - self._began})

    def wrap(self, owner: Any, attribute: str, name: str, only_first: bool = False) -> None:
        """Replaces a function by one that records when it is called. Raises AttributeError where there is none."""
        setattr(owner, attribute, self.wrapped(getattr(owner, attribute), name, only_first))

    def wrapped(self, function: Callable[..., Any], name: str, only_first: bool = False) -> Callable[..., Any]:
        calls = 0

        @functools.wraps(function)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if only_first and calls > 1:
                return function(*args, **kwargs)
            with self.span(name):
                return function(*args, **kwargs)

        return recorded

    def listen(self, event: str, duration_secs: float, **about: Any) -> None:
        """Adds up a duration that jax.monitoring reports."""
        if event.startswith(("/jax/core/compile/", "/jax/compilation_cache/")):
            self.jax[" ".join([event.rpartition("/")[2], *filter(None, [str(about.get("fun_name", ""))])])] += (
                duration_secs
            )


def main(file: str, began: str, *flags: str) -> None:
    """Trains, and writes the record however that ends."""
    trace = Trace(float(began))
    trace.spans.append({"name": "Python's start", "start": 0.0, "end": time.time() - float(began)})
    with trace.span("imports"):
        import jax
        import jax.monitoring

        from lovecraft_jax import cli  # noqa: F401
        from lovecraft_jax.training import loop
    with trace.span("devices"):
        jax.devices()
    jax.monitoring.register_event_duration_secs_listener(trace.listen)
    _record(trace, loop)
    sys.argv = ["lovecraft_jax.train", *flags]
    try:
        runpy.run_module("lovecraft_jax.train", run_name="__main__", alter_sys=True)
    finally:
        trace.spans.append({"name": "all", "start": 0.0, "end": time.time() - float(began)})
        Path(file).write_text(json.dumps({"spans": trace.spans, "jax": trace.jax}, indent=1) + "\n")


def _record(trace: Trace, loop: Any) -> None:
    """Wraps the parts of a run that take time."""
    make_program = trace.wrapped(loop.make_program, "program")

    def make_recorded_program(*args: Any) -> Any:
        program = make_program(*args)
        first = trace.wrapped(program.train_steps, "first dispatch", only_first=True)
        return dataclasses.replace(program, init=trace.wrapped(program.init, "first state"), train_steps=first)

    loop.make_program = make_recorded_program
    trace.wrap(loop.dataset, "prepare", "data")
    trace.wrap(loop, "choose_settings", "settings")
    trace.wrap(loop.Training, "open", "opening files")
    trace.wrap(loop.Training, "_train", "training")
    trace.wrap(loop.Training, "_evaluate", "evaluation")
    trace.wrap(loop.Training, "save", "saving")
    trace.wrap(loop.MatmulPeak, "measure", "matmul peak")
    trace.wrap(loop.Training, "_finish", "finish")
    trace.wrap(loop.Training, "_adaptive_rows", "adaptive scores")
    trace.wrap(loop.Logger, "finish", "last sample and baselines")


if __name__ == "__main__":
    main(*sys.argv[1:])
