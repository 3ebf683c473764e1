"""Divides an LSTM layer among thread blocks for the CUDA kernels (kernels/config.h has the same sums in C++)."""

import functools
import math
from typing import NamedTuple

INPUT_GATES = {"own": 0, "capped": 1, "coupled": 2}
NORMS = {"none": 0, "layer_gates": 1, "rms_gates": 2}
"""Both by their numbers in kernels/config.h."""
SUMS = {"none": 0, "layer_gates": 8, "rms_gates": 4}
"""Sums over the units that a norm needs for each row."""
CLUSTER_UNITS = {"bfloat16": 512, "float32": 448}
"""Up to so many units the blocks of a cluster hold the recurrent matrix, where the GPU has clusters; beyond it, and on
other GPUs, those of a group, which exchange through L2."""
MOST_UNITS = 1024
"""So many at most, in 32 blocks of a group; fewer where they have no room for the matrix."""
LEAST_MULTIPROCESSORS = 32
"""With fewer, as a part of an H100 (MIG) may have, it has no room for clusters of 16 blocks."""
BLOCK_UNITS = 32
"""Units of a block, but for the large ones of clusters."""
LARGE_BLOCK_UNITS = 64
"""Units of a large block: the least multiple of 16 from here on that divides the padded units (64, 80 or 96)."""
LARGE_BLOCK_KEPT = {
    "bfloat16": {1: ((8, 16), (8, 16)), 2: ((3, 3), (8, 8))},
    "float32": {1: ((6, 8), (10, 16))},
}
"""Pairs of tiles that a warp of a large block keeps in registers, forward and backward: by dtype and row tiles, for up
to 160 units and for more."""
KEPT_REGISTERS = {"bfloat16": {1: 160, 2: 128, 4: 96}, "float32": {1: 160, 2: 128, 4: 64}}
"""Registers of a thread that hold weights, in a group, by dtype and by how many times 8 rows it owns."""
COUNTER = 32
"""Numbers that a group's counter takes in the scratch memory, a cache line."""


class Gpu(NamedTuple):
    """What a division depends on: the compute capability, the bytes of shared memory that a block can have, and the
    multiprocessors."""

    capability: str
    shared_limit: int
    multiprocessors: int

    @property
    def has_clusters(self) -> bool:
        """Whether clusters of 16 blocks have shared memory of each other. Those of later GPUs were not tried."""
        return self.capability == "9.0" and self.multiprocessors >= LEAST_MULTIPROCESSORS

    @property
    def architecture(self) -> str:
        """The capability as NVRTC names it, with the instructions that only 9.0 has."""
        return "90a" if self.capability == "9.0" else self.capability.replace(".", "")


GPUS = {
    "A100": Gpu("8.0", 163 * 1024, 108),
    "A10": Gpu("8.6", 99 * 1024, 72),
    "L4": Gpu("8.9", 99 * 1024, 58),
    "H100": Gpu("9.0", 227 * 1024, 132),
    "B200": Gpu("10.0", 227 * 1024, 148),
    "RTX 5090": Gpu("12.0", 99 * 1024, 170),
}
"""One of each capability, to compile for and to test."""
H100 = GPUS["H100"]


class LayerForm(NamedTuple):
    """What a layer computes: `config.model.units`, `norm` and `input_gate`, whether a dropout mask multiplies h,
    `config.model.dtype`, and whether the forward kernel `saves` what the backward kernel needs."""

    units: int
    norm: str = "none"
    input_gate: str = "own"
    mask: bool = False
    dtype: str = "bfloat16"
    saves: bool = True


class KernelPlan(NamedTuple):
    """The forward or the backward kernel. Some warps split the sum of a matmul into `splits`; each warp keeps `kept` of
    its pairs of tiles of weights (16 x 16 in bfloat16, 16 x 8 in TF32) in registers, the others in shared memory.
    `threads` and bytes of `shared` memory are those of a block."""

    name: str
    splits: int
    kept: int
    threads: int
    shared: int


