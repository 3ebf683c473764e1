"""The normalisations against a loop over Flax's own. Their statistics are the whole batch's, in evaluation nobody's."""

import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from configs import tiny
from lovecraft_jax import native, settings
from lovecraft_jax.batches import Batch
from lovecraft_jax.checkpoint import Checkpoints
from lovecraft_jax.decode import decode, make_decoder
from lovecraft_jax.errors import UserError
from lovecraft_jax.lstm import LSTMCell, run_layer
from lovecraft_jax.mesh import BY_ROW, BY_ROW_STACKED, REPLICATED, by_rows, cores_that_pay, make_mesh, total
from lovecraft_jax.model import LSTMLM, forward, make_model
from lovecraft_jax.optimizer import make_optimizer
from lovecraft_jax.program import Program, make_program
from lovecraft_jax.state import TrainState
from lovecraft_jax.step import make_gradient, make_train_step
from tests.trees import assert_close, on_host

T, B, D, H, V, TOTAL = 5, 8, 4, 3, 11, 100
NORMS = ("layer", "batch_input", "batch")
PARTS = {"layer": {}, "batch_input": {"x": 4 * H}, "batch": {"x": 4 * H, "h": 4 * H, "c": H}}

Arrays = dict[str, Any]
each_norm = pytest.mark.parametrize("norm", NORMS)


@pytest.mark.parametrize(
    ("norm", "lstm", "devices"),
    [
        ("layer", "scan", 1),
        ("batch", "scan", 1),
        ("batch", "scan", 8),
        ("batch_input", "scan", 8),
        ("batch_input", "fused", 1),
        ("batch_input", native.fastest(tiny.get_config().model), 1),
    ],
)
def test_value_gradients_and_statistics_equal_a_loop_over_flaxs_norms(norm: str, lstm: str, devices: int) -> None:
    params, statistics, inputs, cotangents = draw(norm)
    cell = LSTMCell(D, H, norm=norm)

    def of_rows(params: Arrays, inputs: Arrays, cotangents: Any) -> Any:
        def result(params: Arrays, inputs: Arrays) -> Any:
            variables = {"params": params, **statistics}
            return cell.apply(variables, inputs, lstm, method=layer, mutable=["batch_stats"])

        outputs, pull, changed = jax.vjp(result, params, inputs, has_aux=True)
        param_grads, input_grads = pull(cotangents)
        return outputs, total(param_grads), input_grads, changed

    rows = {"x": BY_ROW_STACKED, "c": BY_ROW, "h": BY_ROW}, ((BY_ROW, BY_ROW), BY_ROW_STACKED)
    sharded = by_rows(
        make_mesh(B, jax.devices()[:devices]),
        of_rows,
        in_specs=(REPLICATED, *rows),
        out_specs=(rows[1], REPLICATED, rows[0], REPLICATED),
    )
    outputs, param_grads, input_grads, changed = jax.jit(sharded)(params, inputs, cotangents)
    expected, pull, found = jax.vjp(lambda *given: reference(norm, *given), params, inputs, has_aux=True)
    assert_close(outputs, expected)
    assert_close((param_grads, input_grads), pull(cotangents))
    expected_after = {
        name: 0.99 * before + 0.01 * np.mean(found[name], axis=0)
        for name, before in statistics.get("batch_stats", {}).items()
    }
    assert_close(changed.get("batch_stats", {}), expected_after)


@each_norm
def test_evaluation_equals_the_loop_with_the_running_statistics(norm: str) -> None:
    params, statistics, inputs, _ = draw(norm)
    outputs = LSTMCell(D, H, norm=norm).apply({"params": params, **statistics}, inputs, method=layer)
    assert_close(outputs, reference(norm, params, inputs, statistics.get("batch_stats"))[0])


@each_norm
def test_in_evaluation_no_row_sees_another_and_no_token_a_later_one(norm: str) -> None:
    model, variables = drawn(norm)
    x_BT, carry = tokens(0), jax.tree.map(jnp.ones_like, model.initial_carry(B))
    other_rows, later = x_BT.copy(), x_BT.copy()
    other_rows[1:] = tokens(1)[1:]
    later[:, 3:] = tokens(1)[:, 3:]
    logits, of_other_rows, of_later = (forward(model, variables, carry, x)[1] for x in (x_BT, other_rows, later))
    np.testing.assert_array_equal(of_other_rows[0], logits[0])
    np.testing.assert_array_equal(of_later[:, :3], logits[:, :3])
    assert np.abs(of_other_rows[1:] - logits[1:]).max() > 0.1
    assert np.abs(of_later[:, 3:] - logits[:, 3:]).max() > 0.1


