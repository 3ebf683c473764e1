"""The evaluate command: one line of JSON, equal to the scores of training and of the Python API."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from lovecraft_jax.inference.scoring import Score
from lovecraft_jax.run import load_run

pytestmark = pytest.mark.slow

TALE = Path(__file__).parents[1] / "lovecraft_jax" / "data" / "tales" / "office_hours.txt"


def test_the_score_of_the_test_split_is_the_final_score_of_training(
    evaluate: Callable[..., dict], trained: Path
) -> None:
    final = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    corpus = json.loads((trained / "corpus.json").read_text())
    result = evaluate()
    assert {key: result[key] for key in ("split", "step")} == {"split": "test", "step": 40}
    assert "bce" not in result
    for key in ("loss", "bpc", "perplexity"):
        assert result[key] == pytest.approx(final[key], rel=1e-9)
    assert result["tokens"] == result["characters"] == corpus["characters"]["test"]


def test_bce_is_computed_on_request(evaluate: Callable[..., dict], trained: Path) -> None:
    run = load_run(trained)
    asked, plain = evaluate("--bce", "--split=valid"), evaluate("--split=valid")
    assert asked.pop("bce") == pytest.approx(run.score(run.split("valid"), bce=True).bce, rel=1e-6)
    assert asked == plain


def test_a_text_file_scores_as_it_does_from_python(
    evaluate: Callable[..., dict], trained: Path, tmp_path: Path
) -> None:
    text = TALE.read_text()[:1500]
    assert all(ord(char) < 128 for char in text)
    file = tmp_path / "tale.txt"
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())  # as editors on Windows save it
    run = load_run(trained, 30)
    score = run.score(run.encode(text))
    result = evaluate(f"--text={file}", "--checkpoint=30")
    assert (result["text"], result["step"]) == (str(file), 30)
    assert result["tokens"] == result["characters"] == 1500
    assert result["loss"] == pytest.approx(score.nats / 1500, rel=1e-6)
    assert result["bpc"] == pytest.approx(result["loss"] / math.log(2), rel=1e-9)
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]), rel=1e-9)


def test_the_perplexity_of_a_hopeless_model_is_infinite() -> None:
    assert Score(nats=7.1e3, tokens=10, chars=10, vocab_size=2).perplexity == math.inf


@pytest.fixture(scope="module")
def evaluate(command: Callable, trained: Path) -> Callable[..., dict]:
    """Runs the command; returns the JSON object that it printed."""

    def run(*flags: str) -> dict:
        done = command("evaluate", f"--workdir={trained}", *flags)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert done.stdout.count("\n") == 1
        return json.loads(done.stdout)

    return run
