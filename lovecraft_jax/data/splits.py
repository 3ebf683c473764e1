"""Train, valid and test text of a corpus: by whole file, or by position where there are few files."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lovecraft_jax.data.cleaning import Cleaning, Counts, clean_all
from lovecraft_jax.data.copies import sample_windows, share_again, shares_before
from lovecraft_jax.data.corpus import RULE, Corpus
from lovecraft_jax.runtime.console import counted
from lovecraft_jax.runtime.errors import UserError

PARTS = ("train", "valid", "test")
HELD_OUT = 0.05  # the share of the files in valid, and in test
MIN_FILES = 20  # fewer files are split by position, so that no single one is all of a split
BETWEEN_TALES = "\n\n\n"  # one newline more than ends a paragraph
COPY = 0.9  # a file is a copy where longer files have this share of its windows (copies.py)
SHORT = (500, 0.1)  # characters, and share of the mean length: a file below both is not held out
LEFT_OUT = {"copies": "copies left out", "blank": "without text left out", "short": "short ones in train only"}
REPEATED = 0.03  # a larger share of a held-out split that occurs in training makes its scores too good


@dataclasses.dataclass(frozen=True)
class Splits:
    """Cleaned text by split: "train", "valid" and "test". `read` returns `by_tale` when a text is first asked for."""

    tales: dict[str, list[str]]  # names of the files in each; where the cut is by position, all are in "train"
    counts: Counts
    facts: dict[str, Any]  # what corpus.json has of the split, see `describe`; nothing by rule 1
    read: Callable[[], dict[str, dict[str, str]]] = dataclasses.field(repr=False, compare=False)

    @functools.cached_property
    def by_tale(self) -> dict[str, dict[str, str]]:
        """The texts of each split by file, ends stripped; where the cut is by position, one named as the split."""
        return self.read()

    @functools.cached_property
    def text(self) -> dict[str, str]:
        return {part: self.join(part) for part in PARTS}

    def join(self, part: str) -> str:
        """The whole text of one split, not kept."""
        return BETWEEN_TALES.join(filter(None, self.by_tale[part].values()))


def split(corpus: Corpus, cleaning: Cleaning, share: float = 1.0, rule: int = RULE) -> Splits:
    """Returns the cleaned splits of a corpus.

    The files of a dataset whose row names held-out files are split by that row, wherever they were found. Other
    corpora hold out 5 % of their files for valid and the next 5 % for test, in the order of their hashes; with fewer
    than MIN_FILES files the text is cut 90/5/5 by position. By rule 2, files without text and copies of other files
    are left out first, and short files are never held out. Only a `share` of the training text is kept: its first
    files in the order of their hashes, or its beginning. Raises UserError where a split would have no text.
    """
    cleaned, counts = clean_all((tale.text for tale in counted(corpus.tales, "reading")), cleaning)
    texts = {tale.name: text.strip() for tale, text in zip(corpus.tales, cleaned, strict=True)}
    del cleaned  # as large as the corpus
    if not any(texts.values()):
        raise UserError(f"data.corpus={corpus.name}: no text in it after cleaning; give a file or folder with prose")
    used = candidates = [tale.name for tale in sorted(corpus.tales, key=lambda tale: tale.sha256)]
    held_out, facts = _named(corpus), dict[str, Any](split_rule=rule) if rule > 1 else {}
    is_checked = held_out is None and rule > 1  # a dataset whose row names the held-out files is known
    if is_checked:
        used, candidates, facts["left_out"] = _sort_out(used, texts)
    if held_out is None and len(candidates) >= MIN_FILES:
        count = max(1, math.floor(HELD_OUT * len(candidates) + 0.5))
        held_out = set(candidates[:count]), set(candidates[count : 2 * count])
    if held_out is None:
        kept = set(used)
        names = {"train": [name for name in texts if name in kept], "valid": [], "test": []}
        text = BETWEEN_TALES.join(filter(None, (texts[name] for name in names["train"])))
        train_end, valid_end = int(0.9 * len(text)), int(0.95 * len(text))
        cut = (text[: math.ceil(share * train_end)], text[train_end:valid_end], text[valid_end:])
        by_tale = {part: {part: piece} for part, piece in zip(PARTS, cut, strict=True)}
    else:
        valid, test = held_out
        train = [name for name in used if name not in valid and name not in test]
        totals = list(itertools.accumulate(len(texts[name]) for name in train))
        # So many training files add up most nearly to the share.
        count = 1 + min(range(len(totals)), key=lambda n: abs(totals[n] - share * totals[-1]))
        chosen = {"train": set(train[:count]), "valid": valid, "test": test}
        names = {part: [name for name in texts if name in chosen[part]] for part in PARTS}
        by_tale = {part: {name: texts[name] for name in names[part]} for part in PARTS}
    for part, tales in by_tale.items():
        if not any(text.strip() for text in tales.values()):
            raise UserError(f"data.corpus={corpus.name}: nothing is left for the {part} split; give a longer text")
    if is_checked:
        repeated = {part: share_again(by_tale[part].values(), by_tale["train"].values()) for part in PARTS[1:]}
        facts["repeated"] = {part: round(share, 4) for part, share in repeated.items() if share is not None}
    return Splits(names, counts, facts, lambda: by_tale)


def describe(facts: Mapping[str, Any]) -> str:
    """Returns in a few words what corpus.json says of text left out and repeated; "" where it says nothing."""
    files = [f"{len(names):,} {LEFT_OUT[why]}" for why, names in facts.get("left_out", {}).items() if names]
    repeated = [f"{share:.1%} of {part}" for part, share in facts.get("repeated", {}).items()]
    return ", ".join(files + [f"{' and '.join(repeated)} again in train"] * bool(repeated))


def _named(corpus: Corpus) -> tuple[set[str], set[str]] | None:
    """The files of valid and of test where the row of a dataset names them."""
    row = corpus.dataset
    if not row or row.valid is None or row.test is None:
        return None
    hashes = {Path(file).stem: sha256 for file, sha256 in row.hashes.items()}
    valid, test = ({hashes[name] for name in names} for names in (row.valid, row.test))
    tales = corpus.tales
    return {tale.name for tale in tales if tale.sha256 in valid}, {tale.name for tale in tales if tale.sha256 in test}


def _sort_out(by_hash: list[str], texts: Mapping[str, str]) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """The names of the files to use, of those that may be held out, and of the others by LEFT_OUT. A copy is left out
    because longer files have its text: nothing is lost, and nothing is there twice."""
    names = sorted((name for name in by_hash if texts[name]), key=lambda name: -len(texts[name]))
    hashes, owners = sample_windows(texts[name] for name in names)
    copies = set(itertools.compress(names, shares_before(hashes, owners, len(names)) >= COPY))
    first = {texts[name]: name for name in reversed(names)}  # a text too short for a window is a copy if it is the same
    copies |= {name for name in names if first[texts[name]] != name}
    used = [name for name in by_hash if texts[name] and name not in copies]
    least = min(SHORT[0], SHORT[1] * sum(len(texts[name]) for name in used) / len(used))
    candidates = [name for name in used if len(texts[name]) >= least]
    blank = (name for name in by_hash if not texts[name])
    short = (name for name in used if len(texts[name]) < least and len(candidates) >= MIN_FILES)
    return used, candidates, dict(zip(LEFT_OUT, map(sorted, (copies, blank, short)), strict=True))
