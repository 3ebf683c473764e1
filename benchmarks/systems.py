"""The measured systems by name. Each prepares a function that runs so many training steps, or generates so many
characters of each stream. A peer's library is imported only in the process that runs it.
"""

import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from benchmarks import workloads

Run = Callable[[int], None]


def _ours() -> Any:
    from benchmarks.peers import ours

    return ours


def _flax() -> Any:
    from benchmarks.peers import flax_plain

    return flax_plain


def _pytorch() -> Any:
    from benchmarks.peers import pytorch

    return pytorch


def _keras() -> Any:
    from benchmarks.peers import keras_tf

    return keras_tf


def _matmuls() -> Any:
    from benchmarks.peers import matmuls

    return matmuls


def _train_variant(name: str, config: ConfigDict) -> Run:
    run: Run = _ours().train(workloads.with_recipe(config, name))
    return run


TRAIN: dict[str, Callable[[ConfigDict], Run]] = {
    "lovecraft_jax": lambda config: _ours().train(config),
    "PyTorch, eager": lambda config: _pytorch().train(config, compiled=False),
    "PyTorch, compiled": lambda config: _pytorch().train(config, compiled=True),
    "Keras, as in 2019": lambda config: _keras().train_as_article(config),
    "Keras": lambda config: _keras().train_at_best(config, xla=False),
    "Keras, XLA": lambda config: _keras().train_at_best(config, xla=True),
    "Flax, plain": lambda config: _flax().train(config),
}

TRAIN_VARIANTS: dict[str, Callable[[ConfigDict], Run]] = {
    f"lovecraft_jax, {name}": functools.partial(_train_variant, name) for name in workloads.VARIANTS
}
"""TRAIN's systems train c150:plain; these train the recipe of configs/c150.py, or one change of it."""

MATMULS: dict[str, Callable[[ConfigDict], Run]] = {
    "matmul in numpy": lambda config: _matmuls().in_numpy(config),
    "matmul in jax": lambda config: _matmuls().in_jax(config),
    "matmul in torch": lambda config: _matmuls().in_torch(config),
}
"""Large matmuls. The fastest is the peak that training is compared with."""

GENERATE: dict[str, Callable[[ConfigDict, int], Run]] = {
    "lovecraft_jax": lambda config, streams: _ours().generate(config, streams, printing=False),
    "lovecraft_jax, printing": lambda config, streams: _ours().generate(config, streams, printing=True),
    "matmuls alone": lambda config, streams: _ours().matmuls_alone(config, streams),
    "PyTorch": lambda config, streams: _pytorch().generate(config, streams),
    "PyTorch, LSTMCell": lambda config, streams: _pytorch().generate_by_cells(config, streams),
    "Keras": lambda config, streams: _keras().generate(config, streams),
    "Flax, plain": lambda config, streams: _flax().generate(config, streams),
}
