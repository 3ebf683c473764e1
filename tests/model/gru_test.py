"""The GRU layer against Flax's cell, PyTorch's layout, and a float64 loop with gradients by finite differences."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lovecraft_jax.config import Config
from lovecraft_jax.model.backend import run_layer
from lovecraft_jax.model.gru import GRUCell
from lovecraft_jax.model.layer_input import LayerInput
from lovecraft_jax.runtime.errors import UserError
from tests.helpers.trees import assert_close

T, B, D, H = 6, 4, 5, 7
PARAMS = {"kernel_x": (D, 3 * H), "kernel_h": (H, 3 * H), "bias": (3 * H,), "bias_h": (H,)}

Arrays = dict[str, Any]


def test_values_and_gradients_equal_a_float64_loop() -> None:
    given = draw()
    assert_close(run(given), reference(given))
    assert_close(jax.jit(jax.grad(lambda given: total(given, *run(given))))(given), reference_gradients(given))


@pytest.mark.slow
def test_parameters_map_to_flax_and_back() -> None:
    given = draw()
    layer = nn.RNN(nn.GRUCell(H), time_major=True, return_carry=True)
    drawn_by_flax = layer.init(jax.random.key(3), given["x"])["params"]["cell"]
    for theirs in (to_flax(given), drawn_by_flax):
        result = layer.apply({"params": {"cell": theirs}}, given["x"], initial_carry=given["h"])
        assert_close(run(given | from_flax(theirs)), result)
        jax.tree.map(np.testing.assert_array_equal, to_flax(from_flax(theirs)), theirs)


def test_parameters_map_to_torchs_layout_and_back() -> None:
    # torch.nn.GRU: weight_ih (W_ir|W_iz|W_in) [3H, D], weight_hh [3H, H] and two biases [3H], one for each.
    given, rng = draw(), np.random.default_rng(1)
    shapes = {"weight_ih": (3 * H, D), "weight_hh": (3 * H, H), "bias_ih": (3 * H,), "bias_hh": (3 * H,)}
    theirs = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    x_part, h_part, x_bias, h_bias = (np.split(value, 3) for value in theirs.values())
    h, outputs = given["h"].astype(np.float64), []
    for x in given["x"]:
        from_x = [x @ x_part[k].T + x_bias[k] for k in range(3)]
        from_h = [h @ h_part[k].T + h_bias[k] for k in range(3)]
        r, z = sigmoid(from_x[0] + from_h[0]), sigmoid(from_x[1] + from_h[1])
        n = np.tanh(from_x[2] + r * from_h[2])
        h = (1 - z) * n + z * h
        outputs.append(h)
    ours = from_torch(theirs)
    assert_close(run(given | ours), (h, np.stack(outputs)))
    jax.tree.map(np.testing.assert_array_equal, from_torch(to_torch(ours)), ours)


def test_bfloat16_rounds_the_operands_of_matmuls_and_nothing_else() -> None:
    given = draw()
    rounded = run(given, "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {np.dtype("float32")}
    operand = lambda a: a.astype(jnp.bfloat16).astype(np.float64)  # noqa: E731
    assert_close(rounded, reference(given, operand))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_close(rounded, reference(given), relative=1e-4)


def test_a_norm_is_refused(config: Any) -> None:
    config.model.update({"cell": "gru", "norm": "layer"})
    with pytest.raises(UserError, match=r"config\.model\.norm='layer' with cell='gru'"):
        Config.of(config)
    with pytest.raises(ValueError, match="no norm"):
        GRUCell(D, H, norm="layer").init(jax.random.key(0), jnp.zeros((B, D)), method="project")


def draw() -> Arrays:
    """Parameters, inputs, the first carry, and cotangents of all outputs: float32, standard normal."""
    rng = np.random.default_rng(0)
    shapes = PARAMS | {"x": (T, B, D), "h": (B, H), "to_h": (B, H), "to_outputs": (T, B, H)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def run(given: Arrays, dtype: str = "float32") -> Any:
    """(h, outputs) of the layer."""
    params, cell = {name: given[name] for name in PARAMS}, GRUCell(D, H, jnp.dtype(dtype))
    carry, inputs = jnp.asarray(given["h"]), LayerInput(jnp.asarray(given["x"]))
    result: Any = cell.apply({"params": params}, carry, inputs, method=run_layer)
    return result


def total(given: Arrays, h: Any, outputs: Any) -> Any:
    """The outputs times their cotangents, summed."""
    return (h * given["to_h"]).sum() + (outputs * given["to_outputs"]).sum()


def reference(given: Arrays, operand: Any = np.asarray) -> tuple[np.ndarray, np.ndarray]:
    """(h, outputs) in float64; `operand` rounds what goes into a matmul."""
    kernel_x, kernel_h, bias, bias_h = (given[name].astype(np.float64) for name in PARAMS)
    h, outputs = given["h"].astype(np.float64), []
    for x in given["x"].astype(np.float64):
        x_r, x_z, x_n = np.split(operand(x) @ operand(kernel_x) + bias, 3, axis=1)
        h_r, h_z, h_n = np.split(operand(h) @ operand(kernel_h), 3, axis=1)
        z = sigmoid(x_z + h_z)
        h = (1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * (h_n + bias_h)) + z * h
        outputs.append(h)
    return h, np.stack(outputs)


def reference_gradients(given: Arrays, step: float = 1e-6) -> Arrays:
    """The gradients of `total`, by central differences in float64, to about ten digits."""
    given = {name: value.astype(np.float64) for name, value in given.items()}

    def partial(name: str, index: tuple[int, ...]) -> float:
        sides = []
        for shift in (step, -step):
            shifted = given[name].copy()
            shifted[index] += shift
            changed = given | {name: shifted}
            sides.append(total(changed, *reference(changed)))
        return float((sides[0] - sides[1]) / (2 * step))

    return {
        name: np.array([partial(name, index) for index in np.ndindex(value.shape)]).reshape(value.shape)
        for name, value in given.items()
    }


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def to_flax(params: Arrays) -> dict[str, Arrays]:
    """nn.GRUCell has one Dense layer per gate and side; of the recurrent ones only n's has a bias."""
    x_parts, h_parts = (np.split(params[name], 3, axis=1) for name in ("kernel_x", "kernel_h"))
    biases = np.split(params["bias"], 3)
    theirs = {
        f"i{gate}": {"kernel": part, "bias": bias} for gate, part, bias in zip("rzn", x_parts, biases, strict=True)
    }
    theirs |= {f"h{gate}": {"kernel": part} for gate, part in zip("rzn", h_parts, strict=True)}
    theirs["hn"]["bias"] = params["bias_h"]
    return theirs


def from_flax(theirs: Any) -> Arrays:
    kernels = {f"kernel_{k}": np.concatenate([theirs[n + g]["kernel"] for g in "rzn"], 1) for k, n in ("xi", "hh")}
    return kernels | {
        "bias": np.concatenate([theirs[f"i{gate}"]["bias"] for gate in "rzn"]),
        "bias_h": np.asarray(theirs["hn"]["bias"]),
    }


def to_torch(params: Arrays) -> Arrays:
    """Ours has one bias for r and z; their second stays zero there."""
    bias_hh = np.concatenate([np.zeros(2 * H, np.float32), params["bias_h"]])
    kernels = {"weight_ih": params["kernel_x"].T, "weight_hh": params["kernel_h"].T}
    return kernels | {"bias_ih": params["bias"], "bias_hh": bias_hh}


def from_torch(theirs: Arrays) -> Arrays:
    bias = theirs["bias_ih"] + np.concatenate([theirs["bias_hh"][: 2 * H], np.zeros(H)])
    ours = {"kernel_x": theirs["weight_ih"].T, "kernel_h": theirs["weight_hh"].T, "bias": bias}
    return {name: value.astype(np.float32) for name, value in (ours | {"bias_h": theirs["bias_hh"][2 * H :]}).items()}
