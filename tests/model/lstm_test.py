"""The LSTM layer on every backend, against a loop over its cell, Flax's cell, PyTorch's layout, and float64 by hand."""

import functools
from collections.abc import Callable
from shutil import which
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from lovecraft_jax.model.backend import run_layer
from lovecraft_jax.model.layer_input import LayerInput
from lovecraft_jax.model.lstm import LSTMCell
from lovecraft_jax.model.native.build import COMPILERS
from tests.helpers.trees import assert_close

T, B, D, H = 6, 8, 5, 20  # 20 units do not fill the last SIMD vector, whatever its width
FLOAT32, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("bfloat16")
PARAMS = ("kernel_x", "kernel_h", "bias")

Arrays = dict[str, Any]
NATIVE = pytest.param("native", marks=pytest.mark.skipif(not any(map(which, COMPILERS)), reason="no C++ compiler"))
each_backend = pytest.mark.parametrize("backend", ["scan", "fused", NATIVE])
each_xla_backend = pytest.mark.parametrize("backend", ["scan", "fused"])


@each_backend
def test_layer_equals_a_python_loop_over_the_cell(backend: str) -> None:
    given = draw()
    cell, variables = LSTMCell(D, H), {"params": params_of(given)}
    carry, outputs = (given["c"], given["h"]), []
    for x_BD in given["x"]:
        gates_x_BG = cell.apply(variables, x_BD, method="project")
        carry, _ = cell.apply(variables, carry, gates_x_BG, given["kernel_h"])
        outputs.append(LSTMCell.output(carry))
    assert_close(run(given, backend), (carry, np.stack(outputs)))


@pytest.mark.slow
@each_backend
def test_values_and_gradients_equal_a_float64_loop_by_hand(backend: str) -> None:
    given = draw()  # run and gradients are jitted
    assert_close(run(given, backend), reference(given)[0])
    assert_close(gradients(given, backend), reference_gradients(given))


@pytest.mark.slow
def test_parameters_map_to_flax_and_back() -> None:
    given = draw()
    layer = nn.RNN(nn.OptimizedLSTMCell(H), time_major=True, return_carry=True)
    for theirs in (to_flax(params_of(given)), layer.init(jax.random.key(3), given["x"])["params"]["cell"]):
        result = layer.apply({"params": {"cell": theirs}}, given["x"], initial_carry=(given["c"], given["h"]))
        assert_close(run(given | from_flax(theirs)), result)
        jax.tree.map(np.testing.assert_array_equal, to_flax(from_flax(theirs)), theirs)


def test_parameters_map_to_torchs_layout_and_back() -> None:
    # torch.nn.LSTM: weight_ih (W_ii|W_if|W_ig|W_io) [4H, D], weight_hh [4H, H] and two biases [4H], one for each.
    given, rng = draw(), np.random.default_rng(1)
    shapes = {"weight_ih": (4 * H, D), "weight_hh": (4 * H, H), "bias_ih": (4 * H,), "bias_hh": (4 * H,)}
    theirs = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    x_part, h_part, x_bias, h_bias = (np.split(value, 4) for value in theirs.values())
    c, h, outputs = given["c"].astype(np.float64), given["h"].astype(np.float64), []
    for x in given["x"]:
        i, f, g, o = (x @ x_part[n].T + x_bias[n] + h @ h_part[n].T + h_bias[n] for n in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    ours = from_torch(theirs)
    assert_close(run(given | ours), ((c, h), np.stack(outputs)))
    jax.tree.map(np.testing.assert_array_equal, from_torch(to_torch(ours)), ours)


@pytest.mark.slow
@pytest.mark.parametrize("transformation", ["vmap", "scan", "shard_map"])
@pytest.mark.parametrize("backend", ["fused", NATIVE])
def test_custom_gradients_hold_inside_every_transformation(backend: str, transformation: str) -> None:
    given, other = draw(0), draw(1)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), given, other)
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *map(reference_gradients, (given, other)))
    of_one = functools.partial(gradients, backend=backend)
    if transformation == "vmap":
        assert_close(jax.vmap(of_one)(stacked), expected)
    elif transformation == "scan":
        assert_close(jax.lax.scan(lambda _, each: (None, of_one(each)), None, stacked)[1], expected)
    else:
        mesh = Mesh(np.array(jax.devices()), ("rows",))
        assert mesh.size == 8
        rank_to_spec = {3: PartitionSpec(None, "rows"), 2: PartitionSpec("rows")}  # [T, B, ...] and [B, H]
        specs = {k: PartitionSpec() if k in PARAMS else rank_to_spec[v.ndim] for k, v in given.items()}

        def dense(local: Arrays) -> Arrays:
            return {k: jax.lax.psum(v, "rows") if k in PARAMS else v for k, v in of_one(local).items()}

        sharded = jax.shard_map(dense, mesh=mesh, in_specs=(specs,), out_specs=specs, check_vma=False)
        assert_close(jax.jit(sharded)(given), reference_gradients(given))


