"""The splits of a corpus, and their tokens."""

import hashlib
import random
import string
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from lovecraft_jax.config import Config
from lovecraft_jax.data import corpus, dataset
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.corpus import Corpus
from lovecraft_jax.data.dataset import Data
from lovecraft_jax.data.splits import BETWEEN_TALES, PARTS, split
from lovecraft_jax.data.tokenizer import Tokenizer
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.training.run_files import run_record

ASCII, UNICODE = make_cleaning("ascii"), make_cleaning("unicode")


def prose(seed: int, length: int) -> str:
    """A text of random words in lines, another one for every seed."""
    rng = random.Random(seed)
    words = ("".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 9))) for _ in range(length))
    return textwrap.fill(" ".join(words), 60)[: length - 1] + "."


TEXT = prose(99, 4000)
OTHERS = {f"tale{i:02d}": prose(i, 4000) for i in range(24)}
NEARLY = {
    "the same": lambda text: text,
    "a header and a footer": lambda text: f"PROJECT GUTENBERG\n{'=' * 70}\n{text}\nEnd of the tale.",
    "a byte order mark and CRLF": lambda text: "\ufeff" + text.replace("\n", "\r\n"),
    "other quotes and capitals": lambda text: f"\u201c{text.upper()}\u201d",
    "wrapped anew": lambda text: textwrap.fill(text, 45),
    "a half": lambda text: text[len(text) // 2 :],
}


@pytest.fixture
def folder(tmp_path: Path, config: ConfigDict) -> Path:
    """The corpus of `config`: thirty small tales, each with its name in it, not in ASCII."""
    _write(tmp_path, {f"tale{i:02d}": "The sea was \u0441\u0435\u0440. " * 2 + prose(i, 300) for i in range(30)})
    config.data.update({"corpus": str(tmp_path / "tales"), "alphabet": "unicode"})
    return tmp_path / "tales"


def prepare(config: ConfigDict, recorded: dict[str, Any] | None = None, tokenizer: Tokenizer | None = None) -> Data:
    return dataset.prepare(Config.of(config), recorded, tokenizer)


@pytest.mark.parametrize(("files", "held_out"), [(20, 1), (29, 1), (30, 2)])
def test_many_files_are_split_whole_by_their_hashes(tmp_path: Path, files: int, held_out: int) -> None:
    found = _write(tmp_path, {f"tale{i:02d}": _text(f"tale{i:02d}") for i in range(files)})
    splits = split(found, ASCII)
    by_hash = sorted((hashlib.sha256(_text(tale.name).encode()).hexdigest(), tale.name) for tale in found.tales)
    names = [name for _, name in by_hash]
    assert splits.tales["valid"] == sorted(names[:held_out])
    assert splits.tales["test"] == sorted(names[held_out : 2 * held_out])
    assert splits.tales["train"] == sorted(names[2 * held_out :])
    for part, inside in splits.tales.items():  # the ends of a tale are stripped
        assert splits.by_tale[part] == {name: f"This is {name}.\n\nIt ends." for name in inside}
        assert splits.text[part] == splits.join(part) == BETWEEN_TALES.join(splits.by_tale[part].values())
    assert splits.counts.read == sum(len(tale.text) for tale in found.tales)


@pytest.mark.parametrize("files", [1, 19])
def test_few_files_are_split_by_position(tmp_path: Path, files: int) -> None:
    found = _write(tmp_path, {f"tale{i:02d}": _text(f"tale{i:02d}") for i in range(files)})
    splits = split(found, ASCII)
    whole = BETWEEN_TALES.join(tale.text.strip() for tale in found.tales)
    assert "".join(splits.text[part] for part in ("train", "valid", "test")) == whole
    for part, share in (("train", 0.9), ("valid", 0.05), ("test", 0.05)):
        assert abs(len(splits.text[part]) - share * len(whole)) <= 1
    assert splits.tales == {"train": [tale.name for tale in found.tales], "valid": [], "test": []}
    assert splits.by_tale == {part: {part: text} for part, text in splits.text.items()}


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_a_share_keeps_the_first_training_files_by_hash_and_every_held_out_file(tmp_path: Path, share: float) -> None:
    lengths = {f"tale{i:02d}": 10 * (i + 3) for i in range(30)}
    found = _write(tmp_path, {name: prose(i, length) for i, (name, length) in enumerate(lengths.items())})
    whole, some = split(found, ASCII), split(found, ASCII, share)
    for part in ("valid", "test"):
        assert some.by_tale[part] == whole.by_tale[part]
    kept, by_hash = some.tales["train"], [tale.name for tale in sorted(found.tales, key=lambda tale: tale.sha256)]
    by_hash = [name for name in by_hash if name in whole.tales["train"]]
    assert kept == sorted(by_hash[: len(kept)])
    wanted = share * sum(lengths[name] for name in by_hash)
    off = [abs(sum(lengths[name] for name in by_hash[:count]) - wanted) for count in range(1, len(by_hash) + 1)]
    assert off[len(kept) - 1] == min(off)
    assert some.text["train"] == BETWEEN_TALES.join(some.by_tale["train"].values())


def test_a_share_of_one_text_is_its_beginning(tmp_path: Path) -> None:
    one = _write(tmp_path, {"a": string.ascii_letters * 20})
    whole, some = split(one, ASCII), split(one, ASCII, 0.25)
    assert some.text == whole.text | {"train": whole.text["train"][:234]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "nothing is left for the train split"),
        ("a" * 10, "nothing is left for the valid split"),
        ("a" * 18 + "  a", "nothing is left for the valid split"),
        (" \n\t\n", "no text in it"),
        ("\ufeff", "no text in it"),
    ],
)
def test_a_text_too_short_to_split_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split(_write(tmp_path, {"a": text}), ASCII)


