import functools
import json
from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from configs import tiny
from lovecraft_jax.data.char_tokenizer import CharTokenizer
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.export import onnx_file
from lovecraft_jax.export.onnx_file import OPSET, build_onnx, onnx_bytes
from lovecraft_jax.export.weights import dequantise, portable, quantise, variables_of
from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.model.lm import forward, make_model
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.errors import UserError
from tests.helpers.untrained import random_variables, untrained_run

pytestmark = pytest.mark.usefixtures("unoptimized")

B, T = 2, 150
TEXT = "The night was dark, and 40 old men of Arkham (with no more than 3 lamps) walked to 'Innsmouth'.\n"
TOLERANCE = 1e-5

OPERATORS = {
    "plain": {},
    "embedded": {"embed": 5, "skip": True},
    "batch_input": {"norm": "batch_input", "skip": True},
    "coupled": {"input_gate": "coupled", "embed": 5},
    "coupled_batch_input": {"input_gate": "coupled", "norm": "batch_input"},
    "gru": {"cell": "gru", "embed": 5},
    "gru_one_hot": {"cell": "gru", "skip": True},
}
SCANS = {
    "capped": {"input_gate": "capped", "skip": True},
    "capped_batch_input": {"input_gate": "capped", "norm": "batch_input", "skip": True},
    "batch": {"norm": "batch"},
    "batch_coupled": {"norm": "batch", "input_gate": "coupled", "embed": 5, "skip": True},
    "layer": {"norm": "layer", "skip": True},
    "layer_capped": {"norm": "layer", "input_gate": "capped", "embed": 5},
    "layer_gates": {"norm": "layer_gates"},
    "layer_gates_coupled": {"norm": "layer_gates", "input_gate": "coupled", "embed": 5, "skip": True},
    "rms_gates": {"norm": "rms_gates", "skip": True},
    "rms_gates_capped": {"norm": "rms_gates", "input_gate": "capped", "embed": 5},
    "mogrifier": {"mogrify": 3, "embed": 5},
    "mogrifier_rms_gates": {"mogrify": 2, "embed": 5, "norm": "rms_gates", "input_gate": "capped", "skip": True},
    "mogrifier_coupled": {"mogrify": 1, "embed": 5, "input_gate": "coupled"},
}
HEADS = {
    "tied": {"embed": 8, "tie": True},
    "projected": {"embed": 5, "tie": True},
    "adaptive": {"embed": 5, "softmax_head": 3, "skip": True},
    "adaptive_tied": {"embed": 8, "tie": True, "softmax_head": 3},
    "adaptive_projected": {"embed": 5, "tie": True, "softmax_head": 10},
    "head_of_all": {"softmax_head": 1000},
}
MODELS = OPERATORS | SCANS | HEADS


@functools.cache
def make_run(name: str) -> Run:
    """A run of a model of two layers of 8 units, with random weights."""
    config = tiny.get_config()
    config.model.update({"units": 8} | MODELS[name])
    tokenizer = CharTokenizer.of(TEXT, make_cleaning("ascii"))
    model = make_model(config, tokenizer.size, "scan")
    return Run(config, tokenizer, model, random_variables(model), 0, {})


class Session:
    """A model in onnxruntime, and its carry, zeros at first."""

    def __init__(self, run: Run, dtype: str = "float32", batch: int = B) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(onnx_bytes(portable(run), dtype), options)
        _, *carry = self.session.get_inputs()
        self.carry = {value.name: np.zeros((batch, value.shape[1]), np.float32) for value in carry}

    def read(self, ids_BT: np.ndarray) -> np.ndarray:
        """The logits after some tokens; the carry goes on."""
        names = ["logits", *(f"next_{name}" for name in self.carry)]
        logits_BTV, *carry = self.session.run(names, {"ids": ids_BT, **self.carry})
        self.carry = dict(zip(self.carry, carry, strict=True))
        return logits_BTV


