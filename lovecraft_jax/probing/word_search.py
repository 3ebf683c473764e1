"""Finds the words that a model could generate next, and ranks a given word among them.

A word is a sequence of letters followed by something that is no letter; its probability is the product of those of its
letters and of its end. Tokens must be characters.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from scipy.special import logsumexp

from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.inference.decoder import Decoder, decode, jitted_make_decoder
from lovecraft_jax.model.lm import Carry, LanguageModel
from lovecraft_jax.probing.forward_texts import Tokens, scan_tokens
from lovecraft_jax.run import Run

CONTEXT = 1000  # tokens before a word: for c150 its surprisal is then within 0.02 bits of that after 10,000 tokens
BLOCK = 4096  # rows of one dispatch
MAX_LETTERS = 30  # longer words are not searched for
LISTED_PROB = 1e-3  # words at least this probable are always returned, also when the search asks for more probable ones
TOLERANCE = 1e-5  # probabilities whose relative difference is smaller count as equal


class DecodingState(NamedTuple):
    """The model after N texts."""

    carry: list[np.ndarray]  # its leaves [N, H], on the host, where a search keeps, repeats and drops rows
    log_probs_NV: np.ndarray  # of the next token


class WordAutomaton(NamedTuple):
    """A set of words as a deterministic automaton over token ids that starts in state 0. Its edges are sorted by the
    state that they leave, then by letter: a table of states x vocabulary would be nearly empty."""

    ends_S: np.ndarray  # where the edges of a state end; they begin where those of the state before it end
    letter_E: np.ndarray
    next_E: np.ndarray  # the state after the letter
    accepts_S: np.ndarray  # whether a word ends in a state
    words_S: np.ndarray  # how many words end in a state or in any state after it


class Rank(NamedTuple):
    """1 + the number of more probable words: an estimate, and its certain lower and upper bound."""

    value: float
    least: int
    most: int


@dataclasses.dataclass(frozen=True)
class FoundWords:
    """The result of a search: words and their probabilities, the most probable first."""

    texts: list[str]
    probs: np.ndarray
    weights: np.ndarray  # so many words each stands for: 1 if exhaustive, else such that weighted counts are unbiased
    unseen: int  # an upper bound on the number of words asked for that were not found

    def rank(self, prob: float, words: int = sys.maxsize) -> Rank:
        """Returns the rank, among so many words, of a word at least as probable as the one that was asked for."""
        likelier = self.probs > prob * (1 + TOLERANCE)
        least = 1 + int(np.count_nonzero(likelier))
        most = min(least + self.unseen, words)
        return Rank(min(1 + float(self.weights[likelier].sum()), most), least, most)


def state_after(run: Run, texts: Sequence[str]) -> DecodingState:
    """Returns the model's state after the last CONTEXT tokens of each cleaned text; a newline precedes shorter ones."""
    start = np.array([run.tokenizer.start_id])
    contexts = [np.concatenate([start, run.tokenizer.encode(text).ids])[-CONTEXT:] for text in texts]
    x_TB = np.zeros((CONTEXT, len(texts)), np.int32)
    starts_TB = np.zeros(x_TB.shape, bool)
    for row, ids in enumerate(contexts):
        x_TB[CONTEXT - len(ids) :, row] = ids
        starts_TB[CONTEXT - len(ids), row] = True
    decoder, carry = jitted_make_decoder(run.model, run.variables), run.model.initial_carry(len(texts))
    carry, log_probs_TBV = scan_tokens(run.model, decoder, carry, Tokens(x_TB, x_TB, starts_TB), _log_probs)
    return DecodingState([np.asarray(leaf) for leaf in jax.tree.leaves(carry)], np.asarray(log_probs_TBV[-1]))


def spelling_log_probs(run: Run, state: DecodingState, words: Sequence[str]) -> list[np.ndarray]:
    """Returns, for the word after each text, the log-probabilities before each letter and after the last [L + 1, V]."""
    ids = [run.tokenizer.encode(word).ids for word in words]
    longest = max(map(len, ids))
    padded_NL = np.stack([np.pad(word, (0, longest - len(word))) for word in ids])
    log_probs = [state.log_probs_NV]
    for ids_N in padded_NL.T:
        state = _step(run, state, np.arange(len(words)), ids_N)
        log_probs.append(state.log_probs_NV)
    return [np.stack(log_probs)[: len(word) + 1, n] for n, word in enumerate(ids)]


