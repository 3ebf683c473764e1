"""TrainState: all that resuming needs, as one pytree."""

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
    """After `step` steps. Every leaf tolerates a leading axis of seeds; `rng` is the run's key, folded with `step`."""

    step: jax.Array
    variables: Variables
    opt_state: optax.OptState
    carry: Carry
    rng: jax.Array


def init_state(
    model: LanguageModel, optimizer: optax.GradientTransformation, batch_size: int, seed: int | jax.Array
) -> TrainState:
    """The state before the first step. Jit it: donation wants every leaf in a buffer of its own."""
    init_rng, dropout_rng = jax.random.split(jax.random.key(seed))
    carry = model.initial_carry(batch_size)
    variables = model.init(init_rng, carry, jnp.zeros((batch_size, 1), jnp.int32))
    return TrainState(jnp.int32(0), dict(variables), optimizer.init(variables["params"]), carry, dropout_rng)


def state_shardings(mesh: Mesh) -> Any:
    """A TrainState of shardings: the carry by row with its lanes, all else on every device."""
    everywhere: Any = sharding(mesh, REPLICATED)
    by_row: Any = sharding(mesh, BY_ROW)
    return TrainState(everywhere, everywhere, everywhere, by_row, everywhere)
