"""Each cell: its layer against a float64 loop, Flax's cell and PyTorch's layout, and what it says of itself."""

import functools
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.model.backend import resolve_backend, run_layer
from lovecraft_jax.model.cell import Cell
from lovecraft_jax.model.cells import cell_class
from lovecraft_jax.model.gru import GRUCell
from lovecraft_jax.model.layer_input import LayerInput
from lovecraft_jax.model.lstm import LSTMCell
from lovecraft_jax.model.native.build import COMPILERS
from lovecraft_jax.run import load_run
from lovecraft_jax.runtime.errors import DONE, UserError
from lovecraft_jax.training import loop
from tests.helpers.runs import assert_same_run, rows
from tests.helpers.trees import assert_close

pytestmark = pytest.mark.usefixtures("unoptimized")

T, B, D, H = 6, 8, 5, 20  # 20 units do not fill the last SIMD vector, whatever its width
FLOAT32, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("bfloat16")
with_compiler = pytest.mark.skipif(not any(map(which, COMPILERS)), reason="no C++ compiler")
GATES = {"lstm": "ifgo", "gru": "rzn"}
"""In the order of the parameters' columns, which is PyTorch's too."""

Arrays = dict[str, Any]
Matmul = Callable[[Any], Any]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell_name", "backend"),
    [("lstm", "scan"), ("lstm", "fused"), pytest.param("lstm", "native", marks=with_compiler), ("gru", "scan")],
)
def test_values_and_gradients_equal_a_float64_loop(cell_name: str, backend: str) -> None:
    given = draw(cell_name)
    assert_close(run(given, cell_name, backend), reference(given, cell_name))
    assert_close(gradients(given, cell_name, backend), reference_gradients(given, cell_name))


@pytest.mark.slow
def test_the_layer_of_flax_with_the_same_parameters_gives_the_same(cell_name: str) -> None:
    given = draw(cell_name)
    flaxs = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}[cell_name](H)
    variables = {"params": {"cell": to_flax(given["params"], cell_name)}}
    layer = nn.RNN(flaxs, time_major=True, return_carry=True)
    assert_close(run(given, cell_name), layer.apply(variables, given["x"], initial_carry=given["carry"]))


def test_parameters_in_torchs_layout_map_to_ours(cell_name: str) -> None:
    # torch.nn.LSTM: weight_ih (W_ii|W_if|W_ig|W_io) [4H, D], weight_hh [4H, H] and two biases [4H]; torch.nn.GRU:
    # weight_ih (W_ir|W_iz|W_in) [3H, D] and so on. Each adds bias_ih to W x and bias_hh to W h.
    given, rng, G = draw(cell_name), np.random.default_rng(1), len(GATES[cell_name]) * H
    shapes = {"weight_ih": (G, D), "weight_hh": (G, H), "bias_ih": (G,), "bias_hh": (G,)}
    theirs = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    expected = in_float64(
        lambda given, theirs: unroll(
            given,
            cell_name,
            lambda x_BD: x_BD @ theirs["weight_ih"].T + theirs["bias_ih"][None],
            lambda h_BH: h_BH @ theirs["weight_hh"].T + theirs["bias_hh"][None],
        ),
        given,
        theirs,
    )
    assert_close(run(given | {"params": from_torch(theirs, cell_name)}, cell_name), expected)


