"""Tokenizers: text to token ids and back. Outside this folder a token can be anything, except in probing/rare_words.py,
word_search.py and units.py and in `sample --mode=teacher_forced`, which take only runs whose tokens are characters."""

import json
from typing import Any, Protocol

import numpy as np

from lovecraft_jax.config import DataConfig
from lovecraft_jax.data.bpe_tokenizer import BpeTokenizer
from lovecraft_jax.data.char_tokenizer import CharTokenizer
from lovecraft_jax.data.cleaning import Cleaning
from lovecraft_jax.data.encoded import Encoded, Prompt, Spelled
from lovecraft_jax.data.word_tokenizer import WordTokenizer


class Tokenizer(Protocol):
    """Text to token ids and back. A new one is a class in a file of its own, and a branch in `build_tokenizer` and
    `load_tokenizer`."""

    @property
    def level(self) -> str:
        """What a token is, as data.level."""

    @property
    def cleaning(self) -> Cleaning:
        """What a text needs before `encode`."""

    @property
    def size(self) -> int:
        """The number of ids, UNKNOWN_ID included."""

    @property
    def start_id(self) -> int:
        """The id that stands before the first token of a text: a newline's."""

    def encode(self, text: str) -> Encoded:
        """Returns a cleaned text as tokens."""

    def encode_prompt(self, text: str) -> Prompt:
        """Returns a cleaned text that is to be continued. Where tokens are longer than characters its first id is
        `start_id`; an empty text is that id alone for all."""

    def unseen(self, text: str) -> list[str]:
        """Returns the parts of a text that cannot be in a prompt, each once, in order."""

    def decode(self, ids: np.ndarray, spelled: Spelled | None = None) -> str:
        """Returns the text of ids, the whole text with what `encode` has spelled."""

    def generated_bytes(
        self, ids: np.ndarray, seed: tuple[int, ...] = (), start: int = 0, temperature: float = 1.0
    ) -> bytes:
        """Returns generated ids as UTF-8, which may begin and end within a character. What has no text of its own gets
        one, drawn at the temperature by the seed and its place; `start` is that of the first id."""

    def lengths(self, encoded: Encoded) -> np.ndarray:
        """Returns the number of characters that begin in each token [N]."""

    def dumps(self) -> str:
        """Returns JSON that `load_tokenizer` reads again."""


def build_tokenizer(config: DataConfig, train_text: str, cleaning: Cleaning) -> Tokenizer:
    """Returns the tokenizer of a cleaned training text; never pass it valid or test text."""
    if config.level == "chars":
        return CharTokenizer.of(train_text, cleaning)
    if config.level == "words":
        return WordTokenizer.of(train_text, cleaning, config.rare, config.min_count, config.vocab_size)
    if config.level == "bpe":
        return BpeTokenizer.of(train_text, cleaning, config.vocab_size)
    raise ValueError(f"unknown level {config.level!r}")


def load_tokenizer(text: str) -> Tokenizer:
    """Returns the tokenizer that `dumps` wrote. Raises ValueError where the text is damaged."""
    try:
        tokenizer = _load_tokenizer(json.loads(text))
        if 0 <= tokenizer.start_id < tokenizer.size:  # which looks at all of its tokens
            return tokenizer
    except Exception as error:  # whatever values of other types lead to; the library raises bare Exception
        raise ValueError(f"{type(error).__name__}: {error}") from error
    raise ValueError("it has no tokens")


def _load_tokenizer(saved: dict[str, Any]) -> Tokenizer:
    cleaning = Cleaning(**saved["cleaning"])
    if saved["level"] == "chars":
        return CharTokenizer.loads(saved, cleaning)
    if saved["level"] == "words":
        return WordTokenizer.loads(saved, cleaning)
    if saved["level"] == "bpe":
        return BpeTokenizer.loads(saved, cleaning)
    raise ValueError(f"unknown level {saved['level']!r}")