def letters_and_ends(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Returns which ids are letters and which end a word [V]; the unknown token, never generated, is neither."""
    is_letter = np.array([char.isalpha() for char in run.tokenizer.decode(np.arange(run.tokenizer.size))])
    known = np.arange(run.tokenizer.size) != UNKNOWN_ID
    return known & is_letter, known & ~is_letter


def any_word(run: Run) -> WordAutomaton:
    """Returns the automaton of all sequences of letters."""
    is_letter, _ = letters_and_ends(run)
    letters = np.flatnonzero(is_letter)
    edges = len(letters) * np.array([1, 2]), np.tile(letters, 2), np.ones(2 * len(letters), int)
    return WordAutomaton(*edges, np.array([False, True]), np.array([np.inf, np.inf]))


def lexicon(run: Run, words: Iterable[str]) -> WordAutomaton:
    """Returns the automaton (a trie) of these words, without those that have a letter outside the vocabulary."""
    distinct = list(dict.fromkeys(filter(None, words)))
    ids_N, length_W = run.tokenizer.encode("".join(distinct)).ids, np.array(list(map(len, distinct)), int)
    start_W = np.cumsum(length_W) - length_W
    spelt = np.ones(len(distinct), bool)
    spelt[np.searchsorted(start_W, np.flatnonzero(ids_N == UNKNOWN_ID), side="right") - 1] = False
    start_W, length_W = start_W[spelt], length_W[spelt]
    at_W = np.zeros(len(start_W), int)  # the state of each word after `depth` letters
    leaves, letters, words_S = [np.empty(0, int)], [np.empty(0, int)], [np.array([len(at_W)])]
    for depth in range(MAX_LETTERS + 1):  # no search goes further
        longer = np.flatnonzero(length_W > depth)
        edges = at_W[longer] * run.tokenizer.size + ids_N[start_W[longer] + depth]
        edges_E, edge_of, words_E = np.unique(edges, return_inverse=True, return_counts=True)
        at_W[longer] = sum(map(len, words_S)) + edge_of  # each edge leads to a new state
        for found, values in zip((leaves, letters), np.divmod(edges_E, run.tokenizer.size), strict=True):
            found.append(values)
        words_S.append(words_E)
    leaves_E, letter_E, words = (np.concatenate(parts) for parts in (leaves, letters, words_S))
    accepts_S = np.zeros(len(words), bool)
    accepts_S[at_W[length_W <= MAX_LETTERS]] = True
    ends_S = np.searchsorted(leaves_E, np.arange(len(words)), side="right")
    return WordAutomaton(ends_S, letter_E, 1 + np.arange(len(letter_E)), accepts_S, words.astype(float))


def search_words(
    run: Run, state: DecodingState, automaton: WordAutomaton, probs: Sequence[float], width: int
) -> list[FoundWords]:
    """Finds, for each text, the words of the automaton that are at least as probable as its `probs` or LISTED_PROB.

    The search goes through prefixes by length (a beam search). No word is more probable than its prefix, so prefixes
    below the probability asked for are dropped (branch and bound), which loses no word. If a text has more than `width`
    prefixes of a length, a sample of `width` goes on, drawn by priority sampling (Duffield, Lund and Thorup 2007)
    according to how many words each could have; the largest are always in it.
    """
    rng = np.random.default_rng(0)
    _, is_end = letters_and_ends(run)
    wanted = np.log(probs)
    floor = np.minimum(wanted, np.log(LISTED_PROB)) - TOLERANCE
    # One entry per prefix: its text, log-probability, weight, automaton state and letters.
    text, log_p, weight = np.arange(len(probs)), np.zeros(len(probs)), np.ones(len(probs))
    at, prefix_NL = np.zeros(len(probs), int), np.zeros((len(probs), 0), int)
    unseen = np.zeros(len(probs))
    found: list[tuple] = []
    for length in range(MAX_LETTERS + 1):
        ended = log_p + logsumexp(state.log_probs_NV[:, is_end].astype(float), axis=1)
        words = np.flatnonzero(automaton.accepts_S[at] & (ended > floor[text]))
        found += zip(text[words], ended[words], weight[words], prefix_NL[words], strict=True)
        row, edge = _edges(automaton, at)
        after = log_p[row] + state.log_probs_NV[row, automaton.letter_E[edge]]
        likely = after > floor[text[row]]
        row, edge, log_p = row[likely], edge[likely], after[likely]
        text, weight, letter, at = text[row], weight[row], automaton.letter_E[edge], automaton.next_E[edge]
        # At most this many wanted words have the prefix: their probabilities add up to no more than the prefix's.
        bound = np.minimum(automaton.words_S[at], np.exp(log_p - wanted[text] + TOLERANCE))
        kept, weight = _priority_sample(text, bound, weight, width if length < MAX_LETTERS else 0, rng)
        bound[kept] = 0
        np.add.at(unseen, text, np.floor(bound))
        row, letter, text, log_p, weight, at = (values[kept] for values in (row, letter, text, log_p, weight, at))
        if not len(row):
            break
        prefix_NL = np.concatenate([prefix_NL[row], letter[:, None]], axis=1)
        state = _step(run, state, row, letter)
    return [_found_words(run, [word[1:] for word in found if word[0] == n], int(unseen[n])) for n in range(len(probs))]


def _edges(automaton: WordAutomaton, at_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The edges that leave these states, those of the first state first: the index into `at_N` of each, and itself."""
    ends_N, begins_N = automaton.ends_S[at_N], np.where(at_N > 0, automaton.ends_S[at_N - 1], 0)
    counts_N = ends_N - begins_N
    row = np.repeat(np.arange(len(at_N)), counts_N)
    return row, np.arange(len(row)) + np.repeat(begins_N - np.cumsum(counts_N) + counts_N, counts_N)


def _priority_sample(
    text: np.ndarray, size: np.ndarray, weight: np.ndarray, width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the prefixes to keep, `width` for each text, and the weight of every prefix if it is kept."""
    size = size * weight
    priority = size / (1 - rng.random(len(size)))
    order = np.lexsort((-priority, text))
    place = np.arange(len(order)) - np.searchsorted(text[order], text[order])
    first_dropped = order[place == width]
    threshold = np.zeros(text.max(initial=0) + 1)
    threshold[text[first_dropped]] = priority[first_dropped]
    return np.sort(order[place < width]), weight * np.maximum(1, threshold[text] / size)


def _found_words(run: Run, found: list[tuple], unseen: int) -> FoundWords:
    found = sorted(found, key=lambda word: -word[0])
    texts = [run.tokenizer.decode(ids) for _, _, ids in found]
    probs, weights = np.exp([log_p for log_p, _, _ in found]), np.array([weight for _, weight, _ in found])
    return FoundWords(texts, probs, weights, unseen)


def _step(run: Run, state: DecodingState, row_N: np.ndarray, ids_N: np.ndarray) -> DecodingState:
    """Takes rows of a state, possibly repeated, and feeds each one token."""
    decoder = jitted_make_decoder(run.model, run.variables)
    structure = jax.tree.structure(run.model.initial_carry(1))
    blocks = []
    for start in range(0, len(row_N), BLOCK):
        rows, ids = row_N[start : start + BLOCK], ids_N[start : start + BLOCK].astype(np.int32)
        padding = BLOCK - len(rows)
        carry = jax.tree.unflatten(structure, [np.pad(leaf[rows], ((0, padding), (0, 0))) for leaf in state.carry])
        leaves = jax.tree.leaves(_decode(run.model, decoder, carry, np.pad(ids, (0, padding))))
        blocks.append([np.asarray(leaf)[: len(rows)] for leaf in leaves])
    *leaves, log_probs_NV = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return DecodingState(leaves, log_probs_NV)


@functools.partial(jax.jit, static_argnames="model")
def _decode(model: LanguageModel, decoder: Decoder, carry: Carry, ids_S: jax.Array) -> tuple[Carry, jax.Array]:
    carry, logits_SV = decode(model, decoder, carry, ids_S)
    return carry, jax.nn.log_softmax(logits_SV)


def _log_probs(carry: Carry, logits_BV: jax.Array, y_B: jax.Array) -> jax.Array:
    del carry, y_B
    return jax.nn.log_softmax(logits_BV)