@pytest.mark.parametrize("others", [24, 5])  # split by file and by position
@pytest.mark.parametrize("change", NEARLY.values(), ids=list(NEARLY))
def test_a_copy_is_in_no_split(tmp_path: Path, change: Callable[[str], str], others: int) -> None:
    tales = dict(list(OTHERS.items())[:others])
    found = _write(tmp_path, {**tales, "a": TEXT, "z": change(TEXT)})
    splits = split(found, UNICODE)
    (left_out,) = splits.facts["left_out"]["copies"]
    assert left_out in "az"
    assert sorted(name for names in splits.tales.values() for name in names) == sorted({*tales, "a", "z"} - {left_out})
    assert splits.facts["repeated"] == {"valid": 0.0, "test": 0.0}


@pytest.mark.parametrize("small", ["", "\n", " \t\r\n", "\ufeff", "buy milk {}", "note {}\n\n"])
def test_blank_and_tiny_files_are_never_held_out(tmp_path: Path, small: str) -> None:
    notes = {f"note{i}": small.format(i) for i in range(12)}
    splits, tales = split(_write(tmp_path, OTHERS | notes), ASCII), {**OTHERS}
    assert [len(splits.tales[part]) for part in ("valid", "test")] == [1, 1]
    assert {*splits.tales["valid"], *splits.tales["test"]} <= tales.keys()
    left_out = splits.facts["left_out"]
    assert sorted(left_out["blank"] + left_out["short"]) == sorted(notes)


def test_short_poems_alone_are_held_out(tmp_path: Path) -> None:
    splits = split(_write(tmp_path, {f"poem{i:02d}": prose(i, 60) for i in range(40)}), ASCII)
    assert [len(splits.tales[part]) for part in PARTS] == [36, 2, 2]


@pytest.mark.parametrize("change", NEARLY.values(), ids=list(NEARLY))
def test_a_text_that_repeats_itself_is_counted_and_warned_of(
    tmp_path: Path, config: ConfigDict, capsys: pytest.CaptureFixture, change: Callable[[str], str]
) -> None:
    config.data.corpus = str(_write(tmp_path, {"twice": TEXT + change(TEXT)}).tales[0].path)
    assert min(prepare(config).splits.facts["repeated"].values()) > 0.8
    warning = capsys.readouterr().err
    assert warning.startswith(f"WARNING: data.corpus={config.data.corpus}: ")
    assert "of test again in train" in warning


