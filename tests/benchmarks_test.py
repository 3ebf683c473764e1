"""The benchmarks run in turns; what is not installed, hangs or dies is left out; one script measures a GPU."""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu, turns, values
from benchmarks.systems import find_system, precision_of
from benchmarks.training import seconds_by_part

pytestmark = pytest.mark.usefixtures("unoptimized")

ROOT = Path(__file__).parents[1]

STAND_IN = """#!{python}
import json, sys, time
name = sys.argv[-1]
for number, line in enumerate(sys.stdin):
    if name == "hangs" and number == 1:
        time.sleep(60)
    if name == "dies" and number == 1:
        sys.exit(3)
    if name == "cannot":
        print(json.dumps({{"error": "no such device"}}), flush=True)
        sys.exit(1)
    ready = {{"count": 10, "first_seconds": 1.0, "versions": {{}}}}
    print(json.dumps(ready if number == 0 else {{"seconds": int(line) * 2.0, "peak_mb": 5.0}}), flush=True)
"""
"""Answers as benchmarks.worker does, in turns of two seconds a step."""


def test_a_system_that_hangs_dies_or_cannot_be_built_is_left_out_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = tmp_path / "worker"
    worker.write_text(STAND_IN.format(python=sys.executable))
    worker.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(worker))
    plan = turns.Plan("train", "tiny", "gpu", 1, rounds=3, seconds=0.01, limit=3.0)
    with open(tmp_path / "log", "w") as log:
        measured, left_out = turns.measure_in_turns(["one", "hangs", "dies", "cannot", "two"], plan, log)
    assert {one.system: one.seconds for one in measured} == {"one": [2.0] * 3, "two": [2.0] * 3}
    assert left_out == {
        "hangs": "no answer within 3 s",
        "dies": "the process ended with exit code 3; the log says more",
        "cannot": "no such device",
    }


def test_names_of_systems_are_checked_and_tell_their_precision() -> None:
    for name in ("jax", "lovecraft_jax, fast", "lovecraft_jax, recipe, float16", "lovecraft_jax, 0 seeds"):
        with pytest.raises(ValueError, match=re.escape(name.split(", ")[-1])):
            find_system("train", name)
    assert find_system("train", "lovecraft_jax, recipe, cuda, bfloat16, 16 seeds").runs == 16
    with pytest.raises(ValueError, match="only training takes several seeds"):
        find_system("generate", "lovecraft_jax, 16 seeds")
    names = "lovecraft_jax", "lovecraft_jax, cuda, bfloat16, 16 seeds", "PyTorch, eager, TF32", "Flax, plain"
    assert [precision_of(name, "gpu") for name in names] == ["TF32", "bfloat16", "TF32", "TF32"]
    assert precision_of("PyTorch, eager", "gpu") == "float32"


@pytest.mark.parametrize(("change", "is_right"), [(1.0, True), (1.02, False), (np.nan, False)])
def test_a_wrong_gradient_is_found_in_a_small_tensor(tmp_path: Path, change: float, is_right: bool) -> None:
    want: dict[str, Any] = {"loss": np.float64(3.0), "carry.0": np.ones(1000), "gradient.large": np.ones(100_000)}
    want["gradient.bias"] = np.full(5, 1e-3)
    got = want | {"gradient.bias": want["gradient.bias"] * change, "repeats": np.array(True)}
    for name, arrays in (("float64", want), ("fused float32", got)):
        np.savez(tmp_path / f"{name}-tiny-plain.npz", **arrays)
    result = values.compare(tmp_path, "fused float32", "tiny", "plain", "cpu")
    assert result["is_wrong"] != is_right, result
    assert result["worst_tensor"] == "gradient.bias" or is_right
    left_out = values.compare(tmp_path, "cuda bfloat16", "tiny", "plain", "cpu")
    assert "left_out" in left_out
    assert not left_out["is_wrong"]


