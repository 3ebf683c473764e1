"""What the runs came to: the raw rows, and one table of them. Both are files that anybody can read."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from scipy import stats

from benchmarks.article.experiments import Question, Rung, questions
from lovecraft_jax.errors import UserError
from lovecraft_jax.workdir import write_text

ROWS, TABLE = "rows.csv", "table"
KEY = ("setting", "seed", "text")
PLAIN = ("setting", "text", "corpus", "jax", "hardware")
"""Columns of words, though some may look like numbers."""
SHORT = 12
"""Digits of a corpus' SHA-256 that rows have."""
LEVEL = 0.95
"""Of intervals."""
COLUMNS = {
    "characters": ("million characters", 1e6, 1),
    "valid_bpc_window": ("bpc, stateless", 1, 3),
    "valid_bce": ("bce", 1, 4),
    "real": ("real words, %", 1, 1),
    "the": ("the", 1, 0),
    "ing": ("-ing", 1, 0),
    "tion_end": ("-tion", 1, 0),
    "copied_longest": ("longest copy", 1, 0),
}
"""Means over the seeds that the Markdown has: the head, what to divide by, decimals."""
MORE_COLUMNS = ("steps", "parameters", "test_bpc", "word_length", "p_value", "accepted_share")
"""That the CSV has besides."""

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
        values = [row[key] for row in self.rows if isinstance(row.get(key), int | float)]
        return float(np.mean(values)) if values else math.nan

    @property
    def verdict(self) -> str:
        """What the gain comes to, in words."""
        _, low, high = self.gain
        return "" if math.isnan(low) else "better" if low > 0 else "worse" if high < 0 else "no clear difference"


def read(folder: Path) -> list[Row]:
    """The rows in a folder, numbers as numbers; none where there is no file. Raises UserError where it is damaged."""
    path = folder / ROWS
    if not path.exists():
        return []
    with told_of_damage(path), path.open(newline="") as file:
        rows = [{key: _value(key, text) for key, text in row.items()} for row in csv.DictReader(file, strict=True)]
        if any(None in (*row, *row.values()) for row in rows):
            raise ValueError("rows of another length than the head")
        return _checked(rows)


def read_json(path: Path) -> list[Row]:
    """The rows of a run. Raises UserError where they are damaged."""
    with told_of_damage(path):
        return _checked(json.loads(path.read_text()))


