"""Batches as a pure function of the step: no iterator state, so resuming is exact and no order depends on timing."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lovecraft_jax.runtime.errors import UserError


class Batch(NamedTuple):
    """The tokens of one training step; with a leading axis K, those of K steps."""

    x_BT: np.ndarray  # inputs, unsigned
    y_BT: np.ndarray  # the tokens that follow them
    weight_BT: np.ndarray  # uint8: 1 where a target counts, 0 in padding
    reset_B: np.ndarray  # true where the carry of a row starts from zero


@dataclasses.dataclass(frozen=True)
class Batches:
    """All batches of a training text, treated as circular. Each epoch starts at an offset drawn from (seed, epoch), so
    that every token is trained on in some epoch.

    - "stream": B contiguous rows; every step is the next T tokens of each, and the carry is reset only where an epoch
      begins (truncated backpropagation through time).
    - "window": independent slices of T tokens in an order drawn from (seed, epoch), each from a zero carry.

    BPE dropout trains on other ids in each epoch, those that `ids_of_epoch` returns. They are cut into batches in the
    same way. The number of steps of an epoch stays that of `ids`; since its own ids are mostly more, more of them are
    left out. `ids_of_epoch` takes the epoch, and whether half of it is over, so that the next one is needed soon.
    """

    ids: np.ndarray  # [N]; may be memory-mapped: it is only ever sliced
    batch_size: int
    seq_len: int
    regime: str
    seed: int
    ids_of_epoch: Callable[[int, bool], np.ndarray] | None = None

    def __post_init__(self) -> None:
        if self.steps_per_epoch == 0 or len(self.ids) <= self.seq_len:
            needed = self.batch_size * self.seq_len
            raise UserError(
                f"data.batch_size={self.batch_size} x data.seq_len={self.seq_len} is {needed:,} tokens a step, "
                f"but the training text has {len(self.ids):,}: lower one of them or give a longer text"
            )

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(len(self.ids), self.batch_size, self.seq_len)

    def at(self, step: int, count: int, rows: slice = slice(None)) -> Batch:
        """Returns the batches of steps step .. step + count - 1, stacked: x_KBT. `rows` picks those of one process."""
        tokens_KBT = np.stack([self._tokens(k, rows) for k in range(step, step + count)])
        resets = [self.regime == "window" or k % self.steps_per_epoch == 0 for k in range(step, step + count)]
        return Batch(
            x_BT=tokens_KBT[..., :-1],
            y_BT=tokens_KBT[..., 1:],
            weight_BT=np.ones(tokens_KBT[..., 1:].shape, np.uint8),
            reset_B=np.broadcast_to(np.array(resets)[:, None], tokens_KBT.shape[:2]).copy(),
        )

    def _tokens(self, step: int, rows: slice) -> np.ndarray:
        """The tokens of a step and the one after each row [B, T + 1]."""
        epoch, within = divmod(step, self.steps_per_epoch)
        half_over = 2 * within >= self.steps_per_epoch
        ids = self.ids_of_epoch(epoch, half_over) if self.ids_of_epoch else self.ids
        starts_B = self._starts(epoch, within, len(ids))[rows]
        return ids[(starts_B[:, None] + np.arange(self.seq_len + 1)) % len(ids)]

    def _starts(self, epoch: int, within: int, length: int) -> np.ndarray:
        """The position of each row's first token [B], to be taken modulo the length of the text."""
        rows = np.arange(self.batch_size)
        if self.regime == "stream":
            offset, _ = _order(self.seed, epoch, length, 0)
            return offset + (rows * self.steps_per_epoch + within) * self.seq_len
        # An epoch's own ids may be fewer than `ids`: then some slices begin again at the start of the text.
        slices = max(length // self.seq_len, self.steps_per_epoch * self.batch_size)
        offset, order = _order(self.seed, epoch, length, slices)
        return offset + order[within * self.batch_size + rows] * self.seq_len


def steps_per_epoch(tokens: int, batch_size: int, seq_len: int) -> int:
    """Returns the steps of an epoch. Tokens that do not fill a step are left out, different ones in each epoch."""
    return tokens // seq_len // batch_size


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int, slices: int) -> tuple[int, np.ndarray]:
    """The offset at which an epoch starts, and the order in which it takes the independent slices."""
    rng = np.random.default_rng((seed, epoch))
    return int(rng.integers(length)), rng.permutation(slices)
