"""BPE dropout (Provilkov et al. 2020, algorithm 1): in every epoch a text is segmented anew, with merges dropped.

As long as two neighbouring symbols of a pretoken can merge, each such merge is dropped with a probability p, and of the
others the one that was learnt first takes place; where all are dropped, the pretoken stays as it is. Every occurrence
of a word has its own draws. The dropout of the `tokenizers` library has no seed, so the merges are done here, those of
many pretokens at once, which is quick in NumPy.
Axes in names: N pretokens of a piece of the text, W those of them that have S symbols, M symbols of all its types.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np

from lovecraft_jax.data.bpe_tokenizer import BpeTokenizer, byte_characters
from lovecraft_jax.data.encoded import UNKNOWN_ID, smallest_uint
from lovecraft_jax.data.pretokens import Pretokens
from lovecraft_jax.runtime import background

LONGEST = 100
"""Bytes of the longest pretoken whose merges are dropped, since the time grows with the square. Words are shorter; but
in Chinese or Japanese 34 characters without punctuation are a longer pretoken, which keeps its plain segmentation."""
PIECE = 1 << 17
"""Pretokens that are segmented at once. It decides which random numbers each of them gets, and so the ids of all saved
runs: it must never change."""
RNG_PURPOSE = 1
"""Keeps the random numbers apart from those of batches.py, which (seed, epoch) gives."""


class BpeDropout:
    """The segmentations of a text, which is given by its plain `ids`, where merges are dropped with `probability`.
    `tokens_in_first_epoch`: pass it where it is known, as when resuming; else the first epoch is segmented to count it.
    """

    def __init__(
        self,
        tokenizer: BpeTokenizer,
        ids: np.ndarray,
        probability: float,
        seed: int,
        tokens_in_first_epoch: int | None = None,
    ) -> None:
        self._tokenizer, self._ids, self._probability, self._seed = tokenizer, ids, probability, seed
        self._tokens_in_first_epoch, self._epochs = tokens_in_first_epoch, dict[int, Future[np.ndarray]]()

    def __call__(self, epoch: int, next_soon: bool = False) -> np.ndarray:
        """Returns the ids of the text in an epoch, a function of (seed, epoch). With `next_soon` those of the next one
        are computed in the background meanwhile."""
        kept = {one: begun for one, begun in self._epochs.items() if one in (epoch, epoch + 1)}
        self._epochs = kept if epoch in kept else kept | {epoch: self._begin(epoch)}
        ids = self._epochs[epoch].result()
        if next_soon and epoch + 1 not in self._epochs:
            self._epochs[epoch + 1] = self._begin(epoch + 1)
        return ids

    @functools.cached_property
    def tokens_in_first_epoch(self) -> int:
        """The number of ids in the first epoch; in the others it is about the same."""
        return self._tokens_in_first_epoch or len(self(0))

    def _begin(self, epoch: int) -> Future[np.ndarray]:
        text, key = self._text, (self._seed, epoch, RNG_PURPOSE)
        return background.start(lambda: text.segment(self._probability, np.random.default_rng(key)))

    @functools.cached_property
    def _text(self) -> "_Text":
        return _Text(self._tokenizer, self._ids)


class _Text:
    """A text before its merges: the number of each pretoken's type, and the symbols of the types."""

    def __init__(self, tokenizer: BpeTokenizer, ids: np.ndarray) -> None:
        self._merges, self._dtype = _Merges.of(tokenizer), smallest_uint(tokenizer.size)
        pretokens = Pretokens(tokenizer.decode(ids))
        self._index: np.ndarray = pretokens.index_N
        symbols = [_symbols(tokenizer, self._merges.byte_ids, word) for word in pretokens.types]
        self._lengths = np.array([len(word) for word in symbols], int)
        self._begins = np.cumsum(self._lengths) - self._lengths
        self._symbols_M = np.concatenate([np.zeros(0, int), *symbols])
        self._ranks_M = self._merges.ranks(self._symbols_M, np.roll(self._symbols_M, -1))

    def segment(self, probability: float, rng: np.random.Generator) -> np.ndarray:
        """Returns the ids of the whole text."""
        pieces = (self._index[start : start + PIECE] for start in range(0, len(self._index), PIECE))
        parts = [self._segment_piece(index_N, probability, rng) for index_N in pieces]
        return np.concatenate([np.zeros(0, self._dtype), *parts])

    def _segment_piece(self, index_N: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
        lengths_N = self._lengths[index_N]
        begins_N = np.cumsum(lengths_N) - lengths_N
        # A place for every symbol before the merges. Where these leave none, UNKNOWN_ID stays, which no text has.
        ids = np.full(lengths_N.sum(), UNKNOWN_ID, self._dtype)
        for length in np.unique(lengths_N).tolist():
            same_length_W = np.flatnonzero(lengths_N == length)
            places_WS = self._begins[index_N[same_length_W], None] + np.arange(length)
            symbols_WS, ranks_WS = self._symbols_M[places_WS], self._ranks_M[places_WS]
            for done_W, merged_WS in self._merges.apply(symbols_WS, ranks_WS, probability, rng):
                ids[begins_N[same_length_W[done_W], None] + np.arange(merged_WS.shape[1])] = merged_WS
        return ids[ids != UNKNOWN_ID]


@dataclasses.dataclass(frozen=True)
class _Merges:
    """The merges of a tokenizer. A merge's rank is its place in the order in which they were learnt."""

    byte_ids: np.ndarray  # the symbol of each byte
    size: int  # ids of the vocabulary
    merged: np.ndarray  # by rank: the id of the two symbols merged
    keys: np.ndarray  # of each two symbols that merge, sorted: left * size + right; last a number above all of these
    ranks_of_keys: np.ndarray  # last a number above all ranks

    @classmethod
    def of(cls, tokenizer: BpeTokenizer) -> "_Merges":
        model = json.loads(tokenizer.library)["model"]
        vocab, pairs = model["vocab"], model["merges"]
        byte_ids = np.array([vocab.get(char, UNKNOWN_ID) for char in byte_characters()])
        merged = np.array([vocab[left + right] for left, right in pairs], int)
        keys = np.array([vocab[left] * len(vocab) + vocab[right] for left, right in pairs], int)
        order = np.argsort(keys)
        none = np.iinfo(keys.dtype).max
        return cls(byte_ids, len(vocab), merged, np.append(keys[order], none), np.append(order, len(merged)))

    def ranks(self, left_N: np.ndarray, right_N: np.ndarray) -> np.ndarray:
        """Returns the rank of the merge of each two symbols, and where there is none a number above all ranks."""
        wanted_N = left_N * self.size + right_N
        places_N = np.searchsorted(self.keys, wanted_N)
        return np.where(self.keys[places_N] == wanted_N, self.ranks_of_keys[places_N], len(self.merged))

    def apply(
        self, symbols_WS: np.ndarray, ranks_WS: np.ndarray, probability: float, rng: np.random.Generator
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the rows for which nothing is left to do, by their numbers, and their symbols, until all are done.
        `ranks_WS`: of the merge of each symbol with the next one; the last one has none."""
        none, rows_W = len(self.merged), np.arange(len(symbols_WS))
        # With a symbol at both ends that merges with none, every merge has a symbol before and after it.
        symbols_WS = np.pad(symbols_WS, ((0, 0), (1, 1)), constant_values=UNKNOWN_ID)
        ranks_WS = np.pad(ranks_WS[:, :-1], ((0, 0), (1, 2)), constant_values=none)
        while len(rows_W):
            # So many of the possible merges, those of the lowest ranks, are dropped before one that is not.
            dropped_W = rng.geometric(1 - probability, len(rows_W)) - 1
            at_W = ranks_WS.argmin(1)
            some = np.flatnonzero(dropped_W)
            nth = np.minimum(dropped_W[some], ranks_WS.shape[1] - 1)
            at_W[some] = np.argsort(ranks_WS[some], axis=1, kind="stable")[np.arange(len(some)), nth]
            ranks_W = ranks_WS[np.arange(len(rows_W)), at_W]
            if (is_done_W := ranks_W == none).any():
                yield rows_W[is_done_W], symbols_WS[is_done_W, 1:-1]
                rows_W, at_W, ranks_W = rows_W[~is_done_W], at_W[~is_done_W], ranks_W[~is_done_W]
                symbols_WS, ranks_WS = symbols_WS[~is_done_W], ranks_WS[~is_done_W]
            every_W, merged_W = np.arange(len(rows_W)), self.merged[ranks_W]
            symbols_WS, ranks_WS = _without(symbols_WS, at_W + 1), _without(ranks_WS, at_W)
            symbols_WS[every_W, at_W] = merged_W
            ranks_WS[every_W, at_W - 1] = self.ranks(symbols_WS[every_W, at_W - 1], merged_W)
            ranks_WS[every_W, at_W] = self.ranks(merged_W, symbols_WS[every_W, at_W + 1])


def _symbols(tokenizer: BpeTokenizer, byte_ids: np.ndarray, pretoken: str) -> np.ndarray:
    """The symbols of a pretoken before its merges: its bytes, and of one that is too long its ids after them."""
    encoded = pretoken.encode()
    if len(encoded) > LONGEST:
        return tokenizer.encode(pretoken).ids.astype(int)
    return byte_ids[np.frombuffer(encoded, np.uint8)]


def _without(values_WS: np.ndarray, at_W: np.ndarray) -> np.ndarray:
    """Each row without its value at `at_W` [W, S - 1]."""
    W, S = values_WS.shape
    return values_WS[np.arange(S) != at_W[:, None]].reshape(W, S - 1)
