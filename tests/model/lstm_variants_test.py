"""LSTM layers with a norm of the gates, another input gate, dropout on h, a Mogrifier, against a float64 loop."""

import functools
import itertools
import re
from shutil import which
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lovecraft_jax.config import NORMS_OF_GATES, Config
from lovecraft_jax.model import lstm_blocks, lstm_fused
from lovecraft_jax.model.backend import resolve_backend, run_layer
from lovecraft_jax.model.cells import cell_class
from lovecraft_jax.model.layer_input import LayerInput
from lovecraft_jax.model.lm import LanguageModel
from lovecraft_jax.model.lstm_step import Form, LoopParams
from lovecraft_jax.model.mogrifier import modulate
from lovecraft_jax.model.native.build import COMPILERS
from lovecraft_jax.runtime.errors import UserError
from tests.helpers.trees import assert_close

T, B, D = 4, 11, 5  # rows that fill one block of the C++ and part of another
SMALL, LARGE = 21, 550
"""Units that do not fill the last SIMD vector. With the smaller kernel the C++ gives each thread some rows, with the
larger, which no core's cache can hold, some columns."""
FLOAT32, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("bfloat16")
INPUT_GATES = ("own", "capped", "coupled")
BACKENDS = ("scan", "fused", "native")

Arrays = dict[str, Any]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]
HAS_COMPILER = any(map(which, COMPILERS))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")


def variants() -> list[tuple[str, str, bool]]:
    """Every input gate with every norm, and each of both with and without a mask; the plain LSTM: cells_test.py."""
    pairs = itertools.product(enumerate(INPUT_GATES), enumerate(("none", *NORMS_OF_GATES)))
    return [(input_gate, norm, (n + m) % 2 == 0) for (n, input_gate), (m, norm) in pairs]


@pytest.mark.parametrize(("input_gate", "norm", "masked"), variants())
def test_values_and_gradients_equal_a_float64_loop(input_gate: str, norm: str, masked: bool) -> None:
    given = draw(input_gate, norm, masked)
    expected = reference(given, input_gate, norm)
    for backend in BACKENDS if HAS_COMPILER else BACKENDS[:2]:
        assert_close(value_and_gradients(given, input_gate, norm, backend), expected, 3e-5)


@pytest.mark.parametrize(("input_gate", "norm", "masked"), variants())
def test_blocks_of_time_steps_equal_a_float64_loop(input_gate: str, norm: str, masked: bool) -> None:
    given = draw(input_gate, norm, masked)
    expected = reference(given, input_gate, norm)
    assert_close(value_and_gradients(given, input_gate, norm, "blocks"), expected, 1e-4)


@pytest.mark.parametrize("steps", [1, 5])
def test_blocks_of_time_steps_take_sequences_of_any_length(steps: int) -> None:
    given = draw("own", "none", True, steps=steps)
    expected = reference(given, "own", "none")
    assert_close(value_and_gradients(given, "own", "none", "blocks"), expected, 1e-4)


def test_blocks_of_time_steps_run_several_runs_by_vmap() -> None:
    given = draw("capped", "rms_gates", True)
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, 0.5 * leaf]), given)
    found = jax.vmap(lambda one: value_and_gradients(one, "capped", "rms_gates", "blocks"))(stacked)
    assert_close(jax.tree.map(lambda leaf: leaf[0], found), reference(given, "capped", "rms_gates"), 1e-4)


@pytest.mark.parametrize("backend", ["fused", "blocks"])
@pytest.mark.parametrize(("input_gate", "norm", "masked"), variants())
def test_bfloat16_stores_gates_and_h_and_stays_near_a_float64_loop(
    input_gate: str, norm: str, masked: bool, backend: str
) -> None:
    given = draw(input_gate, norm, masked)
    found = value_and_gradients(given, input_gate, norm, backend, BFLOAT16)
    expected = reference(given, input_gate, norm)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {FLOAT32}
    for one, exact in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(one - exact) < 0.04 * np.linalg.norm(exact)
    params = jax.tree.map(jnp.asarray, given["params"])
    loop_params = LoopParams(params["kernel_h"], params["bias"], params.get("scale_z"), given["mask"])
    form = Form(BFLOAT16, input_gate, norm)
    loop = lstm_blocks.forward_loop if backend == "blocks" else lstm_fused.forward_loop
    saved = jax.eval_shape(
        lambda carry: loop(loop_params, given["x"] @ params["kernel_x"], carry, form), given["carry"]
    )
    assert [saved.gates_TBG.dtype, saved.c_TBH.dtype, saved.h_TBH.dtype] == [BFLOAT16, FLOAT32, BFLOAT16]


