"""BPE dropout: lossless, a function of (seed, epoch), without dropout the library's merges, with it the paper's."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lovecraft_jax.data import bpe_dropout
from lovecraft_jax.data.bpe_dropout import LONGEST, BpeDropout
from lovecraft_jax.data.bpe_tokenizer import BpeTokenizer
from lovecraft_jax.data.cleaning import make_cleaning
from tests.data.bpe_tokenizer_test import TEXTS, TRAIN

MANY = "\n".join(map(chr, range(0x20, 0x2000))) + "banana bandana aaaa aaaaa \u00e9\u00e9\u00e9 \U0001f419\U0001f419"
BUILT = [BpeTokenizer.of(text, make_cleaning("unicode"), size) for text, size in ((TRAIN, 300), (MANY * 2, 1000))]
TOKENIZERS = st.sampled_from(BUILT)
LONG = st.builds(lambda text, times: text * times, TEXTS, st.integers(1, LONGEST))  # also pretokens that are too long
P = 0.3


@settings(deadline=None)
@given(TOKENIZERS, TEXTS | LONG)
def test_without_dropout_the_merges_are_the_librarys(tokenizer: BpeTokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    with mock.patch.object(bpe_dropout, "PIECE", 20):
        np.testing.assert_array_equal(BpeDropout(tokenizer, ids, 0.0, 1)(0), ids, strict=True)


@settings(deadline=None)
@given(TOKENIZERS, TEXTS | LONG, st.sampled_from((0.1, 0.5, 0.99)), st.integers(0, 3))
def test_the_ids_of_every_epoch_decode_to_the_text(tokenizer: BpeTokenizer, text: str, p: float, epoch: int) -> None:
    ids = BpeDropout(tokenizer, tokenizer.encode(text).ids, p, 1)(epoch)
    assert tokenizer.decode(ids) == text


def test_the_ids_depend_on_seed_and_epoch_and_on_no_other_call() -> None:
    tokenizer, ids = BUILT[0], BUILT[0].encode(TRAIN).ids
    used = BpeDropout(tokenizer, ids, P, 1)
    epochs = {epoch: used(epoch) for epoch in (3, 0, 1, 5)}
    for epoch, expected in epochs.items():
        np.testing.assert_array_equal(BpeDropout(tokenizer, ids, P, 1)(epoch), expected, strict=True)
        np.testing.assert_array_equal(used(epoch), expected, strict=True)
    different = [*epochs.values(), BpeDropout(tokenizer, ids, P, 2)(0), ids]
    assert len({found.tobytes() for found in different}) == len(different)
    assert used.tokens_in_first_epoch == len(epochs[0]) > len(ids)


def test_the_next_epoch_is_begun_only_when_it_is_needed_soon() -> None:
    tokenizer, ids = BUILT[0], BUILT[0].encode(TRAIN).ids
    dropout = BpeDropout(tokenizer, ids, P, 1)
    for epoch, next_soon, begun in ((0, False, [0]), (0, True, [0, 1]), (1, False, [1]), (5, True, [5, 6])):
        dropout(epoch, next_soon)
        assert list(dropout._epochs) == begun
    np.testing.assert_array_equal(dropout(6), BpeDropout(tokenizer, ids, P, 1)(6), strict=True)


def test_an_error_of_the_segmentation_reaches_the_caller() -> None:
    with pytest.raises(ValueError, match="p <= 0"):
        BpeDropout(BUILT[0], BUILT[0].encode(TRAIN).ids, 1.5, 1)(0)


def test_later_versions_drop_the_same_merges_of_long_texts_as_this_one() -> None:
    """Else no run would resume exactly. The text has more pretokens than are segmented at once."""
    text = "ab\n" * 70_000
    tokenizer = BpeTokenizer.of(text, make_cleaning("unicode"), 258)
    ids = BpeDropout(tokenizer, tokenizer.encode(text).ids, P, 1)(2)
    assert hashlib.sha256(ids.tobytes()).hexdigest()[:16] == "094b8467f011aa5a"


def test_the_share_of_dropped_merges_is_the_probability() -> None:
    text = "ab\n" * 10_000
    tokenizer = BpeTokenizer.of(text, make_cleaning("unicode"), 258)  # the bytes, UNUSED, and one merge
    ids = BpeDropout(tokenizer, tokenizer.encode(text).ids, P, 1)(0)
    assert np.sum(ids == tokenizer.encode("b").ids) == pytest.approx(P * 10_000, rel=0.07)


def test_each_occurrence_is_segmented_as_by_algorithm_1_of_the_paper() -> None:
    """The shares of all segmentations of a word against their probabilities, to five standard deviations."""
    count, tokenizer = 40_000, BUILT[0]
    ids = BpeDropout(tokenizer, tokenizer.encode(" house\n" * count).ids, P, 1)(0)
    tokens = [tokenizer.decode(np.array([one])) for one in ids]
    found = Counter(tuple(word) for is_end, word in itertools.groupby(tokens, "\n".__eq__) if not is_end)
    saved = json.loads(tokenizer.library)["model"]["merges"]
    order = {(left.replace("\u0120", " "), right): rank for rank, (left, right) in enumerate(saved)}
    expected = Counter[tuple[str, ...]]()
    for symbols, probability in _algorithm_1(tuple(" house"), order):
        expected[symbols] += probability
    assert sum(expected.values()) == pytest.approx(1)
    assert found.keys() == expected.keys()
    assert len(found) == 9
    for symbols, probability in expected.items():
        assert found[symbols] / count == pytest.approx(probability, abs=5 * (probability / count) ** 0.5), symbols


def _algorithm_1(
    symbols: tuple[str, ...], order: dict[tuple[str, str], int]
) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yields all that the merges can lead to, with its probability, some of it several times."""
    possible = sorted((order[pair], n) for n, pair in enumerate(itertools.pairwise(symbols)) if pair in order)
    yield symbols, P ** len(possible)
    for dropped, (_, n) in enumerate(possible):
        merged = (*symbols[:n], symbols[n] + symbols[n + 1], *symbols[n + 2 :])
        for end, probability in _algorithm_1(merged, order):
            yield end, P**dropped * (1 - P) * probability
