"""Scores to compare a loss with, in bits per character: uniform, unigram, n-grams, PPMd.

All but PPMd are static, as a run's own scores are: what they know is from the training text. PPMd is adaptive: it
learns from the text that it is scored on. A static score is never compared with an adaptive one.

Computed in a process of its own, which never delays the training beside it, and cached by the hash of the texts.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping

import pyppmd

from lovecraft_jax.data.char_tokenizer import CharTokenizer
from lovecraft_jax.data.cleaning import Cleaning
from lovecraft_jax.data.splits import PARTS
from lovecraft_jax.data.word_tokenizer import WordTokenizer
from lovecraft_jax.inference.ngram import MAX_ORDER, best_order
from lovecraft_jax.runtime import background
from lovecraft_jax.runtime.cache_folder import cache_folder
from lovecraft_jax.runtime.files import write_json

PPMD_ORDER = 8
PPMD_MEMORY = 1 << 28  # bytes; enough that three million characters never restart its model
NGRAM_CHARS = 10_000_000
"""The longest training text that gets n-gram baselines, which take about 100 bytes of memory for a character."""
# The n-gram of words has these whatever a run's own settings are, so that all runs on a corpus compare with the same.
WORD_ORDER = 5  # the longest n-gram that is tried
WORD_COUNT = 2  # how often a word with an id of its own occurs
WORD_IDS = 1 << 20  # ids at most
VERSION = 4
"""Part of the name in the cache: increase it when a baseline is added or changes."""


def uniform(train: str) -> float:
    """Returns the bpc where all characters of the training text, and one for all others, are equally likely."""
    return math.log2(len(set(train)) + 1)


def unigram(train: str, valid: str) -> float:
    """Returns the bpc of character frequencies in training, each count plus one; unseen ones share a count of one."""
    counts = Counter(train)
    total = len(train) + len(counts) + 1
    return sum(-n * math.log2((counts[char] + 1) / total) for char, n in Counter(valid).items()) / len(valid)


def ppmd(train: str, valid: str) -> float:
    """Returns what `valid` adds to the compressed size of `train`, in bpc: PPMd (variant H) of order 8 over UTF-8."""
    return 8 * (_compressed(train + valid) - _compressed(train)) / len(valid)


def ngram(train: str, valid: str, test: str, cleaning: Cleaning) -> dict[str, float]:
    """Returns the bpc of valid and test by n-grams with Kneser-Ney smoothing, one of characters ("ngram", "ngram_test")
    and one of words ("word_ngram", "word_ngram_test"), and their orders ("ngram_order", "word_ngram_order"), which are
    those with the best scores on valid; nothing where the training text is longer than NGRAM_CHARS. What training never
    showed costs what it costs a model: its token, and its spelling."""
    if len(train) > NGRAM_CHARS:
        return {}
    chars = CharTokenizer.of(train, cleaning)
    words = WordTokenizer.of(train, cleaning, "spell", WORD_COUNT, WORD_IDS)
    found: dict[str, float] = {}
    for name, tokenizer, max_order in (("ngram", chars, MAX_ORDER), ("word_ngram", words, WORD_ORDER)):
        encoded, encoded_valid, encoded_test = (tokenizer.encode(text) for text in (train, valid, test))
        ids = encoded.ids, encoded_valid.ids, encoded_test.ids
        order, *nats = best_order(*ids, tokenizer.size, tokenizer.start_id, max_order)
        for key, cost, text in zip((name, f"{name}_test"), nats, (encoded_valid, encoded_test), strict=True):
            found[key] = (cost + text.extra_nats) / text.n_chars / math.log(2)
        found[f"{name}_order"] = order
    return found


def labelled_scores(known: Mapping[str, float]) -> dict[str, float]:
    """Returns the scores on valid by the names that logs and pages show, which say what is static and what adaptive.
    `known`: what baselines.json has; that of earlier runs has no n-grams, or only that of characters."""
    ngrams = {key: f"{name} (static)" for key, name in ngram_names(known).items()}
    names = {"uniform": "uniform", "unigram": "unigram"} | ngrams | {"ppmd": "PPMd (adaptive)"}
    return {name: known[key] for key, name in names.items() if key in known}


def comparison_lines(known: Mapping[str, float]) -> list[str]:
    """Returns the baselines on valid and test to log beside final scores, a line each. Static final scores compare with
    the n-grams only."""
    names = {key: f"{name} (static)" for key, name in ngram_names(known).items()}
    names |= {"ppmd": "PPMd (adaptive: it learns from the text that it is scored on)"}
    available = {key: name for key, name in names.items() if f"{key}_test" in known}
    return [f"{name}: valid {known[key]:.4f}, test {known[f'{key}_test']:.4f} bpc" for key, name in available.items()]


def ngram_names(known: Mapping[str, float]) -> dict[str, str]:
    """Returns the names of the n-grams, with their orders, by their keys in baselines.json, which `known` is."""
    tokens = {"ngram": "characters", "word_ngram": "words"}
    return {key: f"{known.get(f'{key}_order', 0):.0f}-gram of {name}" for key, name in tokens.items()}


def _compressed(text: str) -> int:
    encoder = pyppmd.Ppmd7Encoder(PPMD_ORDER, PPMD_MEMORY)
    return len(encoder.encode(text.encode())) + len(encoder.flush())


def _compute(train: str, valid: str, test: str, cleaning: Cleaning) -> dict[str, float]:
    simple = {"uniform": uniform(train), "unigram": unigram(train, valid)}
    compressed = {"ppmd": ppmd(train, valid), "ppmd_test": ppmd(train, test)}
    return simple | ngram(train, valid, test, cleaning) | compressed


class Baselines:
    """Starts computing the baselines of a corpus, or reads them from the cache; `result` is None until it is done.
    `texts`: "train", "valid" and "test", cleaned by `cleaning`."""

    def __init__(self, texts: Mapping[str, str], cleaning: Cleaning) -> None:
        parts, rules = [texts[part] for part in PARTS], dataclasses.asdict(cleaning)
        key = hashlib.sha256("\0".join([*parts, json.dumps(rules), str(VERSION)]).encode()).hexdigest()[:24]
        self._cached = cache_folder() / "baselines" / f"{key}.json"
        self._process: subprocess.Popen[str] | None = None
        self._result: dict[str, float] | None = None
        with contextlib.suppress(OSError, ValueError):
            self._result = json.loads(self._cached.read_text())
        if self._result is None:
            command, pipe = [sys.executable, "-m", "lovecraft_jax.inference.baselines"], subprocess.PIPE
            # In a session of its own, so that Ctrl-C reaches the training only.
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
            # A pipe holds less than a corpus, so a thread fills it.
            given = json.dumps({"texts": parts, "cleaning": rules})
            self._work = background.start(functools.partial(self._communicate, self._process, given))

    def result(self) -> dict[str, float] | None:
        """Returns {"uniform": ..., "unigram": ..., "ppmd": ..., "ppmd_test": ...} and what `ngram` does, in bits per
        character, those of valid without a suffix; or None."""
        return self._result

    def wait(self, seconds: float) -> dict[str, float] | None:
        """Returns the result, waiting for it up to so long."""
        if self._result is None:
            with contextlib.suppress(TimeoutError):
                self._work.result(seconds)
        return self._result

    def close(self) -> None:
        """Ends the computation, finished or not."""
        if self._process is not None:
            self._process.kill()
            self._work.result()

    def _communicate(self, process: subprocess.Popen[str], given: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed before it had read or printed everything
            self._result = json.loads(process.communicate(given)[0])
            self._cached.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._cached, self._result)


if __name__ == "__main__":
    os.nice(10)
    given = json.load(sys.stdin)
    train, valid, test = given["texts"]
    print(json.dumps(_compute(train, valid, test, Cleaning(**given["cleaning"]))))
