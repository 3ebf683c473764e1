"""Our tokenizers in the format of the `tokenizers` library, as far as it can express them."""

import collections
import itertools
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from lovecraft_jax.data.cleaning import Cleaning
from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.data.pretokens import PATTERN
from lovecraft_jax.data.tokenizer import Tokenizer
from lovecraft_jax.data.word_classes import FORMS, classify
from lovecraft_jax.data.word_tokenizer import WordTokenizer

UNKNOWN = "[unknown]"  # no text has such a token: it would be more than one


def make_library_tokenizer(tokenizer: Tokenizer) -> tuple[tokenizers.Tokenizer, int]:
    """Returns a tokenizer of the `tokenizers` library that cleans a text and gives the ids of `tokenizer`, as far as
    the library can, and the id of what it does not know.

    With words as tokens it knows those that have an id. Every rare word gets the id of one class, which most rare words
    of the training text have; where rare words are to be left out of the ids, UNKNOWN_ID, which the model never saw.
    """
    saved, unknown = json.loads(tokenizer.dumps()), UNKNOWN_ID
    if tokenizer.level == "chars":
        ids = {char: number for number, char in enumerate(saved["chars"], UNKNOWN_ID + 1)}
        model = models.BPE({UNKNOWN: UNKNOWN_ID} | ids, [], unk_token=UNKNOWN, fuse_unk=False)  # without a merge
        library = tokenizers.Tokenizer(model)
        library.decoder = decoders.Fuse()
    elif tokenizer.level == "bpe":
        library = tokenizers.Tokenizer.from_str(json.dumps(saved["tokenizer"]))
    elif isinstance(tokenizer, WordTokenizer):
        texts, unknown = _texts_of_words(tokenizer, saved)
        ids = {text: number for number, text in enumerate(texts)}
        library = tokenizers.Tokenizer(models.WordLevel(ids, texts[unknown]))
        library.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
        library.decoder = decoders.Fuse()
    else:
        raise ValueError(f"unknown level {tokenizer.level!r}")
    library.normalizer = make_normalizer(tokenizer.cleaning)
    return library, unknown


def _texts_of_words(tokenizer: WordTokenizer, saved: dict[str, Any]) -> tuple[list[str], int]:
    """Returns the text of each id, a mark for those that are no words, and the id of the commonest class of rare words,
    UNKNOWN_ID where they have none."""
    texts = [tokenizer.decode(np.array([number])) for number in range(tokenizer.size)]
    n_classes = tokenizer.first_word - 1
    names = FORMS if saved["rare"] in ("spell", "class") else [f" {n}" for n in range(n_classes)]
    marks = [f"{name[: -len(name.lstrip())]}[rare: {name.strip()}]" for name in names[:n_classes]]
    texts = [UNKNOWN, *marks, *texts[1 + n_classes :]]
    if not n_classes:
        return texts, UNKNOWN_ID
    known, clusters = set(texts), dict(zip(saved["counts"], saved.get("clusters", ()), strict=False))
    counts: collections.Counter[int] = collections.Counter()
    for word, count in saved["counts"].items():
        if word not in known:
            counts[classify(word)[0] if names is FORMS else clusters.get(word, 0)] += count
    return texts, UNKNOWN_ID + 1 + counts.most_common(1)[0][0]


def make_normalizer(cleaning: Cleaning) -> normalizers.Normalizer:
    """Returns what cleans a text in the `tokenizers` library. Its Unicode is older than Python's: a few characters of
    newer versions are composed by one of them only."""
    steps: list[normalizers.Normalizer] = [normalizers.NFC(), _replace("\r\n?", "\n")]
    chars_of: dict[str, str] = collections.defaultdict(str)
    for char, text in cleaning.table.items():
        chars_of[text] += char
    # One after the other: no character of a text that replaces another is itself replaced.
    steps += [_replace(f"[{char_class(chars)}]", text) for text, chars in chars_of.items()]
    if cleaning.keep is not None:
        steps.append(_replace(f"[^{char_class(cleaning.keep)}]", ""))
    return normalizers.Sequence(steps)


def _replace(pattern: str, text: str) -> normalizers.Normalizer:
    return normalizers.Replace(tokenizers.Regex(pattern), text)


def char_class(chars: Iterable[str]) -> str:
    r"""Returns characters as the inside of a regular expression's class, with ranges: " -~" for printable ASCII."""
    points = sorted(set(map(ord, chars)))
    ranges = []
    for _, group in itertools.groupby(enumerate(points), lambda place: place[1] - place[0]):  # where both count up
        ends = [chr(point) for _, point in group]
        first, last = ("\\" + end if end in r"\]^-[&" else end for end in (ends[0], ends[-1]))
        ranges.append(first if len(ends) == 1 else f"{first}-{last}")
    return "".join(ranges)
