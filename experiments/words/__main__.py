"""Compares what a token can be, and what can become of rare words: `python -m experiments.words [NAME ...]`."""

import sys

from experiments.study.main import run_study
from experiments.words.settings import get_study


def main() -> int:
    """Returns an exit code."""
    return run_study(get_study(), __doc__)


if __name__ == "__main__":
    sys.exit(main())
