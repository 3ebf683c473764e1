"""What the runs came to: their raw rows, in a file that anybody can read, and what one rung gains over another."""

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from scipy import stats

from experiments.article_2019.experiments import Question, Rung, questions, settings
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import write_text

ROWS = "rows.csv"
KEY = ("setting", "seed", "text")
PLAIN = ("setting", "text", "corpus", "jax", "hardware")
"""Columns of words, though some may look like numbers."""
SHORT = 12
"""Digits of a corpus' SHA-256 that rows have."""
LEVEL = 0.95
"""Of intervals."""
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Line:
    """A rung of a question, the rows of its seeds, and `gain`: how many bits per character lower the mean of their
    valid scores is than that of what it is held against, and the 95 % interval of that (Welch's t). NaN where there is
    nothing to be held against, or less than two seeds."""

    question: str
    rung: Rung
    rows: tuple[Row, ...]
    gain: tuple[float, float, float]

    @property
    def bpc(self) -> list[float]:
        """Bits per character of the valid tales, by seed."""
        return [row["valid_bpc"] for row in self.rows]

    @property
    def half_width(self) -> float:
        """Of the 95 % interval of the mean `bpc`, by Student's t."""
        n = len(self.rows)
        return float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * stats.sem(self.bpc)) if n > 1 else math.nan

    def mean(self, key: str) -> float:
        """Over the seeds; NaN where no row has it."""
        return mean(key, self.rows)

    @property
    def verdict(self) -> str:
        """What the gain comes to, in words."""
        _, low, high = self.gain
        return "" if math.isnan(low) else "better" if low > 0 else "worse" if high < 0 else "no clear difference"


def mean(key: str, rows: Sequence[Row]) -> float:
    """Over the rows that have such a number; NaN where none has."""
    values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
    return float(np.mean(values)) if values else math.nan


def read(folder: Path) -> list[Row]:
    """The rows in a folder, numbers as numbers; none where there is no file. Raises UserError where it is damaged."""
    path = folder / ROWS
    if not path.exists():
        return []
    with told_of_damage(path, "restore it, or name another folder"), path.open(newline="") as file:
        texts = list(csv.DictReader(file, strict=True))
        if any(None in (*row, *row.values()) for row in texts):
            raise ValueError("rows of another length than the head")
        return _checked([{key: _value(key, text) for key, text in row.items()} for row in texts])


def read_json(path: Path) -> list[Row]:
    """The rows of a run. Raises UserError where they are damaged."""
    with told_of_damage(path, "restore it, or delete it and give the same command again: it is measured again"):
        return _checked(json.loads(path.read_text()))


@contextmanager
def told_of_damage(path: os.PathLike[str], advice: str) -> Iterator[None]:
    """Raises UserError where a file cannot be read as what it should be."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, OSError, csv.Error) as error:
        told = f"{type(error).__name__}: {error}"
        raise UserError(f"{os.fspath(path)}: damaged ({told}); {advice}") from None


def _checked(rows: list[Row]) -> list[Row]:
    if not (rows and isinstance(rows, list)):
        raise ValueError("no rows")
    for row in rows:
        setting, seed, text = (row[key] for key in KEY)
        is_key = isinstance(setting, str) and isinstance(seed, int) and isinstance(text, str)
        bpc = row["valid_bpc"]
        if not (is_key and setting in settings() and isinstance(bpc, float) and math.isfinite(bpc)):
            raise ValueError(f"{setting}, {seed}, {text}, {bpc}")
    if len({_key(row) for row in rows}) < len(rows):
        raise ValueError("a seed of a setting twice")
    return rows


def name(row: Row) -> str:
    """For messages."""
    return f"{row['setting']}, seed {row['seed']}"


def check_same(of: str, found: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises UserError where what was found `of` something was made with another corpus, in another time, or in other
    steps, than those given."""
    for key, expected in given.items():
        if found.get(key) != expected:
            told = f"{of}: {key} {found.get(key)}, now {expected}; it cannot stand beside that"
            raise UserError(f"{told}: give {'' if key == 'steps' else f'its --{key}, or '}another --workdir and --to")


def keep(folder: Path, rows: Sequence[Row]) -> None:
    """Writes rows, in the place of those of the same setting, seed and text, and leaves the others that are there."""
    of_key = {_key(row): row for row in [*read(folder), *rows]}
    if of_key:
        names = list(dict.fromkeys([*KEY, *(name for row in of_key.values() for name in row)]))
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(folder / ROWS, names, [of_key[key] for key in sorted(of_key)])


def lines(rows: Sequence[Row]) -> list[Line]:
    """Every question's rungs of which there are rows; none of a question where only that is there which the others
    are held against."""
    found = []
    for name, question in questions().items():
        of_rung = {rung: tuple(row for row in rows if _is_of(row, rung)) for rung in question.rungs}
        there = [rung for rung, its in of_rung.items() if its]
        if all(rung.setting == question.beside for rung in there):
            continue
        for rung in there:
            other = _other(question, there, rung)
            gain = _gain(of_rung[rung], of_rung[other]) if other else (math.nan,) * 3
            found.append(Line(name, rung, of_rung[rung], gain))
    return found


def _other(question: Question, there: Sequence[Rung], rung: Rung) -> Rung | None:
    """What a rung is held against, if that is there: the question's common one, or the one just before it."""
    if question.beside:
        return next((other for other in there if other.setting == question.beside != rung.setting), None)
    place = question.rungs.index(rung)
    before = question.rungs[place - 1] if place else rung
    return before if before in there and before.setting != rung.setting else None


def _gain(rows: Sequence[Row], others: Sequence[Row]) -> tuple[float, float, float]:
    ours, theirs = ([row["valid_bpc"] for row in some] for some in (rows, others))
    gain = float(np.mean(theirs) - np.mean(ours))
    if min(len(ours), len(theirs)) < 2:
        return gain, math.nan, math.nan
    low, high = stats.ttest_ind(theirs, ours, equal_var=False).confidence_interval(LEVEL)
    return gain, float(low), float(high)


def _is_of(row: Row, rung: Rung) -> bool:
    return row["setting"] == rung.setting and row["text"] == rung.text


def _key(row: Row) -> tuple:
    return tuple(row[key] for key in KEY)


def _value(key: str, text: str) -> Any:
    for kind in () if key in PLAIN else (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def write_csv(path: Path, names: Sequence[str], rows: Sequence[Row]) -> None:
    """A head of these names, then the rows."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: row.get(name) for name in names} for row in rows)
    write_text(epath.Path(path), text.getvalue())
