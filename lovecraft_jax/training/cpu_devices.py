"""Data parallelism over the cores of a CPU, without collectives, so that it cannot hang.

For layers that XLA computes: the layers in C++ (model/native) share out their work among threads themselves.

As one device, a CPU trains small layers on little more than one core: their matmuls are too small to be worth
splitting. Several devices of one client share its threads, and XLA still splits every matmul among all of them: the two
halves of c150's gradient take 28 ms side by side where each alone takes 19. With a collective they hang, because a
device that waits holds threads that another device's matmuls need. Here every core has a client of its own, with one
thread: 20.5 ms. Each core computes the gradient of its rows, and the host sends these to all cores, one flat vector
each. Each core then updates its part of the parameters, and the host sends these to all cores too.
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
from lovecraft_jax.training.tensor_rms import tensor_names, tensor_rms

Options = dict[str, Any] | None
Carries = tuple[Carry, Carry]
"""The carry after a step and the one before it: which of them counts is known only when all cores' sums are."""
Leaves = dict[int, jax.Array]
"""Some leaves of a tree, by their position in jax.tree.leaves."""

EVERY_CORE = -1
"""The owner of a leaf that every core updates for itself."""

MIN_FLOPS = 1e9
"""FLOPs of a step that is worth splitting: the exchange between cores takes 1 ms, in which one does a fifth of it."""
MAX_UNITS = 256
"""Units of the widest layer that is split: between 150, where more cores are faster, and 512, where two take as long as
one device, 120 ms a step, even with their loops in C++ (batch 32, 50 characters, AMD EPYC Zen 5)."""
MIN_ROWS = 8
"""Rows of a batch for each core. Chosen, not measured: there were only two cores to measure on."""


