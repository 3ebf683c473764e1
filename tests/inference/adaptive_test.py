"""Dynamic evaluation: what it may know, its rule against a float64 one, its rates, the rows that a run ends with."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import tiny
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.data.encoded import Encoded
from lovecraft_jax.inference import adaptive, scoring
from lovecraft_jax.inference.adaptive import DECAYS, FIRST_TRY, LEARNING_RATES, SEGMENT, AdaptiveScorer, Rates
from lovecraft_jax.inference.scoring import CHUNK, Score, Scorer, single_row, static
from lovecraft_jax.model.lm import LanguageModel, make_model
from lovecraft_jax.model.native import build
from lovecraft_jax.run import load_run
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.training import loop
from tests.conftest import Command
from tests.helpers.runs import evaluate, launch, rows
from tests.helpers.untrained import random_variables, sigmoid
from tests.inference.conftest import FEW_TALES

pytestmark = pytest.mark.usefixtures("unoptimized")

V, START = 7, 3
RATES = Rates(lr=1e-2, decay=0.2)


def test_no_cost_depends_on_what_comes_later() -> None:
    scorer, text = small_scorer(), random_text(3 * CHUNK)
    first = costs(scorer, text, RATES)
    for position in (0, SEGMENT - 1, SEGMENT, CHUNK + SEGMENT // 2, len(text.ids) - 1):
        other = text.ids.copy()
        other[position:] = (other[position:] + 1) % V
        changed = costs(scorer, encoded(other), RATES)
        np.testing.assert_array_equal(changed[:position], first[:position])
        assert (changed[position:] != first[position:]).mean() > 0.99


def test_each_segment_is_scored_before_the_rule_of_the_paper_moves_the_weights_in_float64() -> None:
    """Gradients by central differences of a plain loop; an rms so large that decay alone would overshoot is clipped."""
    model = small_model(units=4, backend="fused")
    variables, text = random_variables(model, 0.6), random_text(4 * SEGMENT)
    rms = jax.tree.map(lambda leaf: np.abs(leaf) * np.float32(0.02), random_variables(model, 1.0, seed=1))["params"]
    rms["head_bias"][0] = 1.0
    found = costs(AdaptiveScorer(Scorer(model, START), variables, rms), text, RATES)

    flat, unravel = jax.flatten_util.ravel_pytree(variables["params"])
    rms_F = np.asarray(jax.flatten_util.ravel_pytree(rms)[0], np.float64)
    shapes = unravel(np.arange(flat.size))
    first = np.asarray(flat, np.float64)
    weights, carry, inputs = first, (np.zeros(4), np.zeros(4)), np.array([START, *text.ids[:-1]])
    assert (RATES.decay * rms_F / rms_F.mean() > 1).sum() == 1
    nudges_FF = 1e-5 * np.eye(len(first))
    for start in range(0, len(text.ids), SEGMENT):
        part = slice(start, start + SEGMENT)
        at = np.concatenate([weights[None], weights + nudges_FF, weights - nudges_FF])
        nats, after = explicit_costs(shapes, at, carry, inputs[part], text.ids[part])
        np.testing.assert_allclose(found[part], nats[0], rtol=1e-4)
        above_F, below_F = np.split(nats[1:].mean(axis=1), 2)
        learnt = RATES.lr * (above_F - below_F) / 2e-5 / (rms_F + adaptive.STABILITY * rms_F.mean())
        weights = weights - learnt + np.minimum(1, RATES.decay * rms_F / rms_F.mean()) * (first - weights)
        carry = tuple(leaf[0] for leaf in after)
    assert np.abs(weights - first).max() > 0.05


@pytest.mark.parametrize(
    ("changes", "backends"),
    [
        pytest.param({}, ("scan", "native"), marks=pytest.mark.slow),  # fused: in the test before this
        pytest.param({"norm": "batch_input", "skip": True}, ("scan", "fused", "native"), marks=pytest.mark.slow),
        ({"norm": "rms_gates", "input_gate": "capped"}, ("scan", "fused", "native")),
        pytest.param({"norm": "layer"}, ("scan",), marks=pytest.mark.slow),
        pytest.param({"norm": "batch"}, ("scan",), marks=pytest.mark.slow),
        pytest.param({"cell": "gru"}, ("scan",), marks=pytest.mark.slow),
        pytest.param({"dtype": "bfloat16"}, ("scan", "fused"), marks=pytest.mark.slow),
    ],
)
def test_without_rates_it_is_the_static_score_and_with_rates_it_learns(
    changes: dict[str, Any], backends: tuple[str, ...]
) -> None:
    """In every cell, norm and backend; the backends learn the same, from the first one's rms on."""
    text, scorer = random_text(CHUNK + 30), small_scorer(backend=backends[0], **changes)
    exact = 3e-3 if changes.get("dtype") == "bfloat16" else 1e-5
    fixed = scorer.scorer.final(scorer.variables, text).nats
    assert scorer.score(text, Rates(0.0, 0.0)).nats == pytest.approx(fixed, rel=1e-6)
    learnt = scorer.score(text, Rates(3e-3, 0.01)).nats
    assert learnt < fixed - 5
    norms = jax.tree.leaves({key: value for key, value in scorer.variables.items() if key != "params"})
    assert bool(norms) == ("batch" in changes.get("norm", ""))
    for backend in backends[1:]:
        if backend == "native" and build.start().result():
            continue  # no compiler
        other = AdaptiveScorer(Scorer(small_model(backend=backend, **changes), START), scorer.variables, scorer.rms)
        assert other.score(text, Rates(3e-3, 0.01)).nats == pytest.approx(learnt, rel=exact)


