"""How a model would have written a rare word in its own sentence, letter by letter, and in place of which others.

"If I can get a Neural Network to write 'pandemonium', then I'll be impressed" (Strika 2019).
"""

import collections
import dataclasses
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lovecraft_jax.probing.word_search import Rank, State, after, any_word, letters_and_ends, lexicon, search, spell
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.errors import UserError

WORD = "pandemonium"
BEFORE = "strident "
"""What stands before the word where the article quotes it."""
RARE, LONG = 2, 7
"""How often a rare word occurs in the training text, at most, and its letters, at least."""
WIDTH = 256
"""Beginnings that a search keeps: most of c150's ranks are then right to a fifth."""
LEAST = 1e-200
"""No word counts as less likely: a float holds little less."""
SHOWN = 10
"""Of the likeliest words."""
LETTERS = re.compile(r"[^\W\d_]+")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a word stands: its offset is in characters of the cleaned tale."""

    split: str
    tale: str
    offset: int
    word: str


@dataclasses.dataclass(frozen=True)
class Letter:
    """One of a word, given all before it: its probability, how many others were likelier, and the likeliest.

    Behind the last letter stands "", for all that is no letter.
    """

    text: str
    prob: float
    likelier: int
    likeliest: str


@dataclasses.dataclass(frozen=True)
class Guess:
    """A word at its place: its letters and its end, the words that were likeliest there with their probabilities, its
    rank among all strings of letters, and among the words of the tales."""

    place: Place
    letters: list[Letter]
    likeliest: list[tuple[str, float]]
    of_all: Rank
    of_known: Rank
    trained: int  # times in the training text, in any case
    written: int  # times in the samples

    @property
    def prob(self) -> float:
        """Of the whole word and its end."""
        return _prob(self.letters)

    @property
    def bits_per_letter(self) -> float:
        """Its end counts as one."""
        return float(-np.mean(np.log2([letter.prob for letter in self.letters])))

    @property
    def given(self) -> int:
        """How many must be given, of the letters and the end, until each that follows is the likeliest."""
        return max((n + 1 for n, letter in enumerate(self.letters) if letter.likelier), default=0)


@dataclasses.dataclass(frozen=True)
class Study:
    """The article's word wherever the tales have it, the article's sentence first, and rare words of held-out tales.

    `known` counts the different words of all tales, as they are written; the first place's rank among these is exact.
    Medians, means and shares are of the rare.
    """

    word: list[Guess]
    rare: list[Guess]
    known: int

    @property
    def median_rank(self) -> float:
        """Among the words of the tales."""
        return statistics.median(guess.of_known.value for guess in self.rare)

    @property
    def bits_per_letter(self) -> float:
        """The mean word's."""
        return statistics.fmean(guess.bits_per_letter for guess in self.rare)

    @property
    def given(self) -> float:
        """The share of letters and ends."""
        return sum(guess.given for guess in self.rare) / sum(len(guess.letters) for guess in self.rare)

    @property
    def written(self) -> list[str]:
        """Of all words studied, those that are in the samples."""
        return list(dict.fromkeys(guess.place.word for guess in self.word + self.rare if guess.written))


def study(
    run: Run, tales: Mapping[str, Mapping[str, str]], samples: Sequence[str], word: str = WORD, rare: int = 40
) -> Study:
    """Of the cleaned tales of each split. The article's word is in few corpora: elsewhere its list is empty.

    Raises UserError where tokens are not characters.
    """
    if run.tokenizer.level != "chars":
        raise UserError(
            f"data.level={run.tokenizer.level}: words can be spelt letter by letter by a model of chars only"
        )
    trained, written = _count(tales["train"].values()), _count(samples)
    of_article = find(tales, word) if not run.tokenizer.unseen(word) else []
    places = of_article + [place for place in rare_words(tales, trained, rare) if not run.tokenizer.unseen(place.word)]
    words = [place.word for place in places]
    known = {found for split in tales.values() for text in split.values() for found in LETTERS.findall(text)}
    if not places:
        return Study([], [], len(known))
    state = after(run, [tales[place.split][place.tale][: place.offset] for place in places])
    letters = [_letters(run, word, log_probs) for word, log_probs in zip(words, spell(run, state, words), strict=True)]
    probs = [_prob(spelt) for spelt in letters]
    of_all = search(run, state, any_word(run), probs, WIDTH)
    language = lexicon(run, sorted(known))
    of_known = search(run, state, language, probs, WIDTH)
    if of_article:  # exactly, which takes c150 half a second a place
        first = State([leaf[:1] for leaf in state.carry], state.log_probs_NV[:1])
        of_known[:1] = search(run, first, language, probs[:1], len(known))
    guesses = []
    for n, place in enumerate(places):
        likeliest = list(zip(of_all[n].texts[:SHOWN], of_all[n].probs[:SHOWN].tolist(), strict=True))
        ranks = of_all[n].rank(probs[n]), of_known[n].rank(probs[n]).up_to(len(known))
        times = (counts[place.word.lower()] for counts in (trained, written))
        guesses.append(Guess(place, letters[n], likeliest, *ranks, *times))
    return Study(guesses[: len(of_article)], guesses[len(of_article) :], len(known))


def find(tales: Mapping[str, Mapping[str, str]], word: str) -> list[Place]:
    """Where the word stands by itself, first where the article quotes it."""
    found = [
        Place(split, tale, match.start(), word)
        for split in tales
        for tale, text in tales[split].items()
        for match in LETTERS.finditer(text)
        if match.group() == word
    ]
    return sorted(found, key=lambda place: not tales[place.split][place.tale].endswith(BEFORE, 0, place.offset))


def rare_words(tales: Mapping[str, Mapping[str, str]], trained: Mapping[str, int], count: int) -> list[Place]:
    """Up to `count` rare words of held-out tales, each where it stands first, spread evenly over the tales.

    Words in lower case only, by themselves: no names, no parts of compounds.
    """
    first: dict[str, Place] = {}
    for split in tales:
        for tale, text in tales[split].items() if split != "train" else ():
            for match in re.finditer(rf"(?<![\w'-])[^\W\d_]{{{LONG},}}(?![\w'-])", text):
                word = match.group()
                if word.islower() and trained[word] <= RARE:
                    first.setdefault(word, Place(split, tale, match.start(), word))
    places = list(first.values())
    picked = np.linspace(0, len(places), min(count, len(places)), endpoint=False).astype(int)
    return [places[n] for n in picked]


def _prob(letters: Sequence[Letter]) -> float:
    return max(LEAST, math.prod(letter.prob for letter in letters))


def _count(texts: Iterable[str]) -> collections.Counter[str]:
    return collections.Counter(word.lower() for text in texts for word in LETTERS.findall(text))


def _letters(run: Run, word: str, log_probs_NV: np.ndarray) -> list[Letter]:
    """The choice before each letter and behind the last is between the letters and, as one, all that ends a word."""
    is_letter, is_end = letters_and_ends(run)
    ids = np.flatnonzero(is_letter)
    texts = [*(run.tokenizer.decode(ids[n : n + 1]) for n in range(len(ids))), ""]
    probs_NV = np.exp(log_probs_NV.astype(np.float64))
    probs_NV = np.concatenate([probs_NV[:, ids], probs_NV[:, is_end].sum(1, keepdims=True)], axis=1)
    spelt = []
    for text, probs in zip([*word, ""], probs_NV, strict=True):
        prob = probs[texts.index(text)]
        spelt.append(Letter(text, float(prob), int(np.count_nonzero(probs > prob)), texts[int(np.argmax(probs))]))
    return spelt
