"""The workload of every system: the same sizes, tokens and recipe."""

import functools
from collections.abc import Iterator

from ml_collections import ConfigDict

from configs import c150
from lovecraft_jax.config import Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.data.dataset import Data, make_batches, prepare
from lovecraft_jax.model.lm import make_model

SIZES = {
    "c100": {"units": 100, "batch_size": 64, "seq_len": 50},
    "c125": {"units": 125, "batch_size": 64, "seq_len": 30},
    "c150": {"units": 150, "batch_size": 64, "seq_len": 50},
    "c150-b32": {"units": 150, "batch_size": 32, "seq_len": 50},
    "u512": {"units": 512, "batch_size": 32, "seq_len": 50},
    "u1024": {"units": 1024, "batch_size": 32, "seq_len": 50},
}
"""Sizes of two LSTM layers between an embedding of 64 and a softmax. The carry is passed on from step to step."""

VARIANTS = {
    "recipe": {},
    "layer_gates": {"norm": "layer_gates"},
    "coupled": {"input_gate": "coupled"},
    "skip": {"skip": True},
    "dropout": {"dropout": 0.2, "dropout_input": 0.05, "dropout_recurrent": 0.1},
}
"""What differs in config.model from the recipe of configs/c150.py."""

CHARACTERS_A_CALL = 1000
"""Characters of each stream that one call generates."""


def get_config(name: str) -> ConfigDict:
    """Returns c150:plain with the sizes of that name, on the bundled tales, which need no download."""
    config = c150.get_config("plain")
    config.data.corpus = "bundled"
    config.train.steps_per_dispatch = 20 if SIZES[name]["units"] < 512 else 4
    for section in (config.model, config.data):
        section.update({key: size for key, size in SIZES[name].items() if key in section})
    return config


def with_recipe(config: ConfigDict, variant: str) -> ConfigDict:
    """Returns a copy of `config` with the recipe that configs/c150.py has now, but for what VARIANTS changes."""
    config, recipe = config.copy_and_resolve_references(), c150.get_config()
    config.optimizer, config.train.average = recipe.optimizer, recipe.train.average
    for name in ("norm", "input_gate", "init_scale"):
        config.model[name] = recipe.model[name]
    config.model.update(VARIANTS[variant])
    return config


@functools.cache
def text() -> Data:
    """Returns the bundled tales as token ids."""
    return prepare(get_config("c150"))


def batches(config: ConfigDict, steps_per_call: int) -> Iterator[Batch]:
    """Yields the training batches in order, `steps_per_call` stacked, each built when it is needed."""
    all_batches = make_batches(Config.of(config), text())
    step = 0
    while True:
        yield all_batches.at(step, steps_per_call)
        step += steps_per_call


def flops(config: ConfigDict) -> float:
    """Returns the floating-point operations of a training step's matmuls: forward, and twice as many backward."""
    model = make_model(Config.of(config), text().tokenizer.size, "scan")
    return 3 * model.flops_per_token() * config.data.batch_size * config.data.seq_len