@pytest.mark.parametrize("sentence", ["\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002", "The sea. ", "ab\n"])
def test_one_sentence_again_and_again_is_counted_as_such(tmp_path: Path, config: ConfigDict, sentence: str) -> None:
    config.data.update({"corpus": str(_write(tmp_path, {"one": sentence * 1500}).tales[0].path), "alphabet": "unicode"})
    assert prepare(config).splits.facts["repeated"] == {"valid": 1.0, "test": 1.0}


def test_a_part_too_short_to_be_compared_is_not_called_new(tmp_path: Path, config: ConfigDict) -> None:
    config.data.corpus = str(_write(tmp_path, {"short": prose(1, 400)}).tales[0].path)
    assert prepare(config).splits.facts["repeated"] == {}


def test_by_rule_1_every_file_is_in_a_split_as_runs_before_recorded(tmp_path: Path) -> None:
    tales = _write(tmp_path, OTHERS | {"a": TEXT, "z": TEXT, "todo": ""})
    splits = split(tales, ASCII, rule=1)
    by_hash = [tale.name for tale in sorted(tales.tales, key=lambda tale: tale.sha256)]
    assert splits.tales["valid"] + splits.tales["test"] == by_hash[:2]
    assert (splits.facts, len(splits.tales["train"])) == ({}, 25)


def test_every_split_is_encoded_whole_with_the_vocabulary_of_the_training_text_alone(
    config: ConfigDict, tmp_path: Path
) -> None:
    text = "ab\n" * 300 + "c" * 100  # the last tenth is held out
    config.data.corpus = str(tmp_path / "a.txt")
    Path(config.data.corpus).write_text(text)
    found = prepare(config)
    assert (found.name, found.sha256) == (config.data.corpus, corpus.load(config.data.corpus).sha256)
    assert found.tokenizer.size == 4
    assert found.tokenizer.decode(found.encoded["train"].ids) == found.splits.text["train"] == text[:900]
    np.testing.assert_array_equal(found.encoded["test"].ids, np.zeros(50))
    for part, unknown in zip(PARTS, (0, 50, 50), strict=True):
        assert found.encoded[part].n_chars == len(found.splits.text[part])
        assert found.encoded[part].extra_nats == pytest.approx(unknown * np.log(96), rel=1e-12)


def test_a_resumed_run_finds_its_text_and_keeps_its_vocabulary_and_cleaning(config: ConfigDict, folder: Path) -> None:
    began = prepare(config)
    config.data.alphabet = "ascii"  # not what the run began with
    with pytest.raises(UserError, match="alphabet=unicode"):
        prepare(config)
    config.data.corpus = "auto"
    _assert_same(prepare(config, _recorded(began), began.tokenizer), began)
    (folder / ".draft.txt").write_text("Hidden.")  # by rule 1 a part of the text
    _assert_same(prepare(config, _recorded(began), began.tokenizer), began)
    config.data.corpus = str(folder.rename(folder.with_name("moved")))
    _assert_same(prepare(config, _recorded(began), began.tokenizer), began)