@pytest.mark.slow
@each_xla_backend
def test_bfloat16_rounds_the_operands_of_matmuls_and_nothing_else(backend: str) -> None:
    given = draw()
    rounded = run(given, backend, BFLOAT16)
    # This close only if the carry and the gates are not rounded, and far from the value without any rounding.
    assert_close(rounded, reference(given, lambda a: a.astype(BFLOAT16).astype(np.float64))[0])
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_close(rounded, reference(given)[0], relative=1e-4)
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {FLOAT32}
    assert {leaf.dtype for leaf in gradients(given, backend, BFLOAT16).values()} == {FLOAT32}


@pytest.mark.slow
def test_fused_is_close_to_scan_in_bfloat16() -> None:
    given = draw()
    assert_close(run(given, "fused", BFLOAT16), run(given, "scan", BFLOAT16))
    assert_close(gradients(given, "fused", BFLOAT16), gradients(given, "scan", BFLOAT16), relative=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"forget_bias": 0.0}, {"forget_bias": -2.5}])
def test_biases_start_at_zero_but_the_forget_gates(settings: dict[str, float]) -> None:
    forget = settings.get("forget_bias", 1.0)
    np.testing.assert_array_equal(first_params(**settings)["bias"], [0] * H + [forget] * H + [0] * 2 * H)