@pytest.mark.parametrize(("norm", "lstm"), [*((norm, "") for norm in NORMS), ("batch_input", "fused")])
def test_one_token_at_a_time_gives_what_a_text_at_once_does(norm: str, lstm: str) -> None:
    model, variables = drawn(norm, lstm, embed=6, layers=2)
    carry = model.initial_carry(B)
    expected = forward(model, variables, carry, tokens(0))
    logits, decoder = [], make_decoder(model, variables)
    for ids_B in tokens(0).T.astype(np.int32):
        carry, logits_BV = decode(model, decoder, carry, ids_B)
        logits.append(logits_BV)
    assert_close((carry, np.stack(logits, axis=1)), expected)


@pytest.fixture(scope="module", params=settings.OF_BATCH)
def program(request: pytest.FixtureRequest) -> Program:
    """Dispatches of two steps over eight devices."""
    return make_program(settings_of(request.param), V, TOTAL)


def test_two_seeds_side_by_side_on_one_device_equal_each_alone_on_eight(program: Program) -> None:
    optimizer, device = make_optimizer(settings_of("batch").optimizer, TOTAL), jax.devices()[0]
    train_step = make_train_step(program.model, optimizer, make_mesh(B, [device]))
    states = jax.device_put([program.init(seed) for seed in (0, 1)], device)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    step = jax.jit(jax.vmap(train_step, in_axes=(0, None, None)))
    for n in (0, 1):
        both, _ = step(both, batch(n), np.True_)
    alone = [train(program, program.init(seed), batch(0), batch(1))[0] for seed in (0, 1)]
    # Adam makes much of roundings where a gradient is next to nothing, as that of a mean that is taken away is.
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *map(on_host, alone))
    assert_close(on_host(both), expected, relative=1e-4)


def test_a_step_that_is_not_finite_leaves_the_statistics(program: Program) -> None:
    before = on_host(program.init(0))
    dead = batch(9)._replace(weight_BT=np.zeros((B, T), np.uint8))  # 0 / 0
    state, metrics = train(program, program.init(0), dead, batch(0))
    assert metrics["finite"].tolist() == [False, True]
    jax.tree.map(np.testing.assert_array_equal, on_host(state), before)
    state, _ = train(program, program.init(0), batch(0), dead)
    for leaf, first in zip(*(jax.tree.leaves(of.variables["batch_stats"]) for of in (state, before)), strict=True):
        assert np.all(leaf != first)


