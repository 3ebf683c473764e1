"""Chooses the settings that a config leaves None, by the size of the text: epochs, dropout, how often to evaluate."""

import math
from collections.abc import Mapping, Sequence

from lovecraft_jax.config import Config
from lovecraft_jax.data.dataset import Data
from lovecraft_jax.model.lm import count_parameters, make_model
from lovecraft_jax.training.progress import Progress
from lovecraft_jax.training.state import weights_target

REFERENCE_EPOCHS = {"chars": 16.0, "bpe": 9.0, "words": 9.0}
REFERENCE_CHARACTERS, MOST_EPOCHS = 2_600_000, 64.0
"""A training text of REFERENCE_CHARACTERS characters is read for REFERENCE_EPOCHS epochs, by what a token is; another
one for as many times sqrt(REFERENCE_CHARACTERS / its characters), at most MOST_EPOCHS."""
DROPOUT, DROPOUT_PER_DOUBLING = {"chars": 0.2, "bpe": 0.2, "words": 0.3}, 0.08
"""The dropout rate of the outputs where the model has one parameter for each training character, by what a token is,
and what each doubling of that adds. Words need more: most occur only a few times, and a model soon overfits to them."""
DROPOUT_UNIT, MOST_DROPOUT = 0.05, 0.5
"""The rate is a multiple of the first, and at most the second."""
INPUT_SHARE, RECURRENT_SHARE = 0.25, 0.5
"""The dropout rates of the input and of h, as shares of that of the outputs."""
EVALUATIONS, EVAL_UNIT, MOST_EVAL_EVERY = 13, 100, 1000
"""The evaluations of a run, if the steps between two, a multiple of EVAL_UNIT, are then at most MOST_EVAL_EVERY."""
EVAL_ROWS = 32
"""Rows in which a scheduled score reads valid, if it has as many tokens."""
RATES = {"dropout": "of outputs", "dropout_input": "of the input", "dropout_recurrent": "of h"}


def choose_settings(config: Config, data: Data) -> tuple[Config, str]:
    """Returns `config` with a value for every setting that is None (epochs, dropout rates, steps between evaluations,
    rows of scheduled scores), and a line that says what was chosen and why; "" if the config gives epochs and dropout
    rates."""
    text, open_settings = data.encoded["train"], config.open_settings
    if not open_settings:
        return config, ""
    size = model_size(config, data.tokenizer.size) / text.n_chars
    level = config.data.level
    epochs = 0.0 if config.train.steps else choose_epochs(text.n_chars, level)
    config = _fill(config, {"train.epochs": epochs, "model.dropout": choose_dropout(size, level)})
    rates = {"model.dropout_input": INPUT_SHARE, "model.dropout_recurrent": RECURRENT_SHARE}
    config = _fill(config, {name: round(share * config.model.dropout, 6) for name, share in rates.items()})
    progress = Progress(config.data.batch_size, config.data.seq_len, len(text.ids), text.n_chars)
    every, rows = choose_eval_every(progress.total_steps(config.train)), min(EVAL_ROWS, len(data.encoded["valid"].ids))
    config = _fill(config, {"train.eval_every": every, "train.eval_rows": max(1, rows)})
    return config, _describe(config, open_settings, text.n_chars, size)


def choose_epochs(characters: int, level: str) -> float:
    """Returns the epochs over a training text of so many characters, at least one."""
    epochs = REFERENCE_EPOCHS[level] * math.sqrt(REFERENCE_CHARACTERS / characters)
    return float(max(1, round(min(MOST_EPOCHS, epochs))))


def choose_dropout(parameters_per_character: float, level: str) -> float:
    """Returns the dropout rate of the layers' outputs, rounded down to a multiple of DROPOUT_UNIT."""
    rate = DROPOUT[level] + DROPOUT_PER_DOUBLING * math.log2(parameters_per_character)
    units = math.floor(max(0.0, min(MOST_DROPOUT, rate)) / DROPOUT_UNIT + 1e-9)
    return round(units * DROPOUT_UNIT, 6)


def choose_eval_every(steps: int) -> int:
    """Returns how many steps to train between two evaluations, for a run of so many."""
    return min(MOST_EVAL_EVERY, max(1, round(steps / EVALUATIONS / EVAL_UNIT)) * EVAL_UNIT)


def model_size(config: Config, vocab_size: int) -> int:
    """Returns the number of parameters of the model of a config."""
    weights = weights_target(make_model(config, vocab_size, "scan"))
    assert weights.variables is not None
    return count_parameters(weights.variables)


def _fill(config: Config, values: Mapping[str, float]) -> Config:
    """Returns `config` with those of `values` whose settings are None."""
    return config.replace(**{name: value for name, value in values.items() if name in config.open_settings})


def _describe(config: Config, chosen: Sequence[str], characters: int, size: float) -> str:
    model, parts = config.model, []
    if "train.epochs" in chosen and not config.train.steps:
        parts.append(f"{config.train.epochs:g} epochs, because the training text has {characters:,} characters")
    if rates := [f"{getattr(model, key):g} {label}" for key, label in RATES.items() if f"model.{key}" in chosen]:
        why = f"the model has {size:.2f} parameters for each character"
        if "model.dropout" not in chosen:
            why = f"that of outputs is {model.dropout:g}"
        parts.append(f"dropout {', '.join(rates)}, because {why}")
    if parts and "train.eval_every" in chosen:
        parts.append(f"a score every {config.train.eval_every:,} steps")
    return "; ".join(parts)
