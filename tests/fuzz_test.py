"""Any files as a corpus, any text as a prompt, any value of a setting or an argument: it works, or raises UserError.

FUZZ_TRIES=20000 tries so many inputs, and others at each start; the suite tries a few hundred, always the same."""

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from configs import tiny
from lovecraft_jax.config import Config, all_settings
from lovecraft_jax.data import dataset
from lovecraft_jax.data.batches import Batches
from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.inference.generate import encode_prompt
from lovecraft_jax.inference.sampling import Sampling, sample_token
from lovecraft_jax.run import Run, load_run
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.training import loop
from lovecraft_jax.training.compiled import dispatch_steps
from lovecraft_jax.training.optimizer import make_optimizer
from lovecraft_jax.training.progress import Progress
from tests.helpers.untrained import untrained_run

TRIES = int(os.environ.get("FUZZ_TRIES", "360"))
pytestmark = pytest.mark.timeout(240 + TRIES)

TEXT = (
    st.text(max_size=40)
    | st.text("The ancient house")
    | st.text("ae \n\r\t\0\x1b'\u0301\u00e9\ufeff\u2028\u4e2d\ud800\U0001f419", max_size=40)
)
HUGE = st.sampled_from([2**31 - 1, 2**31, 2**32, 2**63, 10**30, 10**400])
NUMPY = st.sampled_from([np.int64(5), np.float32(0.5), np.bool_(1)])
NUMBERS = st.integers(-3, 70) | st.integers(-(10**30), 10**30) | HUGE | NUMPY | st.floats()
VALUES = st.none() | st.booleans() | NUMBERS | TEXT | st.binary(max_size=9)
ANYTHING = VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(VALUES, VALUES, max_size=3) | st.builds(object)
FILE = (
    st.binary(max_size=300)
    | st.builds(lambda text, times: text.encode("utf-8", "surrogatepass") * times, TEXT, st.integers(1, 99))
    | st.builds(str.encode, st.text("The old house.\n", min_size=60, max_size=400))
)
NAME = st.binary(min_size=1, max_size=9).filter(lambda name: not set(name) & set(b"/\0")).map(os.fsdecode)


