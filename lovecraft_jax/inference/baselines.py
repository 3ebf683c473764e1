"""Scores to compare a loss with, in bits per character on the valid split: uniform, unigram, PPMd.

Computed in a process of its own, which never delays the training beside it, and cached by the hash of the texts.
"""

import contextlib
import hashlib
import json
import math
import os
import subprocess
import sys
import threading
from collections import Counter

import pyppmd

from lovecraft_jax.runtime.cache import cache_folder
from lovecraft_jax.runtime.files import write_json

PPMD_ORDER = 8
PPMD_MEMORY = 1 << 28  # bytes; enough that three million characters never restart its model


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


def _compressed(text: str) -> int:
    encoder = pyppmd.Ppmd7Encoder(PPMD_ORDER, PPMD_MEMORY)
    return len(encoder.encode(text.encode())) + len(encoder.flush())


class Baselines:
    """Starts computing the baselines of two texts, or reads them from the cache; `result` is None until it is done."""

    def __init__(self, train: str, valid: str) -> None:
        key = hashlib.sha256("\0".join((train, valid)).encode()).hexdigest()[:24]
        self._cached = cache_folder() / "baselines" / f"{key}.json"
        self._result: dict[str, float] | None = None
        with contextlib.suppress(OSError, ValueError):
            self._result = json.loads(self._cached.read_text())
        if self._result is None:
            command, pipe = [sys.executable, "-m", "lovecraft_jax.inference.baselines"], subprocess.PIPE
            # In a session of its own, so that Ctrl-C reaches the training only.
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
            # A pipe holds less than a corpus, so a thread fills it.
            texts = json.dumps({"train": train, "valid": valid})
            self._thread = threading.Thread(target=self._work, args=(texts,), daemon=True)
            self._thread.start()

    def result(self) -> dict[str, float] | None:
        """Returns {"uniform": ..., "unigram": ..., "ppmd": ...} in bits per character, or None."""
        return self._result

    def wait(self, seconds: float) -> dict[str, float] | None:
        """Returns the result, waiting for it up to so long."""
        if self._result is None:
            self._thread.join(seconds)
        return self._result

    def close(self) -> None:
        """Ends the computation, finished or not."""
        if hasattr(self, "_process"):
            self._process.kill()
            self._thread.join()

    def _work(self, texts: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed before it had read or printed everything
            self._result = json.loads(self._process.communicate(texts)[0])
            self._cached.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._cached, self._result)


if __name__ == "__main__":
    os.nice(10)
    texts = json.load(sys.stdin)
    scores = {"uniform": uniform(texts["train"]), "unigram": unigram(**texts), "ppmd": ppmd(**texts)}
    print(json.dumps(scores))
