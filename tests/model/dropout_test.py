"""Dropout masks: what each kind drops and how much, that rates are values in the program, and that bits stay."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model.dropout import NO_DROPOUT, DropoutRates, Rate
from lovecraft_jax.model.lm import LanguageModel, forward, make_model
from lovecraft_jax.runtime.mesh import REPLICATED, make_mesh, sharding
from lovecraft_jax.training.compiled import make_program
from lovecraft_jax.training.optimizer import make_optimizer
from lovecraft_jax.training.step import make_gradient, make_train_step, make_train_steps
from tests.helpers.trees import assert_close, on_host
from tests.helpers.untrained import random_variables

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]

V, H, B, T, L = 11, 8, 4, 6, 2
KINDS = DropoutRates._fields
SETTINGS = {kind: f"dropout_{kind}" for kind in KINDS} | {"output": "dropout"}


def test_config_sets_the_rate_of_each_kind() -> None:
    config, off = tiny.get_config(), {name: 0.0 for name in SETTINGS.values()}
    for kind in KINDS:
        config.model.update(off | {SETTINGS[kind]: 0.25})
        assert DropoutRates.of(Config.of(config).model) == DropoutRates(**{kind: Rate(0.75, np.float32(4 / 3))})
    models = [make_model(Config.of(given), V) for given in (config, tiny.get_config())]
    assert models[0] == models[1], "programs are compiled for the model, so that it must not contain the rates"


def test_input_and_output_masks_keep_the_bits_that_runs_have_rested_on() -> None:
    """As they were drawn before there were other kinds, from a rate written into the program."""
    rng, rates = jax.random.key(7), [0.3, 0.118, 0.118]
    expected = [
        jnp.where(jax.random.bernoulli(key, 1 - rate, (100, width)), 1 / (1 - rate), 0.0)
        for key, rate, width in zip(jax.random.split(rng, 3), rates, (V, H, H), strict=True)
    ]
    model, given = make(), DropoutRates(input=Rate.of(0.3), output=Rate.of(0.118))
    masks = jax.jit(lambda rates: model.dropout_masks(rng, rates, 100))(given)
    jax.tree.map(np.testing.assert_array_equal, [masks.input, *masks.output], expected)
    more = model.dropout_masks(rng, DropoutRates(*(rate or Rate.of(0.5) for rate in given)), 100)
    jax.tree.map(np.testing.assert_array_equal, [more.input, *more.output], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_keep_their_share_scaled_and_differ_between_rows(kind: str) -> None:
    model, rows = make(vocab_size=1000, units=40), 1000
    for rate in (0.25, 0.8):
        for mask in jax.tree.leaves(draw(model, rows, **{kind: rate})):
            np.testing.assert_allclose(np.unique(mask), [0, 1 / (1 - rate)], rtol=1e-6)
            deviation = (rate * (1 - rate) / mask.size) ** 0.5
            assert abs(np.mean(mask == 0) - rate) < 4 * deviation
            assert kind == "embedding" or np.any(mask[0] != mask[1])


def test_no_two_masks_share_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, bernoulli = [], jax.random.bernoulli

    def record(key: jax.Array, *rest: Any) -> jax.Array:
        keys.append(jax.random.key_data(key).tobytes())
        return bernoulli(key, *rest)

    monkeypatch.setattr(jax.random, "bernoulli", record)
    draw(make(layers=6), **dict.fromkeys(KINDS, 0.5))
    assert len(set(keys)) == len(keys) == 2 + 3 * 6


def test_rates_are_values_in_the_program_and_only_on_and_off_are_static() -> None:
    model, variables, x_BT = make(), random_variables(make()), ids()
    traced = []

    @jax.jit
    def logits(rates: DropoutRates) -> jax.Array:
        traced.append(rates)
        masks = model.dropout_masks(jax.random.key(0), rates, B)
        return forward(model, variables, model.initial_carry(B), x_BT, masks)[1]

    different = [logits(DropoutRates(*[Rate.of(rate)] * len(KINDS))) for rate in (0.2, 0.5)]
    assert len(traced) == 1
    off = logits(DropoutRates())
    assert len(traced) == 2
    assert len({np.asarray(result).tobytes() for result in (*different, off)}) == 3
    assert_close(logits(DropoutRates(*[Rate(np.float32(1), np.float32(1))] * len(KINDS))), off)


@pytest.mark.parametrize("embed", [0, 5])
def test_an_embedding_mask_drops_all_occurrences_of_a_token(embed: int) -> None:
    model, x_BT = make(embed=embed, layers=1), ids()
    variables = random_variables(model)
    mask_V = jnp.ones(V).at[2].set(0.0).at[3].set(3.0)
    rows = variables["params"]["embedding"] if embed else jnp.eye(V)
    # The same as changing the rows themselves, through a model with an embedding.
    explicit = make(embed=embed or V, layers=1)
    changed = {"params": variables["params"] | {"embedding": rows * mask_V[:, None]}}
    for masks in (NO_DROPOUT, draw(model, input=0.5)):
        expected = run(explicit, changed, model.initial_carry(B), x_BT, masks)
        given = variables, model.initial_carry(B), x_BT, masks._replace(embedding=mask_V)
        assert_close(run(model, *given), expected)


@pytest.mark.parametrize(
    ("kind", "kernel", "settings"),
    [
        ("input", "kernel_x", {}),
        ("input", "kernel_x", {"embed": 5}),
        ("recurrent", "kernel_h", {}),
        ("recurrent", "kernel_h", {"backend": "fused"}),
        ("recurrent", "kernel_h", {"cell": "gru"}),
        ("weights", "kernel_h", {"backend": "fused"}),
        ("weights", "kernel_h", {"cell": "gru"}),
        ("output", "kernel_x", {}),  # of the layer above, and the head's
        ("output", "kernel_x", {"backend": "fused"}),
    ],
    ids=str,
)
def test_a_mask_scales_the_kernel_of_its_matmul_for_its_row_and_not_the_carry(
    kind: str, kernel: str, settings: dict[str, Any]
) -> None:
    model, x_BT = make(**settings), ids()
    variables, masks = random_variables(model), draw(model, **{kind: 0.5})
    carry, logits = run(model, variables, model.initial_carry(B), x_BT, masks)
    for b in range(B):
        params = dict(variables["params"])
        for layer, mask in enumerate(jax.tree.leaves(masks), start=kind == "output"):
            name, scale = f"{model.cell}_{layer}", mask if kind == "weights" else mask[b][:, None]
            if layer < L:
                params[name] = params[name] | {kernel: params[name][kernel] * scale}
            else:
                params["head_kernel"] = params["head_kernel"] * scale
        expected_carry, expected = run(model, {"params": params}, model.initial_carry(1), x_BT[b : b + 1])
        assert_close(logits[b], expected[0])
        assert_close(jax.tree.map(lambda leaf, b=b: leaf[b : b + 1], carry), expected_carry)


@pytest.mark.parametrize(
    ("backend", "settings"), [("scan", {}), ("fused", {}), ("fused", {"embed": 5, "skip": True, "mogrify": 3})]
)
def test_gradients_with_masks_are_those_of_chunks_of_time_too(backend: str, settings: dict[str, Any]) -> None:
    model, x_BT = make(**settings), ids()
    variables, masks = random_variables(model), jax.jit(lambda: draw(model, **dict.fromkeys(KINDS, 0.5)))()
    batch = Batch(x_BT, (x_BT + 1) % V, np.ones((B, T), np.uint8), np.zeros(B, bool))
    results = [
        jax.jit(make_gradient(each))(variables, model.initial_carry(B), batch, masks)
        for each in (model.clone(remat=3, backend=backend), model)
    ]
    assert_close(*results)
    undropped = jax.jit(lambda *given: make_gradient(model)(*given)[0].nats)
    assert abs(results[0][0].nats - undropped(variables, model.initial_carry(B), batch, NO_DROPOUT)) > 1e-3


def test_a_step_with_every_kind_does_not_depend_on_the_devices() -> None:
    config, rates = tiny.get_config(), DropoutRates(*map(Rate.of, (0.1, 0.2, 0.3, 0.4, 0.5)))
    config.model.update({"backend": "scan", "skip": True})
    program = make_program(config, V, 40)
    x_BT = np.random.default_rng(0).integers(V, size=(8, T), dtype=np.uint8)
    optimizer, state = make_optimizer(Config.of(config).optimizer, 40), program.init(0)
    batch = Batch(x_BT, x_BT[::-1], np.ones((8, T), np.uint8), np.zeros(8, bool))
    batches = Batch(*(leaf[None] for leaf in batch))

    def after(count: int) -> Any:
        mesh = make_mesh(8, jax.devices()[:count])
        step = jax.jit(make_train_steps(make_train_step(program.model, optimizer, mesh)))
        return on_host(step(jax.device_put(state, sharding(mesh, REPLICATED)), batches, rates))

    assert_close(after(8), after(1))


def make(**settings: Any) -> LanguageModel:
    given = {"vocab_size": V, "layers": L, "units": H} | settings
    return LanguageModel(**given)


def draw(model: LanguageModel, rows: int = B, seed: int = 0, **rates: float) -> Any:
    return model.dropout_masks(
        jax.random.key(seed), DropoutRates(**{kind: Rate.of(rate) for kind, rate in rates.items()}), rows
    )


run = jax.jit(forward, static_argnums=0)


def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(V, size=(B, T), dtype=np.uint8)
