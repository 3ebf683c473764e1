"""A run that is imported from .safetensors samples, scores and reports as the one that was exported."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from lovecraft_jax.export.import_run import import_run
from lovecraft_jax.export.safetensors_file import fold, own_bytes, safetensors_bytes, to_torch
from lovecraft_jax.export.weights import portable
from lovecraft_jax.report.collect import collect_run
from lovecraft_jax.report.page import render
from lovecraft_jax.run import Run, load_run
from lovecraft_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("unoptimized")


@pytest.fixture(scope="module")
def run(trained: Path) -> Run:
    """A trained tiny run."""
    return load_run(trained)


@pytest.mark.slow
@pytest.mark.parametrize("to_bytes", [safetensors_bytes, own_bytes])
def test_a_run_comes_back_with_its_texts_and_scores(run: Run, to_bytes: Callable[..., bytes], tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(to_bytes(portable(run)))
    back = load_run(import_run(file, str(tmp_path / "back")))
    assert back.step == run.step
    assert back.generate("The house", 60) == run.generate("The house", 60)
    for split in ("valid", "test"):
        assert back.score(back.split(split)).bpc == pytest.approx(run.score(run.split(split)).bpc, abs=1e-5)


@pytest.mark.slow
def test_weights_that_were_trained_on_elsewhere_count_and_need_no_metadata_with_like(run: Run, tmp_path: Path) -> None:
    tensors = to_torch(fold(portable(run))) | {"head.bias": np.linspace(0, 1, run.tokenizer.size, dtype=np.float32)}
    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(
        UserError, match=r"its metadata has no tokenizer and facts .*; name a run that has them \(like\)"
    ):
        import_run(file, str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()
    back = load_run(import_run(file, str(tmp_path / "back"), like=run))
    assert back.score(back.split("test")).bpc > run.score(run.split("test")).bpc


@pytest.mark.slow
def test_like_gives_the_tokenizer_to_a_model_of_another_architecture(trained: Path, tmp_path: Path) -> None:
    run = load_run(trained)
    model, V = portable(run), run.tokenizer.size
    rng = np.random.default_rng(0)
    shapes = {"weight_ih_l0": (15, 4), "weight_hh_l0": (15, 5), "bias_ih_l0": (15,), "bias_hh_l0": (15,)}
    shapes = {f"rnn.{name}": shape for name, shape in shapes.items()}
    shapes |= {"embedding.weight": (V, 4), "head.weight": (V, 5), "head.bias": (V,)}
    gru = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    own = model.tensors  # by our own names, without metadata
    tied = dataclasses.replace(run, config=run.config.replace(**{"model.norm": "rms_gates", "model.backend": "fused"}))
    for name, tensors, like in (("gru", gru, tied), ("own", own, run)):
        safetensors.numpy.save_file(tensors, tmp_path / f"{name}.safetensors")
        back = load_run(import_run(tmp_path / f"{name}.safetensors", str(tmp_path / name), like))
        assert (back.step, back.config.model.cell) == (0, "gru" if name == "gru" else "lstm")
        assert len(back.generate("The", 5)) == 1


@pytest.mark.slow
def test_a_report_is_made_of_an_imported_run_and_training_is_refused(
    run: Run, command: Callable, tmp_path: Path
) -> None:
    file, workdir = tmp_path / "model.safetensors", tmp_path / "back"
    file.write_bytes(safetensors_bytes(portable(run)))
    import_run(file, str(workdir))
    assert "model.safetensors" in json.loads((workdir / "versions.json").read_text()).values()
    assert "<html" in render([collect_run(str(workdir), "best", "back")])
    done = command("train", "--config=configs/tiny.py", f"--workdir={workdir}")
    assert done.returncode == 2
    assert "without an optimiser's state" in done.stderr
    assert done.stderr.count("\n") == 1
    with pytest.raises(UserError, match="holds a run; name a new folder"):
        import_run(file, str(workdir))


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"head_kernel": (2, 3)}, "own", "head_kernel is .2, 3., expected .16, "),
        ({"extra": (2, 3)}, "own", "extra is .2, 3., expected none"),
        ({"head_bias": None}, "own", "head_bias is missing"),
        ({"head_bias": np.nan}, "own", "head_bias has values that are not finite"),
        ({}, "{}", "its metadata cannot be read"),
        ({}, "layers", "config.model.layers=1000000000: expected int from 1 to 1000"),
        ({}, "step", "step is -3: expected 0"),
        ({}, "name", "corpus.json: name is 5: damaged"),
        ({}, "[1", "its metadata cannot be read"),
    ],
)
def test_a_file_that_is_no_run_is_refused_in_one_line_before_anything_is_written(
    run: Run, tensors: dict, metadata: str, message: str, tmp_path: Path
) -> None:
    model = portable(run)
    stored = {name: array for name, array in model.tensors.items() if tensors.get(name, ()) is not None}
    for name, shape in tensors.items():
        if isinstance(shape, float):
            stored[name] = np.full_like(stored[name], shape)
        elif shape:
            stored[name] = np.zeros(shape, np.float32)
    given = {"tokenizer": model.tokenizer, "settings": json.dumps(model.settings), "facts": json.dumps(model.facts)}
    changed = {
        "own": {},
        "layers": {"settings": json.dumps(model.settings | {"layers": 10**9})},
        "step": {"facts": json.dumps(model.facts | {"step": -3})},
        "name": {"facts": json.dumps(model.facts | {"corpus": {"name": 5}})},
    }
    given |= changed.get(metadata, {"facts": metadata})
    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(stored, file, given)
    with pytest.raises(UserError, match=message) as caught:
        import_run(file, str(tmp_path / "back"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("content", [b"", b"no weights at all, but long enough", b"\x08" + bytes(7) + b"{}      "])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"m\.safetensors: "):
        import_run(tmp_path / "m.safetensors", str(tmp_path / "back"))
    with pytest.raises(UserError, match=r"not a \.safetensors file that can be read"):
        import_run(tmp_path / "none.safetensors", str(tmp_path / "back"))
