"""Words as tokens, and rare words by their class and their spelling."""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Sequence

import numpy as np

from lovecraft_jax.data.characters import lone_surrogates
from lovecraft_jax.data.cleaning import Cleaning
from lovecraft_jax.data.clusters import exchange
from lovecraft_jax.data.encoded import UNKNOWN_ID, Cut, Encoded, Prompt, Spelled, smallest_uint
from lovecraft_jax.data.pretokens import Pretokens, split_prompt, split_short
from lovecraft_jax.data.speller import LETTERS, Speller, at_temperature
from lovecraft_jax.data.word_classes import FORMS, classify, compose
from lovecraft_jax.runtime.errors import UserError

LONGEST = 40
"""Characters of the longest stem that is generated."""
TRIES = 20
"""How often a word is drawn from the model of spelling until it is one without an id; then a training word is taken."""
SPELLER_WORDS = 200_000
"""The number of the most frequent words, from which the models of spelling learn."""
CLUSTERS = 16
"""The number of classes that are learnt from contexts: few, so that a model often meets each. Time grows with it."""


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """A pretoken (pretokens.py) that the training text has at least `min_count` times has an id; of more than fit into
    `vocab_size` ids, the most frequent ones. `rare` says what becomes of the others:

    - "spell": the id of their class (word_classes.py). A model of spelling, given the class, says what the word costs,
      and generates others.
    - "cluster": as "spell", with classes that are learnt from contexts: the words with ids are clustered by the words
      beside them (clusters.py), and a rare word has the class that is likeliest by its spelling, given theirs.
    - "class": the same id as by "spell". A unigram model of characters says what the word costs; a rare training word
      is generated.
    - "unk": as "class", with one class for all.
    - "drop": they are left out of the ids. Whether a word is rare is coded with a fixed probability, `rare_share`.

    With "cluster" the spelling decides about the rare words of the training text too, as it must about unseen words. A
    class that was learnt from the one or two contexts of a rare word would fit just these: a model would learn to
    expect the classes of rare words with more certainty than it can have in another text.

    The model of spelling also gives probability to words that are never spelled. That of the words with ids is shared
    out among the other words of their class. That of words which belong to another class, or are two pretokens, is not:
    so the probabilities of all texts sum to less than one.

    Where no training word is rare, nothing could train the id of a class: then rare words are left out as by "drop".

    `counts`: how often the training text has each pretoken, the most frequent first, ties by code point.
    `clusters`: with "cluster", the classes of the first pretokens of `counts`, all that have ids and the most frequent
    others, up to SPELLER_WORDS; all other words are classed when they are met. Else empty.
    `letters`: how many characters before a character the models of spelling take into account.
    Ids: UNKNOWN_ID, which no text has, then the classes, then the words.
    """

    counts: dict[str, int]
    rare: str
    min_count: int
    vocab_size: int
    cleaning: Cleaning
    clusters: Sequence[int] = ()
    letters: int = LETTERS
    level: str = "words"

    @classmethod
    def of(cls, train_text: str, cleaning: Cleaning, rare: str, min_count: int, vocab_size: int) -> "WordTokenizer":
        """The tokenizer of a cleaned training text. Raises UserError where `vocab_size` has no room for words."""
        if vocab_size <= (least := 1 + _n_classes(rare)):
            raise UserError(
                f"config.data.vocab_size={vocab_size} with level='words': expected more than {least}, the ids of the "
                "classes of rare words; give more"
            )
        text = Pretokens(train_text)
        count_of_type = np.bincount(text.index_N, minlength=len(text.types)).tolist()
        order = sorted(range(len(text.types)), key=lambda n: (-count_of_type[n], text.types[n]))
        counts = {text.types[n]: count_of_type[n] for n in order}
        built = cls(counts, rare, min_count, vocab_size, cleaning)
        if rare != "cluster" or built._leaves_out:
            return built
        rank_of_type, words = np.argsort(order), built._words
        clusters = exchange(rank_of_type[text.index_N], len(words), CLUSTERS).tolist()
        rest = list(itertools.islice(counts, len(words), SPELLER_WORDS))
        clusters += _speller_of_clusters(words, clusters, cleaning, LETTERS).likeliest_classes(rest)
        return dataclasses.replace(built, clusters=clusters)

    @classmethod
    def loads(cls, saved: dict, cleaning: Cleaning) -> "WordTokenizer":
        counts, rare, clusters = saved["counts"], saved["rare"], saved.get("clusters", ())
        n_classes = _n_classes(rare)
        if (found := saved.get("n_classes", n_classes)) != n_classes:  # earlier versions did not save it
            raise ValueError(f"it has {found} classes of rare words, this version of the package has {n_classes}")
        letters = saved.get("letters", 5)  # as of earlier versions, which did not save it
        return cls(counts, rare, saved["min_count"], saved["vocab_size"], cleaning, clusters, letters)

    @property
    def size(self) -> int:
        return self.first_word + len(self._words)

    @functools.cached_property
    def start_id(self) -> int:
        newlines = (word for word in self._words if word.startswith("\n"))
        return self._ids.get(next(newlines, ""), UNKNOWN_ID)

    def encode(self, text: str) -> Encoded:
        pretokens = Pretokens(text)
        ids_of_types = np.array([self._ids.get(word, UNKNOWN_ID) for word in pretokens.types], int)
        is_rare_type = ids_of_types == UNKNOWN_ID
        classes, stems = self._classify([pretokens.types[n] for n in np.flatnonzero(is_rare_type)])
        ids_of_types[is_rare_type] = np.array(classes, int) + 1
        nats_of_types = np.zeros(len(pretokens.types))
        nats_of_types[is_rare_type] = self._nats(classes, stems)
        is_rare_N = is_rare_type[pretokens.index_N]
        places = np.flatnonzero(is_rare_N)
        extra_nats = -math.log1p(-self.rare_share) * int(np.count_nonzero(~is_rare_N)) if self._leaves_out else 0.0
        kept_N = ~is_rare_N | (not self._leaves_out)
        before_N = np.cumsum(kept_N) - kept_N  # ids before each pretoken
        types_R = pretokens.index_N[places]
        texts = [pretokens.types[one] for one in types_R]
        spelled = Spelled(before_N[places], texts, nats_of_types[types_R], self._leaves_out)
        ids = ids_of_types[pretokens.index_N[kept_N]].astype(smallest_uint(self.size))
        return Encoded(ids, len(text), extra_nats + float(spelled.nats_R.sum()), spelled)

    def encode_prompt(self, text: str) -> Prompt:
        pretokens = split_prompt(text)
        kept = [word for word in pretokens if word in self._ids or not self._leaves_out]
        classes = dict(zip(kept, self._classify(kept)[0], strict=True))
        ids = np.array([self.start_id, *(self._ids.get(word, classes[word] + 1) for word in kept)], np.int32)
        if not pretokens:
            return Prompt(ids)
        last, allowed_V = pretokens[-1], np.zeros(self.size, bool)
        allowed_V[self.first_word :] = [word.startswith(last) for word in self._words]
        known = -math.log1p(-self.rare_share) if self._leaves_out else 0.0
        longer = Cut(len(ids) - (kept[-1:] == [last]), last.encode(), allowed_V, known)
        if last in self._ids:
            return Prompt(ids, (longer,))
        # A rare word may be complete, or the beginning of a frequent one.
        complete = Cut(len(ids), b"", np.arange(self.size) > UNKNOWN_ID, float(self._nats(*self._classify([last]))[0]))
        return Prompt(ids, (complete, longer) if allowed_V.any() else (complete,))

    def decode(self, ids: np.ndarray, spelled: Spelled | None = None) -> str:
        parts = [self._texts[one] for one in ids]
        spelled = spelled or Spelled()
        if self._leaves_out:  # each goes before a token, the last ones before the end
            parts.append("")
        for at, text in zip(reversed(spelled.at_R.tolist()), reversed(spelled.texts), strict=True):
            parts[at] = text + parts[at] if self._leaves_out else text
        return "".join(parts)

    def generated_bytes(
        self, ids: np.ndarray, seed: tuple[int, ...] = (), start: int = 0, temperature: float = 1.0
    ) -> bytes:
        places = np.flatnonzero((ids > UNKNOWN_ID) & (ids < self.first_word))
        classes = (np.asarray(ids)[places] - 1).tolist()
        rngs = [np.random.default_rng((*seed, start + n)) for n in places.tolist()]
        make_word = self._spell if self.rare in ("spell", "cluster") else self._draw
        words = [make_word(*drawn, temperature) for drawn in zip(classes, rngs, strict=True)]
        parts = [self._texts[one] for one in ids]
        for at, word in zip(places.tolist(), words, strict=True):
            parts[at] = word
        return "".join(parts).encode()

    def lengths(self, encoded: Encoded) -> np.ndarray:
        lengths_N = self._lengths[encoded.ids]
        spelled = encoded.spelled
        if len(lengths_N):
            at_R = np.minimum(spelled.at_R, len(lengths_N) - 1)
            lengths_N[at_R] *= self._leaves_out  # else what a class has instead of a text
            np.add.at(lengths_N, at_R, list(map(len, spelled.texts)))
        return lengths_N

    def unseen(self, text: str) -> list[str]:
        return lone_surrogates(text)

    def dumps(self) -> str:
        return self._saved

    @functools.cached_property
    def _saved(self) -> str:
        # `asdict` with `counts`, and indented JSON, would take seconds for a million words.
        others = dataclasses.asdict(dataclasses.replace(self, counts={}))
        saved = {**others, "n_classes": _n_classes(self.rare), "counts": self.counts}
        return json.dumps(saved, ensure_ascii=False)

    @functools.cached_property
    def rare_share(self) -> float:
        """The share of the tokens of an unseen text that are rare, by Good and Turing: of the tokens of the training
        text that would be rare if it lacked them."""
        known = set(self._words)
        rare = sum(count for word, count in self.counts.items() if word not in known or count == self.min_count)
        total = sum(self.counts.values())
        return min(max(rare, 1), total - 1) / total if total > 1 else 0.5

    @functools.cached_property
    def _leaves_out(self) -> bool:
        frequent = sum(count >= self.min_count for count in self.counts.values())
        has_rare = frequent < len(self.counts) or frequent >= self.vocab_size - _n_classes(self.rare)
        return self.rare == "drop" or not has_rare

    @property
    def _has_forms(self) -> bool:
        """Whether the classes that have ids are those of word_classes.py."""
        return self.rare in ("spell", "class") and not self._leaves_out

    @property
    def first_word(self) -> int:
        """The first id of a word: before it come UNKNOWN_ID and the classes."""
        return 1 + (0 if self._leaves_out else _n_classes(self.rare))

    @functools.cached_property
    def _words(self) -> tuple[str, ...]:
        frequent = (word for word, count in self.counts.items() if count >= self.min_count)
        return tuple(itertools.islice(frequent, max(0, self.vocab_size - self.first_word)))

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self._words, self.first_word)}

    @functools.cached_property
    def _texts(self) -> list[str]:
        """The text of each id; a class has a replacement character."""
        return ["\N{REPLACEMENT CHARACTER}"] * self.first_word + list(self._words)

    @functools.cached_property
    def _lengths(self) -> np.ndarray:
        return np.array([len(text) for text in self._texts])

    def _classify(self, words: Sequence[str]) -> tuple[list[int], list[str]]:
        """Returns the classes of words, and their stems: what is left to spell. A word with an id has a class for the
        model of spelling."""
        if self._has_forms:
            pairs = list(map(classify, words))
            return [class_index for class_index, _ in pairs], [stem for _, stem in pairs]
        if not self.clusters:
            return [0] * len(words), list(words)
        new = [word for word in words if word not in self._known_clusters]
        found = dict(zip(new, self._cluster_speller.likeliest_classes(new), strict=True))
        return [self._known_clusters.get(word, found.get(word, 0)) for word in words], list(words)

    @functools.cached_property
    def _known_clusters(self) -> dict[str, int]:
        return dict(zip(self.counts, self.clusters, strict=False))

    @functools.cached_property
    def _cluster_speller(self) -> Speller:
        return _speller_of_clusters(self._words, self.clusters, self.cleaning, self.letters)

    @functools.cached_property
    def _speller(self) -> Speller:
        classes, stems = self._classify(list(itertools.islice(self.counts, SPELLER_WORDS)))
        letters = self.letters if self.rare in ("spell", "cluster") else None
        return Speller(stems, classes, max(1, self.first_word - 1), self.cleaning.alphabet_size, letters)

    def _nats(self, classes: Sequence[int], stems: Sequence[str]) -> np.ndarray:
        """Returns what rare words cost on top of their ids [W]."""
        flag = -math.log(self.rare_share) if self._leaves_out else 0.0
        return self._speller.nats(stems, classes) + np.log1p(-self._with_ids[np.array(classes, int)]) + flag

    @functools.cached_property
    def _with_ids(self) -> np.ndarray:
        """The probability by class that a spelled word is one of the class that has an id."""
        classes, stems = self._classify(self._words)
        probs = np.exp(-self._speller.nats(stems, classes))
        return np.bincount(classes, probs, max(1, self.first_word - 1))

    def _spell(self, class_index: int, rng: np.random.Generator, temperature: float) -> str:
        """Generates a word of a class: one pretoken, which has no id. After TRIES draws that are no such word it is one
        of the training text."""
        for _ in range(TRIES if temperature else 1):
            stem = self._speller.generate(class_index, rng, LONGEST, temperature)
            word = compose(class_index, stem) if self._has_forms else stem
            if word not in self._ids and len(split_short(word)) == 1:
                return word
        return self._draw(class_index, rng, temperature)

    def _draw(self, class_index: int, rng: np.random.Generator, temperature: float) -> str:
        """Draws a rare word of the training text of this class, by its frequency; of any class where this has none."""
        if class_index not in self._rare_words:
            class_index = next(iter(self._rare_words))
        words, cumulative = self._rare_words[class_index], self._cumulative_counts(class_index, temperature)
        return words[int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))]

    @functools.cached_property
    def _rare_words(self) -> dict[int, list[str]]:
        """The training words without an id by class."""
        by_class: dict[int, list[str]] = {}
        rare = [word for word in self.counts if word not in self._ids]
        for word, class_index in zip(rare, self._classify(rare)[0], strict=True):
            by_class.setdefault(class_index, []).append(word)
        return by_class

    @functools.cached_property
    def _cumulative_counts(self) -> Callable[[int, float], np.ndarray]:
        """The cumulative weights of the rare words of a class at a temperature."""

        @functools.cache
        def compute(class_index: int, temperature: float) -> np.ndarray:
            counts = np.array([self.counts[word] for word in self._rare_words[class_index]])
            return np.cumsum(at_temperature(counts, temperature))

        return compute


def _speller_of_clusters(words: Sequence[str], clusters: Sequence[int], cleaning: Cleaning, letters: int) -> Speller:
    """How the words with ids are spelt, by the classes that are learnt from their contexts."""
    words = words[:SPELLER_WORDS]
    return Speller(words, clusters[: len(words)], CLUSTERS, cleaning.alphabet_size, letters)


def _n_classes(rare: str) -> int:
    """Returns the number of classes that rare words have."""
    return {"spell": len(FORMS), "class": len(FORMS), "cluster": CLUSTERS}.get(rare, 1)
