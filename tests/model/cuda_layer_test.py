"""The layer on CUDA kernels: what is around them, with the kernels' algorithm in jnp, against a float64 loop; and the
kernels' sources, every thread of which runs on a CPU."""

import functools
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
from lovecraft_jax.model import backend as backends
from lovecraft_jax.model.backend import resolve_backend
from lovecraft_jax.model.cells import cell_class
from lovecraft_jax.model.cuda import layer
from lovecraft_jax.model.cuda.__main__ import registers_and_spills
from lovecraft_jax.model.cuda.build import nvrtc_version
from lovecraft_jax.model.cuda.division import (
    CLUSTER_UNITS,
    GPUS,
    H100,
    Division,
    Gpu,
    LayerForm,
    choose_division,
    max_units,
)
from lovecraft_jax.model.dropout import DropoutRates
from lovecraft_jax.model.layer_input import LayerInput
from lovecraft_jax.model.lm import LanguageModel, make_model
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.training.step import make_gradient
from tests.model import lstm_variants_test
from tests.model.lstm_variants_test import draw, reference

pytestmark = pytest.mark.usefixtures("unoptimized")
B = 8
DTYPES = ("bfloat16", "float32")
MOST_ERROR = {
    "bfloat16": {"own": 2e-2, "coupled": 2e-2, "capped": 4e-2},
    "float32": {"own": 2e-3, "coupled": 1e-3, "capped": 2e-3},
}
"""Of each result, in the Euclidean norm, by dtype: in float32 operands are rounded to TF32. Where i and 1 - f are
nearly the same, rounding decides which of them a capped gate is, and the gradient takes another path."""
VARIANTS = [
    ("own", "none", False),
    ("own", "none", True),
    ("capped", "rms_gates", True),
    ("coupled", "layer_gates", False),
]
A100, L4 = GPUS["A100"], GPUS["L4"]
MOST_UNITS = {
    ("A100", "bfloat16"): 1024,
    ("A100", "float32"): 576,
    ("A10", "bfloat16"): 896,
    ("A10", "float32"): 448,
    ("L4", "bfloat16"): 896,
    ("L4", "float32"): 448,
    ("H100", "bfloat16"): 1024,
    ("H100", "float32"): 704,
    ("B200", "bfloat16"): 1024,
    ("B200", "float32"): 704,
    ("RTX 5090", "bfloat16"): 896,
    ("RTX 5090", "float32"): 448,
}
ON_CPU = [
    (H100, 8, 6, 2, LayerForm(10, "rms_gates", "capped", mask=True)),
    (H100, 16, 6, 2, LayerForm(150)),
    (H100, 8, 6, 2, LayerForm(150, "rms_gates", "capped")),
    # For many members a cluster has fewer and larger blocks, and then more rows.
    (H100, 8, 4, 30, LayerForm(150, "layer_gates", "coupled", mask=True)),
    (H100, 16, 4, 100, LayerForm(150, "rms_gates", "capped", mask=True)),
    (H100, 16, 2, 100, LayerForm(80)),
    (H100, 16, 2, 100, LayerForm(256, "layer_gates", "own", mask=True)),
    (H100, 8, 4, 100, LayerForm(150, "rms_gates", "capped", mask=True, dtype="float32")),
    (H100, 8, 2, 100, LayerForm(256, "layer_gates", "own", mask=True, dtype="float32")),
    (H100, 8, 4, 2, LayerForm(256, "layer_gates", "coupled", mask=True)),
    (H100, 16, 2, 1, LayerForm(512, "rms_gates", "own", mask=True)),
    (H100, 32, 2, 1, LayerForm(600, "layer_gates", "own", mask=True)),
    (H100, 8, 6, 2, LayerForm(10, "layer_gates", "coupled", dtype="float32")),
    (H100, 16, 6, 2, LayerForm(150, dtype="float32")),
    (H100, 8, 6, 2, LayerForm(150, "rms_gates", "capped", mask=True, dtype="float32")),
    (H100, 8, 4, 2, LayerForm(256, "layer_gates", "own", mask=True, dtype="float32")),
    (H100, 8, 2, 1, LayerForm(440, "rms_gates", "own", mask=True, dtype="float32")),
    (H100, 8, 6, 2, LayerForm(100, "rms_gates", "capped", mask=True, saves=False)),
    (H100, 8, 6, 2, LayerForm(100, "layer_gates", "own", dtype="float32", saves=False)),
    # With few multiprocessors a group has more rows.
    (A100, 8, 6, 2, LayerForm(10, "rms_gates", "capped", mask=True)),
    (A100, 16, 6, 2, LayerForm(150, "rms_gates", "capped")),
    (A100._replace(multiprocessors=10), 16, 4, 2, LayerForm(150)),
    (A100._replace(multiprocessors=5), 32, 4, 1, LayerForm(150, "layer_gates", "own", mask=True)),
    (L4, 8, 4, 2, LayerForm(256, "layer_gates", "coupled", mask=True)),
    (L4._replace(multiprocessors=20), 16, 2, 1, LayerForm(600)),
    (A100, 8, 6, 2, LayerForm(150, "rms_gates", "capped", mask=True, dtype="float32")),
    (A100._replace(multiprocessors=5), 32, 4, 1, LayerForm(150, "layer_gates", "coupled", dtype="float32")),
    (L4, 8, 4, 2, LayerForm(256, "rms_gates", "own", dtype="float32")),
    (L4, 8, 2, 1, LayerForm(440, "layer_gates", "own", mask=True, dtype="float32")),
    (A100, 8, 6, 2, LayerForm(100, "layer_gates", "own", dtype="float32", saves=False)),
]
"""The GPU, rows, time steps, members, of which two at most are computed, and the layer. Clusters on an H100, with 600
units and on the others groups."""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("input_gate", "norm", "masked"), VARIANTS)
def test_values_and_gradients_equal_a_float64_loop(input_gate: str, norm: str, masked: bool, dtype: str) -> None:
    given = draw(input_gate, norm, masked, rows=B)
    want, got = reference(given, input_gate, norm), value_and_gradients(given, input_gate, norm, dtype)
    for expected, result in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        assert result.dtype == jnp.float32
        assert relative_error(result, expected) < MOST_ERROR[dtype][input_gate]
    for expected, result in zip(jax.tree.leaves(want[0]), jax.tree.leaves(got[0]), strict=True):
        assert relative_error(result, expected) < {"bfloat16": 6e-3, "float32": 3e-4}[dtype]
    # Without a gradient nothing is saved, and the values are the same.
    alone = lstm_variants_test.run(given, input_gate, norm, "cuda", jnp.dtype(dtype))
    for expected, result in zip(jax.tree.leaves(got[0]), jax.tree.leaves(alone), strict=True):
        assert relative_error(result, expected) < 1e-6