@pytest.mark.slow
@pytest.mark.parametrize("transformation", ["vmap", "shard_map"])
@pytest.mark.parametrize("backend", ["fused", pytest.param("native", marks=with_compiler)])
def test_custom_gradients_hold_inside_every_transformation(backend: str, transformation: str) -> None:
    given, of_one = draw("lstm"), functools.partial(gradients, cell_name="lstm", backend=backend)
    if transformation == "shard_map":
        mesh = Mesh(np.array(jax.devices()), ("rows",))
        assert mesh.size == 8
        rank_to_spec = {3: PartitionSpec(None, "rows"), 2: PartitionSpec("rows")}  # [T, B, ...] and [B, H]
        specs = jax.tree.map(lambda leaf: rank_to_spec[leaf.ndim], given | {"params": None})
        specs["params"] = dict.fromkeys(given["params"], PartitionSpec())

        def dense(local: Arrays) -> Arrays:
            found = of_one(local)
            return found | {"params": jax.lax.psum(found["params"], "rows")}

        sharded = jax.shard_map(dense, mesh=mesh, in_specs=(specs,), out_specs=specs, check_vma=False)
        assert_close(jax.jit(sharded)(given), reference_gradients(given, "lstm"))
        return
    two = given, draw("lstm", seed=1)
    stack = lambda *leaves: np.stack(leaves)  # noqa: E731
    expected = jax.tree.map(stack, *(reference_gradients(each, "lstm") for each in two))
    assert_close(jax.vmap(of_one)(jax.tree.map(stack, *two)), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("cell_name", "backend"), [("lstm", "scan"), ("lstm", "fused"), ("gru", "scan")])
def test_bfloat16_rounds_the_operands_of_matmuls_and_fused_the_output(cell_name: str, backend: str) -> None:
    given = draw(cell_name)
    rounded = run(given, cell_name, backend, BFLOAT16)
    # This close only if the carry and the gates are not rounded, and far from the value without any rounding.
    # (reduce_precision, as XLA would leave out a conversion to bfloat16 and back.)
    expected = reference(given, cell_name, lambda a: jax.lax.reduce_precision(a, 8, 7))
    if backend == "fused":
        (c_BH, h_BH), h_TBH = rounded
        assert_close(c_BH, expected[0][0])
        assert_close((h_BH, h_TBH), (expected[0][1], expected[1]), 2.0**-8)
        np.testing.assert_array_equal(h_TBH, h_TBH.astype(BFLOAT16).astype(FLOAT32))
    else:
        assert_close(rounded, expected)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_close(rounded, reference(given, cell_name), relative=1e-4)
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {FLOAT32}
    found = gradients(given, cell_name, backend, BFLOAT16)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {FLOAT32}
    assert_close(found, reference_gradients(given, cell_name), relative=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"forget_bias": -2.5}])
def test_biases_start_at_zero_but_the_forget_gates(settings: dict[str, float]) -> None:
    given = draw("lstm")
    params = LSTMCell(D, H, **settings).init(jax.random.key(0), given["carry"], given["x"], method=layer)["params"]
    forget = settings.get("forget_bias", 1.0)
    np.testing.assert_array_equal(params["bias"], [0] * H + [forget] * H + [0] * 2 * H)


def test_a_gru_refuses_a_norm(config: Any) -> None:
    config.model.update({"cell": "gru", "norm": "layer"})
    with pytest.raises(UserError, match=r"config\.model\.norm='layer' with cell='gru'"):
        Config.of(config)
    with pytest.raises(ValueError, match="no norm"):
        GRUCell(D, H, norm="layer").init(jax.random.key(0), method=lambda cell: cell.input_kernel)


def test_memory_is_from_minus_one_to_one_and_tells_units_apart(cell_name: str) -> None:
    cell, given = cell_class(cell_name), draw(cell_name)
    carry, _ = run(given | {"carry": cell.initial_carry(B, H)}, cell_name)
    memory_BH = np.asarray(cell.memory(carry))
    assert memory_BH.shape == (B, H)
    assert np.abs(memory_BH).max() <= 1
    assert len(np.unique(memory_BH)) > 0.9 * memory_BH.size  # not all, where tanh is 1 to the last bit


def test_the_initial_carry_is_zero_and_each_leaf_its_own_buffer(cell_name: str) -> None:
    leaves = jax.tree.leaves(cell_class(cell_name).initial_carry(B, H))
    assert not np.any(leaves)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@pytest.mark.slow
