"""What the commands of this package take on their lines."""

import argparse
import math
from collections.abc import Callable


def at_least(low: float, kind: type = int) -> Callable[[str], float]:
    """For argparse: a finite number, no less than that."""

    def value(text: str) -> float:
        found = kind(text)
        if not low <= found < math.inf:
            raise argparse.ArgumentTypeError(f"{text}: expected a finite {kind.__name__} of at least {low:g}")
        return found

    value.__name__ = kind.__name__  # for argparse to say what could not be read
    return value
