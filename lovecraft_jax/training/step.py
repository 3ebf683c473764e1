"""The loss, its gradient and the training step: pure functions. compiled.py is where they are jitted."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model.dropout import DropoutMasks, DropoutRates
from lovecraft_jax.model.lm import Carry, LanguageModel, Variables, reset_carry
from lovecraft_jax.model.losses import forward_costs_in_training
from lovecraft_jax.runtime.mesh import BY_ROW, REPLICATED, shard_rows, sum_over_devices
from lovecraft_jax.training.optimizer import Optimizer, global_norm, learning_rate
from lovecraft_jax.training.state import TrainState

Metrics = dict[str, Any]
TrainStep = Callable[[TrainState, Batch, jax.Array, DropoutRates], tuple[TrainState, Metrics]]


class Sums(NamedTuple):
    """Sums over some rows of a batch: cross-entropy in nats [], target weights [], the gradient of the loss, and where
    that is the loss the binary cross-entropy [], averaged over the vocabulary."""

    nats: jax.Array
    weight: jax.Array
    grads: Variables
    bce: jax.Array | None = None


def make_gradient(
    model: LanguageModel,
) -> Callable[[Variables, Carry, Batch, DropoutMasks], tuple[Sums, Carry, Variables]]:
    """Returns a function from rows of a batch to their sums, the carry after them and the changed collections (lm.py).

    Backpropagation through time, truncated to the T tokens of the batch. With `model.remat` > 0, time is split into
    chunks of as many tokens (Chen et al. 2016): only the carries between them are saved for the backward pass, which
    computes everything else again.
    """
    is_binary = model.loss == "binary_cross_entropy"

    def gradient(
        variables: Variables, carry: Carry, batch: Batch, masks: DropoutMasks
    ) -> tuple[Sums, Carry, Variables]:
        def loss(params: Variables) -> tuple[jax.Array, tuple[Sums, Carry, Variables]]:
            def chunk(start: Carry, tokens: tuple) -> tuple[Carry, tuple[Sums, Variables]]:
                x_BT, y_BT, weight_BT = tokens
                part = Batch(x_BT, y_BT, weight_BT, batch.reset_B)
                given = variables | {"params": params}
                after, costs, changed = forward_costs_in_training(model, given, start, part, masks, is_binary)
                nats, weight = jnp.sum(costs.nats_BT), jnp.sum(part.weight_BT.astype(jnp.float32))
                bce = None if costs.binary_BT is None else jnp.sum(costs.binary_BT) / model.vocab_size
                return after, (Sums(nats, weight, {}, bce), changed)

            start, tokens = reset_carry(carry, batch.reset_B), (batch.x_BT, batch.y_BT, batch.weight_BT)
            if model.remat:
                chunks = jax.tree.map(lambda leaf_BT: _chunks(leaf_BT, model.remat), tokens)
                after, (sums, changed) = jax.lax.scan(jax.checkpoint(chunk, prevent_cse=False), start, chunks)
                sums = jax.tree.map(jnp.sum, sums)
            else:
                after, (sums, changed) = chunk(start, tokens)
            return sums.nats if sums.bce is None else sums.bce, (sums, after, changed)

        (_, (sums, after, changed)), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return sums._replace(grads=grads), after, changed

    return gradient


def _chunks(leaf_BT: ArrayLike, length: int) -> jax.Array:
    """Returns [T / length, B, length]."""
    leaf = jnp.asarray(leaf_BT)
    return leaf.reshape(len(leaf), -1, length).swapaxes(0, 1)


def make_update(
    optimizer: Optimizer, average: float = 0.0, tensors_every: int = 0
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns a function from a state and what `make_gradient`'s returns, summed over all rows, to the next state.

    `average` is the decay of the averaged weights, 0 for none: `_update_average`.

    Nothing changes where `healthy` is false, or where loss or gradient are not finite; metrics["finite"] is false where
    these or the new parameters are not. metrics["tensors"], every `tensors_every` steps (0: not there): `_tensor_rms`.
    """

    def update(
        state: TrainState, sums: Sums, carry: Carry, changed: Variables, healthy: jax.Array
    ) -> tuple[TrainState, Metrics]:
        mean = 1.0 / sums.weight
        loss, grad_norm = sums.nats * mean, global_norm(sums.grads) * mean
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        scale = mean * jnp.minimum(1.0, optimizer.clip / grad_norm) if optimizer.clip else mean
        grads = jax.tree.map(lambda grad: grad * scale, sums.grads)
        before = state.variables["params"]
        updates, opt_state = optimizer.transform.update(grads, state.opt_state, before)
        variables = state.variables | changed | {"params": optax.apply_updates(before, updates)}
        averaged = _update_average(state, variables, average) if average else None
        after = TrainState(state.step + 1, variables, opt_state, carry, state.rng, averaged)
        after = jax.tree.map(lambda new, old: jnp.where(healthy & finite, new, old), after, state)
        params = after.variables["params"]
        metrics: Metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate(state.opt_state, optimizer.schedule, state.step),
            # An update can overflow where its gradient does not. It is not undone: the run ends, and its last
            # checkpoint is from before it.
            "finite": finite & jnp.isfinite(global_norm(params)),
        }
        if sums.bce is not None:
            metrics["bce"] = sums.bce * mean
        if tensors_every:
            grads = jax.tree.map(lambda grad: grad / sums.weight, sums.grads)
            metrics["tensors"] = _tensor_rms(tensors_every, state.step, grads, before, params)
        return after, metrics

    return update


