"""The cores of a CPU, each a device with a thread of its own, and no collective in any program: nothing can hang.

As one device a CPU trains small layers on little more than one core: their products are too small to be worth
splitting. Several devices of one client share its threads, among which every product is split all the same: the two
halves of c150's gradient take 28 ms side by side where each alone takes 19. Under a collective they hang, since a
device that waits holds threads that another one's products need. Here every core has a client of its own, with one
thread: 20.5 ms. Each computes the gradient of its rows; the host passes on what they found, as one flat vector each;
and each makes the same update, so that the weights need not travel.
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
import optax
from jax.flatten_util import ravel_pytree
from jaxlib import xla_client

from lovecraft_jax.batches import Batch
from lovecraft_jax.model import LSTMLM, Carry
from lovecraft_jax.state import TrainState, Variables
from lovecraft_jax.step import Metrics, Sums, make_gradient, make_update

Carries = tuple[Carry, Carry]
Options = dict[str, Any] | None


def core_devices(count: int) -> list[jax.Device]:
    """`count` devices of one thread each, the same ones at every call."""
    return [_client(index).devices()[0] for index in range(count)]


@functools.cache
def _client(index: int) -> Any:
    del index
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = "1"  # how many threads a CPU client starts
    try:
        return xla_client.make_cpu_client(num_devices=1)
    finally:
        del os.environ["NPROC"]
        if before is not None:
            os.environ["NPROC"] = before


def put_rows(cores: Sequence[jax.Device], batches: Batch) -> list[Batch]:
    """Each core's rows of K steps' batches, sent there."""
    parts = [np.split(leaf, len(cores), axis=1) for leaf in batches]
    return [jax.device_put(Batch(*part), core) for core, part in zip(cores, zip(*parts, strict=True), strict=True)]


def make_core_steps(
    model: LSTMLM,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    cores: Sequence[jax.Device],
    batch_size: int,
    options: Options,
) -> Callable[[TrainState, list[Batch]], tuple[TrainState, Metrics]]:
    """As `step.make_train_steps`, compiled, of batches as `put_rows` gives them; the state stays where it came from.

    `options` go to the compiler.
    """
    gradient, update = make_gradient(model), make_update(optimizer, schedule)
    B = batch_size
    rows = np.arange(B, dtype=np.int32).reshape(len(cores), -1)

    def of_rows(
        variables: Variables,
        rng: jax.Array,
        step: jax.Array,
        healthy: jax.Array,
        carries: Carries,
        batches: Batch,
        rows_B: jax.Array,
        k: int,
    ) -> tuple[jax.Array, Carries]:
        """Step k's sums over a core's rows [N], and the carry after it with the one before it."""
        batch = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, k, 0, keepdims=False), batches)
        masks = model.dropout_masks(jax.random.fold_in(rng, step), B)
        carry = _taken(healthy, carries)
        sums, after = gradient(variables, carry, batch, jax.tree.map(lambda mask_BH: mask_BH[rows_B], masks))
        return ravel_pytree(sums)[0], (after, carry)

    def of_all(state: TrainState, healthy: jax.Array, sums_N: list[jax.Array]) -> tuple[TrainState, jax.Array, Metrics]:
        """The update, unless it or one before it was not finite."""
        _, unravel = ravel_pytree(Sums(jnp.float32(0), jnp.float32(0), state.variables["params"]))
        after, metrics = update(state, unravel(functools.reduce(jnp.add, sums_N)))
        healthy &= metrics["finite"]
        return jax.tree.map(lambda new, old: jnp.where(healthy, new, old), after, state), healthy, metrics

    gradients = jax.jit(of_rows, compiler_options=options)
    updates = jax.jit(of_all, compiler_options=options, donate_argnums=0)
    copied, taken, stacked = jax.jit(_copied), jax.jit(_taken), jax.jit(_stacked)

    def train_steps(state: TrainState, batches: list[Batch]) -> tuple[TrainState, Metrics]:
        home = jax.tree.map(operator.attrgetter("sharding"), state)
        carry = jax.tree.map(np.asarray, state.carry)
        shared = dataclasses.replace(state, carry=())
        # What is sent to another client may share its memory, and what is donated must be nobody else's.
        states = [copied(jax.device_put(shared, core)) for core in cores]
        healthy = [jax.device_put(np.True_, core) for core in cores]
        mine = [jax.tree.map(operator.itemgetter(rows_B), carry) for rows_B in rows]
        carries = [(jax.device_put(part, core),) * 2 for part, core in zip(mine, cores, strict=True)]
        metrics = []
        for k in range(len(batches[0].x_BT)):
            found = [
                gradients(state.variables, state.rng, state.step, *of_core, k)
                for state, *of_core in zip(states, healthy, carries, batches, rows, strict=True)
            ]
            sums_N, carries = [sums for sums, _ in found], [after for _, after in found]
            done = [
                updates(state, well, [sums if sums.device == core else jax.device_put(sums, core) for sums in sums_N])
                for state, well, core in zip(states, healthy, cores, strict=True)
            ]
            states, healthy = [state for state, _, _ in done], [well for _, well, _ in done]
            metrics.append(done[0][2])
        parts = [jax.tree.map(np.asarray, part) for part in map(taken, healthy, carries)]
        carry = jax.tree.map(lambda *rows_BH: np.concatenate(rows_BH), *parts)
        return jax.device_put(dataclasses.replace(states[0], carry=carry), home), stacked(metrics)

    return train_steps


def _copied(state: TrainState) -> TrainState:
    return jax.tree.map(jnp.copy, state)


def _stacked(metrics: list[Metrics]) -> Metrics:
    return jax.tree.map(lambda *steps: jnp.stack(steps), *metrics)


def _taken(healthy: jax.Array, carries: Carries) -> Carry:
    """The carry after a step that was taken, or before one that was not, which is known only when the next begins."""
    return jax.tree.map(lambda after, before: jnp.where(healthy, after, before), *carries)
