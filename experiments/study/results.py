"""The results of the runs: rows.csv, and the lines of the table, with the gain of one setting over another."""

import csv
import dataclasses
import io
import itertools
import json
import math
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from scipy import stats

from experiments.study.study import Entry, Question, Row, Study
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import write_text
from lovecraft_jax.sweep.table import LEVEL, half_width

ROWS = "rows.csv"
KEY = ("setting", "seed", "text")
STRINGS = ("setting", "text", "corpus", "jax", "hardware")
"""Columns that stay strings, even where a value looks like a number."""
SHORT = 12
"""Digits of the corpus's SHA-256 in a row."""


@dataclasses.dataclass(frozen=True)
class Line:
    """An entry of a question with the rows of its seeds.

    `gain`: by how many bits per character its mean valid score is below that of the entry it is compared with, and the
    95 % interval of that difference (Welch's t-test). NaN without one to compare with; the interval is NaN with
    fewer than two seeds.
    """

    question: Question
    entry: Entry
    rows: tuple[Row, ...]
    gain: tuple[float, float, float]

    @property
    def bpc(self) -> list[float]:
        """Bits per character of the valid tales, one value a seed."""
        return [row["valid_bpc"] for row in self.rows]

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval of the mean `bpc`; NaN for one seed."""
        return half_width(self.bpc)

    def mean(self, key: str) -> float:
        """Returns the mean of a column over the seeds; NaN if no row has it."""
        return mean(key, self.rows)

    @property
    def verdict(self) -> str:
        """Whether the gain is clear: "better", "worse" or "no clear difference"; empty without an interval."""
        _, low, high = self.gain
        return "" if math.isnan(low) else "better" if low > 0 else "worse" if high < 0 else "no clear difference"


def mean(key: str, rows: Sequence[Row]) -> float:
    """Returns the mean of a column over the rows that have a number there; NaN if none has."""
    values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
    return float(np.mean(values)) if values else math.nan


def lines(study: Study, rows: Sequence[Row]) -> list[Line]:
    """Returns the lines of every question: its entries that have rows. A question of which only the baseline has rows,
    or the first entry, compares nothing and is left out."""
    found = []
    for question in study.questions:
        by_entry = {entry: tuple(row for row in rows if _belongs(row, entry)) for entry in question.entries}
        present = [entry for entry, its_rows in by_entry.items() if its_rows]
        start = question.baseline or question.entries[0].setting
        if all(entry.setting == start for entry in present):
            continue
        for entry in present:
            other = _compared_with(question, present, entry)
            gain = _gain(by_entry[entry], by_entry[other]) if other else (math.nan,) * 3
            found.append(Line(question, entry, by_entry[entry], gain))
    return found


def by_question(lines: Sequence[Line]) -> list[list[Line]]:
    """Returns the lines of each question that has some."""
    return [list(group) for _, group in itertools.groupby(lines, operator.attrgetter("question"))]


def _belongs(row: Row, entry: Entry) -> bool:
    return row["setting"] == entry.setting and row["text"] == entry.text


def _compared_with(question: Question, present: Sequence[Entry], entry: Entry) -> Entry | None:
    """Returns the entry to compare with, if it has rows: the question's baseline, or the entry just before."""
    if question.baseline:
        return next((other for other in present if other.setting == question.baseline != entry.setting), None)
    index = question.entries.index(entry)
    before = question.entries[index - 1] if index else entry
    return before if before in present and before.setting != entry.setting else None


def _gain(rows: Sequence[Row], others: Sequence[Row]) -> tuple[float, float, float]:
    ours, theirs = ([row["valid_bpc"] for row in some] for some in (rows, others))
    gain = float(np.mean(theirs) - np.mean(ours))
    if min(len(ours), len(theirs)) < 2:
        return gain, math.nan, math.nan
    low, high = stats.ttest_ind(theirs, ours, equal_var=False).confidence_interval(LEVEL)
    return gain, float(low), float(high)


def read(study: Study, folder: Path) -> list[Row]:
    """Returns the rows of rows.csv, numbers as numbers; none if there is no file. Raises UserError if it is damaged."""
    path = folder / ROWS
    if not path.exists():
        return []
    with report_damage(path, "restore it, or name another folder"), path.open(newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
        if any(None in (*row, *row.values()) for row in rows):
            raise ValueError("rows of another length than the header")
        return _checked(study, [{key: _value(key, text) for key, text in row.items()} for row in rows])


def _value(key: str, text: str) -> Any:
    for kind in () if key in STRINGS else (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def read_json(study: Study, path: Path) -> list[Row]:
    """Returns the rows of one run. Raises UserError if they are damaged."""
    with report_damage(path, "restore it, or delete it and repeat the command: it is measured again"):
        return _checked(study, json.loads(path.read_text()))


@contextmanager
def report_damage(path: os.PathLike[str], advice: str) -> Iterator[None]:
    """Raises UserError if the block fails to read a file as what it should be."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, OSError, csv.Error) as error:
        raise UserError(f"{os.fspath(path)}: damaged ({type(error).__name__}: {error}); {advice}") from None


def _checked(study: Study, rows: list[Row]) -> list[Row]:
    if not (rows and isinstance(rows, list)):
        raise ValueError("no rows")
    for row in rows:
        setting, seed, text = (row[key] for key in KEY)
        is_key = isinstance(setting, str) and isinstance(seed, int) and isinstance(text, str)
        bpc = row["valid_bpc"]
        if not (is_key and setting in study.configs and isinstance(bpc, float) and math.isfinite(bpc)):
            raise ValueError(f"{setting}, {seed}, {text}, {bpc}")
    if len({_key(row) for row in rows}) < len(rows):
        raise ValueError("a seed of a setting twice")
    return rows


def name(row: Row) -> str:
    """Returns the name of a row for error messages."""
    return f"{row['setting']}, seed {row['seed']}"


def check_same(what: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises UserError if `found` differs from the expected corpus, seconds or steps. `what` names it in the error."""
    for key, value in expected.items():
        if found.get(key) != value:
            option = "" if key == "steps" else f"its --{key}, or "
            difference = f"{what}: {key} {found.get(key)}, expected {value}; the two cannot be compared"
            raise UserError(f"{difference}: give {option}another --workdir and --to")


def merge(study: Study, folder: Path, rows: Sequence[Row]) -> None:
    """Adds rows to rows.csv. They replace rows of the same setting, seed and text; the others stay."""
    by_key = {_key(row): row for row in [*read(study, folder), *rows]}
    if by_key:
        columns = list(dict.fromkeys([*KEY, *(column for row in by_key.values() for column in row)]))
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(folder / ROWS, columns, [by_key[key] for key in sorted(by_key)])


def _key(row: Row) -> tuple:
    return tuple(row[key] for key in KEY)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Saves rows as CSV with a header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: row.get(column) for column in columns} for row in rows)
    write_text(epath.Path(path), text.getvalue())
