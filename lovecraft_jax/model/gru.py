"""The GRU cell (Cho et al. 2014) with the reset gate after the matmul, as cuDNN, torch.nn.GRU and Keras have it.

    r, z = sigmoid(split(x @ kernel_x[:, :2H] + h @ kernel_h[:, :2H] + bias[:2H]))
    n = tanh(x @ kernel_x[:, 2H:] + bias[2H:] + r * (h @ kernel_h[:, 2H:] + bias_h))
    h' = (1 - z) * n + z * h

It shows what adding a cell takes: this file, a branch in cells.py and a name in config.py. It runs on the scan backend.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lovecraft_jax.model.cell import Cell, FoldedLayer
from lovecraft_jax.model.dropout import drop
from lovecraft_jax.model.matmul import add_bias, dot
from lovecraft_jax.model.normalization import BatchMoments


class GRUCell(Cell):
    """kernel_x [D, 3H], kernel_h [H, 3H], bias [3H] and bias_h [H], gates in the order r, z, n. The carry is h_BH.

    Biases start at 0. There is no forget gate, norm or Mogrifier: `forget_bias` is ignored, `norm` must be "none"
    and `mogrify` 0.
    """

    label = "GRU"
    gates = 3

    def setup(self) -> None:
        if self.norm != "none":
            raise ValueError(f"a GRU layer has no norm, got norm={self.norm!r}")
        if self.mogrify:
            raise ValueError(f"a GRU layer has no Mogrifier, got mogrify={self.mogrify}")
        super().setup()
        self.bias = self.param("bias", nn.initializers.zeros, (3 * self.units,))
        self.bias_h = self.param("bias_h", nn.initializers.zeros, (self.units,))

    def __call__(
        self, carry: jax.Array, gates_x_BG: jax.Array, kernel_h_HG: jax.Array, recurrent_BH: jax.Array | None = None
    ) -> tuple[jax.Array, BatchMoments]:
        gates_x_BG = add_bias(gates_x_BG, self.bias)
        gates_h_BG = dot(drop(carry, recurrent_BH), kernel_h_HG, self.dtype)
        H = self.units
        r_z_BG = gates_x_BG[:, : 2 * H] + gates_h_BG[:, : 2 * H]
        n_h_BH = add_bias(gates_h_BG[:, 2 * H :], self.bias_h)
        return _next_h(carry, r_z_BG, gates_x_BG[:, 2 * H :], n_h_BH), {}

    @staticmethod
    def initial_carry(batch: int, units: int) -> jax.Array:
        return jnp.zeros((batch, units))

    @staticmethod
    def output(carry: jax.Array) -> jax.Array:
        return carry

    @staticmethod
    def memory(carry: jax.Array) -> jax.Array:
        """h: an average of values of tanh, so from -1 to 1 already."""
        return carry

    def fold(self, token_gates_VG: jax.Array | None, below: slice) -> FoldedLayer:
        """The layer's weights for decoding, with F = 4H: r, z, and n's parts from x and from h apart, since r scales
        only the second. Each part's kernel is zero in the rows that belong to the other. Arguments as in `Cell`."""
        start_VG, kernel_KG, _ = super().fold(token_gates_VG, below)
        H = self.units
        kernel_KG, kernel_n_KH = kernel_KG[:, : 2 * H], kernel_KG[:, 2 * H :]
        is_h_K1 = (jnp.arange(len(kernel_KG)) >= len(kernel_KG) - H)[:, None]  # the last H rows belong to h
        parts = kernel_KG, jnp.where(is_h_K1, 0.0, kernel_n_KH), jnp.where(is_h_K1, kernel_n_KH, 0.0)
        start_VF = jnp.concatenate([start_VG, jnp.broadcast_to(self.bias_h, (len(start_VG), H))], axis=1)
        return FoldedLayer(start_VF, jnp.concatenate(parts, axis=1))

    @classmethod
    def folded_step(cls, carry: jax.Array, gates_SF: jax.Array, after_norm: Any, norm: str) -> jax.Array:
        H = carry.shape[-1]
        return _next_h(carry, gates_SF[:, : 2 * H], gates_SF[:, 2 * H : 3 * H], gates_SF[:, 3 * H :])


def _next_h(h_BH: jax.Array, r_z_BG: jax.Array, n_x_BH: jax.Array, n_h_BH: jax.Array) -> jax.Array:
    """h after a time step, from the gates before their activations; `n_h_BH` is the part of n that r scales."""
    r_BH, z_BH = jnp.split(nn.sigmoid(r_z_BG), 2, axis=-1)
    n_BH = jnp.tanh(n_x_BH + r_BH * n_h_BH)
    return (1 - z_BH) * n_BH + z_BH * h_BH
