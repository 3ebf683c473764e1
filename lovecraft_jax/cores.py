"""The cores of a CPU, each a device of its own, without a collective in any program: so nothing can wait for ever.

As one device, a CPU trains small layers on little more than one core: their products are too small to be worth
splitting. As several under one collective it hangs, since a device that waits holds threads that another one's products
need. Here every core computes the gradient of its rows, the first one adds them up and updates, and the host passes
each way what they found, as one flat vector.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

from lovecraft_jax.batches import Batch
from lovecraft_jax.mesh import BY_ROW, REPLICATED, by_rows, first_of, sharding
from lovecraft_jax.model import LSTMLM, Carry, Masks
from lovecraft_jax.state import TrainState, Variables
from lovecraft_jax.step import Metrics, Sums, make_gradient, make_update

Carries = tuple[Carry, Carry]
Options = dict[str, Any] | None


def make_core_steps(
    model: LSTMLM,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    variables: Variables,
    options: Options,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """As `step.make_train_steps`, compiled: the state stays on the mesh's first device, the batches lie by row.

    `variables` gives their shapes only; `options` go to the compiler.
    """
    gradient, update = make_gradient(model), make_update(optimizer, schedule)
    unravel_shared = _unraveller((variables, np.float32(0)))
    unravel_sums = _unraveller(Sums(jnp.float32(0), jnp.float32(0), variables["params"]))

    def shared_vector(variables: Variables, healthy: jax.Array) -> jax.Array:
        return ravel_pytree((variables, healthy.astype(jnp.float32)))[0]

    def sums_vector(variables: Variables, carry: Carry, batch: Batch, masks: Masks) -> tuple[jax.Array, Carry]:
        sums, after = gradient(variables, carry, batch, masks)
        return ravel_pytree(sums)[0][None], after

    by_row = by_rows(mesh, sums_vector, in_specs=(REPLICATED, BY_ROW, BY_ROW, BY_ROW), out_specs=(BY_ROW, BY_ROW))

    def at_cores(
        shared_P: jax.Array, carries: Carries, batches: Batch, rngs_K: jax.Array, k: int
    ) -> tuple[jax.Array, Carries]:
        """Step k's sums [devices, N], and the carry after it with the one before it."""
        variables, healthy = unravel_shared(shared_P)
        batch = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, k, 0, keepdims=False), batches)
        masks = model.dropout_masks(rngs_K[k], batch.x_BT.shape[0])
        carry = _taken(healthy > 0, carries)
        sums_DN, after = by_row(variables, carry, batch, masks)
        return sums_DN, (after, carry)

    def at_home(
        state: TrainState, healthy: jax.Array, sums_D1N: list[jax.Array]
    ) -> tuple[TrainState, jax.Array, jax.Array, Metrics]:
        """The update, unless it or one before it was not finite."""
        after, metrics = update(state, unravel_sums(functools.reduce(jnp.add, sums_D1N)[0]))
        healthy &= metrics["finite"]
        state = jax.tree.map(lambda new, old: jnp.where(healthy, new, old), after, state)
        return state, healthy, shared_vector(state.variables, healthy), metrics

    def begun(state: TrainState, healthy: jax.Array, K: int) -> tuple[jax.Array, jax.Array]:
        rngs_K = jax.vmap(jax.random.fold_in, (None, 0))(state.rng, state.step + jnp.arange(K))
        return shared_vector(state.variables, healthy), rngs_K

    def ended(healthy: jax.Array, carries: Carries, metrics: list[Metrics]) -> tuple[Carry, Metrics]:
        return _taken(healthy, carries), jax.tree.map(lambda *rows: jnp.stack(rows), *metrics)

    home, home_rows = sharding(first_of(mesh), REPLICATED), sharding(first_of(mesh), BY_ROW)
    everywhere, rows = sharding(mesh, REPLICATED), sharding(mesh, BY_ROW)
    begin = jax.jit(begun, static_argnums=2)
    gradients = jax.jit(at_cores, compiler_options=options)
    updates = jax.jit(at_home, compiler_options=options, donate_argnums=0, out_shardings=home)
    end = jax.jit(ended, out_shardings=(home_rows, home))

    def train_steps(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
        healthy, metrics = jax.device_put(np.True_, home), []
        shared_P, rngs_K = begin(state, healthy, len(batches.x_BT))
        carries, rngs_K = (jax.device_put(state.carry, rows),) * 2, jax.device_put(rngs_K, everywhere)
        state = dataclasses.replace(state, carry=())
        for k in range(len(batches.x_BT)):
            sums_DN, carries = gradients(jax.device_put(shared_P, everywhere), carries, batches, rngs_K, k)
            sums_D1N = jax.device_put([shard.data for shard in sums_DN.addressable_shards], home)
            state, healthy, shared_P, row = updates(state, healthy, sums_D1N)
            metrics.append(row)
        carry, stacked = end(healthy, jax.device_put(carries, home), metrics)
        return dataclasses.replace(state, carry=carry), stacked

    return train_steps


def _taken(healthy: jax.Array, carries: Carries) -> Carry:
    """The carry after a step that was taken, or before one that was not, which is known only when the next begins."""
    return jax.tree.map(lambda after, before: jnp.where(healthy, after, before), *carries)


def _unraveller(shapes: Any) -> Callable[[jax.Array], Any]:
    """From the flat vector of such a tree to the tree."""
    leaves, structure = jax.tree.flatten(shapes)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def unravel(vector: jax.Array) -> Any:
        parts = jnp.split(vector, ends)
        return jax.tree.unflatten(
            structure, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        )

    return unravel
