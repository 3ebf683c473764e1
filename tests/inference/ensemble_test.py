"""Ensembles: against NumPy on the members' own logits, and against a single run; what their runs must share."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.data.char_tokenizer import CharTokenizer
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.data.tokenizer import build_tokenizer
from lovecraft_jax.inference.adaptive import AdaptiveScorer, Rates, adaptive
from lovecraft_jax.inference.generate import generate_tokens
from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.inference.scoring import CHUNK, Scorer, fold, single_row
from lovecraft_jax.model.lm import forward, make_model
from lovecraft_jax.run import Run, ensemble, load_run
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.training import loop
from tests.conftest import Command
from tests.helpers.untrained import random_variables

pytestmark = pytest.mark.usefixtures("unoptimized")

TEXT = "the old house, grey as fog\nstood where no house could be, and no moon shone on it." * 3
GREEDY = Sampling(temperature=0.0)
jitted_forward = jax.jit(forward, static_argnums=0)


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    """Two that share the vocabulary alone: one has running statistics, the other cannot be folded for decoding."""
    return [untrained(0, layers=1, norm="batch_input"), untrained(1, units=9, embed=5, norm="layer", backend="scan")]


def test_scores_are_of_the_geometric_mean_of_probabilities_normalised_again(runs: list[Run]) -> None:
    both = ensemble(runs)
    text = both.encode(TEXT)
    logs_NV = mean_log_probs(runs, np.insert(text.ids[:-1], 0, both.tokenizer.start_id))
    logs_NV -= np.log(np.exp(logs_NV).sum(axis=1, keepdims=True))
    nats_N = -logs_NV[np.arange(len(text.ids)), text.ids]
    score = both.score(text, bce=True)
    assert score.nats == pytest.approx(nats_N.sum(), rel=1e-5)
    target = np.eye(both.tokenizer.size)[text.ids] == 1
    right_NV = np.where(target, np.exp(logs_NV), 1 - np.exp(logs_NV))
    assert score.binary == pytest.approx(-np.log(right_NV).sum(), rel=1e-3)
    assert all(abs(run.score(text).nats - score.nats) > 1 for run in runs)


def test_temperature_0_takes_the_most_likely_token_of_the_mean(runs: list[Run]) -> None:
    """While generating, one token at a time, and over a given text."""
    both, prompt, length = ensemble(runs), "the ol", 30
    (generated,) = both.generate(prompt, length, sampling=GREEDY)
    ids = both.encode(prompt + generated).ids
    logs_NV = mean_log_probs(runs, ids[:-1])
    logs_NV[:, UNKNOWN_ID] = -np.inf
    likeliest = logs_NV.argmax(axis=1)
    np.testing.assert_array_equal(likeliest[len(prompt) - 1 :], ids[len(prompt) :])
    np.testing.assert_array_equal(both.teacher_forced(ids, seq_len=len(ids)), likeliest)
    assert len(set(generated)) > 2
    for run in runs:
        assert np.any(mean_log_probs([run], ids[:-1]).argmax(axis=1) != likeliest)


def test_samples_have_the_distribution_of_the_mean(runs: list[Run]) -> None:
    both = ensemble(runs)
    probs = np.exp(mean_log_probs(runs, both.encode("the ol").ids)[-1])
    probs[UNKNOWN_ID] = 0
    probs /= probs.sum()
    draws = 4000
    prompt = both.encode("the ol").ids
    (first,) = generate_tokens(both.model, both.variables, prompt, 1, 3, Sampling(1.0), draws)
    shares = np.bincount(first[:, 0], minlength=len(probs)) / draws
    assert np.all(np.abs(shares - probs) <= 4.5 * np.sqrt(probs * (1 - probs) / draws))


def test_one_run_or_two_equal_ones_are_as_the_run(runs: list[Run]) -> None:
    run = runs[0]
    assert ensemble([run]) is run
    text, two = run.encode(TEXT), ensemble([run, run])
    assert two.score(text).nats == pytest.approx(run.score(text).nats, rel=1e-6)
    assert two.generate("the", 40, seed=1) == run.generate("the", 40, seed=1)


def test_an_ensemble_among_the_runs_counts_as_its_members(runs: list[Run]) -> None:
    nested, flat = ensemble([ensemble(runs), runs[0]]), ensemble([*runs, runs[0]])
    assert nested.members == flat.members
    assert nested.model == flat.model


@pytest.mark.slow
def test_an_adaptive_score_teaches_every_member(runs: list[Run]) -> None:
    both = ensemble(runs)
    text, start = both.encode(TEXT * 6), both.tokenizer.start_id
    scorer = AdaptiveScorer.of(Scorer(both.model, start), both.variables, text)
    static = both.score(text).nats
    assert scorer.score(text, Rates(0.0, 0.0)).nats == pytest.approx(static, rel=1e-6)
    assert scorer.score(text, Rates(2e-3, 0.0)).nats < static - 10
    method = adaptive(both.model, scorer.rms, Rates(2e-3, 0.0))
    state, _ = fold(method.step, method.init(both.variables, 1), single_row(text.ids, start, CHUNK), CHUNK)
    for run, taught in zip(both.members, both.model.split_variables(state.variables), strict=True):
        assert dataclasses.replace(run, variables=taught).score(text).nats < run.score(text).nats - 10


@pytest.mark.slow
def test_the_commands_take_several_runs(trained: Path, other: Path, command: Command) -> None:
    workdirs = (f"--workdir={trained}", f"--workdir={other}")
    run = load_run([trained, str(other)])
    done = command("evaluate", *workdirs, "--split=valid", "--bce")
    assert (done.returncode, done.stderr) == (0, "")
    found, score = json.loads(done.stdout), run.score(run.split("valid"), bce=True)
    assert found["step"] == run.steps == [40, 10]
    assert [found[key] for key in ("bpc", "bce")] == pytest.approx([score.bpc, score.bce], rel=1e-6)

    done = command("sample", *workdirs, "--prompt=The", "--length=30", "--seed=2", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["samples"], found["step"]) == (run.generate("The", 30, seed=2), [40, 10])


@pytest.mark.slow
def test_an_ensemble_reads_a_split_of_runs_that_share_it(trained: Path, other: Path) -> None:
    first, second = load_run(trained), load_run(other)
    splits = first.corpus["splits"]
    moved = splits | {"train": splits["train"][1:], "test": [*splits["test"], splits["train"][0]]}
    for changes, named in (
        ({"sha256": "f" * 64}, "its sha256[0:] is 'ffffffffff', that of"),
        ({"splits": moved}, "its splits.train[0:] is ["),
        ({"split_rule": 1}, "its split_rule is 1, that of"),
        ({"characters": first.corpus["characters"] | {"valid": 7}}, "its characters.valid is 7, that of"),
    ):
        both = ensemble([first, dataclasses.replace(second, corpus=second.corpus | changes)])
        with pytest.raises(UserError) as raised:
            both.split("test")
        message = str(raised.value)
        assert message.startswith(f"workdir={other}: {named}")
        assert message.endswith("give an ensemble runs of the same corpus and split, or another text")
        assert len(message.splitlines()) == 1
        assert both.score(both.encode(TEXT)).tokens == len(TEXT)
    named_otherwise = dataclasses.replace(second, corpus=second.corpus | {"name": "tales", "path": "/elsewhere"})
    assert ensemble([first, named_otherwise]).split("test").n_chars == first.corpus["characters"]["test"]


def test_runs_of_other_characters_or_cleaning_raise_with_the_first_difference(runs: list[Run]) -> None:
    first = runs[0]
    more, unicode = untrained(1, TEXT + "Q!"), untrained(1, alphabet="unicode")
    for other, named in (
        (more, "workdir=/runs/1: its chars[2:] is '!,.Qabcdef', that of /runs/0 ',.abcdefgh': "),
        (unicode, "workdir=/runs/1: its cleaning.alphabet is 'unicode', that of /runs/0 'ascii': "),
    ):
        with pytest.raises(UserError, match="of the same vocabulary and cleaning") as raised:
            ensemble([first, other])
        assert str(raised.value).startswith(named)
        assert len(str(raised.value).splitlines()) == 1
    words, bpe = (
        dataclasses.replace(run, tokenizer=build_tokenizer(data, TEXT, first.tokenizer.cleaning))
        for run, level in zip(runs, ("words", "bpe"), strict=True)
        for data in [dataclasses.replace(Config.of(run.config).data, level=level)]
    )
    with pytest.raises(UserError, match=r"^workdir=/runs/1: its data\.level is 'bpe', that of /runs/0 'words': "):
        ensemble([words, bpe])
    with pytest.raises(UserError, match="expected the folder of a run, or of several"):
        load_run([])
    with pytest.raises(UserError, match="given twice"):
        load_run(["runs/a", "runs/../runs/a/"])


def mean_log_probs(runs: Sequence[Run], ids: np.ndarray) -> np.ndarray:
    """The mean [N, V] of the log-probabilities that each run gives to the token after each of `ids`, in float64."""
    found = []
    for run in runs:
        _, logits_1NV = jitted_forward(run.model, run.variables, run.model.initial_carry(1), ids[None])
        logits_NV = np.asarray(logits_1NV[0], np.float64)
        found.append(logits_NV - np.log(np.exp(logits_NV).sum(axis=1, keepdims=True)))
    return np.mean(found, axis=0)


def untrained(seed: int, text: str = TEXT, alphabet: str = "ascii", **changes: Any) -> Run:
    config = tiny.get_config()
    config.model.update(changes)
    tokenizer = CharTokenizer.of(text, make_cleaning(alphabet))
    model = make_model(config, tokenizer.size)
    variables = random_variables(model, 1.5, seed)
    variables["params"]["head_bias"][:] = 0  # or the likeliest token would always be the same
    return Run(config, tokenizer, model, variables, 0, {}, epath.Path(f"/runs/{seed}"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run on the text of `trained`, of another cell and size."""
    workdir = tmp_path_factory.mktemp("other") / "run"
    config = tiny.get_config()
    config.model.update({"cell": "gru", "units": 12, "layers": 1})
    config.train.update({"steps": 10, "eval_every": 10})
    loop.train(config, str(workdir))
    return workdir
