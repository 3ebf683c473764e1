"""The cache of token ids, through `dataset.prepare` and with every corpus large enough to be cached."""

import os
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from lovecraft_jax.config import Config
from lovecraft_jax.data import dataset, token_cache
from lovecraft_jax.data.char_tokenizer import CharTokenizer
from lovecraft_jax.data.dataset import Data
from lovecraft_jax.data.splits import PARTS
from lovecraft_jax.data.tokenizer import Tokenizer
from lovecraft_jax.runtime.errors import UserError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder, still missing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(dataset, "CACHE_FROM_BYTES", 0)
    return tmp_path / "home" / "lovecraft_jax" / "tokens"


@pytest.fixture
def config(config: ConfigDict, tmp_path: Path) -> ConfigDict:
    """Of a corpus whose held-out text has a character that the training text lacks."""
    (tmp_path / "text.txt").write_text("The sea was grey.\n\n" * 300 + "It is the 2nd. " * 20)
    config.data.corpus = str(tmp_path / "text.txt")
    return config


def prepare(config: ConfigDict, tokenizer: Tokenizer | None = None) -> Data:
    return dataset.prepare(Config.of(config), tokenizer=tokenizer)


def test_a_second_start_maps_the_same_ids_and_reads_no_text_whatever_the_batches(
    cache: Path, config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(config)
    (entry,) = cache.iterdir()
    monkeypatch.setattr(dataset, "split", lambda *_: pytest.fail("the text was read"))
    config.data.update({"seq_len": 4, "batch_size": 4, "regime": "window"})
    second = prepare(config)
    _assert_same(second, first)
    assert second.encoded["test"].extra_nats > 0
    for encoded in (*first.encoded.values(), *second.encoded.values()):
        assert type(encoded.ids) is np.ndarray  # slices of numpy's memmap class would be memmaps
        assert _is_mapped(encoded.ids)
    assert list(cache.iterdir()) == [entry]


def test_words_that_are_left_out_of_the_ids_still_are_at_a_second_start(cache: Path, config: ConfigDict) -> None:
    config.data.update({"level": "words", "vocab_size": 100, "rare": "drop"})
    first, second = (prepare(config).encoded["test"].spelled for _ in range(2))
    assert second.left_out
    assert first.texts == second.texts != []


def test_texts_are_read_when_they_are_asked_for(cache: Path, config: ConfigDict) -> None:
    first, second = prepare(config), prepare(config)
    assert second.splits.text == first.splits.text
    assert second.splits.by_tale == first.splits.by_tale
    third = prepare(config)
    Path(config.data.corpus).write_text("Another text.")
    with pytest.raises(UserError, match=r"text\.txt: changed"):
        _ = third.splits.text


def test_small_corpora_are_not_cached(cache: Path, config: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "CACHE_FROM_BYTES", Path(config.data.corpus).stat().st_size + 1)
    assert not _is_mapped(prepare(config).encoded["train"].ids)
    assert not cache.exists()


def test_a_resumed_run_hits_with_its_own_tokenizer_and_never_with_another(cache: Path, config: ConfigDict) -> None:
    first = prepare(config)
    again = prepare(config, first.tokenizer)
    assert again.tokenizer is first.tokenizer
    _assert_same(again, first)
    assert len(list(cache.iterdir())) == 1
    other = CharTokenizer("xyz" + first.tokenizer.decode(np.arange(1, first.tokenizer.size)), first.tokenizer.cleaning)
    found = prepare(config, other)
    for part, encoded in found.encoded.items():
        np.testing.assert_array_equal(encoded.ids, other.encode(found.splits.text[part]).ids, strict=True)
    _assert_same(prepare(config), first)


@pytest.mark.parametrize("change", ["text", "name", "alphabet", "share", "code", "setting"])
def test_another_text_setting_or_code_never_hits(
    cache: Path, config: ConfigDict, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    prepare(config)
    corpus_file = Path(config.data.corpus)
    if change == "text":
        corpus_file.write_text(corpus_file.read_text() + "!")
    elif change == "name":
        config.data.corpus = str(corpus_file.rename(corpus_file.with_name("renamed.txt")))
    elif change == "alphabet":
        config.data.alphabet = "unicode"
    elif change == "share":
        config.data.share = 0.5
    elif change == "code":
        (cache.parent / "edited.py").write_text("# edited")
        monkeypatch.setattr(token_cache, "__file__", str(cache.parent / "token_cache.py"))
    else:
        monkeypatch.setattr(dataset, "UNRELATED_TO_TOKENS", ("corpus", "regime", "batch_size"))
    prepare(config)
    assert len(list(cache.iterdir())) == 2


DAMAGES = {
    "truncated": lambda data: data[:-100],
    "an id flipped": lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
    "the header flipped": lambda data: data.replace(b'"folded": 0', b'"folded": 1'),
    "the checksum flipped": lambda data: (b"1" if data[:1] == b"0" else b"0") + data[1:],
    "empty": lambda data: b"",
    "binary": lambda data: b"\xff" * len(data),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_rebuilt(cache: Path, config: ConfigDict, damage) -> None:
    first = prepare(config)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    damaged = entry.with_name("damaged")  # a new file: the ids of `first` stay mapped to the old one
    damaged.write_bytes(damage(whole))
    assert damaged.read_bytes() != whole
    damaged.replace(entry)
    _assert_same(prepare(config), first)
    assert entry.read_bytes() == whole
    assert list(cache.iterdir()) == [entry]


@pytest.mark.parametrize("refused", ["mkdir", "replace"])
def test_a_full_or_read_only_disk_is_read_and_leaves_no_entry(
    cache: Path, config: ConfigDict, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    first = prepare(config)
    (entry,) = cache.iterdir()

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, refused, refuse)
    monkeypatch.setattr(os, "utime", refuse)
    _assert_same(prepare(config), first)
    config.data.share = 0.5
    assert not _is_mapped(prepare(config).encoded["train"].ids)
    assert list(cache.iterdir()) == [entry]


def test_entries_used_longest_ago_are_removed_beyond_the_limit(
    cache: Path, config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = (1.0, 0.99, 0.98, 0.97)
    entries = []
    for share in shares[:3]:
        config.data.share = share
        prepare(config)
        (new,) = set(cache.iterdir()) - set(entries)
        os.utime(new, (len(entries), len(entries)))
        entries.append(new)
    config.data.share = shares[0]
    prepare(config)  # now the first is the one used last
    monkeypatch.setattr(token_cache, "MAX_BYTES", 2.5 * entries[0].stat().st_size)
    config.data.share = shares[3]
    prepare(config)
    left = set(cache.iterdir())
    assert entries[0] in left
    assert not left & set(entries[1:])
    assert len(left) == 2
    monkeypatch.setattr(token_cache, "MAX_BYTES", 0)
    config.data.share = shares[1]
    prepare(config)
    assert len(list(cache.iterdir())) == 1  # the newest, however large


def _is_mapped(ids: np.ndarray) -> bool:
    base = ids
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    return isinstance(base, np.memmap)


def _assert_same(found: Data, expected: Data) -> None:
    assert found.sha256 == expected.sha256
    assert found.tokenizer == expected.tokenizer
    assert found.splits == expected.splits
    for part in PARTS:
        mine, other = found.encoded[part], expected.encoded[part]
        np.testing.assert_array_equal(mine.ids, other.ids, strict=True)
        assert (mine.n_chars, mine.extra_nats) == (other.n_chars, other.extra_nats)
