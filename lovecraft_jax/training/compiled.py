"""The compiled programs of training: the one place of its jit, with shardings and donation."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lovecraft_jax.config import Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.data.encoded import smallest_uint
from lovecraft_jax.model import backend
from lovecraft_jax.model.dropout import DropoutRates
from lovecraft_jax.model.lm import LanguageModel, make_model
from lovecraft_jax.model.native import build
from lovecraft_jax.runtime.mesh import BY_ROW_STACKED, REPLICATED, make_mesh, process_rows, put_process_rows, sharding
from lovecraft_jax.training.optimizer import Optimizer, make_optimizer
from lovecraft_jax.training.state import TrainState, init_state, state_shardings
from lovecraft_jax.training.step import Metrics, make_train_step, make_train_steps

COMPILER_OPTIONS: dict[str, dict[str, Any]] = {
    # By default XLA gives matmuls to YNNPACK. Without it they go to Eigen, which took 0.66 to 0.97 of its time at
    # c150's shapes, but 1.3 times as long with a transposed second operand: the fused layer transposes it beforehand.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": ""},
    # Without it a run on a GPU does not repeat: some operations add numbers up in whatever order they arrive.
    "gpu": {"xla_gpu_exclude_nondeterministic_ops": True},
}
"""Options for XLA by platform, each with its reason."""


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled functions of a run.

    `init` takes a seed and returns the first state. `rows` are the rows of each batch that this process computes, and
    `put` sends these rows of K steps' batches to the `devices`. `train_steps` takes the state, which is donated, and
    what `put` returns, and returns the new state and metrics [K]. `target` has the state's shapes and shardings, to
    restore checkpoints to.
    """

    model: LanguageModel
    devices: Sequence[jax.Device]
    init: Callable[[int], TrainState]
    rows: slice
    put: Callable[[Batch], Any]
    train_steps: Callable[[TrainState, Any], tuple[TrainState, Metrics]]
    target: TrainState


def make_program(config: Config, vocab_size: int, total_steps: int) -> Program:
    """Returns the program of `config` on all devices that JAX has."""
    optimizer, mesh = make_optimizer(config.optimizer, total_steps), make_mesh(config.data.batch_size)
    init, target = _first_state(config, vocab_size, optimizer, mesh)
    if build.under_way():  # the C++ compiler has another core: meanwhile fill the compile cache
        init.lower(0).compile()
    model, rates = make_model(config, vocab_size), DropoutRates.of(config.model)
    devices, rows = mesh.devices.flatten().tolist(), process_rows(mesh, config.data.batch_size)
    put = functools.partial(put_process_rows, mesh)
    steps = _over_mesh(config, model, optimizer, mesh)
    return Program(model, devices, init, rows, put, lambda state, batches: steps(state, batches, rates), target)


def make_stacked_steps(
    configs: Sequence[Config], vocab_size: int, total_steps: int, device: jax.Device
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns `train_steps`, as in Program, for runs that differ only in values of their states, as the seed, and in
    their dropout rates. Every leaf of state, batches and metrics has a leading axis of runs, as `configs` has them."""
    first = configs[0]
    mesh = make_mesh(first.data.batch_size, [device])
    model, optimizer = make_model(first, vocab_size), make_optimizer(first.optimizer, total_steps)
    rates = jax.tree.map(lambda *rates: np.stack(rates), *(DropoutRates.of(config.model) for config in configs))
    train_steps = jax.vmap(make_train_steps(make_train_step(model, optimizer, mesh, *_extras(first))))
    steps = jax.jit(train_steps, donate_argnums=0, compiler_options=_options(mesh))
    return lambda state, batches: steps(state, batches, rates)


@jax.jit
def stack_trees(trees: list[Any]) -> Any:
    """Returns one tree from a list of S trees, with an axis of S in front of every leaf."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def unstack_trees(tree: Any) -> list[Any]:
    """Returns the list that `stack_trees` made `tree` of."""
    return [jax.tree.map(operator.itemgetter(n), tree) for n in range(len(jax.tree.leaves(tree)[0]))]


def dispatch_steps(config: Config) -> int:
    """Returns K, the steps of one dispatch: at most train.steps_per_dispatch, and a divisor of the steps between two
    logs, evaluations or checkpoints."""
    due = config.train
    return math.gcd(due.steps_per_dispatch, due.log_every, due.eval_every, due.checkpoint_every)


def lower_ahead(config: Config, vocab_size: int, total_steps: int, mesh: Mesh) -> jax.stages.Lowered:
    """Returns one dispatch, lowered from shapes alone for a mesh of devices that need not exist."""
    optimizer = make_optimizer(config.optimizer, total_steps)
    _, target = _first_state(config, vocab_size, optimizer, mesh)
    K, B, T, ids = dispatch_steps(config), config.data.batch_size, config.data.seq_len, smallest_uint(vocab_size)
    by_row = sharding(mesh, BY_ROW_STACKED)
    leaves: Any = [((K, B, T), ids), ((K, B, T), ids), ((K, B, T), jnp.uint8), ((K, B), jnp.bool_)]
    shapes: Any = [jax.ShapeDtypeStruct(shape, dtype, sharding=by_row) for shape, dtype in leaves]
    model = make_model(config, vocab_size, backend.resolve_backend(config.model, mesh.devices.flat[0].platform))
    steps = _over_mesh(config, model, optimizer, mesh)
    return steps.trace(target, Batch(*shapes), DropoutRates.of(config.model)).lower()


def _first_state(config: Config, vocab_size: int, optimizer: Optimizer, mesh: Mesh) -> tuple[Any, TrainState]:
    """Returns a jitted function from a seed to the first state, and the state's shapes with shardings."""
    model = make_model(config, vocab_size, "scan")  # the initial values are the same for all backends
    averaged = config.train.average > 0

    def first(seed: int | jax.Array) -> TrainState:
        return init_state(model, optimizer.transform, config.data.batch_size, seed, averaged)

    init = jax.jit(first, out_shardings=state_shardings(mesh))
    return init, init.eval_shape(0)


def _over_mesh(config: Config, model: LanguageModel, optimizer: Optimizer, mesh: Mesh) -> Any:
    """Returns K steps on the devices of a mesh, jitted: (state, batches, dropout rates) to (state, metrics)."""
    shardings, by_row, everywhere = state_shardings(mesh), sharding(mesh, BY_ROW_STACKED), sharding(mesh, REPLICATED)
    return jax.jit(
        make_train_steps(make_train_step(model, optimizer, mesh, *_extras(config))),
        in_shardings=(shardings, by_row, everywhere),
        out_shardings=(shardings, everywhere),
        donate_argnums=0,
        compiler_options=_options(mesh),
    )


def _extras(config: Config) -> tuple[float, int]:
    """Returns the decay of averaged weights, and after how many steps tensors are measured; 0 for never."""
    return config.train.average, config.train.log_every if config.train.log_tensors else 0


def _options(mesh: Mesh) -> dict[str, Any] | None:
    return COMPILER_OPTIONS.get(mesh.devices.flat[0].platform)