def test_training_goes_on_from_a_checkpoint_to_the_last_bit(program: Program, tmp_path: Path) -> None:
    state, _ = train(program, program.init(0), batch(0), batch(1))
    checkpoints = Checkpoints(epath.Path(tmp_path))
    checkpoints.save(2, state, {})
    restored = checkpoints.restore_newest(program.target)
    checkpoints.close()
    assert restored is not None
    states = [on_host(train(program, start, batch(2), batch(3))[0]) for start in (restored.state, state)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_chunks_of_time_computed_again_give_the_same_under_layer_norm() -> None:
    results = []
    for remat in (0, 1):
        model, variables = drawn("layer", remat=remat)
        results.append(jax.jit(make_gradient(model))(variables, model.initial_carry(B), batch(0), ()))
    assert_close(*map(on_host, results))


@pytest.mark.parametrize(
    ("norm", "key", "value"),
    [
        ("layer", "lstm", "native"),
        ("batch", "lstm", "fused"),
        ("batch_input", "lstm", "cudnn"),
        ("batch_input", "remat", 4),
        ("batch", "remat", 4),
    ],
)
def test_what_cannot_be_had_with_a_norm_is_refused(norm: str, key: str, value: Any) -> None:
    settings.check(settings_of(norm))
    with pytest.raises(UserError, match=f"config.model.{key}={value!r} with norm={norm!r}"):
        settings.check(settings_of(norm, **{f"model.{key}": value}))


def test_batch_norms_take_one_device_of_a_cpu_or_a_collective(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    config = settings_of("batch", **{"model.units": 150, "data.batch_size": 64, "data.seq_len": 50})
    assert cores_that_pay(config) == 1
    config.model.norm = "layer"
    assert cores_that_pay(config) == 6
    config.model.norm = "batch"
    with pytest.raises(UserError, match="norm='batch' on 2 cores"):
        make_program(config, V, TOTAL, cores=2)
    assert make_program(settings_of("layer"), V, TOTAL, cores=2).model.lstm == "scan"


RNG = jax.random.key(5)


def draw(norm: str, seed: int = 0) -> tuple[Arrays, Arrays, Arrays, Any]:
    """A layer's parameters, running statistics, inputs, and the cotangents of all that comes out."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    params = {"kernel_x": normal(D, 4 * H), "kernel_h": normal(H, 4 * H), "bias": normal(4 * H)}
    params |= {"scale_x": normal(4 * H)}
    if norm != "batch_input":
        params |= {"scale_h": normal(4 * H), "scale_c": normal(H), "shift_c": normal(H)}
    found = {f"mean_{part}": normal(width) for part, width in PARTS[norm].items()}
    found |= {f"variance_{part}": normal(width) ** 2 + 0.5 for part, width in PARTS[norm].items()}
    inputs = {"x": normal(T, B, D), "c": normal(B, H), "h": normal(B, H)}
    cotangents = (normal(B, H), normal(B, H)), normal(T, B, H)
    return params, {"batch_stats": found} if found else {}, inputs, cotangents


def layer(cell: LSTMCell, inputs: Arrays, lstm: str = "scan") -> Any:
    return run_layer(cell, (inputs["c"], inputs["h"]), cell.project(inputs["x"]), lstm)


def reference(norm: str, params: Arrays, inputs: Arrays, running: Arrays | None = None) -> Any:
    """((c, h), outputs) by a loop, with `running` statistics where given; and what each norm found, [T or 1, F]."""
    found: dict[str, list] = {}

    def normal(part: str, z: jax.Array) -> jax.Array:
        scale: Any = {"params": {"scale": params[f"scale_{part}"]}}
        if norm == "layer":
            result: Any = nn.LayerNorm(epsilon=1e-5, use_bias=False).apply(scale, z)
            return result
        width = z.shape[-1]
        mean, variance = (running[f"{kind}_{part}"] if running else jnp.zeros(width) for kind in ("mean", "variance"))
        module = nn.BatchNorm(running is not None, momentum=0.0, epsilon=1e-5, use_bias=False)
        given = scale | {"batch_stats": {"mean": mean, "var": variance}}
        result, moments = module.apply(given, z, mutable=["batch_stats"])
        for kind, name in (("mean", "mean"), ("variance", "var")):
            found.setdefault(f"{kind}_{part}", []).append(moments["batch_stats"][name])
        return result

    in_cell = norm != "batch_input"
    gates_x = inputs["x"] @ params["kernel_x"]
    gates_x = jnp.stack([normal("x", z) for z in gates_x]) if in_cell else normal("x", gates_x)
    c, h, outputs = inputs["c"], inputs["h"], []
    for z in gates_x:
        gates_h = h @ params["kernel_h"]
        i, f, g, o = jnp.split(z + (normal("h", gates_h) if in_cell else gates_h) + params["bias"][None], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(normal("c", c) + params["shift_c"][None] if in_cell else c)
        outputs.append(h)
    return ((c, h), jnp.stack(outputs)), found


def settings_of(norm: str, **changes: Any) -> ConfigDict:
    """The tiny config with a norm, of one layer and without warmup."""
    config = tiny.get_config()
    config.update_from_flattened_dict({"model.norm": norm, "model.layers": 1, "optimizer.warmup": 0} | changes)
    return config


def drawn(norm: str, lstm: str = "", **changes: Any) -> tuple[LSTMLM, Any]:
    """A model, and random variables, of which statistics tell of no small numbers."""
    model = make_model(settings_of(norm, **{f"model.{key}": value for key, value in changes.items()}), V, lstm)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, RNG, model.initial_carry(1), jnp.zeros((1, 1), jnp.int32))

    def leaf(path: Any, shape: Any) -> np.ndarray:
        values = rng.normal(size=shape.shape).astype(np.float32)
        return values**2 + np.float32(0.5) if "variance" in jax.tree_util.keystr(path) else values

    return model, jax.tree_util.tree_map_with_path(leaf, shapes)


def tokens(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(V, size=(B, T), dtype=np.uint8)


def batch(seed: int) -> Batch:
    return Batch(tokens(seed), tokens(seed + 100), np.ones((B, T), np.uint8), np.zeros(B, bool))


def train(program: Program, state: TrainState, *batches: Batch) -> tuple[TrainState, Any]:
    """One dispatch."""
    return program.train_steps(state, program.put(Batch(*map(np.stack, zip(*batches, strict=True)))))
