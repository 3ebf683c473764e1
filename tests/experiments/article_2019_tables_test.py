"""The other tables of docs/article.md: the epoch at which a run reaches a loss, and the article's word counts."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from experiments.article_2019 import counts, epochs
from experiments.article_2019.settings import get_study
from experiments.study import results
from lovecraft_jax.data import corpus
from lovecraft_jax.data.char_tokenizer import CharTokenizer
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.runtime.errors import WRONG_INPUT
from lovecraft_jax.stylometry.features import FEATURES
from lovecraft_jax.stylometry.text import words
from tests.experiments.conftest import Main

pytestmark = pytest.mark.slow

STEPS = 10
"""Steps of an epoch."""
ROWS = [
    {"step": n, "split": "train", "bce": bce, "chars_per_second": 5.0}
    for n, bce in enumerate(np.repeat([0.4, 0.3, 0.2, 0.1], STEPS), 1)
]
"""The train rows of four epochs."""
UNFINISHED = [{**ROWS[0], "step": 4 * STEPS + 1}]


def test_the_same_loss_over_a_smaller_vocabulary_is_reached_later(tmp_path: Path, run_main: Main) -> None:
    save_run(tmp_path, ROWS + UNFINISHED)
    _, out, _ = run_main(epochs, f"--workdir={tmp_path}", "--bce=0.2", "--classes", "4", "5", "10", "16")
    assert out.startswith("4 epochs of 10 steps and 20.0 s; the last has 0.1000 over 10 classes")
    table = [line.strip("| ").split(" | ") for line in out.splitlines()[4:]]
    assert table == [
        ["4", "0.0800", "not in 4"],
        ["5", "0.1000", "4", "1"],
        ["10", "0.2000", "3", "1"],
        ["16", "0.3200", "2", "1"],
    ]


def test_counts_are_of_all_tales_together_and_means_over_the_seeds(tmp_path: Path, run_main: Main) -> None:
    tales = corpus.load("bundled")
    zeros = {feature.key: 0 for feature in FEATURES} | {"valid_bpc": 2.0, "corpus": tales.sha256[: results.SHORT]}
    rows = [
        zeros | {"setting": setting, "seed": seed, "text": text, "the": the, "word_length": length}
        for setting, seed, text, the, length in (
            ("article", 0, "teacher_forced", 700, 4),
            ("article", 0, "written", 500, 3),
            ("article", 1, "written", 700, 5),
            ("embedding", 0, "written", 650, 6),
        )
    ]
    results.merge(get_study(), tmp_path, rows)
    _, out, _ = run_main(counts, "--corpus=bundled", f"--rows={tmp_path}")
    table = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in out.splitlines()}
    all_words = [word for tale in tales.tales for word in words(tale.text)]
    the = 1e4 * np.mean([word.lower() == "the" for word in all_words])
    assert table["\u201cthe\u201d"][2:] == ["740", f"{the:.1f}", "700.0", "600.0", "650.0"]
    length = np.mean([len(word) for word in all_words])
    assert table["Mean word length"][3:] == [f"{length:.2f}", "4.00", "4.00", "6.00"]


@pytest.mark.parametrize(
    ("module", "flags", "rows", "message"),
    [
        (epochs, "--workdir={0} --bce=0.2", ROWS[:9], "{0}: its train rows have no `bce` of a whole epoch (10 steps)"),
        (epochs, "--workdir={0} --bce=0.2", [*ROWS[:10], *ROWS[20:]], "epoch 2 has no row, and an epoch is 10 steps"),
        (epochs, "--workdir={0} --bce=0.2", [row | {"bce": "0.1"} for row in ROWS], "{0}: damaged ("),
        (epochs, "--workdir={0} --bce=0.2", [{"split": "train", "bce": 0.1}], "{0}: damaged (KeyError: 'step')"),
        (epochs, "--workdir={0}/nowhere --bce=0.2", ROWS, "{0}/nowhere: "),
        (epochs, "--workdir={0} --bce=nan", ROWS, "--bce: nan: expected float from"),
        (epochs, "--workdir={0} --bce=0.2 --classes 0", ROWS, "--classes: 0: expected int from 2 to"),
        (counts, "--rows={0} --corpus=bundled", ROWS, "{0}: no rows.csv there"),
        (counts, "--corpus=bundled", ROWS, "give its --corpus"),
    ],
)
def test_wrong_input_is_an_error_of_one_line(
    module: ModuleType, flags: str, rows: list[dict], message: str, tmp_path: Path, run_main: Main
) -> None:
    save_run(tmp_path, rows)
    code, out, err = run_main(module, *flags.format(tmp_path).split())
    assert (code, out) == (WRONG_INPUT, "")
    assert message.format(tmp_path) in err.splitlines()[-1]


def save_run(folder: Path, rows: list[dict]) -> None:
    """Saves the files of a run that `epochs` reads, with a vocabulary of ten."""
    tokenizer = CharTokenizer.of("abcdefghi", make_cleaning("ascii"))  # and the unknown token
    (folder / "vocab.json").write_text(tokenizer.dumps())
    (folder / "config.json").write_text(json.dumps({"data": {"seq_len": 5, "batch_size": 2}}))
    (folder / "corpus.json").write_text(json.dumps({"characters": {"train": 109}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
