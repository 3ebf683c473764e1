"""A run made before the package was split into folders: sampled, scored, reported and resumed by today's code.

tests/fixtures/old_run.tar.xz is `configs/tiny.py` with `--config.train.stop_at_step=20`, trained by commit 6bafc7e
(jax 0.10.2, one CPU device); old_run.json has what that commit made of it: tokens, scores, the checksum of every leaf,
and the rows of the same run trained to its end. Its config.json still says model.lstm.
"""

import json
import tarfile
from pathlib import Path

import pytest

from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.report import collect
from lovecraft_jax.report.page import render
from lovecraft_jax.run import load_run
from tests.helpers.runs import rows, train_tiny

pytestmark = pytest.mark.usefixtures("unoptimized")

FIXTURES = Path(__file__).parent / "fixtures"
OLD = json.loads((FIXTURES / "old_run.json").read_text())
RELATIVE = 1e-5
"""Another machine's matmuls add up in another order."""


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    with tarfile.open(FIXTURES / "old_run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def test_it_generates_the_same_tokens_and_has_the_same_scores(old_run: Path) -> None:
    run = load_run(old_run)
    for temperature, key in ((0.7, "generated"), (0.0, "greedy")):
        assert run.generate("The ancient house", 80, seed=0, sampling=Sampling(temperature)) == OLD[key]
    for split in ("valid", "test"):
        score, expected = run.score(run.split(split)), OLD[split]
        assert (score.tokens, score.chars) == (expected["tokens"], expected["characters"])
        assert (score.loss, score.bpc) == pytest.approx((expected["loss"], expected["bpc"]), rel=RELATIVE)


def test_it_resumes_from_the_same_state_to_the_same_end(old_run: Path) -> None:
    errors = train_tiny(old_run, "--config.train.keep=3")
    assert "resuming at step 20" in errors  # every leaf had the checksum that was saved with it
    assert _checksums(old_run, 20) == OLD["checksums"]
    assert _checksums(old_run, 40).keys() == OLD["checksums"].keys()
    after = [row for row in rows(old_run) if row["split"] != "sample"]
    assert [(row["step"], row["split"]) for row in after] == [(row["step"], row["split"]) for row in OLD["rows"]]
    for row, expected in zip(after, OLD["rows"], strict=True):
        assert (row["loss"], row["bpc"]) == pytest.approx((expected["loss"], expected["bpc"]), rel=RELATIVE)


@pytest.mark.slow
def test_it_is_reported(old_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TEMPERATURES": (0.7,), "SAMPLES": 2, "LENGTH": 2000}.items():
        monkeypatch.setattr(collect, name, value)
    # What is slow and of the model, which the other tests here compare.
    monkeypatch.setattr(collect.rare_words, "analyze", lambda *_: "left out")
    monkeypatch.setattr(collect.units, "analyze", lambda *_: None)
    assert "5.9" in render([collect.collect_run(str(old_run), "best", "run")])


def _checksums(workdir: Path, step: int) -> dict[str, str]:
    """The checksum of every leaf, as saved beside the state."""
    meta = json.loads((workdir / "checkpoints" / str(step) / "meta" / "metadata").read_text())
    return dict(meta["checksums"])
