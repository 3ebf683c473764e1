"""Characters of long texts, a piece at a time: memory stays bounded by the piece."""

import sys
from collections.abc import Iterator

import numpy as np

PIECE = 1 << 20  # characters


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of PIECE characters, cut anywhere."""
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE]


def whole_lines(text: str) -> Iterator[str]:
    """The text in pieces of about PIECE characters, each of whole lines and with all newlines that follow."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + PIECE) + 1 or len(text)
        while text[end : end + 1] == "\n":
            end += 1
        yield text[start:end]
        start = end


def distinct(text: str) -> str:
    """The different characters of a text, in code-point order."""
    seen = np.zeros(sys.maxunicode + 1, bool)
    for piece in pieces(text):
        seen[code_points(piece)] = True
    return "".join(map(chr, np.flatnonzero(seen)))


def lone_surrogates(text: str) -> list[str]:
    """The code points of a text that are no characters, each once: bytes of a command line that are not UTF-8."""
    return [char for char in dict.fromkeys(text) if "\ud800" <= char <= "\udfff"]


def code_points(text: str) -> np.ndarray:
    """The code point of each character, uint32 [N]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
