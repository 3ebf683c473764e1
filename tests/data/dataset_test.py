import hashlib
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from lovecraft_jax.data import corpus, dataset
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.corpus import BETWEEN_TALES, Corpus, Tale
from lovecraft_jax.data.dataset import Data
from lovecraft_jax.runtime.errors import UserError

ASCII = make_cleaning("ascii")
PROSE = "The sea was grey. " * 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty small tales, each with its name in it."""
    path = tmp_path / "tales"
    path.mkdir()
    for i in range(20):
        (path / f"other{i:02d}.txt").write_text(f"{PROSE} other{i:02d}")
    for name in (*corpus.LOVECRAFT_VALID, *corpus.LOVECRAFT_TEST):
        (path / f"{name}.txt").write_text(f"{PROSE} {name}")
    return path


@pytest.mark.parametrize(("files", "held_out"), [(20, 1), (29, 1), (30, 2), (50, 3)])
def test_many_files_are_split_whole_by_their_hashes(files: int, held_out: int) -> None:
    tales = _tales(f"tale{i:02d}" for i in range(files))
    splits = corpus.split(Corpus("mine", tales), ASCII)
    by_hash = [tale.name for tale in sorted(tales, key=lambda tale: hashlib.sha256(tale.text.encode()).hexdigest())]
    assert splits.tales["valid"] == sorted(by_hash[:held_out])
    assert splits.tales["test"] == sorted(by_hash[held_out : 2 * held_out])
    assert splits.tales["train"] == sorted(by_hash[2 * held_out :])
    for part, names in splits.tales.items():  # the ends of a tale are stripped
        assert splits.by_tale[part] == {name: f"This is {name}.\n\nIt ends." for name in names}
        assert splits.text[part] == BETWEEN_TALES.join(splits.by_tale[part].values())
    assert splits.counts.read == sum(len(tale.text) for tale in tales)


@pytest.mark.parametrize("name", ["lovecraft", "some/folder"])
def test_the_lovecraft_corpus_holds_out_its_ten_tales_wherever_it_lies(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = corpus.LOVECRAFT_MANIFEST.read_text().splitlines()
    tales = _tales(sorted(line.split(".txt ")[0] for line in manifest if not line.startswith("#")))
    (tmp_path / "manifest").write_text("".join(f"{tale.name}.txt sha256:{tale.sha256}\n" for tale in tales))
    monkeypatch.setattr(corpus, "LOVECRAFT_MANIFEST", tmp_path / "manifest")
    splits = corpus.split(Corpus(name, tales), ASCII)
    assert splits.tales["valid"] == ["cool_air", "dagon", "festival", "haunter", "temple"]
    assert splits.tales["test"] == ["colour_out_of_space", "hound", "outsider", "pickman", "unnamable"]
    assert len(splits.tales["train"]) == 57
    assert sorted(name for names in splits.tales.values() for name in names) == [tale.name for tale in tales]


@pytest.mark.parametrize("files", [1, 19])
def test_few_files_are_split_by_position(files: int) -> None:
    tales = _tales(f"tale{i:02d}" for i in range(files))
    splits = corpus.split(Corpus("mine", tales), ASCII)
    whole = BETWEEN_TALES.join(tale.text.strip() for tale in tales)
    assert "".join(splits.text[part] for part in ("train", "valid", "test")) == whole
    for part, share in (("train", 0.9), ("valid", 0.05), ("test", 0.05)):
        assert abs(len(splits.text[part]) - share * len(whole)) <= 1
    assert splits.tales == {"train": [tale.name for tale in tales], "valid": [], "test": []}
    assert splits.by_tale == {part: {part: text} for part, text in splits.text.items()}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_a_share_of_the_training_tales_is_the_first_by_their_hashes_and_leaves_the_held_out_alone(share: float) -> None:
    lengths = {f"tale{i:02d}": 10 * (i + 1) for i in range(30)}
    tales = tuple(Tale(name, "x" * n, hashlib.sha256(name.encode()).hexdigest()) for name, n in lengths.items())
    whole, some = corpus.split(Corpus("mine", tales), ASCII), corpus.split(Corpus("mine", tales), ASCII, share)
    for part in ("valid", "test"):
        assert some.by_tale[part] == whole.by_tale[part]
    kept, by_hash = some.tales["train"], [tale.name for tale in sorted(tales, key=lambda tale: tale.sha256)]
    by_hash = [name for name in by_hash if name in whole.tales["train"]]
    assert kept == sorted(by_hash[: len(kept)])
    wanted = share * sum(lengths[name] for name in by_hash)
    off = [abs(sum(lengths[name] for name in by_hash[:count]) - wanted) for count in range(1, len(by_hash) + 1)]
    assert off[len(kept) - 1] == min(off)
    assert some.text["train"] == BETWEEN_TALES.join(some.by_tale["train"].values())


def test_a_share_of_one_text_is_its_beginning() -> None:
    one = Corpus("mine", (Tale("a", string.ascii_letters * 20, ""),))
    whole, some = corpus.split(one, ASCII), corpus.split(one, ASCII, 0.25)
    assert some.text == whole.text | {"train": whole.text["train"][:234]}


@pytest.mark.parametrize(("text", "part"), [("a", "train"), ("a" * 10, "valid"), ("a" * 18 + "  a", "valid")])
def test_a_text_too_short_to_split_is_an_error(text: str, part: str) -> None:
    with pytest.raises(UserError, match=f"nothing is left for the {part} split"):
        corpus.split(Corpus("mine", (Tale("a", text, ""),)), ASCII)


@pytest.mark.parametrize("text", ["", " \n\t\n", "\ufeff"])
def test_a_corpus_without_text_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="no text in it"):
        corpus.split(corpus.load(str(tmp_path / "a.txt")), ASCII)


def test_every_split_is_encoded_whole(config: ConfigDict) -> None:
    found = dataset.prepare(config)
    assert found.name == "bundled"
    assert found.sha256 == corpus.load("bundled").sha256
    assert found.encoded.keys() == found.splits.text.keys() == {"train", "valid", "test"}
    for part, encoded in found.encoded.items():
        text = found.splits.text[part]
        assert encoded.n_chars == len(text)
        if encoded.extra_nats == 0:
            assert found.tokenizer.decode(encoded.ids) == text
    assert found.encoded["train"].extra_nats == 0


def test_the_vocabulary_is_of_the_training_text_alone(config: ConfigDict, tmp_path: Path) -> None:
    text = "ab\n" * 300 + "c" * 100  # the last tenth is held out
    (tmp_path / "a.txt").write_text(text)
    config.data.corpus = str(tmp_path / "a.txt")
    found = dataset.prepare(config)
    assert found.tokenizer.size == 4
    np.testing.assert_array_equal(found.encoded["test"].ids, np.zeros(50))
    assert found.encoded["test"].extra_nats == pytest.approx(50 * np.log(96), rel=1e-12)


def test_the_alphabet_is_the_configs(config: ConfigDict, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\u041c\u043e\u0439 " * 100, encoding="utf-8")
    config.data.corpus = str(tmp_path)
    with pytest.raises(UserError, match="alphabet=unicode"):
        dataset.prepare(config)
    config.data.alphabet = "unicode"
    assert dataset.prepare(config).splits.text["train"].startswith("\u041c\u043e\u0439 ")


def test_a_run_that_goes_on_finds_its_text_by_its_record(config: ConfigDict, folder: Path) -> None:
    config.data.corpus = str(folder)
    began = dataset.prepare(config)
    config.data.corpus = "auto"
    _same(dataset.prepare(config, _recorded(began), began.tokenizer), began)
    config.data.corpus = str(folder.rename(folder.with_name("moved")))
    _same(dataset.prepare(config, _recorded(began), began.tokenizer), began)


def test_a_run_that_goes_on_refuses_another_text(config: ConfigDict, folder: Path) -> None:
    config.data.corpus = str(folder)
    began = dataset.prepare(config)
    (folder / "other07.txt").write_text(PROSE)
    for name in ("auto", str(folder), "bundled"):
        config.data.corpus = name
        with pytest.raises(UserError, match=f"data.corpus={name}: another text than this run's"):
            dataset.prepare(config, _recorded(began), began.tokenizer)


def test_a_run_that_goes_on_keeps_its_vocabulary_and_cleaning(config: ConfigDict, folder: Path) -> None:
    config.data.corpus = str(folder)
    config.data.alphabet = "unicode"
    began = dataset.prepare(config)
    config.data.alphabet = "ascii"  # the run's own decides
    assert dataset.prepare(config, _recorded(began), began.tokenizer).tokenizer is began.tokenizer


def test_the_same_text_found_another_way_keeps_its_splits(
    config: ConfigDict, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Lovecraft corpus as a folder has the same hash: none of its held-out tales may turn into training text."""
    hashes = [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in sorted(folder.iterdir())]
    (tmp_path / "manifest").write_text("".join(f"{name} sha256:{digest}\n" for name, digest in hashes))
    monkeypatch.setattr(corpus, "LOVECRAFT_MANIFEST", tmp_path / "manifest")
    monkeypatch.setenv("LOVECRAFT_CORPUS", str(folder))
    config.data.corpus = "lovecraft"
    began = dataset.prepare(config)
    assert began.splits.tales["valid"] == sorted(corpus.LOVECRAFT_VALID)
    config.data.corpus = str(folder)
    _same(dataset.prepare(config, _recorded(began), began.tokenizer), began)


def _recorded(began: Data) -> dict[str, Any]:
    """As corpus.json has it."""
    return {"name": began.name, "sha256": began.sha256, "splits": began.splits.tales}


def _same(found: Data, began: Data) -> None:
    assert found.sha256 == began.sha256
    assert found.splits.tales == began.splits.tales
    assert found.splits == began.splits
    for part, encoded in began.encoded.items():
        np.testing.assert_array_equal(found.encoded[part].ids, encoded.ids, strict=True)


def _tales(names: Iterable[str]) -> tuple[Tale, ...]:
    texts = ((name, f"\n This is {name}.\n\nIt ends. \n\n") for name in names)
    return tuple(Tale(name, text, hashlib.sha256(text.encode()).hexdigest()) for name, text in texts)
