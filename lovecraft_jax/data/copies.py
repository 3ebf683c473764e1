"""What texts have in common, exactly or nearly, in linear time: the hashes of windows of their letters.

A window is WINDOW letters without what is between them, so that line ends, quotes and a byte order mark change nothing.
Its hash decides whether it is kept (Manber 1994, "Finding similar files in a large file system"): two texts keep the
same windows of a passage that both have, wherever it is.
"""

import sys
from collections.abc import Iterable

import numpy as np

from lovecraft_jax.data.characters import code_points, distinct, pieces

WINDOW = 32  # letters, in English six words: more than two texts have in common by chance
KEPT = 8  # of so many windows one is kept, and at least one of every text
_HALF, _FACTOR, _LARGEST = WINDOW // 2, 0x9E3779B1, 0xFFFFFFFF
_GAP = 1  # between texts; a letter is its code point plus 2


def sample_windows(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the hashes uint64 [N] of the windows that are kept, and the number of the text of each [N], ascending."""
    gap, numbered = "\0" * WINDOW, list(texts)
    ends, start, hashes, places = np.cumsum([len(text) + WINDOW for text in numbered]), -WINDOW, [], []
    for piece in pieces("".join(text + gap for text in numbered)):  # not text by text, which is slow for small files
        of_piece = _sample(gap + piece + gap)
        hashes.append(of_piece[0])
        places.append(of_piece[1] + start)
        start += len(piece)
    return np.concatenate(hashes), np.searchsorted(ends, np.concatenate(places), "right")


def shares(hashes: np.ndarray, texts: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each of `count` texts the share of its windows that a text before it has, and that any other has."""
    order = np.argsort(hashes, kind="stable")  # with texts ascending where the hash is the same
    hashes, texts = hashes[order], texts[order]
    begins = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
    sizes = np.diff(begins, append=len(hashes))
    first, last = (np.repeat(texts[ends], sizes) for ends in (begins, begins + sizes - 1))
    total = np.maximum(1, np.bincount(texts, minlength=count))
    before, others = (np.bincount(texts[chosen], minlength=count) for chosen in (first < texts, first < last))
    return before / total, others / total


def share_in(hashes: np.ndarray, others: np.ndarray) -> float:
    """Returns the share of the different hashes that are among `others`."""
    hashes, others = np.unique(hashes), np.append(np.sort(others), 0)
    return float(np.mean(others[np.searchsorted(others[:-1], hashes)] == hashes)) if len(hashes) else 0.0


def _sample(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of the windows that are kept, and the places where they begin. `text` begins and ends with a gap."""
    value = np.zeros(sys.maxunicode + 1, np.uint32)
    for char in filter(str.isalnum, distinct(text)):
        value[ord(char)] = ord(char.casefold()[0]) + 2
    value[0] = _GAP
    values = value[code_points(text)]
    places = np.flatnonzero(values)
    hashes = letters = values[places]
    width, factor = 1, _FACTOR
    while width < _HALF:
        hashes = hashes[:-width] * np.uint32(factor) + hashes[width:]
        width, factor = 2 * width, factor**2 & _LARGEST
    inside, count = letters != _GAP, len(letters) - WINDOW + 1
    begins = np.append(False, inside[1:count] & ~inside[: count - 1])
    first = np.append(0, np.flatnonzero(begins))
    # A text of fewer letters is one window, with a part of the gap.
    low = np.where(inside[:count] & (inside[WINDOW - 1 :] | begins), hashes[:count], np.uint32(_LARGEST))
    least = np.repeat(np.minimum.reduceat(low, first), np.diff(first, append=count))
    kept = np.flatnonzero((low <= np.maximum(least, _LARGEST // KEPT)) & (low < _LARGEST))
    return hashes[kept].astype(np.uint64) << np.uint64(32) | hashes[kept + _HALF], places[kept]
