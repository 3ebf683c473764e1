"""One table of the results, as CSV and as Markdown."""

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
    "valid_bpc_window": ("bpc, read in windows", 1, 3),
    "valid_bce": ("bce", 1, 4),
    "real": ("real words, %", 1, 1),
    "the": ("the", 1, 0),
    "ing": ("-ing", 1, 0),
    "tion_end": ("-tion", 1, 0),
    "copied_longest": ("longest copy", 1, 0),
}
"""Means over the seeds that the Markdown has: the head, what to divide by, decimals."""
MORE_COLUMNS = ("steps", "parameters", "word_length", "p_value", "accepted_share")
"""That the CSV has besides."""


def write(folder: Path, found: Sequence[Line]) -> None:
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
    write_csv(folder / f"{FILE}.csv", head, [dict(zip(head, row, strict=True)) for row in texts])
    parts = []
    for name in questions():
        if of_question := [line for line in found if line.question == name]:
            keys = [key for key in COLUMNS if any(not math.isnan(line.mean(key)) for line in of_question)]
            titles = ["", "bpc", "gain", *(COLUMNS[key][0] for key in keys)]
            shown = [titles, [":--", "--:", ":--", *["--:"] * len(keys)], *(_cells(line, keys) for line in of_question)]
            parts += [_caption(of_question), "", *("| " + " | ".join(map(_safe, row)) + " |" for row in shown), ""]
    write_text(epath.Path(folder / f"{FILE}.md"), "\n".join(parts))


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
        (_, scale, decimals), value = COLUMNS[key], line.mean(key)
        cells.append("" if math.isnan(value) else f"{value / scale:,.{decimals}f}")
    return cells


def _safe(cell: str) -> str:
    """As one cell of a Markdown table."""
    return " ".join(cell.split()).replace("|", "\\|")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
