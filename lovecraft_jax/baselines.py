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
    """Starts the work; `result` is None until it is done."""

    def __init__(self, train: str, valid: str) -> None:
        key = hashlib.sha256("\0".join((train, valid)).encode()).hexdigest()[:24]
        self._cached = Path(pooch.os_cache("lovecraft_jax")) / "baselines" / f"{key}.json"
        texts = json.dumps({"train": train, "valid": valid, "to": str(self._cached)})
        self._process = None
        if self.result() is None:
            command = [sys.executable, "-m", "lovecraft_jax.baselines"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
            )
            # A pipe holds less than a corpus: feed it from a thread, so that nothing waits.
            threading.Thread(target=_feed, args=(self._process, texts), daemon=True).start()

    def result(self) -> dict[str, float] | None:
        """{"uniform": ..., "unigram": ..., "ppmd": ...} in bits per character, or None."""
        try:
            return json.loads(self._cached.read_text())
        except (OSError, ValueError):
            return None

    def wait(self, seconds: float) -> dict[str, float] | None:
        """The result, waited for up to so long."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        return self.result()

    def close(self) -> None:
        """Ends the work, finished or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _feed(process: subprocess.Popen, texts: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # closed before it had read all
        process.communicate(texts)


def _main() -> None:
    os.nice(10)
    job = json.load(sys.stdin)
    train, valid = job["train"], job["valid"]
    scores = {"uniform": uniform(train), "unigram": unigram(train, valid), "ppmd": ppmd(train, valid)}
    path = Path(job["to"])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(scores))
    partial.replace(path)


if __name__ == "__main__":
    _main()
