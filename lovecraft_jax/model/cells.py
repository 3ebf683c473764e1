"""One LSTM layer over time: a Flax cell under nn.scan, which says what it is. Its fused twin (fused.py) is fast.

    i, f, g, o = split(x @ kernel_x + h @ kernel_h + bias)
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')

(Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000.)

Time comes first in what the layer takes and gives, [T, B, ...], as a scan wants it. Both take the same parameters and
give the same results, so a checkpoint of one runs in the other.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.config import NORMS_IN_CELL, NORMS_OF_BATCH
from lovecraft_jax.model.lstm_fused import LayerCarry, fused_lstm
from lovecraft_jax.model.matmul import add_bias, dense, dot
from lovecraft_jax.model.normalization import (
    FIRST_SCALE,
    PARTS,
    STATISTICS,
    Found,
    normalise,
    normalise_by,
    over_features,
    over_rows,
    running,
)


class LSTMCell(nn.Module):
    """The parameters of one layer and one step of it.

    kernel_x [D, 4H], kernel_h [H, 4H], bias [4H], gates in the order i, f, g, o: a promise that checkpoints rest on.
    Parameters, gates and the carry are float32; the products take their operands as `dtype` and add up in float32.
    The forget gate's bias starts at `forget_bias`. With `in_cpp` the product with kernel_x and its gradients are formed
    in C++ (native.py), as "native" does the rest.
    """

    features: int
    units: int
    dtype: jnp.dtype = jnp.dtype("float32")
    in_cpp: bool = False
    forget_bias: float = 1.0
    norm: str = "none"

    def setup(self) -> None:
        self.kernel_x = self.param("kernel_x", nn.initializers.glorot_uniform(), (self.features, 4 * self.units))
        self.kernel_h = self.param("kernel_h", _orthogonal_gates, (self.units, 4 * self.units))
        self.bias = self.param("bias", _bias(self.forget_bias), (4 * self.units,))
        widths = {part: self.units if part == "c" else 4 * self.units for part in PARTS[self.norm]}
        self.scales = {
            part: self.param(f"scale_{part}", nn.initializers.constant(FIRST_SCALE.get(self.norm, 1.0)), (width,))
            for part, width in widths.items()
        }
        if "c" in widths:
            self.shift_c = self.param("shift_c", nn.initializers.zeros, (self.units,))
        if self.norm in NORMS_OF_BATCH:
            self.running = {
                part: (
                    self.variable(STATISTICS, f"mean_{part}", jnp.zeros, width),
                    self.variable(STATISTICS, f"variance_{part}", jnp.ones, width),
                )
                for part, width in widths.items()
            }

    def project(self, x: jax.Array) -> jax.Array:
        """The input's part of the gates, x [..., D] @ kernel_x [..., 4H], which needs no recurrence."""
        return dense(x, jnp.asarray(self.kernel_x), self.dtype, self.in_cpp)

    def look_up(self, ids: jax.Array, table_VD: jax.Array | None = None, scale: jax.Array | None = None) -> jax.Array:
        """The same for x = table_VD[ids], or for one-hot vectors of `ids` where there is no table: [..., 4H].

        One product with the table instead of one with every token. `scale` [...] multiplies, as dropout would.
        """
        gates = jnp.asarray(self.kernel_x if table_VD is None else self.project(table_VD))[ids]
        return gates if scale is None else gates * scale[..., None]

    def normalise_input(self, gates_x: jax.Array) -> jax.Array:
        """The input's part of the gates, [T, B, 4H], as `norm` has it."""
        rows = gates_x.reshape(-1, 4 * self.units) if self.norm == "batch_input" else gates_x
        rows, found = self._normalise("x", rows)
        self.remember(found)
        return rows.reshape(gates_x.shape)

    def __call__(self, carry: LayerCarry, gates_x_BG: jax.Array) -> tuple[LayerCarry, tuple[jax.Array, Found]]:
        """One step: (c, h) and the input's part of the gates, normalised, to the next (c, h), and the output h_BH with
        what was found of the batch."""
        c_BH, h_BH = carry
        gates_h_BG, of_h = self._normalise("h", dot(h_BH, self.kernel_h, self.dtype))
        gates_BG = add_bias(gates_x_BG + gates_h_BG, self.bias)
        i, f, g, o = jnp.split(gates_BG, 4, axis=-1)
        c_BH = nn.sigmoid(f) * c_BH + nn.sigmoid(i) * jnp.tanh(g)
        seen_BH, of_c = self._normalise("c", c_BH)
        if "c" in self.scales:
            seen_BH = add_bias(seen_BH, self.shift_c)
        h_BH = nn.sigmoid(o) * jnp.tanh(seen_BH)
        return (c_BH, h_BH), (h_BH, of_h | of_c)

    def remember(self, found: Found) -> None:
        """Moves the running statistics towards those of a batch."""
        for part, moments in found.items():
            for variable, value in zip(self.running[part], moments, strict=True):
                variable.value = running(variable.value, value)

    def _normalise(self, part: str, x: jax.Array) -> tuple[jax.Array, Found]:
        """One part [..., B, F], and in training what was found of the batch."""
        if part not in self.scales:
            return x, {}
        if self.norm not in NORMS_OF_BATCH:
            return normalise(x, self.scales[part], over_features)[0], {}
        if self.is_mutable_collection(STATISTICS) and not self.is_initializing():
            x, moments = normalise(x, self.scales[part], over_rows)
            return x, {part: moments}
        mean, variance = self.running[part]
        return normalise_by((mean.value, variance.value), x, self.scales[part]), {}


def run_layer(
    cell: LSTMCell, carry: LayerCarry, gates_x_TBG: jax.Array, implementation: str = "scan"
) -> tuple[LayerCarry, jax.Array]:
    """A whole sequence: the input's part of the gates to the last carry and h_TBH, by "scan", "fused" or "native"."""
    gates_x_TBG = cell.normalise_input(gates_x_TBG)
    if implementation == "scan":
        scan = nn.scan(
            lambda cell, carry, gates_x_BG: cell(carry, gates_x_BG),
            variable_broadcast=("params", STATISTICS),
            split_rngs={"params": False},
        )
        carry, (h_TBH, found) = scan(cell, carry, gates_x_TBG)
        cell.remember(found)
        return carry, h_TBH
    if cell.norm in NORMS_IN_CELL:
        raise ValueError(f"norm={cell.norm!r} is for backend='scan', not for {implementation!r}")
    if implementation in ("fused", "native"):
        return fused_lstm(cell.kernel_h, cell.bias, gates_x_TBG, carry, cell.dtype, implementation == "native")
    raise ValueError(f"unknown LSTM implementation {implementation!r}")


def _orthogonal_gates(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """[H, 4H]: one orthogonal matrix a gate, so that h neither grows nor fades at the start (Saxe et al. 2013)."""
    units, gates = shape
    orthogonal = nn.initializers.orthogonal()
    keys = jax.random.split(key, gates // units)
    # One after the other: jaxlib 0.10.2 factorises a batch on threads that it also waits on, and the batches of two
    # layers can wait for each other for ever.
    kernels_4HH = lax.map(lambda key: orthogonal(key, (units, units)), keys)
    return jnp.moveaxis(kernels_4HH, 0, 1).reshape(shape)


def _bias(forget: float) -> nn.initializers.Initializer:
    """[4H]: zero, but for the forget gate, where 1 makes early memories last (Jozefowicz et al. 2015)."""

    def initializer(key: jax.Array, shape: tuple[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        del key
        units = shape[0] // 4
        return jnp.zeros(shape, dtype).at[units : 2 * units].set(forget)

    return initializer