@pytest.mark.parametrize(
    ("input_gate", "norm", "masked", "rounds"),
    [
        ("own", "none", False, 1),
        ("own", "none", True, 2),
        ("own", "none", False, 5),
        ("capped", "rms_gates", True, 5),
        ("coupled", "layer_gates", False, 4),
    ],
)
def test_a_mogrified_layer_and_its_gradients_equal_a_float64_loop(
    input_gate: str, norm: str, masked: bool, rounds: int
) -> None:
    given = draw(input_gate, norm, masked, rounds=rounds)
    expected = reference(given, input_gate, norm)
    for backend in BACKENDS[:2]:
        assert_close(value_and_gradients(given, input_gate, norm, backend), expected, 3e-5)


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_a_mogrifier_with_matrices_of_zeros_is_the_plain_lstm(backend: str) -> None:
    plain, given = draw("own", "none", True), draw("own", "none", True, rounds=3)
    zeros = {name: np.zeros_like(leaf) for name, leaf in given["params"].items() if "mogrify" in name}
    given = plain | {"params": plain["params"] | zeros}
    assert_close(run(given, "own", "none", backend), run(plain, "own", "none", backend))


def test_a_mogrifier_starts_near_the_identity_and_with_other_matrices_for_each_round() -> None:
    model = LanguageModel(11, 2, SMALL, embed=D, mogrify=4, skip=True)
    init = jax.jit(model.init)
    variables = jax.tree.map(np.asarray, init(jax.random.key(0), model.initial_carry(1), jnp.zeros((1, 1), jnp.int32)))
    for n, features in enumerate((D, SMALL + D)):
        params = variables["params"][f"lstm_{n}"]
        rounds = [params[f"mogrify_{number}"] for number in range(1, 5)]
        assert [leaf.shape for leaf in rounds] == [(SMALL, features), (features, SMALL)] * 2
        assert not np.array_equal(rounds[0], rounds[2])
        *_, modulations = modulate(jnp.ones((1, features)), jnp.ones((1, SMALL)), rounds, jnp.dtype("float32"))
        assert all(0 < np.max(np.abs(modulation - 1)) < 0.2 for modulation in modulations)


@needs_compiler
def test_a_kernel_too_large_for_a_cores_cache_gives_the_same() -> None:
    given = draw("capped", "rms_gates", True, LARGE)
    expected = value_and_gradients(given, "capped", "rms_gates", "fused")
    assert_close(value_and_gradients(given, "capped", "rms_gates", "native"), expected, 3e-5)


@pytest.mark.parametrize("norm", NORMS_OF_GATES)
def test_the_size_of_the_kernels_does_not_matter_under_a_norm_of_the_gates(norm: str) -> None:
    given = draw("own", norm, False)
    larger = given | {"params": given["params"] | {k: 1000 * given["params"][k] for k in ("kernel_x", "kernel_h")}}
    assert_close(run(larger, "own", norm, "fused"), run(given, "own", norm, "fused"), 1e-4)


@pytest.mark.parametrize("input_gate", INPUT_GATES[1:])
def test_a_cell_state_stays_from_minus_one_to_one_where_the_input_gate_is_bounded(input_gate: str) -> None:
    given = draw(input_gate, "none", False)
    given["params"]["bias"] += 3  # open gates
    (c_BH, _), _ = run(given | {"carry": jax.tree.map(np.zeros_like, given["carry"])}, input_gate, "none", "scan")
    assert np.max(np.abs(c_BH)) <= 1
    (c_BH, _), _ = run(draw("own", "none", False), "own", "none", "scan")
    assert np.max(np.abs(c_BH)) > 1


@pytest.mark.parametrize("setting", [{"norm": "rms_gates"}, {"input_gate": "capped"}, {"mogrify": 5}])
def test_a_gru_refuses_what_only_the_lstm_has(setting: dict[str, str], config: Any) -> None:
    config.model.update({"cell": "gru"} | setting)
    with pytest.raises(UserError, match=r"with cell='gru': not available; use ('none'|'own'|0)"):
        Config.of(config)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"norm": "batch_input"}, "mogrify=5 with norm='batch_input': use a norm of the gates"),
        ({"embed": 0}, "mogrify=5 with embed=0: it modulates vectors"),
        ({"backend": "native"}, "backend='native' with mogrify=5: not available; use auto"),
    ],
)
def test_what_a_mogrifier_cannot_have_is_refused_in_one_line(setting: dict[str, Any], line: str, config: Any) -> None:
    config.model.update({"embed": 4, "mogrify": 5})
    assert resolve_backend(Config.of(config).model) == "fused"
    config.model.update(setting)
    with pytest.raises(UserError, match=re.escape(f"config.model.{line}")):
        Config.of(config)


