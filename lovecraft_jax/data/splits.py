"""Train, valid and test text of a corpus: by whole file, or by position where there are few files."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path

from lovecraft_jax.data.cleaning import Cleaning, Counts, clean_all
from lovecraft_jax.data.corpus import Corpus, Dataset, Tale
from lovecraft_jax.runtime.errors import UserError

PARTS = ("train", "valid", "test")
HELD_OUT = 0.05  # the share of the files in valid, and in test
MIN_FILES = 20  # fewer files are split by position, so that no single one is all of a split
BETWEEN_TALES = "\n\n\n"  # one newline more than ends a paragraph


@dataclasses.dataclass(frozen=True)
class Splits:
    """Cleaned text by split: "train", "valid" and "test". `read` returns `by_tale` when a text is first asked for."""

    tales: dict[str, list[str]]  # names of the files in each; where the cut is by position, all are in "train"
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
    by_hash = sorted(corpus.tales, key=lambda tale: tale.sha256)
    held_out = _held_out(corpus.dataset, by_hash)
    if held_out is None:
        names = {"train": list(texts), "valid": [], "test": []}
        text = BETWEEN_TALES.join(filter(None, texts.values()))
        train_end, valid_end = int(0.9 * len(text)), int(0.95 * len(text))
        cut = (text[: math.ceil(share * train_end)], text[train_end:valid_end], text[valid_end:])
        by_tale = {part: {part: of_part} for part, of_part in zip(PARTS, cut, strict=True)}
    else:
        valid, test = held_out
        train = [tale for tale in by_hash if tale not in valid and tale not in test]
        totals = list(itertools.accumulate(len(texts[tale.name]) for tale in train))
        # So many training files add up most nearly to the share.
        count = 1 + min(range(len(totals)), key=lambda n: abs(totals[n] - share * totals[-1]))
        chosen = {"train": set(train[:count]), "valid": valid, "test": test}
        names = {part: [tale.name for tale in corpus.tales if tale in chosen[part]] for part in PARTS}
        by_tale = {part: {name: texts[name] for name in names[part]} for part in PARTS}
    for part, tales in by_tale.items():
        if not any(text.strip() for text in tales.values()):
            raise UserError(f"data.corpus={corpus.name}: nothing is left for the {part} split; give a longer text")
    return Splits(names, counts, lambda: by_tale)


def _held_out(row: Dataset | None, by_hash: list[Tale]) -> tuple[set[Tale], set[Tale]] | None:
    """The files of valid and of test, or None where the cut is by position."""
    if row and row.valid is not None and row.test is not None:
        hashes = {Path(file).stem: sha256 for file, sha256 in row.hashes.items()}
        valid, test = ({hashes[name] for name in names} for names in (row.valid, row.test))
        return {tale for tale in by_hash if tale.sha256 in valid}, {tale for tale in by_hash if tale.sha256 in test}
    if len(by_hash) < MIN_FILES:
        return None
    count = max(1, math.floor(HELD_OUT * len(by_hash) + 0.5))
    return set(by_hash[:count]), set(by_hash[count : 2 * count])
