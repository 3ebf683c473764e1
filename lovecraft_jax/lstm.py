"""One LSTM layer over time, twice: a Flax cell under nn.scan, which says what it is, and its fused twin, which is fast.

    i, f, g, o = split(x @ kernel_x + h @ kernel_h + bias)
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')

(Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000.)

Time comes first in what the layer takes and gives, [T, B, ...], as a scan wants it. Both take the same parameters and
give the same results, so a checkpoint of one runs in the other.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

LayerCarry = tuple[jax.Array, jax.Array]
"""(c_BH, h_BH), float32, in Flax's order."""


def dot(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """x @ kernel with operands of `dtype`, added up in float32."""
    return jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


@jax.custom_vjp
def plus_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """A bias added to the last axis."""
    return x + jnp.broadcast_to(bias, x.shape)


plus_bias.defvjp(lambda x, bias: (plus_bias(x, bias), None), lambda _, grad: (grad, _sum_of_rows(grad)))


class LSTMCell(nn.Module):
    """The parameters of one layer and one step of it.

    kernel_x [D, 4H], kernel_h [H, 4H], bias [4H], gates in the order i, f, g, o: a promise that checkpoints rest on.
    Parameters, gates and the carry are float32; the products take their operands as `dtype` and add up in float32.
    """

    features: int
    units: int
    dtype: jnp.dtype = jnp.dtype("float32")

    def setup(self) -> None:
        self.kernel_x = self.param("kernel_x", nn.initializers.glorot_uniform(), (self.features, 4 * self.units))
        self.kernel_h = self.param("kernel_h", _orthogonal_gates, (self.units, 4 * self.units))
        self.bias = self.param("bias", _forget_one, (4 * self.units,))

    def project(self, x: jax.Array) -> jax.Array:
        """The input's part of the gates, x [..., D] @ kernel_x [..., 4H], which needs no recurrence."""
        # Flat, so that its gradient is one product: over [T, B] XLA first copies the gates' gradient.
        gates_NG = dot(x.reshape(-1, self.features), self.kernel_x, self.dtype)
        return gates_NG.reshape(*x.shape[:-1], 4 * self.units)

    def look_up(self, ids: jax.Array, table_VD: jax.Array | None = None, scale: jax.Array | None = None) -> jax.Array:
        """The same for x = table_VD[ids], or for one-hot vectors of `ids` where there is no table: [..., 4H].

        One product with the table instead of one with every token. `scale` [...] multiplies, as dropout would.
        """
        gates = jnp.asarray(self.kernel_x if table_VD is None else self.project(table_VD))[ids]
        return gates if scale is None else gates * scale[..., None]

    def __call__(self, carry: LayerCarry, gates_x_BG: jax.Array) -> tuple[LayerCarry, jax.Array]:
        """One step: (c, h) and the input's part of the gates to the next (c, h) and the output h_BH."""
        c_BH, h_BH = carry
        gates_BG = plus_bias(gates_x_BG + dot(h_BH, self.kernel_h, self.dtype), self.bias)
        i, f, g, o = jnp.split(gates_BG, 4, axis=-1)
        c_BH = nn.sigmoid(f) * c_BH + nn.sigmoid(i) * jnp.tanh(g)
        h_BH = nn.sigmoid(o) * jnp.tanh(c_BH)
        return (c_BH, h_BH), h_BH


def run_layer(
    cell: LSTMCell, carry: LayerCarry, gates_x_TBG: jax.Array, implementation: str = "scan"
) -> tuple[LayerCarry, jax.Array]:
    """A whole sequence: the input's part of the gates to the last carry and h_TBH, by "scan" or "fused"."""
    if implementation == "scan":
        scan = nn.scan(
            lambda cell, carry, gates_x_BG: cell(carry, gates_x_BG),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        return scan(cell, carry, gates_x_TBG)
    if implementation == "fused":
        return fused_lstm(cell.kernel_h, cell.bias, gates_x_TBG, carry, cell.dtype)
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


def _forget_one(key: jax.Array, shape: tuple[int]) -> jax.Array:
    """[4H]: zero, but 1 for the forget gate, so that early memories last (Jozefowicz et al. 2015)."""
    del key
    units = shape[0] // 4
    return jnp.zeros(shape).at[units : 2 * units].set(1.0)


# The fused twin. Autodiff of a scan adds up the weight gradient inside its loop and splits the gates into many small
# operations. Here the loops hold only what is recurrent, one product and one pass over the gates a time step; the
# derivative factors and the weight gradient are formed for all T at once. Both loops write over the buffer that they
# read: a scan would fill new ones with zeros first and copy them.

Saved = tuple[jax.Array, LayerCarry, jax.Array, jax.Array, jax.Array]
"""kernel_h_HG, the first carry, gates_TBG after their activations, c_TBH, h_TBH."""


def scale_and_shift(units: int) -> tuple[jax.Array, jax.Array]:
    """[1, 4H] each. sigmoid(x) is tanh(x / 2) / 2 + 1 / 2: with them, one tanh gives all four gates."""
    scale_1G = jnp.repeat(jnp.array([[0.5, 0.5, 1.0, 0.5]]), units, axis=1)
    return scale_1G, jnp.repeat(jnp.array([[0.5, 0.5, 0.0, 0.5]]), units, axis=1)


def activate(
    gates_BG: jax.Array, c_BH: jax.Array, scaled: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gates after their activations, c and h. `scaled`: as from `scale_and_shift`, made outside of the loop."""
    scale_1G, shift_1G = scaled
    gates_BG = jnp.tanh(gates_BG * scale_1G) * scale_1G + shift_1G
    i, f, g, o = jnp.split(gates_BG, 4, axis=-1)
    c_BH = f * c_BH + i * g
    return gates_BG, c_BH, o * jnp.tanh(c_BH)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def fused_lstm(
    kernel_h_HG: jax.Array, bias_G: jax.Array, gates_x_TBG: jax.Array, carry: LayerCarry, dtype: jnp.dtype
) -> tuple[LayerCarry, jax.Array]:
    """The input's part of the gates, for all time steps, to the last carry and h_TBH."""
    return _forward(kernel_h_HG, bias_G, gates_x_TBG, carry, dtype)[0]


def _forward(
    kernel_h_HG: jax.Array, bias_G: jax.Array, gates_x_TBG: jax.Array, carry: LayerCarry, dtype: jnp.dtype
) -> tuple[tuple[LayerCarry, jax.Array], Saved]:
    T, B, _ = gates_x_TBG.shape
    H = kernel_h_HG.shape[0]
    scaled = scale_and_shift(H)

    def step(t: jax.Array, loop: tuple) -> tuple:
        c_BH, h_BH, gates_TBG, c_TBH, h_TBH = loop
        gates_BG = _at(gates_TBG, t) + dot(h_BH, kernel_h_HG, dtype) + bias_G[None]
        gates_BG, c_BH, h_BH = activate(gates_BG, c_BH, scaled)
        return c_BH, h_BH, _put(gates_TBG, gates_BG, t), _put(c_TBH, c_BH, t), _put(h_TBH, h_BH, t)

    empty_TBH = jnp.zeros((T, B, H))
    c_BH, h_BH, gates_TBG, c_TBH, h_TBH = lax.fori_loop(0, T, step, (*carry, gates_x_TBG, empty_TBH, empty_TBH))
    return ((c_BH, h_BH), h_TBH), (kernel_h_HG, carry, gates_TBG, c_TBH, h_TBH)


def _backward(dtype: jnp.dtype, saved: Saved, cotangents: tuple[LayerCarry, jax.Array]) -> tuple:
    # Nothing below before its gradient is there: else XLA forms every layer's factors early and keeps them all.
    saved, cotangents = lax.optimization_barrier((saved, cotangents))
    kernel_h_HG, (first_c_BH, first_h_BH), gates_TBG, c_TBH, h_TBH = saved
    last_grad, h_grad_TBH = cotangents
    T, _, H = h_TBH.shape
    # Transposed once, out here: a product with a transposed operand is half as slow again on a CPU.
    kernel_GH = lax.optimization_barrier(kernel_h_HG.T)

    # With z the gates before their activations: dz is factors * dc, and for the output gate factors * dh.
    i, f_TBH, g, o = jnp.split(gates_TBG, 4, axis=-1)
    tanh_c = jnp.tanh(c_TBH)
    c_before_TBH = jnp.concatenate([first_c_BH[None], c_TBH[:-1]])
    h_to_c_TBH = o * (1 - tanh_c * tanh_c)
    factors = (g * i * (1 - i), c_before_TBH * f_TBH * (1 - f_TBH), i * (1 - g * g), tanh_c * o * (1 - o))

    def step(n: jax.Array, loop: tuple) -> tuple:
        c_grad_BH, h_grad_BH, grad_TBG = loop
        t = T - 1 - n
        h_grad_BH += _at(h_grad_TBH, t)
        c_grad_BH += h_grad_BH * _at(h_to_c_TBH, t)
        grad_BG = jnp.concatenate([c_grad_BH, c_grad_BH, c_grad_BH, h_grad_BH], axis=-1) * _at(grad_TBG, t)
        return c_grad_BH * _at(f_TBH, t), dot(grad_BG, kernel_GH, dtype), _put(grad_TBG, grad_BG, t)

    loop = (*last_grad, jnp.concatenate(factors, axis=-1))
    c_grad_BH, h_grad_BH, grad_TBG = lax.fori_loop(0, T, step, loop)
    # Flat before the product: over [T, B] XLA would first copy the whole gradient into another order.
    h_before_NH = jnp.concatenate([first_h_BH[None], h_TBH[:-1]]).reshape(-1, H)
    grad_NG = grad_TBG.reshape(-1, 4 * H)
    return dot(h_before_NH.T, grad_NG, dtype), _sum_of_rows(grad_NG), grad_TBG, (c_grad_BH, h_grad_BH)


fused_lstm.defvjp(_forward, _backward)


def _sum_of_rows(x: jax.Array) -> jax.Array:
    """Over all axes but the last, as a product: XLA reduces on a CPU in two passes, once a twentieth of a step."""
    flat_NG = x.reshape(-1, x.shape[-1])
    return lax.optimization_barrier(jnp.ones(len(flat_NG), x.dtype)) @ flat_NG


def _at(all_T: jax.Array, t: jax.Array) -> jax.Array:
    return lax.dynamic_index_in_dim(all_T, t, 0, keepdims=False, allow_negative_indices=False)


def _put(all_T: jax.Array, now: jax.Array, t: jax.Array) -> jax.Array:
    return lax.dynamic_update_index_in_dim(all_T, now, t, 0, allow_negative_indices=False)
