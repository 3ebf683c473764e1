"""What training compiles: the one place where its functions are jitted, with shardings and donation."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lovecraft_jax.config import NORMS_OF_BATCH, Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.data.tokenizer import smallest_uint
from lovecraft_jax.model import backend
from lovecraft_jax.model.dropout import DropoutRates
from lovecraft_jax.model.lm import LanguageModel, make_model
from lovecraft_jax.model.native import build
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.mesh import (
    BY_ROW_STACKED,
    REPLICATED,
    largest_divisor,
    make_mesh,
    process_rows,
    put_process_rows,
    sharding,
)
from lovecraft_jax.training.cpu_devices import best_core_count, core_devices, make_core_steps, put_rows
from lovecraft_jax.training.optimizer import Optimizer, make_optimizer
from lovecraft_jax.training.state import TrainState, init_state, state_shardings
from lovecraft_jax.training.step import Metrics, make_train_step, make_train_steps

COMPILER_OPTIONS = {
    # XLA hands products to YNNPACK by default; Eigen took 0.66 to 0.97 of its time at c150's shapes, but 1.3 times as
    # long where the second operand is transposed: the fused layer transposes that one beforehand.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": ""},
}
"""What the compiler of a platform is told, where measuring showed that it pays."""

TrainSteps = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled side of a run.

    `init`: seed to the first state. `rows`: those of every batch that this process computes. `put`: these rows of K
    steps' batches, sent to the `devices`. `train_steps`: (state, what was put) to (state, metrics [K]); the state is
    donated. `target`: the state's shapes with shardings, for restoring.
    """

    model: LanguageModel
    devices: Sequence[jax.Device]
    init: Callable[[int], TrainState]
    rows: slice
    put: Callable[[Batch], Any]
    train_steps: TrainSteps
    target: TrainState


def make_program(config: Config, vocab_size: int, total_steps: int, cores: int = 1) -> Program:
    """The program of `config` over all devices that JAX has; with `cores` > 1, over so many cores of its CPU; with 0,
    over as many of these as pay."""
    backend.check_cudnn(config)
    optimizer = make_optimizer(config.optimizer, total_steps)
    mesh = make_mesh(config.data.batch_size, jax.devices()[:1] if cores > 1 else None)
    init, target = _first_state(config, vocab_size, optimizer, mesh)
    if build.under_way():  # then there is a core and the time to fill the compile cache
        init.lower(0).compile()
    model, cores = make_model(config, vocab_size), cores or best_core_count(config)
    rates = DropoutRates.of(config.model)
    rows = process_rows(mesh, config.data.batch_size)
    if cores > 1:
        if model.norm in NORMS_OF_BATCH:
            raise UserError(
                f"config.model.norm={model.norm!r} on {cores} cores: each would have a batch of its own; leave "
                "--num_cpu_devices out"
            )
        devices = core_devices(largest_divisor(config.data.batch_size, cores))
        put: Callable[[Batch], Any] = functools.partial(put_rows, devices)
        train_steps: TrainSteps = make_core_steps(
            model, optimizer, target, devices, rates, _options(mesh), _tensors_every(config)
        )
    else:
        devices = mesh.devices.flatten().tolist()
        put = functools.partial(put_process_rows, mesh)
        steps = _over_mesh(model, optimizer, mesh, _tensors_every(config))
        train_steps = lambda state, batches: steps(state, batches, rates)  # noqa: E731
    return Program(model, devices, init, rows, put, train_steps, target)


def dispatch_steps(config: Config) -> int:
    """The steps of one dispatch, K: as many as asked for, but dispatches end where anything is due."""
    due = config.train
    return math.gcd(due.steps_per_dispatch, due.log_every, due.eval_every, due.checkpoint_every)


def lower_ahead(config: Config, vocab_size: int, total_steps: int, mesh: Mesh) -> jax.stages.Lowered:
    """A dispatch of the program over a mesh whose devices need not be there, from shapes alone, ready to compile."""
    optimizer = make_optimizer(config.optimizer, total_steps)
    _, target = _first_state(config, vocab_size, optimizer, mesh)
    K, B, T, ids = dispatch_steps(config), config.data.batch_size, config.data.seq_len, smallest_uint(vocab_size)
    by_row = sharding(mesh, BY_ROW_STACKED)
    leaves: Any = [((K, B, T), ids), ((K, B, T), ids), ((K, B, T), jnp.uint8), ((K, B), jnp.bool_)]
    shapes: Any = [jax.ShapeDtypeStruct(shape, dtype, sharding=by_row) for shape, dtype in leaves]
    model = make_model(config, vocab_size, backend.resolve_backend(config.model, mesh.devices.flat[0].platform))
    return (
        _over_mesh(model, optimizer, mesh, _tensors_every(config))
        .trace(target, Batch(*shapes), DropoutRates.of(config.model))
        .lower()
    )


def _first_state(config: Config, vocab_size: int, optimizer: Optimizer, mesh: Mesh) -> tuple[Any, TrainState]:
    """Jitted: a seed to the state before the first step; and its shapes, with where each part of it lies."""
    model = make_model(config, vocab_size, "scan")  # all layers start alike
    first = functools.partial(init_state, model, optimizer.transform, config.data.batch_size)
    shardings = state_shardings(mesh)
    return jax.jit(first, out_shardings=shardings), _placed(jax.eval_shape(first, 0), shardings)


def _over_mesh(model: LanguageModel, optimizer: Optimizer, mesh: Mesh, tensors_every: int) -> Any:
    """Jitted: K steps over the devices of a mesh, (state, batches, dropout rates) to (state, metrics)."""
    shardings, by_row, everywhere = state_shardings(mesh), sharding(mesh, BY_ROW_STACKED), sharding(mesh, REPLICATED)
    return jax.jit(
        make_train_steps(make_train_step(model, optimizer, mesh, tensors_every)),
        in_shardings=(shardings, by_row, everywhere),
        out_shardings=(shardings, everywhere),
        donate_argnums=0,
        compiler_options=_options(mesh),
    )


def _tensors_every(config: Config) -> int:
    return config.train.log_every if config.train.log_tensors else 0


def _options(mesh: Mesh) -> dict[str, Any] | None:
    return COMPILER_OPTIONS.get(mesh.devices.flat[0].platform)


def _placed(shapes: TrainState, shardings: TrainState) -> TrainState:
    """Each leaf of `shapes` with the sharding of its part of the state."""
    place = lambda where, part: jax.tree.map(  # noqa: E731
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), part
    )
    return jax.tree.map(place, shardings, shapes)
