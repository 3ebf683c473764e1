"""The Python API to a run: load_run, generating, scoring, encoding, splits."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import lovecraft_jax
from configs import tiny
from lovecraft_jax.data.corpus import DATASETS
from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.run import Run, load_run
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.training import loop
from lovecraft_jax.training.checkpoint import Checkpoints
from tests.helpers.runs import ROOT, saved_state

# Of root's processes, one that file permissions bind too.
BOUND_BY_RIGHTS = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    if os.geteuid() == 0
    else []
)


def test_the_package_exports_the_api() -> None:
    for name, value in {"Run": Run, "Sampling": Sampling, "load_run": load_run}.items():
        assert getattr(lovecraft_jax, name) is value
    with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
        lovecraft_jax.load_runs  # noqa: B018


def test_a_run_has_the_config_corpus_and_vocabulary_it_was_trained_with(run: Run, trained: Path) -> None:
    assert run.config.to_dict() == tiny.get_config().to_dict()
    assert run.corpus == json.loads((trained / "corpus.json").read_text())
    assert run.tokenizer.chars == json.loads((trained / "vocab.json").read_text())["chars"]
    assert run.step == 40


def test_loading_leaves_the_folder_as_it_was(trained: Path, tmp_path: Path) -> None:
    workdir = shutil.copytree(trained, tmp_path / "run")
    (workdir / "checkpoints" / "50.orbax-checkpoint-tmp").mkdir()  # as a run leaves it while it saves
    before = sorted((path, path.stat().st_mtime_ns) for path in workdir.rglob("*"))
    load_run(workdir)
    assert sorted((path, path.stat().st_mtime_ns) for path in workdir.rglob("*")) == before


def test_best_latest_and_every_saved_step_can_be_loaded_by_a_relative_path(
    trained: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    workdir = shutil.copytree(trained, tmp_path / "run")
    checkpoints = Checkpoints(epath.Path(workdir), keep=3)
    checkpoints.save(50, saved_state(trained).replace(step=jnp.int32(50)), {}, bpc=99.0)
    checkpoints.close()
    for which, step in (("best", 40), ("latest", 50), (30, 30), ("30", 30), (50, 50)):
        assert load_run(workdir.name, which).step == step
    with pytest.raises(UserError, match=r"^checkpoint=7: .* steps 30, 40, 50"):
        load_run(workdir, 7)


def test_the_seed_and_not_the_number_of_samples_decides_the_text(run: Run) -> None:
    text = run.generate("The", length=40, seed=3)
    assert [len(sample) for sample in text] == [40]
    assert text == run.generate("The", length=40, seed=3)
    assert text != run.generate("The", length=40, seed=4)
    three = run.generate("The", length=40, samples=3, seed=3)
    assert len(set(three)) == 3
    assert three[:1] == text
    greedy = Sampling(temperature=0.0)
    assert run.generate("", 40, seed=1, sampling=greedy) == run.generate("\n", 40, seed=2, sampling=greedy)


def test_splits_have_the_recorded_numbers_of_characters_and_are_of_no_other_text(run: Run) -> None:
    for name, characters in run.corpus["characters"].items():
        assert len(run.split(name).ids) == run.split(name).n_chars == characters
    moved = dataclasses.replace(run, corpus=run.corpus | {"sha256": "0" * 64})
    with pytest.raises(UserError, match="another text"):
        moved.split("test")


def test_a_text_that_was_moved_is_taken_from_where_it_is_now(trained: Path, run: Run) -> None:
    moved = load_run(trained, corpus=str(DATASETS[1].source))
    np.testing.assert_array_equal(moved.split("test").ids, run.split("test").ids)
    with pytest.raises(UserError, match="another text"):
        load_run(trained, corpus=__file__).split("test")


def test_a_character_outside_the_vocabulary_costs_its_spelling(run: Run) -> None:
    known, unknown = run.encode("The house"), run.encode("The h~use")
    assert "~" not in run.tokenizer.chars
    assert unknown.extra_nats == pytest.approx(np.log(96))  # one of the 95 printable characters or a newline
    without = dataclasses.replace(unknown, extra_nats=0.0)
    assert run.score(unknown).nats == pytest.approx(run.score(without).nats + np.log(96))
    assert run.score(unknown).nats > run.score(known).nats + np.log(96)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.stream(length=-5), "^length=-5: expected a whole number from 1 to 2147483647"),
        (lambda run: run.generate(length=2.5), "^length=2.5: expected a whole number"),
        (lambda run: run.generate(length=True), "^length=True: expected a whole number"),
        (lambda run: run.generate(seed=-1), "^seed=-1: expected a whole number from 0 to 4294967295"),
        (
            lambda run: run.generate(samples=2**31 - 1),
            "^samples=2147483647: expected a whole number from 1 to 1048576",
        ),
        (lambda run: run.generate(seed=10**5000), "^seed=a very large int: expected a whole number"),
        (lambda run: run.stream(chunk=-1), "chunk=-1: expected a whole number of at least 1, or None"),
        (lambda run: run.stream(chunk=0), "chunk=0: expected a whole number of at least 1, or None"),
        (lambda run: lovecraft_jax.export_run("runs/x", "page.html"), "run='runs/x': expected what load_run returns"),
        (lambda run: run.generate(b"The"), "^prompt=b'The': expected text"),
        (lambda run: run.generate(sampling=0.5), "sampling=0.5: expected a Sampling"),
        (lambda run: Sampling(None), "temperature=None: expected a finite number"),
        (lambda run: Sampling(10**400), "temperature=1000*...: expected a finite number"),
        (lambda run: Sampling(top_k=1.5), "top_k=1.5: expected a whole number"),
        (lambda run: run.split("tests"), "^split='tests': expected one of train, valid, test"),
        (lambda run: run.encode(None), "text=None: expected a str"),
        (lambda run: run.score("The house"), "text='The house': expected what encode or split returns"),
        (lambda run: run.score(run.encode("")), "nothing to score"),
        (lambda run: run.teacher_forced(np.array([1, 999])), "ids=array.* expected an array .* from 0 to"),
        (lambda run: run.teacher_forced(np.array([[1], [2]])), "ids=array.* expected an array"),
        (lambda run: run.teacher_forced(np.array([1, 2]), -1), "seq_len=-1: expected a whole number of at least 0"),
        (lambda run: load_run(None), "^workdir=None: expected the name of a folder"),
        (lambda run: loop.train(tiny.get_config(), ""), "^workdir='': expected the name of a folder"),
        (lambda run: loop.train(None, "runs/x"), "config=None: expected a section"),
        (lambda run: loop.train(tiny.get_config(), "runs/x", profile=-1), "^profile=-1: expected a whole number"),
    ],
)
def test_wrong_arguments_raise_at_the_call_with_one_line(run: Run, call: Callable, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        call(run)
    assert len(str(raised.value).splitlines()) == 1
    assert "--" not in str(raised.value)


def test_a_step_that_is_damaged_is_not_replaced_by_another(trained: Path, tmp_path: Path) -> None:
    workdir = shutil.copytree(trained, tmp_path / "run")
    for file in (workdir / "checkpoints" / "30").rglob("*"):
        if file.is_file() and "state" in file.parts:
            file.write_bytes(b"")
    with pytest.raises(UserError, match="checkpoint=30: it is damaged; give another, as 40"):
        load_run(workdir, 30)
    assert load_run(workdir, "latest").step == 40


def test_a_checkpoint_that_is_no_number_is_named(trained: Path) -> None:
    with pytest.raises(UserError, match="^checkpoint=\u00b2: " + r".* steps 30, 40"):
        load_run(trained, "\u00b2")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/40/metrics/metrics"])
def test_checkpoints_that_may_not_be_read_raise(trained: Path, tmp_path: Path, name: str) -> None:
    place = shutil.copytree(trained, tmp_path / "run") / name
    code = "import sys; from lovecraft_jax.run import UserError, load_run\ntry: load_run(sys.argv[1])\n"
    code += "except UserError as error: print(error)"
    mode = place.stat().st_mode
    place.chmod(0)
    try:
        line = [*BOUND_BY_RIGHTS, sys.executable, "-c", code, str(tmp_path / "run")]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    finally:
        place.chmod(mode)
    assert done.stdout.startswith(f"{place}: Permission denied; ")


def test_numpy_numbers_are_numbers_and_windows_longer_than_the_text_are_the_text(run: Run) -> None:
    sampling = Sampling(np.float32(0.5), np.int64(3), np.float64(1))
    assert run.generate("The", np.int64(4), np.uint32(3), sampling) == run.generate("The", 4, 3, Sampling(0.5, 3))
    ids = run.encode("The house").ids
    np.testing.assert_array_equal(run.teacher_forced(ids, 10**12), run.teacher_forced(ids, len(ids)))


@pytest.mark.slow
def test_loading_a_run_in_a_process_of_its_own_prints_nothing(trained: Path) -> None:
    line = [sys.executable, "-c", "import sys; from lovecraft_jax import load_run; load_run(sys.argv[1])", str(trained)]
    # JAX sets these in a process that has found libtpu, such as this one.
    unset = ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD", "TPU_LIBRARY_PATH", "JAX_PLATFORMS")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture(scope="module")
def run(trained: Path) -> Run:
    return load_run(trained)
