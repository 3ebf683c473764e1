"""A static language model to compare scores with: an n-gram with modified Kneser-Ney smoothing, interpolated.

Stanley Chen and Joshua Goodman, An Empirical Study of Smoothing Techniques for Language Modeling (1998), section 4.1.6.
With h' for the context h without its first token,

    p(w | h) = (c(h w) - D(c(h w))) / c(h .) + g(h) p(w | h'),    g(h) = sum over w of D(c(h w)) / c(h .)

c counts occurrences at the highest order; below it, the different tokens that precede the n-gram (Kneser and Ney 1995).
D is one of three discounts, for counts of 1, 2 and more. Below order 1 all tokens of the vocabulary are equally likely.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from lovecraft_jax.data.kneser_ney import discounts

MAX_ORDER = 12


def best_order(
    train: np.ndarray,
    valid: np.ndarray,
    test: np.ndarray,
    vocab_size: int,
    start_id: int,
    max_order: int = MAX_ORDER,
) -> tuple[int, float, float]:
    """Returns the order with the best score on `valid`, at most `max_order`, and what `valid` and `test` cost then, in
    nats. Counts and discounts are those of `train`: the texts that are scored change nothing."""
    nats = [
        [-float(np.log(probs).sum()) for probs in by_text]
        for by_text in token_probs(train, (valid, test), vocab_size, start_id, max_order)
    ]
    order = min(range(max_order), key=lambda n: nats[n][0])
    return order + 1, nats[order][0], nats[order][1]


def token_probs(
    train: np.ndarray, texts: Sequence[np.ndarray], vocab_size: int, start_id: int, max_order: int
) -> Iterator[list[np.ndarray]]:
    """Yields, for the models of order 1, 2, ... `max_order` of the ids `train` [N], the probability of each token of
    each text given the tokens before it. All texts begin after tokens `start_id`, as many as a context has.

    One pass serves all orders: the model of order n is that of order n - 1, with counts of different tokens before an
    n-gram instead of occurrences, and occurrences at order n on top. Time grows with N log N, and memory, about 100
    bytes for each token of all texts, with N.
    """
    start = np.full(max_order, start_id, np.int64)
    ids = np.concatenate([part for text in (train, *texts) for part in (start, text)])
    ends = np.cumsum([max_order + len(text) for text in (train, *texts)])
    in_train = np.arange(max_order, ends[0])
    places = np.concatenate([np.arange(end - len(text), end) for text, end in zip(texts, ends[1:], strict=True)])
    contexts = np.zeros(len(ids), np.int32)  # of each token: the number of the n-gram before it, 0 at order 1
    grams = _numbered(ids)
    lower = np.full(len(places), 1 / vocab_size)
    for order in range(1, max_order + 1):
        occurrences = np.bincount(grams[in_train], minlength=grams.max() + 1)
        yield np.split(_interpolated(occurrences, contexts, grams, in_train, places, lower), _cuts(texts))
        if order < max_order:
            # An n-gram is the end of as many different (n + 1)-grams as there are tokens that precede it.
            before = np.concatenate([grams[:1] * 0, grams[:-1]])
            longer = _numbered(before.astype(np.int64) * vocab_size + ids)
            once = _last_place_of_each(longer, in_train)
            preceded = np.bincount(grams[once], minlength=len(occurrences))
            lower = _interpolated(preceded, contexts, grams, in_train, places, lower)
            contexts, grams = before, longer


def _interpolated(
    counts: np.ndarray,
    contexts: np.ndarray,
    grams: np.ndarray,
    in_train: np.ndarray,
    places: np.ndarray,
    lower: np.ndarray,
) -> np.ndarray:
    """The probability of the token at each of `places` [M], from one order's `counts` of its n-grams, by their numbers,
    and from the probabilities `lower` [M] of the order below. `contexts` and `grams` [N]: the numbers of each token's
    context and n-gram; `in_train`: the places of the training text."""
    discount = np.array([0.0, *discounts(counts)])[np.minimum(counts, 3)]
    once = _last_place_of_each(grams, in_train)
    context, gram = contexts[once], grams[once]  # of each different n-gram of the training text
    size = int(contexts.max()) + 1
    total = np.bincount(context, counts[gram], size)[contexts[places]]
    left = np.bincount(context, discount[gram], size)[contexts[places]]
    here = grams[places]
    kept = counts[here] - discount[here]
    seen = total > 0
    return np.where(seen, (kept + left * lower) / np.where(seen, total, 1), lower)


def _numbered(keys: np.ndarray) -> np.ndarray:
    """The rank of each key [N] among the different keys, from 0: [N], int32."""
    order = np.argsort(keys)
    ordered = keys[order]
    numbers = np.empty(len(keys), np.int32)
    numbers[order] = np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]]), dtype=np.int32)
    return numbers


def _last_place_of_each(grams: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The last of the `places` [N] at which each different n-gram is, by the number of the n-gram."""
    place = np.full(int(grams.max()) + 1, -1)
    place[grams[places]] = places
    return place[place >= 0]


def _cuts(texts: Sequence[np.ndarray]) -> np.ndarray:
    return np.cumsum([len(text) for text in texts])[:-1]
