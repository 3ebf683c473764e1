"""What the words of held-out texts cost a model, by how often the training text has them: whatever its tokens are."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lovecraft_jax.data.pretokens import Pretokens
from lovecraft_jax.probing.surprisal import token_surprisals
from lovecraft_jax.run import Run

LEAST = {"never": 0, "once": 1, "2 to 9 times": 2, "10 to 99 times": 10, "100 times or more": 100}
"""The groups, by the lowest number of times that the training text has a word of each."""


@dataclasses.dataclass(frozen=True)
class WordCosts:
    """The pretokens (data/pretokens.py) of one group: how many there are, their characters, and what they cost."""

    group: str
    count: int
    chars: int
    bits: float

    @property
    def bpc(self) -> float:
        return self.bits / self.chars if self.chars else 0.0


def costs_by_frequency(run: Run, train: str, texts: Sequence[str]) -> list[WordCosts]:
    """Returns the costs of each group in `texts`, for the training text `train`, both cleaned. The bits of all groups
    are those of the final scores of the texts."""
    known = Pretokens(train)
    occurrences = dict(zip(known.types, np.bincount(known.index_N, minlength=len(known.types)).tolist(), strict=True))
    edges = [*list(LEAST.values())[1:]]
    counts, chars, bits = np.zeros(len(LEAST), int), np.zeros(len(LEAST), int), np.zeros(len(LEAST))
    for text, bits_N in zip(texts, token_surprisals(run, texts), strict=True):
        pretokens = Pretokens(text)
        lengths = np.array(list(map(len, pretokens.types)), int)[pretokens.index_N]
        # Tokens end where pretokens do, but for those that a tokenizer leaves out.
        token_ends = np.concatenate([[0], np.cumsum(run.tokenizer.lengths(run.tokenizer.encode(text)))])
        cost_until = np.concatenate([[0.0], np.cumsum(bits_N, dtype=np.float64)])
        bits_by_pretoken = np.diff(np.interp(np.concatenate([[0], np.cumsum(lengths)]), token_ends, cost_until))
        group_by_type = np.digitize([occurrences.get(word, 0) for word in pretokens.types], edges)
        groups = group_by_type[pretokens.index_N]
        counts += np.bincount(groups, minlength=len(LEAST))
        chars += np.bincount(groups, lengths, len(LEAST)).astype(int)
        bits += np.bincount(groups, bits_by_pretoken, len(LEAST))
    rows = zip(LEAST, counts.tolist(), chars.tolist(), bits.tolist(), strict=True)
    return [WordCosts(*row) for row in rows]
