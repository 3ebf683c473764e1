"""The cores of a CPU, each a device with a thread of its own, and no collective in any program: nothing can hang.

For layers that XLA runs: those in C++ (native.py) share out their work among threads themselves.

As one device a CPU trains small layers on little more than one core: their products are too small to be worth
splitting. Several devices of one client share its threads, among which every product is split all the same: the two
halves of c150's gradient take 28 ms side by side where each alone takes 19. Under a collective they hang, since a
device that waits holds threads that another one's products need. Here every core has a client of its own, with one
thread: 20.5 ms. Each computes the gradient of its rows; the host passes on what they found, as one flat vector each;
each then updates its share of the parameters, and the host passes these on.
"""

import functools
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxlib import xla_client

from lovecraft_jax.config import NORMS_OF_BATCH, Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model import backend
from lovecraft_jax.model.dropout import DropoutRates
from lovecraft_jax.model.lm import Carry, LanguageModel, Variables
from lovecraft_jax.training.optimizer import Optimizer
from lovecraft_jax.training.state import TrainState
from lovecraft_jax.training.step import Metrics, Sums, all_finite, make_gradient, make_update

Carries = tuple[Carry, Carry]
Leaves = dict[int, jax.Array]
"""Some leaves of a tree, by their place in it."""

EVERYONE = -1
"""The owner of a leaf that each core keeps up for itself."""
Options = dict[str, Any] | None


LEAST_WORK = 1e9
"""Floating-point operations of a step: what goes on between cores takes 1 ms, in which one does a fifth of this."""
MOST_UNITS = 256
"""Chosen between 150, where cores pay, and 512, where they do not: there a step takes 120 ms as one device, and two
cores take no less even with their loops in C++ (batch 32, 50 characters, AMD EPYC Zen 5)."""
LEAST_ROWS = 8
"""Of a batch, for one core. Chosen, not measured: two cores were all there were to measure on."""


def best_core_count(config: Config) -> int:
    """How many of this machine's cores to train `config` on as devices (cores.py), where it trains on a CPU.

    One device where the layer runs in C++, which takes to all cores by itself, and where batch norms need collectives.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    model, data = config.model, config.data
    if model.norm in NORMS_OF_BATCH or model.units > MOST_UNITS or backend.resolve_backend(model) == "native":
        return 1
    work = 6 * (8 * model.layers * model.units**2) * data.batch_size * data.seq_len
    return max(1, min(cores, data.batch_size // LEAST_ROWS)) if work > LEAST_WORK else 1


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
    model: LanguageModel,
    optimizer: Optimizer,
    shapes: TrainState,
    cores: Sequence[jax.Device],
    rates: DropoutRates,
    options: Options,
) -> Callable[[TrainState, list[Batch]], tuple[TrainState, Metrics]]:
    """As `step.make_train_steps`, compiled, of batches as `put_rows` gives them; the state stays where it came from.

    `shapes`: the state's. `options` go to the compiler. Where an update overflows on one core only, the others go on to
    the dispatch's end: metrics["finite"] tells, and such a state is nothing to go on from.
    """
    numbers = range(len(cores))
    owners = _owners(optimizer, shapes, len(cores))
    rows = np.arange(len(jax.tree.leaves(shapes.carry)[0]), dtype=np.int32).reshape(len(cores), -1)
    gradients = jax.jit(_make_gradients(model, rows.size), compiler_options=options)
    share = functools.partial(jax.jit, compiler_options=options, donate_argnums=1)
    bce = jnp.float32(0) if model.loss == "binary_cross_entropy" else None
    shares = [share(_make_share(optimizer, shapes, bce, owners, n)) for n in numbers]
    copied, taken, stacked = jax.jit(_copied), jax.jit(_taken), jax.jit(_stacked)

    def exchange(of_cores: list[Leaves]) -> list[Variables]:
        """The variables that each core's own ones make up, on every core."""
        gathered = []
        for core in cores:
            parts = [leaves if _lie_on(leaves, core) else jax.device_put(leaves, core) for leaves in of_cores]
            gathered.append(_together(shapes.variables, parts))
        return gathered

    def train_steps(state: TrainState, batches: list[Batch]) -> tuple[TrainState, Metrics]:
        home = jax.tree.map(operator.attrgetter("sharding"), state)
        variables = [jax.device_put(state.variables, core) for core in cores]
        # What is sent to another client may share its memory, and what is donated must be nobody else's.
        own_opt = [
            copied(jax.device_put(_own(state.opt_state, owners.opt_state, n), core)) for n, core in enumerate(cores)
        ]
        own = [_own(part, owners.variables, n) for n, part in enumerate(variables)]
        alike = [jax.device_put((state.rng, state.step, np.True_, rates), core) for core in cores]
        rngs, steps, healthy, rates_N = map(list, zip(*alike, strict=True))
        carry = jax.tree.map(np.asarray, state.carry)
        mine = [jax.tree.map(operator.itemgetter(rows_B), carry) for rows_B in rows]
        carries = [(jax.device_put(part, core),) * 2 for part, core in zip(mine, cores, strict=True)]
        metrics = []
        for k in range(len(batches[0].x_BT)):
            found = [
                gradients(*of_core, k)
                for of_core in zip(variables, rngs, rates_N, steps, healthy, carries, batches, rows, strict=True)
            ]
            sums_N, carries = [sums for sums, _ in found], [after for _, after in found]
            for n, core in enumerate(cores):
                here = [sums if sums.device == core else jax.device_put(sums, core) for sums in sums_N]
                own[n], own_opt[n], steps[n], healthy[n], told = shares[n](
                    own[n], own_opt[n], steps[n], healthy[n], here
                )
                metrics.append(told)
            variables = exchange(own)
        parts = [jax.tree.map(np.asarray, part) for part in map(taken, healthy, carries)]
        after = TrainState(
            step=steps[0],
            variables=variables[0],
            opt_state=_together(shapes.opt_state, own_opt),
            carry=jax.tree.map(lambda *rows_BH: np.concatenate(rows_BH), *parts),
            rng=state.rng,
        )
        told = [stacked(metrics[n :: len(cores)]) for n in numbers]
        finite = np.logical_and.reduce([np.asarray(of_core["finite"]) for of_core in told])
        return jax.device_put(after, home), told[0] | {"finite": jax.device_put(finite)}

    return train_steps


