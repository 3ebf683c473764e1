"""The ladder is what it says, its figures are right, and its runs survive whatever stops them."""

import math
import shutil
import sys
from pathlib import Path

import pytest

from configs import c150
from experiments.article_2019 import __main__ as article
from experiments.article_2019 import experiments, figure, plan, results, table, training
from lovecraft_jax.config import Config, flatten
from lovecraft_jax.runtime.errors import DONE
from tests.helpers.runs import rows

CHANGED = {
    "cross-entropy": {"train.loss"},
    "carry": {"data.regime"},
    "clip": {"optimizer.clip"},
    "schedule": {f"optimizer.{key}" for key in ("lr", "schedule", "warmup", "beta2", "eps", "eps_hat")}
    | {"data.batch_size"},
    "embedding": {"model.embed"},
    "dropout": {"model.dropout"},
}
"""What each rung of the ladder changes of the one before it."""


def test_each_rung_changes_what_it_says_and_no_more() -> None:
    flat = {name: flatten(Config.of(experiments.get_config(name))) for name, _, _ in experiments.LADDER}
    assert flat["article"] == flatten(Config.of(c150.get_config("article")))
    for (before, _, _), (name, _, _) in zip(experiments.LADDER, experiments.LADDER[1:], strict=False):
        assert {key for key in flat[name] if flat[name][key] != flat[before][key]} == CHANGED[name], name
    best = Config.of(experiments.get_config(experiments.BEST))
    told = best.differences(Config.of(c150.get_config()))
    assert [line.partition(":")[0] for line in told] == ["train.epochs"]  # the benchmark gives steps instead


@pytest.mark.parametrize("name", experiments.settings())
def test_every_setting_is_a_config_that_can_train(name: str) -> None:
    Config.of(experiments.get_config(name))


def test_side_questions_change_one_thing_of_c150_or_two_of_the_context() -> None:
    best = flatten(Config.of(experiments.get_config(experiments.BEST)))
    ladder = [name for name, _, _ in experiments.LADDER]
    for name in set(experiments.settings()) - set(ladder):
        config = flatten(Config.of(experiments.get_config(name)))
        changed = {key for key in config if config[key] != best.get(key)}
        assert changed <= {"data.seq_len", "data.regime"} or len(changed) == 1, (name, changed)
        assert changed


def test_settings_whose_steps_cost_the_same_train_for_the_same_steps() -> None:
    paced = {name: experiments.paced_as(name) for name in experiments.settings()}
    same = {name for name in paced if paced[name] == experiments.BEST}
    rates = {f"rate-{rate}" for rate in ("0.001", "0.002", "0.004", "0.016", "constant")}
    assert same == {"embedding", "forget-0", "tales-10", "tales-25", "tales-50"} | rates
    assert all(paced[name] == name for name in paced if name not in same)


def test_steps_are_found_out_once_and_are_those_of_the_rows_that_are_there(tmp_path: Path) -> None:
    about = {"corpus": "0123", "seconds": 10.0}
    rows_ = [row | {"steps": 700} for row in line_of("tales-10", [2.0])]
    begun = plan.Plan(tmp_path, about, rows_)
    assert (begun.steps("rate-0.001"), begun.steps("clip")) == (700, None)
    assert plan.Plan(tmp_path, about, []).steps("embedding") == 700
    begun.add("clip", 3.3)
    begun.add("carry", 0.01)
    again = plan.Plan(tmp_path, about, [])
    assert [again.steps(name) for name in ("embedding", "clip", "carry")] == [700, 40, 20]


def test_a_gain_and_its_interval_are_those_of_welch() -> None:
    ladder = line_of("embedding", [2.0, 2.1, 2.2]), line_of("dropout", [1.0, 1.2, 1.4])
    _, last = results.lines([row for rows_ in ladder for row in rows_])[:2]
    # Variances 0.01 and 0.04, three each: standard error sqrt(0.05 / 3) = 0.1291, degrees of freedom
    # 2 (0.01 + 0.04)^2 / (0.01^2 + 0.04^2) = 2.941, for which t = 3.2197.
    assert last.gain == pytest.approx((0.9, 0.9 - 3.2197 * 0.1291, 0.9 + 3.2197 * 0.1291), abs=2e-4)
    assert last.half_width == pytest.approx(4.3027 * 0.2 / math.sqrt(3), rel=1e-4)  # two degrees
    assert last.verdict == "better"


