"""One run at a time in a run's directory: `flock` on a disk, which the system releases when the process dies; a lock
file on an object store and where flock is missing, which a killed process leaves behind for `--take_over`."""

import contextlib
import datetime
import json
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import fsspec
from etils import epath

from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(folder: epath.Path, name: str, take_over: bool = False) -> Iterator[None]:
    """Holds the lock of `folder`, which messages call `name`, and makes the folder where there is none: one that an
    exception leaves without files is removed again. `take_over` replaces the lock file of another process; a flock is
    never taken from a process that lives. Raises UserError where another process has the lock, or the folder cannot be
    written."""
    made: list[epath.Path] = []
    try:
        if not on_store(folder):
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
        file = None if _outlives_process(folder) else open(folder / "lock", "w")
    except OSError as error:
        if isinstance(error, FileNotFoundError) and error.filename == os.fspath(folder / "lock"):
            raise UserError(f"workdir={name}: another run has just removed it; start again") from None
        why = "is a file or a broken link" if isinstance(error, FileExistsError) else error.strerror
        raise _cannot_be_written(name, why) from error
    with _flock(file, name) if file else _lock_file(folder, name, take_over):
        try:
            yield
        except BaseException:
            _remove_without_files(made)
            raise


def on_store(path: epath.Path) -> bool:
    """Whether `path` is on an object store, where each write is atomic and nothing can be appended to or renamed."""
    return "://" in os.fspath(path)


def command_after_kill(folder: epath.Path) -> str:
    """How messages call the command that resumes a run in `folder` which could not release its lock."""
    return "the same command with --take_over" if _outlives_process(folder) else "the same command"


@contextlib.contextmanager
def _flock(file: TextIO, name: str) -> Iterator[None]:
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_still_there(file):
                raise BlockingIOError
        except BlockingIOError:
            raise UserError(f"workdir={name}: in use by another run; wait for it or name another folder") from None
        except OSError as error:  # a file system without locks, as some over a network
            raise _cannot_be_written(name, f"no locks there: {error.strerror}") from error
        yield


@contextlib.contextmanager
def _lock_file(folder: epath.Path, name: str, take_over: bool) -> Iterator[None]:
    # Not through epath, which cannot create a file only where there is none, and may answer from a cached listing.
    store, path = fsspec.url_to_fs(f"{folder}/lock")
    now = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": now, "id": uuid.uuid4().hex}
    ours = json.dumps(owner).encode()

    def read() -> bytes | None:
        try:
            return store.cat_file(path)
        except FileNotFoundError:
            return None

    try:
        if take_over and (content := read()) is not None:
            log(f"WARNING: {name}: taking over from {_owner(content)}, as --take_over asks")
            with contextlib.suppress(FileNotFoundError):
                store.rm_file(path)
        store.pipe_file(path, ours, mode="create")
    except FileExistsError:
        other = _owner(read())
        raise UserError(f"workdir={name}: in use by {other}; if that process is gone, add --take_over") from None
    except Exception as error:  # whatever a store's driver raises: no bucket, no rights, no network, no credentials
        first_line = str(error).partition("\n")[0][:200]
        raise _cannot_be_written(name, f"{type(error).__name__}: {first_line}") from error
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # a store out of reach: the file stays, as after a kill
            if read() == ours:  # else another process has taken over
                store.rm_file(path)


def _remove_without_files(made: list[epath.Path]) -> None:
    """Removes a folder that has no files but locks, and its parents where they are empty; the innermost first. `rmdir`
    leaves a folder in which another process has just put something."""
    with contextlib.suppress(OSError):
        inside = sorted(Path(made[0]).rglob("*"), reverse=True) if made else []
        if all((path.is_dir() and not path.is_symlink()) or path.name == "lock" for path in inside):
            for path in (*inside, *made):
                path.rmdir() if path.is_dir() else path.unlink()


def _is_still_there(file: TextIO) -> bool:
    """False where its owner has removed the file, with the folder; another run may have made a new one."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    except FileNotFoundError:
        return False


def _outlives_process(folder: epath.Path) -> bool:
    """Whether a killed run leaves its lock behind in `folder`."""
    return fcntl is None or on_store(folder)


def _owner(content: bytes | None) -> str:
    """The process that a lock file names, and since when, by its host's clock."""
    try:
        owner = json.loads(content or b"")
        return f"process {owner['pid']} on {owner['host']} since {owner['since'][:19]} UTC"
    except (ValueError, KeyError, TypeError):  # an empty file, as flock leaves on a disk, or one of an older version
        return "an unknown process"


def _cannot_be_written(name: str, why: str | None) -> UserError:
    return UserError(f"workdir={name}: cannot be written ({why}); name a folder of yours")
