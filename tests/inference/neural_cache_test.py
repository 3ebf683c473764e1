"""The neural cache: against a float64 loop, what it may know, that it is a distribution, its rates and its rows."""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import tiny
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.data.encoded import Encoded, Spelled
from lovecraft_jax.inference import adaptive, neural_cache
from lovecraft_jax.inference.neural_cache import CacheRates, CacheScorer, cached, in_types
from lovecraft_jax.inference.scoring import CHUNK, Scorer, single_row
from lovecraft_jax.model.ensemble import make_ensemble
from lovecraft_jax.model.lm import make_model
from lovecraft_jax.run import load_run
from lovecraft_jax.runtime.errors import DONE, UserError
from lovecraft_jax.training import loop
from tests.conftest import Command
from tests.helpers.runs import evaluate, rows
from tests.helpers.untrained import random_variables, sigmoid

pytestmark = pytest.mark.usefixtures("unoptimized")

V, START = 7, 3
CLASSES = {1: {"cat": 0.5, "dog": 0.3, "yak": 0.2}, 2: {"Randolph": 1 - 1e-9, "Nyarlathotep": 1e-9}}
"""The ids of classes, and how likely each of their words is, which have no id of their own."""
TYPES: list[int | str] = [0, 3, 4, 5, 6, *CLASSES[1], *CLASSES[2]]
RATES = CacheRates(theta=0.8, lam=0.3)


@pytest.fixture
def _small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neural_cache, "SIZE", 300)


@pytest.mark.usefixtures("_small_cache")
@pytest.mark.parametrize("left_out", [False, True])
def test_costs_are_those_of_the_mixture_over_types_in_float64(left_out: bool) -> None:
    types = random_types(2 * CHUNK + 150)
    text = encoded(types)
    nats_N = np.zeros(len(types))
    if left_out:  # then the words are before these ids, not at them, and cost what they cost otherwise
        types = text.ids.tolist()
        text = dataclasses.replace(text, spelled=dataclasses.replace(text.spelled, left_out=True))
    else:
        nats_N[text.spelled.at_R] = text.spelled.nats_R
    scorer, expected = small_scorer(units=4), []
    h_NH, logs_NV = explicit_forward(scorer.variables["params"], np.array([START, *text.ids[:-1]]))
    for n, now in enumerate(types):
        p = np.exp(logs_NV[n, text.ids[n]] - nats_N[n])
        if n:
            before = range(max(0, n - neural_cache.SIZE), n)
            weights = np.exp(RATES.theta * h_NH[before] @ h_NH[n])
            same = np.array([types[i] == now for i in before])
            p = (1 - RATES.lam) * p + RATES.lam * weights[same].sum() / weights.sum()
        expected.append(-np.log(p))
    np.testing.assert_allclose(costs(scorer, text, RATES), expected, rtol=2e-5)
    rest = text.extra_nats - nats_N.sum()
    assert rest > 1
    assert scorer.score(text, RATES).nats == pytest.approx(sum(expected) + rest, rel=1e-6)


@pytest.mark.usefixtures("_small_cache")
def test_no_cost_depends_on_what_comes_later() -> None:
    length = 2 * CHUNK + 1
    scorer, types, others = small_scorer(), random_types(length), random_types(length, seed=5)
    first = costs(scorer, encoded(types), RATES)
    for position in (0, 1, CHUNK - 1, CHUNK, CHUNK + 77, 2 * CHUNK):
        changed = costs(scorer, encoded(types[:position] + others[position:]), RATES)
        np.testing.assert_array_equal(changed[:position], first[:position])
        assert (changed[position:] != first[position:]).mean() > 0.99


@pytest.mark.usefixtures("_small_cache")
@pytest.mark.parametrize("length", [0, 1, 40, CHUNK + 30])
def test_the_probabilities_of_all_types_after_a_text_sum_to_one(length: int) -> None:
    scorer, types = small_scorer(), random_types(length)
    ends = [costs(scorer, encoded([*types, one]), RATES)[-1] for one in TYPES]
    assert np.exp(-np.array(ends, np.float64)).sum() == pytest.approx(1, rel=1e-5)


@pytest.mark.usefixtures("_small_cache")
def test_a_word_is_spelled_out_once_and_again_when_the_cache_has_forgotten_it() -> None:
    types = ["Randolph" if one == "Nyarlathotep" else one for one in random_types(2 * CHUNK)]
    for at in (100, 300, 340, 700):
        types[at] = "Nyarlathotep"
    found = costs(small_scorer(), encoded(types), RATES)
    price = -np.log(CLASSES[2]["Nyarlathotep"])
    assert min(found[100], found[700]) > price
    assert max(found[300], found[340]) < price - 10


