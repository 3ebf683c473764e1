"""Steps as characters, epochs and seconds, for tokens of one character and of several."""

import math

import pytest

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.training.progress import Progress

CORPUS = {"characters": {"train": 3000, "valid": 30}, "tokens": {"train": 1000, "valid": 11}}
"""Three characters a token."""


def test_characters_are_those_of_the_tokens() -> None:
    progress = Progress.of(4, 25, CORPUS)
    assert (progress.tokens_per_step, progress.chars_per_token, progress.chars_per_step) == (100, 3, 300)
    assert progress.bpc(6 * math.log(2)) == pytest.approx(2)


def test_epochs_count_the_steps_that_the_batches_make() -> None:
    progress = Progress.of(4, 30, CORPUS)
    assert progress.steps_per_epoch == 8  # 33 slices of 30 tokens in rows of 4
    assert progress.epochs(12) == 1.5


def test_a_corpus_json_without_tokens_is_one_of_characters() -> None:
    old = Progress.of(4, 25, {"characters": CORPUS["characters"]})
    assert (old.tokens, old.chars_per_step, old.steps_per_epoch) == (3000, 100, 30)


def test_a_run_is_as_long_as_its_steps_or_else_its_epochs() -> None:
    progress = Progress.of(4, 30, CORPUS)
    train = Config.of(tiny.get_config()).replace(**{"train.steps": 7, "train.epochs": 2.4}).train
    assert progress.total_steps(train) == 7
    train = Config.of(tiny.get_config()).replace(**{"train.steps": 0, "train.epochs": 2.4}).train
    assert progress.total_steps(train) == 20


def test_seconds_are_those_of_the_training_rows() -> None:
    rows = [
        {"step": 10, "split": "train", "chars_per_second": 300.0},
        {"step": 10, "split": "valid", "scoring": "scheduled"},
        {"step": 30, "split": "train", "chars_per_second": 600.0},
        {"step": 31, "split": "train", "chars_per_second": None},
    ]
    assert Progress.of(4, 25, CORPUS).seconds(rows) == pytest.approx(10 + 10)
