"""The loss and the steps: pure functions, unjitted. The loop jits them in one visible place."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from lovecraft_jax.batches import Batch
from lovecraft_jax.mesh import BY_ROW, REPLICATED, by_rows, total
from lovecraft_jax.model import LSTMLM, Carry, Masks, forward
from lovecraft_jax.optimizer import Optimizer, global_norm, learning_rate
from lovecraft_jax.state import TrainState, Variables

Metrics = dict[str, jax.Array]
Tree = TypeVar("Tree")


def nats(logits_BTV: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of the cross-entropy over the batch, in nats, and the sum of the weights."""
    weight_BT = batch.weight_BT.astype(jnp.float32)
    nats_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch.y_BT.astype(jnp.int32))
    return jnp.sum(nats_BT * weight_BT), jnp.sum(weight_BT)


def forget(carry: Carry, reset_B: ArrayLike) -> Carry:
    """The carry, zero in the rows that start over."""
    return jax.tree.map(lambda leaf_BH: jnp.where(jnp.asarray(reset_B)[:, None], 0.0, leaf_BH), carry)


class Sums(NamedTuple):
    """What rows of a batch add to a step: nats and weights [], and the gradient of the nats."""

    nats: jax.Array
    weight: jax.Array
    grads: Variables


def make_gradient(model: LSTMLM) -> Callable[[Variables, Carry, Batch, Masks], tuple[Sums, Carry]]:
    """The sums over some rows, and their carry after them: truncated backpropagation through time.

    With `model.remat` time goes by in chunks of so many tokens (as Chen et al. 2016): only the carry between them is
    kept, and what is inside is computed again on the way back.
    """

    def gradient(variables: Variables, carry: Carry, batch: Batch, masks: Masks) -> tuple[Sums, Carry]:
        def loss(params: Variables) -> tuple[jax.Array, tuple[jax.Array, Carry]]:
            def chunk(start: Carry, tokens: tuple) -> tuple[Carry, tuple[jax.Array, jax.Array]]:
                x_BT, y_BT, weight_BT = tokens
                part = batch._replace(x_BT=x_BT, y_BT=y_BT, weight_BT=weight_BT)
                after, logits_BTV = forward(model, variables | {"params": params}, start, part.x_BT, masks)
                return after, nats(logits_BTV, part)

            start, tokens = forget(carry, batch.reset_B), (batch.x_BT, batch.y_BT, batch.weight_BT)
            if model.remat:
                chunks = jax.tree.map(lambda leaf_BT: _chunks(leaf_BT, model.remat), tokens)
                after, sums = jax.lax.scan(jax.checkpoint(chunk, prevent_cse=False), start, chunks)
                nats_sum, weight_sum = jax.tree.map(jnp.sum, sums)
            else:
                after, (nats_sum, weight_sum) = chunk(start, tokens)
            return nats_sum, (weight_sum, after)

        (nats_sum, (weight_sum, after)), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return Sums(nats_sum, weight_sum, grads), after

    return gradient


def _chunks(leaf_BT: ArrayLike, length: int) -> jax.Array:
    """[T / length, B, length]"""
    leaf = jnp.asarray(leaf_BT)
    return leaf.reshape(len(leaf), -1, length).swapaxes(0, 1)


def make_update(optimizer: Optimizer) -> Callable[[TrainState, Sums, jax.Array], tuple[TrainState, Metrics]]:
    """The step that all rows' sums ask for; the carry stays as it was.

    All stays where `healthy` is false, or where loss or gradient are not finite, as metrics["finite"] tells.
    """

    def update(state: TrainState, sums: Sums, healthy: jax.Array) -> tuple[TrainState, Metrics]:
        mean = 1.0 / sums.weight
        loss, grad_norm = sums.nats * mean, global_norm(sums.grads) * mean
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        scale = mean * jnp.minimum(1.0, optimizer.clip / grad_norm)
        grads = jax.tree.map(lambda grad: grad * scale, sums.grads)
        params = state.variables["params"]
        updates, opt_state = optimizer.adam.update(grads, state.opt_state, params)
        variables = state.variables | {"params": optax.apply_updates(params, updates)}
        after = dataclasses.replace(state, step=state.step + 1, variables=variables, opt_state=opt_state)
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate(state.opt_state, optimizer.schedule, state.step),
            "finite": finite,
        }
        return where(healthy & finite, after, state), metrics

    return update


def where(condition: jax.Array, then: Tree, otherwise: Tree) -> Tree:
    """`jnp.where` over the leaves of two trees, random keys included."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), then, otherwise)


def all_finite(params: Any) -> jax.Array:
    """Whether an update left all of them finite: it can overflow where its gradient does not. It has been made by
    then and is not undone."""
    return jnp.isfinite(global_norm(params))


def make_train_step(
    model: LSTMLM, optimizer: Optimizer, mesh: Mesh
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """One step, the rows of the batch split over the mesh and their sums added up by one collective.

    The state stays where `healthy` is false, or where loss or gradient are not finite; metrics["finite"] is false where
    these or the new parameters are not.
    """
    gradient, update = make_gradient(model), make_update(optimizer)

    def total_gradient(variables: Variables, carry: Carry, batch: Batch, masks: Masks) -> tuple[Sums, Carry]:
        sums, after = gradient(variables, carry, batch, masks)
        return total(sums), after

    by_row = by_rows(
        mesh, total_gradient, in_specs=(REPLICATED, BY_ROW, BY_ROW, BY_ROW), out_specs=(REPLICATED, BY_ROW)
    )

    def train_step(state: TrainState, batch: Batch, healthy: jax.Array) -> tuple[TrainState, Metrics]:
        masks = model.dropout_masks(jax.random.fold_in(state.rng, state.step), batch.x_BT.shape[0])
        sums, carry = by_row(state.variables, state.carry, batch, masks)
        after, metrics = update(state, sums, healthy)
        carry = where(healthy & metrics["finite"], carry, state.carry)
        metrics["finite"] &= all_finite(after.variables["params"])
        return dataclasses.replace(after, carry=carry), metrics

    return train_step


def make_train_steps(
    train_step: Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]],
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """K steps as one scan: batches stacked as x_KBT, metrics stacked as [K].

    After the first step that is not finite, the state stays.
    """

    def guarded(carry: tuple[TrainState, jax.Array], batch: Batch) -> tuple[tuple[TrainState, jax.Array], Metrics]:
        state, healthy = carry
        state, metrics = train_step(state, batch, healthy)
        return (state, healthy & metrics["finite"]), metrics

    def train_steps(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
        (state, _), metrics = jax.lax.scan(guarded, (state, jnp.bool_(True)), batches)
        return state, metrics

    return train_steps


def make_eval_step(model: LSTMLM) -> Callable[[Variables, Carry, Batch], tuple[Variables, Carry, jax.Array]]:
    """(variables, carry, chunk) -> (variables, carry, nats): a fold, so that dynamic evaluation is another step."""

    def eval_step(variables: Variables, carry: Carry, batch: Batch) -> tuple[Variables, Carry, jax.Array]:
        carry, logits_BTV = forward(model, variables, forget(carry, batch.reset_B), batch.x_BT)
        return variables, carry, nats(logits_BTV, batch)[0]

    return eval_step