class Division(NamedTuple):
    """The division of a layer on a GPU: units `padded` with zeros, `blocks` of a cluster or, if `grouped`, of a group,
    and `row_tiles`: how many times 8 rows these own."""

    form: LayerForm
    gpu: Gpu
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
    def has_state(self) -> bool:
        """Whether the state of the matmul is an array of its own: h is not rounded to TF32, nor multiplied by a mask,
        and a group exchanges the state through memory."""
        return self.form.mask or (self.grouped and self.form.dtype == "float32")

    @property
    def resident(self) -> int:
        """Blocks that the GPU has room for at a time: one on each multiprocessor, two of the small ones, which have at
        most 128 registers in each of 256 threads. For clusters it is an upper bound: each stays within a part of the
        GPU (a GPC), in which some multiprocessors may be left over."""
        is_small = self.form.dtype == "bfloat16" and self.padded <= 160 and self.padded // self.blocks == BLOCK_UNITS
        return self.gpu.multiprocessors * (2 if is_small and not self.grouped else 1)

    @property
    def blocks_at_once(self) -> int:
        """The most blocks in one cooperative launch: blocks of a group wait for each other, so all of them must be
        resident. 0 without groups."""
        return self.resident // self.blocks * self.blocks if self.grouped else 0

    @property
    def scratch(self) -> int:
        """Numbers of scratch memory of a group: its counter, and the sums that its blocks share."""
        return COUNTER + self.blocks * self.rows * SUMS[self.form.norm] if self.grouped else 0

    def plan(self, name: str) -> KernelPlan:
        """The kernel of a name, "lstm_forward" or "lstm_backward"."""
        return self.forward if name == self.forward.name else self.backward

    def macros(self) -> dict[str, int]:
        """The macros that kernels/config.h expects."""
        form, forward, backward = self.form, self.forward, self.backward
        return {
            "LSTM_UNITS": form.units,
            "LSTM_NORM": NORMS[form.norm],
            "LSTM_INPUT_GATE": INPUT_GATES[form.input_gate],
            "LSTM_MASK": int(form.mask),
            "LSTM_FLOAT32": int(form.dtype == "float32"),
            "LSTM_SAVES": int(form.saves),
            "LSTM_PADDED_UNITS": self.padded,
            "LSTM_BLOCKS": self.blocks,
            "LSTM_ROW_TILES": self.row_tiles,
            "LSTM_GROUPED": int(self.grouped),
            "LSTM_WIDTH": _width(self.grouped, self.padded),
            "LSTM_SPLITS_FORWARD": forward.splits,
            "LSTM_KEPT_FORWARD": forward.kept,
            "LSTM_THREADS_FORWARD": forward.threads,
            "LSTM_SHARED_FORWARD": forward.shared,
            "LSTM_SPLITS_BACKWARD": backward.splits,
            "LSTM_KEPT_BACKWARD": backward.kept,
            "LSTM_THREADS_BACKWARD": backward.threads,
            "LSTM_SHARED_BACKWARD": backward.shared,
        }


def choose_division(
    form: LayerForm, rows: int, gpu: Gpu = H100, members: int = 1, is_padded: bool = False
) -> Division | None:
    """Returns the division of a layer for a batch of so many rows, which, if it `is_padded`, its clusters or groups
    must divide, and so many members of a vmap; None for more units than the kernels have room for.

    An earlier form of the kernels, for plain LSTMs, took on one H200, in microseconds a time step forward and backward:
    150 units in clusters of 5 blocks .75 and 1.18, of 2 blocks .96 and 1.55, in one block 1.72 and 2.25; 512 units in
    clusters of 16 with 16 rows 2.04 and 3.81, with 8 rows 2.28 and 4.40; 1,024 units in groups of 32 with 32 rows 5.97
    and 6.35. So a time step takes the least time in many small blocks, and those that the GPU has no room for at the
    same time take all time steps once more: then fewer and larger ones.
    """
    found = [one for one in divisions(form, rows, gpu) if not is_padded or rows % one.rows == 0]
    at_once = (one for one in found if members * math.ceil(rows / one.rows) * one.blocks <= one.resident)
    return next(at_once, found[-1] if found else None)


def divisions(form: LayerForm, rows: int, gpu: Gpu = H100) -> list[Division]:
    """Returns the divisions among which `choose_division` chooses, those with the most blocks first."""
    if form.units > max_units(form.dtype, gpu):
        return []
    if gpu.has_clusters and form.units <= CLUSTER_UNITS[form.dtype]:
        return _divide_among_clusters(form, rows, gpu)
    return _divide_among_groups(form, gpu)


@functools.cache
def max_units(dtype: str, gpu: Gpu = H100) -> int:
    """Returns the most units of a layer for which the kernels have room, with any norm and any batch."""
    sizes = range(BLOCK_UNITS, MOST_UNITS + 1, BLOCK_UNITS)
    fits = (units for units in sizes if _divide_among_groups(LayerForm(units, "layer_gates", dtype=dtype), gpu))
    return max(fits, default=0)


