"""The layer on CUDA kernels: what is around them, with the kernels' algorithm in jnp, against a float64 loop; and the
kernels' sources, every thread of which runs on a CPU."""

import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model.backend import resolve_backend
from lovecraft_jax.model.cuda import layer
from lovecraft_jax.model.cuda.__main__ import registers_and_spills
from lovecraft_jax.model.cuda.build import nvrtc_version
from lovecraft_jax.model.cuda.division import (
    CLUSTER_UNITS,
    GROUP_BLOCKS,
    MAX_UNITS,
    SHARED_LIMIT,
    LayerForm,
    choose_division,
)
from lovecraft_jax.model.dropout import DropoutRates
from lovecraft_jax.model.lm import LanguageModel, make_model
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.training.step import make_gradient
from tests.model import lstm_variants_test
from tests.model.lstm_variants_test import draw, reference

B = 8
BF16 = jnp.dtype("bfloat16")
MOST_ERROR = {"own": 2e-2, "coupled": 2e-2, "capped": 4e-2}
"""Of each result, in the Euclidean norm. Where i and 1 - f are nearly the same, rounding decides which of them the gate
is, and the gradient takes another path."""
VARIANTS = [
    ("own", "none", False),
    ("own", "none", True),
    ("capped", "rms_gates", True),
    ("coupled", "layer_gates", False),
]
ON_CPU = [
    (8, 6, 2, LayerForm(10, "rms_gates", "capped", mask=True)),
    (16, 6, 2, LayerForm(150)),
    (8, 6, 2, LayerForm(150, "rms_gates", "capped")),
    (8, 4, 2, LayerForm(256, "layer_gates", "coupled", mask=True)),
    (16, 2, 1, LayerForm(512, "rms_gates", "own", mask=True)),
    (32, 2, 1, LayerForm(600, "layer_gates", "own", mask=True)),
]
"""Rows, time steps, members and what the layer computes."""


@pytest.mark.slow
@pytest.mark.parametrize(("input_gate", "norm", "masked"), VARIANTS)
def test_values_and_gradients_equal_a_float64_loop(input_gate: str, norm: str, masked: bool) -> None:
    given = draw(input_gate, norm, masked, rows=B)
    want, got = reference(given, input_gate, norm), value_and_gradients(given, input_gate, norm)
    for expected, result in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        assert relative_error(result, expected) < MOST_ERROR[input_gate]


