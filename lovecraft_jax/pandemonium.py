"""How a model would have written a rare word in its own sentence, letter by letter, and in place of which others.

"If I can get a Neural Network to write 'pandemonium', then I'll be impressed" (Strika 2019).
"""

import collections
import dataclasses
import re
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from lovecraft_jax.errors import UserError
from lovecraft_jax.guessing import after, letters_of, search, spell
from lovecraft_jax.run import Run

WORD = "pandemonium"
BEFORE = "strident "
"""What stands before the word where the article quotes it."""
RARE, LONG = 2, 7
"""A rare word occurs so often in the training text, at most, and has so many letters, at least."""
WIDTH = 256
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
    """A word at its place: its letters and its end, the words that were likeliest there with their probabilities, and
    its rank among all strings of letters, `least` to `most` for sure."""

    place: Place
    letters: list[Letter]
    likeliest: list[tuple[str, float]]
    rank: float
    least: int
    most: int
    trained: int  # times in the training text, in any case
    written: int  # times in the samples

    @property
    def prob(self) -> float:
        """Of the whole word and its end."""
        return float(np.prod([letter.prob for letter in self.letters]))

    @property
    def bits_per_letter(self) -> float:
        """Its end counts as one."""
        return float(-np.mean(np.log2([letter.prob for letter in self.letters])))

    @property
    def given(self) -> int:
        """How many letters it takes until each that follows, and the end, is the likeliest."""
        return max((n + 1 for n, letter in enumerate(self.letters) if letter.likelier), default=0)


@dataclasses.dataclass(frozen=True)
class Study:
    """The article's word wherever the tales have it, the article's sentence first, and rare words of held-out tales."""

    word: list[Guess]
    rare: list[Guess]

    @property
    def median_rank(self) -> float:
        return statistics.median(guess.rank for guess in self.rare)

    @property
    def bits_per_letter(self) -> float:
        return statistics.fmean(guess.bits_per_letter for guess in self.rare)

    @property
    def given(self) -> float:
        """The share of the rare words' letters that had to be given."""
        return sum(guess.given for guess in self.rare) / sum(len(guess.place.word) for guess in self.rare)


def study(
    run: Run, tales: Mapping[str, Mapping[str, str]], samples: Sequence[str], word: str = WORD, rare: int = 40
) -> Study:
    """Of the cleaned tales of each split. The article's word is in few corpora: elsewhere its list is empty.

    Raises UserError where tokens are not characters.
    """
    if run.vocab.level != "chars":
        raise UserError(f"data.level={run.vocab.level}: words can be spelt letter by letter by a model of chars only")
    of_training = _count(tales["train"].values())
    places = find(tales, word) + rare_words(tales, of_training, rare)
    guesses = _guess(run, tales, places, of_training, _count(samples))
    return Study([g for g in guesses if g.place.word == word], [g for g in guesses if g.place.word != word])


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


def rare_words(tales: Mapping[str, Mapping[str, str]], of_training: Mapping[str, int], count: int) -> list[Place]:
    """Up to `count` rare words of held-out tales, each where it stands first, spread evenly over the tales.

    Words in lower case only, by themselves: no names, no parts of compounds.
    """
    first: dict[str, Place] = {}
    for split in tales:
        for tale, text in tales[split].items() if split != "train" else ():
            for match in re.finditer(rf"(?<![\w'-])[^\W\d_]{{{LONG},}}(?![\w'-])", text):
                word = match.group()
                if word.islower() and word != WORD and of_training[word] <= RARE:
                    first.setdefault(word, Place(split, tale, match.start(), word))
    places = list(first.values())
    picked = np.linspace(0, len(places), min(count, len(places)), endpoint=False).astype(int)
    return [places[n] for n in picked]


def _count(texts: Sequence[str]) -> collections.Counter[str]:
    return collections.Counter(word.lower() for text in texts for word in LETTERS.findall(text))


def _guess(
    run: Run, tales: Mapping, places: list[Place], trained: Mapping[str, int], written: Mapping[str, int]
) -> list[Guess]:
    words = [place.word for place in places]
    state = after(run, [tales[place.split][place.tale][: place.offset] for place in places])
    spelt = [_letters(run, word, log_probs) for word, log_probs in zip(words, spell(run, state, words), strict=True)]
    probs = [float(np.prod([letter.prob for letter in letters])) for letters in spelt]
    guesses = []
    for place, letters, prob, found in zip(places, spelt, probs, search(run, state, probs, WIDTH), strict=True):
        rank, least, most = (1 + n for n in found.likelier(prob))
        likeliest = list(zip(found.texts[:10], found.probs[:10].tolist(), strict=True))
        times = trained[place.word.lower()], written[place.word.lower()]
        guesses.append(Guess(place, letters, likeliest, rank, least, most, *times))
    return guesses


def _letters(run: Run, word: str, log_probs_NV: np.ndarray) -> list[Letter]:
    """The choice before each letter and behind the last is between the letters and, as one, all that ends a word."""
    is_letter = letters_of(run)
    ids = np.flatnonzero(is_letter)
    texts = [*(run.vocab.decode(ids[n : n + 1]) for n in range(len(ids))), ""]
    probs_NV = np.exp(log_probs_NV.astype(np.float64))
    probs_NV = np.concatenate([probs_NV[:, ids], probs_NV[:, ~is_letter].sum(1, keepdims=True)], axis=1)
    spelt = []
    for text, probs in zip([*word, ""], probs_NV, strict=True):
        prob = probs[texts.index(text)]
        spelt.append(Letter(text, float(prob), int(np.count_nonzero(probs > prob)), texts[int(np.argmax(probs))]))
    return spelt
