import json
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from lovecraft_jax.errors import UserError
from lovecraft_jax.workdir import owned, read_rows, trim_rows, write_json, write_text

OWNER = """
import sys
from lovecraft_jax.workdir import owned
with owned(sys.argv[1]):
    print("owned", flush=True)
    sys.stdin.read()
"""


def test_a_run_has_one_owner_at_a_time(tmp_path: Path) -> None:
    with owned(str(tmp_path / "new" / "run")) as workdir:
        assert Path(workdir) == tmp_path / "new" / "run"
        assert workdir.is_dir()
        with pytest.raises(UserError, match="new/run: in use by another run"), owned(str(workdir)):
            pass
    with owned(str(tmp_path / "new" / "run")), owned(str(tmp_path / "other")):
        pass  # free again, and another folder was never taken


def test_another_process_holds_the_run_until_it_is_killed(tmp_path: Path) -> None:
    with _owner(tmp_path) as process:
        try:
            assert process.stdout.readline() == "owned\n"
            with pytest.raises(UserError, match="in use by another run"), owned(str(tmp_path)):
                pass
        finally:
            process.kill()
        assert process.wait() == -9
        with owned(str(tmp_path)):
            pass


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with owned(str(tmp_path)), _owner(tmp_path) as process:
        out, told = process.communicate()
    assert process.returncode == 1
    assert out == ""
    assert "in use by another run" in told


def test_a_run_that_fails_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), owned(str(tmp_path)):
        raise ZeroDivisionError
    with owned(str(tmp_path)):
        pass


def test_a_workdir_may_be_relative_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with owned("runs/a") as here, owned("~/b") as home:
        assert Path(here) == tmp_path / "runs" / "a"
        assert Path(home) == tmp_path / "home" / "b"


def test_a_file_is_no_workdir(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=f"--workdir={path}: cannot be written"), owned(str(path)):
            pass


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = epath.Path(tmp_path / "vocab.json")
    write_text(path, "old \N{GREEK SMALL LETTER ALPHA}\n" * 1000)
    with open(path) as reader:  # one that opened the old file keeps it: it was never written over
        write_text(path, "new\n")
        assert reader.read() == "old \N{GREEK SMALL LETTER ALPHA}\n" * 1000
    assert path.read_text() == "new\n"
    assert [file.name for file in tmp_path.iterdir()] == ["vocab.json"]


def test_json_reads_as_it_was_written(tmp_path: Path) -> None:
    value = {"name": "\N{CYRILLIC SMALL LETTER A}", "splits": {"train": [1, 2.5, None, True]}}
    write_json(epath.Path(tmp_path / "corpus.json"), value)
    assert json.loads((tmp_path / "corpus.json").read_text()) == value


def test_a_half_line_is_no_row(tmp_path: Path) -> None:
    path = epath.Path(tmp_path / "metrics.jsonl")
    assert read_rows(path) == []
    first, second = '{"step": 10, "loss": 1.5}\n', '{"step": 20, "loss": null}\n'
    for cut in range(len(second)):
        path.write_text(first + second[:cut])
        whole = cut == len(second) - 1  # all but the line's end
        assert read_rows(path) == [{"step": 10, "loss": 1.5}] + [{"step": 20, "loss": None}] * whole
    path.write_text(first + second)
    assert [row["step"] for row in read_rows(path)] == [10, 20]


def test_trimming_keeps_the_wanted_rows_and_whole_lines(tmp_path: Path) -> None:
    path = epath.Path(tmp_path / "metrics.jsonl")
    trim_rows(path, lambda row: True)
    assert not path.exists()
    path.write_text('{"step": 10}\n{"step": 30}\n{"step": 20}\n{"step": 1')
    trim_rows(path, lambda row: row["step"] <= 20)
    assert path.read_text() == '{"step": 10}\n{"step": 20}\n'
    trim_rows(path, lambda row: False)
    assert path.read_text() == ""
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def _owner(workdir: Path) -> subprocess.Popen:
    """A process that owns `workdir`, says so, and goes on until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(workdir)],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
