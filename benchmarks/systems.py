"""What is measured, by name: for every system, the function that makes it ready.

Each gives a function that runs so many training steps to their end, or writes so many characters of each stream. A peer
is imported where it runs, in a process of its own.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

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


def _products() -> Any:
    from benchmarks.peers import products

    return products


TRAIN: dict[str, Callable[[ConfigDict], Run]] = {
    "lovecraft_jax": lambda config: _ours().train(config),
    "PyTorch, eager": lambda config: _pytorch().train(config, compiled=False),
    "PyTorch, compiled": lambda config: _pytorch().train(config, compiled=True),
    "Keras, as in 2019": lambda config: _keras().train_as_article(config),
    "Keras": lambda config: _keras().train_at_best(config, xla=False),
    "Keras, XLA": lambda config: _keras().train_at_best(config, xla=True),
    "Flax, plain": lambda config: _flax().train(config),
}

PRODUCTS: dict[str, Callable[[ConfigDict], Run]] = {
    "product in numpy": lambda config: _products().in_numpy(config),
    "product in jax": lambda config: _products().in_jax(config),
    "product in torch": lambda config: _products().in_torch(config),
}
"""Large matrix products, the best of which is the roof."""

WRITE: dict[str, Callable[[ConfigDict, int], Run]] = {
    "lovecraft_jax": lambda config, streams: _ours().write(config, streams, printing=False),
    "lovecraft_jax, printing": lambda config, streams: _ours().write(config, streams, printing=True),
    "products alone": lambda config, streams: _ours().products_alone(config, streams),
    "PyTorch": lambda config, streams: _pytorch().write(config, streams),
    "PyTorch, LSTMCell": lambda config, streams: _pytorch().write_by_cells(config, streams),
    "Keras": lambda config, streams: _keras().write(config, streams),
    "Flax, plain": lambda config, streams: _flax().write(config, streams),
}
