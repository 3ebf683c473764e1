"""Subwords and words in all that a run does: training, resuming, scores per character, generation, the report."""

import math
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.data import dataset
from lovecraft_jax.data.encoded import Cut
from lovecraft_jax.inference.generate import _choose_cut
from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.model.lm import forward
from lovecraft_jax.probing.surprisal import token_surprisals
from lovecraft_jax.probing.word_costs import LEAST, costs_by_frequency
from lovecraft_jax.report.collect import collect_run
from lovecraft_jax.report.page import render
from lovecraft_jax.run import Run, load_run
from lovecraft_jax.runtime.errors import DONE
from lovecraft_jax.training import loop
from tests.helpers.runs import assert_same_run, rows, shorten_reports

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]

jitted_forward = jax.jit(forward, static_argnums=0)

LEVELS = ("bpe", "words", "words-cluster")


@pytest.fixture(scope="module", params=LEVELS)
def trained_on_words(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of each level. Read it."""
    workdir = tmp_path_factory.mktemp("trained") / request.param
    assert loop.train(_config(request.param), str(workdir)) == DONE
    return workdir


@pytest.fixture(scope="module")
def run(trained_on_words: Path) -> Run:
    return load_run(trained_on_words)


@pytest.mark.parametrize("trained_on_words", ["bpe", "words-cluster"], indirect=True)  # of words the harder
def test_an_interrupted_run_resumes_exactly(trained_on_words: Path, tmp_path: Path) -> None:
    for stop_at_step in (20, 0):
        config = _config(trained_on_words.name)
        config.train.stop_at_step = stop_at_step
        assert loop.train(config, str(tmp_path)) == DONE
    assert_same_run(tmp_path, trained_on_words)


def test_scores_are_bits_for_each_character_whatever_the_tokens_are(run: Run, trained_on_words: Path) -> None:
    config = tiny.get_config()
    text = dataset.prepare(Config.of(config)).splits.text["test"]
    encoded = run.split("test")
    assert len(encoded.ids) < 0.6 * encoded.n_chars == 0.6 * len(text)
    score = run.score(encoded)
    final = [row for row in rows(trained_on_words) if row.get("scoring") == "final" and row["split"] == "test"]
    assert final[0]["bpc"] == pytest.approx(score.bpc, rel=1e-6)
    assert score.bpc == pytest.approx(score.loss * len(encoded.ids) / len(text) / math.log(2), rel=1e-9)
    assert run.tokenizer.decode(encoded.ids, encoded.spelled) == text
    (bits_N,) = token_surprisals(run, [text])
    assert bits_N.sum() / len(text) == pytest.approx(score.bpc, rel=1e-5)


def test_a_generated_text_completes_the_last_word_of_its_prompt_and_a_stream_is_the_same(run: Run) -> None:
    sampling = Sampling(0.5)
    texts = run.generate("It was the ho", 20, seed=3, sampling=sampling, samples=4)
    assert [
        "".join(parts) for parts in zip(*run.stream("It was the ho", 20, 3, sampling, 4, chunk=3), strict=True)
    ] == texts
    prompt = run.tokenizer.encode_prompt("It was the ho")
    completions = {
        run.tokenizer.decode(np.array([first])).removeprefix(cut.begun.decode()) if cut.begun else ""
        for cut in prompt.cuts
        for first in np.flatnonzero(cut.allowed_V)
    }
    assert all(any(text.startswith(completion) for completion in completions) for text in texts)


def test_of_the_ways_to_go_on_with_a_prompt_the_likeliest_is_taken(run: Run) -> None:
    for text in ("It was the ho", "It was the house", "a strange mur"):
        prompt = run.tokenizer.encode_prompt(text)
        _, logits_BNV = jitted_forward(run.model, run.variables, run.model.initial_carry(1), prompt.ids[None])
        logs_NV = np.asarray(jax.nn.log_softmax(logits_BNV[0]), np.float64)

        def log_prob(cut: Cut, ids: np.ndarray = prompt.ids, logs_NV: np.ndarray = logs_NV) -> float:
            of_ids = sum(float(logs_NV[n - 1, ids[n]]) for n in range(1, cut.kept))
            return of_ids + math.log(np.exp(logs_NV[cut.kept - 1])[cut.allowed_V].sum()) - cut.nats

        best = max(prompt.cuts, key=log_prob)
        ids, begun, _ = _choose_cut(run.model, run.variables, prompt)
        assert (len(ids), begun) == (best.kept, best.begun)


@pytest.mark.parametrize("trained_on_words", ["words"], indirect=True)
def test_a_report_can_be_made(trained_on_words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_reports(monkeypatch)
    page = render([collect_run(str(trained_on_words), "best", "a run")])
    assert f"data.level={trained_on_words.name}" in page  # why there is no section on rare words


def test_what_words_cost_by_their_frequency_adds_up_to_the_score(run: Run) -> None:
    texts = dataset.prepare(Config.of(tiny.get_config())).splits.text
    groups = costs_by_frequency(run, texts["train"], [texts["test"]])
    assert [group.group for group in groups] == list(LEAST)
    assert sum(group.chars for group in groups) == len(texts["test"])
    bpc = run.score(run.split("test")).bpc
    assert sum(group.bits for group in groups) / len(texts["test"]) == pytest.approx(bpc, rel=1e-5)
    assert groups[0].bpc > groups[-1].bpc
    assert all(group.count > 0 for group in groups)


def _config(level: str) -> ConfigDict:
    config = tiny.get_config()
    config.data.level, _, config.data.rare = (level if "-" in level else f"{level}-spell").partition("-")
    config.data.vocab_size, config.sample.length = 400, 20
    config.train.average, config.model.softmax_head = 0.9, 100 if config.data.level == "words" else 0
    if level == "bpe":  # with ids of its own in each epoch, which begin at steps 0, 18 and 36
        config.data.bpe_dropout, config.data.batch_size, config.data.seq_len = 0.1, 64, 64
    return config
