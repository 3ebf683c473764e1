"""Which implementation runs a layer over time: `model.backend`, what "auto" stands for, and the dispatch.

"scan": the cell under nn.scan; every cell has it, and it is the readable reference. The others are for the LSTM:
"fused": loops written out for XLA (lstm_fused.py, mogrifier.py). "blocks": the same for GPUs, in blocks of time steps
(lstm_blocks.py). "wavefront": blocks with all layers in one loop (wavefront.py), which lm.py calls in place of
`run_layer`. "native": the loops in C++, for CPUs (native/).
"cuda": kernels for NVIDIA GPUs (cuda/); a layer of more units than they have room for runs as "fused", and one in
float32 where JAX's matmuls are asked to be more exact than TF32.
All take the same parameters and give the same values and gradients, up to the rounding of their operands.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lovecraft_jax.config import NORMS_IN_CELL, NORMS_OF_GATES, ModelConfig
from lovecraft_jax.model.cell import Cell, LayerCarry
from lovecraft_jax.model.cells import cell_class
from lovecraft_jax.model.cuda.division import max_units
from lovecraft_jax.model.cuda.launch import this_gpu, unavailable_reason
from lovecraft_jax.model.cuda.layer import run_layer_in_cuda
from lovecraft_jax.model.dropout import drop
from lovecraft_jax.model.layer_input import LayerInput
from lovecraft_jax.model.lstm_fused import fused_lstm
from lovecraft_jax.model.lstm_step import Form, LoopParams
from lovecraft_jax.model.mogrifier import MogrifiedParams, mogrified_lstm
from lovecraft_jax.model.native import build
from lovecraft_jax.model.normalization import STATISTICS
from lovecraft_jax.runtime.console import log_once
from lovecraft_jax.runtime.errors import UserError

TF32_SUFFICES = (None, "default", "high", "bfloat16", "tensorfloat32", "BF16_BF16_F32", "TF32_TF32_F32")
"""The values of jax_default_matmul_precision with which XLA's own matmuls on a GPU are TF32 or less exact."""


def run_layer(
    cell: Cell,
    carry: LayerCarry,
    inputs: LayerInput,
    backend: str = "scan",
    recurrent_BH: jax.Array | None = None,
    weights_HG: jax.Array | None = None,
) -> tuple[LayerCarry, jax.Array]:
    """A layer over a whole sequence: the carry after it, and the outputs h [T, B, H].

    `recurrent_BH` and `weights_HG` are dropout masks (dropout.py) on h before the recurrent matmul and on kernel_h.
    """
    if backend == "wavefront":
        raise ValueError("backend='wavefront' runs all layers at once (run_wavefront), not one")
    if backend not in cell.backends:
        raise ValueError(f"backend={backend!r} cannot run a {cell.label} layer; available: {', '.join(cell.backends)}")
    if backend != "scan" and cell.norm in NORMS_IN_CELL:
        raise ValueError(f"backend={backend!r} cannot run norm={cell.norm!r}; use 'scan'")
    if backend == "cuda" and cell.norm not in ("none", *NORMS_OF_GATES):
        raise ValueError(f"backend='cuda' cannot run norm={cell.norm!r}; use 'fused'")
    if backend in ("blocks", "native", "cuda") and cell.mogrify:
        raise ValueError(f"backend={backend!r} cannot run mogrify={cell.mogrify}; use 'fused'")
    kernel_h_HG = drop(cell.kernel_h, weights_HG)
    if backend == "cuda" and not _why_fused(cell.units, cell.dtype):
        return run_layer_in_cuda(cell, carry, inputs, kernel_h_HG, recurrent_BH)
    x_TBF = inputs.vectors() if cell.mogrify else cell.normalise_input(inputs.gates(cell.input_kernel))
    if backend == "scan":
        return _scan(cell, carry, x_TBF, kernel_h_HG, recurrent_BH)
    norm = cell.norm if cell.norm in NORMS_OF_GATES else "none"
    form = Form(cell.dtype, cell.input_gate, norm, backend == "native", backend == "blocks")
    params = LoopParams(kernel_h_HG, cell.bias, cell.scales.get("z"), recurrent_BH)
    if cell.mogrify:
        return mogrified_lstm(MogrifiedParams(tuple(cell.rounds), cell.kernel_x, params), x_TBF, carry, form)
    return fused_lstm(params, x_TBF, carry, form)


