"""Data parallelism over the cores of a CPU, without collectives, so that it cannot hang.

For layers that XLA computes: the layers in C++ (model/native) share out their work among threads themselves.

As one device, a CPU trains small layers on little more than one core: their matmuls are too small to be worth
splitting. Several devices of one client share its threads, and XLA still splits every matmul among all of them: the two
halves of c150's gradient take 28 ms side by side where each alone takes 19. With a collective they hang, because a
device that waits holds threads that another device's matmuls need. Here every core has a client of its own, with one
thread: 20.5 ms. Each core computes the gradient of its rows, and the host sends these to all cores, one flat vector
each. Each core then adds them up and updates all parameters, so that they stay the same on all cores.
"""

import dataclasses
import functools
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxlib import xla_client

from lovecraft_jax.config import NORMS_OF_BATCH, Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model import backend
from lovecraft_jax.model.dropout import DropoutRates
from lovecraft_jax.model.lm import Carry, LanguageModel, Variables
from lovecraft_jax.runtime.hardware import core_count
from lovecraft_jax.training.optimizer import Optimizer
from lovecraft_jax.training.state import TrainState
from lovecraft_jax.training.step import Metrics, Sums, make_gradient, make_update

MIN_FLOPS = 1e9
"""FLOPs of a step that is worth splitting: the exchange between cores takes 1 ms, in which one does a fifth of it."""
MAX_UNITS = 256
"""Units of the widest layer that is split: between 150, where more cores are faster, and 512, where two take as long as
one device, 120 ms a step, even with their loops in C++ (batch 32, 50 characters, AMD EPYC Zen 5)."""
MIN_ROWS = 8
"""Rows of a batch for each core. Chosen, not measured: there were only two cores to measure on."""


def best_core_count(config: Config) -> int:
    """Returns the number of this machine's cores that train `config` fastest, each as a device: one where the layer
    runs in C++, which uses all cores by itself, and where batch norms need collectives."""
    cores, model, data = core_count(), config.model, config.data
    if model.norm in NORMS_OF_BATCH or model.units > MAX_UNITS or backend.resolve_backend(model) == "native":
        return 1
    flops = 6 * (8 * model.layers * model.units**2) * data.batch_size * data.seq_len
    return max(1, min(cores, data.batch_size // MIN_ROWS)) if flops > MIN_FLOPS else 1


def core_devices(count: int) -> list[jax.Device]:
    """Returns `count` devices of one thread each, the same ones at every call."""
    return [_make_client(index).devices()[0] for index in range(count)]


@functools.cache
def _make_client(index: int) -> Any:
    del index
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = "1"  # the number of threads that a CPU client starts
    try:
        return xla_client.make_cpu_client(num_devices=1)
    finally:
        del os.environ["NPROC"]
        if before is not None:
            os.environ["NPROC"] = before


def put_rows(cores: Sequence[jax.Device], batches: Batch) -> list[Batch]:
    """Sends each core its rows of K steps' batches; returns them by core."""
    parts = [np.split(leaf, len(cores), axis=1) for leaf in batches]
    return [jax.device_put(Batch(*part), core) for core, part in zip(cores, zip(*parts, strict=True), strict=True)]


def make_core_steps(
    model: LanguageModel,
    optimizer: Optimizer,
    shapes: TrainState,
    cores: Sequence[jax.Device],
    rates: DropoutRates,
    options: dict[str, Any] | None,
    average: float = 0.0,
    tensors_every: int = 0,
) -> Callable[[TrainState, list[Batch]], tuple[TrainState, Metrics]]:
    """Returns what `step.make_train_steps` does, compiled with `options`, for batches as `put_rows` returns them. The
    state, of these `shapes`, is not donated, and returns to the device that it came from."""
    rows = np.arange(len(jax.tree.leaves(shapes.carry)[0]), dtype=np.int32).reshape(len(cores), -1)
    gradient, update = make_gradient(model), make_update(optimizer, average, tensors_every)
    bce = jnp.float32(0) if model.loss == "binary_cross_entropy" else None
    compiled = functools.partial(jax.jit, compiler_options=options)

    @compiled
    def row_gradients(
        state: TrainState, batches: Batch, rates: DropoutRates, rows_B: jax.Array, k: int
    ) -> tuple[jax.Array, Carry, Variables]:
        batch = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, k, 0, keepdims=False), batches)
        masks = model.dropout_masks(jax.random.fold_in(state.rng, state.step), rates, rows.size)
        sums, carry, changed = gradient(state.variables, state.carry, batch, masks.rows(rows_B))
        return ravel_pytree(sums)[0], carry, changed

    @compiled
    def add_and_update(
        state: TrainState, sums_N: list[jax.Array], carry: Carry, changed: Variables, healthy: jax.Array
    ) -> tuple[TrainState, jax.Array, Metrics]:
        _, unravel = ravel_pytree(Sums(jnp.float32(0), jnp.float32(0), state.variables["params"], bce))
        after, metrics = update(state, unravel(functools.reduce(jnp.add, sums_N)), carry, changed, healthy)
        return after, healthy & metrics["finite"], metrics

    def train_steps(state: TrainState, batches: list[Batch]) -> tuple[TrainState, Metrics]:
        home, carry = jax.tree.map(operator.attrgetter("sharding"), state), jax.tree.map(np.asarray, state.carry)
        parts = [dataclasses.replace(state, carry=jax.tree.map(operator.itemgetter(part), carry)) for part in rows]
        states = [jax.device_put(part, core) for part, core in zip(parts, cores, strict=True)]
        healthy = [jax.device_put(np.True_, core) for core in cores]
        metrics: list[Metrics] = []
        for k in range(len(batches[0].x_BT)):
            arguments = zip(states, batches, rows, strict=True)
            gradients = [row_gradients(state, part, rates, rows_B, k) for state, part, rows_B in arguments]
            results = []
            for core, state, ok, (_, carry, changed) in zip(cores, states, healthy, gradients, strict=True):
                sums_N = [jax.device_put(sums, core) for sums, _, _ in gradients]
                results.append(add_and_update(state, sums_N, carry, changed, ok))
            states, healthy, step_metrics = map(list, zip(*results, strict=True))
            metrics.append(step_metrics[0])  # the same on all cores
        carries = [jax.tree.map(np.asarray, state.carry) for state in states]
        after = dataclasses.replace(states[0], carry=jax.tree.map(lambda *rows_BH: np.concatenate(rows_BH), *carries))
        return jax.device_put(after, home), jax.tree.map(lambda *steps: np.stack(steps), *jax.device_get(metrics))

    return train_steps
