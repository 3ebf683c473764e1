"""One time step of the LSTM, written out: its types, its activations and their derivatives, for all loops over time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

LSTMCarry = tuple[jax.Array, jax.Array]
"""(c_BH, h_BH), float32, in Flax's order."""


class Form(NamedTuple):
    """What a layer computes, beyond its parameters: settings of config.model. The loops run in C++ with `in_cpp`, in
    blocks of time steps (lstm_blocks.py) with `in_blocks`, there also for several `layers` side by side
    (wavefront.py)."""

    dtype: jnp.dtype
    input_gate: str = "own"
    norm: str = "none"
    in_cpp: bool = False
    in_blocks: bool = False
    layers: int = 1


class LoopParams(NamedTuple):
    """The parameters of the recurrence: kernel_h, the bias, the scale of a norm of the gates, and the dropout mask on h
    before the matmul with kernel_h. For several layers side by side (wavefront.py) h of all but the last enters a
    second time, as the input of the layer above, if there is a mask: then kernel_h has rows, and the mask columns, for
    both: 2 H - H / layers."""

    kernel_h_HG: jax.Array
    bias_G: jax.Array
    scale_G: jax.Array | None = None
    recurrent_BH: jax.Array | None = None

    def operand(self, h: jax.Array) -> jax.Array:
        """What the matmul with kernel_h takes of h [..., B, H]."""
        mask_BH, H = self.recurrent_BH, h.shape[-1]
        if mask_BH is None:
            return h
        if (wide := mask_BH.shape[-1]) > H:
            h = jnp.concatenate([h, h[..., : wide - H]], axis=-1)
        return h * jnp.expand_dims(mask_BH, range(h.ndim - 2))

    def operand_backward(self, grad: jax.Array, units: int) -> jax.Array:
        """The gradient of h [B, H], where H is `units`, from that of its `operand`."""
        if self.recurrent_BH is None:
            return grad
        grad *= self.recurrent_BH
        own, again = grad[:, :units], grad[:, units:]
        return own + jnp.pad(again, ((0, 0), (0, 2 * units - grad.shape[-1]))) if again.size else own


class SavedSteps(NamedTuple):
    """All time steps, as they are saved for the backward pass: gates and h in the form's dtype, the rest in float32.
    The gates are those after their activations; with a norm they are the normalised ones, before scale, bias and
    activation, and `inverse_TBN` is what each of the N gates, of every layer, was multiplied by."""

    gates_TBG: jax.Array
    c_TBH: jax.Array
    h_TBH: jax.Array
    inverse_TBN: jax.Array | None = None


class LoopGrads(NamedTuple):
    """The gradients of the gates before norm and activation [T, B, G], in the form's dtype, and of the first c [B, H];
    with a norm, those of its scale [G] and of the bias [G] as well."""

    gates_TBG: jax.Array
    c_BH: jax.Array
    scale_G: jax.Array | None = None
    bias_G: jax.Array | None = None


def scale_and_shift(units: int, gates: int = 4) -> tuple[jax.Array, jax.Array]:
    """[1, G] each, so that tanh(z * scale) * scale + shift activates all gates with one tanh: for sigmoid(z) =
    tanh(z / 2) / 2 + 1 / 2 they are 1/2 and 1/2; for tanh 1 and 0. The gates are the last of i, f, g, o."""
    scale_1G = jnp.repeat(jnp.array([[0.5, 0.5, 1.0, 0.5][-gates:]]), units, axis=1)
    return scale_1G, jnp.repeat(jnp.array([[0.5, 0.5, 0.0, 0.5][-gates:]]), units, axis=1)


