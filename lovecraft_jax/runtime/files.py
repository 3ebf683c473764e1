"""A run's directory, on a disk or an object store: files that are never half written, and removing rows on resume."""

import glob
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from etils import epath

from lovecraft_jax.runtime.checks import checked
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.lock import locked, on_store

PROBE_BYTES = 1 << 16
"""What `check_can_be_written` writes to find out whether there is room for more."""

Row = dict[str, Any]
"""{"step": ..., "split": "train" | "valid" | "test", "loss": nats per token, "bpc": ..., ...}"""


def expand_home(path: str) -> str:
    """Returns a path of a flag or a config with the user's home folder for `~`."""
    return os.path.expanduser(path)


def resolve_path(path: str | os.PathLike[str], argument: str = "workdir") -> epath.Path:
    """Returns the absolute path, on a disk or gs://. Raises UserError, with the argument that the path is from, for
    other stores, and where gcsfs is missing."""
    name: str = os.fspath(checked(argument, path, str | os.PathLike, "the name of a folder", os.fspath))
    scheme, is_url, _ = name.partition("://")
    if not is_url:
        return epath.Path(os.path.abspath(expand_home(name)))
    if scheme != "gs":  # epath and TensorStore know s3:// too, but Orbax takes it for a relative path
        raise UserError(f"{argument}={name}: expected a folder, or gs://bucket/folder: no other store is supported")
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise UserError(f"{argument}={name}: pip install gcsfs, through which gs:// is reached ({error})") from None
    return epath.Path(name)


@contextmanager
def locked_workdir(path: str, take_over: bool = False) -> Iterator[epath.Path]:
    """Yields the absolute path, locked against other runs; `take_over`: see `lock.locked`. Raises UserError."""
    workdir = resolve_path(path)
    if glob.has_magic(os.fspath(workdir)):
        raise UserError(f"workdir={path}: expected a path without [, * and ?: Orbax would not find its files again")
    with locked(workdir, path, take_over):
        yield workdir


def write_text(path: epath.Path, text: str) -> None:
    """Replaces a file atomically: after a kill it is the old one or the new one. A byte of a file's name that is not
    UTF-8 becomes an escape, from which json reads it again."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: epath.Path, data: bytes) -> None:
    """Replaces a file atomically, as `write_text`."""
    if on_store(path):  # where renaming would be copying
        path.write_bytes(data)
        return
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except BaseException:  # half a file would keep a full disk full; also where a signal interrupts this
        partial.unlink(missing_ok=True)
        raise


def write_files(folder: epath.Path, contents: dict[str, bytes]) -> None:
    """Replaces files of a folder by their names: all of them, or none where there is no room for one."""
    if on_store(folder):
        for name, data in contents.items():
            (folder / name).write_bytes(data)
        return
    partials = {name: folder / f"{name}.partial" for name in contents}
    try:
        for name, data in contents.items():
            partials[name].write_bytes(data)
        for name, partial in partials.items():
            partial.replace(folder / name)
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def check_can_be_written(path: epath.Path) -> None:
    """Raises UserError where the file of an argument `to` could not be written, after making its folder."""
    probe = path.with_name(f"{path.name}.partial")
    try:
        if path.exists() and not on_store(path) and not os.path.isfile(path):
            raise UserError(f"{path}: a folder or a device, expected a file; give another place")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        why = f"{path.parent} is not a folder" if is_file else error.strerror
        raise UserError(f"{path}: cannot be written ({why}); give another place") from None


class GrowingFile:
    """A text file that grows by whole lines. On an object store, which cannot append, each call uploads all of it."""

    def __init__(self, path: epath.Path) -> None:
        self._path = path
        self._file = None if on_store(path) else open(os.fspath(path), "a")
        self._text = "" if self._file or not path.exists() else path.read_text()
        self.add("")  # creates it

    def add(self, lines: str) -> None:
        """Appends whole lines, in one write."""
        if self._file:
            self._file.write(lines)
            self._file.flush()
        else:
            self._text += lines
            write_text(self._path, self._text)

    def close(self) -> None:
        if self._file:
            self._file.close()


def write_json(path: epath.Path, value: Any) -> None:
    """Replaces a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def trim_samples(folder: epath.Path, step: int) -> None:
    """Removes the samples generated after `step`, and the final one (best.txt)."""
    for sample in folder.glob("*.txt") if folder.exists() else ():
        if not sample.stem.isdigit() or int(sample.stem) > step:
            sample.unlink()


def read_rows(path: epath.Path) -> list[Row]:
    """The rows of a .jsonl file, without a last line that a kill cut short. Raises UserError for any other line that is
    not a JSON object."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True) if path.exists() else [], 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            if line.endswith(b"\n"):
                what = f"{path}: damaged in line {number}, expected a JSON object; repair or delete that line"
                raise UserError(what) from None
    return rows


def trim_rows(path: epath.Path, keep: Callable[[Row], bool]) -> None:
    """Removes the rows for which `keep` is false, and a half line."""
    if path.exists():
        write_text(path, "".join(json.dumps(row) + "\n" for row in read_rows(path) if keep(row)))


def nan_to_none(value: Any) -> Any:
    """A row, or a value of it, with None (null) for every float that is not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: nan_to_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
