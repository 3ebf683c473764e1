"""One system in its own process: `python -m benchmarks.worker PLAN SYSTEM`, where PLAN is a Plan (turns.py) as JSON.

It imports what the system needs, waits for a line on standard input, builds and warms up the system, and prints how
many training steps (or characters of each stream) make a turn. Then, for every count that it reads, it runs that many
and prints the time they took. Where something fails, it prints why.
"""

import contextlib
import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, TextIO


def main(plan_json: str, name: str) -> None:
    """Imports, builds and warms up for one and a half turns, then handles the counts on standard input."""
    plan = json.loads(plan_json)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: plan["cores"]])
    os.environ["OMP_NUM_THREADS"] = str(plan["cores"])
    _choose_device(plan["device"])
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print goes to standard error
    with _reported(out):
        from benchmarks import workloads
        from benchmarks.systems import find_system
        from benchmarks.turns import check_gpu

        system, config = find_system(plan["task"], name), workloads.get_config(plan["sizes"])
        peer = importlib.import_module(f"benchmarks.peers.{system.peer}")
        workloads.text()
    sys.stdin.readline()
    with _reported(out):
        if plan["device"] == "gpu" and "torch" not in sys.modules:
            check_gpu()
        if plan["task"] == "train":
            run, unit = system.make(peer, config), config.train.steps_per_dispatch
        else:
            run, unit = system.make(peer, config, plan["streams"]), workloads.CHARACTERS_A_CALL
        began = time.perf_counter()
        run(unit)
        first = time.perf_counter() - began
        done, began = 0, time.perf_counter()
        while done == 0 or time.perf_counter() - began < 1.5 * plan["seconds"]:
            run(unit)
            done += unit
        seconds_each = (time.perf_counter() - began) / done
        count = max(1, round(plan["seconds"] / seconds_each / unit)) * unit
        out.write(json.dumps({"first_seconds": first, "count": count, "versions": _versions()}) + "\n")
    for line in sys.stdin:
        with _reported(out):
            began = time.perf_counter()
            run(int(line))
            seconds = time.perf_counter() - began
            out.write(json.dumps({"seconds": seconds, "peak_mb": _peak_bytes(plan["device"]) / 2**20}) + "\n")


def _choose_device(device: str) -> None:
    """Makes the libraries see the device and no other, and take no more of a GPU's memory than they need."""
    os.environ["BENCHMARK_DEVICE"] = device
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["JAX_PLATFORMS"] = "cpu"
    else:
        os.environ["JAX_PLATFORMS"] = "cuda"
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"


@contextlib.contextmanager
def _reported(out: TextIO) -> Iterator[None]:
    """Prints why something failed as this process's last line, and exits."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        why = " ".join(f"{type(error).__name__}: {error}".split())
        out.write(json.dumps({"error": why[:400]}) + "\n")
        sys.exit(1)


def _peak_bytes(device: str) -> int:
    """Returns the peak of a GPU's memory that this process has used, or of its memory on the CPU; 0 where unknown."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    torch: Any = sys.modules.get("torch")
    if torch:
        return int(torch.cuda.max_memory_allocated())
    jax: Any = sys.modules["jax"]
    return int((jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))


def _versions() -> dict[str, str]:
    """Returns the versions of the imported libraries."""
    libraries = ("jax", "jaxlib", "flax", "optax", "torch", "tensorflow", "keras", "numpy")
    return {name: getattr(sys.modules[name], "__version__", "") for name in libraries if name in sys.modules}


if __name__ == "__main__":
    main(*sys.argv[1:])
