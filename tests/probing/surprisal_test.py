"""What each token costs: the same as the final score in all, and the same whatever else is read beside it."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from lovecraft_jax.data import dataset
from lovecraft_jax.data.tokenizer import Encoded
from lovecraft_jax.inference.forward_texts import CHUNK, pack
from lovecraft_jax.probing import surprisal
from lovecraft_jax.probing.surprisal import PAGE, bits
from lovecraft_jax.run import Run, load_run
from tests.helpers.untrained import read_slowly, untrained_run

LETTERS = "abcde .\n"


@pytest.fixture(scope="module")
def run() -> Run:
    return untrained_run(LETTERS)


def text_of(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list(LETTERS), length))


@pytest.mark.parametrize("lengths", [[1], [CHUNK], [CHUNK + 1, 1, CHUNK, 3], [20, 900, 30, 40, 700, 300]])
def test_packed_texts_do_not_overlap_and_rows_are_as_long_as_the_longest_text(lengths: list[int]) -> None:
    packing = pack(lengths)
    assert packing.steps == -(-max(lengths) // CHUNK) * CHUNK
    texts = [np.full(length, n + 1) for n, length in enumerate(lengths)]
    packed_TB = packing.to_rows(texts, int)
    assert packed_TB.shape == (packing.steps, packing.rows)
    assert np.count_nonzero(packed_TB) == sum(lengths)
    for text, unpacked in zip(texts, packing.to_texts(packed_TB), strict=True):
        np.testing.assert_array_equal(unpacked, text)


def test_the_longest_texts_are_packed_first() -> None:
    assert pack([200, 200, 800, 800]).rows == 2


def test_each_token_costs_what_the_model_gives_it(run: Run) -> None:
    text = text_of(12)
    ids = run.tokenizer.encode(text).ids
    expected = [-read_slowly(run, text[:n])[0][ids[n]] / np.log(2) for n in range(len(text))]
    np.testing.assert_allclose(bits(run, [text])[0], expected, rtol=1e-4)


def test_all_tokens_cost_the_final_score(run: Run) -> None:
    text = text_of(2 * CHUNK + 7)
    score = run.score(run.tokenizer.encode(text))
    assert bits(run, [text])[0].sum(dtype=np.float64) / len(text) == pytest.approx(score.bpc, rel=1e-5)


def test_what_training_never_showed_costs_its_spelling_where_it_stands(run: Run) -> None:
    known, unknown = bits(run, ["aZbZ", "abcd"])[0], run.tokenizer.encode("aZbZ")
    assert unknown.extra_nats > 0
    assert known.sum() == pytest.approx(run.score(unknown).bpc * 4, rel=1e-5)
    assert min(known[1], known[3]) > np.log2(96)


def test_no_text_is_read_into_another(run: Run) -> None:
    texts = [text_of(length, seed=length) for length in (900, 30, 300, 1, 550)]
    for together, text in zip(bits(run, texts), texts, strict=True):
        np.testing.assert_allclose(together, bits(run, [text])[0], rtol=1e-5)


def test_each_held_out_tale_has_its_own_final_score(trained: Path) -> None:
    run = load_run(str(trained))
    tales = dataset.prepare(run.config, run.corpus, run.tokenizer).splits.by_tale
    found = surprisal.study(run, tales)
    assert [(score.split, score.tale) for score in found.scores] == [
        (s, t) for s in ("valid", "test") for t in tales[s]
    ]
    for score in found.scores:
        text = run.tokenizer.encode(tales[score.split][score.tale])
        assert score.chars == text.n_chars
        assert score.bpc == pytest.approx(run.score(text).bpc, rel=1e-5)


def test_the_page_is_the_one_nearest_the_mean_of_its_tale(run: Run) -> None:
    paragraphs = [text_of(length, seed=length).replace("\n", " ") + "e" for length in (900, 1300, 700, 1500, 400)]
    text = "\n\n".join(paragraphs)
    page = surprisal.study(run, {"train": {}, "test": {"first": text, "second": "b"}}).page
    (cost,) = bits(run, [text])
    shown = "".join(page.tokens)
    assert page.tale == "first"
    assert text[page.offset :].startswith(shown)
    np.testing.assert_allclose(page.bits, cost[page.offset : page.offset + len(shown)], rtol=1e-5)
    assert PAGE // 2 < len(shown) <= PAGE
    assert text[page.offset + len(shown)] == " "
    starts = [0] + [match.end() for match in re.finditer("\n\n", text)]
    assert page.offset in starts
    others = [cost[start : start + len(shown)].mean() for start in starts if start + PAGE <= len(text)]
    assert len(others) > 1
    assert abs(page.bits.mean() - cost.mean()) <= min(abs(np.array(others) - cost.mean())) + 0.01


@pytest.mark.parametrize("text", ["a", "abc de", "a" * (PAGE + 5)])
def test_a_short_tale_or_one_without_spaces_is_its_own_page(run: Run, text: str) -> None:
    page = surprisal.study(run, {"test": {"only": text}}).page
    assert "".join(page.tokens) == text[:PAGE]
    assert page.offset == 0


class Pairs:
    """Tokens of two characters."""

    start_id = 1

    def encode(self, text: str) -> Encoded:
        ids = [LETTERS.find(text[n]) % 4 * 2 + LETTERS.find(text[n + 1]) % 2 for n in range(0, len(text) - 1, 2)]
        return Encoded(np.array(ids), len(text), 0.0)

    def decode(self, ids: np.ndarray) -> str:
        return "".join("ab ."[n // 2] + "ab"[n % 2] for n in ids)


def test_a_page_of_longer_tokens_has_their_texts(run: Run) -> None:
    text = "aa b.b" * 700
    pairs = dataclasses.replace(run, tokenizer=Pairs())
    found = surprisal.study(pairs, {"test": {"only": Pairs().decode(Pairs().encode(text).ids)}})
    assert {len(token) for token in found.page.tokens} == {2}
    assert len(found.page.tokens) == len(found.page.bits) == pytest.approx(PAGE / 2, rel=0.1)
    assert found.scores[0].bpc == pytest.approx(found.page.bits.mean() / 2, rel=0.1)
