"""What every cell must have: its layer is a loop over its step, folding changes nothing, its own account is right."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.config import Config, all_settings
from lovecraft_jax.model.backend import resolve_backend, run_layer
from lovecraft_jax.model.cell import Cell
from lovecraft_jax.model.cells import cell_class
from lovecraft_jax.model.layer_input import LayerInput
from lovecraft_jax.runtime.errors import UserError
from tests.helpers.trees import assert_close

T, B, D, H = 6, 4, 5, 7

Arrays = dict[str, Any]


def test_config_can_name_every_cell_that_is_tested(cell_name: str) -> None:
    assert cell_name in all_settings()["model.cell"].metadata["expected"]
    with pytest.raises(ValueError, match="unknown cell 'banana'"):
        cell_class("banana")


@pytest.mark.slow
def test_a_layer_equals_a_loop_over_its_cell(cell_name: str) -> None:
    cell, variables, carry, x_TBD = drawn(cell_name)
    result = cell.apply(variables, carry, LayerInput(x_TBD), method=layer)
    outputs = []
    for x_BD in x_TBD:
        gates_x_BG = cell.apply(variables, x_BD, method="project")
        carry, moments = cell.apply(variables, carry, gates_x_BG, variables["params"]["kernel_h"])
        outputs.append(cell.output(carry))
        assert not moments
    assert_close(result, (carry, np.stack(outputs)))


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


def test_a_folded_layer_without_the_token_starts_from_its_bias(cell_name: str) -> None:
    cell, variables, carry, x_TBD = drawn(cell_name)
    expected = cell.apply(variables, carry, LayerInput(x_TBD[:1]), method=layer)[0]
    start, kernel = cell.apply(variables, None, slice(None), method="fold")
    assert len(start) == 1
    assert_close(cell.folded_step(carry, np.concatenate([x_TBD[0], cell.output(carry)], -1) @ kernel + start), expected)


def test_memory_is_from_minus_one_to_one_and_tells_units_apart(cell_name: str) -> None:
    cell, variables, _, x_TBD = drawn(cell_name)
    carry, _ = cell.apply(variables, cell.initial_carry(B, H), LayerInput(3 * x_TBD), method=layer)
    memory_BH = np.asarray(cell.memory(carry))
    assert memory_BH.shape == (B, H)
    assert np.abs(memory_BH).max() <= 1
    assert len(np.unique(memory_BH)) == memory_BH.size


def test_flops_are_two_per_weight_of_the_kernels(cell_name: str) -> None:
    cell, variables, _, _ = drawn(cell_name)
    weights = variables["params"]["kernel_x"].size + variables["params"]["kernel_h"].size
    assert cell.flops_per_token(D, H) == 2 * weights


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


def test_looking_tokens_up_equals_projecting_their_vectors_with_dropout(cell_name: str) -> None:
    cell, variables, _, _ = drawn(cell_name)
    rng, kernel_x = np.random.default_rng(1), variables["params"]["kernel_x"]
    ids_TB, mask_BD = rng.integers(D, size=(T, B), dtype=np.int32), rng.choice(np.float32([0, 1.25]), size=(B, D))
    one_hot_TBD, scale_TB = np.eye(D, dtype=np.float32)[ids_TB], mask_BD[np.arange(B), ids_TB]
    expected = one_hot_TBD @ kernel_x
    assert_close(cell.apply(variables, ids_TB, method="look_up"), expected)
    assert_close(cell.apply(variables, one_hot_TBD, method="project"), expected)
    dropped = cell.apply(variables, one_hot_TBD * mask_BD[None], method="project")
    assert_close(cell.apply(variables, ids_TB, None, scale_TB, method="look_up"), dropped)
    table_VD = rng.normal(size=(D + 3, D)).astype(np.float32)
    assert_close(cell.apply(variables, ids_TB, table_VD, method="look_up"), table_VD[ids_TB] @ kernel_x)
    rows = slice(2, None)
    part = cell.apply(variables, ids_TB, table_VD[:, 2:], None, rows, method="look_up")
    assert_close(part, table_VD[ids_TB][..., 2:] @ kernel_x[2:])


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
    with pytest.raises(ValueError, match="backend='banana' cannot run"):
        cell.apply(variables, carry, LayerInput(x_TBD), "banana", method=layer)
    config.model.backend = "auto"
    assert resolve_backend(Config.of(config).model) in cell.backends
    assert resolve_backend(Config.of(config).model, "tpu") == ("fused" if "fused" in cell.backends else "scan")


def layer(cell: Cell, carry: Any, inputs: LayerInput, backend: str = "scan") -> Any:
    return run_layer(cell, carry, inputs, backend)


def drawn(cell_name: str) -> tuple[Cell, Arrays, Any, np.ndarray]:
    """A cell, its parameters, a carry and inputs, all standard normal."""
    cell, rng = cell_class(cell_name)(D, H), np.random.default_rng(0)
    carry, inputs = cell.initial_carry(B, H), LayerInput(jnp.zeros((T, B, D)))
    shapes = jax.eval_shape(lambda key: cell.init(key, carry, inputs, method=layer), jax.random.key(0))
    normal = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    return cell, *jax.tree.map(normal, (shapes, carry, inputs.below_TBH))