def _scan(
    cell: Cell, carry: LayerCarry, x_TBF: jax.Array, kernel_h_HG: jax.Array, recurrent_BH: jax.Array | None
) -> tuple[LayerCarry, jax.Array]:
    def step(cell: Cell, carry: LayerCarry, x_BF: jax.Array) -> tuple:
        gates_x_BG, factor_BH = cell.modulate(carry, x_BF, recurrent_BH) if cell.mogrify else (x_BF, recurrent_BH)
        carry, moments = cell(carry, gates_x_BG, kernel_h_HG, factor_BH)
        return carry, (cell.output(carry), moments)

    scan = nn.scan(step, variable_broadcast=("params", STATISTICS), split_rngs={"params": False})
    carry, (h_TBH, moments) = scan(cell, carry, x_TBF)
    cell.update_statistics(moments)
    return carry, h_TBH


def resolve_backend(config: ModelConfig, platform: str = "") -> str:
    """The backend that `config.backend` stands for on a platform, by default JAX's. Raises UserError where "native" or
    "cuda" is asked for and is not available."""
    if config.backend == "auto":
        return fastest_backend(config, platform)
    if config.backend == "native" and (reason := _why_not_native(config, platform) or build.start().result()):
        raise UserError(f"config.model.backend='native': {reason}; use auto, which then takes the fused layer")
    if config.backend == "cuda":
        if reason := _why_not_cuda(platform):
            raise UserError(f"config.model.backend='cuda': {reason}; or use auto")
        if reason := _why_fused(config.units, config.dtype):
            log_once(f"layers of {config.units} units run as 'fused': {reason}")
    return config.backend


def fastest_backend(config: ModelConfig, platform: str = "") -> str:
    """The fastest backend for this cell, norm, dtype and device; logs a line where only a compiler is missing."""
    if config.norm in NORMS_IN_CELL or "fused" not in cell_class(config.cell).backends:
        return "scan"
    if _why_not_native(config, platform):
        return "fused"
    if reason := build.start().result():
        log_once(f"slower than it could be: {reason}")
    return "fused" if reason else "native"


def start_compiling(config: ModelConfig) -> None:
    """Starts to compile in the background what `resolve_backend` will need."""
    if config.backend in ("auto", "native") and not _why_not_native(config):
        build.start()


def _why_not_native(config: ModelConfig, platform: str = "") -> str:
    """Why the C++ loops cannot run this config on a platform; "" where they can, given a compiler."""
    if (found := platform or jax.default_backend()) != "cpu":
        return f"it runs on CPUs, found {found}"
    if config.dtype != "float32":
        return f"it computes in float32, dtype={config.dtype} was asked for"
    if "native" not in (cell := cell_class(config.cell, config.input_gate)).backends:
        return f"it has no {cell.label} layer"
    if config.mogrify:
        return f"it has no Mogrifier, mogrify={config.mogrify} was asked for"
    return ""


def _why_fused(units: int, dtype: Any) -> str:
    """Why a layer with backend="cuda" runs as "fused"; "" where the CUDA kernels run it."""
    name = jnp.dtype(dtype).name
    if units > (most := max_units(name, this_gpu())):
        return f"the CUDA kernels have room for {most} in {name}"
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if name == "float32" and precision not in TF32_SUFFICES:
        return f"the CUDA kernels' matmuls are TF32, jax_default_matmul_precision={precision} was asked for"
    return ""


def _why_not_cuda(platform: str) -> str:
    """Why the CUDA kernels cannot run on a platform, which need not be at hand, by default on this process's GPU; ""
    where they can."""
    if platform:
        return "" if platform in ("gpu", "cuda") else f"it runs on NVIDIA GPUs, found {platform}"
    return unavailable_reason()
