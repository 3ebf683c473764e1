"""The layer's loops in C++: every shape of tile, all threads, and what happens where they cannot be had."""

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
from lovecraft_jax.model.native import build, ops
from tests.conftest import Command
from tests.helpers.trees import assert_close

ROOT = Path(__file__).parents[2]
FLOAT32 = jnp.dtype("float32")
with_compiler = pytest.mark.skipif(not any(map(which, build.COMPILERS)), reason="no C++ compiler")


@with_compiler
@pytest.mark.parametrize("B", range(1, 8))
def test_every_height_and_width_of_tile_gives_what_xla_gives(B: int) -> None:
    # Vectors of 16, 8 or 4 lanes, with a rest, one and more of them. Threads share the rows of the smaller kernels; of
    # the largest each takes columns of all up to 7 rows, so that every height is there.
    for H in (13, 70, 261):
        assert_close(gradients(B, H, True), gradients(B, H, False))


@with_compiler
@pytest.mark.parametrize(("N", "R", "C"), [(1, 1, 1), (5, 7, 3), (513, 6, 64), (1100, 13, 90)])
def test_the_gradient_of_a_kernel_is_the_product_of_its_rows(N: int, R: int, C: int) -> None:
    rng = np.random.default_rng(0)
    a_NR, b_NC = rng.normal(size=(N, R)).astype(np.float32), rng.normal(size=(N, C)).astype(np.float32)
    assert_close(ops.outer(a_NR, b_NC), a_NR.astype(np.float64).T @ b_NC)


@with_compiler
@pytest.mark.parametrize(("N", "K", "C"), [(1, 1, 1), (5, 7, 3), (100, 1100, 70), (200, 13, 90)])
def test_a_product_is_what_it_is_with_the_kernel_as_it_lies_or_transposed(N: int, K: int, C: int) -> None:
    rng = np.random.default_rng(0)
    a_NK, kernel_KC = rng.normal(size=(N, K)).astype(np.float32), rng.normal(size=(K, C)).astype(np.float32)
    exact_NC = a_NK.astype(np.float64) @ kernel_KC
    assert_close(ops.product(a_NK, kernel_KC), exact_NC)
    assert_close(ops.product_transposed(a_NK, kernel_KC.T.copy()), exact_NC)


@with_compiler
@pytest.mark.parametrize("S", range(1, 8))
def test_a_token_gives_what_xla_gives(S: int) -> None:
    # Vocabularies of a part of a vector, and of more than the four that a panel of the head takes.
    for layers, units, V, more in [(1, 5, 3, {"embed": 0}), (3, 20, 150, {"embed": 20, "tie": True})]:
        in_cpp, in_xla = (LanguageModel(V, layers, units, backend=backend, **more) for backend in ("native", "fused"))
        assert_close(after_a_token(in_cpp, S), after_a_token(in_xla, S))


@with_compiler
def test_all_threads_give_what_one_gives_to_the_last_bit() -> None:
    """In a process on all cores; by rows, and by columns where the kernel is too large for a core's cache."""
    program = (
        "import os, sys, jax, numpy as np\n"
        "from tests.model.native_test import LanguageModel, after_a_token, gradients\n"
        "hasattr(os, 'sched_setaffinity') and os.sched_setaffinity(0, range(os.cpu_count()))\n"  # conftest took one
        "leaves = jax.tree.leaves([gradients(9, H, True, 50) for H in (40, 304)])\n"
        "leaves += jax.tree.leaves(after_a_token(LanguageModel(150, 2, 100, backend='native'), 3))\n"
        "sys.stdout.buffer.write(b''.join(np.asarray(leaf).tobytes() for leaf in leaves))"
    )
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    said = [
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment | more, stdout=-1, check=True).stdout
        for more in ({}, {"NPROC": "1"})
    ]
    assert len(said[0]) > 4 * 304 * 4 * 304
    assert said[0] == said[1]


@with_compiler
def test_a_damaged_library_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXXFLAGS", "-O0")  # soon done
    library = build._compiled()
    whole = library.read_bytes()
    library.write_bytes(whole[:-1000])
    assert len(build._compiled().read_bytes()) == len(whole)


@pytest.mark.parametrize(
    ("compiler", "told"),
    [("/no/such/compiler", "No such file or directory: '/no/such/compiler'"), ("false", "false cannot compile")],
)
def test_without_a_compiler_auto_takes_the_fused_layer_and_says_so_and_native_is_refused(
    compiler: str, told: str, command: Command, tmp_path: Path
) -> None:
    flags = ["--config=configs/tiny.py", f"--workdir={tmp_path / 'run'}", "--config.train.stop_at_step=5"]
    done = command("train", *flags, env={"CXX": compiler})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("slower than it could be") == 1
    assert told in done.stderr
    done = command("train", *flags, "--config.model.backend=native", env={"CXX": compiler})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("use auto, which then takes the fused layer")


def gradients(B: int, H: int, in_cpp: bool, T: int = 3) -> tuple:
    """By all that goes into a layer, of a sum over all that comes out, from the same numbers at every call."""
    rng = np.random.default_rng(H)
    shapes = [(H, 4 * H), (4 * H,), (T, B, 4 * H), (B, H), (B, H), (T, B, H), (B, H)]
    kernel_HG, bias_G, gates_TBG, c_BH, h_BH, to_h_TBH, to_c_BH = (
        rng.normal(size=shape).astype(np.float32) for shape in shapes
    )

    def total(*given: jax.Array) -> jax.Array:
        (last_c_BH, last_h_BH), h_TBH = fused_lstm(*given[:3], given[3:], FLOAT32, in_cpp)
        return jnp.vdot(h_TBH, to_h_TBH) + jnp.vdot(last_c_BH, to_c_BH) + jnp.vdot(last_h_BH, to_c_BH)

    return jax.jit(jax.value_and_grad(total, range(5)))(kernel_HG / H**0.5, bias_G, gates_TBG, c_BH, h_BH)


def after_a_token(model: LanguageModel, S: int) -> tuple:
    """The carry and logits after each stream has read one token, from the same numbers at every call."""
    rng, ids_S = np.random.default_rng(S), jnp.arange(S) % model.vocab_size
    like = jax.eval_shape(model.init, jax.random.key(0), model.initial_carry(1), ids_S[:1, None])
    variables, carry = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), (like, model.initial_carry(S))
    )
    return jax.jit(lambda: decode(model, make_decoder(model, variables), carry, ids_S))()