def test_a_part_that_takes_too_long_is_ended_and_what_it_wrote_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    (folder / "steps-0").mkdir(parents=True)
    write = f"open({str(folder / 'steps-0' / 'some.json')!r}, 'w').write('[1]')"
    sleep = f"345.{os.getpid()}"
    code = f"import subprocess; {write}; print('a table', flush=True); subprocess.run(['sleep', '{sleep}'])"
    args = argparse.Namespace(tiny=True, seconds=60.0, to=tmp_path, backend=None)
    with open(tmp_path / "gpu.txt", "w") as text:
        run = gpu.Run(args, folder, text)
        began = time.monotonic()
        assert run.execute([sys.executable, "-c", code], limit=2.0) == "ended after 2 s"
        run.merge()
    assert time.monotonic() - began < 20
    assert "a table" in (tmp_path / "gpu.txt").read_text()
    assert json.loads((tmp_path / "gpu.json").read_text())["results"] == {"steps-0/some": [1]}
    assert sleep not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_trainings_take_the_cuda_backend_only_where_its_values_are_right_at_their_sizes(tmp_path: Path) -> None:
    def backends(**wrong: bool) -> list[str]:
        cases = [{"system": "cuda bfloat16", "size": size, "is_wrong": bad} for size, bad in wrong.items()]
        cases.append({"system": "scan bfloat16", "size": "c150", "is_wrong": True})
        args = argparse.Namespace(tiny=False, seconds=60.0, to=tmp_path, backend=None)
        with open(tmp_path / "gpu.txt", "w") as text:
            run = gpu.Run(args, tmp_path, text)
        run.results = {"values-0/values-gpu": {"results": cases}}
        return [run.backend(part) for part in ("start", "large")]

    assert backends(c150=False, u512=False) == ["cuda", "cuda"]
    assert backends(c150=False, u512=True) == ["cuda", "auto"]
    assert backends(c150=True, u512=False) == ["auto", "auto"]
    assert backends() == ["auto", "auto"]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_script_for_a_gpu_runs_its_parts_with_tiny_sizes_on_a_cpu(tmp_path: Path) -> None:
    """The parts that are not here are other flags of the same commands."""
    parts = ["kernels", "values", "seeds", "start"]
    line = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--seconds=1400", f"--to={tmp_path}", "--parts", *parts]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    log = (tmp_path / "gpu.log").read_text()
    assert done.returncode == 0, done.stderr + done.stdout + log
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found["parts"]) == parts
    assert [command["why"] for commands in found["parts"].values() for command in commands] == [""] * len(parts)
    results: dict[str, Any] = {name.split("/")[0]: result for name, result in found["results"].items()}
    assert not results["kernels-0"]["results"][0]["is_wrong"]
    by_system = {case["system"]: case for case in results["values-0"]["results"]}
    assert 0 < by_system["fused float32"]["errors"]["gradient"] < 1e-5
    assert "cuda" in by_system["cuda bfloat16"]["left_out"]
    assert [one["system"] for one in results["seeds-0"]["systems"]] == [
        "lovecraft_jax, fused",
        "lovecraft_jax, fused, 2 seeds",
    ]
    seconds = seconds_by_part(results["start-0"]["runs"][0]["spans"])
    assert min(seconds[name] for name in ("imports", "first dispatch", "evaluation", "scores")) > 0
    assert seconds["first dispatch"] < seconds["training"] < seconds["scores"] <= seconds["all"]
    assert [row["split"] for row in results["start-0"]["runs"][0]["scores"]] == ["valid", "test"]
    assert "## Summary" in done.stdout
    assert {file.name for file in tmp_path.iterdir()} == {
        "gpu.json",
        "gpu.txt",
        "gpu.log",
        "gpu-train_step.svg",
    }


@pytest.mark.slow
def test_training_is_measured_in_turns_and_a_missing_peer_is_left_out(tmp_path: Path) -> None:
    systems = "lovecraft_jax", "lovecraft_jax, recipe, bfloat16", "PyTorch, eager", "matmul in numpy"
    done = benchmark("train_step", tmp_path, "--systems", *systems, "--sizes", "tiny")
    (result,) = (json.loads(path.read_text()) for path in tmp_path.glob("train_step-tiny-*.json"))
    left_out = re.findall("left out: (PyTorch, eager): ModuleNotFoundError: No module named 'torch'", done.stderr)
    measured = {one["system"]: one for one in result["systems"]}
    assert list(measured) == [name for name in systems if name not in left_out]
    assert list(result["left_out"]) == left_out
    assert all(len(one["seconds"]) == 2 and min(one["seconds"]) > 0 for one in measured.values())
    ours = measured["lovecraft_jax"]
    assert {"jax", "flax", "optax"} <= ours["versions"].keys()
    row = re.search(r"\| lovecraft_jax \| ([\d.]+) \(.*\) \| [\d,]+ \| 1.00 \(1.00-1.00\)", done.stdout)
    assert row, done.stdout
    assert float(row[1]) == pytest.approx(sum(ours["seconds"]) * 500, abs=0.06)  # the mean of two rounds, in ms
    assert list(tmp_path.glob("train_step-*.svg"))


@pytest.mark.slow
def test_generation_is_measured_for_one_stream_and_for_many(tmp_path: Path) -> None:
    systems = "matmuls alone", "lovecraft_jax, printing"
    benchmark("generate", tmp_path, "--systems", *systems, "--streams", "1", "3")
    one, three = (json.loads(next(tmp_path.glob(f"generate-c150-{n}-*.json")).read_text()) for n in (1, 3))
    assert [system["system"] for system in one["systems"]] == list(systems)
    assert [system["system"] for system in three["systems"]] == ["matmuls alone"]
    assert list(tmp_path.glob("generate-*.svg"))


@pytest.mark.slow
def test_what_a_trained_run_generates_is_measured_in_characters(trained: Path, tmp_path: Path) -> None:
    name = f"generate_text-{trained.name}.json"
    line = [sys.executable, "-m", "benchmarks.generate_text", f"--workdir={trained}", "--rounds=2", "--length=30"]
    line.append("--streams")
    done = subprocess.run([*line, "1", "3", f"--to={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / name).read_text())["measured"]
    assert {each["streams"]: each["characters"] for each in measured} == {1: [30] * 2, 3: [90] * 2}
    assert all(len(each["seconds"]) == 2 for each in measured)
    assert all(cells[-1] == "1.00" for cells in re.findall(r"\| \d+ \| (.+) \| (.+) \| (.+) \|", done.stdout))


def benchmark(name: str, to: Path, *flags: str) -> subprocess.CompletedProcess:
    """Runs two rounds with turns as short as possible."""
    line = [sys.executable, "-m", f"benchmarks.{name}", "--rounds", "2", "--seconds", "0.01", "--to", str(to), *flags]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done
