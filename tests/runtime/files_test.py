import json
import os
import sys
from pathlib import Path

import pytest
from etils import epath

from lovecraft_jax.run import load_run
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import (
    GrowingFile,
    locked_workdir,
    on_store,
    read_rows,
    resolve_path,
    trim_rows,
    trim_samples,
    write_json,
    write_text,
)
from tests.helpers import store


def test_a_workdir_may_be_relative_in_the_home_folder_or_on_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    store.use(tmp_path)
    assert Path(resolve_path("runs/a")) == tmp_path / "runs" / "a"
    assert Path(resolve_path("~/b")) == tmp_path / "home" / "b"
    assert str(resolve_path("gs://bucket/runs/a/")) == "gs://bucket/runs/a"
    assert [on_store(resolve_path(path)) for path in ("gs://bucket/runs/a", "runs/a")] == [True, False]


def test_a_file_is_replaced_atomically_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = epath.Path(tmp_path / "vocab.json")
    write_text(path, "old \N{GREEK SMALL LETTER ALPHA}\n" * 1000)
    with open(path) as reader:  # whoever opened the old file still reads it: it is not overwritten
        write_text(path, "new\n")
        assert reader.read() == "old \N{GREEK SMALL LETTER ALPHA}\n" * 1000
    assert path.read_text() == "new\n"
    assert [file.name for file in tmp_path.iterdir()] == ["vocab.json"]


def test_a_name_that_is_not_utf_8_is_kept_in_json(workdir: epath.Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    write_json(workdir / "corpus.json", {"name": name, "other": "\N{GREEK SMALL LETTER ALPHA}"})
    assert json.loads((workdir / "corpus.json").read_text())["name"] == name


def test_lines_added_to_a_file_are_there_at_once(workdir: epath.Path) -> None:
    path = workdir / "metrics.jsonl"
    for text in ("", "1\n2\n3\n"):  # the second appends to what the first left
        file = GrowingFile(path)
        assert _text(path) == text
        for line in ("1\n", "2\n3\n"):
            file.add(line)
            text += line
            assert _text(path) == text
        file.close()
        assert _text(path) == text


def test_a_half_line_at_the_end_is_not_read(workdir: epath.Path) -> None:
    path = workdir / "metrics.jsonl"
    assert read_rows(path) == []
    first, second = '{"step": 10, "loss": 1.5}\n', '{"step": 20, "loss": null}\n'
    for cut in range(len(second)):
        path.write_text(first + second[:cut])
        whole = cut == len(second) - 1  # all but the newline
        assert read_rows(path) == [{"step": 10, "loss": 1.5}] + [{"step": 20, "loss": None}] * whole
    path.write_text(first + second)
    assert [row["step"] for row in read_rows(path)] == [10, 20]


@pytest.mark.parametrize("broken", ['{"step": 2', "\0\0", "5", "[1]"])
def test_a_damaged_line_before_the_end_is_reported_with_its_number(workdir: epath.Path, broken: str) -> None:
    path = workdir / "metrics.jsonl"
    text = f'{{"step": 10}}\n{broken}\n{{"step": 30}}\n'
    path.write_text(text)
    for read in (lambda: read_rows(path), lambda: trim_rows(path, lambda row: True)):
        with pytest.raises(UserError, match=r"metrics\.jsonl: damaged in line 2, expected a JSON object"):
            read()
    assert path.read_text() == text


def test_trimming_removes_unwanted_rows_and_half_lines(workdir: epath.Path) -> None:
    path = workdir / "metrics.jsonl"
    trim_rows(path, lambda row: True)
    assert not path.exists()
    path.write_text('{"step": 10}\n{"step": 30}\n{"step": 20}\n{"step": 1')
    trim_rows(path, lambda row: row["step"] <= 20)
    assert path.read_text() == '{"step": 10}\n{"step": 20}\n'
    trim_rows(path, lambda row: False)
    assert path.read_text() == ""
    assert _names(workdir) == ["metrics.jsonl"]


def test_samples_after_a_step_and_the_final_one_are_removed(workdir: epath.Path) -> None:
    folder = workdir / "samples"
    trim_samples(folder, 20)  # none yet
    folder.mkdir(exist_ok=True)
    for name in ("00000010.txt", "00000020.txt", "00000030.txt", "best.txt", "notes.md"):
        write_text(folder / name, name)
    trim_samples(folder, 20)
    assert _names(folder) == ["00000010.txt", "00000020.txt", "notes.md"]


def test_a_missing_driver_is_reported_in_one_line_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "gs", raising=False)
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # cannot be imported
    for use in (lambda: locked_workdir("gs://bucket/a").__enter__(), lambda: load_run("gs://bucket/a")):
        with pytest.raises(UserError, match=r"^workdir=gs://bucket/a: pip install gcsfs, through which gs://") as error:
            use()
        assert "\n" not in str(error.value)


def _text(path: epath.Path) -> str:
    return path.read_text() if path.exists() else ""


def _names(folder: epath.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "objects")
