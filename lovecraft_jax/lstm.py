"""One LSTM layer: our own Flax cell, run over time by nn.scan.

    i, f, g, o = split(x @ kernel_x + h @ kernel_h + bias)
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')

(Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000.)
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

LayerCarry = tuple[jax.Array, jax.Array]
"""(c_BH, h_BH), float32, in Flax's order."""

orthogonal = nn.initializers.orthogonal()


def _orthogonal_gates(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """[H, 4H]: one orthogonal matrix a gate, so that h neither grows nor fades at the start (Saxe et al. 2013)."""
    units, gates = shape
    return jnp.concatenate([orthogonal(k, (units, units)) for k in jax.random.split(key, gates // units)], axis=1)


def _forget_one(key: jax.Array, shape: tuple[int]) -> jax.Array:
    """[4H]: zero, but 1 for the forget gate, so that early memories last (Jozefowicz et al. 2015)."""
    del key
    units = shape[0] // 4
    return jnp.zeros(shape).at[units : 2 * units].set(1.0)


class LSTMCell(nn.Module):
    """The parameters of one layer and one step of it.

    kernel_x [D, 4H], kernel_h [H, 4H], bias [4H], gates in the order i, f, g, o: a promise that checkpoints rest on.
    Parameters, gates and the carry are float32; the two products take their operands as `dtype` and add up in float32.
    """

    features: int
    units: int
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.kernel_x = self.param("kernel_x", nn.initializers.glorot_uniform(), (self.features, 4 * self.units))
        self.kernel_h = self.param("kernel_h", _orthogonal_gates, (self.units, 4 * self.units))
        self.bias = self.param("bias", _forget_one, (4 * self.units,))

    def project(self, x: jax.Array, scale: jax.Array | None = None) -> jax.Array:
        """The input's part of the gates, x @ kernel_x + bias [..., 4H], which needs no recurrence.

        x: [..., D] floats, or [...] token ids, whose one-hot product is a row of kernel_x. `scale` [...] multiplies
        that row, as dropout on the one-hot vector would.
        """
        if jnp.issubdtype(x.dtype, jnp.floating):
            return self._dot(x, self.kernel_x) + self.bias
        rows = self.kernel_x[x]
        return (rows if scale is None else rows * scale[..., None]) + self.bias

    def __call__(self, carry: LayerCarry, gates_x_BG: jax.Array) -> tuple[LayerCarry, jax.Array]:
        """One step: (c, h) and the input's part of the gates to the next (c, h) and the output h_BH."""
        c_BH, h_BH = carry
        i, f, g, o = jnp.split(gates_x_BG + self._dot(h_BH, self.kernel_h), 4, axis=-1)
        c_BH = nn.sigmoid(f) * c_BH + nn.sigmoid(i) * jnp.tanh(g)
        h_BH = nn.sigmoid(o) * jnp.tanh(c_BH)
        return (c_BH, h_BH), h_BH

    def _dot(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype), preferred_element_type=jnp.float32)


def run_layer(
    cell: LSTMCell, carry: LayerCarry, x: jax.Array, scale: jax.Array | None = None
) -> tuple[LayerCarry, jax.Array]:
    """A whole sequence: x [B, T, D] or ids [B, T] to the last carry and h_BTH."""
    scan = nn.scan(
        lambda cell, carry, gates_x_BG: cell(carry, gates_x_BG),
        variable_broadcast="params",
        split_rngs={"params": False},
        in_axes=1,
        out_axes=1,
    )
    return scan(cell, carry, cell.project(x, scale))