@pytest.mark.usefixtures("_small_cache")
@pytest.mark.parametrize(
    "changes",
    [{"softmax_head": 3}, {"skip": True, "norm": "batch_input"}, {"tie": True, "embed": 6, "softmax_head": 3}],
)
def test_without_a_share_it_is_the_static_score(changes: dict[str, Any]) -> None:
    scorer, text = small_scorer(layers=2, **changes), encoded(random_types(CHUNK + 30))
    static = scorer.scorer.final(scorer.variables, text)
    without = scorer.score(text, CacheRates(1.0, 0.0))
    assert without == dataclasses.replace(static, nats=pytest.approx(static.nats, rel=1e-6))
    assert abs(scorer.score(text, CacheRates(1.0, 0.1)).nats - static.nats) > 1


@pytest.mark.usefixtures("_small_cache")
def test_an_ensemble_remembers_the_states_of_all_its_members() -> None:
    scorer, text = small_scorer(), encoded(random_types(CHUNK + 30))
    model, variables = make_ensemble([scorer.scorer.model] * 2, [scorer.variables] * 2)
    both = CacheScorer(Scorer(model, START), variables).score(text, RATES).nats
    assert both == pytest.approx(scorer.score(text, CacheRates(2 * RATES.theta, RATES.lam)).nats, rel=1e-6)
    assert abs(both - scorer.score(text, RATES).nats) > 0.1


@pytest.mark.usefixtures("_small_cache")
def test_tuning_finds_the_best_rates_of_the_grid_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    thetas, lams = (0.0, 0.5, 1.0, 2.0), (0.0, 0.3, 0.6, 0.9)
    for module, name, value in (
        (neural_cache, "THETAS", thetas),
        (neural_cache, "LAMS", lams),
        (adaptive, "TUNING_TOKENS", 2 * CHUNK),
    ):
        monkeypatch.setattr(module, name, value)
    scorer, types, seen = small_scorer(), random_types(4 * CHUNK), []
    rates, tuned = scorer.tune(encoded(types), lambda: seen.append(1))
    assert (len(seen), tuned.tokens, tuned.chars) == (1, 2 * CHUNK, 2 * CHUNK)
    part = dataclasses.replace(encoded(types[: 2 * CHUNK]), extra_nats=0.0)
    found = {}
    for other in itertools.product(thetas, lams):
        found[other] = scorer.score(part, CacheRates(*other)).nats + part.spelled.nats_R.sum()
    assert min(found, key=found.__getitem__) == rates
    assert found[rates] == pytest.approx(tuned.nats, rel=1e-6)