def test_without_a_gradient_the_kernel_writes_only_h_and_the_last_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_kernel(division: Division, name: str, results: list[Any], operands: Any) -> list[jax.Array]:
        written.append([result.shape for result in results if result.size])
        return compute(division, name, results, operands)

    written: list[list[tuple[int, ...]]] = []
    compute = layer.run_kernel
    monkeypatch.setattr(layer, "run_kernel", run_kernel)
    given = draw("capped", "rms_gates", False, rows=B)
    run = functools.partial(lstm_variants_test.run.__wrapped__, input_gate="capped", norm="rms_gates", backend="cuda")
    jax.eval_shape(run, given)
    assert written == [[(lstm_variants_test.T, B, 32), (1, B, 32)]]


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
        assert relative_error(result, expected) < MOST_ERROR["bfloat16"]["capped"]


def test_gates_of_a_unit_stand_side_by_side_and_padding_is_zero() -> None:
    division = choose_division(LayerForm(3), rows=8)
    assert division
    packed = layer.to_kernel_layout(jnp.arange(24.0).reshape(2, 12) + 1, division)
    assert packed.shape == (2, 32, 4)
    assert packed[0, :3].tolist() == [[1, 4, 7, 10], [2, 5, 8, 11], [3, 6, 9, 12]]
    assert not packed[:, 3:].any()
    coupled = layer.to_kernel_layout(jnp.arange(9.0) + 1, division)
    assert coupled[:3].tolist() == [[0, 1, 4, 7], [0, 2, 5, 8], [0, 3, 6, 9]]