def draw(
    input_gate: str,
    norm: str,
    masked: bool,
    H: int = SMALL,
    rounds: int = 0,
    steps: int = T,
    rows: int = B,
    seed: int = 0,
) -> Arrays:
    """Parameters, inputs, the first carry, a mask on h, and cotangents `to` all outputs."""
    rng, G = np.random.default_rng(seed), (3 if input_gate == "coupled" else 4) * H
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    params = {"kernel_x": normal(D, G), "kernel_h": normal(H, G) / np.float32(H**0.5), "bias": normal(G)}
    if norm != "none":
        params["scale_z"] = 1 + np.float32(0.3) * normal(G)
    for n in range(rounds):
        params[f"mogrify_{n + 1}"] = np.float32(0.4) * (normal(D, H) if n % 2 else normal(H, D))
    mask_BH = np.where(normal(rows, H) > 0, np.float32(1.5), np.float32(0)) if masked else None
    carry = normal(rows, H), normal(rows, H)
    return {
        "params": params,
        "x": normal(steps, rows, D),
        "carry": carry,
        "mask": mask_BH,
        "to": (carry[::-1], normal(steps, rows, H)),
    }


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def run(given: Arrays, input_gate: str, norm: str, backend: str, dtype: jnp.dtype = FLOAT32) -> Any:
    rounds = sum("mogrify" in name for name in given["params"])
    cell = cell_class("lstm", input_gate)(D, len(given["params"]["kernel_h"]), dtype, norm=norm, mogrify=rounds)
    carry = jax.tree.map(jnp.asarray, given["carry"])
    return cell.apply({"params": given["params"]}, carry, given["x"], backend, given["mask"], method=layer)


def layer(cell: Any, carry: Any, x_TBD: jax.Array, backend: str, mask_BH: jax.Array | None) -> Any:
    return run_layer(cell, carry, LayerInput(x_TBD), backend, mask_BH)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def value_and_gradients(given: Arrays, input_gate: str, norm: str, backend: str, dtype: jnp.dtype = FLOAT32) -> Any:
    """The outputs, and the gradients of their sum, weighted by `to`, by parameters, inputs and carry. Blocks are of two
    time steps."""
    with mock.patch.object(lstm_blocks, "LARGEST_BLOCK", 2):
        return _with_gradients(lambda changed: run(given | changed, input_gate, norm, backend, dtype), given)


def reference(given: Arrays, input_gate: str, norm: str) -> Any:
    """The same in float64, by a loop."""
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), given)
        return jax.tree.map(
            np.asarray, _with_gradients(lambda changed: unroll(exact | changed, input_gate, norm), exact)
        )


def _with_gradients(outputs: Any, given: Arrays) -> Any:
    def weighted_sum(changed: Arrays) -> Any:
        result = outputs(changed)
        return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, result, given["to"]))), result

    grads, result = jax.grad(weighted_sum, has_aux=True)({name: given[name] for name in ("params", "x", "carry")})
    return result, grads


def unroll(given: Arrays, input_gate: str, norm: str) -> Any:
    params, (c, h), outputs = given["params"], given["carry"], []
    sigmoid = lambda z: 1 / (1 + jnp.exp(-z))  # noqa: E731
    for x_BD in given["x"]:
        masked_h = h if given["mask"] is None else h * given["mask"]
        for n in range(sum("mogrify" in name for name in params)):
            if n % 2:
                masked_h = 2 * sigmoid(x_BD @ params[f"mogrify_{n + 1}"]) * masked_h
            else:
                x_BD = 2 * sigmoid(masked_h @ params[f"mogrify_{n + 1}"]) * x_BD
        gates = jnp.split(x_BD @ params["kernel_x"] + masked_h @ params["kernel_h"], 3 + (input_gate != "coupled"), 1)
        if norm == "layer_gates":
            gates = [z - jnp.mean(z, 1, keepdims=True) for z in gates]
        if norm != "none":
            gates = [z / jnp.sqrt(jnp.mean(z**2, 1, keepdims=True) + 1e-5) for z in gates]
        scale_G = params.get("scale_z", jnp.ones_like(params["bias"]))
        scales, biases = (jnp.split(values_G[None], len(gates), 1) for values_G in (scale_G, params["bias"]))
        *i, f, g, o = (z * scale + bias for z, scale, bias in zip(gates, scales, biases, strict=True))
        most = 1 - sigmoid(f)
        i = most if input_gate == "coupled" else sigmoid(i[0])
        i = jnp.minimum(i, most) if input_gate == "capped" else i
        c = sigmoid(f) * c + i * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        outputs.append(h)
    return (c, h), jnp.stack(outputs)
