"""The C++ against XLA and float64: every shape of tile, many threads, damaged libraries, and a missing compiler."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lovecraft_jax.inference.decoder import decode, make_decoder
from lovecraft_jax.model.lm import LanguageModel
from lovecraft_jax.model.lstm_fused import fused_lstm
from lovecraft_jax.model.lstm_step import Form, LoopParams
from lovecraft_jax.model.native import build, ops
from tests.conftest import Command
from tests.helpers.trees import assert_close

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]

ROOT = Path(__file__).parents[2]
FLOAT32 = jnp.dtype("float32")
MOST_ROWS = 7
"""Enough for tiles of every height."""
VARIANTS = [
    {"input_gate": "coupled"},
    {"norm": "layer_gates", "skip": True},
    {"norm": "rms_gates", "input_gate": "capped", "skip": True},
    {"norm": "rms_gates", "input_gate": "coupled"},
]
"""Settings of layers that take two stages a token."""
with_compiler = pytest.mark.skipif(not any(map(which, build.COMPILERS)), reason="no C++ compiler")


@with_compiler
@pytest.mark.parametrize("H", [13, 70, 261])
def test_layer_and_gradients_equal_xla_for_every_tile_shape(H: int) -> None:
    # Units that fill 1 and several vectors of 16, 8 or 4 lanes, and part of one more. With the smaller kernels threads
    # share the rows; with the largest each takes columns with all rows, so that tiles of every height occur.
    for B in range(1, MOST_ROWS + 1):
        value, (kernel_HG, bias_G, *per_row) = gradients(B, H, "native")
        expected, (kernels, biases, *of_all_rows) = gradients(B, H, "fused")
        first = [leaf[:, :B] if leaf.ndim == 3 else leaf[:B] for leaf in of_all_rows]
        assert_close((value, kernel_HG, bias_G, per_row), (expected, kernels, biases, first))


@with_compiler
@pytest.mark.parametrize(("N", "K", "C"), [(1, 1, 1), (5, 7, 3), (513, 6, 64), (200, 1100, 90), (1100, 13, 90)])
def test_matmuls_equal_float64(N: int, K: int, C: int) -> None:
    rng = np.random.default_rng(0)
    a_NK, kernel_KC, b_NC = (rng.normal(size=shape).astype(np.float32) for shape in ((N, K), (K, C), (N, C)))
    exact_NC = a_NK.astype(np.float64) @ kernel_KC
    assert_close(ops.matmul(a_NK, kernel_KC), exact_NC)
    assert_close(ops.matmul_nt(a_NK, kernel_KC.T.copy()), exact_NC)
    assert_close(ops.matmul_tn(a_NK, b_NC), a_NK.astype(np.float64).T @ b_NC)


@with_compiler
@pytest.mark.parametrize(
    ("layers", "units", "V", "more"),
    [
        (1, 5, 3, {"embed": 0}),
        (3, 20, 150, {"embed": 20, "tie": True}),
        (3, 20, 150, {"embed": 6, "skip": True}),
        *[(2, 37, 150, {"embed": 6, **variant}) for variant in VARIANTS],
    ],
)
def test_decoded_token_equals_xla_for_any_number_of_streams(layers: int, units: int, V: int, more: dict) -> None:
    # A vocabulary that fills part of one vector, and ones that fill more than the four of a panel of the head.
    in_cpp, in_xla = (LanguageModel(V, layers, units, backend=backend, **more) for backend in ("native", "fused"))
    expected = after_a_token(in_xla, MOST_ROWS)
    for S in range(1, MOST_ROWS + 1):
        assert_close(after_a_token(in_cpp, S), jax.tree.map(lambda leaf, S=S: leaf[:S], expected))


@with_compiler
def test_results_are_bit_identical_for_any_number_of_threads() -> None:
    """In a process on all cores. Threads share the rows of the small kernel, and the columns of the large one, which is
    too large for a core's cache."""
    program = (
        "import os, sys, jax, numpy as np\n"
        "from tests.model.native_test import VARIANTS, LanguageModel, after_a_token, gradients\n"
        "hasattr(os, 'sched_setaffinity') and os.sched_setaffinity(0, range(os.cpu_count()))\n"  # conftest took one
        "leaves = jax.tree.leaves([gradients(9, H, 'native', 50) for H in (40, 304)])\n"
        "models = [LanguageModel(150, 2, 100, backend='native', **variant) for variant in ({}, *VARIANTS)]\n"
        "leaves += jax.tree.leaves([after_a_token(model, 3) for model in models])\n"
        "sys.stdout.buffer.write(b''.join(np.asarray(leaf).tobytes() for leaf in leaves))"
    )
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    results = [
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment | more, stdout=-1, check=True).stdout
        for more in ({}, {"NPROC": "1"})
    ]
    assert len(results[0]) > 4 * 304 * 4 * 304
    assert results[0] == results[1]


