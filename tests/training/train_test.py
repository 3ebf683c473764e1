"""The train command: what it prints where, which files it leaves, and how it ends when the loss is not finite."""

import hashlib
import itertools
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.model.lm import forward
from lovecraft_jax.run import load_run
from tests.helpers.runs import all_rows, saved_state

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]

FORWARD_FLOPS = 2 * (16 * 64 + (16 * 64 + 16 * 64) + 16 * 80)
"""Of a token: one-hot input, two layers of 16 units, 80 logits; two operations a multiply-add."""
TALES = Path(__file__).parents[2] / "lovecraft_jax" / "data" / "tales"


def test_a_run_records_its_config_vocabulary_corpus_and_versions(trained: Path) -> None:
    assert _json(trained / "config.json") == tiny.get_config().to_dict()
    corpus, files = _json(trained / "corpus.json"), sorted(TALES.glob("*.txt"))
    assert _json(trained / "vocab.json")["chars"] == "".join(sorted(set(_text(corpus["splits"]["train"]))))
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert corpus["name"] == "bundled"
    assert corpus["sha256"] == hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    assert sorted(name for names in corpus["splits"].values() for name in names) == [file.stem for file in files]
    assert corpus["characters"] == {split: len(_text(names)) for split, names in corpus["splits"].items()}
    assert corpus["tokens"] == corpus["characters"]
    versions = _json(trained / "versions.json")
    assert versions["jax"] == jax.__version__
    assert versions["hardware"].startswith("1 x ")


def test_metrics_have_a_row_for_everything_that_was_due(trained: Path) -> None:
    rows = all_rows(trained)
    assert [(row["step"], row["split"], row.get("scoring")) for row in rows] == [
        (10, "train", None),
        (20, "train", None),
        (20, "valid", "scheduled"),
        (20, "sample", None),
        (30, "train", None),
        (40, "train", None),
        (40, "valid", "scheduled"),
        (40, "sample", None),
        (40, "valid", "final"),
        (40, "test", "final"),
    ]
    for row in (row for row in rows if row["split"] != "sample"):
        assert row["bpc"] == pytest.approx(row["loss"] / math.log(2), rel=1e-9)  # a token is a character here
        assert "bce" not in row  # computed only where it is the loss
        if row["split"] == "train":
            assert row["learning_rate"] == pytest.approx(_rate(row["step"] - 1), rel=1e-5)
            assert row["flops_per_second"] == pytest.approx(3 * FORWARD_FLOPS * row["chars_per_second"], rel=1e-9)
            assert row["flops_per_second"] / row["mfu"] == pytest.approx(rows[0]["flops_per_second"] / rows[0]["mfu"])
            assert 0 < row["mfu"] < 1
        else:
            assert row["perplexity"] == pytest.approx(math.exp(row["loss"]), rel=1e-9)


def test_every_evaluation_generates_a_sample_and_measures_its_style(trained: Path) -> None:
    assert {file.name for file in (trained / "samples").iterdir()} == {"00000020.txt", "00000040.txt", "best.txt"}
    splits = _json(trained / "corpus.json")["splits"]
    train, known = _text(splits["train"]), set(_words(_text([name for names in splits.values() for name in names])))
    for row in (row for row in all_rows(trained) if row["split"] == "sample"):
        text = (trained / "samples" / f"{row['step']:08d}.txt").read_text()
        assert re.fullmatch(r"The ancient house.{40}\n", text, re.DOTALL)
        written = text.removeprefix("The ancient house").removesuffix("\n")
        spans = (written[a:b] for a, b in itertools.combinations(range(41), 2) if written[a:b] in train)
        assert row.keys() == {"step", "split", "real", "letters_tv", "copied_longest"}
        assert row["real"] == pytest.approx(100 * np.mean([word in known for word in _words(written)]))
        assert row["copied_longest"] == max(map(len, spans))


