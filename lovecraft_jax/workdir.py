"""A run's directory: one owner at a time, JSON files that are never half written, rows trimmed on resume."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from etils import epath

from lovecraft_jax.errors import UserError


@contextmanager
def owned(path: str) -> Iterator[epath.Path]:
    """The absolute directory, made and locked against a second start. The lock dies with its process."""
    workdir = absolute(path)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / "lock", "w")
    except OSError as error:
        raise UserError(f"--workdir={path}: cannot be written ({error.strerror}); name a folder of yours") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--workdir={path}: in use by another run; wait for it or name another folder") from None
        yield workdir


def absolute(path: str) -> epath.Path:
    """The folder that `--workdir=path` names."""
    return epath.Path(os.path.abspath(os.path.expanduser(path)))


def write_text(path: epath.Path, text: str) -> None:
    """Replaces a file whole: a kill leaves the old one or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def write_json(path: epath.Path, value: Any) -> None:
    """Replaces a JSON file whole."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def trim_samples(folder: epath.Path, step: int) -> None:
    """Removes the samples written after `step`, and the one of an end that is to be reached again."""
    for sample in folder.glob("*.txt") if folder.exists() else ():
        if not sample.stem.isdigit() or int(sample.stem) > step:
            sample.unlink()


def read_rows(path: epath.Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; a half line at its end, as a kill leaves it, is no row."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def trim_rows(path: epath.Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Removes the rows that `keep` refuses, and half lines."""
    if path.exists():
        write_text(path, "".join(json.dumps(row) + "\n" for row in read_rows(path) if keep(row)))
