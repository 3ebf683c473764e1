"""The settings of `experiments.words` differ in what its questions ask; runs are measured in characters."""

import json
import sys
from pathlib import Path

import pytest

from configs import bpe, c150, tiny, words
from experiments.study import jobs, main, measure, plan, results, samples, training
from experiments.words import __main__ as study_of_words
from experiments.words.settings import get_study
from lovecraft_jax.config import Config, flatten
from lovecraft_jax.data import corpus, dataset
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.splits import Splits
from lovecraft_jax.data.word_tokenizer import WordTokenizer
from lovecraft_jax.inference.generate import Sampling
from lovecraft_jax.model.lm import make_model
from lovecraft_jax.probing.word_costs import costs_by_frequency
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.errors import DONE, WRONG_INPUT
from lovecraft_jax.training.settings_by_size import (
    REFERENCE_CHARACTERS,
    choose_dropout,
    choose_settings,
    model_size,
)
from tests.experiments.conftest import Main
from tests.helpers.untrained import random_variables

STUDY = get_study()
ASKED = {
    "tokens": {"data.vocab_size", "model.softmax_head"},
    "rare": {"data.rare"},
    "min-count": {"data.min_count", "data.vocab_size"},
}
"""What the settings of each question may change of a config of configs/."""


def test_each_setting_differs_from_its_config_only_in_what_its_question_asks() -> None:
    for question in STUDY.questions:
        assert question.baseline in {entry.setting for entry in question.entries}
        for entry in question.entries:
            base = c150 if entry.setting == "chars" else bpe if entry.setting.startswith("bpe") else words
            found, wanted = (flatten(Config.of(config)) for config in (STUDY.config(entry.setting), base.get_config()))
            changed = {key for key in found if found[key] != wanted[key]} - {"train.adaptive", "model.dropout"}
            assert changed <= (set() if base is c150 else ASKED[question.name]), entry.setting
            assert found["train.adaptive"] is False
    assert len({json.dumps(flatten(Config.of(config))) for config in STUDY.configs.values()}) == len(STUDY.configs)


def test_the_baselines_are_what_their_labels_say() -> None:
    data = Config.of(STUDY.config("words")).data
    assert (data.level, data.rare, data.min_count) == ("words", "spell", 2)


@pytest.mark.parametrize(("setting", "size"), [("chars", 82), ("bpe-2000", 2000), ("words", 16_513)])
def test_the_dropout_of_each_level_is_the_one_that_all_tales_get(setting: str, size: int) -> None:
    config = Config.of(STUDY.config(setting))
    parameters = model_size(config, size) / REFERENCE_CHARACTERS
    assert config.model.dropout == choose_dropout(parameters, config.data.level)


def test_no_dropout_is_chosen_by_the_size_of_a_setting() -> None:
    rates = {Config.of(config).data.level: Config.of(config).model.dropout for config in STUDY.configs.values()}
    for setting, config in STUDY.configs.items():
        typed = Config.of(config)
        assert typed.model.dropout == rates[typed.data.level] is not None, setting


def test_the_policies_for_rare_words_train_for_the_same_steps() -> None:
    rare = next(question for question in STUDY.questions if question.name == "rare")
    assert len({STUDY.same_cost_as(entry.setting) for entry in rare.entries}) == 1
    assert STUDY.same_cost_as("min-count-3") == "min-count-3"


def test_the_samples_are_of_the_first_seed_of_each_setting_that_has_rows(tmp_path: Path) -> None:
    rows = [
        {"setting": setting, "seed": seed, "sample": f"{setting} {seed}\n\nnext"}
        for setting, seed in (("words", 0), ("words", 1), ("chars", 1))
    ]
    samples.write(STUDY, tmp_path, rows)
    blocks = (tmp_path / samples.FILE).read_text().split("```")[1::2]
    assert blocks == ["text\nchars 1\n\nnext\n", "text\nwords 0\n\nnext\n"]


@pytest.mark.parametrize("rare", ["spell", "drop"])
def test_texts_are_as_long_as_asked_whatever_becomes_of_rare_words(rare: str) -> None:
    tokenizer = WordTokenizer.of("A cat sat. A cat ran. A cat sat on.", make_cleaning("ascii"), rare, 2, 100)
    text = tokenizer.encode("A cat sat. A salamander ran. A cat sat on.")
    generated = tokenizer.decode(text.ids, None if rare == "drop" else text.spelled)
    assert ("salamander" in generated) == (rare == "spell")
    assert measure.count_tokens(text, 10 * len(generated)) == 10 * len(text.ids)


