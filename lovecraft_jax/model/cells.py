"""The cells that `model.cell` can name. To add one, write it in its own file and name it here and in config.py."""

from lovecraft_jax.model.cell import Cell
from lovecraft_jax.model.gru import GRUCell
from lovecraft_jax.model.lstm import LSTMCell


def cell_class(name: str) -> type[Cell]:
    """The class of the cell that `model.cell` names."""
    if name == "lstm":
        return LSTMCell
    if name == "gru":
        return GRUCell
    raise ValueError(f"unknown cell {name!r}")