def draw(seed: int = 0) -> Arrays:
    """Parameters, inputs, the first carry, and cotangents of all outputs: float32, standard normal."""
    rng = np.random.default_rng(seed)
    shapes = {"kernel_x": (D, 4 * H), "kernel_h": (H, 4 * H), "bias": (4 * H,), "x": (T, B, D), "c": (B, H)}
    shapes |= {"h": (B, H), "to_c": (B, H), "to_h": (B, H), "to_outputs": (T, B, H)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def params_of(given: Arrays) -> Arrays:
    return {name: given[name] for name in PARAMS}


@functools.partial(jax.jit, static_argnames=("backend", "dtype"))
def run(given: Arrays, backend: str = "scan", dtype: jnp.dtype = FLOAT32) -> Any:
    """((c, h), outputs) of the layer."""
    cell, carry = LSTMCell(D, H, dtype), (jnp.asarray(given["c"]), jnp.asarray(given["h"]))
    return cell.apply({"params": params_of(given)}, carry, given["x"], backend, method=layer)


def layer(cell: LSTMCell, carry: Any, x_TBD: jax.Array, backend: str = "scan") -> Any:
    return run_layer(cell, carry, LayerInput(x_TBD), backend)


@functools.partial(jax.jit, static_argnames=("backend", "dtype"))
def gradients(given: Arrays, backend: str = "fused", dtype: jnp.dtype = FLOAT32) -> Arrays:
    """The gradients by all of `given` of the outputs times their cotangents, summed."""

    def loss(given: Arrays) -> jax.Array:
        (c, h), outputs = run(given, backend, dtype)
        return jnp.vdot(c, given["to_c"]) + jnp.vdot(h, given["to_h"]) + jnp.vdot(outputs, given["to_outputs"])

    return jax.grad(loss)(given)


def reference(given: Arrays, operand: Callable[[np.ndarray], np.ndarray] = np.asarray) -> tuple[Any, list[tuple]]:
    """((c, h), outputs) in float64, and what the backward pass needs; `operand` rounds what a matmul takes."""
    kernel_x, kernel_h, bias, xs, c, h = (given[k].astype(np.float64) for k in (*PARAMS, "x", "c", "h"))
    saved, outputs = [], []
    for x in xs:
        i, f, g, o = np.split(operand(x) @ operand(kernel_x) + operand(h) @ operand(kernel_h) + bias, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        before, c = (c, h), f * c + i * g
        h = o * np.tanh(c)
        saved.append((x, *before, i, f, g, o, c))
        outputs.append(h)
    return ((c, h), np.stack(outputs)), saved


def reference_gradients(given: Arrays) -> Arrays:
    """What `gradients` returns, in float64, derived by hand."""
    kernel_x, kernel_h = given["kernel_x"].astype(np.float64), given["kernel_h"].astype(np.float64)
    ((c, h), outputs), saved = reference(given)
    grads = {name: np.zeros(given[name].shape) for name in (*PARAMS, "x")}
    dc, dh = given["to_c"].astype(np.float64), given["to_h"].astype(np.float64)
    for t, (x, c_before, h_before, i, f, g, o, c_after) in reversed(list(enumerate(saved))):
        dh = dh + given["to_outputs"][t]
        dc = dc + dh * o * (1 - np.tanh(c_after) ** 2)
        do, di, df, dg = dh * np.tanh(c_after), dc * g, dc * c_before, dc * i
        dz = np.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)], axis=1)
        grads["kernel_x"] += x.T @ dz
        grads["kernel_h"] += h_before.T @ dz
        grads["bias"] += dz.sum(axis=0)
        grads["x"][t] = dz @ kernel_x.T
        dc, dh = dc * f, dz @ kernel_h.T
    return grads | {"c": dc, "h": dh, "to_c": c, "to_h": h, "to_outputs": outputs}


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def first_params(**settings: float) -> Arrays:
    carry = (jnp.zeros((B, H)), jnp.zeros((B, H)))
    return LSTMCell(D, H, **settings).init(jax.random.key(0), carry, jnp.zeros((T, B, D)), method=layer)["params"]


def to_flax(params: Arrays) -> dict[str, Arrays]:
    """nn.OptimizedLSTMCell has one kernel per gate, and its biases belong to the recurrent ones."""
    x_parts, h_parts = (np.split(params[name], 4, axis=1) for name in ("kernel_x", "kernel_h"))
    theirs = {f"i{gate}": {"kernel": part} for gate, part in zip("ifgo", x_parts, strict=True)}
    for gate, part, bias in zip("ifgo", h_parts, np.split(params["bias"], 4), strict=True):
        theirs[f"h{gate}"] = {"kernel": part, "bias": bias}
    return theirs


def from_flax(theirs: Any) -> Arrays:
    kernels = {f"kernel_{k}": np.concatenate([theirs[n + g]["kernel"] for g in "ifgo"], 1) for k, n in ("xi", "hh")}
    return kernels | {"bias": np.concatenate([theirs[f"h{gate}"]["bias"] for gate in "ifgo"])}


def to_torch(params: Arrays) -> Arrays:
    """Ours has one bias; their second stays zero."""
    biases = {"bias_ih": params["bias"], "bias_hh": np.zeros_like(params["bias"])}
    return {"weight_ih": params["kernel_x"].T, "weight_hh": params["kernel_h"].T} | biases


def from_torch(theirs: Arrays) -> Arrays:
    kernels = {"kernel_x": theirs["weight_ih"].T, "kernel_h": theirs["weight_hh"].T}
    ours = kernels | {"bias": theirs["bias_ih"] + theirs["bias_hh"]}
    return {name: value.astype(np.float32) for name, value in ours.items()}
