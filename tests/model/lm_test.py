"""The model: its parameter tree, its carry, its head, its skip connections, its FLOPs."""

import re
from shutil import which
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.model.dropout import DropoutRates, Rate
from lovecraft_jax.model.lm import LanguageModel, forward, make_model
from lovecraft_jax.model.native.build import COMPILERS
from tests.helpers.trees import assert_close
from tests.helpers.untrained import random_variables

pytestmark = pytest.mark.usefixtures("unoptimized")

V, H, B, T = 11, 16, 3, 10

BACKENDS = ("fused", "native") if any(map(which, COMPILERS)) else ("fused",)

HEAD = {"head_kernel": (H, V), "head_bias": (V,)}
LSTM = {"lstm_0/kernel_x": (V, 4 * H), "lstm_0/kernel_h": (H, 4 * H), "lstm_0/bias": (4 * H,)}
LSTM |= {"lstm_1/kernel_x": (H, 4 * H), "lstm_1/kernel_h": (H, 4 * H), "lstm_1/bias": (4 * H,)}
GRU = {"gru_0/kernel_x": (V, 3 * H), "gru_0/kernel_h": (H, 3 * H), "gru_0/bias": (3 * H,), "gru_0/bias_h": (H,)}
GRU |= {"gru_1/kernel_x": (H, 3 * H), "gru_1/kernel_h": (H, 3 * H), "gru_1/bias": (3 * H,), "gru_1/bias_h": (H,)}
EMBEDDED = LSTM | {"embedding": (V, 6), "lstm_0/kernel_x": (6, 4 * H)}
TIED = LSTM | {"embedding": (V, H), "lstm_0/kernel_x": (H, 4 * H), "head_bias": (V,)}
SKIP = EMBEDDED | {"lstm_1/kernel_x": (H + 6, 4 * H), "head_kernel": (2 * H, V), "head_bias": (V,)}


@pytest.mark.parametrize(
    ("settings", "tree"),
    [
        ({}, LSTM | HEAD),
        ({"embed": 6}, EMBEDDED | HEAD),
        ({"embed": H, "tie": True}, TIED),
        ({"embed": 6, "skip": True}, SKIP),
        ({"cell": "gru"}, GRU | HEAD),
    ],
    ids=str,
)
def test_parameter_tree_is_the_one_that_checkpoints_rest_on(settings: dict[str, Any], tree: dict[str, tuple]) -> None:
    for backend in ("scan",) if settings.get("cell") == "gru" else ("scan", "fused"):
        variables = shapes_of(make(backend=backend, **settings))
        leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
        shapes = {"/".join(key.key for key in path): leaf.shape for path, leaf in leaves}
        assert variables.keys() == {"params"}
        assert shapes == tree, "checkpoints rest on this tree: a change of it needs a way to read the old ones"
        assert {leaf.dtype for _, leaf in leaves} == {np.dtype("float32")}


def test_every_setting_reaches_the_model() -> None:
    settings = {"layers": 3, "units": 7, "embed": 7, "tie": True, "forget_bias": 0.5, "norm": "layer", "remat": 2}
    variant = {"norm": "rms_gates", "input_gate": "capped", "init_scale": "unit"}
    for given in (settings, variant, {"cell": "gru", "skip": True}):
        model = make(dtype="bfloat16", **given)
        assert {name: getattr(model, name) for name in given} == given
        assert (model.vocab_size, model.backend, model.dtype) == (V, "scan", jnp.bfloat16)
    assert jax.tree.map(jnp.shape, make(layers=3).initial_carry(5)) == (((5, H), (5, H)),) * 3


def test_a_sequence_in_two_parts_with_the_carry_equals_the_whole() -> None:
    model, x_BT = make(), ids()
    variables, start = random_variables(model), model.initial_carry(B)
    carry, whole_BTV = run(model, variables, start, x_BT)
    middle, first_BTV = run(model, variables, start, x_BT[:, :4])
    last, second_BTV = run(model, variables, middle, x_BT[:, 4:])
    assert_close(np.concatenate([first_BTV, second_BTV], axis=1), whole_BTV)
    assert_close(last, carry)
    _, without_carry_BTV = run(model, variables, start, x_BT[:, 4:])
    assert np.max(np.abs(without_carry_BTV[:, 0] - whole_BTV[:, 4])) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"skip": True}, {"skip": True, "embed": 6}], ids=str)
