"""model.safetensors: what is stored, and how exactly."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.data.char_tokenizer import CharTokenizer
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.export import weights
from lovecraft_jax.export.safetensors_file import (
    OWN,
    TORCH,
    fold,
    from_torch,
    layout_of,
    own_bytes,
    read_file,
    safetensors_bytes,
    to_torch,
)
from lovecraft_jax.export.weights import Portable, dequantise, portable, quantise, variables_of
from lovecraft_jax.model.lm import forward, make_model
from lovecraft_jax.run import Run, ensemble
from lovecraft_jax.runtime.errors import UserError
from tests.helpers.untrained import random_variables

TEXT = "the hound\n bayed"
PLAIN: tuple[dict[str, Any], ...] = (
    {},
    {"embed": 5},
    {"embed": 16, "tie": True},
    {"norm": "batch_input", "embed": 5},
    {"input_gate": "coupled", "embed": 5},
    {"cell": "gru", "embed": 5},
)
NOT_PLAIN: tuple[dict[str, Any], ...] = (
    {"input_gate": "capped"},
    {"norm": "rms_gates"},
    {"norm": "batch"},
    {"skip": True},
    {"embed": 5, "mogrify": 2},
    {"embed": 5, "tie": True},
    {"softmax_head": 4},
)


def _run(**changes: Any) -> Run:
    """A run of a small model with these settings and random weights."""
    config = Config.of(tiny.get_config()).replace(**{f"model.{name}": value for name, value in changes.items()})
    tokenizer = CharTokenizer.of(TEXT, make_cleaning("ascii"))
    model = make_model(config, tokenizer.size)
    return Run(config, tokenizer, model, random_variables(model), 7, {"characters": {}})


def _log_probs(run: Run, model: Portable | None = None) -> np.ndarray:
    """The logits that the run's model, or that of a Portable, gives after each character of TEXT [N, V]."""
    config, variables = run.config, run.variables
    if model:
        config = config.replace(
            **{f"model.{name}": model.settings[name] for name in model.settings.keys() - {"vocab_size"}}
        )
        variables = variables_of(model.tensors)
    built = make_model(config, run.tokenizer.size)
    ids = run.tokenizer.encode(TEXT).ids[None]
    return np.asarray(forward(built, variables, built.initial_carry(1), ids)[1][0])


@pytest.mark.parametrize("changes", [*PLAIN, *NOT_PLAIN], ids=str)
def test_a_file_gives_back_settings_tokenizer_and_every_tensor(changes: dict[str, Any], tmp_path: Any) -> None:
    model = portable(_run(**changes))
    (tmp_path / "m.safetensors").write_bytes(own_bytes(model))
    given, tensors = read_file(tmp_path / "m.safetensors")
    assert (layout_of(tensors, given), json.loads(given["settings"])) == (OWN, model.settings)
    assert given["tokenizer"] == model.tokenizer
    assert json.loads(given["facts"])["step"] == 7
    assert tensors.keys() == model.tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(array, model.tensors[name], strict=True)


@pytest.mark.parametrize("changes", PLAIN, ids=str)
def test_a_plain_model_computes_the_same_after_pytorchs_layout_and_back(changes: dict[str, Any]) -> None:
    run = _run(**changes)
    stored = safetensors.numpy.load(safetensors_bytes(portable(run)))
    assert layout_of(stored, {}) == TORCH
    settings, tensors = from_torch(stored)
    assert settings["norm"] == "none"  # it is in the kernels
    back = Portable(settings, tensors, "", {})
    np.testing.assert_allclose(_log_probs(run, back), _log_probs(run), rtol=0, atol=2e-5)


@pytest.mark.parametrize("changes", NOT_PLAIN, ids=str)
def test_what_pytorchs_lstm_cannot_compute_has_our_own_names(changes: dict[str, Any]) -> None:
    model = portable(_run(**changes))
    assert safetensors.numpy.load(safetensors_bytes(model)).keys() == model.tensors.keys()


def test_float16_is_the_nearest_and_int8_within_half_a_step_and_vectors_are_exact() -> None:
    tensors = portable(_run(embed=5, tie=True, norm="rms_gates")).tensors
    half, byte = (quantise(tensors, dtype) for dtype in ("float16", "int8"))
    assert byte["embedding.scale"].shape == (len(tensors["embedding"]), 1)
    for name, array in tensors.items():
        if array.ndim < 2:
            np.testing.assert_array_equal(byte[name], array)
            np.testing.assert_array_equal(half[name], array)
            continue
        np.testing.assert_array_equal(half[name], array.astype(np.float16))
        assert byte[name].dtype == np.int8
        step = np.broadcast_to(byte[f"{name}.scale"], array.shape)
        assert np.all(np.abs(dequantise(byte)[name] - array) <= step * 0.5001)
        assert np.abs(byte[name]).max(axis=1 if name == "embedding" else 0).min() == 127


