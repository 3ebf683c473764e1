"""Each norm against a loop over Flax's own; statistics are the global batch's in training, the running ones after."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.inference.decoder import decode, make_decoder
from lovecraft_jax.model import backend
from lovecraft_jax.model.backend import run_layer
from lovecraft_jax.model.layer_input import LayerInput
from lovecraft_jax.model.lm import forward
from lovecraft_jax.model.lstm import LSTMCell
from lovecraft_jax.runtime.mesh import BY_ROW, BY_ROW_STACKED, REPLICATED, make_mesh, shard_rows, sum_over_devices
from tests.helpers.normed import NORMS, B, T, drawn, tokens
from tests.helpers.trees import assert_close

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]

D, H = 4, 3
PARTS = {"layer": {}, "batch_input": {"x": 4 * H}, "batch": {"x": 4 * H, "h": 4 * H, "c": H}}

Arrays = dict[str, Any]


@pytest.mark.parametrize(
    ("norm", "backend", "devices"),
    [
        ("layer", "scan", 1),
        ("batch", "scan", 8),
        ("batch_input", "scan", 8),
        ("batch_input", "fused", 1),
        ("batch_input", backend.fastest_backend(tiny.get_config().model), 1),
    ],
)
def test_values_gradients_and_statistics_equal_a_loop_over_flaxs_norms(norm: str, backend: str, devices: int) -> None:
    params, statistics, inputs, cotangents = draw(norm)
    cell = LSTMCell(D, H, norm=norm)

    def dense(params: Arrays, inputs: Arrays, cotangents: Any) -> Any:
        def result(params: Arrays, inputs: Arrays) -> Any:
            variables = {"params": params, **statistics}
            return cell.apply(variables, inputs, backend, method=layer, mutable=["batch_stats"])

        outputs, pull, changed = jax.vjp(result, params, inputs, has_aux=True)
        param_grads, input_grads = pull(cotangents)
        return outputs, sum_over_devices(param_grads), input_grads, changed

    rows = {"x": BY_ROW_STACKED, "c": BY_ROW, "h": BY_ROW}, ((BY_ROW, BY_ROW), BY_ROW_STACKED)
    sharded = shard_rows(
        make_mesh(B, jax.devices()[:devices]),
        dense,
        in_specs=(REPLICATED, *rows),
        out_specs=(rows[1], REPLICATED, rows[0], REPLICATED),
    )
    outputs, param_grads, input_grads, changed = jax.jit(sharded)(params, inputs, cotangents)
    expected, pull, found = jax.vjp(lambda *given: reference(norm, *given), params, inputs, has_aux=True)
    assert_close(outputs, expected)
    assert_close((param_grads, input_grads), pull(cotangents))
    expected_after = {
        name: 0.99 * before + 0.01 * np.mean(found[name], axis=0)
        for name, before in statistics.get("batch_stats", {}).items()
    }
    assert_close(changed.get("batch_stats", {}), expected_after)


@pytest.mark.parametrize("norm", NORMS)
def test_evaluation_equals_the_loop_with_running_statistics(norm: str) -> None:
    params, statistics, inputs, _ = draw(norm)
    outputs = LSTMCell(D, H, norm=norm).apply({"params": params, **statistics}, inputs, method=layer)
    assert_close(outputs, reference(norm, params, inputs, statistics.get("batch_stats"))[0])


@pytest.mark.parametrize("norm", ["layer", "batch"])  # for batch_input see tests/inference/decoder_test.py
def test_decoding_equals_forward(norm: str) -> None:
    model, variables = drawn(norm, embed=6, layers=2)
    carry = model.initial_carry(B)
    expected = forward(model, variables, carry, tokens(0))
    logits, decoder = [], make_decoder(model, variables)
    for ids_B in tokens(0).T.astype(np.int32):
        carry, logits_BV = decode(model, decoder, carry, ids_B)
        logits.append(logits_BV)
    assert_close((carry, np.stack(logits, axis=1)), expected)


def draw(norm: str, seed: int = 0) -> tuple[Arrays, Arrays, Arrays, Any]:
    """A layer's parameters, running statistics, inputs, and cotangents of all outputs."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    params = {"kernel_x": normal(D, 4 * H), "kernel_h": normal(H, 4 * H), "bias": normal(4 * H)}
    params |= {"scale_x": normal(4 * H)}
    if norm != "batch_input":
        params |= {"scale_h": normal(4 * H), "scale_c": normal(H), "shift_c": normal(H)}
    found = {f"mean_{part}": normal(width) for part, width in PARTS[norm].items()}
    found |= {f"variance_{part}": normal(width) ** 2 + 0.5 for part, width in PARTS[norm].items()}
    inputs = {"x": normal(T, B, D), "c": normal(B, H), "h": normal(B, H)}
    cotangents = (normal(B, H), normal(B, H)), normal(T, B, H)
    return params, {"batch_stats": found} if found else {}, inputs, cotangents


def layer(cell: LSTMCell, inputs: Arrays, backend: str = "scan") -> Any:
    return run_layer(cell, (inputs["c"], inputs["h"]), LayerInput(inputs["x"]), backend)


def reference(norm: str, params: Arrays, inputs: Arrays, running: Arrays | None = None) -> Any:
    """((c, h), outputs) by a loop, with `running` statistics if given; and each norm's batch statistics [T or 1, F]."""
    found: dict[str, list] = {}

    def normal(part: str, z: jax.Array) -> jax.Array:
        scale: Any = {"params": {"scale": params[f"scale_{part}"]}}
        if norm == "layer":
            result: Any = nn.LayerNorm(epsilon=1e-5, use_bias=False).apply(scale, z)
            return result
        width = z.shape[-1]
        mean, variance = (running[f"{kind}_{part}"] if running else jnp.zeros(width) for kind in ("mean", "variance"))
        module = nn.BatchNorm(running is not None, momentum=0.0, epsilon=1e-5, use_bias=False)
        given = scale | {"batch_stats": {"mean": mean, "var": variance}}
        result, moments = module.apply(given, z, mutable=["batch_stats"])
        for kind, name in (("mean", "mean"), ("variance", "var")):
            found.setdefault(f"{kind}_{part}", []).append(moments["batch_stats"][name])
        return result

    in_cell = norm != "batch_input"
    gates_x = inputs["x"] @ params["kernel_x"]
    gates_x = jnp.stack([normal("x", z) for z in gates_x]) if in_cell else normal("x", gates_x)
    c, h, outputs = inputs["c"], inputs["h"], []
    for z in gates_x:
        gates_h = h @ params["kernel_h"]
        i, f, g, o = jnp.split(z + (normal("h", gates_h) if in_cell else gates_h) + params["bias"][None], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(normal("c", c) + params["shift_c"][None] if in_cell else c)
        outputs.append(h)
    return ((c, h), jnp.stack(outputs)), found
