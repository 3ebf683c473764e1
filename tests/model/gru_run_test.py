"""A run of GRU layers with skip connections as its user has it: trained, resumed, sampled, scored, reported."""

import json
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.helpers.runs import assert_same_run


@pytest.mark.slow
def test_a_gru_run_trains_resumes_exactly_and_is_sampled_scored_and_reported(command: Command, tmp_path: Path) -> None:
    flags = ["--config=configs/tiny.py", "--config.model.cell=gru", "--config.model.skip=True"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    done = command("train", *flags, f"--workdir={whole}")
    assert done.returncode == 0, done.stderr
    assert "model       2 GRU layers of 16" in done.stderr
    assert json.loads((whole / "config.json").read_text())["model"]["cell"] == "gru"
    for more in (["--config.train.stop_at_step=20"], []):
        done = command("train", *flags, f"--workdir={halves}", *more)
        assert done.returncode == 0, done.stderr
    assert_same_run(halves, whole)

    done = command("sample", f"--workdir={whole}", "--prompt=The", "--length=30")
    assert len(done.stdout) > 30, done.stderr
    done = command("evaluate", f"--workdir={whole}", "--split=test")
    final = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])
    assert json.loads(done.stdout)["bpc"] == pytest.approx(final["bpc"], rel=1e-9)
    done = command("report", f"--workdir={whole}")
    assert done.returncode == 0, done.stderr
    assert (whole / "report" / "index.html").stat().st_size > 10_000
