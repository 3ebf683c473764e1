"""All layers in one loop over time: the values and gradients of a model whose layers run one after another."""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model import lstm_blocks
from lovecraft_jax.model.dropout import DropoutRates
from lovecraft_jax.model.lm import LanguageModel, make_model
from lovecraft_jax.training.step import make_gradient
from tests.model.lstm_variants_test import assert_close

pytestmark = pytest.mark.usefixtures("unoptimized")
V, B, T = 30, 4, 6
ALL_DROPOUT = {"model.dropout": 0.2, "model.dropout_recurrent": 0.2, "model.dropout_weights": 0.1}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model.layers": 1, "model.dropout": 0.2},
        {"model.layers": 3, "model.norm": "rms_gates", "model.input_gate": "capped", "model.dropout_recurrent": 0.2},
        {"model.norm": "layer_gates", "model.dropout": 0.2, "model.skip": True},
        {"model.layers": 3, "model.input_gate": "coupled", "model.embed": 5, "model.skip": True} | ALL_DROPOUT,
    ],
    ids=str,
)
def test_values_and_gradients_equal_those_of_layers_one_after_another(settings: dict[str, Any]) -> None:
    assert_close(_gradient("wavefront", settings), _gradient("fused", settings), 1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_sequence_may_have_fewer_time_steps_than_there_are_layers(steps: int) -> None:
    settings = {"model.layers": 3}
    assert_close(_gradient("wavefront", settings, steps), _gradient("fused", settings, steps), 1e-5)


def test_the_last_block_is_shorter_where_the_time_steps_have_no_divisor() -> None:
    settings = {"model.norm": "rms_gates"}
    # Both layers run together for 11 time steps: two blocks of four, and one of three.
    found, expected = _gradient("wavefront", settings, 12, block=4), _gradient("fused", settings, 12)
    assert_close(found, expected, 1e-5)


def test_bfloat16_stays_near_float32() -> None:
    settings = {"model.norm": "rms_gates", "model.input_gate": "capped"}
    found = _gradient("wavefront", settings | {"model.dtype": "bfloat16"})
    for one, exact in zip(*map(jax.tree.leaves, (found, _gradient("fused", settings))), strict=True):
        assert np.linalg.norm(one - exact) < 0.04 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell": "gru"}, "cannot run a GRU layer"),
        ({"norm": "layer"}, "cannot run norm='layer' with mogrify=0"),
        ({"embed": 5, "mogrify": 2}, "cannot run norm='none' with mogrify=2"),
    ],
    ids=str,
)
def test_what_it_cannot_run_is_refused(fields: dict[str, Any], message: str) -> None:
    model = LanguageModel(V, 2, 8, backend="wavefront", **fields)
    with pytest.raises(ValueError, match=f"backend='wavefront' {message}"):
        model.init(jax.random.key(0), model.initial_carry(B), jnp.zeros((B, T), jnp.int32))


def _gradient(backend: str, settings: dict[str, Any], steps: int = T, block: int = 2) -> Any:
    """The sums, the gradient and the carry of a batch, from a carry that is not zero."""
    config = Config.of(tiny.get_config()).replace(**{"model.units": 11} | settings)
    model, rng = make_model(config, V, backend), np.random.default_rng(0)
    ids, zeros = rng.integers(0, V, (2, B, steps)), model.initial_carry(B)
    carry = jax.tree.map(lambda x: 0.5 * rng.standard_normal(x.shape, np.float32), zeros)
    variables = jax.jit(model.init)(jax.random.key(0), zeros, jnp.zeros((B, steps), jnp.int32))
    masks = model.dropout_masks(jax.random.key(1), DropoutRates.of(config.model), B)
    batch = Batch(ids[0], ids[1], np.ones((B, steps), np.uint8), np.zeros(B, bool))
    with mock.patch.object(lstm_blocks, "LARGEST_BLOCK", block):
        return jax.jit(make_gradient(model))(variables, carry, batch, masks)