@pytest.mark.usefixtures("_small_cache")
@pytest.mark.slow
def test_a_finished_run_of_words_ends_with_scores_by_a_cache(
    config: ConfigDict, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    config.data.update({"level": "words", "vocab_size": 400})
    config.model.layers = 1
    config.train.update({"steps": 10, "eval_every": 10, "adaptive": True})
    assert loop.train(config, str(tmp_path)) == DONE
    final = [row for row in rows(tmp_path) if row.get("scoring") in ("adaptive", "cache")]
    assert [(row["scoring"], row["split"]) for row in final] == [
        (scoring, split) for scoring in ("adaptive", "cache") for split in ("valid", "test")
    ]
    in_log = "adaptive, neural cache: " + "  ".join(f"{row['split']} {row['bpc']:.4f} bpc" for row in final[2:])
    assert capfd.readouterr().out.splitlines()[2] == in_log
    saved = json.loads((tmp_path / "adaptive.json").read_text())["10"]
    assert saved == {key: row[key] for row in final for key in saved.keys() & row.keys()}
    assert list(saved) == ["lr", "decay", "theta", "lam"]
    run = load_run(tmp_path)
    for row in final[2:]:
        assert row["bpc"] == pytest.approx(run.score(run.split(row["split"]), cache=True).bpc, rel=1e-6)
        assert row["bpc"] < run.score(run.split(row["split"])).bpc - 0.01


@pytest.mark.slow
def test_rates_are_tuned_on_valid_and_saved_beside_those_of_dynamic_evaluation(
    trained_on_few_tales: Path, tmp_path: Path, command: Command
) -> None:
    workdir = shutil.copytree(trained_on_few_tales, tmp_path / "run")
    (workdir / "adaptive.json").write_text('{"40": {"lr": 0.5, "decay": 0.0}, "10": {"theta": 9.0, "lam": 0.9}}')
    found = evaluate(command, workdir, "--cache")
    assert (found["scoring"], found["tuned_on"]) == ("cache", "valid")
    rates = {"theta": found["theta"], "lam": found["lam"]}
    assert json.loads((workdir / "adaptive.json").read_text())["40"] == {"lr": 0.5, "decay": 0.0} | rates
    run = load_run(workdir)
    assert (run.cache_rates._asdict(), run.adaptive_rates) == (rates, (0.5, 0.0))
    assert run.score(run.split("test"), cache=True).bpc == pytest.approx(found["bpc"], rel=1e-9)
    (workdir / "adaptive.json").write_text('{"40": {"theta": 1.0, "lam": 0.0}}')
    kept = load_run(workdir)
    static = kept.score(run.split("test")).bpc
    assert kept.score(run.split("test"), cache=True).bpc == pytest.approx(static, rel=1e-6)


def test_wrong_input_is_one_line(trained: Path, tmp_path: Path, command: Command) -> None:
    done = command("evaluate", f"--workdir={trained}", "--adaptive", "--cache")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "--adaptive with --cache: " in done.stderr
    workdir = shutil.copytree(trained, tmp_path / "run")
    (workdir / "adaptive.json").write_text('{"40": {"theta": 1.0}}')
    run = load_run(workdir)
    with pytest.raises(UserError, match=r"adaptive.json: cannot be read .*; delete it"):
        run.score(run.encode("The house"), cache=True)
    with pytest.raises(UserError, match=r"bce=True with cache=True: .*; give one of them"):
        run.score(run.encode("The house"), bce=True, cache=True)


def small_scorer(**changes: Any) -> CacheScorer:
    """Of weights large enough that the model is far from uniform and its memory matters."""
    config = tiny.get_config()
    config.model.update({"layers": 1, "units": 16} | changes)
    model = make_model(config, V)
    return CacheScorer(Scorer(model, START), random_variables(model, 0.6))


def costs(scorer: CacheScorer, text: Encoded, rates: CacheRates) -> np.ndarray:
    """The nats of every token, chunk by chunk."""
    typed, types = in_types(text, V)
    method = cached(scorer.scorer.model, types, (rates.theta,), (rates.lam,))
    batch, state, found = single_row(typed.ids, START, CHUNK), method.init(scorer.variables, 1), []
    for start in range(0, batch.x_BT.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        chunk = Batch(batch.x_BT[:, part], batch.y_BT[:, part], batch.weight_BT[:, part], batch.reset_B)
        state, of_chunk = jitted(method.step, state, chunk)
        found.append(np.asarray(of_chunk.nats_BT).ravel())
    return np.concatenate(found)[: len(text.ids)]


jitted = jax.jit(lambda step, state, chunk: step(state, chunk), static_argnums=0)


def explicit_forward(params: Any, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hidden states [N, H] and the log-probabilities [N, V] after every input, token by token in float64."""
    p, states, logs = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), [], []
    cell, h = p["lstm_0"], np.zeros(p["head_kernel"].shape[0])
    c = h
    for x in inputs:
        i, f, g, o = np.split(cell["kernel_x"][x] + h @ cell["kernel_h"] + cell["bias"], 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        logits = h @ p["head_kernel"] + p["head_bias"]
        states.append(h)
        logs.append(logits - np.logaddexp.reduce(logits))
    return np.array(states), np.array(logs)


def random_types(length: int, seed: int = 1) -> list[int | str]:
    return [TYPES[n] for n in np.random.default_rng(seed).integers(len(TYPES), size=length)]


def encoded(types: Sequence[int | str]) -> Encoded:
    """The text of these ids and words. Its extra nats have .01 a token besides those of the words."""
    ids = [next((c for c, words in CLASSES.items() if one in words), one) for one in types]
    at_R = np.array([n for n, one in enumerate(types) if isinstance(one, str)], int)
    words = [types[n] for n in at_R]
    nats_R = np.array([-np.log(CLASSES[ids[n]][types[n]]) for n in at_R])
    return Encoded(np.array(ids, np.uint8), len(ids), 0.01 * len(ids) + nats_R.sum(), Spelled(at_R, words, nats_R))
