"""The settings of `experiments.article_2019` differ as they say, and its first is measured as the article did."""

import itertools
import shutil
from pathlib import Path

import pytest

from configs import c150
from experiments.article_2019 import settings
from experiments.study import measure
from lovecraft_jax.config import Config, flatten
from lovecraft_jax.run import load_run
from tests.helpers.runs import rows

STUDY = settings.get_study()
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
"""The fields that each setting of the ladder and of the recipe changes."""


def test_each_setting_of_the_ladder_changes_only_its_own_fields() -> None:
    names = [name for name, _, _ in settings.ladder()]
    flat = {name: flatten(Config.of(STUDY.config(name))) for name in names}
    assert flat[settings.FIRST] == flatten(Config.of(c150.get_config("article")))
    for before, name in itertools.pairwise(names):
        assert {key for key in flat[name] if flat[name][key] != flat[before][key]} == CHANGED[name], name
    best = Config.of(STUDY.config(settings.BEST))
    differences = best.differences(Config.of(c150.get_config("plain")))
    assert [line.partition(":")[0] for line in differences] == ["train.epochs"]  # the study sets steps instead


def test_the_recipe_leads_from_plain_to_c150_with_one_change_at_a_time() -> None:
    names = [settings.BEST, *(name for name, _, _ in settings.recipe())]
    flat = {name: flatten(Config.of(STUDY.config(name))) for name in names}
    for before, name in itertools.pairwise(names):
        assert {key for key in flat[name] if flat[name][key] != flat[before][key]} == CHANGED[name], name
    differences = Config.of(STUDY.config(settings.RECIPE)).differences(Config.of(c150.get_config()))
    dropout = [f"model.dropout{name}: None -> 0.0" for name in ("_input", "_recurrent", "")]
    assert differences == [*dropout, "train.epochs: None -> 850.0"]  # the study sets steps instead


def test_side_questions_change_one_field_or_two_that_belong_together() -> None:
    best, now = (flatten(Config.of(STUDY.config(name))) for name in (settings.BEST, settings.RECIPE))
    in_order = {name for name, _, _ in (*settings.ladder(), *settings.recipe())}
    for name in STUDY.configs.keys() - in_order:
        config = flatten(Config.of(STUDY.config(name)))
        changed = {key for key in config if config[key] != (now if name.startswith("now-") else best)[key]}
        assert changed, name
        pairs = {"data.seq_len", "data.regime"}, {"model.norm", "optimizer.lr"}
        assert len(changed) == 1 or changed in pairs, (name, changed)


@pytest.mark.slow
def test_the_articles_recipe_is_measured_generating_and_teacher_forced(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "LENGTH", 300)
    workdir = shutil.copytree(trained, tmp_path / "run")
    generated, predicted = measure.measure(STUDY, "article", workdir, 7.0)
    assert (generated["text"], predicted["text"]) == ("written", "teacher_forced")
    assert generated["seconds"] == 7.0
    assert generated["valid_bpc"] == predicted["valid_bpc"] == rows(trained)[-2]["bpc"]
    assert {key for key in generated if generated[key] != predicted[key]} > {"word_length", "letters_tv"}
    assert [row["text"] for row in measure.measure(STUDY, "clip", workdir, 7.0)] == ["written"]
    (pieces,) = STUDY.more_texts("article", load_run(str(workdir))).values()
    assert list(map(len, pieces)) == [300] * measure.STREAMS
