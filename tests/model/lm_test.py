"""The model: its parameter tree, its carry, its dropout, its head."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.model.dropout import DropoutRates, Rate
from lovecraft_jax.model.lm import LanguageModel, forward, make_model
from tests.helpers.trees import assert_close

V, H, B, T = 11, 16, 3, 10

TREE = {
    "embed=0": {
        "lstm_0/kernel_x": (V, 4 * H),
        "lstm_0/kernel_h": (H, 4 * H),
        "lstm_0/bias": (4 * H,),
        "lstm_1/kernel_x": (H, 4 * H),
        "lstm_1/kernel_h": (H, 4 * H),
        "lstm_1/bias": (4 * H,),
        "head_kernel": (H, V),
        "head_bias": (V,),
    },
}
TREE["embed=6"] = TREE["embed=0"] | {"embedding": (V, 6), "lstm_0/kernel_x": (6, 4 * H)}
TREE["tie"] = TREE["embed=0"] | {"embedding": (V, H), "lstm_0/kernel_x": (H, 4 * H)}
del TREE["tie"]["head_kernel"]


@pytest.mark.parametrize(
    ("name", "settings"), [("embed=0", {}), ("embed=6", {"embed": 6}), ("tie", {"embed": H, "tie": True})]
)
def test_parameter_tree_is_the_promised_one(name: str, settings: dict[str, Any]) -> None:
    for backend in ("scan", "fused"):
        variables = shapes_of(make(backend=backend, **settings))
        leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
        shapes = {"/".join(key.key for key in path): leaf.shape for path, leaf in leaves}
        assert variables.keys() == {"params"}
        assert shapes == TREE[name], "checkpoints rest on this tree: a change of it needs a way to read the old ones"
        assert {leaf.dtype for _, leaf in leaves} == {np.dtype("float32")}


def test_every_setting_reaches_the_model() -> None:
    settings = {"layers": 3, "units": 7, "embed": 7, "tie": True, "forget_bias": 0.5, "norm": "layer", "remat": 2}
    model = make(backend="scan", dtype="bfloat16", **settings)
    assert {name: getattr(model, name) for name in settings} == settings
    assert (model.vocab_size, model.backend, model.dtype) == (V, "scan", jnp.bfloat16)
    assert jax.tree.map(jnp.shape, model.initial_carry(5)) == (((5, 7), (5, 7)),) * 3


@pytest.mark.parametrize("backend", ["scan", "fused"])
def test_a_split_sequence_with_the_carry_equals_the_whole(backend: str) -> None:
    model, x_BT = make(backend=backend), ids()
    variables, start = variables_of(model), model.initial_carry(B)
    carry, whole_BTV = run(model, variables, start, x_BT)
    middle, first_BTV = run(model, variables, start, x_BT[:, :4])
    last, second_BTV = run(model, variables, middle, x_BT[:, 4:])
    assert_close(np.concatenate([first_BTV, second_BTV], axis=1), whole_BTV)
    assert_close(last, carry)
    _, forgetful_BTV = run(model, variables, start, x_BT[:, 4:])
    assert np.max(np.abs(forgetful_BTV[:, 0] - whole_BTV[:, 4])) > 0.1


@pytest.mark.parametrize("backend", ["scan", "fused"])
def test_a_future_token_never_changes_a_past_logit(backend: str) -> None:
    model, x_BT = make(backend=backend), ids()
    variables, start = variables_of(model), model.initial_carry(B)
    changed_BT = x_BT.copy()
    changed_BT[:, 6] = (x_BT[:, 6] + 1) % V
    _, before_BTV = run(model, variables, start, x_BT)
    _, after_BTV = run(model, variables, start, changed_BT)
    np.testing.assert_array_equal(before_BTV[:, :6], after_BTV[:, :6])
    assert np.all(np.max(np.abs(before_BTV[:, 6:] - after_BTV[:, 6:]), axis=-1) > 0)


def test_scan_and_fused_give_the_same_logits_and_gradients() -> None:
    x_BT, variables = ids(), variables_of(make())

    def loss(variables: Any, backend: str) -> jax.Array:
        model = make(backend=backend)
        masks = model.dropout_masks(jax.random.key(1), DropoutRates(output=Rate.of(0.5)), B)
        carry, logits_BTV = run(model, variables, model.initial_carry(B), x_BT, masks)
        return jnp.sum(jnp.sin(logits_BTV)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(carry))

    scan, fused = (
        jax.jit(jax.value_and_grad(loss), static_argnums=1)(variables, backend) for backend in ("scan", "fused")
    )
    assert_close(fused, scan)


def test_tied_weights_are_the_embedding() -> None:
    tied, untied, x_BT = make(embed=H, tie=True), make(embed=H), ids()
    variables = variables_of(tied)
    same = {"params": variables["params"] | {"head_kernel": variables["params"]["embedding"].T}}
    start = tied.initial_carry(B)
    assert_close(run(tied, variables, start, x_BT), run(untied, same, start, x_BT))


def test_bfloat16_gives_float32_logits_and_carry_near_float32s() -> None:
    model, x_BT = make(dtype="bfloat16"), ids()
    variables, start = variables_of(model), model.initial_carry(B)
    rounded, exact = run(model, variables, start, x_BT), run(make(), variables, start, x_BT)
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {np.dtype("float32")}
    assert_close(rounded, exact, relative=0.05)
    assert np.max(np.abs(rounded[1] - exact[1])) > 1e-4  # it does round


def make(**settings: Any) -> LanguageModel:
    """Two layers on one-hot input, changed by `settings`."""
    config = tiny.get_config()
    plain = {"backend": "scan", "layers": 2, "units": H, "embed": 0}
    config.model.update(plain | settings)
    return make_model(config, V)


def shapes_of(model: LanguageModel) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0), model.initial_carry(B), jnp.zeros((B, 1), jnp.int32))


def variables_of(model: LanguageModel) -> Any:
    """Larger than a model starts with, so that what it remembers matters."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes_of(model))


run = jax.jit(forward, static_argnums=0)


def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(V, size=(B, T), dtype=np.uint8)
