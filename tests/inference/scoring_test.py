"""Scores against a float64 model that reads token by token, and against costs worked out by hand."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.data.tokenizer import Encoded
from lovecraft_jax.inference.scoring import CHUNK, WARM_UP, Score, Scorer, static
from lovecraft_jax.model.lm import LanguageModel, make_model
from lovecraft_jax.runtime import distributed

V, START, LENGTH, WINDOW = 11, 3, 2345, 7

Params = dict[str, Any]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    config = tiny.get_config()
    config.model.update({"layers": 1, "embed": 0})
    return Scorer(make_model(config, V), START)


@pytest.fixture(scope="module")
def params(scorer: Scorer) -> Params:
    """Weights large enough that the model is far from uniform and its memory matters."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.6, leaf.shape).astype(np.float32), shapes_of(scorer.model))


def test_final_is_the_explicit_sum_over_every_token(scorer: Scorer, params: Params) -> None:
    text = random_text()
    score = scorer.final({"params": params}, text)
    assert score.nats == pytest.approx(explicit_nats(params, text.ids), rel=1e-5)
    assert (score.tokens, score.chars) == (LENGTH, LENGTH)


def test_final_counts_the_first_token_after_a_newline_and_a_zero_carry(scorer: Scorer, params: Params) -> None:
    for token in (0, 5):
        score = scorer.final({"params": params}, encoded([token]))
        assert score.nats == pytest.approx(explicit_nats(params, np.array([token])), rel=1e-5)


def test_scheduled_score_of_one_row_is_the_final_score(scorer: Scorer, params: Params) -> None:
    variables, text = {"params": params}, random_text()
    assert scorer.scheduled(variables, text, rows=1) == scorer.final(variables, text)


def test_scheduled_score_of_many_warmed_up_rows_is_close_to_the_final_score(scorer: Scorer, params: Params) -> None:
    variables, text = {"params": params}, random_text()
    final, scheduled = scorer.final(variables, text), scorer.scheduled(variables, text, rows=8)
    assert LENGTH // 8 < CHUNK < WARM_UP  # rows begin inside chunks, and some have a shorter warm-up
    assert scheduled.nats == pytest.approx(final.nats, rel=1e-5)
    cold = scorer.windows(variables, text, rows=8, seq_len=math.ceil(LENGTH / 8))
    assert cold.nats != pytest.approx(final.nats, rel=1e-5)


@pytest.mark.parametrize("length", [LENGTH, 2 * CHUNK, 5, 1])
def test_every_token_counts_exactly_once_in_any_number_of_rows(scorer: Scorer, params: Params, length: int) -> None:
    text = random_text(length)
    silent = params | {"head_kernel": np.zeros_like(params["head_kernel"])}
    uniform = {"params": silent | {"head_bias": np.zeros(V, np.float32)}}
    # Token k has the probability 2^-(k + 1), the last one what is left: as the one before it.
    bits = np.minimum(np.arange(V) + 1, V - 1)
    by_token = {"params": silent | {"head_bias": (-bits * math.log(2)).astype(np.float32)}}
    scores = [
        lambda variables: scorer.final(variables, text),
        lambda variables: scorer.scheduled(variables, text, rows=3),
        lambda variables: scorer.scheduled(variables, text, rows=8),
        lambda variables: scorer.windows(variables, text, 3, WINDOW),
    ]
    for score in scores:
        assert score(uniform).nats == pytest.approx(length * math.log(V), rel=1e-5)
        assert score(by_token).nats == pytest.approx(bits[text.ids].sum() * math.log(2), rel=1e-5)


def test_windows_start_from_a_zero_carry(scorer: Scorer, params: Params) -> None:
    text = random_text()
    expected = explicit_nats(params, text.ids, reset_every=WINDOW)
    assert scorer.windows({"params": params}, text, 3, WINDOW).nats == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(explicit_nats(params, text.ids), rel=1e-3)


