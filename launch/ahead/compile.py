"""Compilation for machines that are not at hand: the memory that a program needs on a device, and its collectives."""

import dataclasses
import math
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from launch.ahead import hlo
from launch.ahead.hlo import Collective, Loop
from launch.ahead.topologies import Topology
from lovecraft_jax.config import Config
from lovecraft_jax.runtime.mesh import make_mesh
from lovecraft_jax.training.compiled import lower_ahead
from lovecraft_jax.training.progress import Progress

DISPATCH = "jit(train_steps)/while"
"""JAX's name of the loop over the steps of a dispatch. XLA removes the loop if there is one step only."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a device's memory (HBM) that a program takes, as its compiler has laid them out.

    `arguments` include `padding` for the compiler's tiles. `results` are those that do not overwrite an argument.
    `temporaries` are everything else, with the gaps in between. `code` is the program itself, on TPUs.

    The total comes from the compiler's own report: it is what the compiler compares with the available memory. On TPUs
    XLA's CompiledMemoryStats do not agree with it: `peak_memory_in_bytes` counts scratch memory (VMEM), which is not
    HBM, and leaves out the gaps (five times too much for c150 on a v5e; 8.1 GiB instead of 10.0 for 2 x 1024 units and
    2048 rows); `temp_size_in_bytes` counts buffers that share memory several times (20.2 GiB instead of 14.9).
    """

    arguments: int
    padding: int
    results: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """Bytes that the program needs at once."""
        return self.arguments + self.results + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """A program that the compiler refused: bytes of a device's memory that it needs, and bytes that are available."""

    total: int
    available: int


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program: compile time, memory, collectives and loops; a program that was refused has neither."""

    seconds: float
    memory: Memory | TooLarge
    collectives: list[Collective]
    loops: list[Loop] = dataclasses.field(default_factory=list)


def compile_config(config: Config, vocab_size: int, total_steps: int, topology: Topology) -> Compiled:
    """Compiles the dispatch of training steps that the training loop would run on the topology."""
    mesh = make_mesh(config.data.batch_size, topology.devices)
    return compile_program(lower_ahead(config, vocab_size, total_steps, mesh))


def compile_program(lowered: jax.stages.Lowered) -> Compiled:
    """Compiles a program that was lowered for devices that need not exist."""
    with tempfile.TemporaryDirectory() as folder:
        options: Any = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        options["xla_gpu_autotune_level"] = (
            0  # no GPU to time kernels on, and from jax 0.11 on Triton cannot do without
        )
        options["xla_gpu_enable_triton_gemm"] = False
        began = time.perf_counter()
        try:
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if not (numbers := _TOO_LARGE.search(str(error))):
                raise
            return Compiled(time.perf_counter() - began, TooLarge(*map(_bytes, numbers.groups())), [])
        seconds = time.perf_counter() - began
        # Not `compiled.as_text()`: jaxlib cannot parse every program of a libtpu of another version.
        text = _dumped(folder, "after_optimizations.txt")
        report = _dumped(folder, "after_optimizations-memory-usage-report.txt")
    memory = _memory(lowered, compiled, report)
    return Compiled(seconds, memory, hlo.collectives(text), hlo.innermost_loops(text))


def total_steps(config: Config, tokens: int) -> int:
    """Returns the steps of a run over a text of so many tokens, at least one an epoch even if the batch is larger than
    the text. Only the learning rate's schedule depends on it."""
    return Progress(config.data.batch_size, config.data.seq_len, tokens, tokens).total_steps(config.train)


def in_a_loop(collective: Collective) -> bool:
    """Whether a collective is inside a loop of the step (over time or any other), so that it runs repeatedly."""
    return len(collective.loops) > (collective.loops[:1] == (DISPATCH,))


_TOO_LARGE = re.compile(r"\(([\d.]+[KMGT]?)\) exceeds available HBM \(([\d.]+[KMGT]?)\)")


def _bytes(text: str) -> int:
    """Parses XLA's sizes such as 15.75G, which means GiB."""
    power = "KMGT".find(text[-1]) + 1
    return round(float(text.rstrip("KMGT")) * 1024**power)


def _dumped(folder: str, name: str) -> str:
    """Returns the compiler's dump of this name; the last one if it compiled more than once."""
    return max(Path(folder).glob(f"*{name}")).read_text()


def _memory(lowered: jax.stages.Lowered, compiled: jax.stages.Compiled, report: str) -> Memory:
    stats: Any = compiled.memory_analysis()
    total = int(report.split("Memory Space: default", 1)[1].split("Total bytes: ", 1)[1].split()[0])
    arguments, results = stats.argument_size_in_bytes, stats.output_size_in_bytes - stats.alias_size_in_bytes
    padding = arguments - _unpadded(lowered, compiled)
    return Memory(arguments, padding, results, total - arguments - results, stats.generated_code_size_in_bytes)


def _unpadded(lowered: jax.stages.Lowered, compiled: jax.stages.Compiled) -> int:
    """Bytes, without padding, of one device's shards of all arguments that the program kept."""
    is_none = lambda leaf: leaf is None  # noqa: E731  # no argument, or one that the program did not keep
    shardings = jax.tree.leaves(compiled.input_shardings, is_leaf=is_none)
    arguments = jax.tree.leaves(lowered.args_info, is_leaf=is_none)
    return sum(
        math.prod(sharding.shard_shape(argument.shape)) * argument.dtype.itemsize
        for argument, sharding in zip(arguments, shardings, strict=True)
        if sharding is not None
    )
