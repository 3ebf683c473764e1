"""The train command: what it prints where, which files it leaves, and how it ends when the loss is not finite."""

import hashlib
import itertools
import json
import math
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.model.lm import forward
from lovecraft_jax.run import load_run
from tests.helpers.runs import saved_state

pytestmark = pytest.mark.slow

TALES = Path(__file__).parents[2] / "lovecraft_jax" / "data" / "tales"


def test_a_run_records_its_config_vocabulary_and_versions(trained: Path) -> None:
    assert _json(trained / "config.json") == tiny.get_config().to_dict()
    train_text = _text(_json(trained / "corpus.json")["splits"]["train"])
    assert _json(trained / "vocab.json")["chars"] == "".join(sorted(set(train_text)))
    versions = _json(trained / "versions.json")
    assert versions["jax"] == jax.__version__
    assert versions.keys() >= {"lovecraft_jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "python"}
    assert versions["hardware"].startswith("1 x ")


def test_a_run_records_its_corpus(trained: Path) -> None:
    corpus = _json(trained / "corpus.json")
    files = sorted(TALES.glob("*.txt"))
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert corpus["name"] == "bundled"
    assert corpus["sha256"] == hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    assert sorted(name for names in corpus["splits"].values() for name in names) == [file.stem for file in files]
    assert corpus["characters"] == {split: len(_text(names)) for split, names in corpus["splits"].items()}
    assert corpus["tokens"] == corpus["characters"]


def test_metrics_have_a_row_for_everything_that_was_due(trained: Path) -> None:
    rows = _rows(trained)
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
            assert row["chars_per_second"] > 0
            assert row["learning_rate"] == pytest.approx(_rate(row["step"] - 1), rel=1e-5)
        else:
            assert row["perplexity"] == pytest.approx(math.exp(row["loss"]), rel=1e-9)


def test_train_rows_have_flops_per_second_and_their_share_of_the_matmul_peak(trained: Path) -> None:
    forward = 2 * (16 * 64 + (16 * 64 + 16 * 64) + 16 * 80)  # one-hot input, two layers of 16 units, 80 logits
    rows = [row for row in _rows(trained) if row["split"] == "train"]
    for row in rows:
        assert row["flops_per_second"] == pytest.approx(3 * forward * row["chars_per_second"], rel=1e-9)
        assert row["flops_per_second"] / row["mfu"] == pytest.approx(rows[0]["flops_per_second"] / rows[0]["mfu"])
        assert 0 < row["mfu"] < 1


def test_training_lowers_every_loss(trained: Path) -> None:
    rows = _rows(trained)
    for split in ("train", "valid"):
        losses = [row["loss"] for row in rows if row["split"] == split and row.get("scoring") != "final"]
        assert losses == sorted(losses, reverse=True)
        assert losses[0] < math.log(80) + 0.1


def test_every_evaluation_generates_a_sample(trained: Path) -> None:
    written = {file.name: file.read_text() for file in (trained / "samples").iterdir()}
    assert sorted(written) == ["00000020.txt", "00000040.txt", "best.txt"]
    for text in written.values():
        assert re.fullmatch(r"The ancient house.{40}\n", text, re.DOTALL)


def test_every_evaluation_measures_the_style_of_its_sample(trained: Path) -> None:
    splits = _json(trained / "corpus.json")["splits"]
    train, whole = _text(splits["train"]), _text(list(itertools.chain.from_iterable(splits.values())))
    letters, known = _letters(whole), set(_words(whole))
    for row in (row for row in _rows(trained) if row["split"] == "sample"):
        text = (trained / "samples" / f"{row['step']:08d}.txt").read_text()
        written = text.removeprefix("The ancient house").removesuffix("\n")
        own = _letters(written)
        spans = (written[a:b] for a, b in itertools.combinations(range(41), 2) if written[a:b] in train)
        assert row == {
            "step": row["step"],
            "split": "sample",
            "real": pytest.approx(100 * np.mean([word in known for word in _words(written)])),
            "letters_tv": pytest.approx(sum(abs(own[char] - letters[char]) for char in own | letters) / 2),
            "copied_longest": max(map(len, spans)),
        }


def test_tensorboard_has_the_curves(trained: Path) -> None:
    events = b"".join(file.read_bytes() for file in (trained / "tensorboard").glob("events.*"))
    for tag in (b"train/loss", b"train/learning_rate", b"valid/scheduled/bpc", b"sample/real", b"test/final/bpc"):
        assert tag in events


def test_starting_a_finished_run_prints_its_scores_and_changes_nothing(
    trained: Path, command: Callable, tmp_path: Path
) -> None:
    workdir = shutil.copytree(trained, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.name != "lock" and path.is_file()}
    done = command("train", "--config=configs/tiny.py", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "already finished at step 40" in done.stderr
    assert done.stdout == _results(_rows(trained))
    after = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.name != "lock" and path.is_file()}
    assert after == before


def test_results_go_to_standard_output_and_everything_else_to_standard_error(windows: tuple) -> None:
    workdir, done = windows
    assert done.stdout == _results(_rows(workdir))
    for part in ("step 10/40", "step 20: valid", str(workdir)):
        assert part in done.stderr


def test_a_summary_is_shown_before_the_first_step(windows: tuple) -> None:
    _, done = windows
    summary = done.stderr[: done.stderr.index("step 10/40")]
    train, valid, test = (len(_text(names)) for names in _json(windows[0] / "corpus.json")["splits"].values())
    layers = 4 * 16 * (80 + 16 + 1) + 4 * 16 * (16 + 16 + 1)
    parameters = layers + (16 + 1) * 80
    for part in (
        f"{parameters:,} parameters",
        f"{parameters / train:.3f} per training character",
        f"train {train:,}, valid {valid:,}, test {test:,} characters",
        "0 folded, 0 dropped",
        "2 LSTM layers of 16",
        f"40 of 8 x 8 tokens, {40 / (train // 64):.2f} epochs",
        "1 x cpu",
    ):
        assert part in summary


def test_baselines_are_logged(windows: tuple) -> None:
    workdir, done = windows
    splits = _json(workdir / "corpus.json")["splits"]
    train, valid = Counter(_text(splits["train"])), Counter(_text(splits["valid"]))
    total = train.total() + len(train) + 1
    unigram = -sum(n * math.log2((train[char] + 1) / total) for char, n in valid.items()) / valid.total()
    logged = dict(re.findall(r"\b(uniform|unigram|ppmd) (\d+\.\d+)", done.stderr))
    assert logged["uniform"] == f"{math.log2(80):.3f}"
    assert logged["unigram"] == f"{unigram:.3f}"
    assert 1 < float(logged["ppmd"]) < unigram


def test_the_window_regime_reports_both_scores(windows: tuple) -> None:
    workdir, _ = windows
    assert ["bpc_window" in row for row in _rows(workdir)] == ["perplexity" in row for row in _rows(workdir)]
    run = load_run(workdir)
    text = run.split("test")
    pad = -len(text.ids) % 8
    inputs = np.pad(np.concatenate([[run.tokenizer.start_id], text.ids[:-1]]), (0, pad)).reshape(-1, 8).astype(np.int32)
    _, logits = forward(run.model, run.variables, run.model.initial_carry(len(inputs)), inputs)
    log_probs = np.asarray(jax.nn.log_softmax(logits), np.float64).reshape(-1, run.tokenizer.size)[: len(text.ids)]
    bpc = -np.mean(log_probs[np.arange(len(text.ids)), text.ids]) / math.log(2)
    final = _rows(workdir)[-1]
    assert final["bpc_window"] == pytest.approx(bpc, rel=1e-5)
    assert abs(final["bpc"] / bpc - 1) > 1e-3
    right = np.where(np.eye(run.tokenizer.size)[text.ids] == 1, np.exp(log_probs), 1 - np.exp(log_probs))
    assert final["bce_window"] == pytest.approx(-np.mean(np.log(right)), rel=1e-5)


def test_a_run_that_minimises_binary_cross_entropy_has_it_in_every_row(windows: tuple) -> None:
    rows = [row for row in _rows(windows[0]) if row["split"] != "sample"]
    assert [("bce" in row, "bce_window" in row) for row in rows] == [(True, row["split"] != "train") for row in rows]
    train = [row["bce"] for row in rows if row["split"] == "train"]
    assert len(train) == 4
    assert train == sorted(train, reverse=True)
    assert train[0] < (math.log(80) - 79 * math.log(79 / 80)) / 80  # less than where all 80 are equally likely


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_state(
    command: Callable, tmp_path: Path
) -> None:
    flags = ("--config.optimizer.lr=1e36", "--config.train.checkpoint_every=1")
    done = command("train", "--config=configs/tiny.py", f"--workdir={tmp_path}", *flags)
    row = _rows(tmp_path)[-1]
    steps = sorted(int(folder.name) for folder in (tmp_path / "checkpoints").iterdir())
    last_line = done.stderr.splitlines()[-1]
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert row["loss"] is None
    assert row["step"] == steps[-1] + 1
    for part in (
        f"step {row['step']}:",
        f"learning rate {row['learning_rate']:.3g}",
        f"step {steps[-1]} in {tmp_path}",
    ):
        assert part in last_line
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


def _letters(text: str) -> dict[str, float]:
    """The share of each letter."""
    counts = Counter(char for char in text.lower() if char.isalpha())
    return Counter({char: count / counts.total() for char, count in counts.items()})


def _json(path: Path) -> dict:
    return json.loads(path.read_text())


def _rows(workdir: Path) -> list[dict]:
    """The rows, as strict JSON, which has no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]
