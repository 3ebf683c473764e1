"""The LSTM cell (Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000).

    i, f, g, o = split(x @ kernel_x + h @ kernel_h + bias)
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')

Two variants bound c, and with it what a unit can hold, by what they do with the input gate: the capped one has
min(sigmoid(i), 1 - sigmoid(f)) in its place (Melis et al. 2020), the coupled one 1 - sigmoid(f) (Greff et al. 2017).

This file is the reference. lstm_fused.py, mogrifier.py and native/ compute the same values and gradients from the same
parameters, faster, so that a checkpoint trained with one runs with any other.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lovecraft_jax.config import NORMS_OF_BATCH, NORMS_OF_GATES
from lovecraft_jax.model.cell import Cell, FoldedLayer
from lovecraft_jax.model.dropout import drop
from lovecraft_jax.model.lstm_step import LSTMCarry, activate, effective_input_gate, scale_and_shift, split_gates
from lovecraft_jax.model.matmul import add_bias, dot
from lovecraft_jax.model.mogrifier import FIRST_STD, modulate
from lovecraft_jax.model.normalization import (
    FIRST_SCALE,
    MOMENTUM,
    PARTS,
    STATISTICS,
    BatchMoments,
    normalise,
    normalise_by,
    normalise_gates,
    over_features,
    over_rows,
)


class LSTMCell(Cell):
    """kernel_x [D, 4H], kernel_h [H, 4H] and bias [4H], gates in the order i, f, g, o: checkpoints depend on it.

    The forget gate's bias starts at `forget_bias`, the others at 0. A `norm` (normalization.py) adds scales and shifts,
    and for norms of the batch running statistics. `mogrify` rounds (mogrifier.py) add a matrix each, mogrify_1 [H, D],
    mogrify_2 [D, H], mogrify_3 [H, D] and so on. The carry is (c_BH, h_BH).
    """

    label = "LSTM"
    gates = 4
    backends = ("scan", "fused", "blocks", "wavefront", "native", "cuda")
    input_gate = "own"

    def setup(self) -> None:
        super().setup()
        G = self.gates * self.units
        self.bias = self.param("bias", _bias(self.forget_bias, self.units), (G,))
        shapes = [(self.units, self.features), (self.features, self.units)]
        self.rounds = [
            self.param(f"mogrify_{n + 1}", nn.initializers.normal(FIRST_STD), shapes[n % 2])
            for n in range(self.mogrify)
        ]
        if self.mogrify and self.norm not in ("none", *NORMS_OF_GATES):
            raise ValueError(f"mogrify={self.mogrify} cannot run with norm={self.norm!r}")
        widths = {part: self.units if part == "c" else G for part in PARTS[self.norm]}
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
        gates_BG = gates_x_BG + gates_h_BG
        if "z" in self.scales:
            gates_BG = normalise_gates(gates_BG, self.gates, self.norm)[0] * self.scales["z"][None]
        *i, f, g, o = split_gates(add_bias(gates_BG, self.bias), self.units)
        f = nn.sigmoid(f)
        c_BH = f * c_BH + effective_input_gate([nn.sigmoid(gate) for gate in i], f, self.input_gate) * jnp.tanh(g)
        normalised_c_BH, moments_c = self._normalise("c", c_BH)
        if "c" in self.scales:
            normalised_c_BH = add_bias(normalised_c_BH, self.shift_c)
        h_BH = nn.sigmoid(o) * jnp.tanh(normalised_c_BH)
        return (c_BH, h_BH), moments_h | moments_c

    def modulate(
        self, carry: LSTMCarry, x_BD: jax.Array, recurrent_BH: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """The input's part of the gates after the Mogrifier's rounds, and what they and the dropout mask `recurrent_BH`
        multiply h by [B, H], to be given as the mask to a time step."""
        h_BH = drop(carry[1], recurrent_BH)
        x_BD, _, modulations = modulate(x_BD, h_BH, self.rounds, self.dtype)
        factor_BH = jnp.ones_like(h_BH) if recurrent_BH is None else recurrent_BH
        return self.input_kernel.project(x_BD), math.prod(modulations[1::2], start=factor_BH)

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

    def fold(self, token_gates_VG: jax.Array | None, below: slice) -> FoldedLayer:
        folded = super().fold(token_gates_VG, below)
        if self.norm not in NORMS_OF_GATES:
            return folded
        return FoldedLayer(folded.start - self.bias[None], folded.kernel, (self.scales["z"], self.bias))

    @classmethod
    def folded_step(cls, carry: LSTMCarry, gates_SF: jax.Array, after_norm: Any, norm: str) -> LSTMCarry:
        c_SH, _ = carry
        if norm in NORMS_OF_GATES:
            scale_G, bias_G = after_norm
            gates_SF = normalise_gates(gates_SF, cls.gates, norm)[0] * scale_G[None] + bias_G[None]
        _, c_SH, h_SH = activate(gates_SF, c_SH, scale_and_shift(c_SH.shape[-1], cls.gates), cls.input_gate)
        return c_SH, h_SH

    def normalise_input(self, gates_x_TBG: jax.Array) -> jax.Array:
        """The input's part of the gates, [T, B, G] or [N, G], after `norm`."""
        rows = gates_x_TBG.reshape(-1, gates_x_TBG.shape[-1]) if self.norm == "batch_input" else gates_x_TBG
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


class CappedLSTMCell(LSTMCell):
    """An LSTM whose input gate is capped by 1 - f, with the same parameters."""

    label = "capped LSTM"
    input_gate = "capped"


class CoupledLSTMCell(LSTMCell):
    """An LSTM whose input gate is 1 - f: kernels and bias have the gates f, g, o only, 3H columns."""

    label = "coupled LSTM"
    gates = 3
    input_gate = "coupled"


def _bias(forget: float, units: int) -> nn.initializers.Initializer:
    """[G]: zero, but `forget` for the forget gate, where 1 makes memories last early on (Jozefowicz et al. 2015)."""

    def initial(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        forget_gate = slice(shape[0] - 3 * units, shape[0] - 2 * units)  # the last gates are f, g, o
        return jnp.zeros(shape).at[forget_gate].set(forget)

    return initial
