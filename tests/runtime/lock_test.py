"""One run at a time in a run's directory: by flock on a disk, by a lock file on an object store and without flock."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from etils import epath

from lovecraft_jax.runtime import lock
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import locked_workdir
from tests.helpers import store

ROOT = Path(__file__).parents[2]
RUN = "gs://bucket/runs/a"
LOCK = epath.Path(RUN) / "lock"
OWNER = """
import sys
from lovecraft_jax.runtime.files import locked_workdir
from tests.helpers import store
store.use(sys.argv[1])
with locked_workdir(sys.argv[2]):
    print("locked", flush=True)
    sys.stdin.read()
"""
WITHOUT_FCNTL = """
import os, sys
sys.modules["fcntl"] = None  # cannot be imported, as on Windows
from lovecraft_jax import cli, run
from lovecraft_jax.runtime import lock
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import locked_workdir
from lovecraft_jax.training import loop

def refusal():
    try:
        with locked_workdir(sys.argv[1]):
            return None
    except UserError as error:
        return str(error)

with locked_workdir(sys.argv[1]):
    assert f"in use by process {os.getpid()} on " in refusal()
assert refusal() is None
assert not os.path.exists(os.path.join(sys.argv[1], "lock"))
"""


@pytest.fixture(autouse=True)
def objects(tmp_path: Path) -> Path:
    """Where the object store keeps its objects."""
    store.use(tmp_path / "objects")
    return tmp_path / "objects"


# On a disk and on an object store


def test_a_run_that_fails_releases_its_lock(workdir: epath.Path) -> None:
    with pytest.raises(ZeroDivisionError), locked_workdir(str(workdir)):
        raise ZeroDivisionError
    _start(workdir)


def test_another_process_is_refused_and_may_start_after_the_first_has_ended(workdir: epath.Path, objects: Path) -> None:
    with _owner(objects, workdir) as process:
        with pytest.raises(UserError, match=f"^workdir={workdir}: in use by "):
            _start(workdir)
        _start(workdir / "another")
        process.communicate("")  # its input ends, and so its run
        assert process.returncode == 0
        _start(workdir)


def test_of_several_starts_at_once_one_runs(workdir: epath.Path) -> None:
    for _ in range(8):
        assert sorted(_start_at_once(workdir, 3)) == ["locked", "refused", "refused"]


# On a disk


def test_what_a_run_made_is_removed_where_it_fails_before_it_has_files(tmp_path: Path) -> None:
    workdir = tmp_path / "runs" / "a"
    _fail(workdir, "checkpoints/")
    assert not workdir.parent.exists()
    _fail(workdir, "config.json")
    assert (workdir / "config.json").exists()
    _fail(tmp_path / "runs" / "b", "checkpoints/")
    assert [path.name for path in workdir.parent.iterdir()] == ["a"]
    mine = tmp_path / "mine"
    mine.mkdir()
    _fail(mine, "checkpoints/")
    assert mine.exists()


@pytest.mark.parametrize("made_anew", [False, True])
def test_a_lock_file_that_its_owner_removes_just_then_refuses(
    made_anew: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*args: Any) -> None:
        shutil.rmtree(tmp_path / "run")
        if made_anew:  # by a third process, which has the lock
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "lock").touch()
        fcntl.flock(*args)

    monkeypatch.setattr(lock, "fcntl", SimpleNamespace(flock=flock, LOCK_EX=fcntl.LOCK_EX, LOCK_NB=fcntl.LOCK_NB))
    with pytest.raises(UserError, match="in use by another run"):
        _start(tmp_path / "run")


def test_a_folder_that_cannot_be_made_says_why() -> None:
    with pytest.raises(UserError, match=r"^workdir=/proc/none: cannot be written \(No such file or directory\)"):
        _start(Path("/proc/none"))


def test_a_flock_is_released_by_a_kill_and_not_taken_over_before(tmp_path: Path, objects: Path) -> None:
    with _owner(objects, tmp_path) as process:
        with pytest.raises(UserError, match="in use by another run"):
            _start(tmp_path, take_over=True)
        process.kill()
        process.wait()
        _start(tmp_path)


def test_without_fcntl_the_package_imports_and_locks_by_a_file(tmp_path: Path) -> None:
    line = [sys.executable, "-c", WITHOUT_FCNTL, str(tmp_path / "run")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# By a lock file


def test_after_a_kill_a_start_is_refused_until_it_takes_over(objects: Path, capsys: pytest.CaptureFixture) -> None:
    with _owner(objects, RUN) as process:
        process.kill()
        process.wait()
    with pytest.raises(UserError) as refused:
        _start(RUN)
    owner = f"process {process.pid} on {os.uname().nodename} since {json.loads(LOCK.read_text())['since'][:19]} UTC"
    hint = "if that process is gone, add --take_over"
    assert str(refused.value) == f"workdir={RUN}: in use by {owner}; {hint}"
    with locked_workdir(RUN, take_over=True):
        assert json.loads(LOCK.read_text())["pid"] == os.getpid()
    assert not LOCK.exists()
    assert capsys.readouterr().err == f"WARNING: {RUN}: taking over from {owner}, as --take_over asks\n"
    _start(RUN, take_over=True)  # there need not be a lock
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", ["", "{}", "[1]"])
def test_a_lock_file_that_names_no_process_refuses_too(content: str) -> None:
    LOCK.write_text(content)
    with pytest.raises(UserError, match=r"in use by an unknown process; .* --take_over"):
        _start(RUN)
    assert LOCK.read_text() == content


def test_a_run_that_was_taken_over_leaves_the_lock_of_its_successor() -> None:
    with locked_workdir(RUN):
        LOCK.write_text('{"id": "another"}')
    assert LOCK.read_text() == '{"id": "another"}'


def test_a_store_out_of_reach_at_the_end_of_a_run_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class HttpError(Exception):
        """As gcsfs's, which is no OSError."""

    def fail(*args: object, **kwargs: object) -> None:
        raise HttpError

    with locked_workdir(RUN):
        monkeypatch.setattr(store.Store, "cat_file", fail)


