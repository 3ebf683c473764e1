"""Runs of each kind of tokenizer with small random models, whose greedy text does not hang on rounding errors."""

import functools
from typing import Any

import numpy as np

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.data.bpe_tokenizer import BpeTokenizer
from lovecraft_jax.data.char_tokenizer import CharTokenizer
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.data.tokenizer import Tokenizer
from lovecraft_jax.data.word_tokenizer import WordTokenizer
from lovecraft_jax.export.weights import SETTINGS
from lovecraft_jax.model.lm import LanguageModel
from lovecraft_jax.run import Run
from tests.helpers.untrained import random_variables

UNITS = 10
TEXT = (
    "The old house by the sea was older than the sea.\n\n\nNobody walked to the house; the 1st of us who had walked\n"
    "there saw a café — and the thing's sea-green eyes, and heard the thing's older, oldest song.\n"
    "     *     *\nAn old sea!\n"
) * 2
UNICODE = make_cleaning("unicode")
LEVELS: dict[str, dict[str, Any]] = {
    "chars": {"level": "chars"},
    "bpe": {"level": "bpe", "vocab_size": 280},
    "spell": {"level": "words", "rare": "spell"},
    "class": {"level": "words", "rare": "class"},
    "cluster": {"level": "words", "rare": "cluster"},
    "unk": {"level": "words", "rare": "unk"},
    "drop": {"level": "words", "rare": "drop"},
    "no rare words": {"level": "words", "rare": "spell", "min_count": 1},
}
"""Settings of config.data for each kind of tokenizer, by what becomes of rare words."""


def make_run(tokenizer: Tokenizer, scale: float = 0.6, seed: int = 0, **settings: Any) -> Run:
    """A run of a small model with random weights."""
    given = {"layers": 2, "units": UNITS, "embed": 6} | settings
    model = LanguageModel(tokenizer.size, **given)
    config = tiny.get_config()
    config.model.update({name: getattr(model, name) for name in SETTINGS})
    return Run(Config.of(config), tokenizer, model, random_variables(model, scale, seed), 0, {})


@functools.cache
def small_run(name: str) -> Run:
    """A run of each kind of tokenizer, whose model gives little probability to what is not in TEXT."""
    normed = {"norm": "layer_gates", "input_gate": "coupled"}
    run = {
        "chars": lambda: make_run(CharTokenizer.of(TEXT, UNICODE), 0.7, seed=5, embed=0),
        "normed": lambda: make_run(CharTokenizer.of(TEXT, UNICODE), 1.0, seed=3, **normed),
        "bpe": lambda: make_run(BpeTokenizer.of(TEXT, UNICODE, 300), 1.0, seed=2, skip=True, cell="gru"),
        "words": lambda: make_run(WordTokenizer.of(TEXT, UNICODE, "spell", 4, 1000), 1.0, cell="gru"),
        "words, no rare ones": lambda: make_run(WordTokenizer.of(TEXT, UNICODE, "drop", 4, 1000), 1.0, cell="gru"),
    }[name]()
    is_known_V = np.isin(np.arange(run.tokenizer.size), run.tokenizer.encode(TEXT).ids)
    run.variables["params"]["head_bias"][~is_known_V] -= 5
    run.variables["params"]["head_bias"][UNKNOWN_ID] = 5  # likely, but never generated
    return run