def _divide_among_clusters(form: LayerForm, rows: int, gpu: Gpu) -> list[Division]:
    # Multiples of which the splits below divide the pairs of tiles evenly.
    padded = _round_up(form.units, 32 if form.units <= 160 else 64)
    is_float32 = form.dtype == "float32"
    row_tiles = 2 if padded > 256 and rows > 8 and not is_float32 else 1
    blocks, pairs = padded // BLOCK_UNITS, padded // 32
    plan = functools.partial(_plan, form, padded, blocks, row_tiles, False)
    if is_float32:
        # Eight warps at most, of which a thread has up to 255 registers. Kept are 128 to 160 of them.
        forward = plan(splits=1, kept=10) if padded <= 160 else plan(splits=2, kept=8)
        backward = plan(splits=4, kept=16, backward=True)
    else:
        # A warp keeps up to five pairs forward, in 80 registers; backward up to eight, whose tiles are half as high.
        if pairs <= 5:
            forward = plan(splits=1, kept=5)
        elif pairs > 8 and pairs % 4 == 0:
            forward = plan(splits=4, kept=4 if row_tiles == 1 else 3)
        else:
            forward = plan(splits=2, kept=5)
        backward = plan(splits=8 if pairs > 8 else 4, kept=8, backward=True)
    found = [Division(form, gpu, padded, blocks, row_tiles, False, forward, backward)]
    if padded > 256 or padded < LARGE_BLOCK_UNITS:
        return found
    blocks = next(padded // units for units in range(LARGE_BLOCK_UNITS, padded + 1, 16) if padded % units == 0)
    for row_tiles, kept in LARGE_BLOCK_KEPT[form.dtype].items():
        plan = functools.partial(_plan, form, padded, blocks, row_tiles, False)
        forward_kept, backward_kept = kept[padded > 160]
        forward, backward = plan(splits=1, kept=forward_kept), plan(splits=2, kept=backward_kept, backward=True)
        found.append(Division(form, gpu, padded, blocks, row_tiles, False, forward, backward))
    return found


def _divide_among_groups(form: LayerForm, gpu: Gpu) -> list[Division]:
    """Returns the divisions that fit into a multiprocessor, those with the fewest rows first. In bfloat16 on an H100
    they have 32: no others have been tried there."""
    units, is_small, found = form.units, form.units <= 256, []
    padded = _round_up(units, 32 if units <= 160 else 64 if is_small or form.dtype == "float32" else 128)
    blocks, width = padded // BLOCK_UNITS, _width(True, padded)
    for row_tiles, registers in KEPT_REGISTERS[form.dtype].items():
        if gpu.has_clusters and form.dtype == "bfloat16" and row_tiles < 4:
            continue
        plan = functools.partial(_plan, form, padded, blocks, row_tiles, True)
        # A pair takes 16 registers forward and 8 backward, and twice as many where a warp has twice as many units.
        kept = registers // (8 * width)
        forward = plan(splits=(1 if padded <= 160 else 2) if is_small else 4, kept=kept // 2)
        backward = plan(splits=4 if is_small else 8, kept=kept, backward=True)
        if max(forward.shared, backward.shared) <= gpu.shared_limit and blocks <= gpu.multiprocessors:
            found.append(Division(form, gpu, padded, blocks, row_tiles, True, forward, backward))
    return found


def _plan(
    form: LayerForm,
    padded: int,
    blocks: int,
    row_tiles: int,
    grouped: bool,
    splits: int,
    kept: int,
    backward: bool = False,
) -> KernelPlan:
    """The threads and the shared memory that kernels/config.h computes as well; it checks that both agree."""
    rows, width, sums, units = 8 * row_tiles, _width(grouped, padded), SUMS[form.norm], padded // blocks
    inputs = 4 * padded if backward else padded  # what a matmul adds up
    size = 4 if form.dtype == "float32" else 2  # bytes
    pair = 64 // size
    pairs, teams = inputs // pair // splits, units // (16 if backward else 8) // width
    kept = min(kept, pairs)
    warps, elements = teams * splits, (4 if backward else 2) * row_tiles * width
    stride = inputs + (pair if inputs * size % 128 == 0 and not (grouped and backward) else 0)
    state = rows * stride * size
    weights = warps * (pairs - kept) * (width if backward else 2 * width) * 2 * 32 * 16
    partial = teams * splits * elements * (1 if backward else 4) * 32 * 4 if splits > 1 else 0
    affine = (2 if sums else 0 if backward else 1) * units * 16
    norm = 4 * sums * rows * (elements // (2 * row_tiles) * teams + (1 if grouped else blocks))
    if grouped:
        shared = max(0 if backward else state, partial, norm) + weights + affine
    else:
        shared = 2 * state + weights + partial + affine + norm + 32
    return KernelPlan("lstm_backward" if backward else "lstm_forward", splits, kept, 32 * warps, shared)


def _width(grouped: bool, padded: int) -> int:
    """The units of a warp, as a multiple of 8 forward and of 16 backward."""
    return 2 if grouped and padded > 256 else 1


def _round_up(n: int, multiple: int) -> int:
    return math.ceil(n / multiple) * multiple
