"""The measurements of a run, written twice: metrics.jsonl for programs, TensorBoard events for people."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from types import SimpleNamespace

from etils import epath
from tensorboardX import SummaryWriter
from tensorboardX.record_writer import register_writer_factory

from lovecraft_jax.runtime.files import GrowingFile, Row, nan_to_none, on_store, trim_rows

FILE = "metrics.jsonl"
FINAL = {"final": "", "adaptive": "adaptive: ", "cache": "adaptive, neural cache: "}
"""The scorings of the rows that a finished run ends with, static and adaptive, and what the log calls them."""


class MetricsWriter:
    """Appends rows to metrics.jsonl and to TensorBoard. Rows after `step`, where the run resumes, are removed first."""

    def __init__(self, workdir: epath.Path, step: int) -> None:
        path = workdir / FILE
        # Final scores are written last, and again by whichever start ends the run: an unfinished run keeps none.
        trim_rows(path, lambda row: row["step"] <= step and row.get("scoring") not in FINAL)
        self._file = GrowingFile(path)
        if on_store(path):
            upload_events()
        self._board = SummaryWriter(os.fspath(workdir / "tensorboard"), purge_step=step + 1, filename_suffix=f".{step}")

    def write(self, *rows: Row) -> None:
        """Appends rows that belong together in one write. Numbers inside a nested row are scalars of their own."""
        self._file.add("".join(json.dumps(nan_to_none(row)) + "\n" for row in rows))
        for row in rows:
            prefix = "/".join(filter(None, (row["split"], row.get("scoring"))))
            for tag, value in _scalars(row, prefix):
                self._board.add_scalar(tag, value, row["step"])

    def close(self) -> None:
        """Flushes both as far as possible: a failed write was already reported when it happened."""
        for file in (self._file, self._board):
            with contextlib.suppress(OSError):
                file.close()


def format_scores(rows: list[Row]) -> str:
    """The bits per character of every split: static scores in one line, and adaptive ones, if any, in others."""
    lines = []
    for scoring, name in FINAL.items():
        scores = [f"{row['split']} {_number(row['bpc'])} bpc" for row in rows if row["scoring"] == scoring]
        lines += [name + "  ".join(scores)] if scores else []
    return "\n".join(lines)


def _number(bpc: float | None) -> str:
    """A score with four digits; None is one that is not finite, which JSON does not have."""
    return "not finite" if bpc is None or not math.isfinite(bpc) else f"{bpc:.4f}"


def upload_events() -> None:
    """Makes tensorboardX write gs:// through fsspec, as everything else here does, instead of packages of its own."""
    register_writer_factory("gs", SimpleNamespace(open=_UploadedEvents, directory_check=lambda path: None))


class _UploadedEvents:
    """An event file on an object store. tensorboardX flushes it every two minutes, in a thread of its own, and when it
    is closed: then the whole file is uploaded."""

    def __init__(self, path: str) -> None:
        self._path, self._events = epath.Path(path), b""

    def write(self, data: bytes) -> None:
        self._events += data

    def flush(self) -> None:
        # With the store out of reach the next flush uploads it. An exception would end tensorboardX's thread, and the
        # next add_scalar would then wait forever.
        with contextlib.suppress(Exception):
            self._path.write_bytes(self._events)

    close = flush


def _scalars(values: Row, prefix: str) -> Iterator[tuple[str, float]]:
    """(TensorBoard tag, value) of every finite float in a row."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}/{key}")
        elif isinstance(value, float) and math.isfinite(value):
            yield f"{prefix}/{key}", value
