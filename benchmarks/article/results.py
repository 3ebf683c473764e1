"""What the runs came to: the raw rows, and one table of them. Both are files that anybody can read."""

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.article.experiments import Question, Rung, questions

ROWS, TABLE = "rows.csv", "table"
KEY = ("setting", "seed", "text")
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
    "word_length": ("letters a word", 1, 2),
    "copied_longest": ("longest copy", 1, 0),
    "p_value": ("p", 1, 3),
}
"""Means over the seeds that the table has: the head, what to divide by, decimals."""

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
        values = [row[key] for row in self.rows if isinstance(row.get(key), float)]
        return float(np.mean(values)) if values else math.nan

    @property
    def verdict(self) -> str:
        """What the gain comes to, in words."""
        _, low, high = self.gain
        return "" if math.isnan(low) else "better" if low > 0 else "worse" if high < 0 else "no clear difference"


def read(folder: Path) -> list[Row]:
    """The rows in a folder, numbers as floats; none where there is no file."""
    if not (folder / ROWS).exists():
        return []
    with (folder / ROWS).open(newline="") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def keep(folder: Path, rows: Sequence[Row]) -> None:
    """Writes rows, in the place of those of the same setting, seed and text, and leaves the others that are there."""
    of_key = {_key(row): row for row in [*read(folder), *rows]}
    if of_key:
        names = list(dict.fromkeys([*KEY, *(name for row in of_key.values() for name in row)]))
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / ROWS, names, [of_key[key] for key in sorted(of_key)])


def lines(rows: Sequence[Row]) -> list[Line]:
    """Every question's rungs of which there are rows."""
    found = []
    for name, question in questions().items():
        of_rung = {rung: tuple(row for row in rows if _is_of(row, rung)) for rung in question.rungs}
        there = [rung for rung, its in of_rung.items() if its]
        for n, rung in enumerate(there):
            other = _other(question, there, n)
            gain = _gain(of_rung[rung], of_rung[other]) if other else (math.nan,) * 3
            found.append(Line(name, rung, of_rung[rung], gain))
    return found


def write_table(folder: Path, found: Sequence[Line]) -> None:
    """The table as CSV and as Markdown."""
    head = ["question", "setting", "what", "seeds", "bpc", "+-", "gain", "low", "high", "verdict", *COLUMNS]
    plain = [
        [line.question, line.rung.setting, line.rung.label, len(line.rows), np.mean(line.bpc), line.half_width]
        for line in found
    ]
    for row, line in zip(plain, found, strict=True):
        row += [*line.gain, line.verdict, *map(line.mean, COLUMNS)]
    texts = [list(map(_plain, row)) for row in plain]
    _write(folder / f"{TABLE}.csv", head, [dict(zip(head, row, strict=True)) for row in texts])
    parts = []
    for name, question in questions().items():
        if of_question := [line for line in found if line.question == name]:
            titles = ["", "seeds", "bpc (95 %)", "gain (95 %)", "", *(title for title, _, _ in COLUMNS.values())]
            shown = [titles, ["---"] * len(titles), *map(_cells, of_question)]
            parts.append(f"**{question.title}**\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in shown) + "\n")
    (folder / f"{TABLE}.md").write_text("\n".join(parts))


def _cells(line: Line) -> list[str]:
    gain, low, high = line.gain
    interval = "" if math.isnan(low) else f" ({low:+.3f} to {high:+.3f})"
    return [
        line.rung.label,
        str(len(line.rows)),
        f"{np.mean(line.bpc):.3f}" + ("" if math.isnan(line.half_width) else f" ± {line.half_width:.3f}"),
        "" if math.isnan(gain) else f"{gain:+.3f}{interval}",
        line.verdict,
        *(
            "" if math.isnan(line.mean(key)) else f"{line.mean(key) / scale:,.{decimals}f}"
            for key, (_, scale, decimals) in COLUMNS.items()
        ),
    ]


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
    return row["setting"], int(row["seed"]), row["text"]


def _value(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def _write(path: Path, names: Sequence[str], rows: Sequence[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: row.get(name) for name in names} for row in rows)
