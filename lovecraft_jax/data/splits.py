"""Train, valid and test text of a corpus: by whole file, or by position where there are few files."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path

from lovecraft_jax.data.cleaning import Cleaning, Counts, clean_all
from lovecraft_jax.data.corpus import Corpus, Tale
from lovecraft_jax.runtime.errors import UserError

PARTS = ("train", "valid", "test")
HELD_OUT = 0.05
"""Share of the files in valid, and in test."""
MIN_FILES = 20
"""Fewer files than these are split by position, so that no single one is all of a split."""
BETWEEN_TALES = "\n\n\n"  # one newline more than ends a paragraph


@dataclasses.dataclass(frozen=True)
class Splits:
    """Cleaned text by split: "train", "valid" and "test".

    tales: names of the files in each; where the cut is by position, all are in "train".
    counts: characters read, folded and dropped by cleaning.
    read: returns `by_tale`; called when a text is first asked for.
    """

    tales: dict[str, list[str]]
    counts: Counts
    read: Callable[[], dict[str, dict[str, str]]] = dataclasses.field(repr=False, compare=False)

    @functools.cached_property
    def by_tale(self) -> dict[str, dict[str, str]]:
        """The texts of each split by file, ends stripped; where the cut is by position, one named as the split."""
        return self.read()

    @functools.cached_property
    def text(self) -> dict[str, str]:
        """The whole text of each split."""
        return {part: self.join(part) for part in PARTS}

    def join(self, part: str) -> str:
        """The whole text of one split, not kept."""
        return BETWEEN_TALES.join(filter(None, self.by_tale[part].values()))


def split(corpus: Corpus, cleaning: Cleaning, share: float = 1.0) -> Splits:
    """Returns the cleaned splits of a corpus.

    The files of a dataset whose row names held-out files are split by that row, wherever they were found. Other
    corpora hold out 5 % of their files for valid and the next 5 % for test, in the order of their hashes; with fewer
    than MIN_FILES files the text is cut 90/5/5 by position. Only a `share` of the training text is kept: its first
    files in the order of their hashes, or its beginning. Raises UserError where a split would have no text.
    """
    cleaned, counts = clean_all((tale.text for tale in corpus.tales), cleaning)
    texts = {tale.name: text.strip() for tale, text in zip(corpus.tales, cleaned, strict=True)}
    del cleaned  # as large as the corpus
    if not any(texts.values()):
        raise UserError(f"data.corpus={corpus.name}: no text in it after cleaning; give a file or folder with prose")
    held_out = _held_out(corpus)
    if held_out is None:
        names = {"train": list(texts), "valid": [], "test": []}
        by_tale = _cut_by_position(texts, share)
    else:
        valid, test = held_out
        where = {tale.name: "valid" if tale in valid else "test" if tale in test else "train" for tale in corpus.tales}
        names = {part: [name for name in where if where[name] == part] for part in PARTS}
        kept = _first_by_hash(corpus, {name: len(texts[name]) for name in names["train"]}, share)
        names["train"] = [name for name in names["train"] if name in kept]
        by_tale = {part: {name: texts[name] for name in names[part]} for part in PARTS}
    for part, tales in by_tale.items():
        if not any(text.strip() for text in tales.values()):
            raise UserError(f"data.corpus={corpus.name}: nothing is left for the {part} split; give a longer text")
    return Splits(names, counts, lambda: by_tale)


def _held_out(corpus: Corpus) -> tuple[set[Tale], set[Tale]] | None:
    """The files of valid and of test, or None where the cut is by position."""
    row = corpus.dataset
    if row and row.valid is not None and row.test is not None:
        hashes = {Path(file).stem: sha256 for file, sha256 in row.hashes.items()}
        valid, test = ({hashes[name] for name in names} for names in (row.valid, row.test))
        return _with_hash(corpus, valid), _with_hash(corpus, test)
    if len(corpus.tales) < MIN_FILES:
        return None
    by_hash = _by_hash(corpus)
    count = max(1, math.floor(HELD_OUT * len(by_hash) + 0.5))
    return set(by_hash[:count]), set(by_hash[count : 2 * count])


def _with_hash(corpus: Corpus, hashes: set[str]) -> set[Tale]:
    return {tale for tale in corpus.tales if tale.sha256 in hashes}


def _first_by_hash(corpus: Corpus, lengths: dict[str, int], share: float) -> set[str]:
    """The first files in the order of their hashes whose lengths add up most nearly to a `share` of all `lengths`."""
    names = [tale.name for tale in _by_hash(corpus) if tale.name in lengths]
    totals = list(itertools.accumulate(lengths[name] for name in names))
    count = 1 + min(range(len(totals)), key=lambda n: abs(totals[n] - share * totals[-1]))
    return set(names[:count])


def _by_hash(corpus: Corpus) -> list[Tale]:
    return sorted(corpus.tales, key=lambda tale: tale.sha256)


def _cut_by_position(texts: dict[str, str], share: float) -> dict[str, dict[str, str]]:
    text = BETWEEN_TALES.join(filter(None, texts.values()))
    cuts = [0, int(0.9 * len(text)), int(0.95 * len(text)), len(text)]
    train, valid, test = (text[begin:end] for begin, end in itertools.pairwise(cuts))
    train = train[: math.ceil(share * len(train))]
    return {"train": {"train": train}, "valid": {"valid": valid}, "test": {"test": test}}
