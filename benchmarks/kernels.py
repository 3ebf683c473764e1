"""Checks the CUDA kernels of an LSTM layer by themselves, for every way to divide a layer among thread blocks, and
times them: `python -m benchmarks.kernels --device=gpu`.

Compared are the carry, h and all gradients with the same computation in jnp (model/cuda/in_jnp.py) on the same device;
an error is || got - expected || / || expected ||, the largest of all arrays. In bfloat16 capped gates may be off by
.04: where i and 1 - f are nearly the same, rounding decides which of them the gate is. A second call must repeat the
first bit for bit. A star marks the division that is chosen.
"""

import argparse
import contextlib
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.report import markdown
from benchmarks.turns import check_gpu, machine
from lovecraft_jax.model.cuda import in_jnp, layer
from lovecraft_jax.model.cuda.division import Division, LayerForm, choose_division, divisions
from lovecraft_jax.model.cuda.launch import this_gpu
from lovecraft_jax.model.lstm_step import LoopParams

TIMED = (
    (LayerForm(150), 64),
    (LayerForm(150, "rms_gates", "capped"), 64),
    (LayerForm(256, "rms_gates", "capped", mask=True), 64),
    (LayerForm(512), 64),
    (LayerForm(512, "rms_gates", "capped", mask=True), 64),
    (LayerForm(512), 512),
    (LayerForm(1024), 128),
    (LayerForm(1024, "rms_gates", "capped", mask=True), 64),
    (LayerForm(150, dtype="float32"), 64),
    (LayerForm(150, "rms_gates", "capped", dtype="float32"), 64),
    (LayerForm(256, "rms_gates", "capped", mask=True, dtype="float32"), 64),
)
"""What layers compute, and rows."""
IN_ALL_DIVISIONS = (
    (LayerForm(150, "rms_gates", "capped"), 1024),
    (LayerForm(256, "rms_gates", "capped", mask=True), 512),
    (LayerForm(150, "rms_gates", "capped", dtype="float32"), 1024),
)
"""Layers so large that their blocks do not all run at once: timed with every division, since `choose_division` only
assumes which is the fastest."""
CHECKED = tuple(
    (form, 64)
    for units in (10, 64, 100, 192, 320, 384, 448, 600, 768, 896)
    for form in (LayerForm(units, "layer_gates", "own", mask=True), LayerForm(units, "none", "coupled"))
) + tuple(
    (LayerForm(units, "layer_gates", "own", mask=True, dtype="float32"), 64) for units in (10, 192, 448, 512, 704)
)
MOST_ERROR = {
    "bfloat16": {"own": 1e-2, "coupled": 1e-2, "capped": 4e-2},
    "float32": {"own": 1e-3, "coupled": 1e-3, "capped": 4e-3},
}
TIME_STEPS, ROUNDS, CALLS = {True: 50, False: 6}, 5, 20
"""Time steps by whether they are timed."""
HEADER = (
    "units, norm, input gate, mask, dtype",
    "rows",
    "blocks, their rows",
    "error",
    "repeats",
    "us a time step: forward",
    "and backward",
)


