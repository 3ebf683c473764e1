"""Measures what went wrong in the article of 2019: `python -m experiments.article_2019 [NAME ...]`."""

import sys

from experiments.article_2019.settings import get_study
from experiments.study.main import run_study


def main() -> int:
    """Returns an exit code."""
    return run_study(get_study(), __doc__)


if __name__ == "__main__":
    sys.exit(main())
