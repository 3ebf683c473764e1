"""Builds an ONNX graph: nodes, constants, and matrices that are stored in fewer bits than they are computed with."""

from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Matrix(NamedTuple):
    """values * scale, where the values have the dtype in which they are stored. `scale` is float32, [1, columns], or
    [rows, 1] for the embedding, which only `Graph.matrix` takes; None is 1."""

    values: np.ndarray
    scale: np.ndarray | None = None

    @property
    def T(self) -> "Matrix":
        """The matrix transposed."""
        return Matrix(self.values.T, None if self.scale is None else self.scale.T)

    def rows(self, rows: slice) -> "Matrix":
        """Returns some of the rows."""
        return Matrix(self.values[rows], self.scale)

    def columns(self, columns: np.ndarray, sign: np.ndarray) -> "Matrix":
        """Returns the columns of these numbers, each times its sign: 1 or -1."""
        values = self.values[:, columns] * sign.astype(self.values.dtype)[None]
        return Matrix(values, None if self.scale is None else self.scale[:, columns])

    def scaled(self, factor: np.ndarray) -> "Matrix":
        """Returns the matrix with its columns times `factor`; values in fewer bits are not rounded again."""
        if self.values.dtype == np.float32:
            return Matrix(self.values * factor[None])
        return Matrix(self.values, factor[None] if self.scale is None else self.scale * factor[None])


class Graph:
    """Nodes and constants. A value is its name, which the methods take and return.

    `Graph(outer)` is the body of a loop in `outer`: its nodes are its own, constants and the count of names are shared.
    """

    def __init__(self, outer: "Graph | None" = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = outer.constants if outer else {}
        self._count: dict[str, int] = outer._count if outer else {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output, and returns that."""
        return self.ops(kind, inputs, 1, **attributes)[0]

    def ops(self, kind: str, inputs: tuple[str, ...], outputs: int | list[str], **attributes: Any) -> list[str]:
        """Adds a node and returns its outputs, which are counted or named."""
        names = [self._new(kind.lower()) for _ in range(outputs)] if isinstance(outputs, int) else outputs
        self.nodes.append(helper.make_node(kind, inputs, names, name=self._new(kind), **attributes))
        return names

    def constant(self, value: Any, name: str = "", dtype: Any = np.float32) -> str:
        """Adds an array and returns its name; without a name it is shared with all that are equal."""
        array = np.array(value, dtype, order="C")
        name = self._new(name) if name else f"{array.dtype}:{array.tolist()}"
        if name in self.constants:
            return name
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def matrix(self, matrix: Matrix, name: str) -> str:
        """Adds a matrix and the nodes that make it float32. onnxruntime computes these once, when it loads a model;
        DequantizeLinear, which is made for this, it computes at every run."""
        value = self.constant(matrix.values, name, matrix.values.dtype)
        if matrix.values.dtype != np.float32:
            value = self.op("Cast", value, to=TensorProto.FLOAT)
        return value if matrix.scale is None else self.op("Mul", value, self.constant(matrix.scale, f"{name}.scale"))

    def concat(self, values: list[str]) -> str:
        """Returns values side by side, along the last axis."""
        return values[0] if len(values) == 1 else self.op("Concat", *values, axis=-1)

    def dense(self, x: str, kernel: str, bias: str = "") -> str:
        """Returns x @ kernel + bias."""
        x = self.op("MatMul", x, kernel)
        return self.op("Add", x, bias) if bias else x

    def affine(self, x: str, scale: str, shift: str) -> str:
        """Returns x * scale + shift."""
        return self.op("Add", self.op("Mul", x, scale), shift)

    def normalise(self, x: str, epsilon: float, centred: bool = True) -> str:
        """Returns x over the standard deviation of its last axis, minus the mean first; where it is not `centred`, x
        over the root mean square."""
        if centred:
            x = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1], keepdims=1))
        mean_square = self.op("ReduceMean", self.op("Mul", x, x), axes=[-1], keepdims=1)
        return self.op("Div", x, self.op("Sqrt", self.op("Add", mean_square, self.constant(epsilon))))

    def _new(self, name: str) -> str:
        self._count[name] = self._count.get(name, 0) + 1
        return name if self._count[name] == 1 else f"{name}_{self._count[name]}"