def draw_ids(run: Run) -> np.ndarray:
    return np.random.default_rng(1).integers(run.tokenizer.size, size=(B, T))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_computes_the_logits_and_the_carry_of_every_cell_norm_and_head(name: str) -> None:
    run = make_run(name)
    ids_BT, session = draw_ids(run), Session(run)
    carry, logits_BTV = forward(run.model, run.variables, run.model.initial_carry(B), ids_BT)
    at_once_BTV = session.read(ids_BT)
    np.testing.assert_allclose(at_once_BTV, logits_BTV, rtol=0, atol=TOLERANCE)
    for found, expected in zip(session.carry.values(), jax.tree.leaves(carry), strict=True):
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    session = Session(run)  # two chunks, then token by token
    chunks = [ids_BT[:, :40], ids_BT[:, 40:100], *np.split(ids_BT[:, 100:], T - 100, axis=1)]
    in_chunks_BTV = np.concatenate([session.read(chunk_BT) for chunk_BT in chunks], axis=1)
    np.testing.assert_allclose(in_chunks_BTV, at_once_BTV, rtol=0, atol=TOLERANCE / 5)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize(
    "name",
    ["batch_input", "coupled", "gru", "capped_batch_input", "mogrifier_rms_gates", "projected", "adaptive_projected"],
)
def test_a_model_in_fewer_bits_computes_with_the_rounded_weights_of_every_format(name: str, dtype: str) -> None:
    run = make_run(name)
    ids_BT = draw_ids(run)
    variables = variables_of(dequantise(quantise(portable(run).tensors, dtype)))
    _, logits_BTV = forward(run.model, variables, run.model.initial_carry(B), ids_BT)
    model = build_onnx(portable(run), dtype)
    onnx.checker.check_model(model, full_check=True)
    matrices = [array for array in model.graph.initializer if array.name.endswith(("kernel_h", "kernel", "embedding"))]
    assert {array.data_type for array in matrices} == {getattr(TensorProto, dtype.upper())}
    found_BTV = Session(run, dtype).read(ids_BT)
    np.testing.assert_allclose(found_BTV, logits_BTV, rtol=0, atol=TOLERANCE)
    _, unrounded_BTV = forward(run.model, run.variables, run.model.initial_carry(B), ids_BT)
    assert np.abs(found_BTV - unrounded_BTV).max() > 10 * TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_valid_and_its_layers_are_operators_where_onnx_has_them(name: str) -> None:
    model = build_onnx(portable(make_run(name)))
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    used = {value for node in all_nodes(model.graph) for value in node.input}
    assert {constant.name for constant in model.graph.initializer} <= used
    layer = "Scan" if name in SCANS else MODELS[name].get("cell", "lstm").upper()
    kinds = [node.op_type for node in model.graph.node]
    assert [kind for kind in kinds if kind in ("LSTM", "GRU", "Scan", "Loop")] == [layer] * 2


def all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    inner = [
        attribute.g
        for node in graph.node
        for attribute in node.attribute
        if attribute.type == onnx.AttributeProto.GRAPH
    ]
    return [*graph.node, *(node for body in inner for node in all_nodes(body))]


@pytest.mark.parametrize(("name", "parts"), [("plain", "ch"), ("rms_gates", "ch"), ("gru", "h")])
def test_inputs_and_outputs_have_names_and_shapes(name: str, parts: str) -> None:
    graph = build_onnx(portable(make_run(name))).graph
    V = len(set(TEXT)) + 1
    carry = [f"carry_{n}_{part}" for n in range(2) for part in parts]
    assert shapes(graph.input) == {"ids": ["batch", "time"]} | {name: ["batch", 8] for name in carry}
    expected = {"logits": ["batch", "time", V]} | {f"next_{name}": ["batch", 8] for name in carry}
    assert shapes(graph.output) == expected
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.INT64


def shapes(values: Any) -> dict[str, list[Any]]:
    dims = {value.name: value.type.tensor_type.shape.dim for value in values}
    return {name: [dim.dim_param or dim.dim_value for dim in dims] for name, dims in dims.items()}


def test_a_text_can_be_generated_from_nothing_but_the_file() -> None:
    run = untrained_run(TEXT)
    session = Session(run, batch=1)
    known = session.session.get_modelmeta().custom_metadata_map
    assert json.loads(known["settings"])["units"] == 16
    assert json.loads(known["facts"])["config"]["model"]["units"] == 16
    chars = "\0" + json.loads(known["tokenizer"])["chars"]
    ids, text = [chars.index(char) for char in "The night"], ""
    for _ in range(100):
        logits_V = session.read(np.array([ids]))[0, -1]
        ids = [int(np.argmax(logits_V[1:])) + 1]  # 0 is what training has not shown
        text += chars[ids[0]]
    assert text == run.generate("The night", length=100, sampling=Sampling(temperature=0))[0]


def test_weights_that_no_file_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("embedded")
    size = sum(array.nbytes for array in portable(run).tensors.values())
    monkeypatch.setattr(onnx_file, "LARGEST", size // 2)
    with pytest.raises(UserError, match=r"over 2 GB.*use dtype=float16 or int8"):
        onnx_bytes(portable(run))
