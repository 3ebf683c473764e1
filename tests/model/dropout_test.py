"""Dropout masks: what each kind drops and how much, that rates are values in the program, and that bits stay."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model.dropout import NO_DROPOUT, DropoutMasks, DropoutRates, Rate
from lovecraft_jax.model.lm import LanguageModel, forward, make_model
from lovecraft_jax.runtime.mesh import REPLICATED, make_mesh, sharding
from lovecraft_jax.training.compiled import make_program
from lovecraft_jax.training.cpu_devices import core_devices, make_core_steps, put_rows
from lovecraft_jax.training.optimizer import make_optimizer
from lovecraft_jax.training.step import make_gradient, make_train_step, make_train_steps
from tests.helpers.trees import assert_close, on_host

pytestmark = pytest.mark.slow

V, H, B, T, L = 11, 8, 4, 6, 2
KINDS = DropoutRates._fields
BACKENDS = {"embedding": "fused", "input": "fused", "recurrent": "scan", "output": "fused", "weights": "fused"}
each_kind = pytest.mark.parametrize("kind", KINDS)


def test_config_sets_the_rates_of_input_and_output() -> None:
    config = tiny.get_config()
    config.model.update({"dropout_input": 0.25, "dropout": 0.0})
    rates = DropoutRates.of(Config.of(config).model)
    assert rates == DropoutRates(input=Rate(0.75, np.float32(4 / 3)))
    models = [make_model(Config.of(given), V) for given in (config, tiny.get_config())]
    assert models[0] == models[1], "programs are compiled for the model, so that it must not contain the rates"


def test_every_kind_has_its_shape_and_is_there_only_with_a_rate(cell_name: str) -> None:
    model = make(cell=cell_name)
    G = {"lstm": 4, "gru": 3}[cell_name] * H
    shapes = DropoutMasks((V,), (B, V), ((B, H),) * L, ((B, H),) * L, ((H, G),) * L)  # type: ignore[arg-type]
    for kind in KINDS:
        masks = draw(model, **{kind: 0.5})
        assert jax.tree.map(jnp.shape, masks) == NO_DROPOUT._replace(**{kind: getattr(shapes, kind)})
    assert draw(make(embed=3), input=0.5).input.shape == (B, 3)


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


@each_kind
def test_masks_keep_their_share_scaled_and_differ_by_layer_row_and_step(kind: str) -> None:
    model, rows = make(vocab_size=1000, units=40), 1000
    for rate in (0.25, 0.8):
        masks = jax.tree.leaves(draw(model, rows, **{kind: rate}))
        assert len(masks) == (1 if kind in ("embedding", "input") else L)
        for mask in masks:
            np.testing.assert_allclose(np.unique(mask), [0, 1 / (1 - rate)], rtol=1e-6)
            deviation = (rate * (1 - rate) / mask.size) ** 0.5
            assert abs(np.mean(mask == 0) - rate) < 4 * deviation
        assert len(masks) == 1 or np.any(masks[0] != masks[1])
        assert kind == "embedding" or np.any(masks[0][0] != masks[0][1])
        other = jax.tree.leaves(draw(model, rows, seed=1, **{kind: rate}))
        assert np.any(masks[0] != other[0])


def test_no_two_masks_share_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, bernoulli = [], jax.random.bernoulli

    def record(key: jax.Array, *rest: Any) -> jax.Array:
        keys.append(jax.random.key_data(key).tobytes())
        return bernoulli(key, *rest)

    monkeypatch.setattr(jax.random, "bernoulli", record)
    draw(make(layers=6), **dict.fromkeys(KINDS, 0.5))
    assert len(set(keys)) == len(keys) == 2 + 3 * 6


@each_kind
def test_the_rate_is_a_value_in_the_program_and_only_on_and_off_are_static(kind: str) -> None:
    model, variables, x_BT = make(backend=BACKENDS[kind]), variables_of(make()), ids()
    traced = []

    @jax.jit
    def logits(rates: DropoutRates) -> jax.Array:
        traced.append(rates)
        masks = model.dropout_masks(jax.random.key(0), rates, B)
        return forward(model, variables, model.initial_carry(B), x_BT, masks)[1]

    different = [logits(DropoutRates(**{kind: Rate.of(rate)})) for rate in (0.2, 0.5)]
    assert len(traced) == 1
    off = logits(DropoutRates())
    assert len(traced) == 2
    assert len({np.asarray(result).tobytes() for result in (*different, off)}) == 3
    kept = logits(DropoutRates(**{kind: Rate(np.float32(1), np.float32(1))}))
    assert_close(kept, off)


@pytest.mark.parametrize("embed", [0, 5])
def test_an_embedding_mask_drops_all_occurrences_of_a_token(embed: int) -> None:
    model, x_BT = make(embed=embed, layers=1), ids()
    variables = variables_of(model)
    mask_V = jnp.ones(V).at[2].set(0.0).at[3].set(3.0)
    rows = variables["params"]["embedding"] if embed else jnp.eye(V)
    # The same as changing the rows themselves, through a model with an embedding.
    explicit = make(embed=embed or V, layers=1)
    changed = {"params": variables["params"] | {"embedding": rows * mask_V[:, None]}}
    expected = run(explicit, changed, model.initial_carry(B), x_BT)
    for backend in ("scan", "fused"):
        given = model.clone(backend=backend), variables, model.initial_carry(B), x_BT, DropoutMasks(embedding=mask_V)
        assert_close(run(*given), expected)
        only_these = jnp.full((B, embed or V), 1.0)  # the embedding's mask times one on the input
        assert_close(run(*given[:4], DropoutMasks(embedding=mask_V, input=only_these)), expected)


@pytest.mark.parametrize("embed", [0, 5])
def test_an_input_mask_scales_the_columns_of_its_rows_input(embed: int) -> None:
    model, x_BT = make(embed=embed, layers=1), ids()
    variables = variables_of(model)
    mask_BD = draw(model, input=0.5).input
    result = run(model, variables, model.initial_carry(B), x_BT, DropoutMasks(input=mask_BD))[1]
    kernel_x = variables["params"]["lstm_0"]["kernel_x"]
    for b in range(B):
        scaled = {"kernel_x": kernel_x * mask_BD[b][:, None]}
        params = variables["params"] | {"lstm_0": variables["params"]["lstm_0"] | scaled}
        _, expected = run(model, {"params": params}, model.initial_carry(1), x_BT[b : b + 1])
        assert_close(result[b], expected[0])


def test_a_recurrent_mask_scales_h_before_the_matmul_and_not_the_carry(cell_name: str) -> None:
    model, x_BT = make(cell=cell_name, layers=1), ids()
    variables, (mask_BH,) = variables_of(model), draw(model, recurrent=0.5).recurrent
    carry, logits = run(model, variables, model.initial_carry(B), x_BT, DropoutMasks(recurrent=(mask_BH,)))
    layer = variables["params"][f"{cell_name}_0"]
    for b in range(B):
        scaled = {"kernel_h": layer["kernel_h"] * mask_BH[b][:, None]}
        params = {"params": variables["params"] | {f"{cell_name}_0": layer | scaled}}
        expected_carry, expected = run(model, params, model.initial_carry(1), x_BT[b : b + 1])
        assert_close(logits[b], expected[0])
        assert_close(jax.tree.map(lambda leaf, b=b: leaf[b : b + 1], carry), expected_carry)


@pytest.mark.parametrize("backend", ["fused", "native", "cudnn"])
def test_a_recurrent_mask_needs_the_scan_backend(backend: str) -> None:
    model, x_BT = make(backend=backend), ids()
    with pytest.raises(ValueError, match=f"backend='{backend}' has no dropout on the recurrent input; use 'scan'"):
        run(model, variables_of(make()), model.initial_carry(B), x_BT, draw(model, recurrent=0.5))


def test_an_output_mask_holds_for_the_whole_window_and_not_for_the_carry() -> None:
    model, x_BT = make(), ids()
    variables, start = variables_of(model), model.initial_carry(B)
    kernel_HV = variables["params"]["head_kernel"]
    carry, plain_BTV = run(model, variables, start, x_BT)
    only_unit_2 = jnp.ones((B, H)).at[0].set(0.0).at[0, 2].set(3.0)
    masks = DropoutMasks(output=(jnp.ones((B, H)), only_unit_2))
    masked_carry, masked_BTV = run(model, variables, start, x_BT, masks)
    assert_close(masked_carry, carry)
    assert_close(masked_BTV[1:], plain_BTV[1:])
    # At every time step the logits of row 0 are a multiple of that unit's row of the head.
    from_units_TV = masked_BTV[0] - variables["params"]["head_bias"][None]
    h_T = from_units_TV @ kernel_HV[2] / np.sum(kernel_HV[2] ** 2)
    assert_close(from_units_TV, np.outer(h_T, kernel_HV[2]))
    assert_close(h_T[-1], 3 * carry[1][1][0, 2])


def test_a_weight_mask_scales_the_recurrent_kernel_on_every_backend(cell_name: str) -> None:
    model, x_BT = make(cell=cell_name), ids()
    variables, masks = variables_of(model), draw(model, weights=0.5)
    dropped = {
        f"{cell_name}_{n}": variables["params"][f"{cell_name}_{n}"] | {"kernel_h": mask_HG * layer["kernel_h"]}
        for n, mask_HG in enumerate(masks.weights)
        for layer in [variables["params"][f"{cell_name}_{n}"]]
    }
    expected = run(model, {"params": variables["params"] | dropped}, model.initial_carry(B), x_BT)
    for backend in ("scan", "fused") if cell_name == "lstm" else ("scan",):
        assert_close(run(model.clone(backend=backend), variables, model.initial_carry(B), x_BT, masks), expected)


@pytest.mark.parametrize("kinds", [("embedding", "input", "recurrent", "output", "weights"), ("weights",)])
def test_gradients_with_masks_are_those_of_chunks_of_time_too(kinds: tuple[str, ...]) -> None:
    model, x_BT = make(), ids()
    variables, masks = variables_of(model), draw(model, **dict.fromkeys(kinds, 0.5))
    batch = Batch(x_BT, (x_BT + 1) % V, np.ones((B, T), np.uint8), np.zeros(B, bool))
    results = [
        jax.jit(make_gradient(model.clone(remat=remat)))(variables, model.initial_carry(B), batch, masks)
        for remat in (0, 3)
    ]
    assert_close(*results)
    undropped = make_gradient(model)(variables, model.initial_carry(B), batch, NO_DROPOUT)
    assert abs(results[0][0].nats - undropped[0].nats) > 1e-3


@pytest.mark.parametrize("devices", [8, "cores"])
def test_a_step_with_every_kind_does_not_depend_on_the_devices(cell_name: str, devices: int | str) -> None:
    config, rates = tiny.get_config(), DropoutRates(*map(Rate.of, (0.1, 0.2, 0.3, 0.4, 0.5)))
    config.model.update({"backend": "scan", "cell": cell_name, "skip": True})
    program = make_program(config, V, 40)
    x_BT = np.random.default_rng(0).integers(V, size=(8, T), dtype=np.uint8)
    optimizer, state = make_optimizer(Config.of(config).optimizer, 40), program.init(0)
    batch = Batch(x_BT, x_BT[::-1], np.ones((8, T), np.uint8), np.zeros(8, bool))
    batches = Batch(*(leaf[None] for leaf in batch))

    def after(count: int) -> Any:
        mesh = make_mesh(8, jax.devices()[:count])
        step = jax.jit(make_train_steps(make_train_step(program.model, optimizer, mesh)))
        return on_host(step(jax.device_put(state, sharding(mesh, REPLICATED)), batches, rates))

    if devices == "cores":
        cores = core_devices(2)
        steps = make_core_steps(program.model, optimizer, program.target, cores, rates, None)
        result = on_host(steps(state, put_rows(cores, batches)))
    else:
        result = after(8)
    assert_close(result, after(1))


def make(**settings: Any) -> LanguageModel:
    given = {"vocab_size": V, "layers": L, "units": H} | settings
    return LanguageModel(**given)


def draw(model: LanguageModel, rows: int = B, seed: int = 0, **rates: float) -> Any:
    return model.dropout_masks(
        jax.random.key(seed), DropoutRates(**{kind: Rate.of(rate) for kind, rate in rates.items()}), rows
    )


def variables_of(model: LanguageModel) -> Any:
    """Larger than a model starts with, so that what it remembers matters."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.initial_carry(B), jnp.zeros((B, 1), jnp.int32))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.7, leaf.shape).astype(np.float32), shapes)


run = jax.jit(forward, static_argnums=0)


def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(V, size=(B, T), dtype=np.uint8)
