"""How probable a rare word is to the model in its own sentence, letter by letter, and which words are more probable.

"If I can get a Neural Network to write 'pandemonium', then I'll be impressed" (Strika 2019).
"""

import collections
import dataclasses
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lovecraft_jax.probing import word_search
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.errors import UserError

ARTICLE_WORD = "pandemonium"
ARTICLE_CONTEXT = "strident "  # precedes the word where the article quotes it
MAX_COUNT, MIN_LETTERS = 2, 7  # of a rare word: how often it occurs in the training text, and its length
MAX_VOCABULARY = 1000  # with more characters, such as Chinese ones, words are not spelt
WIDTH = 256  # prefixes that a word search keeps: for c150 most rank estimates are then within a fifth of the rank
MAX_PROBS = 2**23  # prefixes x vocabulary that a search may compare at once: a large vocabulary leaves fewer prefixes
MIN_PROB = 1e-200  # lower probabilities count as this one; a float can hold little less
SHOWN = 10  # words listed as the most probable ones
LETTERS = re.compile(r"[^\W\d_]+")


@dataclasses.dataclass(frozen=True)
class Occurrence:
    """A word in a tale."""

    split: str
    tale: str
    offset: int  # in characters of the cleaned tale
    word: str


@dataclasses.dataclass(frozen=True)
class LetterPrediction:
    """A letter of a word, given everything before it. The end of the word counts as a letter, written ""."""

    text: str
    prob: float
    likelier: int  # the number of more probable letters
    likeliest: str  # the most probable letter in its place


@dataclasses.dataclass(frozen=True)
class WordPrediction:
    """How probable a word is at its place: its letters one by one, and its rank among other words."""

    place: Occurrence
    letters: list[LetterPrediction]
    likeliest: list[tuple[str, float]]  # the most probable words there, with their probabilities
    rank_of_all: word_search.Rank  # among all sequences of letters
    rank_of_known: word_search.Rank  # among the words of the tales
    in_training: int  # how often it occurs in the training text, in any case
    in_samples: int  # how often it occurs in the samples, in any case

    @property
    def prob(self) -> float:
        return _prob(self.letters)

    @property
    def bits_per_letter(self) -> float:
        """The mean surprisal of a letter; the end counts as one."""
        return float(-np.mean(np.log2([letter.prob for letter in self.letters])))

    @property
    def letters_to_give(self) -> int:
        """How many letters greedy decoding must be given to finish the word; the end counts as one."""
        return max((n + 1 for n, letter in enumerate(self.letters) if letter.likelier), default=0)


@dataclasses.dataclass(frozen=True)
class RareWords:
    """Predictions of the article's word at each place in the tales, and of other rare words."""

    article: list[WordPrediction]  # the quoted place first; its rank is exact for up to MAX_PROBS / vocabulary words
    rare: list[WordPrediction]  # the properties below are about these
    known: int  # the number of distinct words in all tales; case matters

    @property
    def median_rank(self) -> float:
        return statistics.median(word.rank_of_known.value for word in self.rare)

    @property
    def bits_per_letter(self) -> float:
        return statistics.fmean(word.bits_per_letter for word in self.rare)

    @property
    def share_to_give(self) -> float:
        """The share of all letters and ends that greedy decoding must be given."""
        return sum(word.letters_to_give for word in self.rare) / sum(len(word.letters) for word in self.rare)

    @property
    def in_samples(self) -> list[str]:
        """The words of `article` and `rare` that the samples contain."""
        return list(dict.fromkeys(word.place.word for word in self.article + self.rare if word.in_samples))


