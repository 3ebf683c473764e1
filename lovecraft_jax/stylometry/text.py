"""Splits a text into words, sentences and n-grams, and lists the function words that the features count."""

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
"""Matched by spelling alone: "that" always counts as a pronoun and "to" as a preposition, in every text alike."""


def words(text: str) -> list[str]:
    """Returns the words of a text, in their original case: the maximal sequences of letters. An apostrophe between two
    letters is part of the word; a hyphen separates two words."""
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """Returns the sentences of a text that contain a word. A sentence ends at a blank line, at the end of the text, and
    at . ! ? or an ellipsis (plus closing quotes and brackets) when white space follows and then no lower-case letter.
    The full stop after a title ("Dr.") or an initial does not end a sentence."""
    found, begin = [], 0
    for end in _SENTENCE_END.finditer(text):
        if not _TITLE.search(text, begin, end.end()):
            found.append(text[begin : end.end()].strip())
            begin = end.end()
    found.append(text[begin:].strip())
    return [sentence for sentence in found if _WORD.search(sentence)]


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Returns all n-grams of the tokens, in order."""
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))
