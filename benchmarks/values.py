"""Checks the values and gradients of each backend on a device against a float64 loop: `python -m benchmarks.values`.

For sizes and recipes of workloads.py, from random parameters and a random carry, with dropout masks where the recipe
has them: the sum of the cross-entropy, the carry after a batch and the gradient. An error is || got - expected || /
|| expected ||, of all tensors together and of the worst one. Also checked: that a second call repeats the first to the
last bit, and that two runs as one program (jax.vmap) give what each gives alone. Each backend is a process of its own;
all run at once.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import reference, workloads
from benchmarks.report import markdown
from benchmarks.turns import ROOT, check_gpu, machine
from lovecraft_jax.config import Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model.dropout import DropoutMasks, DropoutRates, Rate
from lovecraft_jax.model.lm import make_model
from lovecraft_jax.training.compiled import COMPILER_OPTIONS
from lovecraft_jax.training.step import make_gradient

Arrays = dict[str, np.ndarray]
CASES = {
    "c150": ("plain", "recipe", "coupled", "dropout", "best"),
    "c150-b512": ("recipe",),
    "u512-b64": ("plain", "recipe"),
    "u1024-b128": ("plain", "best"),
    "tiny": ("plain", "best"),
}
"""The recipes that are checked at each size."""
STACKED = ("plain", "recipe", "dropout")
"""The recipes of which two runs as one program are checked."""
SYSTEMS = {
    "cpu": ("scan float32", "fused float32", "native float32", "fused bfloat16"),
    "gpu": (
        "cuda bfloat16",
        "cuda float32",
        "blocks bfloat16",
        "blocks float32",
        "wavefront bfloat16",
        "wavefront float32",
        "fused bfloat16",
        "fused float32",
        "fused float32 highest",
        "scan float32",
        "scan bfloat16",
    ),
}
"""Backend, dtype, and JAX's default matmul precision where it is not the default: on a GPU float32 is then TF32."""
BOUNDS = {"highest": 1e-4, "float32": 2e-2, "bfloat16": 1e-1}
"""Errors of a tensor above which something is wrong, by the last word of a system's name. On a CPU float32 has the
first."""
V, TIME_STEPS_ABOVE_150_UNITS = 97, 20
"""The second keeps the reference, on a CPU, to seconds."""


