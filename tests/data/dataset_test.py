from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from lovecraft_jax.config import Config
from lovecraft_jax.data import corpus, dataset
from lovecraft_jax.data.dataset import Data
from lovecraft_jax.data.splits import PARTS
from lovecraft_jax.data.tokenizer import Tokenizer
from lovecraft_jax.runtime.errors import UserError

PROSE = "The sea was grey. " * 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty small tales, each with its name in it."""
    path = tmp_path / "tales"
    path.mkdir()
    for i in range(30):
        (path / f"tale{i:02d}.txt").write_text(f"{PROSE} tale{i:02d}")
    return path


def prepare(config: ConfigDict, recorded: dict[str, Any] | None = None, tokenizer: Tokenizer | None = None) -> Data:
    return dataset.prepare(Config.of(config), recorded, tokenizer)


def test_every_split_is_encoded_whole(config: ConfigDict) -> None:
    found = prepare(config)
    assert found.name == "bundled"
    assert found.sha256 == corpus.load("bundled").sha256
    assert tuple(found.encoded) == tuple(found.splits.text) == PARTS
    for part, encoded in found.encoded.items():
        text = found.splits.text[part]
        assert encoded.n_chars == len(text)
        if encoded.extra_nats == 0:
            assert found.tokenizer.decode(encoded.ids) == text
    assert found.encoded["train"].extra_nats == 0


def test_the_vocabulary_is_built_from_the_training_text_alone(config: ConfigDict, tmp_path: Path) -> None:
    text = "ab\n" * 300 + "c" * 100  # the last tenth is held out
    (tmp_path / "a.txt").write_text(text)
    config.data.corpus = str(tmp_path / "a.txt")
    found = prepare(config)
    assert found.tokenizer.size == 4
    np.testing.assert_array_equal(found.encoded["test"].ids, np.zeros(50))
    assert found.encoded["test"].extra_nats == pytest.approx(50 * np.log(96), rel=1e-12)


def test_the_config_chooses_the_alphabet(config: ConfigDict, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\u041c\u043e\u0439 " * 100, encoding="utf-8")
    config.data.corpus = str(tmp_path)
    with pytest.raises(UserError, match="alphabet=unicode"):
        prepare(config)
    config.data.alphabet = "unicode"
    assert prepare(config).splits.text["train"].startswith("\u041c\u043e\u0439 ")


def test_a_resumed_run_finds_its_text_and_keeps_its_vocabulary_and_cleaning(config: ConfigDict, folder: Path) -> None:
    config.data.corpus = str(folder)
    config.data.alphabet = "unicode"
    began = prepare(config)
    config.data.corpus = "auto"
    config.data.alphabet = "ascii"  # not what the run began with
    _assert_same(prepare(config, _recorded(began), began.tokenizer), began)
    config.data.corpus = str(folder.rename(folder.with_name("moved")))
    _assert_same(prepare(config, _recorded(began), began.tokenizer), began)


def test_a_resumed_run_refuses_another_text(config: ConfigDict, folder: Path) -> None:
    config.data.corpus = str(folder)
    began = prepare(config)
    (folder / "tale07.txt").write_text(PROSE)
    for name in ("auto", str(folder), "bundled"):
        config.data.corpus = name
        with pytest.raises(UserError, match=f"data.corpus={name}: another text than this run's"):
            prepare(config, _recorded(began), began.tokenizer)


def _recorded(began: Data) -> dict[str, Any]:
    """What corpus.json holds."""
    return {"name": began.name, "sha256": began.sha256, "splits": began.splits.tales}


def _assert_same(found: Data, began: Data) -> None:
    assert found.tokenizer is began.tokenizer
    assert found.sha256 == began.sha256
    assert found.splits == began.splits
    assert found.splits.by_tale == began.splits.by_tale
    for part, encoded in began.encoded.items():
        np.testing.assert_array_equal(found.encoded[part].ids, encoded.ids, strict=True)