@pytest.mark.slow
def test_several_layers_under_vmap_equal_each_alone() -> None:
    several = [draw("capped", "rms_gates", True, rows=B, seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *several)
    together = jax.vmap(lambda given: value_and_gradients(given, "capped", "rms_gates"))(stacked)
    for n, given in enumerate(several):
        alone = value_and_gradients(given, "capped", "rms_gates")
        for one, all_of_them in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            assert relative_error(all_of_them[n], one) < 1e-6


@pytest.mark.slow
def test_rows_of_zeros_that_fill_a_cluster_change_nothing() -> None:
    many = draw("capped", "rms_gates", True, rows=B)
    few = {"params": many["params"]} | jax.tree.map(
        lambda x: x[..., :5, :], {name: many[name] for name in ("x", "carry", "mask", "to")}
    )
    (carry, h_TBH), grads = value_and_gradients(few, "capped", "rms_gates")
    want, wanted_grads = reference(few, "capped", "rms_gates")
    for expected, result in zip(
        jax.tree.leaves((want, wanted_grads)), jax.tree.leaves(((carry, h_TBH), grads)), strict=True
    ):
        assert result.shape == expected.shape
        assert relative_error(result, expected) < MOST_ERROR["capped"]


def test_gates_of_a_unit_stand_side_by_side_and_padding_is_zero() -> None:
    division = choose_division(LayerForm(3), rows=8)
    assert division
    packed = layer.to_kernel_layout(jnp.arange(24.0).reshape(2, 12) + 1, division)
    assert packed.shape == (2, 32, 4)
    assert packed[0, :3].tolist() == [[1, 4, 7, 10], [2, 5, 8, 11], [3, 6, 9, 12]]
    assert not packed[:, 3:].any()
    coupled = layer.to_kernel_layout(jnp.arange(9.0) + 1, division)
    assert coupled[:3].tolist() == [[0, 1, 4, 7], [0, 2, 5, 8], [0, 3, 6, 9]]


@pytest.mark.parametrize("norm", ["none", "rms_gates", "layer_gates"])
def test_every_layer_fits_into_a_multiprocessor(norm: str) -> None:
    for units in range(1, MAX_UNITS + 1):
        division = choose_division(LayerForm(units, norm, mask=True), rows=64)
        assert division
        assert units <= division.padded < units + 128
        assert division.padded % division.blocks == 0
        assert division.grouped == (units > CLUSTER_UNITS)
        assert division.blocks <= (GROUP_BLOCKS if division.grouped else 16)
        for one in (division.forward, division.backward):
            assert one.shared <= SHARED_LIMIT
            assert one.threads <= 1024
            assert one.kept >= 1
    assert choose_division(LayerForm(MAX_UNITS + 1), rows=64) is None


@pytest.mark.slow
@pytest.mark.skipif(not which("g++"), reason="no g++")
@pytest.mark.parametrize(("rows", "steps", "members", "form"), ON_CPU)
def test_the_kernels_equal_a_float64_loop_with_their_threads_in_any_order(
    rows: int, steps: int, members: int, form: LayerForm, tmp_path: Path
) -> None:
    division = choose_division(form, rows)
    assert division
    macros = [f"-D{name}={value}" for name, value in division.macros().items()]
    here, program = Path(__file__).with_name("cuda"), tmp_path / "kernels"
    options = ["-O1", "-U_FORTIFY_SOURCE", "-std=c++17", "-fno-strict-aliasing", "-DLSTM_ON_CPU"]
    command = ["g++", *options, f"-I{layer.SOURCE.parent}", f"-I{here}", *macros, str(here / "run_kernels.cpp")]
    subprocess.run([*command, "-o", str(program)], check=True)
    for seed in range(2 if division.padded < 500 else 1):
        given = [str(program), *map(str, (steps, rows, members, seed))]
        done = subprocess.run(given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "form", [LayerForm(150, "rms_gates", "capped", mask=True), LayerForm(1000, "layer_gates", "coupled")]
)
def test_the_kernels_compile_without_a_toolkit_and_keep_their_weights_in_registers(form: LayerForm) -> None:
    try:
        nvrtc_version()
    except OSError as error:
        pytest.skip(str(error))
    division = choose_division(form, rows=64)
    assert division
    used = registers_and_spills(division)
    assert set(used) == {"lstm_forward", "lstm_backward"}
    for registers, spilled in used.values():
        assert 64 < registers < 256
        assert spilled < 100


@pytest.mark.slow
def test_a_language_model_has_the_gradients_of_the_fused_layer() -> None:
    """In float32, with skip connections and dropout of the layers' outputs, of h and of the weights."""
    config = tiny_config(
        {"model.norm": "rms_gates", "model.skip": True, "model.units": 21}
        | {"model.dropout": 0.2, "model.dropout_recurrent": 0.2, "model.dropout_weights": 0.1}
    )
    rates = DropoutRates.of(config.model)
    ids = np.random.default_rng(0).integers(0, 30, (2, B, 7))
    gradients = []
    for backend, dtype in (("fused", "float32"), ("cuda", "bfloat16")):
        model = make_model(config.replace(**{"model.dtype": dtype}), 30, backend)
        variables = jax.jit(model.init)(jax.random.key(0), model.initial_carry(B), jnp.zeros((B, 7), jnp.int32))
        masks = model.dropout_masks(jax.random.key(1), rates, B)
        batch = Batch(ids[0], ids[1], np.ones((B, 7), np.uint8), np.zeros(B, bool))
        gradients.append(jax.jit(make_gradient(model))(variables, model.initial_carry(B), batch, masks))
    for expected, result in zip(*map(jax.tree.leaves, gradients), strict=True):
        assert relative_error(result, expected) < 5e-2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "dtype=float32: its matmuls take bfloat16 only"),
        ({"model.dtype": "bfloat16", "model.norm": "layer"}, "norm='layer': not available"),
        ({"model.dtype": "bfloat16", "model.embed": 8, "model.mogrify": 5}, "mogrify=5: not available"),
        ({"model.dtype": "bfloat16", "model.cell": "gru"}, "cell='gru': not available"),
        ({"model.dtype": "bfloat16"}, "it runs on NVIDIA GPUs, found cpu"),
    ],
)
def test_what_the_kernels_cannot_run_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    plain = {"model.backend": "cuda"}  # after all others: each setting is checked with those before it
    with pytest.raises(UserError, match=message) as raised:
        resolve_backend(tiny_config(settings | plain).model)
    assert "\n" not in str(raised.value)


def test_a_model_with_the_kernels_needs_bfloat16() -> None:
    model = LanguageModel(30, 1, 8, embed=4, backend="cuda")
    with pytest.raises(ValueError, match="backend='cuda' takes operands in bfloat16"):
        model.init(jax.random.key(0), model.initial_carry(8), jnp.zeros((8, 2), jnp.int32))


def tiny_config(settings: dict[str, Any]) -> Config:
    return Config.of(tiny.get_config()).replace(**settings)


def value_and_gradients(given: dict[str, Any], input_gate: str, norm: str) -> Any:
    return lstm_variants_test.value_and_gradients(given, input_gate, norm, "cuda", BF16)


def relative_error(got: Any, want: Any) -> float:
    """|| got - want || / || want ||; infinite where it is not a number."""
    error = np.linalg.norm(np.asarray(got, np.float64) - np.asarray(want)) / np.linalg.norm(np.asarray(want))
    return float(error) if np.isfinite(error) else float("inf")