def test_a_text_that_repeats_itself_gets_cheaper_with_each_repetition() -> None:
    scorer, passage = small_scorer(), random_text(SEGMENT)
    nats = costs(scorer, encoded(np.tile(passage.ids, 40)), Rates(1e-2, 0.0)).reshape(40, -1).sum(axis=1)
    assert nats[-1] < 0.8 * nats[0]
    fixed = static(scorer.scorer.model)
    batch = single_row(np.tile(passage.ids, 40), START, CHUNK)
    _, unchanged = fixed.step(fixed.init(scorer.variables, 1), batch)
    per_repetition = np.asarray(unchanged.nats_BT)[0, : 40 * len(passage.ids)].reshape(40, -1).sum(axis=1)
    assert per_repetition[-1] == pytest.approx(per_repetition[1], rel=0.02)


def test_one_program_serves_all_rates() -> None:
    scorer, text = small_scorer(), random_text(2 * CHUNK)
    scorer.score(text, RATES)
    programs = scoring._step_and_sum._cache_size()
    assert scorer.score(text, Rates(1e-3, 0.0)).nats != scorer.score(text, Rates(1e-4, 0.01)).nats
    assert scoring._step_and_sum._cache_size() == programs


@pytest.mark.parametrize("target", [(3, 0), (len(LEARNING_RATES) - 1, len(DECAYS) - 1), FIRST_TRY])
def test_tuning_finds_the_best_rates_in_few_scores(target: tuple[int, int]) -> None:
    tried = []

    class Bowl(AdaptiveScorer):
        def score(self, text: Encoded, rates: Rates) -> Any:
            assert len(text.ids) == adaptive.TUNING_TOKENS
            lr, decay = LEARNING_RATES.index(rates.lr), DECAYS.index(rates.decay)
            tried.append(rates)
            value = (lr - target[0]) ** 2 + (decay - target[1]) ** 2 + 0.5 * (lr - target[0]) * (decay - target[1])
            return Score(math.nan if lr > target[0] + 1 else value, 1, 1, V)

    seen: list[int] = []
    rates, score = Bowl(None, {}, {}).tune(random_text(adaptive.TUNING_TOKENS + 1), lambda: seen.append(1))
    assert score.nats == 0
    assert rates == (LEARNING_RATES[target[0]], DECAYS[target[1]])
    assert len(tried) == len(set(tried)) == len(seen) <= 25


