"""What a run measured, written once: metrics.jsonl for programs, TensorBoard events for eyes."""

import json
import math
import os
from typing import Any

from etils import epath
from tensorboardX import SummaryWriter

from lovecraft_jax.workdir import trim_rows

Row = dict[str, Any]
"""{"step": ..., "split": "train" | "valid" | "test", "loss": nats per token, "bpc": ..., ...}"""

FILE = "metrics.jsonl"


class MetricsWriter:
    """Appends rows to metrics.jsonl and to TensorBoard. `step` is where the run stands: later rows are removed."""

    def __init__(self, workdir: epath.Path, step: int) -> None:
        path = workdir / FILE
        # Final scores are written last, and again by whatever run ends: an unfinished run keeps none.
        trim_rows(path, lambda row: row["step"] <= step and row.get("scoring") != "final")
        self._file = open(os.fspath(path), "a")
        self._board = SummaryWriter(os.fspath(workdir / "tensorboard"), purge_step=step + 1, filename_suffix=f".{step}")

    def write(self, *rows: Row) -> None:
        """Rows that belong together reach the file in one write."""
        self._file.write("".join(json.dumps(strict(row)) + "\n" for row in rows))
        self._file.flush()
        for row in rows:
            for key, value in row.items():
                if isinstance(value, float) and math.isfinite(value):
                    tag = "/".join(filter(None, (row["split"], row.get("scoring"), key)))
                    self._board.add_scalar(tag, value, row["step"])

    def close(self) -> None:
        """Flushes both."""
        self._file.close()
        self._board.close()


def strict(row: Row) -> Row:
    """JSON has no NaN: null stands for what is not finite."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def results(rows: list[Row]) -> str:
    """Final scores in a line."""
    return "  ".join(f"{row['split']} {row['bpc']:.4f} bpc" for row in rows)
