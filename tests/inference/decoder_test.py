"""One token at a time with folded weights gives what the model gives for a whole text at once."""

from shutil import which
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lovecraft_jax.inference.decoder import Folded, decode, make_decoder
from lovecraft_jax.model.lm import LanguageModel, forward
from lovecraft_jax.model.native.build import COMPILERS
from tests.helpers.trees import assert_close

V, H, B, T, L = 11, 6, 3, 5, 3
NATIVE = pytest.param("native", marks=pytest.mark.skipif(not any(map(which, COMPILERS)), reason="no C++ compiler"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"embed": 4}, {"embed": H, "tie": True}, {"skip": True}, {"skip": True, "embed": 4}]
)
@pytest.mark.parametrize(("cell", "backend"), [("lstm", "scan"), ("lstm", "fused"), ("gru", "scan")])
def test_decoding_equals_forward(cell: str, backend: str, settings: dict[str, Any]) -> None:
    assert_decoding_equals_forward(LanguageModel(V, L, H, cell=cell, backend=backend, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["scan", NATIVE])
def test_decoding_equals_forward_with_normalised_input_and_skip_connections(backend: str) -> None:
    assert_decoding_equals_forward(LanguageModel(V, L, H, embed=4, norm="batch_input", skip=True, backend=backend))


def test_decoding_equals_forward_with_one_layer_and_in_bfloat16() -> None:
    assert_decoding_equals_forward(LanguageModel(V, 1, H, embed=4, skip=True))
    rounded = LanguageModel(V, L, H, embed=4, cell="gru", dtype=jnp.dtype("bfloat16"))
    assert_decoding_equals_forward(rounded, relative=0.02)


def test_with_skip_connections_every_layer_has_a_row_per_token() -> None:
    model = LanguageModel(V, L, H, embed=4, skip=True)
    decoder = make_decoder(model, variables_of(model))
    assert isinstance(decoder, Folded)
    assert [start.shape for start in decoder.starts] == [(V, 4 * H)] * L
    assert [kernel.shape for kernel in decoder.kernels] == [(H, 4 * H)] + [(2 * H, 4 * H)] * (L - 1)
    assert decoder.head[0].shape == (L * H, V)


def assert_decoding_equals_forward(model: LanguageModel, relative: float = 1e-5) -> None:
    variables, carry = variables_of(model), model.initial_carry(B)
    x_BT = np.random.default_rng(1).integers(V, size=(B, T), dtype=np.int32)
    expected = jax.jit(forward, static_argnums=0)(model, variables, carry, x_BT)

    @jax.jit
    def one_by_one() -> Any:
        decoder = make_decoder(model, variables)
        one = lambda carry, ids_B: decode(model, decoder, carry, ids_B)  # noqa: E731
        return jax.lax.scan(one, carry, x_BT.T)

    after, logits_TBV = one_by_one()
    assert_close((after, logits_TBV.swapaxes(0, 1)), expected, relative)


def variables_of(model: LanguageModel) -> Any:
    """Larger than a model starts with, and variances that are none."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.initial_carry(B), jnp.zeros((B, 1), jnp.int32))
    rng = np.random.default_rng(0)

    def leaf(path: Any, shape: Any) -> np.ndarray:
        values = rng.normal(0, 0.7, shape.shape).astype(np.float32)
        return values**2 + np.float32(0.5) if "variance" in jax.tree_util.keystr(path) else values

    return jax.tree_util.tree_map_with_path(leaf, shapes)
