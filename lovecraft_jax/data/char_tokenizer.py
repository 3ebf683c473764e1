"""Characters as tokens."""

import dataclasses
import json
import math

import numpy as np

from lovecraft_jax.data.characters import code_points, distinct, pieces
from lovecraft_jax.data.cleaning import Cleaning
from lovecraft_jax.data.encoded import UNKNOWN_ID, Encoded, Prompt, Spelled, smallest_uint


@dataclasses.dataclass(frozen=True)
class CharTokenizer:
    """A token is a character: id 0 is unknown, then come the characters of the training text in code-point order."""

    chars: str
    cleaning: Cleaning
    level: str = "chars"

    @classmethod
    def of(cls, train_text: str, cleaning: Cleaning) -> "CharTokenizer":
        """The tokenizer of a cleaned training text."""
        return cls(distinct(train_text), cleaning)

    @classmethod
    def loads(cls, saved: dict, cleaning: Cleaning) -> "CharTokenizer":
        return cls(saved["chars"], cleaning)

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
        ids, start = np.empty(len(text), table.dtype), 0
        for piece in pieces(text):
            np.take(table, code_points(piece), mode="clip", out=ids[start : start + len(piece)])
            start += len(piece)
        unknown_R = np.flatnonzero(ids == UNKNOWN_ID)
        # An unknown character is one of the alphabet's, each as likely: a code that a decoder could read.
        nats = math.log(self.cleaning.alphabet_size)
        spelled = Spelled(unknown_R, "".join([text[n] for n in unknown_R]), np.full(len(unknown_R), nats))
        return Encoded(ids, len(text), len(unknown_R) * nats, spelled)

    def encode_prompt(self, text: str) -> Prompt:
        return Prompt(self.encode(text).ids if text else np.array([self.start_id]))

    def decode(self, ids: np.ndarray, spelled: Spelled | None = None) -> str:
        table = "\N{REPLACEMENT CHARACTER}" + self.chars
        chars = [table[i] for i in ids]
        for at, char in zip(spelled.at_R, spelled.texts, strict=True) if spelled else ():
            chars[at] = char
        return "".join(chars)

    def generated_bytes(
        self, ids: np.ndarray, seed: tuple[int, ...] = (), start: int = 0, temperature: float = 1.0
    ) -> bytes:
        return self.decode(ids).encode()

    def lengths(self, encoded: Encoded) -> np.ndarray:
        return np.ones(len(encoded.ids), np.int64)

    def unseen(self, text: str) -> list[str]:
        return [char for char in dict.fromkeys(text) if char not in self.chars]

    def dumps(self) -> str:
        saved = {"level": self.level, "chars": self.chars, "cleaning": dataclasses.asdict(self.cleaning)}
        return json.dumps(saved, ensure_ascii=False, indent=1)
