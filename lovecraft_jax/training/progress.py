"""Training steps as characters, epochs and seconds: the one place that converts them, whatever a token is."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from lovecraft_jax.config import TrainConfig
from lovecraft_jax.data.batches import steps_per_epoch
from lovecraft_jax.runtime.files import Row


@dataclasses.dataclass(frozen=True)
class Progress:
    """The size of a step, and the `tokens` and `characters` of the training split. BPE dropout trains on more and
    shorter tokens of the same text: `tokens_with_dropout` in the first epoch, and about as many in the others."""

    batch_size: int
    seq_len: int
    tokens: int
    characters: int
    tokens_with_dropout: int = 0  # 0: no dropout

    @classmethod
    def of(cls, batch_size: int, seq_len: int, corpus: Mapping[str, Any]) -> "Progress":
        """Reads the training split's size from corpus.json. Older runs recorded no tokens: theirs are characters."""
        characters, with_dropout = corpus["characters"], corpus.get("tokens_with_dropout", 0)
        return cls(batch_size, seq_len, corpus.get("tokens", characters)["train"], characters["train"], with_dropout)

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.seq_len

    @property
    def chars_per_token(self) -> float:
        """Characters of a token of training rows, on average over the training split."""
        return self.characters / (self.tokens_with_dropout or self.tokens)

    @property
    def chars_per_step(self) -> float:
        """Characters that a step trains on, on average over the training split."""
        return self.tokens_per_step * self.chars_per_token

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.tokens, self.batch_size, self.seq_len)

    def epochs(self, step: int) -> float:
        return step / self.steps_per_epoch

    def total_steps(self, config: TrainConfig) -> int:
        """Steps of a whole run: train.steps, or where that is 0 as many as train.epochs take."""
        return config.steps or math.ceil(config.epochs * max(1, self.steps_per_epoch))

    def bpc(self, loss: float) -> float:
        return loss / math.log(2) / self.chars_per_token

    def seconds(self, rows: Iterable[Row]) -> float:
        """Time that the training steps took, without evaluations, from the rows of metrics.jsonl."""
        before, seconds = 0, 0.0
        for row in rows:
            if row["split"] == "train" and row["chars_per_second"]:
                seconds += (row["step"] - before) * self.chars_per_step / row["chars_per_second"]
                before = row["step"]
        return seconds
