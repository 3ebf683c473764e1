"""Scores against a float64 model that reads token by token, and against costs worked out by hand."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.data.encoded import Encoded
from lovecraft_jax.inference.scoring import CHUNK, WARM_UP, Score, Scorer
from lovecraft_jax.model.lm import make_model
from lovecraft_jax.runtime import distributed
from tests.helpers.untrained import random_variables

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
    return random_variables(scorer.model, 0.6)["params"]


def test_final_and_windows_are_the_explicit_sums_over_every_token(scorer: Scorer, params: Params) -> None:
    text = random_text()
    expected, in_windows = explicit_nats(params, text.ids), explicit_nats(params, text.ids, reset_every=WINDOW)
    assert expected != pytest.approx(in_windows, rel=1e-3)
    assert scorer.windows({"params": params}, text, 3, WINDOW).nats == pytest.approx(in_windows, rel=1e-5)
    assert LENGTH > 4 * CHUNK  # the carry goes on from chunk to chunk
    score = scorer.final({"params": params}, text)
    assert score.nats == pytest.approx(expected, rel=1e-5)
    assert (score.tokens, score.chars) == (LENGTH, LENGTH)
    assert scorer.scheduled({"params": params}, text, rows=1) == score


def test_scheduled_score_of_many_warmed_up_rows_is_close_to_the_final_score(scorer: Scorer, params: Params) -> None:
    variables, text = {"params": params}, random_text()
    final, scheduled = scorer.final(variables, text), scorer.scheduled(variables, text, rows=8)
    assert LENGTH // 8 < CHUNK < WARM_UP  # rows begin inside chunks, and some have a shorter warm-up
    assert scheduled.nats == pytest.approx(final.nats, rel=1e-5)
    cold = scorer.windows(variables, text, rows=8, seq_len=math.ceil(LENGTH / 8))
    assert cold.nats != pytest.approx(final.nats, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("length", [LENGTH, 2 * CHUNK, 5, 1])
def test_every_token_counts_exactly_once_in_any_number_of_rows(scorer: Scorer, params: Params, length: int) -> None:
    """In the cross-entropy, and in the binary one: a yes or no about every token of the vocabulary."""
    text = random_text(length)
    # Whatever was read, token k has the probability 2^-(k + 1), the last one what is left: as the one before it.
    bits = np.minimum(np.arange(V) + 1, V - 1)
    logits = (-bits * math.log(2)).astype(np.float32)
    variables = {"params": params | {"head_kernel": np.zeros_like(params["head_kernel"]), "head_bias": logits}}
    p = 0.5**bits
    binary = (np.log(1 - p) - np.log(p))[text.ids] - np.log(1 - p).sum()  # the target's answer is yes, all others' no
    for score in (
        scorer.final,
        lambda variables, text, bce: scorer.scheduled(variables, text, 3, bce),
        lambda variables, text, bce: scorer.scheduled(variables, text, 8, bce),
        lambda variables, text, bce: scorer.windows(variables, text, 3, WINDOW, bce),
    ):
        plain, asked = score(variables, text, False), score(variables, text, True)
        assert plain.nats == pytest.approx(bits[text.ids].sum() * math.log(2), rel=1e-5)
        assert asked.nats == pytest.approx(plain.nats, rel=1e-6)
        assert asked.bce == pytest.approx(binary.mean() / V, rel=1e-5)
        assert plain.bce is None


def test_a_process_whose_rows_are_all_empty_adds_nothing(
    scorer: Scorer, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_last_row = lambda total: range(total - 1)  # noqa: E731
    monkeypatch.setattr(distributed, "process_share", without_last_row)  # the last row has the one token
    score = scorer.windows({"params": params}, encoded([5]), rows=3, seq_len=WINDOW, bce=True)
    assert (score.nats, score.binary) == (0, 0)


def test_spelling_out_unknown_tokens_adds_to_the_score(scorer: Scorer, params: Params) -> None:
    variables, text = {"params": params}, random_text()
    dearer = dataclasses.replace(text, n_chars=3 * LENGTH, extra_nats=1000.0)
    for score in (
        scorer.final,
        lambda variables, text, bce: scorer.scheduled(variables, text, 8, bce),
        lambda variables, text, bce: scorer.windows(variables, text, 3, WINDOW, bce),
    ):
        cheap, dear = score(variables, text, True), score(variables, dearer, True)
        assert dear.nats == pytest.approx(cheap.nats + 1000, rel=1e-9)
        assert dear.loss == pytest.approx(cheap.loss + 1000 / LENGTH, rel=1e-9)
        assert dear.bpc == pytest.approx((cheap.nats + 1000) / (3 * LENGTH * math.log(2)), rel=1e-9)
        assert dear.bce == cheap.bce


def test_bits_per_character_loss_and_perplexity_by_hand() -> None:
    # Three tokens that spell six characters, at two bits a token.
    score = Score(nats=6 * math.log(2), tokens=3, chars=6, vocab_size=8, binary=2.4)
    assert (score.bpc, score.loss, score.perplexity) == pytest.approx((1, 2 * math.log(2), 4))
    assert (score.bce, score.bce_over(8), score.bce_over(16)) == pytest.approx((0.1, 0.1, 0.05))
    assert list(score.values()) == ["loss", "bpc", "bce", "perplexity"]
    assert list(dataclasses.replace(score, binary=None).values()) == ["loss", "bpc", "perplexity"]


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


def random_text(length: int = LENGTH) -> Encoded:
    return encoded(np.random.default_rng(1).integers(V, size=length))


def encoded(ids: Any) -> Encoded:
    return Encoded(np.asarray(ids, np.uint8), len(ids), 0.0)
