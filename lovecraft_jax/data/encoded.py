"""What tokenizers make of texts and prompts."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

UNKNOWN_ID = 0  # never generated; where a tokenizer has tokens that it does not know, it stands for them


@dataclasses.dataclass(frozen=True)
class Spelled:
    """The R tokens of a text that have no id of their own: their `texts`, and in `nats_R` what each costs on top of
    its id. `at_R` has the index of each among the text's ids; where such tokens are `left_out` of these, the index of
    the id that follows."""

    at_R: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    texts: Sequence[str] = ()
    nats_R: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    left_out: bool = False


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A text as tokens: ids [N], in the smallest unsigned type that holds the vocabulary; may be memory-mapped. With
    `spelled` they decode to the text."""

    ids: np.ndarray
    n_chars: int  # of the cleaned text, whatever a token is, so that bits per character compare across vocabularies
    extra_nats: float  # what the text costs on top of predicting its ids: at least what `spelled` costs
    spelled: Spelled = Spelled()

    @property
    def extra_nats_N(self) -> np.ndarray:
        """`extra_nats` by token: what is spelled at its token, or the next one, and the rest evenly."""
        nats_N = np.zeros(len(self.ids))
        if len(nats_N):
            np.add.at(nats_N, np.minimum(self.spelled.at_R, len(nats_N) - 1), self.spelled.nats_R)
            nats_N += (self.extra_nats - self.spelled.nats_R.sum()) / len(nats_N)
        return nats_N


class Cut(NamedTuple):
    """A way to continue a prompt that may end within a word: keep its first `kept` ids, and restrict the next token to
    those of which `allowed_V` is true. Their bytes begin with `begun`, the bytes of the rest of the prompt. `nats`:
    what the prompt's last word costs on top of these ids."""

    kept: int
    begun: bytes
    allowed_V: np.ndarray
    nats: float = 0.0


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A text to continue: ids [N], at least one. `cuts`: where tokens are longer than characters, the ways in which its
    last word may go on, from which the model chooses (inference/generate.py); none where `ids` is all that can be."""

    ids: np.ndarray
    cuts: tuple[Cut, ...] = ()


def smallest_uint(size: int) -> np.dtype:
    """The smallest unsigned integer type that holds the ids 0 .. size - 1."""
    return np.min_scalar_type(size - 1)
