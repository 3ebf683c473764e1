"""Tokenizers: text to token ids and back. No other file may assume that a token is a character."""

import dataclasses
import json
import math
from typing import Protocol

import numpy as np

from lovecraft_jax.data.characters import code_points, distinct, pieces
from lovecraft_jax.data.cleaning import Cleaning

UNKNOWN_ID = 0  # the token for whatever the training text does not have: it is scored, and never generated


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A text as tokens: ids [N], in the smallest unsigned type that holds the vocabulary; may be memory-mapped."""

    ids: np.ndarray
    n_chars: int  # of the cleaned text, whatever a token is, so that bits per character compare across vocabularies
    extra_nats: float  # what spelling out the unknown tokens costs, on top of predicting UNKNOWN_ID


class Tokenizer(Protocol):
    """Text to token ids and back. A new one is a class here, and a branch in `build_tokenizer` and `load_tokenizer`."""

    @property
    def level(self) -> str: ...  # what a token is: "chars"
    @property
    def cleaning(self) -> Cleaning: ...  # what a text needs before `encode`
    @property
    def size(self) -> int: ...  # number of ids, UNKNOWN_ID included
    @property
    def start_id(self) -> int: ...  # stands before the first token of a text: a newline's
    def encode(self, text: str) -> Encoded: ...  # cleaned text to ids
    def decode(self, ids: np.ndarray) -> str: ...
    def unseen(self, text: str) -> list[str]: ...  # the parts that the training text lacks, each once, in order
    def dumps(self) -> str: ...  # JSON that `load_tokenizer` reads again


@dataclasses.dataclass(frozen=True)
class CharTokenizer:
    """A token is a character: id 0 is unknown, then come the characters of the training text in code-point order."""

    chars: str
    cleaning: Cleaning
    level: str = "chars"

    @property
    def size(self) -> int:
        return len(self.chars) + 1

    @property
    def start_id(self) -> int:
        return self.chars.find("\n") + 1

    def encode(self, text: str) -> Encoded:
        # The last entry is for every code point after the vocabulary's.
        table = np.full(max(map(ord, self.chars), default=-1) + 2, UNKNOWN_ID, smallest_uint(self.size))
        table[code_points(self.chars)] = np.arange(1, self.size)
        ids, start, unknown = np.empty(len(text), table.dtype), 0, 0
        for piece in pieces(text):
            into = ids[start : start + len(piece)]
            np.take(table, code_points(piece), mode="clip", out=into)
            unknown += into.size - int(np.count_nonzero(into))
            start += len(piece)
        # An unknown character is one of the alphabet's, each as likely: a code that a decoder could read.
        return Encoded(ids, len(text), unknown * math.log(self.cleaning.alphabet_size))

    def decode(self, ids: np.ndarray) -> str:
        chars = "\N{REPLACEMENT CHARACTER}" + self.chars
        return "".join([chars[i] for i in ids])

    def unseen(self, text: str) -> list[str]:
        return [char for char in dict.fromkeys(text) if char not in self.chars]

    def dumps(self) -> str:
        saved = {"level": self.level, "chars": self.chars, "cleaning": dataclasses.asdict(self.cleaning)}
        return json.dumps(saved, ensure_ascii=False, indent=1)


def build_tokenizer(level: str, train_text: str, cleaning: Cleaning) -> Tokenizer:
    """Returns the tokenizer of a cleaned training text; never pass it valid or test text."""
    if level == "chars":
        return CharTokenizer(distinct(train_text), cleaning)
    raise ValueError(f"unknown level {level!r}")


def load_tokenizer(text: str) -> Tokenizer:
    """Returns the tokenizer that `dumps` wrote."""
    saved = json.loads(text)
    if saved["level"] == "chars":
        return CharTokenizer(saved["chars"], Cleaning(**saved["cleaning"]))
    raise ValueError(f"unknown level {saved['level']!r}")


def smallest_uint(size: int) -> np.dtype:
    """The smallest unsigned integer type that holds the ids 0 .. size - 1."""
    return np.min_scalar_type(size - 1)
