"""Generation: which tokens are sampled, how often, and what the samples depend on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.data.char_tokenizer import CharTokenizer
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.inference.generate import encode_prompt, generate_tokens
from lovecraft_jax.inference.sampling import Sampling, sample_token
from lovecraft_jax.model.lm import LanguageModel, forward, make_model
from lovecraft_jax.runtime.errors import UserError
from tests.helpers.untrained import random_variables

V, LENGTH = 11, 12
PROMPT = np.array([4, 1, 9], np.uint8)
PLAIN = Sampling(temperature=1.0)
GREEDY = Sampling(temperature=0.0)
LETTERS = CharTokenizer.of('the cafe\n"ae"', make_cleaning("ascii"))

# Five tokens, of which the first is the unknown: without it the others have 40, 30, 20 and 10 percent.
PROBS = [0.5, 0.2, 0.15, 0.1, 0.05]


@pytest.fixture(scope="module", params=["fused", "auto"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    config = tiny.get_config()
    config.model.update({"layers": 1, "embed": 0, "backend": request.param})
    return make_model(config, V)


@pytest.fixture(scope="module")
def variables(model: LanguageModel) -> Any:
    """Weights large enough that samples depend on the prompt; the unknown is always the most likely token."""
    weights = random_variables(model, 2, seed=1)
    weights["params"]["head_bias"][UNKNOWN_ID] = 50
    return weights


@pytest.mark.slow
def test_greedy_decoding_equals_running_the_model_on_the_whole_prefix(model: LanguageModel, variables: Any) -> None:
    logits_of = jax.jit(lambda x_BT: forward(model, variables, model.initial_carry(1), x_BT)[1][0])
    text = np.zeros(len(PROMPT) + LENGTH, np.int32)  # the zeros after the prefix cannot affect its logits
    text[: len(PROMPT)] = PROMPT
    for n in range(len(PROMPT), len(text)):
        logits_V = np.array(logits_of(text[None])[n - 1])
        logits_V[UNKNOWN_ID] = -np.inf
        text[n] = np.argmax(logits_V)
    (generated,) = generate_ids(model, variables, GREEDY, samples=1)
    np.testing.assert_array_equal(generated, text[len(PROMPT) :])
    assert len(set(generated.tolist())) > 4


@pytest.mark.slow
def test_samples_depend_on_the_seed_and_on_neither_the_chunk_size_nor_their_number(
    model: LanguageModel, variables: Any
) -> None:
    three = generate_ids(model, variables, PLAIN)
    np.testing.assert_array_equal(generate_ids(model, variables, PLAIN), three)
    assert len({row.tobytes() for row in (*three, *generate_ids(model, variables, PLAIN, seed=1))}) == 6
    pieces = list(generate_tokens(model, variables, PROMPT, LENGTH, 0, PLAIN, 3, chunk=5))
    assert [piece.shape for piece in pieces] == [(3, 5), (3, 5), (3, 2)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), three)
    (one,) = generate_tokens(model, variables, PROMPT, LENGTH, 0, PLAIN, samples=1, chunk=LENGTH + 1)
    np.testing.assert_array_equal(one, three[:1])


@pytest.mark.slow
def test_only_the_first_token_is_restricted_however_the_text_is_cut(model: LanguageModel, variables: Any) -> None:
    allowed_V = np.isin(np.arange(V), [3, 7])
    texts = []
    for length, chunk in (7, None), (7, 3), (7, 2), (5, 9), (1, None):
        pieces = list(generate_tokens(model, variables, PROMPT, length, 0, PLAIN, 3, chunk, allowed_V))
        assert len(pieces) == 1 or chunk in (2, 3)
        texts.append(np.concatenate(pieces, axis=1))
        assert texts[-1].shape == (3, length)
    assert all(np.array_equal(text, texts[0][:, : text.shape[1]]) for text in texts)
    assert set(texts[0][:, 0].tolist()) <= {3, 7}
    assert not set(texts[0][:, 1:].ravel().tolist()) <= {3, 7}


@pytest.mark.slow
def test_positions_are_sampled_independently(model: LanguageModel, variables: Any) -> None:
    zeros = {"params": jax.tree.map(np.zeros_like, variables["params"])}
    ids_SN = np.concatenate([generate_ids(model, zeros, PLAIN, seed=seed) for seed in range(100)])
    pairs, prob = 300 * (LENGTH - 1), 1 / (V - 1)
    assert abs(np.mean(ids_SN[:, 1:] == ids_SN[:, :-1]) - prob) < 4 * (prob * (1 - prob) / pairs) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampling", "probs"),
    [
        (Sampling(1.0), [0, 0.4, 0.3, 0.2, 0.1]),
        (Sampling(0.0), [0, 1, 0, 0, 0]),
        (Sampling(5e-324), [0, 1, 0, 0, 0]),
        (Sampling(0.5), [0, 16 / 30, 9 / 30, 4 / 30, 1 / 30]),  # probabilities squared
        (Sampling(1.0, top_k=3), [0, 4 / 9, 3 / 9, 2 / 9, 0]),
        (Sampling(1.0, top_k=50), [0, 0.4, 0.3, 0.2, 0.1]),
        (Sampling(1.0, top_p=0.39), [0, 1, 0, 0, 0]),
        (Sampling(1.0, top_p=0.41), [0, 4 / 7, 3 / 7, 0, 0]),
        (Sampling(1.0, top_p=0.75), [0, 4 / 9, 3 / 9, 2 / 9, 0]),
        (Sampling(1.0, top_p=0.95), [0, 0.4, 0.3, 0.2, 0.1]),
        (Sampling(1.0, top_k=3, top_p=0.75), [0, 4 / 7, 3 / 7, 0, 0]),  # 7/9 reaches 0.75, 7/10 does not
        (Sampling(0.5, top_p=0.5), [0, 1, 0, 0, 0]),  # 16/30 reaches 0.5
        (Sampling(9e37), [0, 0.25, 0.25, 0.25, 0.25]),
        (Sampling(1e300, top_k=2), [0, 0.5, 0.5, 0, 0]),
        (Sampling(3e38, top_p=0.3), [0, 0.5, 0.5, 0, 0]),  # 1/4 does not reach 0.3
        (Sampling(1.0, top_p=5e-324), [0, 1, 0, 0, 0]),
    ],
)
def test_temperature_top_k_and_top_p_give_these_probabilities(sampling: Sampling, probs: list[float]) -> None:
    draws = 3000
    rows = jnp.tile(jnp.log(jnp.array([PROBS])), (draws, 1))
    ids = sample(rows, sampling)
    counts, expected = np.bincount(ids, minlength=5), np.array(probs)
    assert np.all(counts[expected == 0] == 0)
    assert np.all(np.abs(counts / draws - expected) <= 4 * np.sqrt(expected * (1 - expected) / draws))


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [Sampling(1.0, top_k=2), Sampling(1.0, top_p=0.41)])
def test_rows_are_filtered_independently_and_ties_keep_no_more_tokens(sampling: Sampling) -> None:
    rows = jnp.log(jnp.array([PROBS, [0.2, 0.25, 0.05, 0.25, 0.25]] * 150))
    ids = sample(rows, sampling)
    assert set(ids[::2].tolist()) == {1, 2}
    assert set(ids[1::2].tolist()) == {1, 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature=-0.1: expected a finite number of at least 0"),
        ({"temperature": float("inf")}, "temperature=inf: expected a finite number"),
        ({"temperature": float("nan")}, "temperature=nan: expected a finite number"),
        ({"top_k": -1}, "top_k=-1: expected a whole number of at least 0"),
        ({"top_p": 0.0}, "top_p=0.0: expected a number above 0 and up to 1"),
        ({"top_p": 1.1}, "top_p=1.1: expected a number above 0 and up to 1"),
        ({"top_p": float("nan")}, "top_p=nan: expected a number above 0 and up to 1"),
    ],
)
def test_sampling_parameters_out_of_range_raise(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("\u201c\u00e6\u201d\r\n", '"ae"\n'),
        ("the\u00ad \ufeffcafe", "the cafe"),
        ("the cafe\u0301", "the cafe"),  # the accent as a character of its own
        ("", "\n"),
        ("\u00ad", "\n"),
    ],
)
def test_prompts_are_cleaned_like_the_training_text(prompt: str, cleaned: str) -> None:
    assert LETTERS.decode(encode_prompt(LETTERS, prompt).ids) == cleaned


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("he that teaches Bob", "'s' 'B' 'o' 'b'"),
        ("\u2603 tea \u2603", "'\u2603'"),  # cleaning drops it, which the user should know
        ("\u00c9t\u00e9", "'E'"),
    ],
)
def test_a_prompt_with_unseen_characters_raises_and_names_them(prompt: str, named: str) -> None:
    with pytest.raises(UserError, match=f"^prompt={prompt!r}: the training text does not contain {named}; "):
        encode_prompt(LETTERS, prompt)


def sample(logits_SV: jax.Array, sampling: Sampling) -> np.ndarray:
    """One token for each row."""
    uniform_S = jax.random.uniform(jax.random.key(0), (len(logits_SV),))
    return np.asarray(jax.jit(sample_token, static_argnames="sampling")(logits_SV, uniform_S, sampling))


def generate_ids(
    model: LanguageModel, variables: Any, sampling: Sampling, seed: int = 0, samples: int = 3
) -> np.ndarray:
    """The ids of all samples [S, LENGTH]."""
    (ids_SN,) = generate_tokens(model, variables, PROMPT, LENGTH, seed, sampling, samples)
    assert ids_SN.shape == (samples, LENGTH)
    return ids_SN
