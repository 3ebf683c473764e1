"""This project: the programs of `lovecraft_jax.train` and `lovecraft_jax.sample`, with the same input pipeline."""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.workloads import CHARACTERS_A_CALL, batches, checked, text
from lovecraft_jax.inference.generate import encode_prompt, generate_tokens
from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.model.lm import make_model
from lovecraft_jax.run import STREAM_CHUNK
from lovecraft_jax.training.compiled import COMPILER_OPTIONS, make_program, make_stacked_steps, stack_trees

TOTAL_STEPS = 10_000
"""Of the learning rate's schedule."""


def train(config: ConfigDict) -> Callable[[int], None]:
    """K steps a dispatch, as configured."""
    program = make_program(checked(config), text().tokenizer.size, TOTAL_STEPS)
    feed = batches(config, config.train.steps_per_dispatch)
    state = program.init(0)

    def steps(count: int) -> None:
        nonlocal state
        for _ in range(0, count, config.train.steps_per_dispatch):
            state, _metrics = program.train_steps(state, program.put(next(feed)))
        jax.block_until_ready(state)

    return steps


def train_stacked(config: ConfigDict, runs: int) -> Callable[[int], None]:
    """K steps a dispatch of each of so many runs, whose seeds differ, as one program."""
    seeds, K, vocab_size = range(runs), config.train.steps_per_dispatch, text().tokenizer.size
    typed = [checked(config).replace(seed=seed) for seed in seeds]
    train_steps = make_stacked_steps(typed, vocab_size, TOTAL_STEPS, jax.devices()[0])
    init = make_program(typed[0], vocab_size, TOTAL_STEPS).init
    state = stack_trees([init(seed) for seed in seeds])
    feeds = [batches(ConfigDict(one.to_dict()), K) for one in typed]

    def steps(count: int) -> None:
        nonlocal state
        for _ in range(0, count, K):
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *map(next, feeds))
            state, _metrics = train_steps(state, stacked)
        jax.block_until_ready(state)

    return steps


def generate(config: ConfigDict, streams: int, printing: bool = False) -> Callable[[int], None]:
    """Texts as `sample` generates them, all at once or printed as they are generated."""
    tokenizer, model = text().tokenizer, make_model(checked(config), text().tokenizer.size)
    variables = jax.jit(lambda: model.init(jax.random.key(0), model.initial_carry(1), jnp.zeros((1, 1), jnp.int32)))()
    prompt = encode_prompt(tokenizer, config.sample.prompt).ids
    chunk = STREAM_CHUNK if printing else None
    out = open(os.devnull, "w")

    def characters(count: int) -> None:
        for seed in range(count // CHARACTERS_A_CALL):
            for ids_SN in generate_tokens(
                model, variables, prompt, CHARACTERS_A_CALL, seed, Sampling(), streams, chunk
            ):
                texts = [tokenizer.decode(ids) for ids in ids_SN]
                if printing:
                    out.write(texts[0])
                    out.flush()

    return characters


def matmuls_alone(config: ConfigDict, streams: int) -> Callable[[int], None]:
    """A bare compiled loop of the matmuls that a character needs, each depending on the one before it."""
    units, layers, V = config.model.units, config.model.layers, text().tokenizer.size
    rng = np.random.default_rng(0)
    draw = lambda *shape: jax.device_put(rng.standard_normal(shape, np.float32) / shape[0])  # noqa: E731
    first, head = draw(units, 4 * units), draw(units, V)
    others = [draw(2 * units, 4 * units) for _ in range(layers - 1)]

    def one(_: int, h_SH: jax.Array) -> jax.Array:
        h_SH = (h_SH @ first)[:, :units]
        for kernel in others:
            h_SH = (jnp.concatenate([h_SH, h_SH], axis=1) @ kernel)[:, :units]
        return h_SH + (h_SH @ head)[:, :1]

    options = COMPILER_OPTIONS.get(jax.default_backend())
    loop = jax.jit(lambda h_SH: jax.lax.fori_loop(0, CHARACTERS_A_CALL, one, h_SH), compiler_options=options)
    h_SH = draw(streams, units)

    def characters(count: int) -> None:
        for _ in range(count // CHARACTERS_A_CALL):
            np.asarray(loop(h_SH))

    return characters