def test_a_text_named_by_a_relative_path_is_found_from_anywhere(
    config: ConfigDict, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tales", "tales/*.txt", "tales/tale03.txt"):
        monkeypatch.chdir(folder.parent)
        config.data.corpus = name
        began = prepare(config)
        monkeypatch.chdir(folder)
        found = prepare(config, _recorded(began), began.tokenizer)
        assert (found.name, found.path) == (name, str(folder.parent / name))
        _assert_same(found, began)


def test_a_run_keeps_the_rule_of_its_split_and_one_from_before_there_were_rules_keeps_that(
    tmp_path: Path, config: ConfigDict
) -> None:
    _write(tmp_path, {**OTHERS, "a": TEXT, "z": TEXT})
    config.data.corpus = str(tmp_path / "tales")
    began = prepare(config)
    recorded = run_record(Config.of(config), began)["corpus"]
    assert prepare(config, recorded).splits.tales == began.splits.tales
    before = {key: value for key, value in recorded.items() if key != "split_rule"}
    names = [name for names in prepare(config, before).splits.tales.values() for name in names]
    assert sorted(names) == sorted([*OTHERS, "a", "z"])


def test_dropout_gives_training_other_tokens_and_nothing_else(config: ConfigDict) -> None:
    config.data.level, config.data.vocab_size = "bpe", 300
    plain, config.data.bpe_dropout = prepare(config), 0.3
    dropped = prepare(config)
    assert dropped.tokenizer == plain.tokenizer
    for part in PARTS:
        np.testing.assert_array_equal(dropped.encoded[part].ids, plain.encoded[part].ids, strict=True)
    batches = dataset.make_batches(Config.of(config), dropped)
    assert batches.steps_per_epoch == dataset.make_batches(Config.of(config), plain).steps_per_epoch
    rows = [row.tobytes() for row in batches.at(batches.steps_per_epoch, 1).x_BT[0]]
    in_epoch, in_plain = (np.tile(ids, 2).tobytes() for ids in (dropped.bpe_dropout(1), plain.encoded["train"].ids))
    assert all(row in in_epoch for row in rows)
    assert not all(row in in_plain for row in rows)
    recorded = run_record(Config.of(config), dropped)["corpus"]
    assert recorded["tokens_with_dropout"] > 1.1 * recorded["tokens"]["train"]
    resumed = prepare(config, recorded | {"tokens_with_dropout": 123}, plain.tokenizer)
    assert resumed.bpe_dropout.tokens_in_first_epoch == 123


def test_a_resumed_run_refuses_another_text(config: ConfigDict, folder: Path) -> None:
    began = prepare(config)
    (folder / "tale07.txt").write_text("Another text.")
    for name in ("auto", str(folder), "bundled"):
        config.data.corpus = name
        with pytest.raises(UserError, match=f"data.corpus={name}: another text than this run's"):
            prepare(config, _recorded(began), began.tokenizer)


def _recorded(began: Data) -> dict[str, Any]:
    """What corpus.json holds."""
    return {"name": began.name, "sha256": began.sha256, "path": began.path, **began.splits.facts}


def _assert_same(found: Data, began: Data) -> None:
    assert found.tokenizer is began.tokenizer
    assert found.sha256 == began.sha256
    assert found.splits == began.splits
    assert found.splits.by_tale == began.splits.by_tale
    for part, encoded in began.encoded.items():
        np.testing.assert_array_equal(found.encoded[part].ids, encoded.ids, strict=True)


def _text(name: str) -> str:
    return f"\n This is {name}.\n\nIt ends. \n\n"


def _write(folder: Path, texts: dict[str, str]) -> Corpus:
    (folder / "tales").mkdir()
    for name, text in texts.items():
        (folder / "tales" / f"{name}.txt").write_text(text, encoding="utf-8")
    return corpus.load(str(folder / "tales"))


def test_a_part_without_a_token_to_score_is_refused(config: ConfigDict, tmp_path: Path) -> None:
    # Each word of the held-out ends is the only one of its kind.
    text = "the sea " * 3000 + "".join(f"{a}{b}z" for a in string.ascii_lowercase for b in string.ascii_lowercase)
    (tmp_path / "text.txt").write_text(text)
    config.data.update({"corpus": str(tmp_path / "text.txt"), "level": "words", "rare": "drop", "share": 1.0})
    data = prepare(config)
    assert {part: len(data.encoded[part].ids) > 0 for part in PARTS} == {"train": True, "valid": True, "test": False}
    with pytest.raises(UserError, match=r"text\.txt: test has only rare words, which data\.rare=drop leaves out"):
        dataset.check_scored_parts(Config.of(config), data)
