"""Early stopping (train.patience), and warnings where a run gets worse or has learnt nothing, from its valid scores."""

import math
from collections.abc import Iterable, Mapping

from lovecraft_jax.data.encoded import Encoded
from lovecraft_jax.runtime.files import Row

WORSE_AFTER, WORSE_BY = 3, 0.01
"""A run counts as getting worse from this many evaluations after its best one on, if its score is then more than this
many bits per character above the best: less is often noise."""


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
        """The number of evaluations since the best one, which train.patience limits."""
        return len(self) - 1 - self._scores.index(self.best) if self._scores else 0

    @property
    def is_getting_worse(self) -> bool:
        """Whether the last score is that of a run that gets worse (WORSE_AFTER, WORSE_BY)."""
        return self._is_worse_at(len(self) - 1)

    @property
    def began_to_get_worse(self) -> bool:
        """Whether the run is getting worse now and was not at any evaluation before, since its best one."""
        return self.is_getting_worse and not any(map(self._is_worse_at, range(len(self) - 1)))

    def describe_worse(self) -> str:
        """Returns the warning that the run is getting worse, and since which step, as one line."""
        (best_step, best), (step, bpc) = self.best, self.last
        return (
            f"WARNING: getting worse since step {best_step:,}: valid {best:.4f} bpc there, {bpc:.4f} at step {step:,}, "
            f"no improvement in {self.without_improvement} evaluations"
        )

    def _is_worse_at(self, number: int) -> bool:
        """Whether evaluation `number`, from 0, is as long after the best one of all, and as much above it, as the
        constants say."""
        best = self._scores.index(self.best) if self._scores else 0
        return number >= best + WORSE_AFTER and self._scores[number][1] > self.best[1] + WORSE_BY


def uniform_bpc(text: Encoded, vocab_size: int) -> float:
    """Returns the bits per character of a text where all tokens of the vocabulary are equally likely."""
    return (len(text.ids) * math.log(vocab_size) + text.extra_nats) / text.n_chars / math.log(2)


def final_warnings(scores: ValidScores, rows: Iterable[Row], uniform: Mapping[str, float]) -> list[str]:
    """Returns the warnings that belong beside the static final scores among `rows`, at most one line: that nothing was
    learnt, nothing after the first evaluation, or that the run got worse. `uniform`: `uniform_bpc` of each split."""
    final = [row for row in rows if row.get("scoring") == "final"]
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
