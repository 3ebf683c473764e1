"""Which words a model might write at a place, and how many of them are likelier than a given one.

A word is a run of letters that something else ends; its probability is that of its letters, one after the other, and
then of whatever is no letter. Tokens are characters here.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from lovecraft_jax.data.tokenizer import UNKNOWN_ID
from lovecraft_jax.inference.decoder import Decoder, decode
from lovecraft_jax.inference.forward_texts import Tokens, decoder_of, scan
from lovecraft_jax.model.lm import Carry, LanguageModel
from lovecraft_jax.run import Run

CONTEXT = 1000
"""Tokens read before a place, as many as scheduled scores are warmed on. What c150 makes of a word then differs from
what it makes of it after 10,000 by under 0.02 bits."""
BLOCK = 4096
"""Rows of one dispatch."""
LONGEST = 30
"""Letters of a word that is searched for."""
LISTED = 1e-3
"""Words as likely as this are found whatever is asked for."""
TOLERANCE = 1e-5
"""Words whose probabilities differ by less, relatively, are equally likely."""


class State(NamedTuple):
    """Where a model stands in N texts: the leaves of its carry [N, H], on the host, where a search keeps some rows and
    drops others, and the log-probabilities of what follows [N, V]."""

    carry: list[np.ndarray]
    log_probs_NV: np.ndarray


class Language(NamedTuple):
    """Which strings of letters are words, as an automaton that starts in state 0.

    `next_SV` is the state after a letter, -1 where no word goes on with it; `ends_S` whether a word may end there;
    `words_S` how many do, there or further on.
    """

    next_SV: np.ndarray
    ends_S: np.ndarray
    words_S: np.ndarray


class Rank(NamedTuple):
    """1 + the number of likelier words: an estimate, and the bounds between which it lies for sure."""

    value: float
    least: int
    most: int

    def up_to(self, count: int) -> "Rank":
        """Where there are no more words than that."""
        return Rank(min(self.value, count), self.least, min(self.most, count))


@dataclasses.dataclass(frozen=True)
class Words:
    """Words that a model might write, the likeliest first.

    `weights` say how many words each stands for: 1 where the search saw all, else such that weighted counts are right
    on average. `unseen` bounds how many of those that it did not see reach the probability that was asked for.
    """

    texts: list[str]
    probs: np.ndarray
    weights: np.ndarray
    unseen: int

    def rank(self, prob: float) -> Rank:
        """Of a word so likely; at least as likely as what was asked for."""
        likelier = self.probs > prob * (1 + TOLERANCE)
        least = 1 + int(np.count_nonzero(likelier))
        most = least + self.unseen
        return Rank(min(1 + float(self.weights[likelier].sum()), most), least, most)


def after(run: Run, texts: Sequence[str]) -> State:
    """Where the model stands after the last CONTEXT tokens of each cleaned text, a newline before a shorter one."""
    start = np.array([run.tokenizer.start_id])
    ends = [np.concatenate([start, run.tokenizer.encode(text).ids])[-CONTEXT:] for text in texts]
    x_TB = np.zeros((CONTEXT, len(texts)), np.int32)
    begins_TB = np.zeros(x_TB.shape, bool)
    for lane, ids in enumerate(ends):
        x_TB[CONTEXT - len(ids) :, lane] = ids
        begins_TB[CONTEXT - len(ids), lane] = True
    model, variables = run.model, run.variables
    carry, log_probs_TBV = scan(
        model, decoder_of(model, variables), model.initial_carry(len(texts)), Tokens(x_TB, x_TB, begins_TB), _log_probs
    )
    return State([np.asarray(leaf) for leaf in jax.tree.leaves(carry)], np.asarray(log_probs_TBV[-1]))


def spell(run: Run, state: State, words: Sequence[str]) -> list[np.ndarray]:
    """The log-probabilities [letters + 1, V] of what each text's word might go on with, before each letter and behind
    the last."""
    ids = [run.tokenizer.encode(word).ids for word in words]
    longest = max(map(len, ids))
    padded_NL = np.stack([np.pad(word, (0, longest - len(word))) for word in ids])
    seen = [state.log_probs_NV]
    for ids_N in padded_NL.T:
        state = _step(run, state, np.arange(len(words)), ids_N)
        seen.append(state.log_probs_NV)
    return [np.stack(seen)[: len(word) + 1, n] for n, word in enumerate(ids)]


def letters_and_ends(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Which ids are letters [V], and which end a word. The unknown, which is never written, is neither."""
    is_letter = np.array([run.tokenizer.decode(np.array([n])).isalpha() for n in range(run.tokenizer.size)])
    is_letter[UNKNOWN_ID] = False
    is_end = ~is_letter
    is_end[UNKNOWN_ID] = False
    return is_letter, is_end


def any_word(run: Run) -> Language:
    """All strings of letters."""
    is_letter, _ = letters_and_ends(run)
    next_SV = np.where(is_letter, 1, -1)[None].repeat(2, axis=0)
    return Language(next_SV, np.array([False, True]), np.array([np.inf, np.inf]))