def test_a_store_that_refuses_to_write_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError("Forbidden: bucket\nand more that the server answers")

    monkeypatch.setattr(store.Store, "pipe_file", refuse)
    with pytest.raises(UserError) as refused:
        _start(RUN)
    reason = "cannot be written (PermissionError: Forbidden: bucket); name a folder of yours"
    assert str(refused.value) == f"workdir={RUN}: {reason}"


def _start(workdir: object, take_over: bool = False) -> None:
    """A run that starts and ends at once."""
    with locked_workdir(str(workdir), take_over):
        pass


def _fail(workdir: Path, made: str) -> None:
    """A run that fails once it has made a file, or a folder where the name ends with a slash."""

    def make(path: Path) -> None:
        path.mkdir() if made.endswith("/") else path.touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), locked_workdir(str(workdir)):
        make(workdir / made)


@contextmanager
def _owner(objects: Path, workdir: object) -> Iterator[subprocess.Popen]:
    """A process that holds the lock of `workdir` until its input ends. It does not outlive the block."""
    line, pipe = [sys.executable, "-c", OWNER, str(objects), str(workdir)], subprocess.PIPE
    with subprocess.Popen(line, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout.readline() == "locked\n", process.communicate()[1]
            yield process
        finally:
            process.kill()


def _start_at_once(workdir: epath.Path, count: int) -> list[str]:
    """How so many starts end; the one that has the lock keeps it until the others have ended."""
    ends: list[str] = []
    barrier = threading.Barrier(count)

    def start() -> None:
        barrier.wait()
        try:
            with locked_workdir(str(workdir)):
                ends.append("locked")
                while len(ends) < count:
                    pass
        except UserError:
            ends.append("refused")

    threads = [threading.Thread(target=start) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return ends