def analyze(
    run: Run, tales: Mapping[str, Mapping[str, str]], samples: Sequence[str], word: str = ARTICLE_WORD, count: int = 40
) -> RareWords:
    """Predicts the article's word, which few corpora contain, and `count` rare words of the held-out tales (split ->
    tale -> cleaned text). Raises UserError if tokens are not characters, or there are too many."""
    if run.tokenizer.level != "chars":
        raise UserError(f"data.level={run.tokenizer.level}: expected chars; words can be spelt only letter by letter")
    if (size := run.tokenizer.size) > MAX_VOCABULARY:
        raise UserError(f"the text has {size:,} different characters; words are spelt with at most {MAX_VOCABULARY:,}")
    in_training, in_samples = _count(tales["train"].values()), _count(samples)
    article_places = find(tales, word) if not run.tokenizer.unseen(word) else []
    rare_places = [place for place in rare_words(tales, in_training, count) if not run.tokenizer.unseen(place.word)]
    places = article_places + rare_places
    known = {found for split in tales.values() for text in split.values() for found in LETTERS.findall(text)}
    if not places:
        return RareWords([], [], len(known))
    state = word_search.state_after(run, [tales[place.split][place.tale][: place.offset] for place in places])
    words = [place.word for place in places]
    log_probs = word_search.spelling_log_probs(run, state, words)
    spelt = [_letters(run, *pair) for pair in zip(words, log_probs, strict=True)]
    probs = [_prob(predicted) for predicted in spelt]
    prefixes = MAX_PROBS // size
    width = max(1, min(WIDTH, prefixes // len(places)))
    likely_words = word_search.search_words(run, state, word_search.any_word(run), probs, width)
    automaton = word_search.lexicon(run, sorted(known))
    likely_known_words = word_search.search_words(run, state, automaton, probs, width)
    if article_places:  # an exhaustive search, which takes half a second a place with c150
        first = word_search.DecodingState([leaf[:1] for leaf in state.carry], state.log_probs_NV[:1])
        likely_known_words[:1] = word_search.search_words(run, first, automaton, probs[:1], min(len(known), prefixes))
    predictions = []
    for n, place in enumerate(places):
        likeliest = list(zip(likely_words[n].texts[:SHOWN], likely_words[n].probs[:SHOWN].tolist(), strict=True))
        ranks = likely_words[n].rank(probs[n]), likely_known_words[n].rank(probs[n], len(known))
        counts = (occurrences[place.word.lower()] for occurrences in (in_training, in_samples))
        predictions.append(WordPrediction(place, spelt[n], likeliest, *ranks, *counts))
    return RareWords(predictions[: len(article_places)], predictions[len(article_places) :], len(known))


def find(tales: Mapping[str, Mapping[str, str]], word: str) -> list[Occurrence]:
    """Returns the occurrences of a word, not those inside longer words; the one that the article quotes comes first."""
    quoted: list[Occurrence] = []
    others: list[Occurrence] = []
    for split in tales:
        for tale, text in tales[split].items():
            for match in LETTERS.finditer(text):
                if match.group() == word:
                    is_quoted = text.endswith(ARTICLE_CONTEXT, 0, match.start())
                    (quoted if is_quoted else others).append(Occurrence(split, tale, match.start(), word))
    return quoted + others


def rare_words(tales: Mapping[str, Mapping[str, str]], in_training: Mapping[str, int], count: int) -> list[Occurrence]:
    """Returns the first occurrences of up to `count` rare words of the held-out tales, spread evenly over the tales.
    Only words in lower case that stand alone are taken: no names, no parts of compounds."""
    first: dict[str, Occurrence] = {}
    for split in tales:
        for tale, text in tales[split].items() if split != "train" else ():
            for match in re.finditer(rf"(?<![\w'-])[^\W\d_]{{{MIN_LETTERS},}}(?![\w'-])", text):
                word = match.group()
                if len(word) <= word_search.MAX_LETTERS and word.islower() and in_training[word] <= MAX_COUNT:
                    first.setdefault(word, Occurrence(split, tale, match.start(), word))
    places = list(first.values())
    picked = np.linspace(0, len(places), min(count, len(places)), endpoint=False).astype(int)
    return [places[n] for n in picked]


def _prob(letters: Sequence[LetterPrediction]) -> float:
    return max(MIN_PROB, math.prod(letter.prob for letter in letters))


def _count(texts: Iterable[str]) -> collections.Counter[str]:
    return collections.Counter(word.lower() for text in texts for word in LETTERS.findall(text))


def _letters(run: Run, word: str, log_probs_NV: np.ndarray) -> list[LetterPrediction]:
    """The predictions of a word's letters and its end, beside all letters and, as one, everything that ends a word."""
    is_letter, is_end = word_search.letters_and_ends(run)
    ids = np.flatnonzero(is_letter)
    texts = [*run.tokenizer.decode(ids), ""]
    probs_NV = np.exp(log_probs_NV.astype(np.float64))
    probs_NV = np.concatenate([probs_NV[:, ids], probs_NV[:, is_end].sum(1, keepdims=True)], axis=1)
    letters = []
    for text, probs_V in zip([*word, ""], probs_NV, strict=True):
        prob = probs_V[texts.index(text)]
        likelier, likeliest = int(np.count_nonzero(probs_V > prob)), texts[int(np.argmax(probs_V))]
        letters.append(LetterPrediction(text, float(prob), likelier, likeliest))
    return letters
