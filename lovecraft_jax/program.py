"""What training compiles: the one place where its functions are jitted, with shardings and donation."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from lovecraft_jax import cudnn, native
from lovecraft_jax.batches import Batch
from lovecraft_jax.cores import core_devices, make_core_steps, put_rows
from lovecraft_jax.mesh import BY_ROW_STACKED, REPLICATED, cores_that_pay, divisor, make_mesh, sharding
from lovecraft_jax.model import LSTMLM, make_model
from lovecraft_jax.optimizer import make_optimizer
from lovecraft_jax.state import TrainState, init_state, state_shardings
from lovecraft_jax.step import Metrics, make_train_step, make_train_steps

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

    `init`: seed to the first state. `put`: batches of K steps, sent to the `devices`. `train_steps`: (state, those
    batches) to (state, metrics [K]); the state is donated. `target`: the state's shapes with shardings, for restoring.
    """

    model: LSTMLM
    devices: Sequence[jax.Device]
    init: Callable[[int], TrainState]
    put: Callable[[Batch], Any]
    train_steps: TrainSteps
    target: TrainState


def make_program(config: ConfigDict, vocab_size: int, total_steps: int, cores: int = 1) -> Program:
    """The program of `config` over all devices that JAX has; with `cores` > 1, over so many cores of its CPU; with 0,
    over as many of these as pay."""
    cudnn.check(config)
    optimizer = make_optimizer(config.optimizer, total_steps)
    plain = make_model(config, vocab_size, "fused")
    first = functools.partial(init_state, plain, optimizer.adam, config.data.batch_size)
    shapes = jax.eval_shape(first, 0)
    mesh = make_mesh(config.data.batch_size, jax.devices()[:1] if cores > 1 else None)
    options = COMPILER_OPTIONS.get(mesh.devices.flat[0].platform)
    shardings = state_shardings(mesh)
    init = jax.jit(first, out_shardings=shardings)
    if native.under_way():  # then there is a core and the time to fill the compile cache
        init.lower(0).compile()
    model, cores = make_model(config, vocab_size), cores or cores_that_pay(config)
    if cores > 1:
        devices = core_devices(divisor(config.data.batch_size, cores))
        put: Callable[[Batch], Any] = functools.partial(put_rows, devices)
        train_steps: TrainSteps = make_core_steps(model, optimizer, shapes, devices, options)
    else:
        devices = mesh.devices.flatten().tolist()
        put = functools.partial(jax.device_put, device=sharding(mesh, BY_ROW_STACKED))
        train_steps = jax.jit(
            make_train_steps(make_train_step(model, optimizer, mesh)),
            in_shardings=(shardings, sharding(mesh, BY_ROW_STACKED)),
            out_shardings=(shardings, sharding(mesh, REPLICATED)),
            donate_argnums=0,
            compiler_options=options,
        )
    return Program(model, devices, init, put, train_steps, _placed(shapes, shardings))


def _placed(shapes: TrainState, shardings: TrainState) -> TrainState:
    """Each leaf of `shapes` with the sharding of its part of the state."""
    place = lambda where, part: jax.tree.map(  # noqa: E731
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), part
    )
    return jax.tree.map(place, shardings, shapes)
