"""The workload of every system: the same sizes, tokens and recipe."""

import functools
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from configs import c150
from lovecraft_jax.config import Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.data.dataset import Data, make_batches, prepare
from lovecraft_jax.model.cuda.division import LayerForm, choose_division
from lovecraft_jax.model.cuda.launch import this_gpu
from lovecraft_jax.model.lm import make_model
from lovecraft_jax.runtime.errors import UserError

SIZES = {
    "c100": {"units": 100, "batch_size": 64, "seq_len": 50},
    "c125": {"units": 125, "batch_size": 64, "seq_len": 30},
    "c150": {"units": 150, "batch_size": 64, "seq_len": 50},
    "c150-b32": {"units": 150, "batch_size": 32, "seq_len": 50},
    "u512": {"units": 512, "batch_size": 32, "seq_len": 50, "steps_per_dispatch": 4},
    "u1024": {"units": 1024, "batch_size": 32, "seq_len": 50, "steps_per_dispatch": 4},
    "c150-b512": {"units": 150, "batch_size": 512, "seq_len": 50},
    "u512-b64": {"units": 512, "batch_size": 64, "seq_len": 100},
    "u512-b512": {"units": 512, "batch_size": 512, "seq_len": 100},
    "u1024-b128": {"units": 1024, "batch_size": 128, "seq_len": 100},
    "u1024-b512": {"units": 1024, "batch_size": 512, "seq_len": 100},
    "tiny": {"units": 16, "batch_size": 8, "seq_len": 8},
}
"""Sizes of two LSTM layers between an embedding of 64 and a softmax. The carry is passed on from step to step. The last
is for tests of the benchmarks."""

SIZES_BY_DEVICE = {
    "cpu": ["c150"],
    "gpu": ["c150", "u512-b64", "u1024-b128", "c150-b512", "u512-b512", "u1024-b512"],
}
"""What is measured where --sizes does not say it."""

VARIANTS = {
    "recipe": {},
    "layer_gates": {"norm": "layer_gates"},
    "coupled": {"input_gate": "coupled"},
    "skip": {"skip": True},
    "dropout": {"dropout": 0.2, "dropout_input": 0.05, "dropout_recurrent": 0.1},
    "best": {"skip": True, "embed": 128, "dropout": 0.35, "dropout_input": 0.0875, "dropout_recurrent": 0.175},
}
"""What differs in config.model from the recipe of configs/c150.py. "best" has the layers of configs/best.py, with the
dropout rates that 1,024 units give it."""

BACKENDS = ("scan", "fused", "blocks", "wavefront", "native", "cuda")
DTYPES = ("float32", "bfloat16")

CHARACTERS_A_CALL = 1000
"""Characters of each stream that one call generates."""


def get_config(name: str) -> ConfigDict:
    """Returns c150:plain with the sizes of that name, on the bundled tales, which need no download."""
    config = c150.get_config("plain")
    config.data.corpus = "bundled"
    config.train.steps_per_dispatch = 20
    for section in (config.model, config.data, config.train):
        section.update({key: size for key, size in SIZES[name].items() if key in section})
    return config


def with_changes(config: ConfigDict, changes: Sequence[str]) -> ConfigDict:
    """Returns a copy of `config` with changes: one of VARIANTS, BACKENDS or DTYPES each."""
    config = config.copy_and_resolve_references()
    for change in changes:
        if change in VARIANTS:
            _follow_recipe(config, change)
        elif change in BACKENDS:
            config.model.backend = change
        elif change in DTYPES:
            config.model.dtype = change
        else:
            raise ValueError(f"unknown change {change!r}; known: {', '.join([*VARIANTS, *BACKENDS, *DTYPES])}")
    return config


def checked(config: ConfigDict) -> Config:
    """Returns the typed config. Raises UserError for wrong values, and where backend="cuda" would run as "fused"."""
    typed = Config.of(config)
    model, rows = typed.model, typed.data.batch_size
    form = LayerForm(model.units, model.norm, model.input_gate, model.dropout_recurrent > 0, model.dtype)
    if model.backend == "cuda" and choose_division(form, rows, this_gpu()) is None:
        raise UserError(
            f"backend='cuda' has no kernel for {model.units} units in {model.dtype}; it would run as 'fused'"
        )
    return typed


def _follow_recipe(config: ConfigDict, variant: str) -> None:
    """Sets the recipe that configs/c150.py has now, but for what VARIANTS changes."""
    recipe = c150.get_config()
    config.optimizer, config.train.average = recipe.optimizer, recipe.train.average
    for name in ("norm", "input_gate", "init_scale"):
        config.model[name] = recipe.model[name]
    config.model.update(VARIANTS[variant])


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
    model = make_model(config, text().tokenizer.size, "scan")
    return 3 * model.flops_per_token() * config.data.batch_size * config.data.seq_len