def test_recurrent_kernels_start_from_one_orthogonal_matrix_per_gate(cell_name: str) -> None:
    cell, given = cell_class(cell_name)(D, H), draw(cell_name)
    kernel_h = cell.init(jax.random.key(0), given["carry"], given["x"], method=layer)["params"]["kernel_h"]
    blocks = np.split(np.asarray(kernel_h), cell.gates, axis=1)
    for n, block in enumerate(blocks):
        np.testing.assert_allclose(block.T @ block, np.eye(H), atol=1e-6)
        assert all(np.max(np.abs(block - other)) > 0.1 for other in blocks[n + 1 :])


def test_every_backend_of_a_cell_can_be_asked_for_and_no_other(cell_name: str) -> None:
    cell, config = cell_class(cell_name), tiny.get_config()
    config.model.cell = cell_name
    for backend in ("scan", "fused", "native"):
        config.model.backend = backend
        if backend in cell.backends:
            Config.of(config)
            continue
        with pytest.raises(UserError, match=f"config.model.backend='{backend}' with cell='{cell_name}'"):
            Config.of(config)
        with pytest.raises(ValueError, match=f"backend='{backend}' cannot run a {cell.label} layer"):
            run(draw(cell_name), cell_name, backend)
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
        assert loop.train(config, str(workdir)) == DONE
    assert "2 GRU layers of 16" in capsys.readouterr().err
    assert_same_run(halves, whole)
    saved = load_run(whole)
    assert saved.score(saved.split("test")).bpc == pytest.approx(rows(whole)[-1]["bpc"], rel=1e-9)
    assert len(saved.generate("The", length=30)[0]) == 30


def draw(cell_name: str, seed: int = 0) -> Arrays:
    """Parameters, inputs, the first carry, and cotangents `to` all outputs: float32, standard normal."""
    rng, G = np.random.default_rng(seed), len(GATES[cell_name]) * H
    params = {"kernel_x": (D, G), "kernel_h": (H, G), "bias": (G,)} | ({"bias_h": (H,)} if cell_name == "gru" else {})
    carry = ((B, H), (B, H)) if cell_name == "lstm" else (B, H)
    shapes = {"params": params, "x": (T, B, D), "carry": carry, "to": (carry, (T, B, H))}
    is_shape = lambda node: isinstance(node, tuple) and isinstance(node[0], int)  # noqa: E731
    return jax.tree.map(lambda shape: rng.normal(size=shape).astype(np.float32), shapes, is_leaf=is_shape)


def layer(cell: Cell, carry: Any, x_TBD: jax.Array, backend: str = "scan") -> Any:
    return run_layer(cell, carry, LayerInput(x_TBD), backend)


@functools.partial(jax.jit, static_argnames=("cell_name", "backend", "dtype"))
def run(given: Arrays, cell_name: str, backend: str = "scan", dtype: jnp.dtype = FLOAT32) -> Any:
    """(carry, outputs) of the layer."""
    cell, carry = cell_class(cell_name)(D, H, dtype), jax.tree.map(jnp.asarray, given["carry"])
    return cell.apply({"params": given["params"]}, carry, given["x"], backend, method=layer)


@functools.partial(jax.jit, static_argnames=("cell_name", "backend", "dtype"))
def gradients(given: Arrays, cell_name: str, backend: str, dtype: jnp.dtype = FLOAT32) -> Arrays:
    """The gradients by all of `given` of the outputs times their cotangents, summed."""
    return jax.grad(lambda given: weighted_sum(given, run(given, cell_name, backend, dtype)))(given)


def weighted_sum(given: Arrays, result: Any) -> jax.Array:
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, result, given["to"])), start=jnp.zeros((), given["x"].dtype))


def reference(given: Arrays, cell_name: str, operand: Matmul = lambda a: a) -> Any:
    """(carry, outputs) in float64; `operand` rounds what a matmul takes."""
    return in_float64(lambda given: unroll_ours(given, cell_name, operand), given)


