"""The recurrent layers of model.onnx: ONNX's operator LSTM or GRU where it computes what the layer does, otherwise a
Scan over one time step in primitive operators. Axes in names as in model/lm.py.

With running statistics a norm of the batch is an affine map. Those of the gates' parts become part of kernels and bias,
after which "batch_input" is no norm any more.
"""

import functools
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from lovecraft_jax.config import NORMS_OF_GATES
from lovecraft_jax.export.onnx_graph import Graph, Matrix
from lovecraft_jax.export.weights import SCALE
from lovecraft_jax.model.normalization import EPSILON

BLOCKS = {"own": (0, 3, 1, 2), "coupled": (0, 2, 0, 1), "gru": (1, 0, 2)}
"""Which of our gates each of an operator's is (LSTM: i, o, f, c; GRU: z, r, h), by input gate or cell."""
NEGATED = {"own": (), "coupled": (0,), "gru": ()}
"""The operator's gates that are ours with the other sign: a coupled LSTM, of gates f, g, o, has 1 - sigmoid(f) as its
input gate, which is sigmoid(-f)."""


def is_operator(settings: dict[str, Any]) -> bool:
    """Whether an operator of ONNX computes what the layers do."""
    is_plain = settings["norm"] in ("none", "batch_input") and not settings["mogrify"]
    return is_plain and settings["input_gate"] != "capped"


class Tokens:
    """Token ids [T, B] as vectors: rows of the embedding `table_VD`, or one-hot vectors where it is ""."""

    def __init__(self, graph: Graph, ids_TB: str, vocab_size: int, table_VD: str) -> None:
        self.ids_TB, self.table_VD = ids_TB, table_VD
        self._graph, self._vocab_size = graph, vocab_size

    @functools.cached_property
    def vectors_TBD(self) -> str:
        graph = self._graph
        if self.table_VD:
            return graph.op("Gather", self.table_VD, self.ids_TB)
        return graph.op("OneHot", self.ids_TB, graph.constant(self._vocab_size, dtype=np.int64), graph.constant([0, 1]))


