"""Token surprisals: they add up to the final score and do not depend on the other texts in the batch."""

import dataclasses
import re

import numpy as np
import pytest

from lovecraft_jax.data.encoded import Encoded
from lovecraft_jax.data.tokenizer import Tokenizer
from lovecraft_jax.probing import surprisal
from lovecraft_jax.probing.forward_texts import CHUNK, pack
from lovecraft_jax.probing.surprisal import PASSAGE, token_surprisals
from lovecraft_jax.run import Run
from tests.helpers.untrained import forward_float64, untrained_run

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
    assert pack([200, 200, 800, 800]).rows == 2  # the longest first


def test_surprisals_match_a_float64_loop(run: Run) -> None:
    text = text_of(12)
    ids = run.tokenizer.encode(text).ids
    expected = [-forward_float64(run, text[:n])[0][ids[n]] / np.log(2) for n in range(len(text))]
    np.testing.assert_allclose(token_surprisals(run, [text])[0], expected, rtol=1e-4)


def test_surprisals_add_up_to_the_final_score_with_the_spelling_of_unknown_tokens(run: Run) -> None:
    text = "aZbZ" + text_of(2 * CHUNK + 7)
    encoded = run.tokenizer.encode(text)
    assert encoded.extra_nats > 0
    bits = token_surprisals(run, [text])[0]
    assert bits.sum(dtype=np.float64) / len(text) == pytest.approx(run.score(encoded).bpc, rel=1e-5)
    assert min(bits[1], bits[3]) > np.log2(96)


def test_surprisals_do_not_depend_on_the_other_texts(run: Run) -> None:
    texts = [text_of(length, seed=length) for length in (900, 30, 300, 1, 550)]
    for together, text in zip(token_surprisals(run, texts), texts, strict=True):
        np.testing.assert_allclose(together, token_surprisals(run, [text])[0], rtol=1e-5)


def test_scores_are_final_scores_of_single_held_out_tales(run: Run) -> None:
    tales = {"train": {"a": "b"}, "valid": {"c": text_of(300), "d": "a"}, "test": {"e": text_of(40, seed=1)}}
    found = surprisal.analyze(run, tales).scores
    assert [(score.split, score.tale) for score in found] == [("valid", "c"), ("valid", "d"), ("test", "e")]
    for score in found:
        text = run.tokenizer.encode(tales[score.split][score.tale])
        assert (score.chars, score.bpc) == (text.n_chars, pytest.approx(run.score(text).bpc, rel=1e-5))


def test_the_passage_has_the_mean_surprisal_nearest_to_that_of_its_tale(run: Run) -> None:
    paragraphs = [text_of(length, seed=length).replace("\n", " ") + "e" for length in (900, 1300, 700, 1500, 400)]
    text = "\n\n".join(paragraphs)
    passage = surprisal.analyze(run, {"train": {}, "test": {"first": text, "second": "b"}}).passage
    (bits,) = token_surprisals(run, [text])
    shown = "".join(passage.tokens)
    assert passage.tale == "first"
    assert text[passage.offset :].startswith(shown)
    np.testing.assert_allclose(passage.bits, bits[passage.offset : passage.offset + len(shown)], rtol=1e-5)
    assert PASSAGE // 2 < len(shown) <= PASSAGE
    assert text[passage.offset + len(shown)] == " "
    starts = [0] + [match.end() for match in re.finditer("\n\n", text)]
    assert passage.offset in starts
    others = [bits[start : start + len(shown)].mean() for start in starts if start + PASSAGE <= len(text)]
    assert len(others) > 1
    assert abs(passage.bits.mean() - bits.mean()) <= min(abs(np.array(others) - bits.mean())) + 0.01


@pytest.mark.parametrize("text", ["a", "abc de", "a" * (PASSAGE + 5)])
def test_a_short_tale_or_one_without_spaces_is_its_own_passage(run: Run, text: str) -> None:
    passage = surprisal.analyze(run, {"test": {"only": text}}).passage
    assert "".join(passage.tokens) == text[:PASSAGE]
    assert passage.offset == 0


class PairTokenizer:
    """Every token is a letter twice."""

    def __init__(self, single: Tokenizer) -> None:
        self.single, self.start_id = single, single.start_id

    def encode(self, text: str) -> Encoded:
        return Encoded(self.single.encode(text[::2]).ids, len(text), 0.0)

    def lengths(self, encoded: Encoded) -> np.ndarray:
        return np.full(len(encoded.ids), 2)

    def decode(self, ids: np.ndarray) -> str:
        return "".join(2 * char for char in self.single.decode(ids))


def test_a_passage_of_longer_tokens(run: Run) -> None:
    pairs = dataclasses.replace(run, tokenizer=PairTokenizer(run.tokenizer))
    found = surprisal.analyze(pairs, {"test": {"only": "aa  bb..bb" * 400}})
    assert {len(token) for token in found.passage.tokens} == {2}
    assert len(found.passage.tokens) == len(found.passage.bits) == pytest.approx(PASSAGE / 2, rel=0.1)
    assert found.scores[0].bpc == pytest.approx(found.passage.bits.mean() / 2, rel=0.1)