def test_a_process_whose_rows_are_all_empty_adds_nothing(
    scorer: Scorer, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_last_row = lambda total: range(total - 1)  # noqa: E731
    monkeypatch.setattr(distributed, "process_share", without_last_row)  # the last row has the one token
    score = scorer.windows({"params": params}, encoded([5]), rows=3, seq_len=WINDOW, bce=True)
    assert (score.nats, score.binary) == (0, 0)


def test_spelling_out_unknown_tokens_adds_to_the_score(scorer: Scorer, params: Params) -> None:
    variables, text = {"params": params}, random_text()
    dearer = Encoded(text.ids, n_chars=3 * LENGTH, extra_nats=1000.0)
    for score in (scorer.final, lambda v, t: scorer.scheduled(v, t, 8), lambda v, t: scorer.windows(v, t, 3, WINDOW)):
        cheap, dear = score(variables, text), score(variables, dearer)
        assert dear.nats == pytest.approx(cheap.nats + 1000, rel=1e-9)
        assert dear.loss == pytest.approx(cheap.loss + 1000 / LENGTH, rel=1e-9)
        assert dear.bpc == pytest.approx((cheap.nats + 1000) / (3 * LENGTH * math.log(2)), rel=1e-9)


def test_bits_per_character_loss_and_perplexity_by_hand() -> None:
    # Three tokens that spell six characters, at two bits a token.
    score = Score(nats=6 * math.log(2), tokens=3, chars=6, vocab_size=8, binary=2.4)
    assert (score.bpc, score.loss, score.perplexity) == pytest.approx((1, 2 * math.log(2), 4))
    assert (score.bce, score.bce_over(8), score.bce_over(16)) == pytest.approx((0.1, 0.1, 0.05))
    assert list(score.values()) == ["loss", "bpc", "bce", "perplexity"]
    assert list(dataclasses.replace(score, binary=None).values()) == ["loss", "bpc", "perplexity"]


@pytest.mark.parametrize("length", [LENGTH, 2 * CHUNK, 1])
def test_bce_is_a_binary_question_about_every_token_of_the_vocabulary(
    scorer: Scorer, params: Params, length: int
) -> None:
    text = random_text(length)
    # Token 4 has probability 1/2, the others share the rest, whatever was read.
    logits = np.log(np.where(np.arange(V) == 4, 0.5, 0.5 / (V - 1)))
    silent = {"head_kernel": np.zeros_like(params["head_kernel"]), "head_bias": logits.astype(np.float32)}
    variables = {"params": params | silent}
    p = 0.5 / (V - 1)
    all_no = -math.log(0.5) - (V - 1) * math.log(1 - p)
    cost = np.where(text.ids == 4, all_no, all_no + math.log(1 - p) - math.log(p))  # the target's answer is yes
    scores = [
        scorer.final,
        lambda variables, text, bce: scorer.scheduled(variables, text, 3, bce),
        lambda variables, text, bce: scorer.windows(variables, text, 3, WINDOW, bce),
    ]
    for score in scores:
        assert score(variables, text, True).bce == pytest.approx(cost.mean() / V, rel=1e-5)
        assert score(variables, text, False).bce is None
    spelled = Encoded(text.ids, n_chars=3 * length, extra_nats=1000.0)
    assert scorer.final(variables, spelled, bce=True).bce == pytest.approx(cost.mean() / V, rel=1e-5)


def test_asking_for_bce_leaves_the_other_numbers_alone(scorer: Scorer, params: Params) -> None:
    variables, text = {"params": params}, random_text()
    plain, asked = scorer.final(variables, text), scorer.final(variables, text, bce=True)
    assert plain.nats == pytest.approx(asked.nats, rel=1e-6)


@pytest.mark.slow
def test_scoring_is_a_fold_whose_state_carries_on_over_chunks(scorer: Scorer, params: Params) -> None:
    """Two chunks give the same costs as one, for every token."""
    ids = np.random.default_rng(2).integers(V, size=(2, 31)).astype(np.uint8)
    text = Batch(ids[:, :-1], ids[:, 1:], np.ones((2, 30), np.uint8), np.array([False, False]))
    method = static(scorer.model)
    _, whole = method.step(method.init({"params": params}, 2), text)
    state, parts = method.init({"params": params}, 2), []
    for part in (slice(0, 12), slice(12, 30)):
        chunk = Batch(text.x_BT[:, part], text.y_BT[:, part], text.weight_BT[:, part], text.reset_B)
        state, costs = method.step(state, chunk)
        parts.append(costs.nats_BT)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole.nats_BT, rtol=1e-5)


def explicit_nats(params: Params, ids: np.ndarray, reset_every: int = 10**9) -> float:
    """Nats of a text, token by token in float64: START as the first input, and a zero carry every so many tokens."""
    p = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    cell, total = p["lstm_0"], 0.0
    for t, (x, y) in enumerate(zip([START, *ids[:-1]], ids, strict=True)):
        if t % reset_every == 0:
            c = h = np.zeros(len(cell["kernel_h"]))
        i, f, g, o = np.split(cell["kernel_x"][x] + h @ cell["kernel_h"] + cell["bias"], 4)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        logits = h @ p["head_kernel"] + p["head_bias"]
        total += np.log(np.sum(np.exp(logits))) - logits[y]
    return float(total)


def shapes_of(model: LanguageModel) -> Params:
    ids = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), model.initial_carry(1), ids)["params"]


def random_text(length: int = LENGTH) -> Encoded:
    return encoded(np.random.default_rng(1).integers(V, size=length))


def encoded(ids: Any) -> Encoded:
    return Encoded(np.asarray(ids, np.uint8), len(ids), 0.0)
