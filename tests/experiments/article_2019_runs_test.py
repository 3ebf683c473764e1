"""The ladder's runs survive whatever stops them."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from experiments.article_2019 import jobs, plan, results, training
from lovecraft_jax.data import corpus
from lovecraft_jax.runtime.errors import DONE, INTERRUPTED, WRONG_INPUT, UserError
from lovecraft_jax.runtime.files import locked_workdir
from tests.helpers.runs import assert_same_run, rows, started, wait_for


def test_a_worker_that_fails_is_told_of_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    told: list[str] = []
    corpora = {"clip": str(tmp_path / "nowhere"), "carry-10": "bundled"}
    to_do = [jobs.Job("pace", name, of, ("0.1",), tmp_path / name, told.append) for name, of in corpora.items()]
    assert jobs.run(to_do, [""]) == WRONG_INPUT
    assert float(told[0]) > 0
    assert len(told) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pace clip: exit code 2 (data.corpus={tmp_path}/nowhere: no such file")
    assert line.endswith(f"; see {tmp_path}/clip")
    assert (tmp_path / "carry-10").read_text() == ""


@pytest.mark.timeout(480)
def test_whatever_stops_it_it_goes_on_to_the_same_end(tmp_path: Path) -> None:
    """Its parent killed, told to stop, then left alone; against a worker that nothing disturbed."""
    steps, folder = 400, tmp_path / "runs"
    folder.mkdir()
    about = {"corpus": corpus.load("bundled").sha256[: results.SHORT], "seconds": 2.0}
    (folder / plan.FILE).write_text(json.dumps(about | {"steps": {"carry-10": steps}}))
    workdir, undisturbed = folder / "carry-10-0", tmp_path / "undisturbed"
    given = ["experiments.article_2019", "carry-10", "--corpus=bundled", "--seconds=2", "--seeds=1", "--jobs=1"]
    given.append(f"--workdir={folder}")

    with started(*given) as parent:
        wait_for(lambda: (workdir / "metrics.jsonl").exists(), parent)
        parent.kill()
        parent.wait()
        wait_until_free(workdir)
    assert list((workdir / "checkpoints").iterdir())

    seen = len(rows(workdir))
    with started(*given) as parent:
        wait_for(lambda: len(rows(workdir)) > seen, parent)
        parent.send_signal(signal.SIGINT)
        told = parent.communicate()[1]
    assert parent.returncode == INTERRUPTED, told
    assert told.splitlines()[-1] == "interrupted; what was trained is saved: the same command goes on"
    assert "Traceback" not in told
    assert not (workdir / training.MEASURED).exists()

    with started(*given) as parent:
        told = parent.communicate()[1]
    assert parent.returncode == DONE, told
    assert [row["seed"] for row in results.read(folder)] == [0]

    core = str(min(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ""
    worker = [
        "experiments.article_2019.worker",
        "train",
        "carry-10",
        core,
        "bundled",
        str(steps),
        "2.0",
        str(undisturbed),
        "no",
        "0",
    ]
    with started(*worker) as process:
        assert process.wait() == DONE
    assert_same_run(workdir, undisturbed / workdir.name)
    measured = (folder_ / "carry-10-0" / training.MEASURED for folder_ in (folder, undisturbed))
    assert len({file.read_text() for file in measured}) == 1


def wait_until_free(workdir: Path) -> None:
    """Until nobody trains there, for half a minute at most."""
    for _ in range(300):
        try:
            with locked_workdir(str(workdir)):
                return
        except UserError:
            threading.Event().wait(0.1)
    raise AssertionError("its workers go on without it")