@with_compiler
def test_damaged_library_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXXFLAGS", "-O0")  # compiles faster
    library = build._compile_once()
    size = len(library.read_bytes())
    library.write_bytes(library.read_bytes()[:-1000])
    assert len(build._compile_once().read_bytes()) == size


@pytest.mark.parametrize("backend", ["auto", "native"])
def test_without_compiler_auto_warns_and_uses_fused_and_native_exits_with_2(
    backend: str, command: Command, tmp_path: Path
) -> None:
    compiler = {"auto": "/no/such/compiler", "native": "false"}[backend]
    flags = ["--config=configs/tiny.py", f"--workdir={tmp_path}", "--config.train.stop_at_step=5"]
    done = command("train", *flags, f"--config.model.backend={backend}", env={"CXX": compiler})
    if backend == "auto":
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("slower than it could be") == 1
        assert "No such file or directory: '/no/such/compiler'" in done.stderr
    else:
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "false cannot compile" in line
        assert line.endswith("use auto, which then takes the fused layer")


def gradients(B: int, H: int, backend: str, T: int = 3) -> tuple:
    """A weighted sum of a layer's outputs for B rows, and its gradients by all inputs; the same random numbers at every
    call. XLA compiles once: it gets all rows, and those from B on have no weight."""
    rng, rows = np.random.default_rng(H), max(B, MOST_ROWS)
    shapes = [(H, 4 * H), (4 * H,), (T, rows, 4 * H), (rows, H), (rows, H), (T, rows, H), (rows, H)]
    kernel_HG, bias_G, *per_row = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    if backend == "native":
        per_row = [leaf[:, :B] if leaf.ndim == 3 else leaf[:B] for leaf in per_row]
    else:
        per_row[3][:, B:], per_row[4][B:] = 0, 0
    return _gradients(kernel_HG / np.float32(H**0.5), bias_G, *per_row, in_cpp=backend == "native")


@functools.partial(jax.jit, static_argnames="in_cpp")
def _gradients(*given: jax.Array, in_cpp: bool) -> tuple:
    inputs, (to_h_TBH, to_c_BH), form = given[:5], given[5:], Form(FLOAT32, in_cpp=in_cpp)

    def weighted_sum(*inputs: jax.Array) -> jax.Array:
        (last_c_BH, last_h_BH), h_TBH = fused_lstm(LoopParams(*inputs[:2]), inputs[2], inputs[3:], form)
        return jnp.vdot(h_TBH, to_h_TBH) + jnp.vdot(last_c_BH, to_c_BH) + jnp.vdot(last_h_BH, to_c_BH)

    return jax.value_and_grad(weighted_sum, range(5))(*inputs)


def after_a_token(model: LanguageModel, S: int) -> tuple:
    """The carry and the logits after one token of each stream; the same random numbers at every call."""
    rng, ids_S = np.random.default_rng(0), jnp.arange(S) % model.vocab_size
    like = jax.eval_shape(model.init, jax.random.key(0), model.initial_carry(1), ids_S[:1, None])
    variables, carry = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), (like, model.initial_carry(MOST_ROWS))
    )
    carry = jax.tree.map(lambda leaf: leaf[:S], carry)
    return jax.jit(lambda: decode(model, make_decoder(model, variables), carry, ids_S))()
