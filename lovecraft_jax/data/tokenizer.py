"""Text to token ids and back. Nothing below this file knows that a token is a character."""

import dataclasses
import json
import math
from typing import Protocol

import numpy as np

from lovecraft_jax.data.cleaning import Cleaning

UNKNOWN_ID = 0
"""Stands for whatever training never showed. Scored, never written."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A text as tokens: ids [N], in the smallest unsigned type that holds the vocabulary.

    `n_chars` is the length of the cleaned text, whatever a token is, so that bits per character compare across
    vocabularies. `extra_nats` is what spelling out the unknown tokens costs on top of predicting UNKNOWN_ID.
    """

    ids: np.ndarray
    n_chars: int
    extra_nats: float


class Tokenizer(Protocol):
    """What every level of tokens offers. A second level is a second class here and a branch in `build` and `load`."""

    @property
    def level(self) -> str:
        """What a token is."""
        ...

    @property
    def cleaning(self) -> Cleaning:
        """How a text becomes one that `encode` takes."""
        ...

    @property
    def size(self) -> int:
        """Number of ids, UNKNOWN_ID included."""
        ...

    @property
    def start_id(self) -> int:
        """The first input of a text that nothing stands before: a newline."""
        ...

    def encode(self, text: str) -> Encoded:
        """Cleaned text to ids."""
        ...

    def decode(self, ids: np.ndarray) -> str:
        """Ids to text."""
        ...

    def unseen(self, text: str) -> list[str]:
        """The parts of a cleaned text that training never showed, each once, in order."""
        ...

    def dumps(self) -> str:
        """JSON that `load` reads again."""
        ...


@dataclasses.dataclass(frozen=True)
class CharTokenizer:
    """One token a character: id 0 for the unknown, then the characters of the training text in code-point order."""

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
        table = np.zeros(0x110000, smallest_uint(self.size))
        table[_code_points(self.chars)] = np.arange(1, self.size)
        ids = table[_code_points(text)]
        # An unknown character is one of the alphabet's, each as likely: a code that a decoder could read.
        unknown = int(np.count_nonzero(ids == UNKNOWN_ID))
        return Encoded(ids, len(text), unknown * math.log(self.cleaning.alphabet_size))

    def decode(self, ids: np.ndarray) -> str:
        chars = "\N{REPLACEMENT CHARACTER}" + self.chars
        return "".join([chars[i] for i in ids])

    def unseen(self, text: str) -> list[str]:
        return [char for char in dict.fromkeys(text) if char not in self.chars]

    def dumps(self) -> str:
        return json.dumps(
            {"level": self.level, "chars": self.chars, "cleaning": self.cleaning.to_json()},
            ensure_ascii=False,
            indent=1,
        )


def build_tokenizer(level: str, train_text: str, cleaning: Cleaning) -> Tokenizer:
    """The vocabulary of a cleaned training text, and of nothing else."""
    if level == "chars":
        return CharTokenizer("".join(sorted(set(train_text))), cleaning)
    raise ValueError(f"unknown level {level!r}")


def load_tokenizer(text: str) -> Tokenizer:
    """The vocabulary that `dumps` wrote."""
    saved = json.loads(text)
    if saved["level"] == "chars":
        return CharTokenizer(saved["chars"], Cleaning(**saved["cleaning"]))
    raise ValueError(f"unknown level {saved['level']!r}")


def smallest_uint(size: int) -> np.dtype:
    """The smallest unsigned integer type that holds the ids 0 .. size - 1."""
    return np.min_scalar_type(size - 1)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
