"""One system in a process of its own, told what to do line by line:
`python -m benchmarks.worker TASK SYSTEM SIZES STREAMS CORES SECONDS`.

It builds and warms up, says what it needs to be told, then for every count that it reads (training steps, or characters
of each stream) says what they took.
"""

import json
import os
import resource
import sys
import time


def main(task: str, system: str, sizes: str, streams: str, cores: str, seconds: str) -> None:
    """Warms up, for half as long again as the `seconds` that a turn takes, then works through standard input."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    os.environ["OMP_NUM_THREADS"] = cores

    from benchmarks.systems import PRODUCTS, TRAIN, WRITE
    from benchmarks.workloads import CHARACTERS_A_CALL, get_config

    out = os.fdopen(os.dup(1), "w", buffering=1)  # what the libraries print goes elsewhere
    os.dup2(2, 1)
    config = get_config(sizes)
    if task == "train":
        run, unit = (TRAIN | PRODUCTS)[system](config), config.train.steps_per_dispatch
    else:
        run, unit = WRITE[system](config, int(streams)), CHARACTERS_A_CALL
    began = time.perf_counter()
    run(unit)
    first = time.perf_counter() - began
    done, began = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - began < 1.5 * float(seconds):
        run(unit)
        done += unit
    pace = (time.perf_counter() - began) / done
    turn = max(1, round(float(seconds) / pace / unit)) * unit
    out.write(json.dumps({"first_seconds": first, "a_turn": turn, "versions": _versions()}) + "\n")
    for line in sys.stdin:
        began = time.perf_counter()
        run(int(line))
        took = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        out.write(json.dumps({"seconds": took, "peak_mb": peak}) + "\n")


def _versions() -> dict[str, str]:
    """Of what was imported and matters here."""
    named = ("jax", "jaxlib", "flax", "optax", "torch", "tensorflow", "keras", "numpy")
    return {name: getattr(sys.modules[name], "__version__", "") for name in named if name in sys.modules}


if __name__ == "__main__":
    main(*sys.argv[1:])
