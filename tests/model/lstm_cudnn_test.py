"""The cuDNN backend: refused where there is no NVIDIA GPU; the same values and gradients as the fused layer.

The call itself needs such a GPU. Here JAX's reference for it, which takes the same packed weights, stands in.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn
from ml_collections import ConfigDict

from lovecraft_jax.config import Config
from lovecraft_jax.model import lstm_cudnn
from lovecraft_jax.model.dropout import NO_DROPOUT, DropoutRates, Rate
from lovecraft_jax.model.lm import make_model
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.training.compiled import make_program
from tests.helpers.trees import assert_close


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """jax.experimental.rnn.lstm_ref in place of the GPU's."""

    def lstm(x: Any, h: Any, c: Any, weights: Any, lengths: Any, D: int, H: int, *rest: Any, **precision: Any) -> Any:
        assert precision == {"precision": jax.lax.Precision.HIGHEST}
        layers, dropout, bidirectional = rest
        unpacked = rnn.unpack_lstm_weights(weights, D, H, layers, bidirectional)
        return rnn.lstm_ref(x, h, c, *unpacked, lengths, D, H, layers, dropout, bidirectional)

    monkeypatch.setattr(lstm_cudnn.rnn, "lstm", lstm)


@pytest.mark.slow
@pytest.mark.parametrize(("embed", "skip", "masked"), [(0, False, False), (5, True, True)])
def test_a_model_on_cudnn_equals_one_on_fused(
    reference: None, config: ConfigDict, embed: int, skip: bool, masked: bool
) -> None:
    config.model.update({"embed": embed, "skip": skip, "units": 6, "backend": "cudnn"})
    model = make_model(config, 11)
    rng = np.random.default_rng(0)
    x_BT = rng.integers(11, size=(3, 7), dtype=np.int32)
    carry = jax.tree.map(lambda c: rng.normal(size=c.shape).astype(np.float32), model.initial_carry(3))
    variables = model.init(jax.random.key(0), model.initial_carry(3), x_BT)
    rates = DropoutRates(Rate.of(0.3), Rate.of(0.2), None, Rate.of(0.1), Rate.of(0.4))
    masks = model.dropout_masks(jax.random.key(1), rates, 3) if masked else NO_DROPOUT

    def loss(model: Any, variables: Any, carry: Any) -> jax.Array:
        after, logits_BTV = model.apply(variables, carry, x_BT, masks)
        return jnp.sum(jnp.sin(logits_BTV)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(after))

    with jax.numpy_rank_promotion("allow"):  # the reference adds [H] to [B, H]
        cudnn_s = jax.value_and_grad(loss, (1, 2))(model, variables, carry)
    fused = jax.value_and_grad(loss, (1, 2))(model.clone(backend="fused"), variables, carry)
    assert_close(cudnn_s, fused)


def test_without_an_nvidia_gpu_cudnn_is_refused(config: ConfigDict) -> None:
    config.model.backend = "cudnn"
    Config.of(config)
    with pytest.raises(UserError, match=r"'cudnn': needs an NVIDIA GPU, found cpu .*use fused"):
        make_program(config, 11, 40)
    config.model.dtype = "bfloat16"
    with pytest.raises(UserError, match="float32 only"):
        Config.of(config)
