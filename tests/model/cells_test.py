"""What every cell must have: its layer is a loop over its step, folding changes nothing, its own account is right."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.model.backend import resolve_backend, run_layer
from lovecraft_jax.model.cell import Cell
from lovecraft_jax.model.cells import cell_class
from lovecraft_jax.model.layer_input import LayerInput
from lovecraft_jax.run import load_run
from lovecraft_jax.runtime.errors import DONE, UserError
from lovecraft_jax.training import loop
from tests.helpers.runs import assert_same_run, rows
from tests.helpers.trees import assert_close

T, B, D, H = 6, 4, 5, 7

Arrays = dict[str, Any]


def test_steps_of_the_folded_cell_equal_its_own(cell_name: str) -> None:
    cell, variables, carry, x_TBD = drawn(cell_name)
    expected = cell.apply(variables, carry, LayerInput(x_TBD), method=layer)[0]
    # The first two features come from the layer below; each time step is a "token" of its own, with the others.
    token_gates = x_TBD[..., 2:].reshape(T * B, -1) @ variables["params"]["kernel_x"][2:]
    start, kernel = cell.apply(variables, token_gates, slice(2), method="fold")
    for t in range(T):
        joined = np.concatenate([x_TBD[t, :, :2], cell.output(carry)], axis=-1)
        carry = cell.folded_step(carry, joined @ kernel + start[t * B : (t + 1) * B])
    assert_close(carry, expected)


def test_memory_is_from_minus_one_to_one_and_tells_units_apart(cell_name: str) -> None:
    cell, variables, _, x_TBD = drawn(cell_name)
    carry, _ = cell.apply(variables, cell.initial_carry(B, H), LayerInput(3 * x_TBD), method=layer)
    memory_BH = np.asarray(cell.memory(carry))
    assert memory_BH.shape == (B, H)
    assert np.abs(memory_BH).max() <= 1
    assert len(np.unique(memory_BH)) == memory_BH.size


def test_the_initial_carry_is_zero_and_each_leaf_its_own_buffer(cell_name: str) -> None:
    leaves = jax.tree.leaves(cell_class(cell_name).initial_carry(B, H))
    assert not np.any(leaves)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@pytest.mark.slow
def test_recurrent_kernels_start_from_one_orthogonal_matrix_per_gate(cell_name: str) -> None:
    cell = cell_class(cell_name)(D, H)
    carry, inputs = cell.initial_carry(B, H), LayerInput(jnp.zeros((T, B, D)))
    kernel_h = cell.init(jax.random.key(0), carry, inputs, method=layer)["params"]["kernel_h"]
    blocks = np.split(np.asarray(kernel_h), cell.gates, axis=1)
    for n, block in enumerate(blocks):
        np.testing.assert_allclose(block.T @ block, np.eye(H), atol=1e-6)
        assert all(np.max(np.abs(block - other)) > 0.1 for other in blocks[n + 1 :])


def test_every_backend_of_a_cell_can_be_asked_for_and_no_other(cell_name: str) -> None:
    cell, variables, carry, x_TBD = drawn(cell_name)
    config = tiny.get_config()
    config.model.cell = cell_name
    for backend in ("scan", "fused", "native", "cudnn"):
        config.model.backend = backend
        if backend in cell.backends:
            Config.of(config)
            continue
        with pytest.raises(UserError, match=f"config.model.backend='{backend}' with cell='{cell_name}'"):
            Config.of(config)
        with pytest.raises(ValueError, match=f"backend='{backend}' cannot run a {cell.label} layer"):
            cell.apply(variables, carry, LayerInput(x_TBD), backend, method=layer)
    with pytest.raises(ValueError, match="unknown cell 'banana'"):
        cell_class("banana")
    config.model.backend = "auto"
    assert resolve_backend(Config.of(config).model) in cell.backends
    assert resolve_backend(Config.of(config).model, "tpu") == ("fused" if "fused" in cell.backends else "scan")


@pytest.mark.slow
def test_a_run_of_gru_layers_resumes_exactly_and_is_scored_and_sampled(
    config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    config.model.update({"cell": "gru", "skip": True})
    for workdir, stop in ((whole, 0), (halves, 20), (halves, 0)):
        config.train.stop_at_step = stop
        assert loop.train(config, str(workdir), cores=1) == DONE
    assert "2 GRU layers of 16" in capsys.readouterr().err
    assert_same_run(halves, whole)
    run = load_run(whole)
    assert run.score(run.split("test")).bpc == pytest.approx(rows(whole)[-1]["bpc"], rel=1e-9)
    assert len(run.generate("The", length=30)[0]) == 30


def layer(cell: Cell, carry: Any, inputs: LayerInput, backend: str = "scan") -> Any:
    return run_layer(cell, carry, inputs, backend)


def drawn(cell_name: str) -> tuple[Cell, Arrays, Any, np.ndarray]:
    """A cell, its parameters, a carry and inputs, all standard normal."""
    cell, rng = cell_class(cell_name)(D, H), np.random.default_rng(0)
    carry, inputs = cell.initial_carry(B, H), LayerInput(jnp.zeros((T, B, D)))
    shapes = jax.eval_shape(lambda key: cell.init(key, carry, inputs, method=layer), jax.random.key(0))
    normal = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    return cell, *jax.tree.map(normal, (shapes, carry, inputs.below_TBH))