@pytest.mark.parametrize(("name", "dtype"), MOST_UNITS)
def test_every_layer_fits_into_a_multiprocessor(name: str, dtype: str) -> None:
    gpu, most = GPUS[name], MOST_UNITS[name, dtype]
    assert max_units(dtype, gpu) == most
    for norm in ("none", "rms_gates", "layer_gates"):
        for units in range(1, most + 1):
            for rows in (1, 64, 512):
                division = choose_division(LayerForm(units, norm, mask=True, dtype=dtype), rows, gpu)
                assert division
                assert units <= division.padded < units + (32 if units <= 160 else 64 if units <= 256 else 128)
                assert division.padded % (16 * division.blocks) == 0
                assert division.grouped == (name != "H100" or units > CLUSTER_UNITS[dtype])
                assert division.blocks <= (gpu.multiprocessors if division.grouped else 16)
                for one in (division.forward, division.backward):
                    assert one.shared <= gpu.shared_limit
                    assert one.threads <= 1024
                    assert one.kept >= 1
        assert choose_division(LayerForm(most + 1, norm, dtype=dtype), 64, gpu) is None


def test_groups_take_as_few_rows_as_let_all_of_them_run_at_once() -> None:
    def rows_of(rows: int, units: int = 150) -> tuple[int, int]:
        division = choose_division(LayerForm(units), rows, A100)
        assert division
        return division.rows, division.blocks_at_once

    # 108 multiprocessors: 21 groups of 5 blocks, or 6 of 16.
    assert [rows_of(rows) for rows in (8, 168, 169, 336, 337, 5000)] == [(n, 105) for n in (8, 8, 16, 16, 32, 32)]
    assert [rows_of(rows, 512) for rows in (48, 96, 97)] == [(8, 96), (16, 96), (32, 96)]


def test_clusters_have_fewer_and_larger_blocks_where_not_all_of_them_run_at_once() -> None:
    def blocks_and_rows(units: int, rows: int, members: int = 1, dtype: str = "bfloat16") -> tuple[int, int]:
        division = choose_division(LayerForm(units, dtype=dtype), rows, H100, members)
        assert division
        return division.blocks, division.rows

    # 132 multiprocessors, each with room for two of the smallest blocks: 52 clusters of 5, or 66 of 2.
    assert [blocks_and_rows(150, rows) for rows in (8, 416, 417, 528, 529)] == [(5, 8), (5, 8), (2, 8), (2, 8), (2, 16)]
    assert [blocks_and_rows(150, 64, members) for members in (6, 7, 16)] == [(5, 8), (2, 8), (2, 16)]
    assert [blocks_and_rows(256, 64, members) for members in (2, 4, 8)] == [(8, 8), (4, 8), (4, 16)]
    assert [blocks_and_rows(150, 64, members, "float32") for members in (3, 4, 16)] == [(5, 8), (2, 8), (2, 8)]
    assert blocks_and_rows(512, 64, 16) == (16, 16)


def test_layers_of_more_blocks_than_multiprocessors_have_no_division() -> None:
    small = L4._replace(multiprocessors=20)
    assert max_units("bfloat16", small) == 640
    assert choose_division(LayerForm(641), 64, small) is None
    # So small a part of an H100 has no room for the largest clusters.
    part = H100._replace(multiprocessors=16)
    division = choose_division(LayerForm(512), 64, part)
    assert division
    assert division.grouped


