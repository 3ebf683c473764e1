"""model.onnx: a model with its tokenizer for onnxruntime and other programs that run ONNX.

Every model has the same inputs and outputs, of any batch and any time: a prompt takes one run, then each token one.

    ids            int64 [batch, time]            token ids
    carry_N_c      float32 [batch, units]         for each layer N = 0, 1, ...: an LSTM's c, and
    carry_N_h      float32 [batch, units]         h, an LSTM's or a GRU's; at the start of a text zeros
    logits         float32 [batch, time, vocab]   of the token after each; log-probabilities with an adaptive softmax
    next_carry_N_c, next_carry_N_h                the carry after the last token, for the next run

The opset is 13, of 2020: the lowest in which Split, Squeeze, Unsqueeze and LogSoftmax have the form of later ones. A
layer is one operator LSTM or GRU where that computes the same (onnx_layers.py). Any other is a Scan over one time step
in primitive operators. A graph of that step alone would save the Scan's overhead for a single token; with the Scan all
models are called alike, and the tokens of a prompt share the matmuls outside of it.

Matrices stored as float16 or int8 are computed with as float32. The metadata has "settings" (what the model computes),
"tokenizer" (the content of vocab.json), "facts" (what is known of the run) and "lovecraft_jax" (its version).
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from lovecraft_jax.export.onnx_graph import Graph, Matrix
from lovecraft_jax.export.onnx_layers import Layer, Tokens
from lovecraft_jax.export.weights import SCALE, Portable, make_metadata, quantise
from lovecraft_jax.model.adaptive_softmax import tail_edges
from lovecraft_jax.runtime.errors import UserError

OPSET = 13
LARGEST = 2**31 - 2**24
"""Bytes of weights in a file: the limit of a protobuf message, less 16 MiB for all else."""
IR_VERSION = 7  # of the file's format: that of the first release with this opset
DOC = (
    "A language model: ids [batch, time] and the carry, zeros at first, to the logits of the token after each and the "
    "next carry. metadata_props has settings, tokenizer (vocab.json) and facts as JSON."
)


def onnx_bytes(model: Portable, dtype: str = "float32") -> bytes:
    """Returns the file's content."""
    return build_onnx(model, dtype).SerializeToString()


def check_size(model: Portable, dtype: str) -> None:
    """Raises UserError where the weights take more than a file can hold, 2 GB."""
    if sum(array.nbytes for array in quantise(model.tensors, dtype).values()) > LARGEST:
        raise UserError(
            "the weights take over 2 GB, more than an ONNX file can hold: use dtype=float16 or int8, or export a "
            ".safetensors file"
        )


def build_onnx(model: Portable, dtype: str = "float32") -> onnx.ModelProto:
    """Returns a model with matrices that are stored as `dtype`: float32, float16 or int8. Raises UserError as
    `check_size`."""
    check_size(model, dtype)
    settings, stored = model.settings, quantise(model.tensors, dtype)
    graph, parts = Graph(), ("c", "h") if settings["cell"] == "lstm" else ("h",)
    table_VD = _matrix(graph, stored, "embedding") if settings["embed"] else ""
    tokens = Tokens(graph, graph.op("Transpose", "ids", perm=[1, 0]), settings["vocab_size"], table_VD)
    carries: list[str] = []
    outputs: list[str] = []
    for n in range(settings["layers"]):
        carry = [f"carry_{n}_{part}" for part in parts]
        taken = tokens if n == 0 or settings["skip"] else None
        layer = Layer(graph, settings, stored, n)
        outputs.append(layer.outputs(outputs[-1] if n else "", taken, carry, [f"next_{name}" for name in carry]))
        carries += carry
    hidden_TBH = graph.concat(outputs if settings["skip"] else outputs[-1:])
    hidden_BTH = graph.op("Transpose", hidden_TBH, perm=[1, 0, 2])
    graph.ops("Identity", (_logits(graph, settings, stored, hidden_BTH, table_VD),), ["logits"])

    def floats(names: list[str], *shape: str | int) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]

    described = helper.make_graph(
        graph.nodes,
        "language_model",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "time"]),
            *floats(carries, "batch", settings["units"]),
        ],
        [
            *floats(["logits"], "batch", "time", settings["vocab_size"]),
            *floats([f"next_{name}" for name in carries], "batch", settings["units"]),
        ],
        list(graph.constants.values()),
    )
    opset = helper.make_opsetid("", OPSET)
    built = helper.make_model(described, opset_imports=[opset], ir_version=IR_VERSION, producer_name="lovecraft_jax")
    built.doc_string = DOC
    known = make_metadata(model, "onnx")
    helper.set_model_props(built, {name: known[name] for name in ("lovecraft_jax", "settings", "tokenizer", "facts")})
    return built


def _logits(
    graph: Graph, settings: dict[str, Any], stored: dict[str, np.ndarray], hidden_BTH: str, table_VD: str
) -> str:
    """Returns the logits [B, T, V] (model/lm.py)."""
    if "head_projection" in stored:
        hidden_BTH = graph.dense(hidden_BTH, _matrix(graph, stored, "head_projection"))
    table_DV = graph.op("Transpose", table_VD, perm=[1, 0]) if settings["tie"] else ""
    if 0 < settings["softmax_head"] < settings["vocab_size"]:
        return _log_probs(graph, settings, stored, hidden_BTH, table_DV)
    kernel_HV = table_DV or _matrix(graph, stored, "head_kernel")
    return graph.dense(hidden_BTH, kernel_HV, graph.constant(stored["head_bias"], "head_bias"))


def _log_probs(
    graph: Graph, settings: dict[str, Any], stored: dict[str, np.ndarray], hidden_BTH: str, table_DV: str
) -> str:
    """Returns the log-probabilities [B, T, V] of an adaptive softmax (model/adaptive_softmax.py)."""
    edges = tail_edges(settings["vocab_size"], settings["softmax_head"])
    tails = len(edges) - 1

    def split(value: str, sizes: Any) -> list[str]:
        return graph.ops("Split", (value, graph.constant(sizes, dtype=np.int64)), len(sizes), axis=-1)

    def log_softmax(x: str, kernel: str, name: str) -> str:
        bias = graph.constant(stored[f"{name}_bias"], f"{name}_bias")
        return graph.op("LogSoftmax", graph.dense(x, kernel, bias), axis=-1)

    if table_DV:
        first, *kernels = split(table_DV, np.diff([0, *edges]))
        first, inputs = graph.concat([first, _matrix(graph, stored, "head.tails_kernel")]), [hidden_BTH] * tails
    else:
        first, *kernels = (
            _matrix(graph, stored, f"head.{name}_kernel") for name in ("head", *(f"tail_{n}" for n in range(tails)))
        )
        projections = (_matrix(graph, stored, f"head.tail_{n}_projection") for n in range(tails))
        inputs = [graph.dense(hidden_BTH, projection) for projection in projections]
    first_ids, *tail_parts = split(log_softmax(hidden_BTH, first, "head.head"), [edges[0]] + [1] * tails)
    within = (log_softmax(inputs[n], kernels[n], f"head.tail_{n}") for n in range(tails))
    return graph.concat([first_ids, *(graph.op("Add", *pair) for pair in zip(within, tail_parts, strict=True))])


def _matrix(graph: Graph, stored: dict[str, np.ndarray], name: str) -> str:
    return graph.matrix(Matrix(stored[name], stored.get(name + SCALE)), name)
