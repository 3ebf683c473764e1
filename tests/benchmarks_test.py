"""The benchmarks run, in turns, without their peers: what is not installed is left out and said so."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[1]


def test_training_is_measured_in_turns_and_what_cannot_start_is_left_out(tmp_path: Path) -> None:
    systems = "lovecraft_jax", "PyTorch, eager", "product in numpy"
    done = benchmark("train_step", tmp_path, "--systems", *systems, "--sizes", "c100")
    (result,) = (json.loads(path.read_text()) for path in tmp_path.glob("train_step-c100-*.json"))
    there = [one["system"] for one in result["systems"]]
    left_out = re.findall("left out: (PyTorch, eager): the worker ended with 1", done.stderr)
    assert [name for name in systems if name not in left_out] == there
    assert all(len(one["seconds"]) == 2 and min(one["seconds"]) > 0 for one in result["systems"])
    assert {"cpu", "cores", "python"} <= result["machine"].keys()
    ours = next(one for one in result["systems"] if one["system"] == "lovecraft_jax")
    assert {"jax", "flax", "optax"} <= ours["versions"].keys()
    row = re.search(r"\| lovecraft_jax \| ([\d.]+) \(([\d.]+)-([\d.]+)\) \| [\d,]+ \| 1.00 \(1.00-1.00\)", done.stdout)
    assert row, done.stdout
    assert [float(ms) for ms in row.groups()] == pytest.approx(
        [sum(ours["seconds"]) * 500, min(ours["seconds"]) * 1e3, max(ours["seconds"]) * 1e3], abs=0.06
    )
    assert list(tmp_path.glob("train_step-*.svg"))


def test_writing_is_measured_for_one_stream_and_for_many(tmp_path: Path) -> None:
    systems = "products alone", "lovecraft_jax, printing"
    done = benchmark("generate", tmp_path, "--systems", *systems, "--streams", "1", "3")
    assert "c150, 1 stream\n" in done.stdout
    one, three = (json.loads(next(tmp_path.glob(f"generate-c150-{n}-*.json")).read_text()) for n in (1, 3))
    assert [system["system"] for system in one["systems"]] == list(systems)
    assert [system["system"] for system in three["systems"]] == ["products alone"]
    assert list(tmp_path.glob("generate-*.svg"))


def benchmark(name: str, to: Path, *flags: str) -> subprocess.CompletedProcess:
    """Two rounds, each turn as short as can be."""
    line = [sys.executable, "-m", f"benchmarks.{name}", "--rounds", "2", "--seconds", "0.01", "--to", str(to), *flags]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done
