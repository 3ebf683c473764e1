"""The article's recipe against Keras, whose numbers tests/fixtures/keras_fixture.py recorded."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import c100
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model.losses import token_binary_cross_entropy
from lovecraft_jax.training.compiled import make_program

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]

KERAS = json.loads((Path(__file__).parents[1] / "fixtures" / "keras.json").read_text())
V, H, B, T = 5, 2, 4, 6


def test_binary_cross_entropy_equals_keras_with_its_clipping() -> None:
    logits_NV, targets_N = (np.concatenate(KERAS["loss"][name]) for name in ("logits", "targets"))
    for logits_V, target, loss in zip(logits_NV, targets_N, np.concatenate(KERAS["loss"]["losses"]), strict=True):
        given = batch(np.array([[target, target]]))
        actual = jnp.sum(token_binary_cross_entropy(jnp.float32(logits_V)[None, None], given)) / V
        assert float(actual) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("backend", ["native", "scan"])
def test_three_steps_of_the_article_equal_keras(backend: str) -> None:
    config = recipe()
    config.model.backend = backend
    program = make_program(config, V, total_steps=100)
    state = program.init(0)
    placed = jax.tree.map(lambda leaf: leaf.sharding, state.variables)
    state = state.replace(variables=jax.device_put(from_keras(KERAS["weights"]), placed))
    for step in KERAS["steps"]:
        one = jax.tree.map(lambda leaf: leaf[None], batch(np.array(step["tokens"])))
        state, metrics = program.train_steps(state, program.put(one))
        assert float(metrics["bce"][0]) == pytest.approx(step["loss"], rel=1e-5)
        # A step moves a weight by about 1e-3, and adding epsilon after the bias correction would change that by 1e-5.
        expected = from_keras(step["weights"])["params"]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=3e-7), state.variables["params"], expected
        )


def recipe() -> ConfigDict:
    """Returns the article's config with the sizes of the fixture."""
    config = c100.get_config("article")
    config.model.units = H
    config.data.update({"batch_size": B, "seq_len": T})
    return config


def batch(tokens: np.ndarray) -> Batch:
    x_BT, y_BT = tokens[:, :-1].astype(np.uint8), tokens[:, 1:].astype(np.uint8)
    return Batch(x_BT, y_BT, np.ones(x_BT.shape, np.uint8), np.ones(len(tokens), bool))


def from_keras(weights: list[list[float]]) -> Any:
    """Returns Keras's list of weights as our tree."""
    shapes = [(V, 4 * H), (H, 4 * H), (4 * H,), (H, 4 * H), (H, 4 * H), (4 * H,), (H, V), (V,)]
    leaves = [np.array(flat, np.float32).reshape(shape) for flat, shape in zip(weights, shapes, strict=True)]
    cells = [dict(zip(("kernel_x", "kernel_h", "bias"), leaves[n : n + 3], strict=True)) for n in (0, 3)]
    return {"params": {"lstm_0": cells[0], "lstm_1": cells[1], "head_kernel": leaves[6], "head_bias": leaves[7]}}
