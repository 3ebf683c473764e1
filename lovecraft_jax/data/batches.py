"""Batches as a pure function of the step: no iterator state, so resuming is exact and no order depends on timing."""

import dataclasses
import functools
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
    """

    ids: np.ndarray  # [N]; may be memory-mapped: it is only ever sliced
    batch_size: int
    seq_len: int
    regime: str
    seed: int

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
        starts_KB = np.stack([self._starts(k)[rows] for k in range(step, step + count)])
        tokens_KBT = self.ids[(starts_KB[..., None] + np.arange(self.seq_len + 1)) % len(self.ids)]
        resets = [self.regime == "window" or k % self.steps_per_epoch == 0 for k in range(step, step + count)]
        return Batch(
            x_BT=tokens_KBT[..., :-1],
            y_BT=tokens_KBT[..., 1:],
            weight_BT=np.ones(tokens_KBT[..., 1:].shape, np.uint8),
            reset_B=np.broadcast_to(np.array(resets)[:, None], starts_KB.shape).copy(),
        )

    def _starts(self, step: int) -> np.ndarray:
        """The position of each row's first token [B], to be taken modulo the length of the text."""
        epoch, within = divmod(step, self.steps_per_epoch)
        rows = np.arange(self.batch_size)
        if self.regime == "stream":
            offset, _ = _order(self.seed, epoch, len(self.ids), 0)
            return offset + (rows * self.steps_per_epoch + within) * self.seq_len
        offset, slices = _order(self.seed, epoch, len(self.ids), len(self.ids) // self.seq_len)
        return offset + slices[within * self.batch_size + rows] * self.seq_len


def steps_per_epoch(tokens: int, batch_size: int, seq_len: int) -> int:
    """Returns the steps of an epoch. Tokens that do not fill a step are left out, different ones in each epoch."""
    return tokens // seq_len // batch_size


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int, slices: int) -> tuple[int, np.ndarray]:
    """The offset at which an epoch starts, and the order in which it takes the independent slices."""
    rng = np.random.default_rng((seed, epoch))
    return int(rng.integers(length)), rng.permutation(slices)