class Layer:
    """One layer: its nodes and its weights, of those that are `stored` (weights.quantise)."""

    def __init__(self, graph: Graph, settings: dict[str, Any], stored: dict[str, np.ndarray], n: int) -> None:
        self.name = f"{settings['cell']}_{n}"
        self._graph, self._settings, self._units = graph, settings, settings["units"]
        prefix = f"{self.name}."
        arrays = {name.removeprefix(prefix): array for name, array in stored.items() if name.startswith(prefix)}
        self._vectors = {name: array for name, array in arrays.items() if array.ndim == 1}
        self._matrices = {
            name: Matrix(array, arrays.get(name + SCALE))
            for name, array in arrays.items()
            if array.ndim == 2 and not name.endswith(SCALE)
        }
        self._fold_norms_of_batch()

    def outputs(self, below_TBH: str, tokens: Tokens | None, carry: list[str], next_carry: list[str]) -> str:
        """Returns h of all time steps [T, B, H] from the output of the layer below ("": none), the tokens, if the layer
        takes them, and the carry. `next_carry` names the carry after the last."""
        if is_operator(self._settings):
            return self._operator(self._inputs(below_TBH, tokens), carry, next_carry)
        x_TBF = (self._inputs if self._settings["mogrify"] else self._gates_x)(below_TBH, tokens)
        return self._scan(x_TBF, carry, next_carry)

    def _fold_norms_of_batch(self) -> None:
        for part in "xhc":
            if f"mean_{part}" not in self._vectors:
                continue
            mean, variance, scale = (self._vectors[f"{name}_{part}"] for name in ("mean", "variance", "scale"))
            factor = scale / np.sqrt(variance + np.float32(EPSILON))
            shift = "shift_c" if part == "c" else "bias"
            self._vectors[shift] = self._vectors[shift] - mean * factor
            if part == "c":
                self._vectors["scale_c"] = factor
            else:
                self._matrices[f"kernel_{part}"] = self._matrices[f"kernel_{part}"].scaled(factor)

    def _inputs(self, below_TBH: str, tokens: Tokens | None) -> str:
        """Returns what enters the layer, side by side [T, B, D]."""
        return self._graph.concat(([below_TBH] if below_TBH else []) + ([tokens.vectors_TBD] if tokens else []))

    def _gates_x(self, below_TBH: str, tokens: Tokens | None) -> str:
        """Returns the input's part of the gates of all time steps [T, B, G]; the bias is in it, unless a norm of the
        gates comes before it."""
        graph, kernel_x = self._graph, self._matrices["kernel_x"]
        if tokens is None or tokens.table_VD:
            gates = graph.dense(self._inputs(below_TBH, tokens), self._kernel("kernel_x"))
        else:  # one-hot vectors choose rows of the kernel
            H = self._units if below_TBH else 0
            rows = graph.matrix(kernel_x.rows(slice(H, None)), f"{self.name}.kernel_x.tokens")
            gates = graph.op("Gather", rows, tokens.ids_TB)
            if below_TBH:
                below = graph.matrix(kernel_x.rows(slice(H)), f"{self.name}.kernel_x.below")
                gates = graph.op("Add", gates, graph.dense(below_TBH, below))
        if self._settings["norm"] in NORMS_OF_GATES:
            return gates
        if self._settings["norm"] == "layer":
            return graph.affine(graph.normalise(gates, EPSILON), self._vector("scale_x"), self._vector("bias"))
        return graph.op("Add", gates, self._vector("bias"))

    def _operator(self, x_TBD: str, carry: list[str], next_carry: list[str]) -> str:
        """Returns h [T, B, H] from what enters the layer."""
        graph, H, is_gru = self._graph, self._units, self._settings["cell"] == "gru"
        form = "gru" if is_gru else self._settings["input_gate"]
        columns = np.concatenate([np.arange(H) + H * block for block in BLOCKS[form]])
        sign = np.repeat([-1 if n in NEGATED[form] else 1 for n in range(len(BLOCKS[form]))], H)
        kernels = []
        for name in ("kernel_x", "kernel_h"):
            values, scale = self._matrices[name].columns(columns, sign).T
            one_direction = Matrix(values[None], None if scale is None else scale[None])
            kernels.append(graph.matrix(one_direction, f"{self.name}.{name}"))
        bias, bias_h = self._vectors["bias"][columns] * sign, np.zeros(len(columns))
        if is_gru:
            bias_h[2 * H :] = self._vectors["bias_h"]
        biases = graph.constant([[*bias, *bias_h]], f"{self.name}.bias")
        direction, axis_1 = graph.constant([0], dtype=np.int64), graph.constant([1], dtype=np.int64)
        initial = [graph.op("Unsqueeze", value, direction) for value in reversed(carry)]  # h before c
        inputs = x_TBD, *kernels, biases, "", *initial  # "": all rows have the same length
        form_of_gru = {"linear_before_reset": 1} if is_gru else {}
        kind, count = "GRU" if is_gru else "LSTM", 1 + len(carry)
        h_T1BH, *last = graph.ops(kind, inputs, count, hidden_size=H, **form_of_gru)
        for value, name in zip(last, reversed(next_carry), strict=True):
            graph.ops("Squeeze", (value, direction), [name])
        return graph.op("Squeeze", h_T1BH, axis_1)

    def _scan(self, x_TBF: str, carry: list[str], next_carry: list[str]) -> str:
        """Returns h [T, B, H] from what enters a time step: the input's part of the gates, or the input itself for a
        Mogrifier."""
        graph, body, H = self._graph, Graph(self._graph), self._units
        in_body = [name for name in self._matrices if name != "kernel_x" or self._settings["mogrify"]]
        first = [f"{self.name}/{part}" for part in ("c", "h", "x")]
        c_BH, h_BH = self._step(body, {name: self._kernel(name) for name in in_body}, *first)
        last = [c_BH, h_BH, body.op("Identity", h_BH)]  # carry and output: a name may be an output only once

        def described(names: list[str], *widths: int | None) -> list[onnx.ValueInfoProto]:
            named = zip(names, widths, strict=True)
            return [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name, width in named]

        inputs, results = described(first, H, H, None), described(last, H, H, H)
        step = helper.make_graph(body.nodes, f"{self.name}/step", inputs, results)
        outputs = [*next_carry, f"{self.name}/outputs"]
        return graph.ops("Scan", (*carry, x_TBF), outputs, body=step, num_scan_inputs=1)[-1]

    def _step(self, body: Graph, kernels: dict[str, str], c_BH: str, h_BH: str, x_BF: str) -> tuple[str, str]:
        """Returns c and h after a time step of an LSTM (model/lstm.py)."""
        norm, input_gate = self._settings["norm"], self._settings["input_gate"]
        *i, f, g, o = self._gates(body, kernels, h_BH, x_BF)
        f = body.op("Sigmoid", f)
        i = [body.op("Sigmoid", gate) for gate in i]
        if input_gate != "own":
            rest = body.op("Sub", body.constant(1), f)
            i = [body.op("Min", *i, rest) if input_gate == "capped" else rest]
        c_BH = body.op("Add", body.op("Mul", f, c_BH), body.op("Mul", i[0], body.op("Tanh", g)))
        shown = body.normalise(c_BH, EPSILON) if norm == "layer" else c_BH
        if "scale_c" in self._vectors:
            shown = body.affine(shown, self._vector("scale_c"), self._vector("shift_c"))
        return c_BH, body.op("Mul", body.op("Sigmoid", o), body.op("Tanh", shown))

    def _gates(self, body: Graph, kernels: dict[str, str], h_BH: str, x_BF: str) -> list[str]:
        """Returns the gates before their activations, [B, H] each."""
        norm, mogrify = self._settings["norm"], self._settings["mogrify"]
        if mogrify:
            x_BD, h_BH = self._modulated(body, kernels, h_BH, x_BF)
            bias = "" if norm in NORMS_OF_GATES else self._vector("bias")
            x_BF = body.dense(x_BD, kernels["kernel_x"], bias)
        gates_h = body.dense(h_BH, kernels["kernel_h"])
        if norm == "layer":
            gates_h = body.op("Mul", body.normalise(gates_h, EPSILON), self._vector("scale_h"))
        gates = body.op("Add", x_BF, gates_h)
        count = len(self._vectors["bias"]) // self._units
        if norm in NORMS_OF_GATES:
            shape = count, self._units
            gates = body.op("Reshape", gates, body.constant([-1, *shape], dtype=np.int64))
            gates = body.normalise(gates, EPSILON, centred=norm == "layer_gates")
            gates = body.affine(gates, self._vector("scale_z", shape), self._vector("bias", shape))
            gates = body.op("Reshape", gates, body.constant([-1, count * self._units], dtype=np.int64))
        return body.ops("Split", (gates,), count, axis=-1)

    def _modulated(self, body: Graph, kernels: dict[str, str], h_BH: str, x_BD: str) -> list[str]:
        """Returns x and h after the rounds of the Mogrifier (model/mogrifier.py)."""
        pair = [x_BD, h_BH]
        for n in range(self._settings["mogrify"]):
            to = n % 2  # x first
            gate = body.op("Sigmoid", body.dense(pair[1 - to], kernels[f"mogrify_{n + 1}"]))
            pair[to] = body.op("Mul", body.op("Mul", gate, body.constant(2)), pair[to])
        return pair

    def _kernel(self, name: str) -> str:
        return self._graph.matrix(self._matrices[name], f"{self.name}.{name}")

    def _vector(self, name: str, shape: tuple[int, ...] = (-1,)) -> str:
        return self._graph.constant(self._vectors[name].reshape(shape), f"{self.name}.{name}")
