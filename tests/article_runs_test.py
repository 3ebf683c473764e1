"""The ladder's runs survive whatever stops them, and wrong input is one line."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.article import __main__ as article
from benchmarks.article import jobs, results, training
from lovecraft_jax import corpus
from lovecraft_jax.errors import DONE, INTERRUPTED, WRONG_INPUT, UserError
from lovecraft_jax.workdir import owned
from tests.runs import assert_same_run, rows, started, wait_for

WRONG: dict[str, tuple[list[str], str]] = {
    "unknown name": (["ladder", "latter"], "unknown latter: expected some of ladder, "),
    "no seeds": (["--seeds=0"], "--seeds: 0: expected a finite int of at least 1"),
    "no time": (["--seconds=0"], "--seconds: 0: expected a finite float of at least 0.1"),
    "time that is none": (["--seconds=nan"], "--seconds: nan: expected"),
    "less than no jobs": (["--jobs=-1"], "--jobs: -1: expected"),
    "no such corpus": (["--corpus={0}/nowhere"], "{0}/nowhere: no such file"),
    "no rows": (["--draw"], "{0}: no rows.csv with rows there to draw; train first"),
    "a file for a folder": (["--to={0}/file"], "{0}/file: cannot be written"),
    "no folder to draw": (["--draw", "--to={0}/nowhere"], "{0}/nowhere: no rows.csv with rows there to draw"),
    "a folder for rows": (["--draw", "--to={0}/odd"], "{0}/odd/rows.csv: damaged (IsADirectoryError"),
    "damaged rows": (["--draw", "--to={0}/damaged"], "{0}/damaged/rows.csv: damaged (ValueError"),
    "damaged runs": (["--workdir={0}/damaged"], "{0}/damaged/clip-0/measured.json: damaged (JSONDecodeError"),
    "runs that are none": (["--workdir={0}/none"], "{0}/none/clip-0/measured.json: damaged (ValueError: no rows)"),
    "damaged paces": (["--workdir={0}/paces"], "{0}/paces/pace.json: damaged (ValueError: article: -1.0)"),
    "another corpus": (["--workdir={0}/other"], "carry, seed 0: corpus 0123, now "),
    "another time": (["--workdir={0}/longer", "--seconds=9"], "carry, seed 0: seconds 8.0, now 9.0; it cannot stand"),
    "in use": (["--workdir={0}/held"], "--workdir={0}/held: in use"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("damaged/clip-0", "none/clip-0", "paces", "other", "longer", "held", "odd/rows.csv"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "damaged/clip-0" / training.MEASURED).write_text('[{"setting"')
    (tmp_path / "none/clip-0" / training.MEASURED).write_text("[]")
    row = {"setting": "carry", "seed": 0, "text": "written", "valid_bpc": 2.0, "seconds": 8.0}
    results.keep(tmp_path / "other", [row | {"corpus": "0123"}])
    results.keep(tmp_path / "longer", [row | {"corpus": corpus.load("bundled").sha256[: results.SHORT]}])
    (tmp_path / "paces/pace.json").write_text('{"article": -1}')
    given, told = WRONG[case]
    flags = [flag.format(tmp_path) for flag in given]
    monkeypatch.setattr(jobs, "places", lambda jobs: [""])
    with owned(str(tmp_path / "held")):
        if case == "damaged rows":
            (tmp_path / "damaged" / results.ROWS).write_text("setting,seed,text\nclip,0\n")
        try:
            monkeypatch.setattr(sys, "argv", ["article", "--corpus=bundled", f"--workdir={tmp_path}", *flags])
            code = article.main()
        except SystemExit as ended:  # of argparse, after a line on usage
            code = int(str(ended.code))
    last = capsys.readouterr().err.splitlines()[-1]
    assert code == WRONG_INPUT
    assert told.format(tmp_path) in last


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
    (folder / "pace.json").write_text(json.dumps({"carry-10": steps / 2}))
    workdir, undisturbed = folder / "carry-10-0", tmp_path / "undisturbed"
    given = ["benchmarks.article", "carry-10", "--corpus=bundled", "--seconds=2", "--seeds=1", "--jobs=1"]
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
        "benchmarks.article.worker",
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
            with owned(str(workdir)):
                return
        except UserError:
            threading.Event().wait(0.1)
    raise AssertionError("its workers go on without it")
