"""The LSTM cell (Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000).

    i, f, g, o = split(x @ kernel_x + h @ kernel_h + bias)
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')

This file is the reference. lstm_fused.py and native/ compute the same values and gradients from the same
parameters, faster, so that a checkpoint trained with one runs with any other.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lovecraft_jax.config import NORMS_OF_BATCH
from lovecraft_jax.model.cell import Cell
from lovecraft_jax.model.dropout import drop
from lovecraft_jax.model.lstm_fused import LSTMCarry, activate, scale_and_shift
from lovecraft_jax.model.matmul import add_bias, dot
from lovecraft_jax.model.normalization import (
    FIRST_SCALE,
    MOMENTUM,
    PARTS,
    STATISTICS,
    BatchMoments,
    normalise,
    normalise_by,
    over_features,
    over_rows,
)


class LSTMCell(Cell):
    """kernel_x [D, 4H], kernel_h [H, 4H] and bias [4H], gates in the order i, f, g, o: checkpoints depend on it.

    The forget gate's bias starts at `forget_bias`, the others at 0. A `norm` (normalization.py) adds scales and shifts,
    and for norms of the batch running statistics. The carry is (c_BH, h_BH).
    """

    label = "LSTM"
    gates = 4
    backends = ("scan", "fused", "native")

    def setup(self) -> None:
        super().setup()
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

    def __call__(
        self, carry: LSTMCarry, gates_x_BG: jax.Array, kernel_h_HG: jax.Array, recurrent_BH: jax.Array | None = None
    ) -> tuple[LSTMCarry, BatchMoments]:
        c_BH, h_BH = carry
        gates_h_BG, moments_h = self._normalise("h", dot(drop(h_BH, recurrent_BH), kernel_h_HG, self.dtype))
        gates_BG = add_bias(gates_x_BG + gates_h_BG, self.bias)
        i, f, g, o = jnp.split(gates_BG, 4, axis=-1)
        c_BH = nn.sigmoid(f) * c_BH + nn.sigmoid(i) * jnp.tanh(g)
        normalised_c_BH, moments_c = self._normalise("c", c_BH)
        if "c" in self.scales:
            normalised_c_BH = add_bias(normalised_c_BH, self.shift_c)
        h_BH = nn.sigmoid(o) * jnp.tanh(normalised_c_BH)
        return (c_BH, h_BH), moments_h | moments_c

    @staticmethod
    def initial_carry(batch: int, units: int) -> LSTMCarry:
        return jnp.zeros((batch, units)), jnp.zeros((batch, units))

    @staticmethod
    def output(carry: LSTMCarry) -> jax.Array:
        return carry[1]

    @staticmethod
    def memory(carry: LSTMCarry) -> jax.Array:
        """tanh(c), through which h depends on c (unless `norm` normalises c first)."""
        return jnp.tanh(carry[0])

    @staticmethod
    def folded_step(carry: LSTMCarry, gates_SF: jax.Array) -> LSTMCarry:
        c_SH, _ = carry
        _, c_SH, h_SH = activate(gates_SF, c_SH, scale_and_shift(c_SH.shape[-1]))
        return c_SH, h_SH

    def normalise_input(self, gates_x_TBG: jax.Array) -> jax.Array:
        """The input's part of the gates, [T, B, 4H] or [N, 4H], after `norm`."""
        rows = gates_x_TBG.reshape(-1, 4 * self.units) if self.norm == "batch_input" else gates_x_TBG
        rows, moments = self._normalise("x", rows)
        self.update_statistics(moments)
        return rows.reshape(gates_x_TBG.shape)

    def update_statistics(self, moments: BatchMoments) -> None:
        for part, mean_and_variance in moments.items():
            for variable, value in zip(self.running[part], mean_and_variance, strict=True):
                mean_F = jnp.mean(value, axis=range(value.ndim - 1))
                variable.value = MOMENTUM * variable.value + (1 - MOMENTUM) * mean_F

    def _normalise(self, part: str, x: jax.Array) -> tuple[jax.Array, BatchMoments]:
        """One part of the cell, [..., B, F], normalised; in training also the moments of the batch."""
        if part not in self.scales:
            return x, {}
        if self.norm not in NORMS_OF_BATCH:
            return normalise(x, self.scales[part], over_features)[0], {}
        if self.is_mutable_collection(STATISTICS) and not self.is_initializing():
            x, moments = normalise(x, self.scales[part], over_rows)
            return x, {part: moments}
        mean, variance = self.running[part]
        return normalise_by((mean.value, variance.value), x, self.scales[part]), {}


def _bias(forget: float) -> nn.initializers.Initializer:
    """[4H]: zero, but `forget` for the forget gate, where 1 makes memories last early on (Jozefowicz et al. 2015)."""
    return lambda key, shape, dtype=jnp.float32: jnp.zeros(shape, dtype).at[shape[0] // 4 : shape[0] // 2].set(forget)
