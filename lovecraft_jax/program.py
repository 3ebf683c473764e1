"""What training compiles: the one place where its functions are jitted, with shardings and donation."""

import dataclasses
from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from lovecraft_jax.batches import Batch
from lovecraft_jax.cores import make_core_steps
from lovecraft_jax.mesh import BY_ROW_STACKED, REPLICATED, first_of, make_mesh, sharding
from lovecraft_jax.model import LSTMLM, make_model
from lovecraft_jax.optimizer import make_optimizer, make_schedule
from lovecraft_jax.state import TrainState, init_state, state_shardings
from lovecraft_jax.step import Metrics, make_train_step, make_train_steps

COMPILER_OPTIONS = {
    # XLA hands products to YNNPACK by default; Eigen took 0.66 to 0.97 of its time at c150's shapes, but 1.3 times as
    # long where the second operand is transposed: the fused layer transposes that one beforehand.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": ""},
}
"""What the compiler of a platform is told, where measuring showed that it pays."""


TrainSteps = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled side of a run.

    `init`: seed to the first state. `train_steps`: (state, batches of K steps) to (state, metrics [K]); the state is
    donated. `target`: the state's shapes with shardings, for restoring onto. `batch_sharding`: where batches go.
    """

    model: LSTMLM
    mesh: Mesh
    init: Callable[[int], TrainState]
    train_steps: TrainSteps
    target: TrainState
    batch_sharding: NamedSharding


def make_program(config: ConfigDict, vocab_size: int, total_steps: int, collective: bool | None = None) -> Program:
    """The program of `config` over all devices there are.

    `collective`: whether they add up their gradients among themselves; by default all but a CPU's cores do.
    """
    mesh = make_mesh(config.data.batch_size)
    if collective is None:
        collective = mesh.size == 1 or mesh.devices.flat[0].platform != "cpu"
    model = make_model(config, vocab_size)
    optimizer = make_optimizer(config.optimizer, total_steps)
    schedule = make_schedule(config.optimizer, total_steps)
    options = COMPILER_OPTIONS.get(mesh.devices.flat[0].platform)
    batch_sharding = sharding(mesh, BY_ROW_STACKED)
    shapes = jax.eval_shape(lambda: init_state(model, optimizer, config.data.batch_size, 0))
    if collective:
        shardings = state_shardings(mesh)
        train_steps: TrainSteps = jax.jit(
            make_train_steps(make_train_step(model, optimizer, schedule, mesh)),
            in_shardings=(shardings, batch_sharding),
            out_shardings=(shardings, sharding(mesh, REPLICATED)),
            donate_argnums=0,
            compiler_options=options,
        )
    else:
        shardings = state_shardings(first_of(mesh))
        train_steps = make_core_steps(model, optimizer, schedule, mesh, shapes.variables, options)
    init = jax.jit(lambda seed: init_state(model, optimizer, config.data.batch_size, seed), out_shardings=shardings)
    return Program(model, mesh, init, train_steps, _placed(shapes, shardings), batch_sharding)


def _placed(shapes: TrainState, shardings: TrainState) -> TrainState:
    """Each leaf of `shapes` with the sharding of its part of the state."""
    place = lambda where, part: jax.tree.map(  # noqa: E731
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), part
    )
    return jax.tree.map(place, shardings, shapes)
