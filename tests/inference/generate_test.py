"""Writing: what is drawn, from which tokens, and what it may depend on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.tokenizer import UNKNOWN_ID, Tokenizer, build_tokenizer
from lovecraft_jax.inference.generate import Sampling, encode_prompt, generate_tokens, sample_token
from lovecraft_jax.model.lm import LanguageModel, forward, make_model
from lovecraft_jax.runtime.errors import UserError

V, LENGTH = 11, 12
PROMPT = np.array([4, 1, 9], np.uint8)
BOLD = Sampling(temperature=1.0)
GREEDY = Sampling(temperature=0.0)

# Of five tokens, the first is the unknown: the others' shares are 40, 30, 20 and 10 percent.
SHARES = [0.5, 0.2, 0.15, 0.1, 0.05]


@pytest.fixture(scope="module", params=["fused", "auto"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    config = tiny.get_config()
    config.model.update({"layers": 1, "embed": 0, "backend": request.param})
    return make_model(config, V)


@pytest.fixture(scope="module")
def variables(model: LanguageModel) -> Any:
    """Weights large enough that what is written depends on what was read; the unknown is always the likeliest."""
    rng, ids = np.random.default_rng(1), jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.initial_carry(1), ids)
    drawn = jax.tree.map(lambda leaf: rng.normal(0, 2, leaf.shape).astype(np.float32), shapes)
    drawn["params"]["head_bias"][UNKNOWN_ID] = 50
    return drawn


def test_greedy_equals_refeeding_the_whole_prefix(model: LanguageModel, variables: Any) -> None:
    read = jax.jit(lambda x_BT: forward(model, variables, model.initial_carry(1), x_BT)[1][0])
    text = np.zeros(len(PROMPT) + LENGTH, np.int32)  # zeros stand behind what is read, and cannot be seen from there
    text[: len(PROMPT)] = PROMPT
    for n in range(len(PROMPT), len(text)):
        logits_V = np.array(read(text[None])[n - 1])
        logits_V[UNKNOWN_ID] = -np.inf
        text[n] = np.argmax(logits_V)
    written = whole(model, variables, GREEDY)
    np.testing.assert_array_equal(written[0], text[len(PROMPT) :])
    assert len(set(written[0].tolist())) > 4


def test_a_seed_writes_one_text_and_another_seed_another(model: LanguageModel, variables: Any) -> None:
    first, again, other = (whole(model, variables, BOLD, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_the_text_does_not_depend_on_its_pieces(model: LanguageModel, variables: Any) -> None:
    pieces = list(generate_tokens(model, variables, PROMPT, LENGTH, 0, BOLD, 3, chunk=5))
    assert [piece.shape for piece in pieces] == [(3, 5), (3, 5), (3, 2)]
    expected = whole(model, variables, BOLD, samples=3)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), expected)
    (one,) = generate_tokens(model, variables, PROMPT, LENGTH, 0, BOLD, 3, chunk=LENGTH + 1)
    np.testing.assert_array_equal(one, expected)


def test_a_sample_does_not_depend_on_how_many_there_are(model: LanguageModel, variables: Any) -> None:
    three, one = whole(model, variables, BOLD, samples=3), whole(model, variables, BOLD)
    np.testing.assert_array_equal(three[:1], one)
    assert len({row.tobytes() for row in three}) == 3


def test_every_position_is_drawn_anew(model: LanguageModel, variables: Any) -> None:
    uniform = {"params": jax.tree.map(np.zeros_like, variables["params"])}
    ids_SN = whole(model, uniform, BOLD, samples=300)
    pairs, share = 300 * (LENGTH - 1), 1 / (V - 1)
    assert abs(np.mean(ids_SN[:, 1:] == ids_SN[:, :-1]) - share) < 4 * (share * (1 - share) / pairs) ** 0.5


def test_the_text_depends_on_the_prompt(model: LanguageModel, variables: Any) -> None:
    (other,) = generate_tokens(model, variables, PROMPT[::-1].copy(), LENGTH, 0, GREEDY)
    assert np.any(other != whole(model, variables, GREEDY))


def test_top_1_equals_greedy(model: LanguageModel, variables: Any) -> None:
    top_1 = whole(model, variables, Sampling(temperature=1.5, top_k=1), seed=7)
    np.testing.assert_array_equal(top_1, whole(model, variables, GREEDY))


def test_the_unknown_is_never_written(model: LanguageModel, variables: Any) -> None:
    # `variables` make it the likeliest token everywhere.
    for sampling in (GREEDY, BOLD):
        assert np.all(whole(model, variables, sampling) != UNKNOWN_ID)


@pytest.mark.parametrize(
    ("sampling", "shares"),
    [
        (Sampling(1.0), [0, 0.4, 0.3, 0.2, 0.1]),
        (Sampling(0.0), [0, 1, 0, 0, 0]),
        (Sampling(1e-38), [0, 1, 0, 0, 0]),
        (Sampling(5e-324), [0, 1, 0, 0, 0]),
        (Sampling(0.5), [0, 16 / 30, 9 / 30, 4 / 30, 1 / 30]),  # their squares
        (Sampling(1.0, top_k=1), [0, 1, 0, 0, 0]),
        (Sampling(1.0, top_k=3), [0, 4 / 9, 3 / 9, 2 / 9, 0]),
        (Sampling(1.0, top_k=4), [0, 0.4, 0.3, 0.2, 0.1]),
        (Sampling(1.0, top_k=50), [0, 0.4, 0.3, 0.2, 0.1]),
        (Sampling(1.0, top_p=0.01), [0, 1, 0, 0, 0]),
        (Sampling(1.0, top_p=0.39), [0, 1, 0, 0, 0]),
        (Sampling(1.0, top_p=0.41), [0, 4 / 7, 3 / 7, 0, 0]),
        (Sampling(1.0, top_p=0.75), [0, 4 / 9, 3 / 9, 2 / 9, 0]),
        (Sampling(1.0, top_p=0.95), [0, 0.4, 0.3, 0.2, 0.1]),
        (Sampling(1.0, top_k=3, top_p=0.75), [0, 4 / 7, 3 / 7, 0, 0]),  # 7/9 reach 0.75, 7/10 did not
        (Sampling(0.5, top_p=0.5), [0, 1, 0, 0, 0]),  # 16/30 reach it
    ],
)
def test_tokens_are_drawn_with_the_shares_that_are_left(sampling: Sampling, shares: list[float]) -> None:
    draws = 3000
    rows = jnp.tile(jnp.log(jnp.array([SHARES])), (draws, 1))
    ids = np.asarray(sample_token(rows, jax.random.uniform(jax.random.key(0), (draws,)), sampling))
    counts, expected = np.bincount(ids, minlength=5), np.array(shares)
    assert np.all(counts[expected == 0] == 0)
    assert np.all(np.abs(counts / draws - expected) <= 4 * np.sqrt(expected * (1 - expected) / draws))


@pytest.mark.parametrize("sampling", [Sampling(1.0, top_k=2), Sampling(1.0, top_p=0.4)])
def test_of_equally_likely_tokens_no_more_stay_than_were_asked_for(sampling: Sampling) -> None:
    rows = jnp.log(jnp.tile(jnp.array([[0.2, 0.25, 0.05, 0.25, 0.25]]), (300, 1)))
    assert set(sample_token(rows, jax.random.uniform(jax.random.key(0), (300,)), sampling).tolist()) == {1, 3}


@pytest.mark.parametrize("sampling", [Sampling(1.0, top_k=1), Sampling(1.0, top_p=0.3)])
def test_each_row_is_cut_by_its_own_logits(sampling: Sampling) -> None:
    rows = jnp.log(jnp.array([SHARES, SHARES[::-1]] * 50))
    ids = sample_token(rows, jax.random.uniform(jax.random.key(0), (100,)), sampling)
    np.testing.assert_array_equal(ids, [1, 4] * 50)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"temperature": -0.1}, "temperature=-0.1: expected a finite number of at least 0"),
        ({"temperature": float("inf")}, "temperature=inf: expected a finite number"),
        ({"temperature": float("nan")}, "temperature=nan: expected a finite number"),
        ({"top_k": -1}, "top_k=-1: expected at least 0"),
        ({"top_p": 0.0}, "top_p=0.0: expected above 0 and up to 1"),
        ({"top_p": 1.1}, "top_p=1.1: expected above 0 and up to 1"),
        ({"top_p": float("nan")}, "top_p=nan: expected above 0 and up to 1"),
    ],
)
def test_a_sampling_that_makes_no_sense_is_an_error_with_its_value(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Sampling(**settings)


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    return build_tokenizer("chars", 'the cafe\n"ae"', make_cleaning("ascii"))


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("the cafe", "the cafe"),
        ("the caf\u00e9", "the cafe"),
        ("\u201c\u00e6\u201d\r\n", '"ae"\n'),
        ("the\u00ad \ufeffcafe", "the cafe"),
        ("the cafe\u0301", "the cafe"),  # the accent as a character of its own
        ("", "\n"),
        ("\u00ad", "\n"),
    ],
)
def test_a_prompt_is_cleaned_as_the_training_text_was(letters: Tokenizer, prompt: str, read: str) -> None:
    assert letters.decode(encode_prompt(letters, prompt)) == read


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("The cafe", "'T'"),
        ("he that teaches Bob", "'s' 'B' 'o' 'b'"),
        ("\u2603 tea \u2603", "'\u2603'"),  # dropped in training; a user should know
        ("\u00c9t\u00e9", "'E'"),
    ],
)
def test_a_prompt_that_training_never_showed_is_an_error_that_names_it(
    letters: Tokenizer, prompt: str, named: str
) -> None:
    with pytest.raises(UserError) as error:
        encode_prompt(letters, prompt)
    assert (
        str(error.value) == f"--prompt={prompt!r}: this model's training text never had {named}; name a prompt without"
    )


def whole(model: LanguageModel, variables: Any, sampling: Sampling, seed: int = 0, samples: int = 1) -> np.ndarray:
    """All new tokens at once, [S, LENGTH]."""
    (ids_SN,) = generate_tokens(model, variables, PROMPT, LENGTH, seed, sampling, samples)
    assert ids_SN.shape == (samples, LENGTH)
    return ids_SN