def reference_gradients(given: Arrays, cell_name: str) -> Arrays:
    """What `gradients` returns, in float64, of the plain loop."""
    return in_float64(jax.grad(lambda given: weighted_sum(given, unroll_ours(given, cell_name))), given)


def in_float64(function: Callable, *trees: Any) -> Any:
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), trees)
        result = jax.tree.map(np.asarray, jax.jit(function)(*exact))
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {np.dtype("float64")}
    return result


def unroll_ours(given: Arrays, cell_name: str, operand: Matmul = lambda a: a) -> Any:
    params = given["params"]
    bias_h = jnp.concatenate([jnp.zeros(2 * H), params["bias_h"]])[None] if cell_name == "gru" else jnp.zeros(())
    return unroll(
        given,
        cell_name,
        lambda x_BD: operand(x_BD) @ operand(params["kernel_x"]) + params["bias"][None],
        lambda h_BH: operand(h_BH) @ operand(params["kernel_h"]) + bias_h,
    )


def unroll(given: Arrays, cell_name: str, from_x: Matmul, from_h: Matmul) -> Any:
    """(carry, outputs) by the equations of torch.nn.LSTM and GRU, with what comes `from_x` and `from_h` before the
    gates' activations."""
    sigmoid = lambda z: 1 / (1 + jnp.exp(-z))  # noqa: E731
    carry, outputs = given["carry"], []
    for x_BD in given["x"]:
        h = carry[1] if cell_name == "lstm" else carry
        x_parts, h_parts = (jnp.split(part, len(GATES[cell_name]), axis=1) for part in (from_x(x_BD), from_h(h)))
        if cell_name == "lstm":
            i, f, g, o = map(jnp.add, x_parts, h_parts)
            c = sigmoid(f) * carry[0] + sigmoid(i) * jnp.tanh(g)
            h = sigmoid(o) * jnp.tanh(c)
            carry = c, h
        else:
            r, z = sigmoid(x_parts[0] + h_parts[0]), sigmoid(x_parts[1] + h_parts[1])
            n = jnp.tanh(x_parts[2] + r * h_parts[2])
            carry = h = (1 - z) * n + z * h
        outputs.append(h)
    return carry, jnp.stack(outputs)


def to_flax(params: Arrays, cell_name: str) -> dict[str, Arrays]:
    """Flax has one Dense layer per gate and side: hi, hf ... with the LSTM's biases, ir, iz ... with the GRU's; of the
    GRU's recurrent ones only hn has a bias."""
    gates, with_bias = GATES[cell_name], {"lstm": "h", "gru": "i"}[cell_name]
    theirs: dict[str, Arrays] = {}
    for side, kernel in (("i", params["kernel_x"]), ("h", params["kernel_h"])):
        for gate, part in zip(gates, np.split(kernel, len(gates), axis=1), strict=True):
            theirs[side + gate] = {"kernel": part}
    for gate, bias in zip(gates, np.split(params["bias"], len(gates)), strict=True):
        theirs[with_bias + gate]["bias"] = bias
    if cell_name == "gru":
        theirs["hn"]["bias"] = params["bias_h"]
    return theirs


def from_torch(theirs: Arrays, cell_name: str) -> Arrays:
    """The GRU's n has two biases here as well; all other gates have the sum of PyTorch's."""
    ours = {"kernel_x": theirs["weight_ih"].T, "kernel_h": theirs["weight_hh"].T}
    ours["bias"] = theirs["bias_ih"] + theirs["bias_hh"]
    if cell_name == "gru":
        ours["bias_h"] = theirs["bias_hh"][2 * H :]
        ours["bias"][2 * H :] = theirs["bias_ih"][2 * H :]
    return {name: value.astype(np.float32) for name, value in ours.items()}
