"""The table of results, as CSV and as Markdown."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from experiments.study.results import Line, by_question, write_csv
from experiments.study.study import Column, Study
from lovecraft_jax.runtime.files import write_text

FILE = "table"


def write(study: Study, folder: Path, lines: Sequence[Line]) -> None:
    """Saves the table as CSV, and its most important columns as Markdown."""
    more = (*study.columns, *study.more_columns)
    header = ["question", "setting", "what", "seeds", "bpc", "+-", "gain", "low", "high", "verdict", *more]
    rows = [
        [
            *(line.question.name, line.entry.setting, line.entry.label, len(line.rows)),
            *(np.mean(line.bpc), line.half_width, *line.gain, line.verdict),
            *map(line.mean, more),
        ]
        for line in lines
    ]
    write_csv(folder / f"{FILE}.csv", header, [dict(zip(header, map(_formatted, row), strict=True)) for row in rows])
    parts = []
    for selected in by_question(lines):
        filled = [key for key in study.columns if any(not math.isnan(line.mean(key)) for line in selected)]
        columns = {key: study.columns[key] for key in filled}
        titles = ["", "bpc", "gain", *(title for title, _, _ in columns.values())]
        cells = [titles, [":--", "--:", ":--", *["--:"] * len(columns)], *(_cells(line, columns) for line in selected)]
        parts += [_caption(selected), "", *("| " + " | ".join(map(_escaped, row)) + " |" for row in cells), ""]
    write_text(epath.Path(folder / f"{FILE}.md"), "\n".join(parts))


def _caption(lines: Sequence[Line]) -> str:
    question = lines[0].question
    baselines = (f"“{entry.label}”" for entry in question.entries if entry.setting == question.baseline)
    fewest, most = (bound(len(line.rows) for line in lines) for bound in (min, max))
    seeds = f"{fewest if fewest == most else f'{fewest} to {most}'} seed{'s' if most > 1 else ''} each"
    interval = ", with its 95 % interval" if most > 1 else ""
    baseline = next(baselines, "the line before")
    return f"**{question.title}** ({seeds}; gain: bits per character below {baseline}{interval})"


def _cells(line: Line, columns: Mapping[str, Column]) -> list[str]:
    gain, low, high = line.gain
    interval = "" if math.isnan(low) else f" ({low:+.3f} to {high:+.3f}): {line.verdict}"
    cells = [
        line.entry.label,
        f"{np.mean(line.bpc):.3f}" + ("" if math.isnan(line.half_width) else f" ± {line.half_width:.3f}"),
        "" if math.isnan(gain) else f"{gain:+.3f}{interval}",
    ]
    for key, (_, divisor, decimals) in columns.items():
        value = line.mean(key)
        cells.append("" if math.isnan(value) else f"{value / divisor:,.{decimals}f}")
    return cells


def _escaped(cell: str) -> str:
    """The text as one cell of a Markdown table."""
    return " ".join(cell.split()).replace("|", "\\|")


def _formatted(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
