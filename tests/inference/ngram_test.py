"""The n-gram against an example worked out by hand, and a slow reference; its sums; what it may know and cost."""

import math
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest

from lovecraft_jax.data import corpus
from lovecraft_jax.data.characters import code_points
from lovecraft_jax.data.kneser_ney import DISCOUNTS, discounts
from lovecraft_jax.inference import ngram
from lovecraft_jax.inference.ngram import best_order, token_probs

ORDERS = 6


@pytest.fixture(scope="module")
def prose() -> tuple[np.ndarray, np.ndarray, int]:
    """Two pieces of the bundled tales as ids and the size of their vocabulary, in which id 0 is in neither."""
    text = "".join(tale.text for tale in corpus.load("bundled").tales)[:9000]
    _, ids = np.unique(code_points(text), return_inverse=True)
    return ids[:6000] + 1, ids[6000:] + 1, int(ids.max()) + 2


def test_probabilities_are_those_worked_out_by_hand() -> None:
    """Training: 1 2 1 2 after 0; too short for discounts of its own, so 1/2 and 1 for counts of 1 and 2."""
    texts = [np.array(text) for text in ([1, 2], [2, 2], [0, 0], [1, 1])]
    unigram, bigram = token_probs(np.array([1, 2, 1, 2]), texts, vocab_size=3, start_id=0, max_order=2)
    # Two of each, less 1, of 4; half is left for the three tokens.
    wanted = [5 / 12, 5 / 12], [5 / 12, 5 / 12], [1 / 6, 1 / 6], [5 / 12, 5 / 12]
    for probs, expected in zip(unigram, wanted, strict=True):
        assert probs.tolist() == pytest.approx(expected, rel=1e-12)
    # Below the bigram: 1 has two different tokens before it (0, 2), 2 has one (1). (2 - 1) / 3, (1 - 1/2) / 3, and the
    # half that is left in thirds: 1/2, 1/3, and 1/6 for token 0.
    # After 0: 1 once. After 1: 2 twice. After 2: 1 once.
    wanted = (
        [1 / 2 + 1 / 2 * 1 / 2, 1 / 2 + 1 / 2 * 1 / 3],
        [1 / 2 * 1 / 3, 1 / 2 * 1 / 3],
        [1 / 2 * 1 / 6, 1 / 2 * 1 / 6],
        [1 / 2 + 1 / 2 * 1 / 2, 1 / 2 * 1 / 2],
    )
    for probs, expected in zip(bigram, wanted, strict=True):
        assert probs.tolist() == pytest.approx(expected, rel=1e-12)


def test_discounts_follow_from_the_counts_of_counts() -> None:
    # 4, 3, 2 and 1 n-grams with a count of 1, 2, 3 and 4: y = 4 / (4 + 2 * 3) = 0.4.
    counts = np.repeat([0, 1, 2, 3, 4, 9], [7, 4, 3, 2, 1, 5])
    assert discounts(counts) == pytest.approx((1 - 0.8 * 3 / 4, 2 - 1.2 * 2 / 3, 3 - 1.6 * 1 / 2), rel=1e-12)
    for missing in (1, 2, 3, 4):
        assert discounts(counts[counts != missing]) == DISCOUNTS
    assert discounts(np.repeat([1, 2, 3, 4], [9, 1, 9, 1])) == DISCOUNTS  # the second would be below 0


def test_every_order_is_that_of_a_slow_reference(prose: tuple[np.ndarray, np.ndarray, int]) -> None:
    train, text, vocab_size = prose
    text = np.concatenate([text[:1000], [0], text[1000:1500]])  # with an unknown token
    for order, (probs,) in enumerate(token_probs(train, [text], vocab_size, 3, ORDERS), 1):
        reference = _Reference(train.tolist(), vocab_size, 3, order)
        assert probs == pytest.approx(reference.probs(text.tolist()), rel=1e-10)


def test_the_probabilities_of_all_tokens_sum_to_one_after_any_context(
    prose: tuple[np.ndarray, np.ndarray, int],
) -> None:
    train, text, vocab_size = prose
    contexts = [train[:0], train[100:110], text[:10], train[-9:], np.zeros(10, int), np.arange(10)]
    for context in contexts:
        texts = [np.append(context, token) for token in range(vocab_size)]
        for probs in token_probs(train, texts, vocab_size, 3, ORDERS):
            after_context = [of_text[-1] for of_text in probs]
            assert min(after_context) > 0
            assert sum(after_context) == pytest.approx(1, rel=1e-12)


