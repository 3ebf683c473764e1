"""A run's directory has one owner at a time, on a disk and on an object store, however its processes end."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from etils import epath

from lovecraft_jax.runtime import lock
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import locked_workdir
from tests.helpers import store

RUN = "gs://bucket/runs/a"
LOCK = epath.Path(RUN) / "lock"
SHORT = {"RENEW_EVERY": 0.1, "DEAD_AFTER": 1.0, "LOOK_EVERY": 0.02, "SETTLE": 0.2}
OWNER = f"""
import sys
from lovecraft_jax.runtime import lock
from lovecraft_jax.runtime.files import locked_workdir
from tests.helpers import store
store.use(sys.argv[1])
for name, value in {SHORT}.items():
    setattr(lock, name, value)
with locked_workdir({RUN!r}):
    print("owned", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the store keeps its objects. All times are short, and no owner in this process may have to end it."""
    ended: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "_exit", ended.append)
        for name, value in SHORT.items():
            patch.setattr(lock, name, value)
        store.use(tmp_path / "objects")
        yield tmp_path / "objects"
    assert not ended


def test_a_second_start_is_refused_as_soon_as_the_first_is_seen_to_live(objects: Path) -> None:
    with locked_workdir(RUN) as workdir:
        assert str(workdir) == RUN
        began = time.monotonic()
        with pytest.raises(UserError) as refused, locked_workdir(RUN):
            pass
        assert time.monotonic() - began < lock.DEAD_AFTER / 2
        line = str(refused.value)
        assert line.startswith(f"--workdir={RUN}: in use by another run (process {os.getpid()} on ")
        assert ", last renewed 20" in line
        assert line.endswith(" UTC); wait for it or name another folder")
        assert "\n" not in line
        with locked_workdir("gs://bucket/runs/b"):
            pass  # another folder was never taken
    with locked_workdir(RUN):
        pass  # free again


def test_another_process_holds_it_for_as_long_as_it_lives(objects: Path) -> None:
    with _owner(objects) as process:
        time.sleep(1.5 * lock.DEAD_AFTER)
        with pytest.raises(UserError, match=f"in use by another run .process {process.pid} on "), locked_workdir(RUN):
            pass
        process.communicate("")  # its input ends, and so its run
        assert process.returncode == 0
        assert not LOCK.exists()


def test_a_killed_process_is_succeeded_once_it_has_not_renewed_for_long_enough(objects: Path) -> None:
    with _owner(objects) as process:
        process.kill()
        process.wait()
        assert LOCK.exists()
        began = time.monotonic()
        with locked_workdir(RUN):
            assert time.monotonic() - began > lock.DEAD_AFTER
            assert json.loads(LOCK.read_text())["pid"] == os.getpid()


def test_who_waits_for_a_dead_owner_says_so(objects: Path, capsys: pytest.CaptureFixture) -> None:
    LOCK.write_text('{"pid": 7, "host": "h", "renewed": "2031-02-03 04:05:06.789", "id": "x"}')
    with locked_workdir(RUN):  # its clock, years ahead of ours, is not asked
        pass
    told = capsys.readouterr().err
    assert (
        told
        == f"{RUN}: locked by process 7 on h, last renewed 2031-02-03 04:05:06 UTC; taken over if not renewed for 1 s\n"
    )


@pytest.mark.parametrize("content", ["", "{}", "[1]", "no JSON"])
def test_what_no_owner_wrote_is_no_owner(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "DEAD_AFTER", 0.1)
    LOCK.write_text(content)
    with locked_workdir(RUN):
        assert json.loads(LOCK.read_text())["pid"] == os.getpid()


def test_who_lets_go_while_another_looks_is_succeeded_at_once() -> None:
    LOCK.write_text('{"id": "x"}')
    began = time.monotonic()
    threading.Timer(0.3, LOCK.unlink).start()
    with locked_workdir(RUN):
        assert time.monotonic() - began < lock.DEAD_AFTER


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("dead", [True, False])
def test_of_several_starts_at_once_one_goes_on(conditional: bool, dead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.Store, "conditional", conditional)
    monkeypatch.setattr(lock, "DEAD_AFTER", 0.1)
    for _ in range(8):
        if dead:
            LOCK.write_text('{"id": "x"}')
        assert sorted(_starts(3)) == ["in use", "in use", "owned"]
        assert not LOCK.exists()


def test_an_owner_that_was_taken_over_while_it_slept_ends_and_writes_nothing_more(objects: Path) -> None:
    with _owner(objects) as process:
        process.send_signal(signal.SIGSTOP)
        with locked_workdir(RUN):
            process.send_signal(signal.SIGCONT)
            assert process.wait(10) == 75
            assert json.loads(LOCK.read_text())["pid"] == os.getpid()
            time.sleep(2 * lock.RENEW_EVERY)
            assert json.loads(LOCK.read_text())["pid"] == os.getpid()
        out, told = process.communicate()
        assert out == ""  # what `with` would have done after it was not done
        assert f"{RUN}: taken over by process {os.getpid()} on " in told
        assert told.count("\n") == 1


def test_an_owner_whose_lock_was_removed_ends(objects: Path) -> None:
    with _owner(objects) as process:
        LOCK.unlink()
        assert process.wait(10) == 75
        assert "taken over by an unknown owner" in process.communicate()[1]


def test_a_store_out_of_reach_for_a_while_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Exception):
        """As gcsfs's HttpError, which is no OSError."""

    def fail(*args: object, **kwargs: object) -> None:
        raise Gone

    with locked_workdir(RUN):
        with monkeypatch.context() as patch:
            patch.setattr(store.Store, "cat_file", fail)
            time.sleep(3 * lock.RENEW_EVERY)
        with monkeypatch.context() as patch:
            patch.setattr(store.Store, "pipe_file", fail)
            time.sleep(3 * lock.RENEW_EVERY)
        before = LOCK.read_text()
        time.sleep(3 * lock.RENEW_EVERY)
        assert LOCK.read_text() != before  # renewed again
    with locked_workdir(RUN):
        monkeypatch.setattr(store.Store, "cat_file", fail)  # to its end: which is no error either


def test_only_its_own_lock_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEW_EVERY", 60.0)  # so that it does not see it before
    with locked_workdir(RUN):
        LOCK.write_text('{"id": "another"}')
    assert LOCK.read_text() == '{"id": "another"}'


def test_a_run_that_fails_lets_go() -> None:
    with pytest.raises(ZeroDivisionError), locked_workdir(RUN):
        raise ZeroDivisionError
    assert not LOCK.exists()


def test_a_store_that_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError("Forbidden: bucket\nand what the server says about it")

    monkeypatch.setattr(store.Store, "pipe_file", refuse)
    with pytest.raises(UserError) as refused, locked_workdir(RUN):
        pass
    assert (
        str(refused.value)
        == f"--workdir={RUN}: cannot be written (PermissionError: Forbidden: bucket); name a folder of yours"
    )


@contextmanager
def _owner(objects: Path) -> Iterator[subprocess.Popen]:
    """A process that owns RUN until its input ends. It does not outlive the block."""
    line = [sys.executable, "-c", OWNER, str(objects)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        line, cwd=Path(__file__).parents[2], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "owned\n", process.communicate()[1]
            yield process
        finally:
            process.kill()


def _starts(count: int) -> list[str]:
    """How so many starts at once end; who owns goes on until the others have ended."""
    ends: list[str] = []
    barrier = threading.Barrier(count)

    def start() -> None:
        barrier.wait()
        time.sleep(random.uniform(0, 0.04))
        try:
            with locked_workdir(RUN):
                ends.append("owned")
                while len(ends) < count:
                    time.sleep(0.01)
        except UserError:
            ends.append("in use")

    threads = [threading.Thread(target=start) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return ends
