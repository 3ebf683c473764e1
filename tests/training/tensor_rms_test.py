"""train.log_tensors: RMS of gradients, parameters and updates against what the steps did."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.training.compiled import Program, make_program
from tests.helpers.runs import rows

V, K = 11, 3
NAMES = {"head_bias", "head_kernel"} | {f"lstm_{n}/{part}" for n in (0, 1) for part in ("bias", "kernel_h", "kernel_x")}


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "cores"), [("scan", 1), ("native", 1), ("fused", 2)])
def test_values_are_those_of_the_step_that_is_due(backend: str, cores: int) -> None:
    program = program_of(backend, cores, log_tensors=True, log_every=K)
    state = program.init(0)
    for step in range(1, 2 * K + 1):
        before = params_of(state)
        state, metrics = program.train_steps(state, program.put(batch_of(step)))
        after, tensors = params_of(state), metrics["tensors"]
        assert tensors.keys() == after.keys() == NAMES
        if step % K:
            assert all(float(value[0]) == 0 for values in tensors.values() for value in values.values())
            continue
        squares = [float(tensors[name]["grad_rms"][0]) ** 2 * after[name].size for name in NAMES]
        assert np.sqrt(sum(squares)) == pytest.approx(float(metrics["grad_norm"][0]), rel=1e-5)
        for name in NAMES:
            assert float(tensors[name]["param_rms"][0]) == pytest.approx(rms(after[name]), rel=1e-5)
            assert float(tensors[name]["update_rms"][0]) == pytest.approx(rms(after[name] - before[name]), rel=1e-4)
            assert float(tensors[name]["grad_rms"][0]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["scan", "native"])
def test_logging_tensors_does_not_change_what_is_learnt(backend: str) -> None:
    results = []
    for log_tensors in (False, True):
        program = program_of(backend, 1, log_tensors, log_every=K)
        state, metrics = program.train_steps(program.init(0), program.put(batch_of(*range(2 * K))))
        assert ("tensors" in metrics) is log_tensors
        results.append((params_of(state), np.asarray(metrics["loss"])))
    for a, b in zip(jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_rows_and_tensorboard_have_every_tensor(command: Callable, trained: Path, tmp_path: Path) -> None:
    done = command("train", "--config=configs/tiny.py", f"--workdir={tmp_path}", "--config.train.log_tensors")
    assert done.returncode == 0, done.stderr
    found = [row for row in rows(tmp_path) if row["split"] == "train"]
    assert len(found) == 4
    for row in found:
        assert row["tensors"].keys() == NAMES
        assert all(value > 0 for values in row["tensors"].values() for value in values.values())
    others = [{key: value for key, value in row.items() if key != "tensors"} for row in rows(tmp_path)]
    for row, expected in zip(others, rows(trained), strict=True):
        assert row.keys() == expected.keys()
        assert row.get("loss", 0.0) == pytest.approx(expected.get("loss", 0.0), rel=1e-5)
    events = b"".join(file.read_bytes() for file in (tmp_path / "tensorboard").iterdir())
    assert b"train/tensors/lstm_0/kernel_h/update_rms" in events


def test_a_run_may_resume_with_it_on_or_off() -> None:
    config = Config.of(tiny.get_config())
    assert config.replace(**{"train.log_tensors": True}).differences(config) == []


def program_of(backend: str, cores: int, log_tensors: bool, log_every: int) -> Program:
    config = tiny.get_config()
    config.model.backend = backend
    config.optimizer.warmup = 0
    config.train.update({"log_tensors": log_tensors, "log_every": log_every})
    return make_program(Config.of(config), V, total_steps=100, cores=cores)


def batch_of(*steps: int) -> Batch:
    """Random tokens, one step after another."""
    tokens = np.stack([np.random.default_rng(step).integers(V, size=(8, 9)).astype(np.uint8) for step in steps])
    weight = np.ones((len(steps), 8, 8), np.uint8)
    return Batch(tokens[..., :-1], tokens[..., 1:], weight, np.zeros((len(steps), 8), bool))


def params_of(state: Any) -> dict[str, np.ndarray]:
    """The parameters by their paths, copied, since the state is donated."""
    leaves = jax.tree_util.tree_leaves_with_path(state.variables["params"])
    return {"/".join(key.key for key in path): np.array(leaf, np.float64) for path, leaf in leaves}


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