def main() -> int:
    """Prints a table and saves JSON after each case; returns 1 if a kernel is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"], help="cpu: only jnp, to check this script")
    parser.add_argument("--to", type=Path, default=Path("runs/benchmarks"), help="a folder for the JSON file")
    parser.add_argument("--tiny", action="store_true", help="one small case of each dtype")
    args = parser.parse_args()
    if args.device == "gpu":
        check_gpu()
    args.to.mkdir(parents=True, exist_ok=True)
    about = {"device": args.device, "machine": machine(1, args.device)}
    print(markdown("kernels", HEADER, []), flush=True)
    found: list[dict[str, Any]] = []
    cases = _tiny_cases() if args.tiny else _cases()
    chosen = {division for *_, division in cases if division}
    kernels = {one._replace(form=one.form._replace(saves=saves)) for one in chosen for saves in (True, False)}
    with ThreadPoolExecutor() as pool:  # on all cores, since NVRTC takes seconds a layer
        list(pool.map(_compile, kernels))
    for case in cases:
        found.append(_check(*case))
        results = json.dumps(about | {"results": found}, indent=1)
        (args.to / f"kernels-{args.device}.json").write_text(results + "\n")
        print("| " + " | ".join(_row(found[-1])) + " |", flush=True)
    return int(any(case["is_wrong"] for case in found))


Case = tuple[LayerForm, int, bool, Division | None]
"""A layer, rows, whether it is timed, and its division, if it has one."""


def _cases() -> list[Case]:
    gpu = this_gpu()
    timed: list[Case] = [(form, rows, True, choose_division(form, rows, gpu)) for form, rows in TIMED]
    timed += [(form, rows, True, one) for form, rows in IN_ALL_DIVISIONS for one in divisions(form, rows, gpu)]
    return timed + [(form, rows, False, choose_division(form, rows, gpu)) for form, rows in CHECKED]


def _tiny_cases() -> list[Case]:
    forms = (LayerForm(10, dtype=dtype) for dtype in MOST_ERROR)
    return [(form, 8, True, choose_division(form, 8, this_gpu())) for form in forms]


def _compile(division: Division) -> None:
    with contextlib.suppress(Exception):  # _check meets it again, and reports it
        layer.compile_and_register(division)


def _check(form: LayerForm, rows: int, timed: bool, division: Division | None) -> dict[str, Any]:
    """Returns what was found for a layer; a kernel that cannot run leaves the others."""
    case: dict[str, Any] = {"form": form._asdict(), "rows": rows, "blocks": [], "is_wrong": False}
    case["is_chosen"] = division is not None and division == choose_division(form, rows, this_gpu())
    if not division:
        return case | {"why": "too large for this GPU, runs as fused"}
    case["blocks"] = [division.blocks, division.rows]
    try:
        given = _draw(division, rows, TIME_STEPS[timed])
        results = jax.block_until_ready(_with_gradients(given, division))
        again = _with_gradients(given, division)
        expected = _with_gradients_in_jnp(given, division)
        if timed:  # without a gradient too: then the forward kernel saves nothing
            results, again = (*results, _forward(given, division)), (*again, _forward(given, division))
            expected = (*expected, expected[1])
    except Exception as error:
        return case | {"is_wrong": True, "why": str(error).splitlines()[0][:300]}
    pairs = list(zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True))
    case["error"] = max(_error(got, want) for got, want in pairs)
    same = zip(jax.tree.leaves(results), jax.tree.leaves(again), strict=True)
    case["repeats"] = all(bool(jnp.array_equal(one, other)) for one, other in same)
    case["is_wrong"] = not (case["error"] < MOST_ERROR[form.dtype][form.input_gate] and case["repeats"])
    if timed:
        case["us"] = [_time(run, given, division) for run in (_forward, _with_gradients)]
    return case


def _draw(division: Division, rows: int, T: int) -> tuple[Any, ...]:
    """Random parameters, inputs of the gates, carry, and cotangents of the results."""
    form, rng = division.form, np.random.default_rng(division.form.units)
    units, gates = form.units, 3 if form.input_gate == "coupled" else 4

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    scale = 1 + 0.3 * normal(gates * units) if division.has_norm else None
    mask = jnp.where(normal(rows, units) > -0.8, 1.25, 0.0) if form.mask else None
    kernel_h = normal(units, gates * units) / units**0.5
    params = LoopParams(kernel_h, 0.3 * normal(gates * units), scale, mask)
    gates_x = layer.to_kernel_layout(normal(T, rows, gates * units), division).astype(form.dtype)
    carry = normal(rows, units), jnp.tanh(normal(rows, units))
    return params, gates_x, carry, ((normal(rows, units), normal(rows, units)), normal(T, rows, units))


def _run(given: tuple[Any, ...], division: Division) -> Any:
    params, gates_x, carry, _ = given
    return layer.run_lstm(params, gates_x, carry, division)


def _gradients(given: tuple[Any, ...], division: Division) -> Any:
    *inputs, cotangents = given

    def weighted_sum(*inputs: Any) -> Any:
        results = _run((*inputs, None), division)
        return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, results, cotangents))), results

    return jax.grad(weighted_sum, (0, 1, 2), has_aux=True)(*inputs)


_forward = jax.jit(_run, static_argnums=1)
_with_gradients = jax.jit(_gradients, static_argnums=1)


def _with_gradients_in_jnp(given: tuple[Any, ...], division: Division) -> Any:
    """The same, computed in jnp on a GPU too."""

    def run(division: Division, name: str, _: Any, operands: tuple[jax.Array, ...]) -> list[jax.Array]:
        return in_jnp.KERNELS[name](division, *operands)

    with mock.patch.object(layer, "run_kernel", run):
        return jax.jit(lambda given: _gradients(given, division))(given)


def _time(run: Any, given: tuple[Any, ...], division: Division) -> float:
    """The median microseconds a time step, with what XLA does around the kernels."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        results = [run(given, division) for _ in range(CALLS)]
        jax.block_until_ready(results)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) / CALLS / TIME_STEPS[True] * 1e6


def _error(got: jax.Array, want: jax.Array) -> float:
    exact = np.asarray(want, np.float64)
    error = np.linalg.norm(np.asarray(got, np.float64) - exact) / max(float(np.linalg.norm(exact)), 1e-30)
    return float(error) if np.isfinite(error) else float("inf")


def _row(case: dict[str, Any]) -> list[str]:
    form = case["form"]
    what = ", ".join(str(form[name]) for name in ("units", "norm", "input_gate", "mask", "dtype"))
    cells = [what, str(case["rows"]), ", ".join(map(str, case["blocks"])) + (" *" if case["is_chosen"] else "")]
    if "why" in case:
        return [*cells, ("failed: " if case["is_wrong"] else "") + case["why"]]
    return [*cells, f"{case['error']:.1e}", str(case["repeats"]), *(f"{us:.2f}" for us in case.get("us", ()))]


if __name__ == "__main__":
    raise SystemExit(main())
