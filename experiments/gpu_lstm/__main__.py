"""Builds the kernels, checks them, and times training steps: `python -m experiments.gpu_lstm --help`; README.md."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pooch

from experiments.gpu_lstm import kernels, model
from experiments.gpu_lstm.kernels import Kernels

SIZES = {"2x150": (150, 64, 50), "2x512": (512, 64, 100), "2x1024": (1024, 128, 100)}
"""Units, rows, time steps."""
STEPS = 20
"""Training steps of one program."""
Row = dict[str, Any]


class Variant(NamedTuple):
    """A loss and, for `packed`, parameters in the kernels' layout and in one vector."""

    loss: model.Loss
    packed: bool = False


def variants(units: int) -> dict[str, Variant]:
    """What is compared at a size: "K" keeps parameters in the kernels' layout, "k" packs them in every step."""
    named = {
        150: {"160x5": Kernels(5, 1), "160x2": Kernels(2, 1), "160x1": Kernels(1, 1)},
        512: {"512x16": Kernels(16, 1), "512x16 rows 16": Kernels(16, 2)},
        1024: {"1024 grid": Kernels(32, 4, grid=True)},
    }.get(units, {"in jnp": kernels.IN_JNP})
    found = {f"K {name}": Variant(model.kernel_loss(config), packed=True) for name, config in named.items()}
    found |= {f"k {name}": Variant(model.packing_kernel_loss(config)) for name, config in named.items()}
    return found | {f"fused {name}": Variant(model.fused_loss(jnp.dtype(name))) for name in ("float32", "bfloat16")}


def measure(size: str, sizes: tuple[int, int, int], rounds: int, only: list[str]) -> list[Row]:
    """Checks loss, carry and gradients of each variant against float64, and times its training steps in turns."""
    H, B, T = sizes
    batches, params, carry = model.random_batches(STEPS, T, B), model.init_params(H), model.init_carry(B, H)
    first = (batches[0][0], batches[1][0])
    want = model.float64_gradients(params, first, carry)
    rows: list[Row] = []
    running: list[tuple[Row, Callable[[], float]]] = []
    for name, variant in variants(H).items():
        if only and name not in only:
            continue
        row: Row = {"size": size, "variant": name, "device": jax.devices()[0].device_kind, "ms": []}
        rows.append(row)
        try:
            row["errors"], steps = prepare(variant, params, carry, first, batches, want)
            running.append((row, steps))
        except Exception as error:  # one variant that fails leaves the others
            row["error"] = repr(error)[:500]
    for _ in range(rounds):
        for row, steps in running:
            row["ms"].append(steps())
    return rows


def prepare(
    variant: Variant, params: model.Params, carry: model.Carry, first: model.Batch, batches: model.Batch, want: tuple
) -> tuple[dict[str, float], Callable[[], float]]:
    """Compiles a variant; returns its errors and a function that runs STEPS steps and returns milliseconds a step."""
    if variant.packed:
        # The layout is linear and pads with zeros, so that the gradients are those of the reference in that layout.
        params, carry = model.to_kernel_layout(params), model.pad_units(carry)
        want = (want[0], model.pad_units(want[1]), model.to_kernel_layout(want[2]))
    (loss, after), grads = jax.jit(jax.value_and_grad(variant.loss, has_aux=True))(params, first, carry)
    steps = model.make_steps(variant.loss, params if variant.packed else None)
    state = model.init_state(model.to_vector(params) if variant.packed else params, carry)
    state, (losses, norms) = steps(state, batches)
    want_norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(want[2])))
    errors = {
        "loss": relative_error(loss, want[0]),
        "carry": max(jax.tree.leaves(jax.tree.map(relative_error, after, want[1]))),
        "gradients": max(jax.tree.leaves(jax.tree.map(relative_error, grads, want[2]))),
        # Of the program that is timed: its first step.
        "timed loss": relative_error(losses[0], want[0]),
        "timed gradient norm": relative_error(norms[0], want_norm),
    }

    def timed() -> float:
        nonlocal state
        start = time.perf_counter()
        state, _ = jax.block_until_ready(steps(state, batches))
        return (time.perf_counter() - start) / STEPS * 1e3

    return errors, timed


def relative_error(got: Any, want: Any) -> float:
    """|| got - want || / || want ||; infinite where it is not a number."""
    error = np.linalg.norm(np.asarray(got, np.float64) - np.asarray(want)) / np.linalg.norm(np.asarray(want))
    return float(error) if np.isfinite(error) else float("inf")


def print_row(row: Row) -> None:
    """A line with the median and the range of milliseconds a step, and the errors."""
    if "error" in row:
        print(f"{row['size']:7s} {row['variant']:18s} {row['error']}", flush=True)
        return
    ms = f"{statistics.median(row['ms']):8.3f} ({min(row['ms']):.3f} .. {max(row['ms']):.3f})" if row["ms"] else ""
    errors = ", ".join(f"{name} {error:.0e}" for name, error in row.get("errors", {}).items())
    print(f"{row['size']:7s} {row['variant']:18s} {ms} {errors}", flush=True)


def main() -> int:
    """Runs the study; returns 1 if anything failed or is further from float64 than bfloat16 explains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--only", nargs="+", default=[], metavar="VARIANT", help='names as in the table: "K 160x5"')
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--build_folder", type=Path, default=Path(pooch.os_cache("lovecraft_jax")) / "gpu_lstm")
    parser.add_argument("--json", type=Path, help="also write all results here")
    parser.add_argument("--tiny", action="store_true", help="check what is around the kernels, in jnp, on any machine")
    args = parser.parse_args()
    if args.tiny:
        rows = measure("tiny", (24, 8, 11), 0, args.only)
        for row in rows:
            print_row(row)
        return is_wrong(rows)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch and the test binary need memory too
    kernels.build(args.build_folder)
    failed = subprocess.run([args.build_folder.resolve() / "test"], check=False).returncode
    kernels.register(args.build_folder)
    rows = []
    for size in args.sizes:
        measurements = [partial(measure, size, SIZES[size], args.rounds, args.only), partial(measure_pytorch, size)]
        for one in measurements:
            found = one()
            rows += found
            for row in found:
                print_row(row)
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1))
    return failed or is_wrong(rows)


def measure_pytorch(size: str) -> list[Row]:
    """PyTorch's times, from a process of its own, since JAX keeps the memory that it has taken."""
    command = [sys.executable, "-m", "experiments.gpu_lstm.pytorch", *map(str, SIZES[size])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return [{"size": size, "variant": "PyTorch", "error": done.stderr.strip()[-300:]}]
    return [{"size": size, "variant": f"PyTorch {name}", "ms": ms} for name, ms in json.loads(done.stdout).items()]


def is_wrong(rows: list[Row]) -> bool:
    """Whether a variant failed or has an error above 2 %."""
    return any("error" in row or max(row.get("errors", {"none": 0}).values()) > 2e-2 for row in rows)


if __name__ == "__main__":
    sys.exit(main())