@pytest.mark.slow
def test_rates_are_tuned_on_valid_and_saved_and_score_test(
    trained_on_few_tales: Path, tmp_path: Path, command: Command
) -> None:
    workdir = shutil.copytree(trained_on_few_tales, tmp_path / "run")
    (workdir / "adaptive.json.partial").symlink_to(tmp_path / "missing" / "file")  # so it cannot be written
    unwritten = evaluate(command, workdir, "--adaptive")
    assert not (workdir / "adaptive.json").exists()
    run = load_run(workdir)
    valid, rates = run.split("valid"), run.adaptive_rates
    assert unwritten["scoring"] == "adaptive"
    saved = json.loads((workdir / "adaptive.json").read_text())
    assert saved == {"40": {"lr": unwritten["lr"], "decay": unwritten["decay"]}} == {"40": rates._asdict()}
    tuned = run._adaptive_scorer.score(valid, rates).nats
    for other in (Rates(saved["40"]["lr"] * 2, 0.0), Rates(saved["40"]["lr"] / 2, 0.0), Rates(0.0, 0.0)):
        assert tuned < run._adaptive_scorer.score(valid, other).nats
    assert run.score(run.split("test"), adaptive=True).bpc == pytest.approx(unwritten["bpc"], rel=1e-9)
    fixed = run.score(run.split("test")).bpc
    assert unwritten["bpc"] < fixed - 0.1

    (workdir / "adaptive.json").write_text('{"40": {"lr": 0.0, "decay": 0.0}, "10": {"lr": 1.0, "decay": 1.0}}')
    kept = load_run(workdir)
    assert kept.score(kept.split("test"), adaptive=True).bpc == pytest.approx(fixed, rel=1e-6)
    (tmp_path / "text.txt").write_text(text := "The house was old. " * 9)
    found = evaluate(command, workdir, "--adaptive", f"--text={tmp_path / 'text.txt'}")
    assert (found["lr"], found["bpc"]) == (0, pytest.approx(run.score(run.encode(text)).bpc, rel=1e-6))