def test_a_question_of_which_only_the_common_setting_is_there_has_no_lines() -> None:
    best = line_of(experiments.BEST, [2.0, 2.1])
    assert {line.question for line in results.lines(best)} == {"ladder"}
    of_rate = [line for line in results.lines([*best, *line_of("rate-0.001", [2.2])]) if line.question == "rate"]
    assert [line.rung.setting for line in of_rate] == ["rate-0.001", experiments.BEST]


def test_a_rung_is_held_against_the_one_just_before_it_or_against_none() -> None:
    rows_ = [*line_of("article", [4.0]), *line_of("clip", [3.0]), *line_of("schedule", [2.5])]
    gains = {line.rung.setting: line.gain[0] for line in results.lines(rows_)}
    assert gains == {"article": pytest.approx(math.nan, nan_ok=True), "clip": pytest.approx(math.nan, nan_ok=True)} | {
        "schedule": 0.5
    }


@pytest.mark.parametrize(
    ("bpc", "verdict"),
    [([2.0, 2.01], "better"), ([2.9, 2.91], "worse"), ([2.3, 2.7], "no clear difference"), ([1.9], "")],
)
def test_a_difference_is_claimed_only_where_the_interval_leaves_out_none(bpc: list[float], verdict: str) -> None:
    found = results.lines([*line_of("clip", [2.45, 2.46]), *line_of("schedule", bpc)])
    assert [line.verdict for line in found] == ["", verdict]


def test_new_rows_take_the_place_of_old_ones_and_leave_others(tmp_path: Path) -> None:
    old = [*line_of("carry", [2.0, 3.0]), *line_of("article", [4.0]), *line_of("article", [5.0], "teacher_forced")]
    results.keep(tmp_path, old)
    results.keep(tmp_path, line_of("carry", [1.0]))
    kept = {(row["setting"], row["seed"], row["text"]): row["valid_bpc"] for row in results.read(tmp_path)}
    assert kept == {
        ("carry", 0, "written"): 1.0,
        ("carry", 1, "written"): 3.0,
        ("article", 0, "written"): 4.0,
        ("article", 0, "teacher_forced"): 5.0,
    }
    before = (tmp_path / results.ROWS).read_text()
    results.keep(tmp_path, [])
    assert (tmp_path / results.ROWS).read_text() == before


def test_table_and_figure_can_be_drawn_again_from_the_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bpc = {name: 4.0 - 0.25 * n for n, name in enumerate(experiments.settings())}
    written = [row for name, mean in bpc.items() for row in line_of(name, [mean, mean + 0.1])]
    results.keep(tmp_path / "a", [*written, *line_of("article", [4.0, 4.1], "teacher_forced")])
    assert run(monkeypatch, "--draw", "--to", tmp_path / "a") == DONE
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / results.ROWS, tmp_path / "b")
    assert run(monkeypatch, "--draw", "--to", tmp_path / "b") == DONE
    for name in (results.ROWS, "table.csv", "table.md", figure.FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_no_label_can_break_the_markdown(tmp_path: Path) -> None:
    rung = experiments.Rung("clip", "a | b\nc")
    found = [results.Line("ladder", rung, tuple(line_of("clip", [2.0])), (math.nan,) * 3)]
    table.write(tmp_path, found)
    written = (tmp_path / "table.md").read_text().splitlines()[2:]
    assert len({line.replace("\\|", "").count("|") for line in written}) == 1
    assert written[2].startswith("| a \\| b c | 2.000 |")


def test_what_the_articles_recipe_had_for_writing_is_measured_beside_what_it_writes(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "LENGTH", 300)
    workdir = shutil.copytree(trained, tmp_path / "run")
    written, guessed = training.measure("article", workdir, 7.0)
    assert (written["text"], guessed["text"]) == ("written", "teacher_forced")
    assert written["seconds"] == 7.0
    assert written["valid_bpc"] == guessed["valid_bpc"] == rows(trained)[-2]["bpc"]
    assert {key for key in written if written[key] != guessed[key]} > {"word_length", "letters_tv"}
    assert [row["text"] for row in training.measure("clip", workdir, 7.0)] == ["written"]


def line_of(setting: str, bpc: list[float], text: str = "written") -> list[results.Row]:
    """Rows of so many seeds."""
    return [{"setting": setting, "seed": n, "text": text, "valid_bpc": each} for n, each in enumerate(bpc)]


def run(monkeypatch: pytest.MonkeyPatch, *given: object) -> int:
    """The benchmark, in this process."""
    monkeypatch.setattr(sys, "argv", ["article", *map(str, given)])
    return article.main()
