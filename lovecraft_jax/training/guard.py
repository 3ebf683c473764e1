"""Whether a run still gets better, and whether it has learnt anything: from the scores that metrics.jsonl has."""

import math
from collections.abc import Iterable, Mapping, Sequence

from lovecraft_jax.data.tokenizer import Encoded
from lovecraft_jax.runtime.files import Row

WORSE_AFTER, WORSE_BY = 3, 0.01
"""Evaluations without an improvement, and bits per character above the best score, from which on a run is said to get
worse: less than both is often noise."""


class ValidScores:
    """The scheduled valid scores of a run, in bits per character and in the order of their steps. `rows`: of
    metrics.jsonl; rows of other scores are ignored."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._scores: list[tuple[int, float]] = []
        for row in rows:
            if row["split"] == "valid" and row.get("scoring") == "scheduled":
                self.add(row["step"], row["bpc"])

    def add(self, step: int, bpc: float | None) -> None:
        """Adds the next score. One that is not finite, None in metrics.jsonl, is worse than any other."""
        self._scores.append((step, bpc if bpc is not None and math.isfinite(bpc) else math.inf))

    def __len__(self) -> int:
        return len(self._scores)

    @property
    def first(self) -> tuple[int, float]:
        return self._scores[0]

    @property
    def last(self) -> tuple[int, float]:
        return self._scores[-1]

    @property
    def best(self) -> tuple[int, float]:
        """The step and the score of the first evaluation with the lowest score: it has the best checkpoint."""
        return min(self._scores, key=lambda score: score[1])

    @property
    def without_improvement(self) -> int:
        """How many evaluations there were since the best one."""
        return len(self) - 1 - self._scores.index(self.best) if self._scores else 0

    @property
    def is_getting_worse(self) -> bool:
        return self._is_worse_at(len(self) - 1)

    @property
    def began_to_get_worse(self) -> bool:
        """Whether the run is getting worse now and was not at any evaluation before, since its best one."""
        return self.is_getting_worse and not any(map(self._is_worse_at, range(len(self) - 1)))

    def describe_worse(self) -> str:
        """Returns since when the run has been getting worse, in one line."""
        (best_step, best), (step, bpc) = self.best, self.last
        return (
            f"WARNING: getting worse since step {best_step:,}: valid {best:.4f} bpc there, {bpc:.4f} at step {step:,}, "
            f"no improvement in {self.without_improvement} evaluations"
        )

    def _is_worse_at(self, number: int) -> bool:
        """Whether evaluation `number`, from 0, was so long after the best one of all, and so much above it."""
        best = self._scores.index(self.best) if self._scores else 0
        return number >= best + WORSE_AFTER and self._scores[number][1] > self.best[1] + WORSE_BY


def uniform_bpc(text: Encoded, vocab_size: int) -> float:
    """Returns the bits per character of a text where all tokens of the vocabulary are equally likely."""
    return (len(text.ids) * math.log(vocab_size) + text.extra_nats) / text.n_chars / math.log(2)


def final_warnings(scores: ValidScores, final: Sequence[Row], uniform: Mapping[str, float]) -> list[str]:
    """Returns what a reader of the final rows must know, a line each: that nothing was learnt, or not for long.
    `uniform`: `uniform_bpc` of each split."""
    guesses = [row for row in final if row["bpc"] is None or row["bpc"] >= uniform[row["split"]]]
    if guesses:
        split, bpc = guesses[0]["split"], guesses[0]["bpc"]
        return [
            f"WARNING: {split} {math.inf if bpc is None else bpc:,.4f} bpc is no better than guessing, where all "
            f"tokens are equally likely ({uniform[split]:.4f} bpc): this run has learnt nothing; start another one "
            "with a lower optimizer.lr"
        ]
    if len(scores) > 1 and scores.best == scores.first:
        (step, first), (last_step, last) = scores.first, scores.last
        return [
            f"WARNING: no evaluation was better than the first: valid {first:.4f} bpc at step {step:,}, {last:.4f} at "
            f"step {last_step:,}; start another run with a lower optimizer.lr, or evaluate earlier (train.eval_every)"
        ]
    ended_by_patience = any("patience" in row for row in final)
    return [scores.describe_worse()] if scores.is_getting_worse and not ended_by_patience else []
