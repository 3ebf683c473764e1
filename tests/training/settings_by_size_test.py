"""What a run chooses for settings that are None: by the size of the text, logged, recorded and kept on resume."""

import json
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from configs import c150, c512, tiny
from lovecraft_jax.config import Config
from lovecraft_jax.data import dataset
from lovecraft_jax.model.dropout import DropoutRates
from lovecraft_jax.runtime.errors import DONE, UserError
from lovecraft_jax.training import loop, settings_by_size
from lovecraft_jax.training.display import startup_summary
from lovecraft_jax.training.progress import Progress

pytestmark = pytest.mark.usefixtures("unoptimized")


@pytest.mark.parametrize(
    ("characters", "epochs"), [(2_600_000, 16), (650_000, 32), (162_500, 64), (1000, 64), (26_000_000, 5), (10**12, 1)]
)
def test_a_quarter_of_the_text_is_read_twice_as_often_but_none_more_than_64_times(
    characters: int, epochs: float
) -> None:
    assert settings_by_size.choose_epochs(characters, "chars") == epochs


@pytest.mark.parametrize(
    ("parameters_per_character", "rate"),
    [(1.0, 0.2), (4.0, 0.35), (0.5, 0.1), (0.13, 0.0), (1e-6, 0.0), (6.0, 0.4), (1e6, 0.5)],
)
def test_dropout_grows_with_the_parameters_per_character(parameters_per_character: float, rate: float) -> None:
    assert settings_by_size.choose_dropout(parameters_per_character, "chars") == rate


@pytest.mark.parametrize("level", ["chars", "bpe", "words"])
def test_words_get_more_dropout_and_subwords_and_words_fewer_epochs(level: str) -> None:
    assert settings_by_size.choose_epochs(2_600_000, level) == (16 if level == "chars" else 9)
    assert settings_by_size.choose_dropout(1.0, level) == (0.3 if level == "words" else 0.2)


@pytest.mark.parametrize(("steps", "every"), [(13_024, 1000), (100_000, 1000), (1900, 100), (5200, 400), (1, 100)])
def test_a_run_is_evaluated_about_thirteen_times_but_every_thousand_steps_at_least(steps: int, every: int) -> None:
    assert settings_by_size.choose_eval_every(steps) == every


def test_a_value_that_is_given_stays_and_the_rates_of_input_and_h_follow_the_dropout() -> None:
    config = Config.of(c150.get_config()).replace(**{"data.corpus": "bundled", "model.dropout": 0.4})
    config = config.replace(**{"model.dropout_recurrent": 0.0, "train.steps": 7})
    chosen, line = settings_by_size.choose_settings(config, dataset.prepare(config))
    assert (chosen.model.dropout, chosen.model.dropout_input, chosen.model.dropout_recurrent) == (0.4, 0.1, 0.0)
    assert (chosen.train.epochs, chosen.train.steps, chosen.train.eval_every) == (0.0, 7, 100)
    said = "dropout 0.1 of the input, because that of outputs is 0.4; a score every 100 steps"
    assert (chosen.open_settings, line) == ([], said)


def test_the_line_says_what_was_chosen_and_why() -> None:
    config = Config.of(c512.get_config()).replace(**{"data.corpus": "bundled"})
    data = dataset.prepare(config)
    characters = data.encoded["train"].n_chars
    size = settings_by_size.model_size(config, data.tokenizer.size) / characters
    _, line = settings_by_size.choose_settings(config, data)
    assert line == (
        f"{settings_by_size.choose_epochs(characters, 'chars'):g} epochs, because the training text has {characters:,} "
        "characters; "
        f"dropout 0.5 of outputs, 0.125 of the input, 0.25 of h, because the model has {size:.2f} parameters for each "
        "character; "
        "a score every 300 steps"
    )


@pytest.mark.parametrize(
    ("steps", "epochs", "end"),
    [(7, 5.0, " epochs (train.steps; train.epochs=5 is not used)"), (7, 0.0, " epochs"), (0, 5.0, "5.00 epochs")],
)
def test_the_plan_names_epochs_that_do_nothing_beside_steps(steps: int, epochs: float, end: str) -> None:
    config = Config.of(tiny.get_config()).replace(**{"train.steps": steps, "train.epochs": epochs})
    data = dataset.prepare(config)
    size = Progress(config.data.batch_size, config.data.seq_len, len(data.encoded["train"].ids), 1)
    lines = startup_summary(config, data, 1, jax.devices(), size.total_steps(config.train), size)
    (line,) = [line for line in lines if line.startswith("steps ")]
    assert line.endswith(end)


def test_a_program_refuses_rates_that_are_still_to_be_chosen() -> None:
    with pytest.raises(ValueError, match="a dropout rate is None"):
        DropoutRates.of(Config.of(c150.get_config()).model)


def test_a_run_keeps_what_it_chose_when_it_resumes(
    config: ConfigDict, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    config.data.share = 0.05
    config.model.update({"layers": 1} | dict.fromkeys(("dropout", "dropout_input", "dropout_recurrent")))
    config.train.update({"steps": 0, "epochs": None, "eval_every": None, "eval_rows": None, "stop_at_step": 10})
    assert loop.train(config, str(tmp_path)) == DONE
    characters = json.loads((tmp_path / "corpus.json").read_text())["characters"]["train"]
    epochs = settings_by_size.choose_epochs(characters, "chars")
    assert f"\nchosen      {epochs:g} epochs, because the training text has {characters:,} " in capfd.readouterr().err
    recorded = json.loads((tmp_path / "config.json").read_text())
    rates = {name: recorded["model"][name] for name in ("dropout", "dropout_input", "dropout_recurrent")}
    assert rates == {"dropout": 0.15, "dropout_input": 0.0375, "dropout_recurrent": 0.075}
    assert (epochs, recorded["train"]["epochs"], recorded["train"]["eval_every"]) == (64, 64, 600)  # of 8,000 steps

    config.train.stop_at_step = 20
    assert loop.train(config, str(tmp_path)) == DONE
    err = capfd.readouterr().err
    assert "resuming at step 10" in err
    assert "chosen" not in err
    config.model.dropout = 0.3
    with pytest.raises(UserError, match=r"model\.dropout: 0\.15 -> 0\.3"):
        loop.train(config, str(tmp_path))