@pytest.mark.slow
@pytest.mark.skipif(not which("g++"), reason="no g++")
@pytest.mark.parametrize(("gpu", "rows", "steps", "members", "form"), ON_CPU)
def test_the_kernels_equal_a_float64_loop_with_their_threads_in_any_order(
    gpu: Gpu, rows: int, steps: int, members: int, form: LayerForm, tmp_path: Path
) -> None:
    division = choose_division(form, rows, gpu, members)
    assert division
    assert rows % division.rows == 0
    macros = [f"-D{name}={value}" for name, value in division.macros().items()]
    here, program = Path(__file__).with_name("cuda"), tmp_path / "kernels"
    options = ["-O1", "-U_FORTIFY_SOURCE", "-std=c++17", "-fno-strict-aliasing", "-DLSTM_ON_CPU"]
    command = ["g++", *options, f"-I{layer.SOURCE.parent}", f"-I{here}", *macros, str(here / "run_kernels.cpp")]
    subprocess.run([*command, "-o", str(program)], check=True)
    for seed in range(2 if division.padded < 500 else 1):
        given = [str(program), *map(str, (steps, rows, min(members, 2), seed))]
        done = subprocess.run(given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("H100", LayerForm(150, "rms_gates", "capped", mask=True)),
        ("H100", LayerForm(150, "rms_gates", "capped", mask=True, dtype="float32")),
        ("A100", LayerForm(512, "rms_gates", "capped", mask=True)),
        *(
            pytest.param(name, form, marks=pytest.mark.slow)
            for name, form in (
                ("H100", LayerForm(1000, "layer_gates", "coupled")),
                ("H100", LayerForm(256, "layer_gates", "coupled", mask=True, dtype="float32")),
                ("A100", LayerForm(512, "layer_gates", "coupled", dtype="float32")),
                ("L4", LayerForm(256, "layer_gates", "capped", mask=True, dtype="float32")),
                ("RTX 5090", LayerForm(150)),
            )
        ),
    ],
)
def test_the_kernels_compile_without_a_toolkit_and_keep_their_weights_in_registers(name: str, form: LayerForm) -> None:
    try:
        nvrtc_version()
    except OSError as error:
        pytest.skip(str(error))
    division = choose_division(form, 64, GPUS[name])
    assert division
    used = registers_and_spills(division)
    assert set(used) == {"lstm_forward", "lstm_backward"}
    for registers, spilled in used.values():
        assert 64 < registers < 256
        assert spilled < 100


@pytest.mark.slow
def test_a_language_model_has_the_gradients_of_the_fused_layer() -> None:
    """With skip connections and dropout of the layers' outputs, of h and of the weights."""
    config = tiny_config(
        {"model.norm": "rms_gates", "model.skip": True, "model.units": 21}
        | {"model.dropout": 0.2, "model.dropout_recurrent": 0.2, "model.dropout_weights": 0.1}
    )
    rates = DropoutRates.of(config.model)
    ids = np.random.default_rng(0).integers(0, 30, (2, B, 7))
    gradients = []
    for backend, dtype in (("fused", "float32"), ("cuda", "bfloat16"), ("cuda", "float32")):
        model = make_model(config.replace(**{"model.dtype": dtype}), 30, backend)
        variables = jax.jit(model.init)(jax.random.key(0), model.initial_carry(B), jnp.zeros((B, 7), jnp.int32))
        masks = model.dropout_masks(jax.random.key(1), rates, B)
        batch = Batch(ids[0], ids[1], np.ones((B, 7), np.uint8), np.zeros(B, bool))
        gradients.append(jax.jit(make_gradient(model))(variables, model.initial_carry(B), batch, masks))
    for expected, in_bfloat16, in_float32 in zip(*map(jax.tree.leaves, gradients), strict=True):
        assert relative_error(in_bfloat16, expected) < 5e-2
        assert relative_error(in_float32, expected) < 5e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.dtype": "bfloat16", "model.norm": "layer"}, "norm='layer': not available"),
        ({"model.dtype": "bfloat16", "model.embed": 8, "model.mogrify": 5}, "mogrify=5: not available"),
        ({"model.dtype": "bfloat16", "model.cell": "gru"}, "cell='gru': not available"),
        ({}, "it runs on NVIDIA GPUs, found cpu"),
    ],
)
def test_what_the_kernels_cannot_run_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    plain = {"model.backend": "cuda"}  # after all others: each setting is checked with those before it
    with pytest.raises(UserError, match=message) as raised:
        resolve_backend(tiny_config(settings | plain).model)
    assert "\n" not in str(raised.value)


