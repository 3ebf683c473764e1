"""TrainState: everything that resuming needs, as one pytree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lovecraft_jax.model.lm import Carry, LanguageModel, Variables
from lovecraft_jax.runtime.mesh import BY_ROW, REPLICATED, sharding


@flax.struct.dataclass
class TrainState:
    """The state after `step` steps. `rng` is the run's key; a step uses fold_in(rng, step).

    Every leaf can have a leading axis of runs (stacked.py). Give a field that only some runs have the default None:
    checkpoints then keep the leaves and the checksums that they had before it.
    """

    step: jax.Array
    variables: Variables
    opt_state: optax.OptState
    carry: Carry
    rng: jax.Array
    average: Variables | None = None
    """The exponential moving average of `variables`, if train.average is above 0 (step.py)."""

    @property
    def scored(self) -> Variables:
        """What scores and samples use: the averaged weights if there are any."""
        return self.variables if self.average is None else self.average


@flax.struct.dataclass
class Weights:
    """The fields of a TrainState that sampling and scoring need: `average` if the run has it, else `variables`."""

    step: jax.Array
    variables: Variables | None = None
    average: Variables | None = None

    @property
    def scored(self) -> Variables:
        found = self.variables if self.average is None else self.average
        assert found is not None
        return found


def init_state(
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    seed: int | jax.Array,
    averaged: bool = False,
) -> TrainState:
    """Returns the state before the first step, `averaged` for one with averaged weights. Call it under jit, so that no
    two leaves share a buffer, which donation does not allow."""
    init_rng, dropout_rng = jax.random.split(jax.random.key(seed))
    variables = _init_variables(model, batch_size, init_rng)
    opt_state, carry = optimizer.init(variables["params"]), model.initial_carry(batch_size)
    average = jax.tree.map(jnp.copy, variables) if averaged else None
    return TrainState(jnp.int32(0), variables, opt_state, carry, dropout_rng, average)


def weights_target(model: LanguageModel, averaged: bool = False) -> Weights:
    """Returns the shapes of the weights that scores and samples use, on the first device, to restore them to."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def first() -> Weights:
        variables = _init_variables(model, 1, jax.random.key(0))
        return Weights(jnp.int32(0), average=variables) if averaged else Weights(jnp.int32(0), variables)

    return jax.jit(first, out_shardings=device).eval_shape()


def state_shardings(mesh: Mesh) -> Any:
    """Returns a TrainState of shardings: the carry by row, everything else on every device."""
    replicated: Any = sharding(mesh, REPLICATED)
    by_row: Any = sharding(mesh, BY_ROW)
    return TrainState(replicated, replicated, replicated, by_row, replicated, replicated)


def _init_variables(model: LanguageModel, batch_size: int, rng: jax.Array) -> Variables:
    return dict(model.init(rng, model.initial_carry(batch_size), jnp.zeros((batch_size, 1), jnp.int32)))
