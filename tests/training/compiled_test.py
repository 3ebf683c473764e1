"""The compiled program: shardings, donation, compilation, and that dispatches and devices change no results."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.data.batches import Batch, Batches
from lovecraft_jax.model.dropout import DropoutRates
from lovecraft_jax.runtime.mesh import BY_ROW, REPLICATED, make_mesh, sharding
from lovecraft_jax.training.compiled import Program, make_program
from lovecraft_jax.training.cpu_devices import core_devices
from lovecraft_jax.training.optimizer import make_optimizer, make_schedule
from lovecraft_jax.training.state import TrainState
from lovecraft_jax.training.step import make_train_step, make_train_steps
from tests.helpers.trees import assert_close, on_host

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
V, TOTAL = 11, 40
GOLDEN_LOSSES = [2.400428, 2.348907, 2.270340]


@pytest.fixture(scope="module", params=[1, 2], ids=["collective", "cores"])
def program(request: pytest.FixtureRequest) -> Program:
    """The tiny config, dropout on, over eight devices and a collective, and over two cores of a CPU."""
    return make_program(tiny.get_config(), V, TOTAL, cores=request.param)


@pytest.fixture(scope="module")
def ten_steps(program: Program) -> tuple[TrainState, Any]:
    """The state after ten steps in one dispatch, and their metrics."""
    return on_host(program.train_steps(program.init(0), program.put(batches(0, 10))))


def test_the_first_state_has_the_shapes_and_shardings_of_the_target(program: Program) -> None:
    state = program.init(0)
    described = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), state)
    assert described == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), program.target)
    after, _ = program.train_steps(state, program.put(batches(0, 10)))
    assert described == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), after)


def test_a_mesh_shards_the_carry_by_row_and_cores_keep_the_state_on_the_first_device() -> None:
    split, whole = (make_program(tiny.get_config(), V, TOTAL, cores=cores) for cores in (1, 2))
    mesh = make_mesh(tiny.get_config().data.batch_size)
    assert split.devices == jax.devices()
    assert {leaf.sharding for leaf in jax.tree.leaves(split.target.carry)} == {sharding(mesh, BY_ROW)}
    everything_else = jax.tree.leaves(split.target.replace(carry=None))
    assert {leaf.sharding for leaf in everything_else} == {sharding(mesh, REPLICATED)}
    assert whole.devices == core_devices(2)
    assert all(leaf.sharding.device_set == {jax.devices()[0]} for leaf in jax.tree.leaves(whole.target))


def test_the_first_state_depends_on_the_seed_alone(program: Program) -> None:
    first, again, other = (on_host(program.init(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    differ = jax.tree.map(lambda a, b: bool(np.any(a != b)), first, other)
    assert differ.variables["params"]["lstm_0"] == {"kernel_x": True, "kernel_h": True, "bias": False}
    assert differ.rng
    assert int(first.step) == 0
    assert not np.any(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(first.carry)]))


def test_a_mesh_donates_the_state_and_cores_do_not() -> None:
    donated, kept = {}, {}
    for cores, states in ((1, donated), (2, kept)):
        program = make_program(tiny.get_config(), V, TOTAL, cores=cores)
        states["given"] = program.init(0)
        jax.block_until_ready(program.train_steps(states["given"], program.put(batches(0, 10))))
        states["again"] = program.init(0)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((donated["given"].variables, donated["given"].opt_state)))
    jax.tree.map(np.testing.assert_array_equal, *map(on_host, kept.values()))


def test_metrics_are_returned_for_each_step(ten_steps: tuple[TrainState, Any]) -> None:
    state, metrics = ten_steps
    assert int(state.step) == 10
    assert {name: values.shape for name, values in metrics.items()} == dict.fromkeys(
        ("loss", "grad_norm", "learning_rate", "finite"), (10,)
    )
    config = tiny.get_config().optimizer
    schedule = make_schedule(config, TOTAL)
    np.testing.assert_allclose(metrics["learning_rate"], [config.lr * float(schedule(k)) for k in range(10)], rtol=1e-5)
    assert np.all(metrics["finite"])


def test_a_golden_run_of_ten_steps(ten_steps: tuple[TrainState, Any]) -> None:
    np.testing.assert_allclose(
        ten_steps[1]["loss"][[0, 5, 9]],
        GOLDEN_LOSSES,
        rtol=1e-5,
        err_msg="Update these numbers only for a change that means to change training: initial values, dropout's "
        "random numbers, the loss, the optimiser or the tiny config, or a new jax that says it draws other random "
        "numbers. A change of how the same thing is computed must not move them.",
    )


def test_ten_dispatches_trace_once_and_equal_ten_steps_in_one(
    program: Program, ten_steps: tuple[TrainState, Any], caplog: pytest.LogCaptureFixture
) -> None:
    state, losses = program.init(0), []
    with jax.log_compiles():
        for step in range(10):
            state, metrics = program.train_steps(state, program.put(batches(step, 1)))
            losses.append(metrics["loss"])
    traced = re.findall(r"Finished tracing (train_steps|row_gradients) ", caplog.text)
    assert traced in (["train_steps"], ["row_gradients"])
    assert_close(on_host(state), ten_steps[0])
    assert_close(np.concatenate(losses), ten_steps[1]["loss"])


def test_one_device_equals_eight_with_dropout(program: Program, ten_steps: tuple[TrainState, Any]) -> None:
    config, model, device = tiny.get_config(), program.model, jax.devices()[0]
    rates = DropoutRates.of(Config.of(config).model)
    assert None not in (rates.input, rates.output)
    optimizer = make_optimizer(config.optimizer, TOTAL)
    mesh = make_mesh(config.data.batch_size, [device])
    train_steps = jax.jit(make_train_steps(make_train_step(model, optimizer, mesh)))
    result = train_steps(jax.device_put(program.init(0), device), batches(0, 10), rates)
    assert all(leaf.devices() == {device} for leaf in jax.tree.leaves(result))
    assert_close(on_host(result), ten_steps)


def batches(step: int, count: int) -> Batch:
    """Returns batches of a text that is easy to learn, six steps an epoch, so that rows restart at steps 6, 12, ..."""
    data, squares = tiny.get_config().data, (np.arange(6 * 64 + 5) ** 2 % V).astype(np.uint8)
    return Batches(squares, data.batch_size, data.seq_len, "stream", seed=0).at(step, count)


def test_the_first_state_of_large_layers_does_not_deadlock() -> None:
    """In a process of its own, on all cores: two layers' factorisations once deadlocked on one pool of threads."""
    program = (
        "import os; os.sched_setaffinity(0, range(os.cpu_count()))\n"
        "import jax; from configs import tiny; from lovecraft_jax.training.compiled import make_program\n"
        "config = tiny.get_config(); config.model.units = 512\n"
        "jax.block_until_ready(make_program(config, 11, 40).init(0))"
    )
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, timeout=100, check=True)
