"""The compiled program: shardings, donation, compilation, and that dispatches and devices change no results."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.data.batches import Batch, Batches
from lovecraft_jax.model.dropout import DropoutRates
from lovecraft_jax.runtime.mesh import BY_ROW, REPLICATED, make_mesh, sharding
from lovecraft_jax.training.checkpoint import Checkpoints
from lovecraft_jax.training.compiled import Program, make_program
from lovecraft_jax.training.optimizer import make_optimizer
from lovecraft_jax.training.state import TrainState
from lovecraft_jax.training.step import make_train_step, make_train_steps
from tests.helpers.runs import ROOT, one_device
from tests.helpers.trees import assert_close, on_host

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]

V, TOTAL = 11, 40
GOLDEN_LOSSES = [2.400428, 2.348907, 2.270340]


@pytest.fixture(scope="module")
def program() -> Program:
    """The tiny config, dropout on, over eight devices."""
    return make_program(tiny.get_config(), V, TOTAL)


@pytest.fixture(scope="module")
def ten_steps(program: Program) -> tuple[TrainState, Any]:
    """The state after ten steps in one dispatch, and their metrics."""
    return on_host(program.train_steps(program.init(0), program.put(batches(0, 10))))


def test_states_have_the_shapes_and_shardings_of_the_target(program: Program) -> None:
    """The carry is split by row, and all else is on every device."""
    described = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), program.target)
    given = program.init(0)
    after, _ = program.train_steps(given, program.put(batches(0, 10)))
    for state in (program.init(0), after):
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), state) == described
    carry = {leaf.sharding for leaf in jax.tree.leaves(program.target.carry)}
    rest = {leaf.sharding for leaf in jax.tree.leaves(program.target.replace(carry=None))}
    mesh = make_mesh(tiny.get_config().data.batch_size)
    assert program.devices == jax.devices()
    assert (carry, rest) == ({sharding(mesh, BY_ROW)}, {sharding(mesh, REPLICATED)})
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((given.variables, given.opt_state)))  # donated


def test_a_golden_run_of_ten_steps(ten_steps: tuple[TrainState, Any]) -> None:
    state, metrics = ten_steps
    assert int(state.step) == 10
    assert metrics.keys() == {"loss", "grad_norm", "learning_rate", "finite"}
    assert all(values.shape == (10,) for values in metrics.values())
    assert np.all(metrics["finite"])
    np.testing.assert_allclose(
        metrics["loss"][[0, 5, 9]],
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
    assert caplog.text.count("Finished tracing train_steps ") == 1
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


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.name": "sgd", "model.norm": "batch"},
        {"optimizer.name": "adamw", "optimizer.weight_decay": 0.1}
        | {"model.mogrify": 2, "model.embed": 5, "model.skip": True, "model.dropout_recurrent": 0.1},
    ],
)
def test_a_checkpoint_resumes_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    config = tiny.get_config()
    config.update_from_flattened_dict(changes)
    program = make_program(config, V, TOTAL)
    halfway, _ = program.train_steps(program.init(0), program.put(batches(0, 5)))
    checkpoints = Checkpoints(epath.Path(tmp_path))
    checkpoints.save(5, halfway, {})
    restored = checkpoints.restore(5, program.target).state
    checkpoints.close()
    given = program.put(batches(5, 5))
    whole, resumed = (on_host(program.train_steps(state, given)[0]) for state in (halfway, restored))
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_tensors_are_logged_with_the_values_of_the_step_that_is_due() -> None:
    config, every = tiny.get_config(), 3
    config.optimizer.warmup = 0
    config.train.update({"log_tensors": True, "log_every": every})
    program = make_program(config, V, TOTAL)
    state = program.init(0)
    for step in range(2 * every):
        before = params_of(state)
        state, metrics = program.train_steps(state, program.put(batches(step, 1)))
        after, tensors = params_of(state), jax.tree.map(float, jax.tree.map(np.squeeze, metrics["tensors"]))
        assert tensors.keys() == after.keys()
        if (step + 1) % every:
            assert not any(value for values in tensors.values() for value in values.values())
            continue
        squares = [tensors[name]["grad_rms"] ** 2 * leaf.size for name, leaf in after.items()]
        assert np.sqrt(sum(squares)) == pytest.approx(float(metrics["grad_norm"][0]), rel=1e-5)
        for name, leaf in after.items():
            assert tensors[name]["param_rms"] == pytest.approx(rms(leaf), rel=1e-5)
            assert tensors[name]["update_rms"] == pytest.approx(rms(leaf - before[name]), rel=1e-4)
            assert tensors[name]["grad_rms"] > 0


def test_the_first_state_of_large_layers_does_not_deadlock() -> None:
    """In a process of its own, on all cores: two layers' factorisations once deadlocked on one pool of threads."""
    program = (
        "import os; os.sched_setaffinity(0, range(os.cpu_count()))\n"
        "import jax; from configs import tiny; from lovecraft_jax.training.compiled import make_program\n"
        "config = tiny.get_config(); config.model.units = 384\n"
        "jax.block_until_ready(make_program(config, 11, 40).init(0))"
    )
    # A program as users have it. BLAS's own threads would spin while other tests have the cores, five times as long.
    environment = one_device(XLA_FLAGS="", OPENBLAS_NUM_THREADS="1")
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, timeout=100, check=True)


def batches(step: int, count: int) -> Batch:
    """Returns batches of a text that is easy to learn, six steps an epoch, so that rows restart at steps 6, 12, ..."""
    data, squares = tiny.get_config().data, (np.arange(6 * 64 + 5) ** 2 % V).astype(np.uint8)
    return Batches(squares, data.batch_size, data.seq_len, "stream", seed=0).at(step, count)


def params_of(state: TrainState) -> dict[str, np.ndarray]:
    """Returns the parameters by their paths, copied, since the state is donated."""
    leaves = jax.tree_util.tree_leaves_with_path(state.variables["params"])
    return {"/".join(key.key for key in path): np.array(leaf, np.float64) for path, leaf in leaves}


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
