"""A run made before the package was split into folders: sampled, scored, reported and resumed by today's code.

tests/fixtures/old_run.tar.xz is `configs/tiny.py` with `--config.train.stop_at_step=20`, trained by commit 6bafc7e
(jax 0.10.2, one CPU device); old_run.json has what that commit made of it: tokens, scores, the checksum of every leaf,
and the rows of the same run trained to its end. Its config.json still says model.lstm.
"""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.runs import rows

FIXTURES = Path(__file__).parent / "fixtures"
OLD = json.loads((FIXTURES / "old_run.json").read_text())
TINY = "--config=configs/tiny.py"
RELATIVE = 1e-5
"""Another machine's matmuls add up in another order."""


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    with tarfile.open(FIXTURES / "old_run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


@pytest.mark.parametrize(("temperature", "key"), [(0.7, "generated"), (0.0, "greedy")])
def test_it_generates_the_same_tokens(old_run: Path, command: Callable, temperature: float, key: str) -> None:
    flags = ["--prompt=The ancient house", "--length=80", f"--temperature={temperature}", "--seed=0", "--json"]
    done = command("sample", f"--workdir={old_run}", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == OLD[key]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["valid", "test"])
def test_it_has_the_same_scores(old_run: Path, command: Callable, split: str) -> None:
    done = command("evaluate", f"--workdir={old_run}", f"--split={split}")
    assert done.returncode == 0, done.stderr
    score, expected = json.loads(done.stdout), OLD[split]
    assert (score["tokens"], score["characters"]) == (expected["tokens"], expected["characters"])
    for key in ("loss", "bpc"):
        assert score[key] == pytest.approx(expected[key], rel=RELATIVE)


def test_it_resumes_from_the_same_state_to_the_same_end(old_run: Path, command: Callable) -> None:
    done = command("train", TINY, f"--workdir={old_run}", "--config.train.keep=3")
    assert done.returncode == 0, done.stderr
    assert "resuming at step 20" in done.stderr  # every leaf had the checksum that was saved with it
    assert _checksums(old_run, 20) == OLD["checksums"]
    assert _checksums(old_run, 40).keys() == OLD["checksums"].keys()
    after = [row for row in rows(old_run) if row["split"] != "sample"]
    assert [(row["step"], row["split"]) for row in after] == [(row["step"], row["split"]) for row in OLD["rows"]]
    for row, expected in zip(after, OLD["rows"], strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=RELATIVE)
        assert row["bpc"] == pytest.approx(expected["bpc"], rel=RELATIVE)


@pytest.mark.slow
def test_it_is_reported(old_run: Path, command: Callable) -> None:
    done = command("report", f"--workdir={old_run}")
    assert done.returncode == 0, done.stderr
    assert "5.9" in Path(done.stdout.strip()).read_text()


def _checksums(workdir: Path, step: int) -> dict[str, str]:
    """The checksum of every leaf, as saved beside the state."""
    meta = json.loads((workdir / "checkpoints" / str(step) / "meta" / "metadata").read_text())
    return dict(meta["checksums"])
