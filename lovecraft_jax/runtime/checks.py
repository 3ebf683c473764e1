"""Checks of single values, which commands, configs and the Python API share, so that all give the same line."""

import contextlib
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from lovecraft_jax.runtime.errors import UserError

_ACCEPTED: dict[Any, Any] = {int: Integral, float: Real}  # NumPy's numbers are numbers


def checked(name: str, value: Any, kind: Any, expected: str, allowed: Callable[[Any], Any] = lambda _: True) -> Any:
    """Returns `value` where it is of a `kind` (a type) and `allowed`: as an int or a float where this is the kind, for
    which booleans do not count. Raises UserError, which says what was `expected`, otherwise."""
    if isinstance(value, _ACCEPTED.get(kind, kind)) and isinstance(value, bool) == (kind is bool):
        with contextlib.suppress(OverflowError):  # a whole number that no float can hold
            if allowed(plain := kind(value) if kind in _ACCEPTED else value):
                return plain
    raise UserError(f"{name}={shown(value)}: expected {expected}")


def shown(value: object) -> str:
    """The value as a part of a line: its repr without line breaks, shortened."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python refuses to spell out a whole number of thousands of digits
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= 200 else text[:200] + "..."
