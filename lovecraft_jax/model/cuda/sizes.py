"""Chooses how the CUDA kernels (kernels/config.h) divide a layer among thread blocks, and how they are launched."""

import math
from typing import NamedTuple

from lovecraft_jax.config import NORMS_OF_GATES

INPUT_GATES = ("own", "capped", "coupled")
NORMS = ("none", *NORMS_OF_GATES)
"""Both in the order of kernels/config.h."""
MAX_UNITS = 1024
CLUSTER_UNITS = 512
"""Up to so many units the blocks of a cluster hold the recurrent matrix, beyond it those of a group."""
BLOCK_UNITS = 32
"""Units of a block."""
GROUP_BLOCKS = 128
"""Blocks of groups that run at once: they wait for each other, so that an H100's 132 multiprocessors must hold them."""
SHARED_LIMIT = 227 * 1024
"""Bytes of shared memory that a block of compute capability 9.0 can have."""
COUNTER = 32
"""Numbers that a group's counter takes in the scratch memory, a cache line."""


class Form(NamedTuple):
    """What a layer computes: `config.model.units`, `norm` and `input_gate`, and whether a dropout mask multiplies h."""

    units: int
    norm: str = "none"
    input_gate: str = "own"
    mask: bool = False


class Pass(NamedTuple):
    """The forward or the backward kernel. A group of warps splits the matmul's sum into `splits`; each warp keeps
    `kept` of its pairs of 16 x 16 tiles of weights in registers, the others in shared memory. `threads` and `shared`
    memory, in bytes, are those of a block."""

    splits: int
    kept: int
    threads: int
    shared: int


class Sizes(NamedTuple):
    """The division of a layer: `padded` units, `ctas` blocks of a cluster or group, `tiles` of 8 rows that these own,
    `width`: units of a warp, as a multiple of 8 forward and of 16 backward."""

    form: Form
    padded: int
    ctas: int
    tiles: int
    grid: bool
    width: int
    forward: Pass
    backward: Pass

    @property
    def rows(self) -> int:
        """Rows of a cluster or group."""
        return 8 * self.tiles

    @property
    def sums(self) -> int:
        """Sums over the units that a norm needs for each row."""
        return {"none": 0, "rms_gates": 4, "layer_gates": 8}[self.form.norm]

    @property
    def scratch(self) -> int:
        """Numbers of scratch memory of a group."""
        return COUNTER + self.ctas * self.rows * self.sums if self.grid else 0

    def defines(self) -> dict[str, int]:
        """The macros that kernels/config.h expects."""
        form, forward, backward = self.form, self.forward, self.backward
        return {
            "LSTM_UNITS": form.units,
            "LSTM_NORM": NORMS.index(form.norm),
            "LSTM_INPUT_GATE": INPUT_GATES.index(form.input_gate),
            "LSTM_MASK": int(form.mask),
            "LSTM_PADDED_UNITS": self.padded,
            "LSTM_CTAS": self.ctas,
            "LSTM_TILES": self.tiles,
            "LSTM_GRID": int(self.grid),
            "LSTM_WIDTH": self.width,
            "LSTM_SPLITS_FORWARD": forward.splits,
            "LSTM_KEPT_FORWARD": forward.kept,
            "LSTM_THREADS_FORWARD": forward.threads,
            "LSTM_SHARED_FORWARD": forward.shared,
            "LSTM_SPLITS_BACKWARD": backward.splits,
            "LSTM_KEPT_BACKWARD": backward.kept,
            "LSTM_THREADS_BACKWARD": backward.threads,
            "LSTM_SHARED_BACKWARD": backward.shared,
        }


def choose_sizes(form: Form, rows: int) -> Sizes | None:
    """Returns the division of a layer with a batch of so many rows; None where no kernel has room for it.

    Measured on one H200, plain, in microseconds a time step forward and backward: 150 units in clusters of 5 blocks
    .75 and 1.18, of 2 blocks .96 and 1.55, in one block 1.72 and 2.25; 512 units in clusters of 16 with 16 rows 2.04
    and 3.81, with 8 rows 2.28 and 4.40; 1,024 units in groups of 32 with 32 rows 5.97 and 6.35.
    """
    grid = form.units > CLUSTER_UNITS
    # Multiples by which the splits below divide the pairs of tiles evenly.
    padded = _round_up(form.units, 128 if grid else 32 if form.units <= 160 else 64)
    tiles = 4 if grid else 2 if padded > 256 else 1
    while tiles > 1 and rows % (8 * tiles) and not grid:
        tiles //= 2
    if form.units > MAX_UNITS or rows % (8 * tiles):
        return None
    ctas, width = padded // BLOCK_UNITS, 2 if grid else 1
    made = Sizes(form, padded, ctas, tiles, grid, width, Pass(0, 0, 0, 0), Pass(0, 0, 0, 0))
    if grid:
        forward, backward = (4, 3), (8, 6)
    else:
        pairs = padded // 32
        # Warps keep up to five pairs forward, which take 80 registers; the tile of a pair is half as high backward.
        forward = (1, 5) if pairs <= 5 else (4, 4 if tiles == 1 else 3) if pairs % 4 == 0 and pairs > 8 else (2, 5)
        backward = (8, 8) if padded % 64 == 0 and padded > 256 else (4, 8)
    return made._replace(
        forward=_pass(made, *forward, is_backward=False), backward=_pass(made, *backward, is_backward=True)
    )


def _pass(sizes: Sizes, splits: int, kept: int, is_backward: bool) -> Pass:
    """The threads and the shared memory that kernels/config.h computes as well; it checks that both agree."""
    padded, tiles, width, rows = sizes.padded, sizes.tiles, sizes.width, sizes.rows
    K = 4 * padded if is_backward else padded
    pairs, groups = K // 32 // splits, BLOCK_UNITS // (16 if is_backward else 8) // width
    kept = min(kept, pairs)
    warps, elements = groups * splits, (4 if is_backward else 2) * tiles * width
    stride = K + (32 if K % 64 == 0 and not (sizes.grid and is_backward) else 0)
    state = rows * stride * 2
    weights = warps * (pairs - kept) * (width if is_backward else 2 * width) * 2 * 32 * 16
    partial = groups * splits * elements * (1 if is_backward else 4) * 32 * 4 if splits > 1 else 0
    affine = (2 if sizes.sums else 0 if is_backward else 1) * BLOCK_UNITS * 16
    norm = 4 * sizes.sums * rows * (elements // (2 * tiles) * groups + sizes.ctas)
    if sizes.grid:
        shared = max(0 if is_backward else state, partial) + weights + affine
    else:
        shared = 2 * state + weights + partial + affine + norm + 32
    return Pass(splits, kept, 32 * warps, shared)


def _round_up(n: int, multiple: int) -> int:
    return math.ceil(n / multiple) * multiple
