"""A program compiled for machines that are not here: what it needs of a device's memory, and its collectives."""

import dataclasses
import math
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from launch.ahead import hlo
from launch.ahead.hlo import Collective
from launch.ahead.topologies import Topology
from lovecraft_jax.runtime.mesh import make_mesh
from lovecraft_jax.training.compiled import lower_ahead
from lovecraft_jax.training.progress import Progress

DISPATCH = "jit(train_steps)/while"
"""JAX's name of the loop over the steps of a dispatch. XLA makes no loop of a single step."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that a program takes of a device's own memory (HBM), as its compiler has laid them out.

    `arguments`: what goes in, `padding` of it for the compiler's tiles. `results`: what comes out and does not write
    over an argument. `temporaries`: all else, with the gaps between. `code`: the program, on TPUs.

    From the compiler's own report, whose total is what it checks against the memory that there is. XLA's
    CompiledMemoryStats are no such thing on TPUs: `peak_memory_in_bytes` counts scratch memory (VMEM), which is not
    HBM, and leaves out the gaps (five times too much for c150 on a v5e, 8.1 GiB where 10.0 are laid out for 2 x 1024
    units and 2048 rows); `temp_size_in_bytes` adds up what shares its place (20.2 GiB where it is 14.9).
    """

    arguments: int
    padding: int
    results: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """All that must be there at once."""
        return self.arguments + self.results + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """The compiler has refused: bytes that the program needs of a device's memory, and those that there are for it."""

    total: int
    available: int


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program, compiled in so many seconds; refused, it has no collectives."""

    seconds: float
    memory: Memory | TooLarge
    collectives: list[Collective]


def compile_config(config: ConfigDict, vocab_size: int, total_steps: int, topology: Topology) -> Compiled:
    """The very dispatch of train steps that the loop would run there."""
    mesh = make_mesh(config.data.batch_size, topology.devices)
    return compile_program(lower_ahead(config, vocab_size, total_steps, mesh))


def compile_program(lowered: jax.stages.Lowered) -> Compiled:
    """Any program, lowered for devices that need not be there."""
    with tempfile.TemporaryDirectory() as folder:
        options: Any = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        options["xla_gpu_autotune_level"] = 0  # without a GPU there is nothing to measure kernels on
        began = time.perf_counter()
        try:
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if not (numbers := _TOO_LARGE.search(str(error))):
                raise
            return Compiled(time.perf_counter() - began, TooLarge(*map(_bytes, numbers.groups())), [])
        seconds = time.perf_counter() - began
        # Not `compiled.as_text()`: jaxlib cannot read every program that a libtpu of another version writes.
        collectives = hlo.collectives(_dumped(folder, "after_optimizations.txt"))
        report = _dumped(folder, "after_optimizations-memory-usage-report.txt")
    return Compiled(seconds, _memory(lowered, compiled, report), collectives)


def total_steps(config: ConfigDict, tokens: int) -> int:
    """The steps of a run over a text of so many tokens, as the loop counts them, but at least one a pass: where the
    batch is larger than the text. Only the schedule depends on it."""
    return Progress(config.data.batch_size, config.data.seq_len, tokens, tokens).total_steps(config.train)


def in_a_loop(collective: Collective) -> bool:
    """Whether it stands in a loop of the step, over time or of any other kind, and so runs more than once a step."""
    return len(collective.loops) > (collective.loops[:1] == (DISPATCH,))


_TOO_LARGE = re.compile(r"\(([\d.]+[KMGT]?)\) exceeds available HBM \(([\d.]+[KMGT]?)\)")


def _bytes(told: str) -> int:
    """XLA's 15.75G, by which it means GiB."""
    power = "KMGT".find(told[-1]) + 1
    return round(float(told.rstrip("KMGT")) * 1024**power)


def _dumped(folder: str, name: str) -> str:
    """The file of this name that the compiler has written, where it began anew the last one."""
    return max(Path(folder).glob(f"*{name}")).read_text()


def _memory(lowered: jax.stages.Lowered, compiled: jax.stages.Compiled, report: str) -> Memory:
    told: Any = compiled.memory_analysis()
    total = int(report.split("Memory Space: default", 1)[1].split("Total bytes: ", 1)[1].split()[0])
    arguments, results = told.argument_size_in_bytes, told.output_size_in_bytes - told.alias_size_in_bytes
    padding = arguments - _unpadded(lowered, compiled)
    return Memory(arguments, padding, results, total - arguments - results, told.generated_code_size_in_bytes)


def _unpadded(lowered: jax.stages.Lowered, compiled: jax.stages.Compiled) -> int:
    """Bytes of one device's shards of all arguments that the program kept, as numbers side by side."""
    is_none = lambda leaf: leaf is None  # noqa: E731  # no argument, or one that the program did not keep
    shardings = jax.tree.leaves(compiled.input_shardings, is_leaf=is_none)
    arguments = jax.tree.leaves(lowered.args_info, is_leaf=is_none)
    return sum(
        math.prod(sharding.shard_shape(argument.shape)) * argument.dtype.itemsize
        for argument, sharding in zip(arguments, shardings, strict=True)
        if sharding is not None
    )
