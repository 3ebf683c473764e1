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
from tests.helpers.untrained import random_variables

needs_compiler = pytest.mark.skipif(not any(map(which, COMPILERS)), reason="no C++ compiler")
V, H, B, T, L = 11, 6, 3, 5, 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layers": 1, "embed": 4, "skip": True},
        {"embed": H, "tie": True},
        {"embed": 4, "tie": True, "skip": True},
        {"embed": 4, "softmax_head": 4, "cell": "gru"},
        {"embed": 4, "softmax_head": 4, "mogrify": 2},
        {"embed": 4, "softmax_head": 4, "tie": True, "dtype": jnp.dtype("bfloat16")},
        {"skip": True, "embed": 4, "norm": "batch_input"},
        {"backend": "fused", "embed": 4, "skip": True},
        {"skip": True, "embed": 4, "norm": "rms_gates", "input_gate": "capped"},
        {"backend": "fused", "norm": "layer_gates", "input_gate": "coupled"},
        {"backend": "fused", "skip": True, "embed": 4, "norm": "rms_gates", "mogrify": 3},
        {"cell": "gru", "skip": True},
        {"cell": "gru", "embed": 4, "dtype": jnp.dtype("bfloat16")},
        *[
            pytest.param({"backend": "native"} | more, marks=needs_compiler)
            for more in (
                {"embed": 4, "norm": "batch_input"},
                {"embed": 4, "skip": True, "input_gate": "coupled"},
                {"skip": True, "norm": "layer_gates"},
                {"embed": 4, "norm": "rms_gates", "input_gate": "capped"},
                {"embed": 4, "tie": True, "softmax_head": 4, "norm": "rms_gates"},
                {"embed": 4, "tie": True},
            )
        ],
    ],
)
def test_decoding_equals_forward(settings: dict[str, Any]) -> None:
    model = LanguageModel(**{"vocab_size": V, "layers": L, "units": H} | settings)
    variables, carry = random_variables(model, 0.7), model.initial_carry(B)
    x_BT = np.random.default_rng(1).integers(V, size=(B, T), dtype=np.int32)
    expected = jax.jit(forward, static_argnums=0)(model, variables, carry, x_BT)

    @jax.jit
    def one_by_one() -> Any:
        decoder = make_decoder(model, variables)
        assert isinstance(decoder, Folded) == (not model.mogrify)
        one = lambda carry, ids_B: decode(model, decoder, carry, ids_B)  # noqa: E731
        return jax.lax.scan(one, carry, x_BT.T)

    after, logits_TBV = one_by_one()
    assert_close((after, logits_TBV.swapaxes(0, 1)), expected, 0.02 if "dtype" in settings else 1e-5)
