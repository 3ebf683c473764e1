"""Words and sentences as the style figures count them, and the lists of function words."""

import re
from collections.abc import Sequence

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"[.!?\u2026]++[\"'\u2019\u201d)\]]*+(?=\s++[\"'\u2018\u201c(\[-]*+[^\W_a-z])|\n{2,}")
_TITLE = re.compile(r"\b(?:[A-Z]|Mr|Mrs|Ms|Messrs|Dr|Prof|St|Rev|Hon|Capt|Col|Gen|Lieut|Sergt|Esq|Jr|Sr|No|vs)\.$")

_PRONOUNS = """
    i me my mine myself we us our ours ourselves you your yours yourself yourselves thou thee thy thine thyself ye
    he him his himself she her hers herself it its itself they them their theirs themselves one oneself
    this that these those who whom whose which what whoever whomever whichever whatever whosoever whatsoever
    none nothing nobody something somebody someone anything anybody anyone everything everybody everyone"""
_PREPOSITIONS = """
    aboard about above across after against along alongside amid amidst among amongst around as at athwart before behind
    below beneath beside besides between betwixt beyond but by concerning considering despite down during except for
    from in inside into like near nigh notwithstanding of off on onto opposite out outside over past per regarding round
    save since through throughout till to toward towards under underneath unlike until unto up upon via with within
    without"""
PRONOUNS, PREPOSITIONS = frozenset(_PRONOUNS.split()), frozenset(_PREPOSITIONS.split())
"""By form alone: "that" is a pronoun and "to" a preposition wherever they stand, in the text as in the author's."""


def words(text: str) -> list[str]:
    """Runs of letters as they are written; an apostrophe between letters belongs to its word, a hyphen parts two."""
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """The text's sentences, each with a word in it.

    One ends at . ! ? or an ellipsis, with the quotes and brackets that close there, where white space and then no small
    letter follow; at a blank line; and at the text's end. The full stop of a title or of an initial ends none.
    """
    found, begin = [], 0
    for end in _SENTENCE_END.finditer(text):
        if not _TITLE.search(text, begin, end.end()):
            found.append(text[begin : end.end()].strip())
            begin = end.end()
    found.append(text[begin:].strip())
    return [sentence for sentence in found if _WORD.search(sentence)]


def runs(tokens: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """Every run of so many tokens (n-gram), in order."""
    return list(zip(*(tokens[i:] for i in range(length)), strict=False))