def lexicon(run: Run, words: Iterable[str]) -> Language:
    """These words alone, without those that have a letter which the model cannot write."""
    different = list(dict.fromkeys(words))
    ids = np.split(run.tokenizer.encode("".join(different)).ids, np.cumsum([len(word) for word in different])[:-1])
    following: list[dict[int, int]] = [{}]
    ends = []
    for word in ids:
        state = 0
        for letter in word.tolist() if UNKNOWN_ID not in word else ():
            state = following[state].setdefault(letter, len(following))
            if state == len(following):
                following.append({})
        ends.append(state)
    next_SV = np.full((len(following), run.tokenizer.size), -1)
    for state, after in enumerate(following):
        next_SV[state, list(after)] = list(after.values())
    ends_S = np.zeros(len(following), bool)
    ends_S[ends] = True
    ends_S[0] = False
    words_S = ends_S.astype(float)
    for state in reversed(range(len(following))):  # what follows a state was added after it
        words_S[state] += words_S[list(following[state].values())].sum()
    return Language(next_SV, ends_S, words_S)


def search(
    run: Run, state: State, language: Language, probs: Sequence[float], width: int, seed: int = 0
) -> list[Words]:
    """For each text, the words of the language at least as likely as its one of `probs`, and those of LISTED.

    No word is likelier than its beginning, so branches are cut where they fall below (branch and bound), and what is
    found is all there is. Where more than `width` beginnings of a length are left, so many go on, drawn by priority
    sampling (Duffield, Lund and Thorup 2007) for the words that each may hold: the largest for sure.
    """
    rng = np.random.default_rng(seed)
    _, is_end = letters_and_ends(run)
    least = np.log(probs)
    floor = np.minimum(least, np.log(LISTED)) - TOLERANCE
    text, log_p, weight = np.arange(len(probs)), np.zeros(len(probs)), np.ones(len(probs))
    at, word_NL = np.zeros(len(probs), int), np.zeros((len(probs), 0), int)
    unseen = np.zeros(len(probs))
    found: list[tuple] = []
    for length in range(LONGEST + 1):
        log_p_NV = log_p[:, None] + state.log_probs_NV
        ended = np.logaddexp.reduce(log_p_NV[:, is_end], axis=1)
        words = np.flatnonzero(language.ends_S[at] & (ended > floor[text]))
        found += zip(text[words], ended[words], weight[words], word_NL[words], strict=True)
        row, letter = np.nonzero((language.next_SV[at] >= 0) & (log_p_NV > floor[text][:, None]))
        text, log_p, weight, at = text[row], log_p_NV[row, letter], weight[row], language.next_SV[at[row], letter]
        # So many words as likely as was asked for may begin so: their probabilities add up to its own.
        bound = np.minimum(language.words_S[at], np.exp(log_p - least[text] + TOLERANCE))
        kept, weight = _thin(text, bound, weight, width if length < LONGEST else 0, rng)
        bound[kept] = 0
        np.add.at(unseen, text, np.floor(bound))
        row, letter, text, log_p, weight, at = (of[kept] for of in (row, letter, text, log_p, weight, at))
        if not len(row):
            break
        word_NL = np.concatenate([word_NL[row], letter[:, None]], axis=1)
        state = _step(run, state, row, letter)
    return [_words(run, [word[1:] for word in found if word[0] == n], int(unseen[n])) for n in range(len(probs))]


def _thin(
    text: np.ndarray, size: np.ndarray, weight: np.ndarray, width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which `width` of each text's beginnings go on, and the weights that they then have."""
    size = size * weight
    priority = size / (1 - rng.random(len(size)))
    order = np.lexsort((-priority, text))
    place = np.arange(len(order)) - np.searchsorted(text[order], text[order])
    first_out = order[place == width]
    threshold = np.zeros(text.max(initial=0) + 1)
    threshold[text[first_out]] = priority[first_out]
    return np.sort(order[place < width]), weight * np.maximum(1, threshold[text] / size)


def _words(run: Run, found: list[tuple], unseen: int) -> Words:
    found = sorted(found, key=lambda word: -word[0])
    texts = [run.tokenizer.decode(ids) for _, _, ids in found]
    return Words(texts, np.exp([log_p for log_p, _, _ in found]), np.array([weight for _, weight, _ in found]), unseen)


def _step(run: Run, state: State, row_N: np.ndarray, ids_N: np.ndarray) -> State:
    """Rows of a state, some of them perhaps several times, each after one token more."""
    decoder = decoder_of(run.model, run.variables)
    structure = jax.tree.structure(run.model.initial_carry(1))
    blocks = []
    for start in range(0, len(row_N), BLOCK):
        rows, ids = row_N[start : start + BLOCK], ids_N[start : start + BLOCK].astype(np.int32)
        more = BLOCK - len(rows)
        carry = jax.tree.unflatten(structure, [np.pad(leaf[rows], ((0, more), (0, 0))) for leaf in state.carry])
        leaves = jax.tree.leaves(_decode(run.model, decoder, carry, np.pad(ids, (0, more))))
        blocks.append([np.asarray(leaf)[: len(rows)] for leaf in leaves])
    *leaves, log_probs_NV = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return State(leaves, log_probs_NV)


@functools.partial(jax.jit, static_argnames="model")
def _decode(model: LanguageModel, decoder: Decoder, carry: Carry, ids_S: jax.Array) -> tuple[Carry, jax.Array]:
    carry, logits_SV = decode(model, decoder, carry, ids_S)
    return carry, jax.nn.log_softmax(logits_SV)


def _log_probs(carry: Carry, logits_BV: jax.Array, y_B: jax.Array) -> jax.Array:
    del carry, y_B
    return jax.nn.log_softmax(logits_BV)