def fuzz(share: float) -> Callable:
    """How a test tries its `share` of all inputs. Each may take thirty seconds: some compile, on a busy machine."""
    slow, few = (
        [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        "FUZZ_TRIES" not in os.environ,
    )
    return settings(
        max_examples=max(1, int(TRIES * share)),
        deadline=30_000,
        derandomize=few,
        database=None,
        suppress_health_check=slow,
    )


def mostly(valid: st.SearchStrategy) -> st.SearchStrategy:
    """Values that are right in four of five cases, so that what comes after the checks is reached too."""
    return st.sampled_from([valid, valid, valid, valid, ANYTHING]).flatmap(lambda values: values)


def result(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """What a call returns, or None where it raises UserError; every other error fails the test."""
    with contextlib.suppress(UserError):
        return function(*args, **kwargs)


@fuzz(0.25)
@given(st.dictionaries(NAME, FILE, min_size=1, max_size=4), st.integers(0, 22), FILE, st.data())
def test_any_files_are_a_corpus_that_decodes_to_its_text_or_raise(
    files: dict[str, bytes], more: int, content: bytes, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (files | {str(n): content + b"%d" % n for n in range(more)}).items():
            Path(folder, f"{name}.txt").write_bytes(text)
        plain = tiny.get_config().to_dict()
        plain["data"] |= {"alphabet": data.draw(st.sampled_from(["ascii", "unicode"])), "corpus": folder}
        plain["data"]["share"] = data.draw(st.sampled_from([1.0, 0.5, 1e-300]))
        found = result(dataset.prepare, Config.of(plain))
        if found is None:
            return
        for part, encoded in found.encoded.items():
            text = found.splits.text[part]
            assert encoded.n_chars == len(text) > 0
            kept = "".join(char if char in found.tokenizer.chars else "\ufffd" for char in text)
            assert found.tokenizer.decode(encoded.ids) == kept
        result(Batches, found.encoded["train"].ids, 2, 3, "stream", 0)


@fuzz(0.05)
@given(TEXT | st.text("*?[].~/a", max_size=9))
def test_any_name_of_a_corpus_raises_where_there_is_no_such_file(name: str) -> None:
    assume(name and not name.startswith("/"))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), pytest.raises(UserError):
        dataset.prepare(Config.of({**tiny.get_config().to_dict(), "data": {**tiny.get_config().data, "corpus": name}}))


@fuzz(0.1)
@given(TEXT)
def test_any_text_is_a_prompt_and_has_a_score_or_raises(run: Run, text: str) -> None:
    prompt = result(encode_prompt, run.tokenizer, text)
    if prompt is not None and len(prompt.ids) == 1:  # each length is compiled anew
        assert len(run.generate(text, length=2)[0]) == 2
    encoded = result(run.encode, text)
    score = encoded and result(run.score, encoded)
    assert score is None or 0 < score.bpc < 1000


@fuzz(0.25)
@given(st.data())
def test_any_argument_of_the_api_works_or_raises(run: Run, data: st.DataObject) -> None:
    draw, numbers = data.draw, mostly(st.integers(1, 2**20))
    sampling = result(Sampling, draw(mostly(st.floats(0, 1e308))), draw(numbers), draw(mostly(st.floats(0, 1))))
    result(run.stream, "T", draw(numbers), draw(numbers), sampling or draw(ANYTHING), draw(numbers), draw(numbers))
    ids = np.array(
        data.draw(st.lists(st.integers(-1, 40), max_size=8)), data.draw(st.sampled_from([np.int16, np.int64, float]))
    )
    for function, *args in (
        (Sampling, draw(ANYTHING), draw(ANYTHING), draw(ANYTHING)),
        (run.encode, draw(ANYTHING)),
        (run.split, draw(ANYTHING)),
        (run.score, draw(ANYTHING)),
        (run.teacher_forced, draw(mostly(st.just(ids))), draw(mostly(st.sampled_from([0, 8, 10**12])))),
        (load_run, draw(ANYTHING), draw(ANYTHING)),
        (loop.train, draw(ANYTHING), draw(ANYTHING), draw(ANYTHING)),
    ):
        result(function, *args)


@fuzz(0.25)
@given(
    st.dictionaries(st.sampled_from([*all_settings(), "data", "model", "model.lstm", "x"]), st.none(), max_size=4),
    st.data(),
)
def test_any_values_are_a_config_that_begins_or_raises(
    run: Run, bundled: dataset.Data, values: dict[str, Any], data: st.DataObject
) -> None:
    values = {name: data.draw(_value(name)) for name in values}
    plain = tiny.get_config().to_dict()
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        if isinstance(plain.get(section, plain), dict):
            plain.get(section, plain)[key] = value
    config = result(Config.of, plain)
    if config is None:
        return
    assert Config.of(json.loads(json.dumps(config.to_dict()))) == config
    result(_begin, config, bundled, run)


def _value(name: str) -> st.SearchStrategy:
    """Values of a setting, most of them of its type."""
    field = all_settings().get(name)
    if field is None or field.type is bool:
        return mostly(st.booleans())
    if field.type is str:
        choices = field.metadata["expected"].removeprefix("one of ").split(", ")
        return mostly(st.sampled_from([*choices, "adamw", "sgd", ""]))
    return mostly(NUMBERS | st.floats(0, 1) if field.type is float else st.integers(1, 40) | HUGE)


def _begin(config: Config, data: dataset.Data, run: Run) -> None:
    """What `loop.Training` does before it compiles."""
    ids, section = data.encoded["train"].ids, config.data
    batches = dataset.make_batches(config, data)
    total = Progress(section.batch_size, section.seq_len, len(ids), len(ids)).total_steps(config.train)
    assert total >= 1
    assert batches.at(total - 1, 1).x_BT.shape == (1, section.batch_size, section.seq_len)
    optimizer = make_optimizer(config.optimizer, total)
    assert all(0 <= optimizer.schedule(jnp.float32(step)) <= 1 for step in (0, 1, 10**9))
    assert dispatch_steps(config) >= 1
    sample = config.sample
    prompt = encode_prompt(run.tokenizer, sample.prompt, "config.sample.prompt")
    assert run.stream("", sample.length, config.seed, Sampling(sample.temperature, sample.top_k, sample.top_p))
    assert len(prompt.ids)


@pytest.mark.slow
@fuzz(0.1)
@given(
    st.lists(st.integers(-99, 99), min_size=5, max_size=5),
    st.sampled_from([0.125, 1e30]),
    st.floats(0, allow_infinity=False),
    st.integers(0, 6),
    st.floats(0, 1, exclude_min=True),
)
def test_only_tokens_that_may_be_sampled_are(
    logits: list[int], scale: float, temperature: float, top_k: int, top_p: float
) -> None:
    uniform_S = jnp.array([0.0, 0.3, 0.6, 1 - 2**-23])
    rows_SV = jnp.tile(jnp.array([logits], jnp.float32) * scale, (4, 1))
    ids_S = np.asarray(sample_token(rows_SV, uniform_S, Sampling(temperature, top_k, top_p)))
    assert UNKNOWN_ID not in ids_S
    order = sorted(range(1, 5), key=lambda token: -logits[token])
    assert set(ids_S.tolist()) <= set(order[: top_k or None])


@pytest.fixture(scope="module")
def run() -> Run:
    """A model of few characters that was not trained."""
    return dataclasses.replace(untrained_run("The ancient house stood\n"), corpus={"name": "x", "sha256": "0"})


@pytest.fixture(scope="module")
def bundled() -> dataset.Data:
    return dataset.prepare(Config.of(tiny.get_config()))
