"""What texts have in common, exactly or nearly, in linear time: the hashes of windows of their letters.

A window is WINDOW letters without what is between them, so that line ends, quotes and a byte order mark change nothing.
Its hash decides whether it is kept (Manber 1994, "Finding similar files in a large file system"): two texts keep the
same windows of a passage that both have, wherever it is.
"""

import sys
from collections.abc import Collection, Iterable

import numpy as np

from lovecraft_jax.data.characters import code_points, distinct, pieces

WINDOW = 32  # letters, in English six words: more than two texts have in common by chance
KEPT = 8  # of so many windows one is kept
_FACTOR = 0x9E3779B97F4A7C15  # of a polynomial in the letters, modulo 2**64


def sample_windows(texts: Iterable[str], one_in: int = KEPT) -> tuple[np.ndarray, np.ndarray]:
    """Returns the hashes uint64 [N] of the windows that are kept, and the number of the text of each [N], ascending."""
    separate = list(texts)
    together, start = "\0".join(separate), 0  # not text by text, which is slow for small files
    letter_of: np.ndarray = np.zeros(sys.maxunicode + 1, np.uint64)  # 0: none
    for char in filter(str.isalnum, distinct(together)):
        letter_of[ord(char)] = ord(char.casefold()[0])
    hashes, windows = [np.empty(0, np.uint64)], [np.empty((2, 0), int)]
    for piece in pieces(together):
        letters = letter_of[code_points(piece)]
        places = np.flatnonzero(letters)
        window_hashes, width = letters[places], 1
        while width < WINDOW:
            window_hashes = window_hashes[:-width] * np.uint64(pow(_FACTOR, width, 2**64)) + window_hashes[width:]
            width *= 2
        kept = np.flatnonzero(window_hashes <= np.uint64((2**64 - 1) // one_in))
        hashes.append(window_hashes[kept])
        windows.append(start + places[np.stack([kept, kept + WINDOW - 1])])
        start += len(piece)
    first, last = np.searchsorted(np.cumsum([len(text) + 1 for text in separate]), np.hstack(windows), "right")
    return np.concatenate(hashes)[first == last], first[first == last]


def distinct_windows(texts: Iterable[str], one_in: int = KEPT) -> np.ndarray:
    """Returns the hashes of the windows that are kept, each once, ascending."""
    hashes = np.sort(sample_windows(texts, one_in)[0])
    is_first = np.ones(len(hashes), bool)
    is_first[1:] = hashes[1:] != hashes[:-1]  # np.unique of ten million takes twenty times as long (NumPy 2.4)
    return hashes[is_first]


def share_again(texts: Collection[str], others: Collection[str]) -> float | None:
    """Returns the share of the windows of some texts that others have too; None where they are too short for one. All
    windows count where none is kept, as of a short text, or of a sentence that is all of a text, again and again."""
    for one_in in (KEPT, 1):
        if len(hashes := distinct_windows(texts, one_in)):
            return float(np.isin(hashes, distinct_windows(others, one_in), assume_unique=True).mean())
    return None


def shares_before(hashes: np.ndarray, texts: np.ndarray, count: int) -> np.ndarray:
    """Returns for each of `count` texts the share of its windows that a text before it has."""
    _, first, window = np.unique(hashes, return_index=True, return_inverse=True)
    is_repeated = texts[first][window] < texts  # `texts` ascends: the first place is that of the first text
    return np.bincount(texts, is_repeated, count) / np.maximum(1, np.bincount(texts, minlength=count))
