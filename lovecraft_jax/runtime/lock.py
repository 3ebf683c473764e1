"""One owner of a run's directory at a time: `flock` on a disk, on an object store a file that its owner renews."""

import contextlib
import datetime
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

import fsspec
from etils import epath

from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import UserError

RENEW_EVERY = 10.0
"""Seconds between an owner's renewals."""
DEAD_AFTER = 60.0
"""Seconds without a renewal after which an owner counts as dead: five may fail."""
LOOK_EVERY = 1.0
"""Seconds between two looks of who waits."""
SETTLE = 2.0
"""Seconds between taking the lock and believing it: longer than another start's last look and its write are apart."""


@contextlib.contextmanager
def locked_on_disk(folder: epath.Path, name: str) -> Iterator[None]:
    """Makes `folder`, called `name` in errors, and holds its lock, which dies with its process. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "w")
    except OSError as error:
        raise _cannot_be_written(name, error.strerror) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--workdir={name}: in use by another run; wait for it or name another folder") from None
        yield


@contextlib.contextmanager
def locked_on_store(folder: epath.Path, name: str) -> Iterator[None]:
    """Holds the lock of a folder on an object store. Raises UserError; ends the process where the lock is lost."""
    lock = _RenewedFile(folder, name)
    try:
        lock.take()
    except UserError:
        raise
    except Exception as error:  # whatever a driver raises: no bucket, no rights, no network, no credentials
        told = str(error).partition("\n")[0][:200]
        raise _cannot_be_written(name, f"{type(error).__name__}: {told}") from error
    closed = threading.Event()
    thread = threading.Thread(target=lock.keep, args=(closed,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()
        lock.release()


class _RenewedFile:
    """A lock that is a file, which its owner rewrites every RENEW_EVERY seconds.

    An owner is alive if the file is seen to change, and dead if it has not for DEAD_AFTER. Watching needs no two clocks
    to agree, neither two machines' nor one's and the store's, and no time of change, which not every driver tells. A
    second start is refused within a renewal; it waits for the whole time only after a process that was killed, for any
    other end removes the file, and then goes on by itself, as a scheduler that restarts what died would have it.

    A store has no lock to give: two may take a dead owner's at once. So whoever has written the file waits and reads it
    again, and its owner looks before it renews: at the end there is one, whose id is in the file.
    """

    def __init__(self, folder: epath.Path, name: str) -> None:
        # Not through epath, which cannot create a file only where there is none. These calls keep no listings either.
        self._store, self._file = fsspec.url_to_fs(f"{folder}/lock")
        self._name = name
        self._id = uuid.uuid4().hex

    def take(self) -> None:
        """Returns as the owner. Raises UserError where there is another one, and whatever the store's driver raises."""
        watched, looks = None, 0
        while not self._is_ours(found := self._read()):
            if found is None:
                with contextlib.suppress(FileExistsError):
                    self._write("create")
            elif watched is None:
                watched = found
                log(f"{self._name}: locked by {_owner(found)}; taken over if not renewed for {DEAD_AFTER:.0f} s")
            elif found != watched:
                raise self._in_use(found)
            elif looks * LOOK_EVERY < DEAD_AFTER:  # not by the clock: it goes on while this process is stopped
                time.sleep(LOOK_EVERY)
                looks += 1
            else:
                self._remove()
        time.sleep(SETTLE)
        if not self._is_ours(found := self._read()):
            raise self._in_use(found)

    def keep(self, closed: threading.Event) -> None:
        """Renews until `closed`. Ends the process where another took over, as it may after a long sleep."""
        while not closed.wait(RENEW_EVERY):
            try:
                found = self._read()
                if self._is_ours(found):
                    self._write("overwrite")
                    continue
            except Exception:  # a store out of reach, in the words of its driver: tried again
                continue
            log(
                f"{self._name}: taken over by {_owner(found)}, while this process was asleep or could not reach it: "
                "ending here, without a byte more"
            )
            os._exit(os.EX_TEMPFAIL)  # at once: closing as usual would write over what the new owner writes

    def release(self) -> None:
        """Removes the file if it is still ours. One that stays, for a store out of reach, is dead soon."""
        with contextlib.suppress(Exception):
            if self._is_ours(self._read()):
                self._remove()

    def _read(self) -> bytes | None:
        try:
            return self._store.cat_file(self._file)
        except FileNotFoundError:
            return None

    def _write(self, mode: str) -> None:
        """With "create", raises FileExistsError where there is one; not every store checks and writes in one go."""
        now = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="milliseconds")
        content = {"host": socket.gethostname(), "pid": os.getpid(), "renewed": now, "id": self._id}
        self._store.pipe_file(self._file, json.dumps(content).encode(), mode=mode)

    def _remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._store.rm_file(self._file)

    def _is_ours(self, found: bytes | None) -> bool:
        return found is not None and self._id.encode() in found

    def _in_use(self, found: bytes | None) -> UserError:
        owner = _owner(found)
        return UserError(f"--workdir={self._name}: in use by another run ({owner}); wait for it or name another folder")


def _owner(found: bytes | None) -> str:
    """Who wrote a lock, by its host's clock."""
    try:
        owner = json.loads(found or b"")
        return f"process {owner['pid']} on {owner['host']}, last renewed {owner['renewed'][:19]} UTC"
    except (ValueError, KeyError, TypeError):  # as an empty file, copied from a disk
        return "an unknown owner"


def _cannot_be_written(name: str, why: str | None) -> UserError:
    return UserError(f"--workdir={name}: cannot be written ({why}); name a folder of yours")
