"""What a run measured, written once: metrics.jsonl for programs, TensorBoard events for eyes."""

import contextlib
import json
import math
import os
from types import SimpleNamespace

from etils import epath
from tensorboardX import SummaryWriter
from tensorboardX.record_writer import register_writer_factory

from lovecraft_jax.runtime.files import GrowingFile, Row, strict, trim_rows

FILE = "metrics.jsonl"


class MetricsWriter:
    """Appends rows to metrics.jsonl and to TensorBoard. `step` is where the run stands: later rows are removed."""

    def __init__(self, workdir: epath.Path, step: int) -> None:
        path = workdir / FILE
        # Final scores are written last, and again by whatever run ends: an unfinished run keeps none.
        trim_rows(path, lambda row: row["step"] <= step and row.get("scoring") != "final")
        self._file = GrowingFile(path)
        self._board = SummaryWriter(os.fspath(workdir / "tensorboard"), purge_step=step + 1, filename_suffix=f".{step}")

    def write(self, *rows: Row) -> None:
        """Rows that belong together reach the file in one write."""
        self._file.add("".join(json.dumps(strict(row)) + "\n" for row in rows))
        for row in rows:
            for key, value in row.items():
                if isinstance(value, float) and math.isfinite(value):
                    tag = "/".join(filter(None, (row["split"], row.get("scoring"), key)))
                    self._board.add_scalar(tag, value, row["step"])

    def close(self) -> None:
        """Flushes both, as far as can be: what could not be written was told when it was."""
        for file in (self._file, self._board):
            with contextlib.suppress(OSError):
                file.close()


class _StoredEvents:
    """What tensorboardX writes to on an object store, instead of through packages of its own.

    It flushes every two minutes, in its thread, and when it is closed: then the file is uploaded whole.
    """

    def __init__(self, path: str) -> None:
        self._path, self._events = epath.Path(path), b""

    def write(self, data: bytes) -> None:
        self._events += data

    def flush(self) -> None:
        with contextlib.suppress(Exception):  # out of reach: the next will do; if its thread died, `write` would wait
            self._path.write_bytes(self._events)

    close = flush


register_writer_factory("gs", SimpleNamespace(open=_StoredEvents, directory_check=lambda path: None))


def results(rows: list[Row]) -> str:
    """Final scores in a line."""
    return "  ".join(f"{row['split']} {row['bpc']:.4f} bpc" for row in rows)
