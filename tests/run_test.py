"""The Python API to a run: load_run, generating, scoring, encoding, splits."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import lovecraft_jax
from configs import tiny
from lovecraft_jax.data.corpus import DATASETS
from lovecraft_jax.inference.generate import Sampling
from lovecraft_jax.run import Run, load_run
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.training.checkpoint import Checkpoints
from tests.helpers.runs import saved_state


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
    with pytest.raises(UserError, match=r"--checkpoint=7: .* steps 30, 40, 50"):
        load_run(workdir, 7)


def test_the_seed_and_not_the_number_of_samples_decides_the_text(run: Run) -> None:
    text = run.generate("The", length=40, seed=3)
    assert [len(sample) for sample in text] == [40]
    assert text == run.generate("The", length=40, seed=3) == run.write("The", length=40, seed=3)  # its old name
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


@pytest.fixture(scope="module")
def run(trained: Path) -> Run:
    return load_run(trained)
