"""Words as tokens, and rare words by their class and their spelling."""

import dataclasses
import functools
import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from lovecraft_jax.data.characters import lone_surrogates
from lovecraft_jax.data.cleaning import Cleaning
from lovecraft_jax.data.encoded import UNKNOWN_ID, Cut, Encoded, Prompt, Spelled, smallest_uint
from lovecraft_jax.data.pretokens import Pretokens, split, split_prompt
from lovecraft_jax.data.speller import Speller
from lovecraft_jax.data.word_classes import FORMS, classify, compose
from lovecraft_jax.runtime.errors import UserError

LONGEST = 40
"""Characters of the longest stem that is generated."""
SPELLER_WORDS = 200_000
"""The most frequent words, from which the model of spelling learns."""


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """A token is a pretoken (pretokens.py) that the training text has at least `min_count` times, of the most frequent
    ones that fit into `vocab_size` ids. `rare` says what becomes of the others:

    - "spell": the id of their class (word_classes.py). A model of spelling, given the class, says what the word costs,
      and generates others.
    - "class": the same id. A unigram model of characters says what the word costs; a rare training word is generated.
    - "unk": as "class", with one class for all.
    - "drop": they are left out of the ids. Whether a word is rare is coded with a fixed probability, `rare_share`.

    Where no training word is rare, nothing could train the id of a class: then rare words are left out as by "drop".
    `counts`: how often the training text has each pretoken, the most frequent first, ties by code point. Ids:
    UNKNOWN_ID, which no text has, then the classes, then the words.
    """

    counts: dict[str, int]
    rare: str
    min_count: int
    vocab_size: int
    cleaning: Cleaning
    level: str = "words"

    @classmethod
    def of(cls, train_text: str, cleaning: Cleaning, rare: str, min_count: int, vocab_size: int) -> "WordTokenizer":
        """The tokenizer of a cleaned training text. Raises UserError where `vocab_size` has no room for words."""
        if vocab_size <= (least := 1 + (len(FORMS) if rare in ("spell", "class") else 1)):
            raise UserError(
                f"config.data.vocab_size={vocab_size} with level='words': expected more than {least}, the ids of the "
                "classes of rare words; give more"
            )
        found = Counter[str]()
        for pretokens in split(train_text):
            found.update(pretokens)
        counts = dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
        return cls(counts, rare, min_count, vocab_size, cleaning)

    @classmethod
    def loads(cls, saved: dict, cleaning: Cleaning) -> "WordTokenizer":
        return cls(saved["counts"], saved["rare"], saved["min_count"], saved["vocab_size"], cleaning)

    @property
    def size(self) -> int:
        return self._first_word + len(self._words)

    @functools.cached_property
    def start_id(self) -> int:
        newlines = (word for word in self._words if word.startswith("\n"))
        return self._ids.get(next(newlines, ""), UNKNOWN_ID)

    def encode(self, text: str) -> Encoded:
        pretokens = Pretokens(text)
        ids_of_types = np.array([self._ids.get(word, UNKNOWN_ID) for word in pretokens.types], int)
        rare_types = np.flatnonzero(ids_of_types == UNKNOWN_ID)
        rare = [pretokens.types[n] for n in rare_types]
        ids_of_types[rare_types] = [self._classify(word)[0] + 1 for word in rare]
        nats_of_types = np.zeros(len(pretokens.types))
        nats_of_types[rare_types] = self._nats(rare)
        is_rare_N = np.isin(np.arange(len(pretokens.types)), rare_types)[pretokens.index_N]
        places = np.flatnonzero(is_rare_N)
        extra_nats = 0.0
        if self._leaves_out:
            extra_nats = -math.log1p(-self.rare_share) * int(np.count_nonzero(~is_rare_N))
        kept_N = ~is_rare_N if self._leaves_out else np.ones(len(is_rare_N), bool)
        before_N = np.cumsum(kept_N) - kept_N  # ids before each pretoken
        types_R = pretokens.index_N[places]
        texts = [pretokens.types[one] for one in types_R]
        spelled = Spelled(before_N[places], texts, nats_of_types[types_R], self._leaves_out)
        ids = ids_of_types[pretokens.index_N[kept_N]].astype(smallest_uint(self.size))
        return Encoded(ids, len(text), extra_nats + float(spelled.nats_R.sum()), spelled)

    def encode_prompt(self, text: str) -> Prompt:
        pretokens = split_prompt(text)
        kept = [word for word in pretokens if word in self._ids or not self._leaves_out]
        ids = np.array([self.start_id, *(self._ids.get(word, self._classify(word)[0] + 1) for word in kept)], np.int32)
        if not pretokens:
            return Prompt(ids)
        last, first_V = pretokens[-1], np.zeros(self.size, bool)
        first_V[self._first_word :] = [word.startswith(last) for word in self._words]
        known = -math.log1p(-self.rare_share) if self._leaves_out else 0.0
        longer = Cut(len(ids) - (kept[-1:] == [last]), last.encode(), first_V, known)
        if last in self._ids:
            return Prompt(ids, (longer,))
        # A rare word may be complete, or the beginning of a frequent one.
        complete = Cut(len(ids), b"", np.arange(self.size) > UNKNOWN_ID, self._nats([last])[0])
        return Prompt(ids, (complete, longer) if first_V.any() else (complete,))

    def decode(self, ids: np.ndarray, spelled: Spelled | None = None) -> str:
        parts = [self._texts[one] for one in ids]
        spelled = spelled or Spelled()
        if self._leaves_out:  # each goes before a token, the last ones before the end
            parts.append("")
        for at, text in zip(reversed(spelled.at_R.tolist()), reversed(spelled.texts), strict=True):
            parts[at] = text + parts[at] if self._leaves_out else text
        return "".join(parts)

    def generated_bytes(self, ids: np.ndarray, seed: tuple[int, ...] = (), start: int = 0) -> bytes:
        places = np.flatnonzero((ids > UNKNOWN_ID) & (ids < self._first_word))
        classes = (np.asarray(ids)[places] - 1).tolist()
        uniform = [np.random.default_rng((*seed, start + n)).random(LONGEST) for n in places.tolist()]
        if self.rare == "spell":
            stems = self._speller.generate(classes, np.array(uniform).reshape(-1, LONGEST)) if classes else []
            words = [compose(number, stem) for number, stem in zip(classes, stems, strict=True)]
        else:
            words = [self._draw(number, float(draws[0])) for number, draws in zip(classes, uniform, strict=True)]
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
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1)

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
        has_rare = frequent < len(self.counts) or frequent >= self.vocab_size - len(self._forms)
        return self.rare == "drop" or not has_rare

    @property
    def _forms(self) -> tuple[str, ...]:
        """The classes that rare words have by `rare`."""
        return FORMS if self.rare in ("spell", "class") else ("",)

    @property
    def _classes(self) -> tuple[str, ...]:
        """The classes that have ids."""
        return () if self._leaves_out else self._forms

    @property
    def _first_word(self) -> int:
        return 1 + len(self._classes)

    @functools.cached_property
    def _words(self) -> tuple[str, ...]:
        frequent = (word for word, count in self.counts.items() if count >= self.min_count)
        return tuple(itertools.islice(frequent, max(0, self.vocab_size - self._first_word)))

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self._words, self._first_word)}

    @functools.cached_property
    def _texts(self) -> list[str]:
        """The text of each id; a class has a replacement character."""
        return ["\N{REPLACEMENT CHARACTER}"] * self._first_word + list(self._words)

    @functools.cached_property
    def _lengths(self) -> np.ndarray:
        return np.array([len(text) for text in self._texts])

    def _classify(self, word: str) -> tuple[int, str]:
        return classify(word) if self._classes == FORMS else (0, word)

    @functools.cached_property
    def _speller(self) -> Speller:
        words = list(itertools.islice(self.counts, SPELLER_WORDS))
        classes, stems = zip(*map(self._classify, words), strict=True)
        n_classes = max(1, len(self._classes))
        return Speller(stems, classes, n_classes, self.cleaning.alphabet_size, context=self.rare == "spell")

    def _nats(self, rare: Sequence[str]) -> list[float]:
        """What rare words cost on top of their ids."""
        if not rare:
            return []
        classes, stems = zip(*map(self._classify, rare), strict=True)
        flag = -math.log(self.rare_share) if self._leaves_out else 0.0
        return (self._speller.nats(stems, classes) + flag).tolist()

    def _draw(self, number: int, uniform: float) -> str:
        """A rare word of the training text of this class, by its frequency; of any class where this has none."""
        words, cumulative = self._rare_words.get(number) or next(iter(self._rare_words.values()))
        return words[int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))]

    @functools.cached_property
    def _rare_words(self) -> dict[int, tuple[list[str], np.ndarray]]:
        """The training words without an id by class, with their cumulative counts."""
        by_class: dict[int, dict[str, int]] = {}
        for word, count in self.counts.items():
            if word not in self._ids:
                by_class.setdefault(self._classify(word)[0], {})[word] = count
        return {number: (list(words), np.cumsum(list(words.values()))) for number, words in by_class.items()}
