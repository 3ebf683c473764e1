"""What the commands of this package take on their lines."""

import argparse
from collections.abc import Callable
from pathlib import Path


def at_least(low: float, kind: type = int, high: float = 1e9) -> Callable[[str], float]:
    """For argparse: a number from `low` to `high`."""

    def value(text: str) -> float:
        found = kind(text)
        if not low <= found <= high:
            raise argparse.ArgumentTypeError(f"{text}: expected {kind.__name__} from {low:g} to {high:g}")
        return found

    value.__name__ = kind.__name__  # for argparse to say what could not be read
    return value


def not_empty(text: str) -> str:
    """For argparse: a text, and not that of a shell variable that was not set."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give it a value or leave it out")
    return text


def folder(text: str) -> Path:
    """For argparse: a folder on a disk."""
    if "://" in not_empty(text):
        raise argparse.ArgumentTypeError(f"{text}: expected a folder on a disk")
    return Path(text)
