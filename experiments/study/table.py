"""The table of results, as CSV and as Markdown."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from experiments.article_2019.experiments import questions
from experiments.article_2019.results import Line, write_csv
from lovecraft_jax.runtime.files import write_text

FILE = "table"
COLUMNS = {
    "characters": ("million characters", 1e6, 1),
    "test_bpc": ("bpc, test", 1, 3),
    "valid_bpc_window": ("bpc, in windows", 1, 3),
    "valid_bce": ("bce", 1, 4),
    "real": ("real words, %", 1, 1),
    "the": ("the", 1, 0),
    "ing": ("-ing", 1, 0),
    "tion_end": ("-tion", 1, 0),
    "copied_longest": ("longest overlap", 1, 0),
}
"""Columns of the Markdown table, means over the seeds: header, divisor, decimals."""
MORE_COLUMNS = ("steps", "parameters", "word_length", "p_value", "accepted_share")
"""Further columns of the CSV."""


def write(folder: Path, lines: Sequence[Line]) -> None:
    """Saves the table as CSV, and its most important columns as Markdown."""
    more = (*COLUMNS, *MORE_COLUMNS)
    header = ["question", "setting", "what", "seeds", "bpc", "+-", "gain", "low", "high", "verdict", *more]
    rows = [
        [
            *(line.question, line.rung.setting, line.rung.label, len(line.rows), np.mean(line.bpc), line.half_width),
            *(*line.gain, line.verdict, *map(line.mean, more)),
        ]
        for line in lines
    ]
    write_csv(folder / f"{FILE}.csv", header, [dict(zip(header, map(_formatted, row), strict=True)) for row in rows])
    parts = []
    for name in questions():
        if selected := [line for line in lines if line.question == name]:
            keys = [key for key in COLUMNS if any(not math.isnan(line.mean(key)) for line in selected)]
            titles = ["", "bpc", "gain", *(COLUMNS[key][0] for key in keys)]
            cells = [titles, [":--", "--:", ":--", *["--:"] * len(keys)], *(_cells(line, keys) for line in selected)]
            parts += [_caption(selected), "", *("| " + " | ".join(map(_escaped, row)) + " |" for row in cells), ""]
    write_text(epath.Path(folder / f"{FILE}.md"), "\n".join(parts))


def _caption(lines: Sequence[Line]) -> str:
    question = questions()[lines[0].question]
    baselines = (f"“{rung.label}”" for rung in question.rungs if rung.setting == question.baseline)
    fewest, most = (bound(len(line.rows) for line in lines) for bound in (min, max))
    seeds = f"{fewest if fewest == most else f'{fewest} to {most}'} seed{'s' if most > 1 else ''} each"
    interval = ", with its 95 % interval" if most > 1 else ""
    baseline = next(baselines, "the line before")
    return f"**{question.title}** ({seeds}; gain: bits per character below {baseline}{interval})"


def _cells(line: Line, keys: Sequence[str]) -> list[str]:
    gain, low, high = line.gain
    interval = "" if math.isnan(low) else f" ({low:+.3f} to {high:+.3f}): {line.verdict}"
    cells = [
        line.rung.label,
        f"{np.mean(line.bpc):.3f}" + ("" if math.isnan(line.half_width) else f" ± {line.half_width:.3f}"),
        "" if math.isnan(gain) else f"{gain:+.3f}{interval}",
    ]
    for key in keys:
        (_, divisor, decimals), value = COLUMNS[key], line.mean(key)
        cells.append("" if math.isnan(value) else f"{value / divisor:,.{decimals}f}")
    return cells


def _escaped(cell: str) -> str:
    """The text as one cell of a Markdown table."""
    return " ".join(cell.split()).replace("|", "\\|")


def _formatted(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