def _update_average(state: TrainState, variables: Variables, decay: float) -> Variables:
    """Returns the averaged weights after a step to `variables`, running statistics of norms included: decay * average +
    (1 - decay) * variables. Early on the decay is (step + 1) / (step + 10) instead, as in TensorFlow's
    ExponentialMovingAverage, so that the initial weights are soon forgotten."""
    step = state.step.astype(jnp.float32)
    share = 1 - jnp.minimum(decay, (step + 1) / (step + 10))
    return jax.tree.map(lambda average, new: average + share * (new - average), state.average, variables)


def _tensor_rms(
    every: int, step: jax.Array, grads: Variables, before: Variables, after: Variables
) -> dict[str, dict[str, jax.Array]]:
    """Returns {"lstm_0/kernel_h": {"grad_rms": ..., "param_rms": ..., "update_rms": ...}, ...}: root mean squares of
    the loss's gradient, not clipped, of the parameters after the step and of their change; zeros but every `every`
    steps."""

    def measure() -> dict[str, dict[str, jax.Array]]:
        trees = {"grad_rms": grads, "param_rms": after, "update_rms": jax.tree.map(jnp.subtract, after, before)}
        tensors: dict[str, dict[str, jax.Array]] = {}
        for key, tree in trees.items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                tensors.setdefault(name, {})[key] = jnp.sqrt(jnp.vdot(leaf, leaf) / leaf.size)
        return tensors

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(measure))
    return jax.lax.cond((step + 1) % every == 0, measure, lambda: zeros)


def make_train_step(
    model: LanguageModel, optimizer: Optimizer, mesh: Mesh, average: float = 0.0, tensors_every: int = 0
) -> TrainStep:
    """Returns the training step: rows of the batch split over the mesh, their sums added up by one collective, and then
    `make_update`'s update."""
    gradient, update = make_gradient(model), make_update(optimizer, average, tensors_every)

    def total_gradient(*arguments: Any) -> tuple[Sums, Carry, Variables]:
        sums, after, changed = gradient(*arguments)
        return sum_over_devices(sums), after, changed

    everywhere: Any = REPLICATED
    rows: Any = BY_ROW
    mask_specs = DropoutMasks(embedding=everywhere, input=rows, recurrent=rows, output=rows, weights=everywhere)
    by_row = shard_rows(
        mesh,
        total_gradient,
        in_specs=(REPLICATED, BY_ROW, BY_ROW, mask_specs),
        out_specs=(REPLICATED, BY_ROW, REPLICATED),
    )

    def train_step(
        state: TrainState, batch: Batch, healthy: jax.Array, rates: DropoutRates
    ) -> tuple[TrainState, Metrics]:
        masks = model.dropout_masks(jax.random.fold_in(state.rng, state.step), rates, batch.x_BT.shape[0])
        return update(state, *by_row(state.variables, state.carry, batch, masks), healthy)

    return train_step


def make_train_steps(train_step: TrainStep) -> Callable[[TrainState, Batch, DropoutRates], tuple[TrainState, Metrics]]:
    """Returns K steps as one scan: batches stacked as x_KBT, metrics stacked as [K]. After the first step that is not
    finite, the state stays the same."""

    def train_steps(state: TrainState, batches: Batch, rates: DropoutRates) -> tuple[TrainState, Metrics]:
        def step_unless_failed(carry: tuple[TrainState, jax.Array], batch: Batch) -> tuple[Any, Metrics]:
            state, healthy = carry
            state, metrics = train_step(state, batch, healthy, rates)
            return (state, healthy & metrics["finite"]), metrics

        (state, _), metrics = jax.lax.scan(step_unless_failed, (state, jnp.bool_(True)), batches)
        return state, metrics

    return train_steps
