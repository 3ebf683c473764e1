"""All LSTM layers in one loop over time, each a time step behind the layer below it: a wavefront (Appleyard et al.
2016). For GPUs, where a loop takes as long as it takes to start its kernels: two layers need about half as many.

Layers that run together are one layer with the units of all, side by side: fused_lstm (lstm_fused.py) in blocks of time
steps. Its kernel_h has each layer's own on the diagonal, and beside it, in the rows of the layer below, the part of
kernel_x with which the layer takes what that one puts out. Of the kernel for two layers a quarter is zeros, and half
where dropout masks h, which then enters twice: for its own layer, and for the layer above. In the first and last time
steps fewer layers run together.

Axes: T time, B batch, N the gates of a unit, L layers side by side, H units of each, F rows of the kernel.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from lovecraft_jax.config import NORMS_OF_GATES
from lovecraft_jax.model.cell import Cell, LayerCarry
from lovecraft_jax.model.dropout import LayerMasks, drop
from lovecraft_jax.model.layer_input import Tokens
from lovecraft_jax.model.lstm_fused import fused_lstm
from lovecraft_jax.model.lstm_step import Form, LoopParams


def run_wavefront(
    cells: Sequence[Cell], carry: Sequence[LayerCarry], tokens: Tokens, skip: bool, masks: Sequence[LayerMasks]
) -> tuple[list[LayerCarry], list[jax.Array]]:
    """All layers over a whole sequence: the carry after it, and the outputs h [T, B, H] of each, with their dropout
    masks. The first layer takes the tokens, with `skip` every layer does."""
    first, carry = cells[0], list(carry)
    if "wavefront" not in first.backends:
        raise ValueError(f"backend='wavefront' cannot run a {first.label} layer")
    if first.mogrify or first.norm not in ("none", *NORMS_OF_GATES):
        raise ValueError(
            f"backend='wavefront' cannot run norm={first.norm!r} with mogrify={first.mogrify}; use 'fused'"
        )
    (T, B), H = tokens.ids_TB.shape, first.units
    token_gates = [
        tokens.gates(cell.input_kernel, slice(H if n else 0, None)) if n == 0 or skip else None
        for n, cell in enumerate(cells)
    ]
    outputs: list[list[jax.Array]] = [[] for _ in cells]

    def gates_x(n: int, times: slice, below_is_done: bool) -> jax.Array:
        """Layer n's gates as far as they need no recurrence, at some time steps: the token's part, and that of the
        layer below if it has run already."""
        parts = [] if (token_gates_TBG := token_gates[n]) is None else [token_gates_TBG[times]]
        if below_is_done:
            below_TBH = jnp.concatenate(outputs[n - 1])
            parts.append(cells[n].input_kernel.project(below_TBH[times], slice(H)))
        nothing_TBG = jnp.zeros((times.stop - times.start, B, len(cells[n].bias)))
        return functools.reduce(jnp.add, parts) if parts else nothing_TBG

    for step, together, steps in _phases(T, len(cells)):
        gates_x_TBG = [gates_x(n, slice(step - n, step - n + steps), n == together[0] > 0) for n in together]
        params = _side_by_side([cells[n] for n in together], [masks[n] for n in together])
        before = (jnp.concatenate(parts, axis=-1) for parts in zip(*(carry[n] for n in together), strict=True))
        form = Form(first.dtype, first.input_gate, first.norm, in_blocks=True, layers=len(together))
        after, h_TBF = fused_lstm(params, _join(gates_x_TBG, H), tuple(before), form)
        split = (jnp.split(x, len(together), axis=-1) for x in (*after, h_TBF))
        for n, c_BH, h_BH, h_TBH in zip(together, *split, strict=True):
            carry[n] = c_BH, h_BH
            mask_BH = masks[n].output_BH
            outputs[n].append(h_TBH if mask_BH is None else h_TBH * mask_BH[None])
    return carry, [jnp.concatenate(parts) for parts in outputs]


def _phases(T: int, layers: int) -> Iterator[tuple[int, range, int]]:
    """Yields (step, layers, steps): these layers run together for so many steps, in the first of which layer n is at
    its time step `step - n`."""

    def together(step: int) -> range:
        return range(max(0, step - T + 1), min(layers, step + 1))

    for running, steps in itertools.groupby(range(T + layers - 1), together):
        first, *others = steps
        yield first, running, 1 + len(others)


def _side_by_side(cells: Sequence[Cell], masks: Sequence[LayerMasks]) -> LoopParams:
    """The parameters of layers that run together as one."""
    H, zeros_HG = cells[0].units, jnp.zeros_like(cells[0].kernel_h)
    # A dictionary for each H rows of the kernel: what is not zero, by the layer whose gates it gives.
    own = [{n: drop(cell.kernel_h, mask.weights_HG)} for n, (cell, mask) in enumerate(zip(cells, masks, strict=True))]
    below = [{n: jnp.asarray(cell.kernel_x)[:H]} for n, cell in enumerate(cells) if n]
    masks_on_h = [mask.recurrent_BH for mask in masks] + [mask.output_BH for mask in masks[:-1]]
    if drawn := [mask_BH for mask_BH in masks_on_h if mask_BH is not None]:
        mask_BF = jnp.concatenate([jnp.ones_like(drawn[0]) if mask is None else mask for mask in masks_on_h], axis=-1)
        rows = own + below
    else:
        mask_BF, rows = None, [one | other for one, other in zip(own, [*below, {}], strict=True)]
    kernel_FG = jnp.concatenate([_join([row.get(n, zeros_HG) for n in range(len(cells))], H) for row in rows])
    scale_G = _join([cell.scales["z"] for cell in cells], H) if "z" in cells[0].scales else None
    return LoopParams(kernel_FG, _join([cell.bias for cell in cells], H), scale_G, mask_BF)


def _join(gates: Sequence[jax.Array], H: int) -> jax.Array:
    """The gates [..., N H] of each layer as those of all side by side, [..., N L H]."""
    parts = [x.reshape(*x.shape[:-1], -1, H) for x in gates]
    return jnp.stack(parts, axis=-2).reshape(*gates[0].shape[:-1], -1)
