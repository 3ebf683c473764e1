"""What docs/article.md quotes besides the ladder: at which pass a run reaches a figure, and the article's counts."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.article_2019 import counts, passes, results
from lovecraft_jax.data import corpus
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.tokenizer import build_tokenizer
from lovecraft_jax.runtime.errors import WRONG_INPUT
from lovecraft_jax.stylometry.features import FEATURES
from lovecraft_jax.stylometry.text import words

STEPS = 10
"""Of a pass."""
ROWS = [
    {"step": n, "split": "train", "bce": bce, "chars_per_second": 5.0}
    for n, bce in enumerate(np.repeat([0.4, 0.3, 0.2, 0.1], STEPS), 1)
]
"""Of four."""


def test_the_bce_of_a_pass_is_the_mean_of_its_rows_and_a_pass_under_way_has_none() -> None:
    rows = [{"step": step, "bce": float(step)} for step in range(2, 36, 2)]
    assert passes.by_pass(rows, STEPS) == [6.0, 16.0, 26.0]
    assert passes.by_pass(rows[:-3], STEPS) == [6.0, 16.0]


def test_a_smaller_vocabulary_makes_the_same_figure_harder_to_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_run(tmp_path, ROWS)
    out = _printed(monkeypatch, capsys, passes, f"--workdir={tmp_path}", "--bce=0.2", "--classes", "4", "5", "10", "16")
    assert out.startswith("4 passes of 10 steps and 20.0 s; the last has 0.1000 over 10 classes")
    table = [line.strip("| ").split(" | ") for line in out.splitlines()[4:]]
    assert table == [
        ["4", "0.0800", "not in 4"],
        ["5", "0.1000", "4", "1"],
        ["10", "0.2000", "3", "1"],
        ["16", "0.3200", "2", "1"],
    ]


def test_the_authors_counts_are_those_of_all_tales_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    zeros = {figure.key: 0 for figure in FEATURES} | {
        "valid_bpc": 2.0,
        "corpus": corpus.load("bundled").sha256[: results.SHORT],
    }
    results.keep(
        tmp_path,
        [
            zeros | {"setting": setting, "seed": seed, "text": text, "the": the, "word_length": length}
            for setting, seed, text, the, length in (
                ("article", 0, "teacher_forced", 700, 4),
                ("article", 0, "written", 500, 3),
                ("article", 1, "written", 700, 5),
                ("embedding", 0, "written", 650, 6),
            )
        ],
    )
    out = _printed(monkeypatch, capsys, counts, "--corpus=bundled", f"--rows={tmp_path}")
    table = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in out.splitlines()}
    written = [word for tale in corpus.load("bundled").tales for word in words(tale.text)]
    the, length = 1e4 * np.mean([word.lower() == "the" for word in written]), np.mean([len(word) for word in written])
    assert table["\u201cthe\u201d"][2:] == ["740", f"{the:.1f}", "700.0", "600.0", "650.0"]
    assert table["Mean word length"][3:] == [f"{length:.2f}", "4.00", "4.00", "6.00"]


def _printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, module: object, *given: str) -> str:
    monkeypatch.setattr(sys, "argv", ["it", *given])
    module.main()  # type: ignore[attr-defined]
    return str(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (ROWS[:9], "{0}: its rows of training have no `bce` of a whole pass, which is 10 steps"),
        (
            [*ROWS[:10], *ROWS[20:]],
            "no row is of pass 2, and a pass is 10 steps: train with a train.log_every of fewer",
        ),
        ([row | {"bce": "0.1"} for row in ROWS], "{0}: damaged ("),
        ([{**row, "chars_per_second": 0.0} for row in ROWS], "{0}: damaged (ZeroDivisionError: "),
        ([{key: row[key] for key in ("split", "bce")} for row in ROWS], "{0}: damaged (KeyError: 'step')"),
    ],
)
def test_a_run_that_cannot_tell_its_passes_is_one_line(
    rows: list[dict], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_run(tmp_path, rows)
    monkeypatch.setattr(sys, "argv", ["it", f"--workdir={tmp_path}", "--bce=0.2"])
    assert passes.main() == WRONG_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert told.format(tmp_path) in line


def write_run(folder: Path, rows: list[dict]) -> None:
    """What of a run tells its passes, in a vocabulary of ten."""
    tokenizer = build_tokenizer("chars", "abcdefghi", make_cleaning("ascii"))  # and the unknown
    (folder / "vocab.json").write_text(tokenizer.dumps())
    (folder / "config.json").write_text(json.dumps({"data": {"seq_len": 5, "batch_size": 2}}))
    (folder / "corpus.json").write_text(json.dumps({"characters": {"train": 109}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("module", "given", "told"),
    [
        (passes, ["--workdir={0}/nowhere", "--bce=0.2"], "{0}/nowhere: "),
        (passes, ["--workdir=", "--bce=0.2"], "--workdir: it is empty"),
        (passes, ["--workdir={0}", "--bce=nan"], "--bce: nan: expected float from"),
        (passes, ["--workdir={0}", "--bce=0.2", "--classes", "0"], "--classes: 0: expected int from 2 to"),
        (passes, ["--workdir={0}", "--bce=0.2", "--speed=0"], "--speed: 0: expected"),
        (passes, ["--workdir={1}", "--bce=0.2"], "no `bce` of a whole pass, which is "),
        (counts, ["--rows={0}", "--corpus=bundled"], "{0}: no rows.csv there"),
        (counts, ["--rows={0}", "--corpus={0}/nowhere"], "{0}/nowhere: no such file"),
        (counts, ["--corpus=bundled"], "give its --corpus"),
    ],
)
def test_wrong_input_is_one_line(
    module: object,
    given: list[str],
    told: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "argv", ["it", *(flag.format(tmp_path, trained) for flag in given)])
    try:
        code = module.main()  # type: ignore[attr-defined]
    except SystemExit as ended:  # of argparse, after a line on usage
        code = int(str(ended.code))
    out, err = capsys.readouterr()
    assert (code, out) == (WRONG_INPUT, "")
    assert told.format(tmp_path) in err.splitlines()[-1]