def best_core_count(config: Config) -> int:
    """Returns the number of this machine's cores that train `config` fastest, each as a device.

    One where the layer runs in C++, which uses all cores by itself, and where batch norms need collectives.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    model, data = config.model, config.data
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
    options: Options,
    tensors_every: int = 0,
) -> Callable[[TrainState, list[Batch]], tuple[TrainState, Metrics]]:
    """Returns what `step.make_train_steps` does, compiled, for batches as `put_rows` returns them.

    `shapes` are the state's, `options` go to the compiler. The state is not donated, and returns to the device that it
    came from. Where an update overflows on one core only, the other cores continue to the end of the dispatch: then
    metrics["finite"] is false, and the state must not be used.
    """
    numbers = range(len(cores))
    owners = _assign_owners(optimizer, shapes, len(cores))
    rows = np.arange(len(jax.tree.leaves(shapes.carry)[0]), dtype=np.int32).reshape(len(cores), -1)
    row_gradients = jax.jit(_make_row_gradients(model, rows.size), compiler_options=options)
    jit_update = functools.partial(jax.jit, compiler_options=options, donate_argnums=1)
    bce = jnp.float32(0) if model.loss == "binary_cross_entropy" else None
    updates = [jit_update(_make_partial_update(optimizer, shapes, bce, owners, n, tensors_every)) for n in numbers]
    copy, select_carry, stack_steps = jax.jit(_copy), jax.jit(_select_carry), jax.jit(_stack_steps)

    def gather_variables(parts: list[Leaves]) -> list[Variables]:
        """Returns, for each core, all variables, from the parts that the cores have updated."""
        gathered = []
        for core in cores:
            here = [leaves if _is_on(leaves, core) else jax.device_put(leaves, core) for leaves in parts]
            gathered.append(_merge(shapes.variables, here))
        return gathered

    def train_steps(state: TrainState, batches: list[Batch]) -> tuple[TrainState, Metrics]:
        home = jax.tree.map(operator.attrgetter("sharding"), state)
        variables = [jax.device_put(state.variables, core) for core in cores]
        # device_put to another client may share memory with the original, which must not be donated with it.
        opt_parts = [
            copy(jax.device_put(_owned_leaves(state.opt_state, owners.opt_state, n), core))
            for n, core in enumerate(cores)
        ]
        variable_parts = [_owned_leaves(part, owners.variables, n) for n, part in enumerate(variables)]
        replicated = [jax.device_put((state.rng, state.step, np.True_, rates), core) for core in cores]
        rngs, steps, healthy, rates_by_core = map(list, zip(*replicated, strict=True))
        carry = jax.tree.map(np.asarray, state.carry)
        carry_rows = [jax.tree.map(operator.itemgetter(rows_B), carry) for rows_B in rows]
        carries = [(jax.device_put(part, core),) * 2 for part, core in zip(carry_rows, cores, strict=True)]
        metrics: list[list[Metrics]] = [[] for _ in cores]
        for k in range(len(batches[0].x_BT)):
            results = [
                row_gradients(*arguments, k)
                for arguments in zip(
                    variables, rngs, rates_by_core, steps, healthy, carries, batches, rows, strict=True
                )
            ]
            sums_N, carries = [sums for sums, _ in results], [carries for _, carries in results]
            for n, core in enumerate(cores):
                here = [sums if sums.device == core else jax.device_put(sums, core) for sums in sums_N]
                variable_parts[n], opt_parts[n], steps[n], healthy[n], step_metrics = updates[n](
                    variable_parts[n], opt_parts[n], steps[n], healthy[n], here
                )
                metrics[n].append(step_metrics)
            variables = gather_variables(variable_parts)
        last_carries = [jax.tree.map(np.asarray, part) for part in map(select_carry, healthy, carries)]
        after = TrainState(
            step=steps[0],
            variables=variables[0],
            opt_state=_merge(shapes.opt_state, opt_parts),
            carry=jax.tree.map(lambda *rows_BH: np.concatenate(rows_BH), *last_carries),
            rng=state.rng,
        )
        by_core = [stack_steps(steps_metrics) for steps_metrics in metrics]
        finite = np.logical_and.reduce([np.asarray(core_metrics["finite"]) for core_metrics in by_core])
        changed: Metrics = {"finite": jax.device_put(finite)}
        if tensors_every:  # each core has the values of its own parameters
            names, owner = tensor_names(shapes.variables["params"]), jax.tree.leaves(owners.variables["params"])
            changed["tensors"] = {name: by_core[n]["tensors"][name] for name, n in zip(names, owner, strict=True)}
        return jax.device_put(after, home), by_core[0] | changed

    return train_steps


def _make_row_gradients(model: LanguageModel, batch_size: int) -> Callable:
    gradient = make_gradient(model)

    def row_gradients(
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
        """Returns step k's sums over one core's rows [N], and the carries after and before it."""
        batch = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, k, 0, keepdims=False), batches)
        masks = model.dropout_masks(jax.random.fold_in(rng, step), rates, batch_size)
        carry = _select_carry(healthy, carries)
        sums, after, _ = gradient(variables, carry, batch, masks.rows(rows_B))
        return ravel_pytree(sums)[0], (after, carry)

    return row_gradients


class Owners(NamedTuple):
    """For each leaf, the number of the core that updates it, or EVERY_CORE."""

    variables: Any
    opt_state: Any


def _assign_owners(optimizer: Optimizer, shapes: TrainState, cores: int) -> Owners:
    """Assigns each parameter, the largest first, to the core with the least so far, with its part of the optimiser's
    state."""
    params, structure = jax.tree.flatten(shapes.variables["params"])
    loads, owner = [0] * cores, {}
    for n in sorted(range(len(params)), key=lambda n: -params[n].size):
        owner[n] = int(np.argmin(loads))
        loads[owner[n]] += params[n].size
    param_owners = jax.tree.unflatten(structure, [owner[n] for n in range(len(params))])
    variable_owners = jax.tree.map(lambda _: EVERY_CORE, shapes.variables) | {"params": param_owners}
    opt_owners = optax.tree_map_params(
        optimizer.transform,
        lambda _, owner: owner,
        shapes.opt_state,
        param_owners,
        transform_non_params=lambda _: EVERY_CORE,
    )
    return Owners(variable_owners, opt_owners)


def _make_partial_update(
    optimizer: Optimizer, shapes: TrainState, bce: jax.Array | None, owners: Owners, core: int, tensors_every: int
) -> Callable:
    update = make_update(optimizer)

    def partial_update(
        variables: Leaves, opt_state: Leaves, step: jax.Array, healthy: jax.Array, sums_N: list[jax.Array]
    ) -> tuple[Leaves, Leaves, jax.Array, jax.Array, Metrics]:
        """Returns this core's leaves after the update, the step, whether all steps so far were finite, and metrics.

        Written as an update of all leaves, with zeros for those of other cores: the compiler removes the rest.
        """
        variable_tree, opt_tree = _with_zeros(shapes.variables, variables), _with_zeros(shapes.opt_state, opt_state)
        state = TrainState(step, variable_tree, opt_tree, (), step)
        _, unravel = ravel_pytree(Sums(jnp.float32(0), jnp.float32(0), state.variables["params"], bce))
        sums = unravel(functools.reduce(jnp.add, sums_N))
        after, metrics = update(state, sums, healthy)
        if tensors_every:
            grads = jax.tree.map(lambda grad: grad / sums.weight, sums.grads)
            params = state.variables["params"], after.variables["params"]
            metrics["tensors"] = tensor_rms(tensors_every, state.step, grads, *params)
        variables = _owned_leaves(after.variables, owners.variables, core)
        opt_state = _owned_leaves(after.opt_state, owners.opt_state, core)
        metrics["finite"] &= all_finite(list(variables.values()))
        return variables, opt_state, after.step, healthy & metrics["finite"], metrics

    return partial_update


def _owned_leaves(tree: Any, owners: Any, core: int) -> Leaves:
    """Returns the leaves that this core updates, alone or with all others."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(owners), strict=True)
    return {n: leaf for n, (leaf, owner) in enumerate(pairs) if owner in (core, EVERY_CORE)}


def _with_zeros(shapes: Any, some: Leaves) -> Any:
    """Returns a whole tree, with zeros for the leaves that are not given."""
    leaves, structure = jax.tree.flatten(shapes)
    return jax.tree.unflatten(
        structure, [some[n] if n in some else jnp.zeros(leaf.shape, leaf.dtype) for n, leaf in enumerate(leaves)]
    )


def _merge(shapes: Any, parts: list[Leaves]) -> Any:
    """Returns the whole tree from the leaves of all cores."""
    leaves = functools.reduce(operator.or_, reversed(parts))
    return jax.tree.unflatten(jax.tree.structure(shapes), [leaves[n] for n in sorted(leaves)])


def _is_on(leaves: Leaves, core: jax.Device) -> bool:
    return all(leaf.device == core for leaf in leaves.values())


def _copy(leaves: Leaves) -> Leaves:
    return jax.tree.map(jnp.copy, leaves)


def _stack_steps(metrics: list[Metrics]) -> Metrics:
    return jax.tree.map(lambda *steps: jnp.stack(steps), *metrics)


def _select_carry(healthy: jax.Array, carries: Carries) -> Carry:
    """Returns the carry after the step where `healthy` is true, else the one before it."""
    return jax.tree.map(lambda after, before: jnp.where(healthy, after, before), *carries)
