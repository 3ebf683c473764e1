"""The settings of `experiments.article_2019` differ as they say, and its table and figures are right."""

import itertools
import math
import shutil
from pathlib import Path

import pytest

from configs import c150
from experiments.article_2019 import __main__ as article
from experiments.article_2019 import experiments, figure, plan, results, training
from lovecraft_jax.config import Config, flatten
from lovecraft_jax.runtime.errors import DONE
from tests.experiments.conftest import Main
from tests.helpers.runs import rows

CHANGED = {
    "cross-entropy": {"train.loss"},
    "carry": {"data.regime"},
    "clip": {"optimizer.clip"},
    "embedding": {"model.embed"},
    "dropout": {"model.dropout"},
}
CHANGED["schedule"] = {f"optimizer.{key}" for key in ("lr", "schedule", "warmup", "beta2", "eps", "eps_hat")}
CHANGED["schedule"] |= {"data.batch_size"}
CHANGED |= {
    "start": {"model.init_scale"},
    "capped": {"model.input_gate"},
    "gates": {"model.norm"},
    "decay": {"optimizer.name", "optimizer.lr", "optimizer.weight_decay"},
    "average": {"train.average"},
}
"""The fields that each rung of the ladder and of the recipe changes."""


def test_each_rung_of_the_ladder_changes_only_its_own_fields() -> None:
    names = [name for name, _, _ in experiments.ladder()]
    flat = {name: flatten(Config.of(experiments.get_config(name))) for name in names}
    assert flat[experiments.FIRST] == flatten(Config.of(c150.get_config("article")))
    for before, name in itertools.pairwise(names):
        assert {key for key in flat[name] if flat[name][key] != flat[before][key]} == CHANGED[name], name
    best = Config.of(experiments.get_config(experiments.BEST))
    differences = best.differences(Config.of(c150.get_config("plain")))
    assert [line.partition(":")[0] for line in differences] == ["train.epochs"]  # the study sets steps instead


def test_the_recipe_leads_from_plain_to_c150_with_one_change_a_rung() -> None:
    names = [experiments.BEST, *(name for name, _, _ in experiments.recipe())]
    flat = {name: flatten(Config.of(experiments.get_config(name))) for name in names}
    for before, name in itertools.pairwise(names):
        assert {key for key in flat[name] if flat[name][key] != flat[before][key]} == CHANGED[name], name
    differences = Config.of(experiments.get_config(experiments.RECIPE)).differences(Config.of(c150.get_config()))
    dropout = [f"model.dropout{name}: None -> 0.0" for name in ("_input", "_recurrent", "")]
    assert differences == [*dropout, "train.epochs: None -> 850.0"]  # the study sets steps instead


def test_side_questions_change_one_field_or_two_that_belong_together() -> None:
    best, now = (flatten(Config.of(experiments.get_config(name))) for name in (experiments.BEST, experiments.RECIPE))
    rungs = {name for name, _, _ in (*experiments.ladder(), *experiments.recipe())}
    for name in set(experiments.settings()) - rungs:
        config = flatten(Config.of(experiments.get_config(name)))
        changed = {key for key in config if config[key] != (now if name.startswith("now-") else best)[key]}
        assert changed, name
        pairs = {"data.seq_len", "data.regime"}, {"model.norm", "optimizer.lr"}
        assert len(changed) == 1 or changed in pairs, (name, changed)


def test_steps_come_from_finished_rows_or_the_throughput_and_are_kept(tmp_path: Path) -> None:
    about = {"corpus": "0123", "seconds": 10.0}
    first = plan.Plan(tmp_path, about, [row | {"steps": 700} for row in rows_of("tales-10", [2.0])])
    assert (first.steps("rate-0.001"), first.steps("clip")) == (700, None)
    assert plan.Plan(tmp_path, about, []).steps("embedding") == 700
    assert first.to_measure(["rate-0.001", "clip", "carry"]) == ["embedding", "clip", "carry"]
    first.add({"clip": 3.3})  # without the reference nothing says how fast the rows' machine is
    assert first.steps("clip") is None
    first.add({"embedding": 7.0, "clip": 3.4, "carry": 0.01})  # its 700 steps take 100 s here
    again = plan.Plan(tmp_path, about, [])
    assert [again.steps(name) for name in ("embedding", "clip", "carry")] == [700, 340, 20]


def test_without_rows_the_steps_are_those_that_fit_into_the_time_here(tmp_path: Path) -> None:
    new = plan.Plan(tmp_path, {"corpus": "0123", "seconds": 10.0}, [])
    assert new.to_measure(["clip", "tales-10"]) == ["clip", "embedding"]
    new.add({"clip": 3.3, "embedding": 70.0})
    assert [new.steps(name) for name in ("clip", "rate-0.001")] == [40, 700]


def test_gain_and_its_interval_are_those_of_welch() -> None:
    _, last = results.lines([*rows_of("embedding", [2.0, 2.1, 2.2]), *rows_of("dropout", [1.0, 1.2, 1.4])])[:2]
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
    lines = results.lines([*rows_of("clip", [2.45, 2.46]), *rows_of("schedule", bpc)])
    assert [line.verdict for line in lines] == ["", verdict]


def test_new_rows_replace_those_of_the_same_run_and_keep_the_others(tmp_path: Path) -> None:
    old = [*rows_of("carry", [2.0, 3.0]), *rows_of("article", [4.0]), *rows_of("article", [5.0], "teacher_forced")]
    results.merge(tmp_path, old)
    results.merge(tmp_path, rows_of("carry", [1.0]))
    merged = {(row["setting"], row["seed"], row["text"]): row["valid_bpc"] for row in results.read(tmp_path)}
    written = {("carry", 0, "written"): 1.0, ("carry", 1, "written"): 3.0, ("article", 0, "written"): 4.0}
    assert merged == written | {("article", 0, "teacher_forced"): 5.0}


@pytest.mark.slow
def test_table_and_figure_are_reproduced_from_the_rows_alone(tmp_path: Path, run_main: Main) -> None:
    bpc = {name: 4.0 - 0.25 * n for n, name in enumerate(experiments.settings())}
    generated = [row for name, mean in bpc.items() for row in rows_of(name, [mean, mean + 0.1])]
    results.merge(tmp_path / "a", [*generated, *rows_of("article", [4.0, 4.1], "teacher_forced")])
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / results.ROWS, tmp_path / "b")
    for folder in tmp_path / "a", tmp_path / "b":
        assert run_main(article, "--draw", f"--to={folder}")[0] == DONE
    for name in (results.ROWS, "table.csv", "table.md", figure.FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.slow
def test_the_articles_recipe_is_measured_generating_and_teacher_forced(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "LENGTH", 300)
    workdir = shutil.copytree(trained, tmp_path / "run")
    generated, predicted = training.measure("article", workdir, 7.0)
    assert (generated["text"], predicted["text"]) == ("written", "teacher_forced")
    assert generated["seconds"] == 7.0
    assert generated["valid_bpc"] == predicted["valid_bpc"] == rows(trained)[-2]["bpc"]
    assert {key for key in generated if generated[key] != predicted[key]} > {"word_length", "letters_tv"}
    assert [row["text"] for row in training.measure("clip", workdir, 7.0)] == ["written"]


def rows_of(setting: str, bpc: list[float], text: str = "written") -> list[results.Row]:
    """Returns a row for each seed, with these scores."""
    return [{"setting": setting, "seed": n, "text": text, "valid_bpc": each} for n, each in enumerate(bpc)]