def test_the_model_is_static(prose: tuple[np.ndarray, np.ndarray, int]) -> None:
    """What a token costs depends on the training text and the tokens before it, on no other text and no later token."""
    train, text, vocab_size = prose
    alone = list(token_probs(train, [text], vocab_size, 3, ORDERS))
    beside = token_probs(train, [train, text[:500], text[:500]], vocab_size, 3, ORDERS)
    for (whole,), (_, *halves) in zip(alone, beside, strict=True):
        for half in halves:
            np.testing.assert_array_equal(half, whole[:500])


def test_the_order_is_the_best_on_valid_whatever_is_best_on_test(prose: tuple[np.ndarray, np.ndarray, int]) -> None:
    train, valid, vocab_size = prose
    copied = train[1000:2000]  # a part of the training text, for which a long context is best
    costs = [
        [-np.log(probs).sum() for probs in of_texts]
        for of_texts in token_probs(train, (valid, copied), vocab_size, 3, ngram.MAX_ORDER)
    ]
    order = 1 + int(np.argmin([cost[0] for cost in costs]))
    assert 2 < order < 1 + int(np.argmin([cost[1] for cost in costs]))
    assert best_order(train, valid, copied, vocab_size, 3) == (order, *map(pytest.approx, costs[order - 1]))


def test_a_source_of_order_two_is_predicted_by_its_entropy() -> None:
    """Each token is one of two, equally likely, that follow the two before it: one bit, which order 3 alone reaches."""
    random, ids = np.random.default_rng(0), [0, 1]
    for bit in random.integers(0, 2, 30_000).tolist():
        ids.append((3 * ids[-1] + 5 * ids[-2] + 7 * bit) % 8)
    train, valid = np.array(ids[:27_000]), np.array(ids[27_000:])
    order, nats, _ = best_order(train, valid, valid[:1], 8, 0)
    assert order == 3
    assert nats / math.log(2) / len(valid) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("train", "text", "vocab_size"),
    [([1], [1, 0, 1], 2), ([1] * 40, [1, 1, 0], 2), ([70_000, 1], [70_000, 1, 5], 70_001), ([1, 2], [2], 3)],
)
def test_tiny_texts_of_any_alphabet_have_finite_scores(train: list[int], text: list[int], vocab_size: int) -> None:
    order, *nats = best_order(np.array(train), np.array(text), np.array(text), vocab_size, 0)
    assert 1 <= order <= ngram.MAX_ORDER
    assert 0 < nats[0] == nats[1] < math.inf


def test_memory_grows_by_about_a_hundred_bytes_a_token() -> None:
    random = np.random.default_rng(0)
    train, text = random.integers(1, 80, 200_000), random.integers(1, 80, 10)  # nearly every long n-gram is a new one
    tracemalloc.start()
    for _ in token_probs(train, [text], 80, 1, ngram.MAX_ORDER):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / len(train) < 130


class _Reference:
    """The formulas of ngram.py, one n-gram at a time."""

    def __init__(self, train: Sequence[int], vocab_size: int, start_id: int, order: int) -> None:
        self.order, self.vocab_size, self.start = order, vocab_size, [start_id] * order
        padded = self.start + list(train)
        grams = {
            n: Counter(tuple(padded[end - n : end]) for end in range(order + 1, len(padded) + 1))
            for n in range(1, order + 1)
        }
        self.counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self.discounts = {}
        for n in range(1, order + 1):
            of_order = grams[n] if n == order else Counter(gram[1:] for gram in grams[n + 1])
            for gram, count in of_order.items():
                self.counts[gram[:-1]][gram[-1]] = count
            self.discounts[n] = (0.0, *discounts(np.array(list(of_order.values()))))

    def probs(self, text: Sequence[int]) -> list[float]:
        padded, before = self.start + list(text), len(self.start)
        return [self._prob(tuple(padded[at - self.order + 1 : at]), padded[at]) for at in range(before, len(padded))]

    def _prob(self, context: tuple[int, ...], token: int) -> float:
        lower = self._prob(context[1:], token) if context else 1 / self.vocab_size
        counts, D = self.counts.get(context, Counter()), self.discounts[len(context) + 1]
        if not (total := sum(counts.values())):
            return lower
        left = sum(D[min(count, 3)] for count in counts.values())
        return (counts[token] - D[min(counts[token], 3)] + left * lower) / total