def test_zeros_stay_zeros_in_int8() -> None:
    stored = quantise({"kernel": np.zeros((3, 2), np.float32)}, "int8")
    np.testing.assert_array_equal(dequantise(stored)["kernel"], np.zeros((3, 2)))


def test_values_that_float16_does_not_hold_are_refused() -> None:
    with pytest.raises(UserError, match=r"head_kernel has values beyond 65,504; use float32"):
        quantise({"head_kernel": np.full((2, 2), 1e5, np.float32)}, "float16")


def test_an_ensemble_is_refused() -> None:
    with pytest.raises(UserError, match="ensemble of 2 runs cannot be exported: give one workdir"):
        portable(ensemble([_run(), _run()]))


@pytest.mark.parametrize(
    ("corpus", "name"),
    [
        ({"path": "/home/me/novels/mine.txt", "name": "/home/me/novels/mine.txt"}, "mine.txt"),
        ({"path": "/home/me/novels/", "name": "~me/home/novels/", "splits": {"train": ["/home/me/a"]}}, "novels"),
        ({"path": "/home/me/*.txt", "name": "/home/me/*.txt", "left_out": ["/home/me/b.txt"]}, "*.txt"),
        ({"name": "lovecraft"}, "lovecraft"),  # loaded with --corpus=/home/me/corpus
    ],
)
def test_no_path_of_the_machine_is_in_the_file(corpus: dict[str, Any], name: str) -> None:
    run = _run()
    config = run.config.replace(**{"data.corpus": corpus.get("path", "/home/me/corpus")})
    facts = portable(dataclasses.replace(run, config=config, corpus=corpus)).facts
    assert "home" not in json.dumps(facts)
    assert facts["corpus"]["name"] == name


def test_a_name_that_is_not_utf_8_is_stored(tmp_path: Path) -> None:
    run = dataclasses.replace(_run(), corpus={"path": "/x/no\udcffvel.txt", "name": "/x/no\udcffvel.txt"})
    (tmp_path / "m.safetensors").write_bytes(safetensors_bytes(portable(run)))
    assert json.loads(read_file(tmp_path / "m.safetensors")[0]["facts"])["corpus"]["name"] == "no\udcffvel.txt"


@pytest.mark.parametrize("setting", ["cell", "input_gate", "norm"])
def test_a_model_that_no_format_knows_is_refused(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights.KNOWN, setting, ("another",))
    with pytest.raises(UserError, match=rf"model\.{setting}='\w+': no format can hold it yet; another can"):
        portable(_run())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rnn.weight_hh_l0": None}, "no tensor rnn.weight_hh_l0: expected the names of docs/export.md"),
        ({"head.weight": None}, "no tensor head.weight"),
        ({"rnn.weight_ih_l0_reverse": (64, 16)}, "tensor rnn.weight_ih_l0_reverse: expected .* one direction"),
        ({"rnn.weight_hh_l0": (60, 16)}, r"rnn.weight_hh_l0 is \[60, 16\]: expected \[64, 16\] of an LSTM"),
        ({"rnn.weight_hh_l0": (64,)}, r"rnn.weight_hh_l0 is \[64\]: expected rows and columns"),
        ({"rnn.weight_hh_l0": (0, 0)}, r"rnn.weight_hh_l0 is \[0, 0\]: expected rows and columns"),
        ({"head.weight": ()}, r"head.weight is \[\]: expected rows and columns"),
        ({"head.bias": (3,)}, r"head.bias is \[3\]: expected \[13\]"),
    ],
)
def test_tensors_that_are_no_plain_model_are_named(change: dict[str, Any], message: str) -> None:
    tensors = to_torch(fold(portable(_run()))) | {
        name: np.zeros(shape, np.float32) for name, shape in change.items() if shape is not None
    }
    with pytest.raises(UserError, match=message):
        from_torch({name: array for name, array in tensors.items() if change.get(name, ()) is not None})


def test_scales_that_do_not_fit_are_named(tmp_path: Path) -> None:
    stored = {"x": np.ones((4, 5), np.int8), "x.scale": np.ones((3, 2), np.float32)}
    safetensors.numpy.save_file(stored, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=r"m\.safetensors: int8 tensors whose scales are of other shapes"):
        read_file(tmp_path / "m.safetensors")