def _make_gradients(model: LanguageModel, batch_size: int) -> Callable:
    gradient = make_gradient(model)

    def of_rows(
        variables: Variables,
        rng: jax.Array,
        rates: DropoutRates,
        step: jax.Array,
        healthy: jax.Array,
        carries: Carries,
        batches: Batch,
        rows_B: jax.Array,
        k: int,
    ) -> tuple[jax.Array, Carries]:
        """Step k's sums over a core's rows [N], and the carry after it with the one before it."""
        batch = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, k, 0, keepdims=False), batches)
        masks = model.dropout_masks(jax.random.fold_in(rng, step), rates, batch_size)
        carry = _taken(healthy, carries)
        sums, after, _ = gradient(variables, carry, batch, masks.rows(rows_B))
        return ravel_pytree(sums)[0], (after, carry)

    return of_rows


class Owners(NamedTuple):
    """Trees of the numbers of the cores that update each leaf."""

    variables: Any
    opt_state: Any


def _owners(optimizer: Optimizer, shapes: TrainState, cores: int) -> Owners:
    """Each parameter to the core that has least so far, the largest first; what the optimizer keeps of it with it."""
    params, structure = jax.tree.flatten(shapes.variables["params"])
    loads, owner = [0] * cores, {}
    for n in sorted(range(len(params)), key=lambda n: -params[n].size):
        owner[n] = int(np.argmin(loads))
        loads[owner[n]] += params[n].size
    of_params = jax.tree.unflatten(structure, [owner[n] for n in range(len(params))])
    of_variables = jax.tree.map(lambda _: EVERYONE, shapes.variables) | {"params": of_params}
    of_opt_state = optax.tree_map_params(
        optimizer.adam, lambda _, owner: owner, shapes.opt_state, of_params, transform_non_params=lambda _: EVERYONE
    )
    return Owners(of_variables, of_opt_state)


def _make_share(optimizer: Optimizer, shapes: TrainState, bce: jax.Array | None, owners: Owners, core: int) -> Callable:
    update = make_update(optimizer)

    def share(
        variables: Leaves, opt_state: Leaves, step: jax.Array, healthy: jax.Array, sums_N: list[jax.Array]
    ) -> tuple[Leaves, Leaves, jax.Array, jax.Array, Metrics]:
        """What is one core's own after the update, the step, whether all is well, and metrics.

        It makes all of the update, of which the compiler leaves out what comes to nothing here.
        """
        state = TrainState(step, _filled(shapes.variables, variables), _filled(shapes.opt_state, opt_state), (), step)
        _, unravel = ravel_pytree(Sums(jnp.float32(0), jnp.float32(0), state.variables["params"], bce))
        after, metrics = update(state, unravel(functools.reduce(jnp.add, sums_N)), healthy)
        variables, opt_state = (
            _own(after.variables, owners.variables, core),
            _own(after.opt_state, owners.opt_state, core),
        )
        metrics["finite"] &= all_finite(list(variables.values()))
        return variables, opt_state, after.step, healthy & metrics["finite"], metrics

    return share


def _own(tree: Any, owners: Any, core: int) -> Leaves:
    """The leaves that are this core's own, or everyone's."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(owners), strict=True)
    return {n: leaf for n, (leaf, owner) in enumerate(pairs) if owner in (core, EVERYONE)}


def _filled(shapes: Any, own: Leaves) -> Any:
    """A tree of `own` leaves, with zeros for all others."""
    leaves, structure = jax.tree.flatten(shapes)
    return jax.tree.unflatten(
        structure, [own[n] if n in own else jnp.zeros(leaf.shape, leaf.dtype) for n, leaf in enumerate(leaves)]
    )


def _together(shapes: Any, of_cores: list[Leaves]) -> Any:
    """The tree that the cores' leaves make up."""
    leaves = functools.reduce(operator.or_, reversed(of_cores))
    return jax.tree.unflatten(jax.tree.structure(shapes), [leaves[n] for n in sorted(leaves)])


def _lie_on(leaves: Leaves, core: jax.Device) -> bool:
    return all(leaf.device == core for leaf in leaves.values())


def _copied(leaves: Leaves) -> Leaves:
    return jax.tree.map(jnp.copy, leaves)


def _stacked(metrics: list[Metrics]) -> Metrics:
    return jax.tree.map(lambda *steps: jnp.stack(steps), *metrics)


def _taken(healthy: jax.Array, carries: Carries) -> Carry:
    """The carry after a step that was taken, or before one that was not, which is known only when the next begins."""
    return jax.tree.map(lambda after, before: jnp.where(healthy, after, before), *carries)
