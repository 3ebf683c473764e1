"""A short sample of each setting, all from the same prompt, seed and temperature: a column of the rows, and
samples.md."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from experiments.study.measure import generate
from experiments.study.study import Row, Study
from lovecraft_jax.data.splits import Splits
from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.files import write_text
from lovecraft_jax.stylometry.overlap import Overlap

FILE = "samples.md"
PROMPT, LENGTH, TEMPERATURE = "The ancient house", 300, 0.7
MOST_OVERLAP = 50
"""Characters in a row that a sample may share with the training text."""
WIDTH = 100


def generate_sample(run: Run, trained_on: Splits) -> str:
    """Returns PROMPT and at most LENGTH generated characters; a note instead if their verbatim overlap with the
    training text exceeds MOST_OVERLAP characters."""
    (text,) = generate(run, PROMPT, LENGTH, Sampling(TEMPERATURE))
    span = Overlap(trained_on.by_tale["train"]).longest(PROMPT + text)
    if span and span.length > MOST_OVERLAP:
        return f"[left out: it shares {span.length} characters in a row with the training text]"
    return PROMPT + text


def write(study: Study, folder: Path, rows: Sequence[Row]) -> None:
    """Saves the sample of each setting, that of its first seed, where the rows have samples."""
    by_setting: dict[str, str] = {}
    for row in rows:
        if row.get("sample"):
            by_setting.setdefault(row["setting"], row["sample"])
    if not by_setting:
        return
    parts = [f"“{PROMPT}” and what follows it, with seed 0 and temperature {TEMPERATURE:g}.", ""]
    for setting in filter(by_setting.get, study.configs):
        lines = by_setting[setting].splitlines()
        parts += [f"**{setting}**", "", "```text", *(textwrap.fill(line, WIDTH) for line in lines), "```", ""]
    write_text(epath.Path(folder / FILE), "\n".join(parts))
