"""Argument types shared by the commands of the studies."""

import argparse
from collections.abc import Callable
from pathlib import Path


def at_least(low: float, kind: type = int, high: float = 1e9) -> Callable[[str], float]:
    """Returns an argparse type: a number from `low` to `high`."""

    def value(text: str) -> float:
        number = kind(text)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text}: expected {kind.__name__} from {low:g} to {high:g}")
        return number

    value.__name__ = kind.__name__  # argparse puts it into its error message
    return value


def not_empty(text: str) -> str:
    """An argparse type: a string that is not empty, which an unset shell variable would be."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give it a value or leave it out")
    return text


def folder(text: str) -> Path:
    """An argparse type: a folder on a local disk."""
    if "://" in not_empty(text):
        raise argparse.ArgumentTypeError(f"{text}: expected a folder on a disk")
    return Path(text)