@contextmanager
def told_of_damage(path: Path) -> Iterator[None]:
    """Raises UserError where a file cannot be read as what it should be."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        told = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: damaged ({told}); delete it, and it is made again from what was trained") from None


def _checked(rows: list[Row]) -> list[Row]:
    for row in rows:
        setting, seed, text = (row[key] for key in KEY)
        is_key = isinstance(setting, str) and isinstance(seed, int) and isinstance(text, str)
        if not (is_key and isinstance(row.get("valid_bpc", 0.0), float)):
            raise ValueError(f"{setting}, {seed}, {text}, {row.get('valid_bpc')}")
    return rows


def check_corpus(rows: Sequence[Row], sha256: str) -> None:
    """Raises UserError where one of the rows is of another corpus."""
    for row in rows:
        if row.get("corpus") != sha256[:SHORT]:
            told = f"{row['setting']}, seed {row['seed']}, was trained on another corpus"
            hashes = f"SHA-256 {row.get('corpus')}, now {sha256[:SHORT]}"
            raise UserError(f"{told} ({hashes}): give the same --corpus, or another --workdir and --to")


def keep(folder: Path, rows: Sequence[Row]) -> None:
    """Writes rows, in the place of those of the same setting, seed and text, and leaves the others that are there."""
    of_key = {_key(row): row for row in [*read(folder), *rows]}
    if of_key:
        names = list(dict.fromkeys([*KEY, *(name for row in of_key.values() for name in row)]))
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / ROWS, names, [of_key[key] for key in sorted(of_key)])


def lines(rows: Sequence[Row]) -> list[Line]:
    """Every question's rungs of which there are rows; none of a question where only that is there which the others
    are held against."""
    found = []
    for name, question in questions().items():
        of_rung = {rung: tuple(row for row in rows if _is_of(row, rung)) for rung in question.rungs}
        there = [rung for rung, its in of_rung.items() if its]
        if all(rung.setting == question.beside for rung in there):
            continue
        for n, rung in enumerate(there):
            other = _other(question, there, n)
            gain = _gain(of_rung[rung], of_rung[other]) if other else (math.nan,) * 3
            found.append(Line(name, rung, of_rung[rung], gain))
    return found


def write_table(folder: Path, found: Sequence[Line]) -> None:
    """The table as CSV and, its most important columns, as Markdown."""
    more = (*COLUMNS, *MORE_COLUMNS)
    head = ["question", "setting", "what", "seeds", "bpc", "+-", "gain", "low", "high", "verdict", *more]
    plain = [
        [line.question, line.rung.setting, line.rung.label, len(line.rows), np.mean(line.bpc), line.half_width]
        for line in found
    ]
    for row, line in zip(plain, found, strict=True):
        row += [*line.gain, line.verdict, *map(line.mean, more)]
    texts = [list(map(_plain, row)) for row in plain]
    _write(folder / f"{TABLE}.csv", head, [dict(zip(head, row, strict=True)) for row in texts])
    parts = []
    for name in questions():
        if of_question := [line for line in found if line.question == name]:
            keys = [key for key in COLUMNS if any(not math.isnan(line.mean(key)) for line in of_question)]
            titles = ["", "bpc", "gain", *(COLUMNS[key][0] for key in keys)]
            shown = [titles, [":--", "--:", ":--", *["--:"] * len(keys)], *(_cells(line, keys) for line in of_question)]
            parts += [_caption(of_question), "", *("| " + " | ".join(map(_safe, row)) + " |" for row in shown), ""]
    write_text(epath.Path(folder / f"{TABLE}.md"), "\n".join(parts))


def _caption(lines: Sequence[Line]) -> str:
    question = questions()[lines[0].question]
    beside = next((f"“{rung.label}”" for rung in question.rungs if rung.setting == question.beside), "the line before")
    fewest, most = (of(len(line.rows) for line in lines) for of in (min, max))
    seeds = f"{fewest if fewest == most else f'{fewest} to {most}'} seed{'s' if most > 1 else ''} each"
    interval = ", with its 95 % interval" if most > 1 else ""
    return f"**{question.title}** ({seeds}; gain: bits per character below {beside}{interval})"


def _cells(line: Line, keys: Sequence[str]) -> list[str]:
    gain, low, high = line.gain
    interval = "" if math.isnan(low) else f" ({low:+.3f} to {high:+.3f}): {line.verdict}"
    cells = [
        line.rung.label,
        f"{np.mean(line.bpc):.3f}" + ("" if math.isnan(line.half_width) else f" ± {line.half_width:.3f}"),
        "" if math.isnan(gain) else f"{gain:+.3f}{interval}",
    ]
    for key in keys:
        (_, scale, decimals), mean = COLUMNS[key], line.mean(key)
        cells.append("" if math.isnan(mean) else f"{mean / scale:,.{decimals}f}")
    return cells


def _safe(cell: str) -> str:
    """As one cell of a Markdown table."""
    return " ".join(cell.split()).replace("|", "\\|")


def _other(question: Question, there: Sequence[Rung], n: int) -> Rung | None:
    """What the n-th rung is held against: the question's common one, or of the rungs before it the last."""
    if question.beside:
        return next((rung for rung in there if rung.setting == question.beside != there[n].setting), None)
    return there[n - 1] if n and there[n - 1].setting != there[n].setting else None


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


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def _write(path: Path, names: Sequence[str], rows: Sequence[Row]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: row.get(name) for name in names} for row in rows)
    write_text(epath.Path(path), text.getvalue())