def test_rows_of_one_setting_have_samples_but_no_table_and_the_log_says_why(
    tmp_path: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "find_slots", lambda count: [""])
    code, _, errors = run_main(study_of_words, "--draw", f"--to={tmp_path}")
    assert (code, f"{tmp_path}: no rows.csv with rows to draw; train first" in errors) == (WRONG_INPUT, True)

    row = {"setting": "chars", "seed": 0, "text": "written", "valid_bpc": 2.0, "sample": samples.PROMPT}
    row |= {"corpus": corpus.load("bundled").sha256[: results.SHORT], "seconds": 1.0, "steps": 20}
    measured = tmp_path / "chars-0" / training.MEASURED
    measured.parent.mkdir()
    measured.write_text(json.dumps([row]))
    why = f"{tmp_path}: rows of chars alone compare nothing; train another setting of tokens"
    code, _, errors = run_main(study_of_words, "chars", "--smoke", f"--workdir={tmp_path}")
    assert (code, errors.splitlines()[-1]) == (DONE, why)
    assert samples.PROMPT in (tmp_path / samples.FILE).read_text()
    assert not (tmp_path / "table.md").exists()
    code, _, errors = run_main(study_of_words, "--draw", f"--to={tmp_path}")
    assert (code, errors.splitlines()[-1]) == (WRONG_INPUT, why)


@pytest.mark.slow
def test_every_setting_can_be_planned_on_the_smoke_runs_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["it", "--smoke"])
    args = main.parse_flags(STUDY)
    assert (args.seconds, args.seeds, args.corpus, args.workdir.name) == (1.0, 1, "bundled", "words-smoke")
    for setting in STUDY.configs:
        config = STUDY.config(setting)
        config.data.corpus, config.train.steps = args.corpus, plan.DISPATCH
        data = dataset.prepare(Config.of(config))
        chosen, _ = choose_settings(Config.of(config), data)
        assert not chosen.open_settings
        assert model_size(chosen, data.tokenizer.size) > 0


@pytest.fixture(scope="module")
def run() -> Run:
    """A run of words that learnt nothing."""
    config = tiny.get_config()
    config.data.level, config.data.vocab_size = "words", 400
    typed = Config.of(config)
    data = dataset.prepare(typed)
    model = make_model(typed, data.tokenizer.size)
    recorded = {"name": data.name, "sha256": data.sha256} | data.splits.facts
    return Run(typed, data.tokenizer, model, random_variables(model, 0.1), 0, recorded)


@pytest.mark.slow
def test_generated_texts_have_about_as_many_characters_whatever_a_token_is(run: Run) -> None:
    texts = measure.generate(run, "", 2000, Sampling(1.0), 4)
    assert all(len(text) <= 2000 for text in texts)
    assert len("".join(texts)) > 6000


@pytest.mark.slow
def test_words_are_measured_by_their_frequency_and_drawn_from_the_rows(
    run: Run, tmp_path: Path, run_main: Main
) -> None:
    splits = dataset.prepare(run.config).splits
    row = {"setting": "words", "seed": 0, "text": "written", "valid_bpc": run.score(run.split("valid")).bpc}
    row |= STUDY.more_scores(run, splits)
    costs = costs_by_frequency(run, splits.text["train"], [splits.text["valid"]])
    assert [row[f"bpc_{least}"] for least in (0, 1, 2, 10, 100)] == [group.bpc for group in costs]
    assert sum(group.bits for group in costs) / len(splits.text["valid"]) == pytest.approx(row["valid_bpc"], rel=1e-5)
    assert row["ids"] == run.tokenizer.size
    assert row["sample"].startswith(samples.PROMPT)
    repeated = Splits({}, {}, {}, lambda: {"train": {"itself": row["sample"]}})
    assert samples.generate_sample(run, repeated).startswith("[left out: it shares ")

    results.merge(STUDY, tmp_path, [row | {"setting": setting} for setting in ("words", "chars")])
    assert results.read(STUDY, tmp_path)[1] == row
    assert run_main(study_of_words, "--draw", f"--to={tmp_path}")[0] == DONE
    assert (tmp_path / samples.FILE).read_text().count(samples.PROMPT) == 3
    assert (tmp_path / "words.svg").exists()
