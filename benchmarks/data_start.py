"""What a start costs with a large text: `python -m benchmarks.data_start [--level words]`.

Makes a text of random words, the same every time, and measures `dataset.prepare` (find, hash, clean, split, learn the
tokens, encode) in a new process for each start: cold, with an empty cache folder, and warm, with the token ids that the
cold start before it has cached. Linux only.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WORDS = 50_000


def main() -> None:
    """Prints a line for the cold starts and one for the warm ones: medians with ranges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100, choices=range(1, 10_000), metavar="N")
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 1000), metavar="N")
    parser.add_argument("--level", choices=("chars", "bpe", "words"), default="chars", help="as data.level")
    parser.add_argument("--vocab-size", type=int, default=20_000, help="as data.vocab_size")
    parser.add_argument("--prepare", help=argparse.SUPPRESS)  # the text, in the process that is measured
    given = parser.parse_args()
    if given.prepare:
        settings = {"data.corpus": given.prepare, "data.level": given.level, "data.vocab_size": given.vocab_size}
        print(json.dumps(_prepare(settings)))
        return
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "words.txt"
        text.write_text(_random_words(given.megabytes * 1_000_000))
        flags = [f"--prepare={text}", f"--level={given.level}", f"--vocab-size={given.vocab_size}"]
        starts = [_start(flags, Path(folder) / f"cache{number}") for number in range(given.rounds) for _ in "cw"]
    for name, rows in (("cold", starts[::2]), ("warm", starts[1::2])):
        figures = (_range([row[key] for row in rows]) for key in ("wall_s", "cpu_s", "peak_mb"))
        print("{}: {} s, {} s of CPU, {} MB at its peak".format(name, *figures))


def _random_words(characters: int) -> str:
    """Returns words of random letters, their frequencies by Zipf's law, in paragraphs of about 100 words."""
    rng = np.random.default_rng(0)
    letters = rng.integers(ord("a"), ord("z") + 1, (WORDS, 12), dtype=np.uint8)
    words = [bytes(row[:length]).decode() for row, length in zip(letters, rng.integers(2, 12, WORDS), strict=True)]
    ranks = (WORDS ** rng.random(characters // 6) - 1).astype(int)
    text = " ".join("\n\n" if n % 100 == 99 else words[rank] for n, rank in enumerate(ranks))
    return text[:characters]


def _start(flags: list[str], cache: Path) -> dict[str, float]:
    line = [sys.executable, "-m", "benchmarks.data_start", *flags]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    return dict(json.loads(subprocess.run(line, env=environment, stdout=subprocess.PIPE, check=True).stdout))


def _prepare(settings: dict[str, Any]) -> dict[str, float]:
    from configs import c150
    from lovecraft_jax.config import Config
    from lovecraft_jax.data import dataset

    config = Config.of(c150.get_config()).replace(**settings)
    began, cpu = time.perf_counter(), time.process_time()
    dataset.prepare(config)
    # Not getrusage, whose peak is inherited from the process that started this one.
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {
        "wall_s": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "peak_mb": int(peak.split()[1]) / 1024,
    }


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    main()
