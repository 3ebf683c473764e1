"""The runs of a study, here the article's, survive interruptions and failing workers."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from experiments.article_2019.settings import get_study
from experiments.study import jobs, plan, results, training
from lovecraft_jax.data import corpus
from lovecraft_jax.runtime.errors import DONE, INTERRUPTED, WRONG_INPUT, UserError
from lovecraft_jax.runtime.files import locked_workdir
from tests.helpers.runs import assert_same_run, rows, started, wait_for

pytestmark = pytest.mark.slow

STUDY = get_study()


def test_a_failing_worker_is_logged_and_the_others_continue(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    outputs: list[str] = []
    corpora = {"clip": str(tmp_path / "nowhere"), "carry-10": "bundled"}
    jobs_ = [
        jobs.Job(STUDY.package, "throughput", name, of, ("0.1",), tmp_path / name, outputs.append)
        for name, of in corpora.items()
    ]
    assert jobs.run(jobs_, [""]) == WRONG_INPUT
    assert [float(output) > 0 for output in outputs] == [True]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"throughput clip: exit code 2 (data.corpus={tmp_path}/nowhere: no such file")
    assert line.endswith(f"; see {tmp_path}/clip")
    assert (tmp_path / "carry-10").read_text() == ""


@pytest.mark.timeout(480)
def test_a_killed_and_interrupted_study_resumes_to_the_same_result(tmp_path: Path) -> None:
    """Its parent process is killed, then interrupted, then left alone; compared with an undisturbed worker."""
    steps, folder = 200, tmp_path / "runs"
    folder.mkdir()
    about = {"corpus": corpus.load("bundled").sha256[: results.SHORT], "seconds": 2.0}
    (folder / plan.FILE).write_text(json.dumps(about | {"steps": {"carry-10": steps}}))
    workdir, undisturbed = folder / "carry-10-0", tmp_path / "undisturbed"
    flags = ["--corpus=bundled", "--seconds=2", "--seeds=1", "--jobs=1", f"--workdir={folder}"]
    command = [STUDY.package, "carry-10", *flags]

    with started(*command) as parent:
        wait_for(lambda: (workdir / "metrics.jsonl").exists(), parent)
        parent.kill()
        parent.wait()
        wait_until_unlocked(workdir)
    assert list((workdir / "checkpoints").iterdir())

    seen = len(rows(workdir))
    with started(*command) as parent:
        wait_for(lambda: len(rows(workdir)) > seen, parent)
        parent.send_signal(signal.SIGINT)
        log = parent.communicate()[1]
    assert parent.returncode == INTERRUPTED, log
    assert log.splitlines()[-1] == "interrupted and saved: the same command continues"
    assert "Traceback" not in log
    assert not (workdir / training.MEASURED).exists()

    with started(*command) as parent:
        log = parent.communicate()[1]
    assert parent.returncode == DONE, log
    assert [row["seed"] for row in results.read(STUDY, folder)] == [0]

    core = str(min(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ""
    arguments = core, "bundled", str(steps), "2.0", str(undisturbed), "no", "0"
    with started("experiments.study.worker", STUDY.package, "train", "carry-10", *arguments) as process:
        assert process.wait() == DONE
    assert_same_run(workdir, undisturbed / workdir.name)
    measured = (parent / "carry-10-0" / training.MEASURED for parent in (folder, undisturbed))
    assert len({file.read_text() for file in measured}) == 1


def wait_until_unlocked(workdir: Path) -> None:
    """Waits until no process trains there, at most half a minute."""
    for _ in range(300):
        try:
            with locked_workdir(str(workdir)):
                return
        except UserError:
            threading.Event().wait(0.1)
    raise AssertionError("the workers outlive their parent")
