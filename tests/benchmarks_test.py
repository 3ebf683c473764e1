"""The benchmarks run in turns, and a peer that is not installed is left out with a warning."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def test_training_is_measured_in_turns_and_a_missing_peer_is_left_out(tmp_path: Path) -> None:
    systems = "lovecraft_jax", "lovecraft_jax, recipe", "PyTorch, eager", "matmul in numpy"
    done = benchmark("train_step", tmp_path, "--systems", *systems, "--sizes", "c100")
    (result,) = (json.loads(path.read_text()) for path in tmp_path.glob("train_step-c100-*.json"))
    left_out = re.findall("left out: (PyTorch, eager): the worker exited with 1", done.stderr)
    measured = {one["system"]: one for one in result["systems"]}
    assert list(measured) == [name for name in systems if name not in left_out]
    assert all(len(one["seconds"]) == 2 and min(one["seconds"]) > 0 for one in measured.values())
    ours = measured["lovecraft_jax"]
    assert {"jax", "flax", "optax"} <= ours["versions"].keys()
    row = re.search(r"\| lovecraft_jax \| ([\d.]+) \(.*\) \| [\d,]+ \| 1.00 \(1.00-1.00\)", done.stdout)
    assert row, done.stdout
    assert float(row[1]) == pytest.approx(sum(ours["seconds"]) * 500, abs=0.06)  # the mean of two rounds, in ms
    assert list(tmp_path.glob("train_step-*.svg"))


def test_generation_is_measured_for_one_stream_and_for_many(tmp_path: Path) -> None:
    systems = "matmuls alone", "lovecraft_jax, printing"
    benchmark("generate", tmp_path, "--systems", *systems, "--streams", "1", "3")
    one, three = (json.loads(next(tmp_path.glob(f"generate-c150-{n}-*.json")).read_text()) for n in (1, 3))
    assert [system["system"] for system in one["systems"]] == list(systems)
    assert [system["system"] for system in three["systems"]] == ["matmuls alone"]
    assert list(tmp_path.glob("generate-*.svg"))


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
