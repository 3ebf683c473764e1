"""Divides an LSTM layer among thread blocks for the CUDA kernels (kernels/config.h has the same sums in C++)."""

import functools
import math
from typing import NamedTuple

INPUT_GATES = {"own": 0, "capped": 1, "coupled": 2}
NORMS = {"none": 0, "layer_gates": 1, "rms_gates": 2}
"""Both by their numbers in kernels/config.h."""
SUMS = {"none": 0, "layer_gates": 8, "rms_gates": 4}
"""Sums over the units that a norm needs for each row."""
MAX_UNITS = 1024
CLUSTER_UNITS = 512
"""Up to so many units the blocks of a cluster hold the recurrent matrix, beyond it those of a group, which exchange
through L2."""
BLOCK_UNITS = 32
"""Units of a block."""
GROUP_BLOCKS = 128
"""The most blocks in one cooperative launch: blocks of a group wait for each other, so all of them must be resident,
one on each of an H100's 132 multiprocessors."""
SHARED_LIMIT = 227 * 1024
"""Bytes of shared memory that a block of compute capability 9.0 can have."""
COUNTER = 32
"""Numbers that a group's counter takes in the scratch memory, a cache line."""


class LayerForm(NamedTuple):
    """What a layer computes: `config.model.units`, `norm` and `input_gate`, and whether a dropout mask multiplies h."""

    units: int
    norm: str = "none"
    input_gate: str = "own"
    mask: bool = False


class KernelPlan(NamedTuple):
    """The forward or the backward kernel. Some warps split the sum of a matmul into `splits`; each warp keeps `kept` of
    its pairs of 16 x 16 tiles of weights in registers, the others in shared memory. `threads` and bytes of `shared`
    memory are those of a block."""

    name: str
    splits: int
    kept: int
    threads: int
    shared: int


class Division(NamedTuple):
    """The division of a layer: units `padded` with zeros, `blocks` of a cluster or, if `grouped`, of a group, and
    `row_tiles`: how many times 8 rows these own."""

    form: LayerForm
    padded: int
    blocks: int
    row_tiles: int
    grouped: bool
    forward: KernelPlan
    backward: KernelPlan

    @property
    def rows(self) -> int:
        """Rows of a cluster or group, of which the batch must be a multiple."""
        return 8 * self.row_tiles

    @property
    def has_norm(self) -> bool:
        return self.form.norm != "none"

    @property
    def scratch(self) -> int:
        """Numbers of scratch memory of a group: its counter, and the sums that its blocks share."""
        return COUNTER + self.blocks * self.rows * SUMS[self.form.norm] if self.grouped else 0

    def macros(self) -> dict[str, int]:
        """The macros that kernels/config.h expects."""
        form, forward, backward = self.form, self.forward, self.backward
        return {
            "LSTM_UNITS": form.units,
            "LSTM_NORM": NORMS[form.norm],
            "LSTM_INPUT_GATE": INPUT_GATES[form.input_gate],
            "LSTM_MASK": int(form.mask),
            "LSTM_PADDED_UNITS": self.padded,
            "LSTM_BLOCKS": self.blocks,
            "LSTM_ROW_TILES": self.row_tiles,
            "LSTM_GROUPED": int(self.grouped),
            "LSTM_WIDTH": _width(self.grouped),
            "LSTM_SPLITS_FORWARD": forward.splits,
            "LSTM_KEPT_FORWARD": forward.kept,
            "LSTM_THREADS_FORWARD": forward.threads,
            "LSTM_SHARED_FORWARD": forward.shared,
            "LSTM_SPLITS_BACKWARD": backward.splits,
            "LSTM_KEPT_BACKWARD": backward.kept,
            "LSTM_THREADS_BACKWARD": backward.threads,
            "LSTM_SHARED_BACKWARD": backward.shared,
        }


def choose_division(form: LayerForm, rows: int) -> Division | None:
    """Returns the division of a layer for a batch of so many rows; None for more units than the kernels have room for.

    An earlier form of the kernels, for plain LSTMs, took on one H200, in microseconds a time step forward and backward:
    150 units in clusters of 5 blocks .75 and 1.18, of 2 blocks .96 and 1.55, in one block 1.72 and 2.25; 512 units in
    clusters of 16 with 16 rows 2.04 and 3.81, with 8 rows 2.28 and 4.40; 1,024 units in groups of 32 with 32 rows 5.97
    and 6.35.
    """
    if form.units > MAX_UNITS:
        return None
    grouped = form.units > CLUSTER_UNITS
    # Multiples of which the splits below divide the pairs of tiles evenly.
    padded = _round_up(form.units, 128 if grouped else 32 if form.units <= 160 else 64)
    row_tiles = 4 if grouped else 2 if padded > 256 and rows > 8 else 1
    plan = functools.partial(_plan, form, padded, row_tiles, grouped)
    pairs = padded // 32
    if grouped:
        forward, backward = plan(splits=4, kept=3), plan(splits=8, kept=6, backward=True)
    else:
        # A warp keeps up to five pairs forward, in 80 registers; backward up to eight, whose tiles are half as high.
        if pairs <= 5:
            forward = plan(splits=1, kept=5)
        elif pairs > 8 and pairs % 4 == 0:
            forward = plan(splits=4, kept=4 if row_tiles == 1 else 3)
        else:
            forward = plan(splits=2, kept=5)
        backward = plan(splits=8 if pairs > 8 else 4, kept=8, backward=True)
    return Division(form, padded, padded // BLOCK_UNITS, row_tiles, grouped, forward, backward)


def _plan(
    form: LayerForm, padded: int, row_tiles: int, grouped: bool, splits: int, kept: int, backward: bool = False
) -> KernelPlan:
    """The threads and the shared memory that kernels/config.h computes as well; it checks that both agree."""
    rows, width, sums, blocks = 8 * row_tiles, _width(grouped), SUMS[form.norm], padded // BLOCK_UNITS
    inputs = 4 * padded if backward else padded  # what a matmul adds up
    pairs, teams = inputs // 32 // splits, BLOCK_UNITS // (16 if backward else 8) // width
    kept = min(kept, pairs)
    warps, elements = teams * splits, (4 if backward else 2) * row_tiles * width
    stride = inputs + (32 if inputs % 64 == 0 and not (grouped and backward) else 0)
    state = rows * stride * 2
    weights = warps * (pairs - kept) * (width if backward else 2 * width) * 2 * 32 * 16
    partial = teams * splits * elements * (1 if backward else 4) * 32 * 4 if splits > 1 else 0
    affine = (2 if sums else 0 if backward else 1) * BLOCK_UNITS * 16
    norm = 4 * sums * rows * (elements // (2 * row_tiles) * teams + blocks)
    if grouped:
        shared = max(0 if backward else state, partial) + weights + affine
    else:
        shared = 2 * state + weights + partial + affine + norm + 32
    return KernelPlan("lstm_backward" if backward else "lstm_forward", splits, kept, 32 * warps, shared)


def _width(grouped: bool) -> int:
    """The units of a warp, as a multiple of 8 forward and of 16 backward."""
    return 2 if grouped else 1


def _round_up(n: int, multiple: int) -> int:
    return math.ceil(n / multiple) * multiple