def test_a_model_with_the_kernels_takes_no_other_dtype() -> None:
    model = LanguageModel(30, 1, 8, embed=4, dtype=jnp.dtype("float16"), backend="cuda")
    with pytest.raises(ValueError, match="backend='cuda' takes operands in float32 or bfloat16, not in float16"):
        model.init(jax.random.key(0), model.initial_carry(8), jnp.zeros((8, 2), jnp.int32))


@pytest.mark.parametrize(
    ("units", "dtype", "precision", "why"),
    [
        (704, "float32", None, ""),
        (705, "float32", None, "have room for 704 in float32"),
        (1025, "bfloat16", None, "have room for 1024 in bfloat16"),
        (8, "float32", "tensorfloat32", ""),
        (8, "float32", "highest", "are TF32, jax_default_matmul_precision=highest was asked for"),
        (8, "float32", "F32_F32_F32", "are TF32, jax_default_matmul_precision=F32_F32_F32 was asked for"),
        (8, "bfloat16", "highest", ""),
    ],
)
def test_layers_that_the_kernels_cannot_compute_run_as_fused_and_a_line_says_why(
    units: int, dtype: str, precision: str | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, calls = [], []
    monkeypatch.setattr(backends, "log_once", lines.append)
    monkeypatch.setattr(backends, "run_layer_in_cuda", lambda *_: calls.append("cuda") or (None, jnp.zeros(0)))
    monkeypatch.setattr(backends, "fused_lstm", lambda *_: calls.append("fused") or (None, jnp.zeros(0)))
    settings = {"model.backend": "cuda", "model.units": units, "model.dtype": dtype}
    with jax.default_matmul_precision(precision):
        assert resolve_backend(tiny_config(settings).model, "gpu") == "cuda"
        cell = cell_class("lstm")(4, units, jnp.dtype(dtype))
        ones = lambda *shape: jnp.ones(shape)  # noqa: E731
        given = (ones(1, units), ones(1, units)), LayerInput(ones(1, 1, 4)), "cuda"
        jax.eval_shape(lambda: cell.init_with_output(jax.random.key(0), *given, method=backends.run_layer)[0])
    assert calls == (["fused"] if why else ["cuda"])
    assert len(lines) == bool(why)
    assert all(line.startswith(f"layers of {units} units run as 'fused': the CUDA kernels") for line in lines)
    assert all(line.endswith(why) for line in lines)


def tiny_config(settings: dict[str, Any]) -> Config:
    return Config.of(tiny.get_config()).replace(**settings)


def value_and_gradients(given: dict[str, Any], input_gate: str, norm: str, dtype: str = "bfloat16") -> Any:
    return lstm_variants_test.value_and_gradients(given, input_gate, norm, "cuda", jnp.dtype(dtype))


def relative_error(got: Any, want: Any) -> float:
    """|| got - want || / || want ||; infinite where it is not a number."""
    error = np.linalg.norm(np.asarray(got, np.float64) - np.asarray(want)) / np.linalg.norm(np.asarray(want))
    return float(error) if np.isfinite(error) else float("inf")
