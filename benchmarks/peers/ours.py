"""This project: the program that `lovecraft_jax.train` runs, fed as its loop feeds it."""

from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from benchmarks.workloads import batches, text
from lovecraft_jax.mesh import cores_that_pay
from lovecraft_jax.program import make_program


def train(config: ConfigDict) -> Callable[[int], None]:
    """K steps a dispatch, as configured."""
    cores = cores_that_pay(config) if jax.default_backend() == "cpu" else 1  # as train.py does
    program = make_program(config, text().vocab.size, 10_000, cores)
    feed = batches(config, config.train.steps_per_dispatch)
    state = program.init(0)

    def steps(count: int) -> None:
        nonlocal state
        for _ in range(0, count, config.train.steps_per_dispatch):
            state, _metrics = program.train_steps(state, program.put(next(feed)))
        jax.block_until_ready(state)

    return steps
