"""The export command: the format follows from the ending, and what cannot be written is said before any work."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from lovecraft_jax.export.export import ENDINGS, export_run
from lovecraft_jax.export.safetensors_file import read_file
from lovecraft_jax.run import Run, load_run
from lovecraft_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def run(trained: Path) -> Run:
    """A trained tiny run."""
    return load_run(trained)


@pytest.mark.slow
def test_each_ending_gives_its_format(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    page, weights, graph, hub = (export_run(run, f"{tmp_path}/new/model{ending}") for ending in ENDINGS)
    assert page.read_text().startswith("<!doctype html>")
    assert "rnn.weight_hh_l1" in read_file(weights)[1]
    onnx.checker.check_model(onnx.load(str(graph)))
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= {file.name for file in hub.iterdir()}
    scored = re.findall(
        r"test: (\d\.\d+) bpc in float32(?:, (\d\.\d+) as stored \(float16\))?", capsys.readouterr().err
    )
    assert len(scored) == len(ENDINGS)
    expected = run.score(run.split("test")).bpc
    assert [float(bpc) for bpc, _ in scored] == pytest.approx([expected] * 4, abs=1e-4)
    assert float(scored[0][1]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_the_command_prints_the_path_and_refuses_another_text(command: Callable, trained: Path, tmp_path: Path) -> None:
    to = tmp_path / "model.safetensors"
    done = command("export", f"--workdir={trained}", f"--to={to}", f"--corpus={__file__}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "another text than this run's" in done.stderr
    done = command("export", f"--workdir={trained}", f"--to={to}", "--dtype=int8")
    assert (done.returncode, done.stdout) == (0, f"{to}\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--to is missing; for example --to=page.html"),
        (("--to=model.bin",), "--to=model.bin: expected a path that ends with .html, .safetensors, .onnx, /"),
        (("--to=a.html", "--from=b.safetensors"), "--from=b.safetensors and --to=a.html: give one of them"),
        (("--from=b.safetensors", "--dtype=int8"), "--dtype: not with --from alone; leave it out"),
        (("--to=a.html", "--like=runs/x"), "--like: not with --to alone; leave it out"),
    ],
)
def test_wrong_flags_give_one_line(command: Callable, trained: Path, flags: tuple[str, ...], message: str) -> None:
    done = command("export", f"--workdir={trained}", *flags)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


def test_an_export_without_the_text_has_no_scores(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    moved = dataclasses.replace(run, config=run.config.replace(**{"data.corpus": str(tmp_path / "gone")}))
    to = export_run(moved, tmp_path / "model.safetensors", dtype="int8")
    assert "no scores of the exported weights: data.corpus=" in capsys.readouterr().err
    assert '"scores": null' in read_file(to)[0]["facts"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("versions.json", "not json", "a file of it cannot be read"),
        ("versions.json", '{"jax": 3}', "versions.json is {'jax': 3}: damaged"),
        ("baselines.json", '{"ngram": "x"}', "baselines.json is {'ngram': 'x'}: damaged"),
        ("corpus.json", '{"name": 5, "sha256": "", "characters": {}}', "corpus.json: name is 5: damaged"),
    ],
)
def test_damaged_files_of_a_run_are_named(trained: Path, tmp_path: Path, file: str, content: str, message: str) -> None:
    copy = shutil.copytree(trained, tmp_path / "run")
    (copy / file).write_text(content)
    with pytest.raises(UserError, match=message):
        export_run(load_run(copy), tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


def test_places_that_cannot_be_written_and_wrong_dtypes_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_run(run, tmp_path / "file" / "page.html")
    with pytest.raises(UserError, match=r"^dtype='float64': expected one of float32, float16, int8"):
        export_run(run, tmp_path / "page.html", dtype="float64")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