@pytest.mark.slow
def test_a_finished_run_has_adaptive_rows_beside_the_static_ones(
    config: ConfigDict, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    config.model.layers = 1
    config.train.update({"steps": 10, "eval_every": 10, "adaptive": True})
    loop.train(config, str(tmp_path))
    printed = capfd.readouterr().out.splitlines()
    final = [row for row in rows(tmp_path) if row.get("scoring") in ("final", "adaptive")]
    assert [(row["split"], row["scoring"]) for row in final] == [
        ("valid", "final"),
        ("test", "final"),
        ("valid", "adaptive"),
        ("test", "adaptive"),
    ]
    assert {row["checkpoint"] for row in final} == {10}
    saved = json.loads((tmp_path / "adaptive.json").read_text())["10"]
    assert [{key: row[key] for key in saved} for row in final[2:]] == [saved, saved]
    run = load_run(tmp_path)
    for row in final:
        score = run.score(run.split(row["split"]), adaptive=row["scoring"] == "adaptive")
        assert row["bpc"] == pytest.approx(score.bpc, rel=1e-6)
    assert printed == [
        "  ".join(f"{row['split']} {row['bpc']:.4f} bpc" for row in final[:2]),
        "adaptive: " + "  ".join(f"{row['split']} {row['bpc']:.4f} bpc" for row in final[2:]),
    ]
    loop.train(config, str(tmp_path))
    assert capfd.readouterr().out.splitlines() == printed
    assert [row for row in rows(tmp_path) if row.get("scoring") in ("final", "adaptive")] == final


@pytest.mark.slow
def test_two_processes_write_the_scores_that_one_computes(tmp_path: Path) -> None:
    few = ("--config.model.layers=1", "--config.train.steps=10", "--config.train.eval_every=10")
    flags = ("--config.train.adaptive", f"--config.data.corpus={FEW_TALES}", f"--workdir={tmp_path}")
    done = launch("--config=configs/tiny.py", *few, *flags)
    assert done.returncode == 0, done.stderr
    run = load_run(tmp_path)
    final = [row for row in rows(tmp_path) if row.get("scoring") == "adaptive"]
    assert [row["split"] for row in final] == ["valid", "test"]
    for row in final:
        assert row["bpc"] == pytest.approx(run.score(run.split(row["split"]), adaptive=True).bpc, rel=1e-6)


def test_splits_that_would_take_too_long_are_left_to_evaluate(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(loop, "MOST_TOKENS", 1000)
    config.train.update({"steps": 10, "eval_every": 10, "adaptive": True})
    loop.train(config, str(tmp_path))
    assert "adaptive" not in [row.get("scoring") for row in rows(tmp_path)]
    assert "evaluate --adaptive" in capfd.readouterr().err


def test_wrong_input_is_one_line(trained: Path, tmp_path: Path, command: Command) -> None:
    done = command("evaluate", f"--workdir={trained}", "--adaptive", "--bce")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "--bce with --adaptive" in done.stderr
    workdir = shutil.copytree(trained, tmp_path / "run")
    for damaged in ("", "[]", '{"40": 3}', '{"40": {"lr": 1}}', '{"40": {"lr": "x", "decay": 0}}'):
        (workdir / "adaptive.json").write_text(damaged)
        run = load_run(workdir)
        with pytest.raises(UserError, match=r"adaptive.json: cannot be read .*; delete it"):
            run.score(run.encode("The house"), adaptive=True)
    with pytest.raises(UserError, match="bce=True with adaptive=True"):
        run.score(run.encode("The house"), bce=True, adaptive=True)


def small_model(units: int = 16, **changes: Any) -> LanguageModel:
    config = tiny.get_config()
    backend = changes.pop("backend", "")
    config.model.update({"layers": 1, "units": units} | changes)
    return make_model(config, V, backend)


def small_scorer(**changes: Any) -> AdaptiveScorer:
    """Of weights large enough that the model is far from uniform and its memory matters."""
    model = small_model(**changes)
    return AdaptiveScorer.of(Scorer(model, START), random_variables(model, 0.6), random_text(2 * CHUNK, seed=2))


def costs(scorer: AdaptiveScorer, text: Encoded, rates: Rates) -> np.ndarray:
    """The nats of every token, chunk by chunk."""
    method = adaptive.adaptive(scorer.scorer.model, scorer.rms, rates)
    batch, state, found = single_row(text.ids, START, CHUNK), method.init(scorer.variables, 1), []
    step = jax.jit(method.step)
    for start in range(0, batch.x_BT.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        chunk = Batch(batch.x_BT[:, part], batch.y_BT[:, part], batch.weight_BT[:, part], batch.reset_B)
        state, of_chunk = step(state, chunk)
        found.append(np.asarray(of_chunk.nats_BT)[0])
    return np.concatenate(found)[: len(text.ids)]


def explicit_costs(
    shapes: Any, weights_MF: np.ndarray, carry: tuple[np.ndarray, np.ndarray], inputs: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The nats [M, T] of every target of a segment, token by token, for each of M sets of weights, and the carries
    after it; `shapes`: places in the weights."""
    p, (c, h), nats = jax.tree.map(lambda places: weights_MF[:, np.asarray(places, int)], shapes), carry, []
    cell = p["lstm_0"]
    c, h = (np.broadcast_to(leaf, (len(weights_MF), len(leaf))) for leaf in (c, h))
    for x, y in zip(inputs, targets, strict=True):
        gates = cell["kernel_x"][:, x] + np.einsum("mh,mhg->mg", h, cell["kernel_h"]) + cell["bias"]
        i, f, g, o = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        logits = np.einsum("mh,mhv->mv", h, p["head_kernel"]) + p["head_bias"]
        nats.append(np.log(np.sum(np.exp(logits), axis=1)) - logits[:, y])
    return np.transpose(nats), (c, h)


def random_text(length: int, seed: int = 1) -> Encoded:
    return encoded(np.random.default_rng(seed).integers(V, size=length))


def encoded(ids: np.ndarray) -> Encoded:
    return Encoded(np.asarray(ids, np.uint8), len(ids), 0.0)
