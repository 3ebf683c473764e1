"""One system in its own process: `python -m benchmarks.worker TASK SYSTEM SIZES STREAMS CORES SECONDS`.

It builds and warms up the system, prints how many training steps (or characters of each stream) make a turn, and then,
for every count that it reads from standard input, runs that many and prints the time they took.
"""

import json
import os
import resource
import sys
import time


def main(task: str, system: str, sizes: str, streams: str, cores: str, seconds: str) -> None:
    """Warms up for one and a half turns of `seconds` each, then handles the counts on standard input."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    os.environ["OMP_NUM_THREADS"] = cores

    from benchmarks.systems import GENERATE, MATMULS, TRAIN, TRAIN_VARIANTS
    from benchmarks.workloads import CHARACTERS_A_CALL, get_config

    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print goes to standard error
    config = get_config(sizes)
    if task == "train":
        run, unit = (TRAIN | TRAIN_VARIANTS | MATMULS)[system](config), config.train.steps_per_dispatch
    else:
        run, unit = GENERATE[system](config, int(streams)), CHARACTERS_A_CALL
    began = time.perf_counter()
    run(unit)
    first = time.perf_counter() - began
    done, began = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - began < 1.5 * float(seconds):
        run(unit)
        done += unit
    seconds_each = (time.perf_counter() - began) / done
    count = max(1, round(float(seconds) / seconds_each / unit)) * unit
    out.write(json.dumps({"first_seconds": first, "count": count, "versions": _versions()}) + "\n")
    for line in sys.stdin:
        began = time.perf_counter()
        run(int(line))
        duration = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        out.write(json.dumps({"seconds": duration, "peak_mb": peak}) + "\n")


def _versions() -> dict[str, str]:
    """Returns the versions of the imported libraries."""
    libraries = ("jax", "jaxlib", "flax", "optax", "torch", "tensorflow", "keras", "numpy")
    return {name: getattr(sys.modules[name], "__version__", "") for name in libraries if name in sys.modules}


if __name__ == "__main__":
    main(*sys.argv[1:])
