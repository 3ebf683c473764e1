"""The LSTM layer on CUDA kernels (kernels/lstm.cu). A launch does all time steps and keeps the recurrent matrix on the
chip (Diamos et al. 2016, Persistent RNNs). XLA does what needs no recurrence: the input's part of the gates, and the
gradients of weights, bias and scale.

Matmuls take operands in the layer's dtype, of which float32 is rounded to TF32, and add up in float32; gates and h are
saved in it; c, sums and the gradients of parameters are float32. The kernels take units padded with zeros, and the
gates of a unit side by side: `to_kernel_layout`. Axes: T time, B batch, D features, H units, G gates as the parameters
have them, P padded units, N the four gates i, f, g, o, R rows of all time steps (T * B).
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from lovecraft_jax.model.cell import Cell
from lovecraft_jax.model.cuda import build, in_jnp
from lovecraft_jax.model.cuda.division import Division, LayerForm, choose_division
from lovecraft_jax.model.cuda.launch import Launch, launch, register, this_gpu, unavailable_reason
from lovecraft_jax.model.dropout import drop
from lovecraft_jax.model.input_kernel import InputKernel
from lovecraft_jax.model.layer_input import LayerInput
from lovecraft_jax.model.lstm_step import LoopParams, LSTMCarry
from lovecraft_jax.model.matmul import dot

SOURCE = Path(__file__).with_name("kernels") / "lstm.cu"
HEADERS = tuple(sorted(SOURCE.parent.glob("*.*h")))
GATES = 4


class KernelParams(NamedTuple):
    """The parameters of the recurrence in the kernels' layout: `scale_PN` is empty without a norm, `mask_BP` without
    dropout of h."""

    kernel_h_PPN: jax.Array
    bias_PN: jax.Array
    scale_PN: jax.Array
    mask_BP: jax.Array


def run_layer_in_cuda(
    cell: Cell,
    carry: LSTMCarry,
    inputs: LayerInput,
    kernel_h_HG: jax.Array,
    recurrent_BH: jax.Array | None,
) -> tuple[LSTMCarry, jax.Array]:
    """The carry after a whole sequence and the outputs h [T, B, H] of an LSTM, for which the GPU's `max_units` leave
    room. `recurrent_BH` is a dropout mask on h."""
    form = LayerForm(cell.units, cell.norm, cell.input_gate, recurrent_BH is not None, str(jnp.dtype(cell.dtype)))
    division = choose_division(form, len(carry[0]), this_gpu())
    assert division
    # kernel_x, which is small, is brought into the kernels' layout, so that the gates come out in it, in cell.dtype.
    kernel_x_DPN = to_kernel_layout(cell.input_kernel.kernel_DG, division)
    kernel_x = InputKernel(kernel_x_DPN.reshape(len(kernel_x_DPN), -1), cell.dtype, out=cell.dtype)
    gates_x_TBF = kernel_x.project(inputs.vectors()) if inputs.has_vectors else inputs.gates(kernel_x)
    params = LoopParams(kernel_h_HG, cell.bias, cell.scales.get("z"), recurrent_BH)
    gates_x_TBPN = gates_x_TBF.reshape(*gates_x_TBF.shape[:-1], *kernel_x_DPN.shape[1:])
    return run_lstm(params, gates_x_TBPN, carry, division)


def to_kernel_layout(x: jax.Array, division: Division) -> jax.Array:
    """[..., G], gate after gate, as [..., P, N], unit after unit; padding and a missing gate i are zeros."""
    units = division.form.units
    x = x.reshape(*x.shape[:-1], -1, units)
    padding = [(0, 0)] * (x.ndim - 2) + [(GATES - x.shape[-2], 0), (0, division.padded - units)]
    return jnp.pad(x, padding).swapaxes(-1, -2)


def run_lstm(
    params: LoopParams, gates_x_TBPN: jax.Array, carry: LSTMCarry, division: Division
) -> tuple[LSTMCarry, jax.Array]:
    """The carry after the last time step, and h [T, B, H], rounded to the layer's dtype. `gates_x_TBPN`, the input's
    part of the gates, is in the kernels' layout; parameters and carry are as everywhere else.

    Rows of zeros fill the last cluster; no row depends on another.
    """
    units, rows = division.form.units, gates_x_TBPN.shape[1]
    more_units, more_rows = (0, division.padded - units), (0, -rows % division.rows)
    # The kernels read the memory of these as float32.
    params, carry = jax.tree.map(lambda x: x.astype(jnp.float32), (params, carry))

    def pad(x_BH: jax.Array) -> jax.Array:
        return jnp.pad(x_BH, (more_rows, more_units))

    in_layout = KernelParams(
        jnp.pad(to_kernel_layout(params.kernel_h_HG, division), (more_units, (0, 0), (0, 0))),
        to_kernel_layout(params.bias_G, division),
        jnp.zeros(0) if params.scale_G is None else to_kernel_layout(params.scale_G, division),
        jnp.zeros(0) if params.recurrent_BH is None else pad(params.recurrent_BH),
    )
    gates_x_TBPN = jnp.pad(gates_x_TBPN.astype(division.form.dtype), ((0, 0), more_rows, (0, 0), (0, 0)))
    after, h_TBP = _lstm(division, in_layout, gates_x_TBPN, jax.tree.map(pad, carry))
    c_BH, h_BH = (x_BP[:rows, :units] for x_BP in after)
    return (c_BH, h_BH), h_TBP[:, :rows, :units].astype(jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lstm(
    division: Division, params: KernelParams, gates_x_TBPN: jax.Array, carry: LSTMCarry
) -> tuple[LSTMCarry, jax.Array]:
    """Without a gradient: nothing is saved for a backward pass."""
    return _forward(division._replace(form=division.form._replace(saves=False)), params, gates_x_TBPN, carry)[0]


def _forward(
    division: Division, params: KernelParams, gates_x_TBPN: jax.Array, carry: LSTMCarry
) -> tuple[tuple[LSTMCarry, jax.Array], tuple]:
    (T, B, P, N), form, dtype = gates_x_TBPN.shape, division.form, jnp.dtype(division.form.dtype)
    weights_PPN = params.kernel_h_PPN.astype(dtype)
    # In the order of FwdArgs in kernels/cell.h.
    operands = weights_PPN, params.scale_PN, params.bias_PN, params.mask_BP, gates_x_TBPN, *carry
    results = [
        _result((T, B, P), dtype),
        _result((T, B, P, N), dtype, needed=form.saves),
        _result((T if form.saves else 1, B, P), jnp.float32),
        _result((T, B, P), dtype, needed=division.has_state),
        _result((T, B, N), jnp.float32, needed=form.saves and division.has_norm),
    ]
    h, gates, c, state, inverse = run_kernel(division, "lstm_forward", results, operands)
    saved = params, weights_PPN, carry, (gates, c, h, state, inverse)
    return ((c[-1], h[-1].astype(jnp.float32)), h), saved


def _backward(division: Division, saved: tuple, cotangents: tuple[LSTMCarry, jax.Array]) -> tuple:
    params, weights_PPN, (c0, h0), (gates, c, h, state, inverse) = saved
    (dc_last, dh_last), dh = cotangents
    (T, B, P, N), dtype = gates.shape, gates.dtype
    # In the order of BwdArgs in kernels/cell.h.
    operands = weights_PPN, params.scale_PN, params.bias_PN, params.mask_BP, gates, inverse, c, c0, dh, dc_last, dh_last
    results = [
        _result((T, B, P, N), dtype),
        _result((T, B, P, N), dtype, needed=division.has_norm),
        _result((B, P), jnp.float32),
    ]
    dz, dy, dc0 = run_kernel(division, "lstm_backward", results, operands)
    mask_BP = params.mask_BP if division.form.mask else None
    states = state if division.has_state else h
    before_RP = jnp.concatenate([drop(h0, mask_BP).astype(dtype)[None], states[:-1]]).reshape(T * B, P)
    dz_RF = dz.reshape(T * B, P * N)
    dkernel_PPN = dot(before_RP.T, dz_RF, dtype).reshape(P, P, N)
    dh0 = drop(dot(dz_RF[:B], weights_PPN.reshape(P, P * N).T, dtype), mask_BP)
    dy = (dy if division.has_norm else dz).astype(jnp.float32)
    dscale_PN = jnp.sum(dy * gates.astype(jnp.float32), axis=(0, 1)) if division.has_norm else jnp.zeros(0)
    grads = KernelParams(dkernel_PPN, jnp.sum(dy, axis=(0, 1)), dscale_PN, jnp.zeros_like(params.mask_BP))
    return grads, dz, (dc0, dh0)


_lstm.defvjp(_forward, _backward)


def _result(shape: tuple[int, ...], dtype: Any, needed: bool = True) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape if needed else (0,), dtype)


def run_kernel(
    division: Division, name: str, results: list[jax.ShapeDtypeStruct], operands: tuple[jax.Array, ...]
) -> list[jax.Array]:
    """The results of a kernel, by its name. Under jax.vmap the layer is divided for all members, under nested ones for
    those of the innermost. The division for one member is compiled as well, when the call is traced."""
    run = custom_vmap(lambda *operands: _run_one(division, name, results, operands))

    @run.def_vmap
    def run_members(members: int, in_batch: list[bool], *operands: jax.Array) -> tuple[list[jax.Array], list[bool]]:
        B = results[0].shape[1]
        divided = choose_division(division.form, B, division.gpu, members, is_padded=True) or division
        axes = [0 if is_in_batch else None for is_in_batch in in_batch]
        run_all = jax.vmap(lambda *operands: _run_one(divided, name, results, operands), axes, axis_size=members)
        return run_all(*operands), [True] * len(results)

    return run(*operands)


def _run_one(
    division: Division, name: str, results: list[jax.ShapeDtypeStruct], operands: tuple[jax.Array, ...]
) -> list[jax.Array]:
    """A kernel's results for one member, computed in jnp on all devices but NVIDIA's GPUs."""
    (T, B), plan = results[0].shape[:2], division.plan(name)
    assert B % division.rows == 0, "rows beyond the last whole cluster would not be computed"
    groups, blocks, grouped = B // division.rows, division.blocks, division.grouped
    scratch = _result((groups, division.scratch), jnp.uint32, needed=grouped)
    config = Launch(
        key=compile_and_register(division),
        kernel=name,
        grid=groups * blocks,
        threads=plan.threads,
        shared=plan.shared,
        cluster=1 if grouped else blocks,
        cooperative=grouped,
        blocks_at_once=division.blocks_at_once,
        clear_last=grouped,
    )
    return lax.platform_dependent(
        *operands,
        cuda=lambda *operands: launch(config, [*results, scratch], operands, T, B)[:-1],
        default=functools.partial(in_jnp.KERNELS[name], division),
    )


@functools.cache
def compile_and_register(division: Division) -> str:
    """Compiles the layer's kernels, where this process has a GPU for them. Returns the key that `Launch` takes."""
    macros, architecture = division.macros(), division.gpu.architecture
    key = f"lstm {architecture} {' '.join(map(str, macros.values()))}"
    if not unavailable_reason():
        cubin = build.compile_kernels(SOURCE, headers=HEADERS, defines=macros, capability=architecture)
        register(key, cubin)
    return key
