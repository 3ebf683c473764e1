"""Scores over seeds: medians, Student's intervals, the order of points, and runs that have no score."""

import math

import pytest

from lovecraft_jax.sweep.grid import Point
from lovecraft_jax.sweep.runs import Outcome
from lovecraft_jax.sweep.table import Result, Scores, compare_best, format_table, sorted_results


def result(lr: float, *valid: float | None) -> Result:
    """A point whose runs have these valid scores, and as test scores 1 more; None: not finite at step 7."""
    outcomes = [
        Outcome(40, True, score, score + 1, None, 2.0) if score else Outcome(7, False, minutes=1.0) for score in valid
    ]
    return Result(Point(f"optimizer.lr={lr}", (), {"optimizer.lr": lr}, {}), dict(enumerate(outcomes)))


def test_the_interval_is_students() -> None:
    scores = Scores.of([1.0, 2.0, 6.0])
    # Three values have two degrees of freedom: 4.3027 standard errors of the mean, which are sqrt(7 / 3) here.
    assert (scores.median, scores.mean) == (2.0, 3.0)
    assert scores.half_width == pytest.approx(4.3027 * math.sqrt(7 / 3), rel=1e-4)
    assert math.isnan(Scores.of([1.0]).half_width)


def test_points_are_sorted_by_their_median_and_a_failed_seed_counts_as_the_worst() -> None:
    results = [
        result(0.3, None, None),
        result(0.2, 1.5, 1.6, 1.7),
        result(0.4, 1.1, None, None),
        result(0.1, 1.0, 9.0, 1.4),
    ]
    assert [found.point.values["optimizer.lr"] for found in sorted_results(results)] == [0.1, 0.2, 0.3, 0.4]
    assert [found.has_score for found in sorted_results(results)] == [True, True, False, False]


def test_the_table_has_a_line_a_point_and_says_which_seeds_failed() -> None:
    lines = format_table(sorted_results([result(0.2, 1.5, 1.7), result(0.1, 1.0, None)])).splitlines()
    assert [line.split() for line in lines] == [
        ["optimizer.lr", "valid", "mean,", "95", "%", "test", "mean,", "95", "%", "seeds", "minutes"],
        ["0.2", "1.6000", "1.6000", "±", "1.2706", "2.6000", "2.6000", "±", "1.2706", "2", "2.0"],
        ["0.1", "-", "-", "2", "1.5", "seed", "1:", "not", "finite", "at", "step", "7"],
    ]


def test_a_seed_that_is_no_better_than_guessing_is_named() -> None:
    learnt, guess = (Outcome(40, valid=valid, test=7.0, is_guess=valid > 6) for valid in (2.0, 6.5))
    assert Result(Point("", (), {}, {}), {0: learnt, 3: guess}).remark == "seed 3: no better than guessing"


def test_the_best_point_is_compared_with_the_others() -> None:
    assert compare_best([result(0.2, 1.5, 1.501)]) == []
    (line,) = compare_best([result(0.2, 1.5, 1.501), result(0.3, 1.505, 1.507), result(0.4, 1.9, 1.901)])
    assert line == "other points with an interval that overlaps the best one's: 1 of 2"
    (line,) = compare_best([result(0.2, 1.5, 1.501), result(0.4, 1.9, 1.901), result(0.6, 1.6, 1.7, None)])
    assert line == "other points with an interval that overlaps the best one's: 0 of 2; without an interval: 1"
    (line,) = compare_best([result(0.2, 1.5, 1.501, None), result(0.4, 1.9, 1.901, 1.902)])
    assert line.startswith("the best point has no interval")
    assert compare_best([result(0.2, None, None), result(0.4, None, None)]) == []
    (line,) = compare_best([result(0.2, 1.5), result(0.3, 1.6)])
    assert "with one seed" in line
