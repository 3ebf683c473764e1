"""The cells that `model.cell` can name. To add one, write it in its own file and name it here and in config.py."""

from lovecraft_jax.model.cell import Cell
from lovecraft_jax.model.gru import GRUCell
from lovecraft_jax.model.lstm import CappedLSTMCell, CoupledLSTMCell, LSTMCell


def cell_class(name: str, input_gate: str = "own") -> type[Cell]:
    """The class of the cell that `model.cell` and `model.input_gate` name."""
    if name == "lstm":
        return {"own": LSTMCell, "capped": CappedLSTMCell, "coupled": CoupledLSTMCell}[input_gate]
    if name == "gru":
        return GRUCell
    raise ValueError(f"unknown cell {name!r}")