def activate(
    gates_BG: jax.Array, c_BH: jax.Array, scaled: tuple[jax.Array, jax.Array], input_gate: str = "own"
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gates after their activations, c and h. `scaled` is `scale_and_shift`, computed outside of the loop."""
    gates_BG = activate_gates(gates_BG, scaled)
    *i, f, g, o = split_gates(gates_BG, c_BH.shape[-1])
    c_BH = f * c_BH + effective_input_gate(i, f, input_gate) * g
    return gates_BG, c_BH, o * jnp.tanh(c_BH)


def effective_input_gate(i: list[jax.Array], f: jax.Array, input_gate: str) -> jax.Array:
    """What g is multiplied by [..., H]: i, or min(i, 1 - f), or 1 - f where there is no i. Takes gates after their
    activations; `i` has one array or none."""
    if input_gate == "own":
        return i[0]
    return jnp.minimum(i[0], 1 - f) if input_gate == "capped" else 1 - f


def split_gates(gates: jax.Array, units: int) -> list[jax.Array]:
    """The gates [..., G], by their order, as [..., H] each."""
    return jnp.split(gates, gates.shape[-1] // units, axis=-1)


def activate_gates(gates: jax.Array, scaled: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The gates [..., G] after their activations; `scaled` is `scale_and_shift`."""
    scale, shift = (jnp.expand_dims(values_1G, range(gates.ndim - 2)) for values_1G in scaled)
    return jnp.tanh(gates * scale) * scale + shift


class Factors(NamedTuple):
    """What a time step backward multiplies gradients by. With z the gates before their activations, grad(x) the
    gradient of the loss with respect to x, and grad(c) all that reaches c:

        grad(c) += grad(h) * h_to_c
        grad(z) = grad(c) * dz for all gates but o, grad(h) * dz for o
        grad(c of the time step before) = grad(c) * f
    """

    dz_TBG: jax.Array
    f_TBH: jax.Array
    h_to_c_TBH: jax.Array


def factors_of(params: LoopParams, first_c_BH: jax.Array, steps: SavedSteps, form: Form) -> Factors:
    """The factors of all time steps."""
    gates_TBG, c_TBH = steps.gates_TBG.astype(jnp.float32), steps.c_TBH
    G, H = gates_TBG.shape[-1], c_TBH.shape[-1]
    if params.scale_G is not None:
        z_TBG = gates_TBG * params.scale_G[None, None] + params.bias_G[None, None]
        gates_TBG = activate_gates(z_TBG, scale_and_shift(H, G // H))
    return _factors(gates_TBG, first_c_BH, c_TBH, form.input_gate)


def _factors(gates_TBG: jax.Array, first_c_BH: jax.Array, c_TBH: jax.Array, input_gate: str) -> Factors:
    """The factors, from the gates after their activations."""
    *i, f, g, o = split_gates(gates_TBG, c_TBH.shape[-1])
    tanh_c = jnp.tanh(c_TBH)
    c_before = jnp.concatenate([first_c_BH[None], c_TBH[:-1]])
    if input_gate == "own":
        factors = [g * i[0] * (1 - i[0]), c_before * f * (1 - f), i[0] * (1 - g * g)]
    elif input_gate == "capped":
        is_free = i[0] < 1 - f
        from_i = jnp.where(is_free, g * i[0] * (1 - i[0]), 0.0)
        from_f = jnp.where(is_free, c_before, c_before - g) * f * (1 - f)
        factors = [from_i, from_f, jnp.minimum(i[0], 1 - f) * (1 - g * g)]
    else:
        factors = [(c_before - g) * f * (1 - f), (1 - f) * (1 - g * g)]
    return Factors(jnp.concatenate([*factors, tanh_c * o * (1 - o)], axis=-1), f, o * (1 - tanh_c * tanh_c))


def put(all_T: jax.Array, now: jax.Array, t: jax.Array) -> jax.Array:
    """The values of all time steps [T, B, F], with `now`, in their dtype, as those of t."""
    return lax.dynamic_update_index_in_dim(all_T, now.astype(all_T.dtype), t, 0, allow_negative_indices=False)


def at(all_T: jax.Array, t: jax.Array) -> jax.Array:
    """The values [B, F] of time step t."""
    return lax.dynamic_index_in_dim(all_T, t, 0, keepdims=False, allow_negative_indices=False)
