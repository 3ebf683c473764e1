"""lovecraft_jax: LSTM language models on prose

  python -m lovecraft_jax.train --config=configs/c150.py      trains a run, or resumes it
  python -m lovecraft_jax.sample --workdir=runs/c150          generates text
  python -m lovecraft_jax.evaluate --workdir=runs/c150        scores a split or a text exactly
  python -m lovecraft_jax.report --workdir=runs/c150          makes a page about a run: report/index.html
  python -m lovecraft_jax.export --workdir=runs/c150 --to=page.html   for a browser, PyTorch, ONNX, the Hub
  python -m lovecraft_jax.sweep --config=configs/c150.py      trains a grid of settings, and prints a table

Each lists its flags with --help; README.md has the rest."""

import os
import sys

from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import FAILED, WRONG_INPUT

if __name__ == "__main__":
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        name, *flags = sys.argv[1:]
        is_known = f"lovecraft_jax.{name} " in __doc__
        dotted = f"give a command after a dot: python -m lovecraft_jax.{' '.join([name, *flags])}"
        log(f"{name!r}: {dotted if is_known else 'no such command; python -m lovecraft_jax lists them'}")
        sys.exit(WRONG_INPUT)
    try:
        print(__doc__, flush=True)
    except OSError:  # the reader has closed it, as `head` does; a regular exit would write again
        os._exit(FAILED)