def main() -> int:
    """Prints a table and saves JSON; returns 1 if a system is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=list(SYSTEMS))
    parser.add_argument("--sizes", nargs="+", choices=list(CASES), default=[size for size in CASES if size != "tiny"])
    named = sorted(set(itertools.chain(*SYSTEMS.values())))
    parser.add_argument("--systems", nargs="+", choices=named, metavar="SYSTEM", help=f"of {', '.join(named)}")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds; later results are not waited for")
    parser.add_argument("--to", type=Path, default=Path("runs/benchmarks"), help="a folder for JSON and log")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # the system, in the process that computes it
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        _work(args.worker, args.sizes, args.folder)
        return 0
    args.to.mkdir(parents=True, exist_ok=True)
    systems, cases = args.systems or SYSTEMS[args.device], [(s, r) for s in args.sizes for r in CASES[s]]
    with tempfile.TemporaryDirectory() as folder, open(args.to / "values.log", "a") as log:
        _compute([*systems, "float64"], args, Path(folder), log)
        results = [compare(Path(folder), system, *case, args.device) for system in systems for case in cases]
    about = {"device": args.device, "machine": machine(len(os.sched_getaffinity(0)), args.device)}
    (args.to / f"values-{args.device}.json").write_text(json.dumps(about | {"results": results}, indent=1) + "\n")
    print(_table(systems, cases, results), flush=True)
    return int(any(result["is_wrong"] for result in results))


def _compute(systems: list[str], args: argparse.Namespace, folder: Path, log: Any) -> None:
    """Runs all systems at the same time, each in its own process, and ends those that do not end in time."""
    processes, stop = [], time.monotonic() + args.limit
    for system in systems:
        on_cpu = system == "float64" or args.device == "cpu"
        environment = {"JAX_PLATFORMS": "cpu" if on_cpu else "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        command = [sys.executable, "-m", "benchmarks.values", f"--worker={system}", f"--folder={folder}", "--sizes"]
        processes.append(
            subprocess.Popen([*command, *args.sizes], cwd=ROOT, env=os.environ | environment, stdout=log, stderr=log)
        )
    for process in processes:
        try:
            process.wait(max(0.1, stop - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _work(system: str, sizes: list[str], folder: Path) -> None:
    """Writes the results of a system, a file for each case, or why there are none."""
    backend, *dtype = system.split()
    if dtype[1:]:
        jax.config.update("jax_default_matmul_precision", dtype[1])
    for size in sizes:
        for recipe in CASES[size]:
            file = folder / f"{system}-{size}-{recipe}.npz"
            try:
                if os.environ["JAX_PLATFORMS"] == "cuda":
                    check_gpu()
                found = _expected(size, recipe) if system == "float64" else _found(size, recipe, backend, dtype[0])
            except Exception as error:  # the other cases may run
                why = " ".join(f"{type(error).__name__}: {error}".split())
                print(f"{file.stem}: {why}", file=sys.stderr, flush=True)
                found = {"error": np.array(why[:400])}
            with open(file.with_suffix(".part"), "wb") as part:
                np.savez(part, allow_pickle=False, **found)
            file.with_suffix(".part").rename(file)


def _config(size: str, recipe: str) -> Any:
    config = workloads.with_changes(workloads.get_config(size), () if recipe == "plain" else (recipe,))
    config.data.seq_len = min(config.data.seq_len, 50 if config.model.units <= 150 else TIME_STEPS_ABOVE_150_UNITS)
    return config


def _draw(config: Any) -> tuple[Any, Any, Batch, DropoutMasks]:
    """Returns random parameters, carry, batch and masks, the same on every device."""
    B, T, L, H = config.data.batch_size, config.data.seq_len, config.model.layers, config.model.units
    model = make_model(config, V, "scan")
    zeros = jax.ShapeDtypeStruct((B, T), np.int32)
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), model.initial_carry(B), zeros)["params"]
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name, values = jax.tree_util.keystr(path), rng.standard_normal(leaf.shape).astype(np.float32)
        if "scale" in name:  # with scales of 1, gradients through 50 time steps multiply a rounding error by ten
            return 0.5 + 0.1 * values
        return (
            0.1 * values if "bias" in name else values / np.float32(1 if "embedding" in name else leaf.shape[0] ** 0.5)
        )

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    normal = lambda: rng.standard_normal((B, H)).astype(np.float32)  # noqa: E731
    carry = tuple((0.5 * normal(), np.tanh(normal())) for _ in range(L))
    ids = rng.integers(0, V, (B, T + 1), np.int32)
    batch = Batch(ids[:, :-1], ids[:, 1:], np.ones((B, T), np.uint8), np.zeros(B, bool))
    rates = DropoutRates.of(config.model)

    def mask(rate: Rate | None, width: int) -> Any:
        return None if rate is None else (rng.random((B, width)) < rate.keep).astype(np.float32) * rate.scale

    def masks(rate: Rate | None) -> Any:
        return None if rate is None else tuple(mask(rate, H) for _ in range(L))

    dropped = DropoutMasks(None, mask(rates.input, config.model.embed), masks(rates.recurrent), masks(rates.output))
    return params, carry, batch, dropped


def _expected(size: str, recipe: str) -> Arrays:
    """Returns the results in float64."""
    config = _config(size, recipe)
    nats, after, grads = reference.gradients(Config.of(config).model, *_draw(config))
    return _named(nats, after, grads)


def _found(size: str, recipe: str, backend: str, dtype: str) -> Arrays:
    """Returns the results of a backend, whether it repeats itself, and the error of two runs as one program."""
    config = workloads.with_changes(_config(size, recipe), (backend, dtype))
    given = _draw(config)
    gradient = make_gradient(make_model(workloads.checked(config), V))

    def named(params: Any, carry: Any, batch: Batch, masks: DropoutMasks) -> tuple:
        sums, after, _ = gradient({"params": params}, carry, batch, masks)
        return sums.nats, after, sums.grads

    options = COMPILER_OPTIONS.get(jax.default_backend())
    compiled = jax.jit(named, compiler_options=options).lower(*given).compile()
    first, second = (_named(*compiled(*given)) for _ in range(2))
    repeats = all(np.array_equal(first[name], second[name]) for name in first)
    extra: Arrays = {"repeats": np.array(repeats)}
    if recipe in STACKED:
        other = _draw(config)
        other[0]["head_kernel"] *= np.float32(1.5)  # the second run is another one
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), given, other)
        both = _named(*jax.jit(jax.vmap(named), compiler_options=options)(*stacked))
        alone = first, _named(*compiled(*other))
        errors = [_error(both[name][n], alone[n][name]) for n in range(2) for name in first]
        extra["stacked_error"] = np.array(max(errors))
    return first | extra


def _named(nats: Any, after: Any, grads: Any) -> Arrays:
    """Returns all arrays by name."""
    tree = {"loss": nats, "carry": after, "gradient": grads}
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def compare(folder: Path, system: str, size: str, recipe: str, device: str) -> dict[str, Any]:
    """Returns a system's errors in a case by kind and whether one is too large, or why there are none."""
    result: dict[str, Any] = {"system": system, "size": size, "recipe": recipe, "errors": {}, "is_wrong": False}
    got, want = (_load(folder / f"{name}-{size}-{recipe}.npz") for name in (system, "float64"))
    for name, arrays in ((system, got), ("float64", want)):
        if "error" in arrays:
            return result | {"left_out": ("no reference: " if name == "float64" else "") + str(arrays["error"])}
    errors = {name: _error(got[name], want[name]) for name in want}
    for kind in ("loss", "carry", "gradient"):
        names = [name for name in want if name.startswith(kind)]
        result["errors"][kind] = _error(
            *(np.concatenate([part[name].ravel() for name in names]) for part in (got, want))
        )
    worst = max(errors, key=lambda name: errors[name])
    result["errors"]["worst tensor"] = errors[worst]
    result |= {"repeats": bool(got["repeats"]), "worst_tensor": worst}
    if "stacked_error" in got:
        result["errors"]["stacked"] = float(got["stacked_error"])
    result["is_wrong"] = not result["repeats"] or max(result["errors"].values()) > _bound(system, device)
    return result


