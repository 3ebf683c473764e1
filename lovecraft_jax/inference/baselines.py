"""Scores to read a loss against, in bits per character on the valid split: uniform, unigram, PPMd.

Worked out in a process of its own beside the training, which it never delays, and cached by the texts' hash.
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
from pathlib import Path

import pooch
import pyppmd

PPMD_ORDER = 8
PPMD_MEMORY = 1 << 28  # bytes; enough that the model of three million characters is never restarted


def uniform(train: str) -> float:
    """Every character that training showed, and one for all others, as likely as any other."""
    return math.log2(len(set(train)) + 1)


def unigram(train: str, valid: str) -> float:
    """Each character by its frequency in training, plus one; all unseen characters share one such count."""
    counts = Counter(train)
    total = len(train) + len(counts) + 1
    return sum(-n * math.log2((counts[char] + 1) / total) for char, n in Counter(valid).items()) / len(valid)


def ppmd(train: str, valid: str) -> float:
    """PPMd (variant H) of order 8 over UTF-8: what `valid` adds to the compressed size of `train`."""
    return 8 * (_compressed(train + valid) - _compressed(train)) / len(valid)


def _compressed(text: str) -> int:
    encoder = pyppmd.Ppmd7Encoder(PPMD_ORDER, PPMD_MEMORY)
    return len(encoder.encode(text.encode())) + len(encoder.flush())


class Baselines:
    """Starts the work, or finds it done; `result` is None until then."""

    def __init__(self, train: str, valid: str) -> None:
        key = hashlib.sha256("\0".join((train, valid)).encode()).hexdigest()[:24]
        self._cached = Path(pooch.os_cache("lovecraft_jax")) / "baselines" / f"{key}.json"
        self._result: dict[str, float] | None = None
        with contextlib.suppress(OSError, ValueError):
            self._result = json.loads(self._cached.read_text())
        if self._result is None:
            command = [sys.executable, "-m", "lovecraft_jax.inference.baselines"]
            pipe = subprocess.PIPE
            # A session of its own: Ctrl-C is for the training to answer.
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
            # A pipe holds less than a corpus: a thread feeds it, so that nothing waits.
            texts = json.dumps({"train": train, "valid": valid})
            self._thread = threading.Thread(target=self._work, args=(texts,), daemon=True)
            self._thread.start()

    def result(self) -> dict[str, float] | None:
        """{"uniform": ..., "unigram": ..., "ppmd": ...} in bits per character, or None."""
        return self._result

    def wait(self, seconds: float) -> dict[str, float] | None:
        """The result, waited for up to so long."""
        if self._result is None:
            self._thread.join(seconds)
        return self._result

    def close(self) -> None:
        """Ends the work, finished or not."""
        if hasattr(self, "_process"):
            self._process.kill()
            self._thread.join()

    def _work(self, texts: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed before it had read or answered all
            self._result = json.loads(self._process.communicate(texts)[0])
            self._cached.parent.mkdir(parents=True, exist_ok=True)
            partial = self._cached.with_name(f"{self._cached.name}.{self._process.pid}")
            partial.write_text(json.dumps(self._result))
            partial.replace(self._cached)


def _main() -> None:
    os.nice(10)
    texts = json.load(sys.stdin)
    train, valid = texts["train"], texts["valid"]
    print(json.dumps({"uniform": uniform(train), "unigram": unigram(train, valid), "ppmd": ppmd(train, valid)}))


if __name__ == "__main__":
    _main()
