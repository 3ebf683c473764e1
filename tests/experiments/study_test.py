"""The machinery of a study, here the article's: how long its runs train, its table and its figure."""

import math
import shutil
from pathlib import Path

import pytest

from experiments.article_2019 import __main__ as article
from experiments.article_2019.settings import get_study
from experiments.study import plan, results
from experiments.study.study import Row
from lovecraft_jax.runtime.errors import DONE
from tests.experiments.conftest import Main

STUDY = get_study()


def test_steps_come_from_finished_rows_or_the_throughput_and_are_kept(tmp_path: Path) -> None:
    about = {"corpus": "0123", "seconds": 10.0}
    first = plan.Plan(STUDY, tmp_path, about, [row | {"steps": 700} for row in rows_of("tales-10", [2.0])])
    assert (first.steps("rate-0.001"), first.steps("clip")) == (700, None)
    assert plan.Plan(STUDY, tmp_path, about, []).steps("embedding") == 700
    assert first.to_measure(["rate-0.001", "clip", "carry"]) == ["embedding", "clip", "carry"]
    first.add({"clip": 3.3})  # without the reference nothing says how fast the rows' machine is
    assert first.steps("clip") is None
    first.add({"embedding": 7.0, "clip": 3.4, "carry": 0.01})  # its 700 steps take 100 s here
    again = plan.Plan(STUDY, tmp_path, about, [])
    assert [again.steps(name) for name in ("embedding", "clip", "carry")] == [700, 340, 20]


def test_without_rows_the_steps_are_those_that_fit_into_the_time_here(tmp_path: Path) -> None:
    new = plan.Plan(STUDY, tmp_path, {"corpus": "0123", "seconds": 10.0}, [])
    assert new.to_measure(["clip", "tales-10"]) == ["clip", "embedding"]
    new.add({"clip": 3.3, "embedding": 70.0})
    assert [new.steps(name) for name in ("clip", "rate-0.001")] == [40, 700]


def test_gain_and_its_interval_are_those_of_welch() -> None:
    _, last = results.lines(STUDY, [*rows_of("embedding", [2.0, 2.1, 2.2]), *rows_of("dropout", [1.0, 1.2, 1.4])])[:2]
    # Variances 0.01 and 0.04, three each: standard error sqrt(0.05 / 3) = 0.1291, degrees of freedom
    # 2 (0.01 + 0.04)^2 / (0.01^2 + 0.04^2) = 2.941, for which t = 3.2197.
    assert last.gain == pytest.approx((0.9, 0.9 - 3.2197 * 0.1291, 0.9 + 3.2197 * 0.1291), abs=2e-4)
    assert last.half_width == pytest.approx(4.3027 * 0.2 / math.sqrt(3), rel=1e-4)  # two degrees of freedom
    assert last.verdict == "better"


@pytest.mark.parametrize(
    ("bpc", "verdict"),
    [([2.0, 2.01], "better"), ([2.9, 2.91], "worse"), ([2.3, 2.7], "no clear difference"), ([1.9], "")],
)
def test_a_verdict_needs_an_interval_without_zero(bpc: list[float], verdict: str) -> None:
    lines = results.lines(STUDY, [*rows_of("clip", [2.45, 2.46]), *rows_of("schedule", bpc)])
    assert [line.verdict for line in lines] == ["", verdict]


def test_a_question_with_rows_of_its_first_entry_or_baseline_alone_is_left_out() -> None:
    lines = results.lines(STUDY, rows_of("embedding", [2.0, 2.1]))  # the first of "recipe", the baseline of others
    assert [line.question.name for line in lines] == ["ladder"]


def test_new_rows_replace_those_of_the_same_run_and_keep_the_others(tmp_path: Path) -> None:
    old = [*rows_of("carry", [2.0, 3.0]), *rows_of("article", [4.0]), *rows_of("article", [5.0], "teacher_forced")]
    results.merge(STUDY, tmp_path, old)
    results.merge(STUDY, tmp_path, rows_of("carry", [1.0]))
    merged = {(row["setting"], row["seed"], row["text"]): row["valid_bpc"] for row in results.read(STUDY, tmp_path)}
    written = {("carry", 0, "written"): 1.0, ("carry", 1, "written"): 3.0, ("article", 0, "written"): 4.0}
    assert merged == written | {("article", 0, "teacher_forced"): 5.0}


@pytest.mark.slow
def test_table_and_figure_are_reproduced_from_the_rows_alone(tmp_path: Path, run_main: Main) -> None:
    bpc = {name: 4.0 - 0.25 * n for n, name in enumerate(STUDY.configs)}
    generated = [row for name, mean in bpc.items() for row in rows_of(name, [mean, mean + 0.1])]
    results.merge(STUDY, tmp_path / "a", [*generated, *rows_of("article", [4.0, 4.1], "teacher_forced")])
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / results.ROWS, tmp_path / "b")
    for folder in tmp_path / "a", tmp_path / "b":
        assert run_main(article, "--draw", f"--to={folder}")[0] == DONE
    for name in (results.ROWS, "table.csv", "table.md", "article.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def rows_of(setting: str, bpc: list[float], text: str = "written") -> list[Row]:
    """Returns a row for each seed, with these scores."""
    return [{"setting": setting, "seed": n, "text": text, "valid_bpc": each} for n, each in enumerate(bpc)]