def test_starting_a_finished_run_prints_its_scores_and_changes_nothing(
    trained: Path, command: Callable, tmp_path: Path
) -> None:
    workdir = shutil.copytree(trained, tmp_path / "run")
    files = [path for path in workdir.rglob("*") if path.name != "lock" and path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    done = command("train", "--config=configs/tiny.py", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "already finished at step 40" in done.stderr
    assert done.stdout == _results(all_rows(trained))
    assert {path for path in workdir.rglob("*") if path.name != "lock" and path.is_file()} == before.keys()
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_results_go_to_standard_output_and_a_summary_and_progress_to_standard_error(windows: tuple) -> None:
    workdir, done = windows
    assert done.stdout == _results(all_rows(workdir))
    summary, _, progress = done.stderr.partition("step 10/40")
    assert "step 20: valid" in progress
    assert str(workdir) in progress
    train, valid, test = (len(_text(names)) for names in _json(workdir / "corpus.json")["splits"].values())
    parameters = 4 * 16 * (80 + 16 + 1) + 4 * 16 * (16 + 16 + 1) + (16 + 1) * 80
    for part in (
        f"{parameters:,} parameters",
        f"{parameters / train:.3f} per training character",
        f"train {train:,}, valid {valid:,}, test {test:,} characters",
        f"40 of 8 x 8 tokens, {40 / (train // 64):.2f} epochs",
    ):
        assert part in summary


def test_baselines_are_logged_and_stand_beside_the_final_scores(windows: tuple) -> None:
    ngrams = r"(\d+)-gram of characters \(static\) (\S+), \d-gram of words \(static\) \S+"
    shown = rf"uniform (\S+), unigram (\S+), {ngrams}, PPMd \(adaptive\) (\S+)\n"
    logged = re.search(rf"baselines on valid: {shown}", windows[1].stderr)
    assert logged is not None
    assert logged[1] == f"{math.log2(80):.3f}"
    assert 1 < float(logged[5]) < float(logged[4]) < float(logged[2]) < float(logged[1])
    known = _json(windows[0] / "baselines.json")
    beside_final_scores = f"\n{logged[3]}-gram of characters (static): valid {known['ngram']:.4f}, test "
    assert beside_final_scores in windows[1].stderr


def test_the_window_regime_reports_both_scores(windows: tuple) -> None:
    rows = all_rows(windows[0])
    assert ["bpc_window" in row for row in rows] == ["perplexity" in row for row in rows]
    run = load_run(windows[0])
    ids = run.split("test").ids
    inputs = np.pad(np.append(run.tokenizer.start_id, ids[:-1]), (0, -len(ids) % 8)).reshape(-1, 8).astype(np.int32)
    _, logits = forward(run.model, run.variables, run.model.initial_carry(len(inputs)), inputs)
    log_probs = np.asarray(jax.nn.log_softmax(logits), np.float64).reshape(-1, run.tokenizer.size)
    bpc = -np.mean(log_probs[np.arange(len(ids)), ids]) / math.log(2)
    assert rows[-1]["bpc_window"] == pytest.approx(bpc, rel=1e-5)
    assert abs(rows[-1]["bpc"] / bpc - 1) > 1e-3


def test_a_run_that_minimises_binary_cross_entropy_has_it_in_every_row(windows: tuple) -> None:
    rows = [row for row in all_rows(windows[0]) if row["split"] != "sample"]
    assert [("bce" in row, "bce_window" in row) for row in rows] == [(True, row["split"] != "train") for row in rows]
    train = [row["bce"] for row in rows if row["split"] == "train"]
    assert train == sorted(train, reverse=True)
    assert train[0] < (math.log(80) - 79 * math.log(79 / 80)) / 80  # less than where all 80 are equally likely


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_state(
    command: Callable, tmp_path: Path
) -> None:
    flags = ("--config.optimizer.lr=1e36", "--config.train.checkpoint_every=1")
    done = command("train", "--config=configs/tiny.py", f"--workdir={tmp_path}", *flags)
    row = all_rows(tmp_path)[-1]
    steps = sorted(int(folder.name) for folder in (tmp_path / "checkpoints").iterdir())
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert (row["step"], row["loss"]) == (steps[-1] + 1, None)
    for part in (f"step {row['step']}:", f"rate {row['learning_rate']:.3g}", f"step {steps[-1]} in {tmp_path}"):
        assert part in done.stderr.splitlines()[-1]
    for step in steps:
        floats = [leaf for leaf in jax.tree.leaves(saved_state(tmp_path, step)) if leaf.dtype == np.float32]
        assert len(floats) > 10
        assert all(np.isfinite(leaf).all() for leaf in floats)


@pytest.fixture(scope="module")
def windows(command: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A run in the window regime that minimises the article's loss, and its output."""
    workdir = tmp_path_factory.mktemp("windows")
    as_article = "--config.data.regime=window", "--config.train.loss=binary_cross_entropy"
    done = command("train", "--config=configs/tiny.py", f"--workdir={workdir}", *as_article)
    assert done.returncode == 0, done.stderr
    return workdir, done


def _rate(step: int) -> float:
    """The tiny config's learning rate: a cosine from 0.004 to a fiftieth of it, over the 36 steps after the warmup."""
    return 0.004 * (0.02 + 0.98 * (1 + math.cos(math.pi * (step - 4) / 36)) / 2)


def _results(rows: list[dict]) -> str:
    valid, test = rows[-2:]
    return f"valid {valid['bpc']:.4f} bpc  test {test['bpc']:.4f} bpc\n"


def _text(names: list[str]) -> str:
    return "\n\n\n".join((TALES / f"{name}.txt").read_text().strip() for name in names)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower())


def _json(path: Path) -> dict:
    return json.loads(path.read_text())
