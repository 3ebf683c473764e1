"""Cleaning of raw text before it becomes tokens: one table of replacements, saved with the run, and counted."""

import dataclasses
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from lovecraft_jax.data.characters import whole_lines
from lovecraft_jax.runtime.errors import UserError

PRINTABLE_ASCII = "\n" + "".join(map(chr, range(0x20, 0x7F)))
UNICODE_SCALARS = 0x110000 - 0x800  # characters in Unicode: all code points but the surrogates
MAX_LOSS = 0.01  # the share of the characters that cleaning may drop

_MARKS = {
    "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u2032": "'", "\u00b4": "'", "\u02bc": "'",
    "\u2039": "'", "\u203a": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u201f": '"', "\u2033": '"',
    "\u00ab": '"', "\u00bb": '"', "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2212": "-",
    "\u2014": "--", "\u2015": "--", "\u2044": "/", "\u00df": "ss", "\u1e9e": "SS", "\u00e6": "ae", "\u00c6": "AE",
    "\u0153": "oe", "\u0152": "OE", "\u00f8": "o", "\u00d8": "O", "\u00f0": "d", "\u00d0": "D", "\u0111": "d",
    "\u0110": "D", "\u0127": "h", "\u0126": "H", "\u00fe": "th", "\u00de": "Th", "\u0142": "l", "\u0141": "L",
    "\u0131": "i", "\t": " ", "\f": "\n", "\v": "\n", "\u2028": "\n", "\u2029": "\n\n",
    "\u00ad": "", "\u200b": "", "\u200c": "", "\u200d": "", "\ufeff": "",
}  # fmt: skip
_LATIN = ((0xA0, 0x250), (0x1E00, 0x1F00), (0x2000, 0x2070), (0xFB00, 0xFB07), (0xFF01, 0xFF5F))  # from, to


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """The rules by which a text is cleaned, in this order, as data, so that any other runtime can do the same.

    1. Unicode NFC; CRLF and CR become LF.
    2. Every character in `table` is replaced by its entry.
    3. What is not in `keep` is dropped; `keep=None` keeps everything.
    """

    alphabet: str
    table: dict[str, str]
    keep: str | None

    @property
    def alphabet_size(self) -> int:
        """Number of characters that a cleaned text could hold."""
        return UNICODE_SCALARS if self.keep is None else len(self.keep)

    def apply(self, text: str) -> tuple[str, "Counts"]:
        """Returns the cleaned text, and the characters read, folded and dropped."""
        # No character composes with a newline, so NFC may take whole lines one after the other.
        pieces = [self._apply_to_lines(lines) for lines in whole_lines(text)]
        return "".join(cleaned for cleaned, _ in pieces), _total([counts for _, counts in pieces])

    def lost(self, text: str) -> list[str]:
        """The characters of a text that would be dropped, each once, in order."""
        folded = "".join(map(self._fold, _normalise(text)))
        return [char for char in dict.fromkeys(folded) if not self._keeps(char)]

    def _apply_to_lines(self, lines: str) -> tuple[str, "Counts"]:
        normal = _normalise(lines)
        found = Counter(self._changed.findall(normal) if self._changed else ())
        if not self._changed or not found:
            return normal, Counts(len(normal), 0, 0)
        cleaned = {char: "".join(filter(self._keeps, self._fold(char))) for char in found}
        folded = sum(count for char, count in found.items() if char in self.table)
        dropped = sum(count * (len(self._fold(char)) - len(cleaned[char])) for char, count in found.items())
        return self._changed.sub(lambda match: cleaned[match[0]], normal), Counts(len(normal), folded, dropped)

    @functools.cached_property
    def _changed(self) -> re.Pattern[str] | None:
        """Matches each character that does not stay as it is."""
        if self.keep is not None:
            return re.compile("[^" + re.escape("".join(char for char in self.keep if char not in self.table)) + "]")
        return re.compile("[" + re.escape("".join(self.table)) + "]") if self.table else None

    def _fold(self, char: str) -> str:
        return self.table.get(char, char)

    def _keeps(self, char: str) -> bool:
        return self.keep is None or char in self.keep


@dataclasses.dataclass(frozen=True)
class Counts:
    """Characters read, folded into others, and dropped."""

    read: int
    folded: int
    dropped: int


def make_cleaning(alphabet: str) -> Cleaning:
    """Returns the cleaning for `alphabet`: "ascii" folds accents and typographic marks, "unicode" keeps everything."""
    if alphabet == "unicode":
        return Cleaning("unicode", {}, None)
    if alphabet != "ascii":
        raise ValueError(f"unknown alphabet {alphabet!r}")
    folds = {char: _to_ascii(char) for block in _LATIN for char in map(chr, range(*block))}
    table = {char: fold for char, fold in folds.items() if fold} | _MARKS
    return Cleaning("ascii", table, PRINTABLE_ASCII)


def clean_all(
    texts: Iterable[str], cleaning: Cleaning, advice: str = "train with config.data.alphabet=unicode"
) -> tuple[list[str], Counts]:
    """Returns every text cleaned, and the counts over all. Raises UserError, which ends with `advice`, where over 1 %
    would be dropped."""
    applied = [cleaning.apply(text) for text in texts]
    total = _total([counts for _, counts in applied])
    if total.dropped > MAX_LOSS * total.read:
        raise UserError(
            f"data.alphabet={cleaning.alphabet} would drop {total.dropped:,} of {total.read:,} characters "
            f"({total.dropped / total.read:.1%}, at most {MAX_LOSS:.0%} allowed): {advice}"
        )
    return [cleaned for cleaned, _ in applied], total


def _total(counts: Sequence[Counts]) -> Counts:
    return Counts(sum(c.read for c in counts), sum(c.folded for c in counts), sum(c.dropped for c in counts))


def _normalise(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")


def _to_ascii(char: str) -> str:
    """The ASCII part of the compatibility decomposition of `char`: its letter without the accent."""
    parts = unicodedata.normalize("NFKD", char)
    return "".join(part for mark in parts for part in _MARKS.get(mark, mark) if part in PRINTABLE_ASCII)
