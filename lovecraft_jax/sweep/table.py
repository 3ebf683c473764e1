"""The results of a sweep: a point's scores over its seeds, as a table, as JSON and as CSV."""

import csv
import dataclasses
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from lovecraft_jax.runtime.files import nan_to_none, write_json, write_text
from lovecraft_jax.sweep.grid import Point
from lovecraft_jax.sweep.runs import Outcome

LEVEL = 0.95
"""Confidence level of the intervals."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Bits per character over the seeds of a point: the median, the mean, and half the width of the mean's 95 %
    interval (Student's t), which is wide for few seeds, and NaN for one."""

    median: float
    mean: float
    half_width: float

    @classmethod
    def of(cls, scores: Sequence[float]) -> "Scores":
        """The scores of all seeds, infinite for a seed without one, which then counts as the worst."""
        return cls(statistics.median(scores), statistics.fmean(scores), half_width(scores))


def half_width(values: Sequence[float]) -> float:
    """Returns half the width of the LEVEL interval of the mean of some values (Student's t). NaN for fewer than two, or
    where one is not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    from scipy import stats  # takes a while, and most starts of a sweep end before they need it

    quantile = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / len(values) ** 0.5


@dataclasses.dataclass(frozen=True)
class Result:
    """A point with the outcome of each seed."""

    point: Point
    outcomes: dict[int, Outcome]

    def scores(self, name: str) -> Scores:
        """The final scores of the seeds: `valid`, `test` or `adaptive_test`."""
        found = [getattr(outcome, name) for outcome in self.outcomes.values()]
        return Scores.of([math.inf if score is None else score for score in found])

    @property
    def has_score(self) -> bool:
        """Whether more than half of its seeds have a final score that is finite."""
        return math.isfinite(self.scores("valid").median)

    @property
    def minutes(self) -> float:
        return statistics.median(outcome.minutes for outcome in self.outcomes.values())

    @property
    def remark(self) -> str:
        """What became of the seeds that have no final score, or one that says nothing; "" where all have learnt."""
        remarks = []
        for seed, outcome in self.outcomes.items():
            if not outcome.is_finite:
                remarks.append(f"seed {seed}: not finite at step {outcome.step:,}")
            elif not outcome.is_finished:
                remarks.append(f"seed {seed}: at step {outcome.step:,}")
            elif outcome.is_guess:
                remarks.append(f"seed {seed}: no better than guessing")
        return "; ".join(remarks)


def sorted_results(results: Sequence[Result]) -> list[Result]:
    """Returns the results by their median valid score, the best first, those without one last."""
    return sorted(results, key=lambda result: (result.scores("valid").median, result.point.name))


def format_table(results: Sequence[Result]) -> str:
    """Returns the table: a line a point, in the order of `results`."""
    adaptive = any(outcome.adaptive_test for result in results for outcome in result.outcomes.values())
    several = any(len(result.outcomes) > 1 for result in results)
    names = {"valid": "valid", "test": "test"} | ({"adaptive_test": "test, adaptive"} if adaptive else {})
    header = list(results[0].point.values)
    for title in names.values():
        header += [title, "mean, 95 %"] if several else [title]
    lines = [[*header, "seeds", "minutes", ""]]
    for result in results:
        cells = [str(value) for value in result.point.values.values()]
        for name in names:
            scores = result.scores(name)
            cells.append(_number(scores.median))
            if several:
                spread = "" if math.isnan(scores.half_width) else f"{scores.mean:.4f} ± {scores.half_width:.4f}"
                cells.append(spread)
        lines.append([*cells, str(len(result.outcomes)), f"{result.minutes:.1f}", result.remark])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ("  ".join(cell.rjust(width) for cell, width in zip(line[:-1], widths, strict=False)) for line in lines)
    return "\n".join(f"{text}  {line[-1]}".rstrip() for text, line in zip(aligned, lines, strict=True))


def compare_best(results: Sequence[Result]) -> list[str]:
    """Returns how sure it is that the first of some sorted results is the best: a line where there are others."""
    best, *others = [result.scores("valid") for result in results]
    if not others or math.isinf(best.median):
        return []
    if len(results[0].outcomes) == 1:
        return ["no intervals: with one seed nothing says how much of a difference is chance; --seeds=3 adds two"]
    if math.isnan(best.half_width):
        return ["the best point has no interval, since not all of its seeds have a final score"]
    compared = [one for one in others if not math.isnan(one.half_width)]
    close = [one for one in compared if one.mean - one.half_width <= best.mean + best.half_width]
    line = f"other points with an interval that overlaps the best one's: {len(close)} of {len(others)}"
    without = len(others) - len(compared)
    return [line + (f"; without an interval: {without}" if without else "")]


def write_results(folder: epath.Path, results: Sequence[Result], workdirs: Mapping[tuple[str, int], str]) -> None:
    """Writes results.json, an object a point, and results.csv, a line a run. `workdirs`: by point and seed."""
    points: list[dict[str, Any]] = []
    for result in results:
        runs = [
            {"seed": seed, "workdir": workdirs[result.point.name, seed]} | dataclasses.asdict(outcome)
            for seed, outcome in result.outcomes.items()
        ]
        scores = {name: dataclasses.asdict(result.scores(name)) for name in ("valid", "test", "adaptive_test")}
        points.append(
            {"name": result.point.name, "settings": dict(result.point.overrides)}
            | {name: nan_to_none(values) for name, values in scores.items()}
            | {"runs": [nan_to_none(run) for run in runs]}
        )
    write_json(folder / "results.json", points)
    lines = [point["settings"] | run for point in points for run in point["runs"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(folder / "results.csv", text.getvalue())


def _number(score: float) -> str:
    return f"{score:.4f}" if math.isfinite(score) else "-"