def _load(file: Path) -> Arrays:
    try:
        with np.load(file) as arrays:
            return dict(arrays)
    except (OSError, ValueError, zlib.error):
        return {"error": np.array("did not end in time, or ended early; the log says more")}


def _error(got: np.ndarray, want: np.ndarray) -> float:
    """|| got - want || / || want ||; infinite where it is not a number."""
    wide = np.asarray(want, np.float64)
    error = np.linalg.norm(np.asarray(got, np.float64) - wide) / max(float(np.linalg.norm(wide)), 1e-30)
    return float(error) if np.isfinite(error) else float("inf")


def _bound(system: str, device: str) -> float:
    last = system.split()[-1]
    return BOUNDS["highest" if device == "cpu" and last == "float32" else last]


def _table(systems: Any, cases: list[tuple[str, str]], results: list[dict[str, Any]]) -> str:
    """Returns a row for each system: the errors of the gradient and of the carry in each case, and what is wrong."""
    header, rows, wrong = ["system", *(" ".join(case) for case in cases)], [], []
    left_out: dict[str, list[str]] = {}
    for system in systems:
        cells = [system]
        for result in results:
            if result["system"] != system:
                continue
            errors = result["errors"]
            cells.append(f"{errors['gradient']:.0e}, {errors['carry']:.0e}" if errors else "-")
            if result["is_wrong"]:
                cells[-1] += " WRONG"
                wrong.append(f"WRONG: {json.dumps(result)}")
            if "left_out" in result:
                left_out.setdefault(f"{system}: {result['left_out']}", []).append(
                    f"{result['size']} {result['recipe']}"
                )
        rows.append(cells)
    notes = [*wrong, *(f"left out: {why} ({', '.join(where)})" for why, where in left_out.items())]
    return "\n".join([markdown("errors of gradient, carry", header, rows), "", *notes])


if __name__ == "__main__":
    sys.exit(main())