def test_every_backend_gives_the_same_logits_and_gradients(settings: dict[str, Any]) -> None:
    scan, x_BT, rng = make(**settings), ids(), np.random.default_rng(1)
    variables = random_variables(scan)
    start = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), scan.initial_carry(B))
    rates = DropoutRates(*map(Rate.of, (0.3, 0.2, 0.5, 0.1, 0.4)))
    masks = scan.dropout_masks(jax.random.key(1), rates, B)

    def loss(variables: Any, start: Any, model: LanguageModel) -> jax.Array:
        carry, logits_BTV = run(model, variables, start, x_BT, masks)
        return jnp.sum(jnp.sin(logits_BTV)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(carry))

    gradients = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)
    expected = gradients(variables, start, scan)
    for backend in BACKENDS:
        assert_close(gradients(variables, start, scan.clone(backend=backend)), expected)


@pytest.mark.parametrize(("embed", "skip"), [(H, False), (6, False), (6, True)])
def test_tied_weights_are_the_embedding(embed: int, skip: bool) -> None:
    tied, untied = (make(embed=embed, skip=skip, tie=tie) for tie in (True, False))
    x_BT, variables = ids(), random_variables(tied)
    head_HV = variables["params"]["embedding"].T
    if embed != H:
        head_HV = variables["params"]["head_projection"] @ head_HV
    same = {"params": variables["params"] | {"head_kernel": head_HV}}
    start = tied.initial_carry(B)
    assert_close(run(tied, variables, start, x_BT), run(untied, same, start, x_BT))


@pytest.mark.slow
@pytest.mark.parametrize("embed", [0, 6])
def test_skip_connections_with_zero_weights_equal_none(cell_name: str, embed: int) -> None:
    skip, plain, x_BT = make(cell=cell_name, embed=embed, skip=True), make(cell=cell_name, embed=embed), ids()
    variables, upper = random_variables(plain), f"{cell_name}_1"
    params, rng = variables["params"], np.random.default_rng(1)
    token_DG = rng.normal(size=(embed or V, params[upper]["kernel_x"].shape[1]))
    lower_HV = rng.normal(size=(H, V))

    def result(scale: float) -> Any:
        kernel_x = np.concatenate([params[upper]["kernel_x"], np.float32(scale * token_DG)])
        head = np.concatenate([np.float32(scale * lower_HV), params["head_kernel"]])
        wider = params | {upper: params[upper] | {"kernel_x": kernel_x}, "head_kernel": head}
        return run(skip, {"params": wider}, skip.initial_carry(B), x_BT)

    expected = run(plain, variables, plain.initial_carry(B), x_BT)
    assert_close(result(0.0), expected)
    (lower, upper_carry), logits_BTV = result(1.0)
    assert_close(lower, expected[0][0])
    assert np.max(np.abs(jax.tree.leaves(upper_carry)[0] - jax.tree.leaves(expected[0][1])[0])) > 0.1
    assert np.max(np.abs(logits_BTV - expected[1])) > 0.1


def test_flops_per_token_are_two_per_weight_of_every_matmul() -> None:
    for settings in (
        {"embed": 6},
        {"embed": 6, "skip": True},
        {"embed": 6, "cell": "gru"},
        {"embed": H, "tie": True},
        {"embed": 6, "tie": True, "skip": True},
        {"embed": 6, "mogrify": 3},
    ):
        model = make(**settings)
        leaves = jax.tree_util.tree_leaves_with_path(shapes_of(model)["params"])
        weights = sum(
            leaf.size for path, leaf in leaves if re.search("kernel|projection|mogrify", jax.tree_util.keystr(path))
        )
        assert model.flops_per_token() == 2 * (weights + (settings["embed"] * V if model.tie else 0))
    difference = make(embed=6).flops_per_token() - make().flops_per_token()
    assert difference == 2 * 6 * 4 * H, "a one-hot input is a lookup"


def test_bfloat16_gives_float32_logits_and_carry_close_to_float32() -> None:
    model, x_BT = make(dtype="bfloat16"), ids()
    variables, start = random_variables(model), model.initial_carry(B)
    rounded, exact = run(model, variables, start, x_BT), run(make(), variables, start, x_BT)
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {np.dtype("float32")}
    assert_close(rounded, exact, relative=0.05)
    assert np.max(np.abs(rounded[1] - exact[1])) > 1e-4  # it does round


def make(**settings: Any) -> LanguageModel:
    """Two layers on one-hot input on the scan backend, changed by `settings`."""
    return make_model(Config.of(config_of(**settings)), V)


def config_of(**settings: Any) -> ConfigDict:
    config = tiny.get_config()
    config.model.update({"backend": "scan", "layers": 2, "units": H, "embed": 0} | settings)
    return config


def shapes_of(model: LanguageModel) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0), model.initial_carry(B), jnp.zeros((B, 1), jnp.int32))


run = jax.jit(forward, static_argnums=0)


def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(V, size=(B, T), dtype=np.uint8)
