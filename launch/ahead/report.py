"""Results of ahead-of-time compilation, as text, as a table and as JSON."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from launch.ahead.compile import Compiled, TooLarge, in_a_loop
from launch.ahead.hlo import Collective, Loop
from launch.ahead.topologies import Topology
from lovecraft_jax.config import Config


@dataclasses.dataclass(frozen=True)
class Result:
    """A topology, the global batch size, the steps of a dispatch, and the compiled program."""

    topology: Topology
    batch: int
    steps: int
    compiled: Compiled

    @property
    def fits(self) -> bool:
        """Whether a device has enough memory, according to the compiler and to the chip's data sheet."""
        memory, there = self.compiled.memory, self.topology.memory
        return not isinstance(memory, TooLarge) and (not there or memory.total <= there)

    @property
    def available(self) -> int:
        """Bytes of a device's memory; 0 if unknown."""
        memory = self.compiled.memory
        return memory.available if isinstance(memory, TooLarge) else self.topology.memory

    def advice(self, config: Config) -> str:
        """Returns one line for a program that does not fit: what it needs, and which settings would help."""
        topology, needed = self.topology, size(self.compiled.memory.total)
        return (
            f"{topology.name}: does not fit: needs {needed} of memory per device, {topology.kind} has "
            f"{size(self.available)}; lower --batch_per_chip (now {self.batch // topology.chips}) or "
            f"config.data.seq_len ({config.data.seq_len}), set config.model.remat ({config.model.remat}), or use a "
            "smaller model"
        )

    def record(self) -> dict[str, Any]:
        """Returns the result for JSON, with the memory of one device in bytes."""
        topology, compiled = self.topology, self.compiled
        memory = dataclasses.asdict(compiled.memory) | {"total": compiled.memory.total}
        collectives = [
            dataclasses.asdict(one) | {"in_a_loop_of_the_step": in_a_loop(one)} for one in compiled.collectives
        ]
        return {
            "topology": topology.name,
            "kind": topology.kind,
            "chips": topology.chips,
            "devices": len(topology.devices),
            "hosts": topology.hosts,
            "batch_size": self.batch,
            "steps_per_dispatch": self.steps,
            "fits": self.fits,
            "memory": memory,
            "memory_available": self.available,
            "collectives": collectives,
            "loops": [dataclasses.asdict(loop) for loop in compiled.loops],
            "compile_seconds": compiled.seconds,
            "versions": versions(),
        }


def lines(result: Result) -> str:
    """Returns the result of one topology as text."""
    topology, memory = result.topology, result.compiled.memory
    text = [
        f"{topology.name}: {topology.kind}, chips {_chips(result)}, hosts {topology.hosts}, "
        f"global batch {result.batch:,}",
        f"  memory       {_of_available(result)} a device",
    ]
    if isinstance(memory, TooLarge):
        return "\n".join([*text, "  does not fit"])
    text[-1] += f": arguments {size(memory.arguments)} ({size(memory.padding)} of it padding)"
    text[-1] += f", results {size(memory.results)}, temporaries {size(memory.temporaries)}"
    text[-1] += f", code {size(memory.code)}" if memory.code else ""
    outside, looping = _collectives(result)
    text.append(f"  collectives  {outside}, {'none' if looping == 'none' else f'BUT {looping}'} in a loop of the step")
    return "\n".join([*text, f"  compiled in  {result.compiled.seconds:.1f} s"])


def loop_lines(loops: Sequence[Loop], steps: int) -> str:
    """Returns a line for each loop of so many time steps: what an iteration runs, and the operations a time step."""
    text = []
    for loop in loops:
        parts = ", ".join(f"{number} x {kind}" for kind, number in sorted(loop.operations.items()))
        iterations = _count(loop.iterations, "iteration") if loop.iterations else f"{steps} iterations (assumed)"
        text.append(f"  loop         {iterations} of {parts}: {loop.per_step(steps):.1f} a time step; {loop.name}")
    return "\n".join(text)


def table(results: Sequence[Result]) -> str:
    """Returns a Markdown table of all topologies."""
    rows = [_HEAD, ("---",) * len(_HEAD), *map(_row, results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


_HEAD = (
    "topology",
    "chips",
    "hosts",
    "global batch",
    "memory a device",
    "arguments, padding",
    "collectives",
    "in loops",
    "compiled in",
)


def _row(result: Result) -> tuple[str, ...]:
    topology, memory = result.topology, result.compiled.memory
    first = (topology.name, _chips(result), str(topology.hosts), f"{result.batch:,}", _of_available(result))
    if isinstance(memory, TooLarge):
        return *first, "-", "-", "-", "does not fit"
    arguments = f"{size(memory.arguments)}, {memory.padding / memory.arguments:.0%}"
    return *first, arguments, *_collectives(result), f"{result.compiled.seconds:.1f} s"


def _chips(result: Result) -> str:
    topology = result.topology
    each = f" ({len(topology.devices)} devices)" if len(topology.devices) > topology.chips else ""
    return f"{topology.chips}{each}"


def _of_available(result: Result) -> str:
    available = f" of {size(result.available)}" if result.available else ""
    return size(result.compiled.memory.total) + available


def _collectives(result: Result) -> tuple[str, str]:
    """Returns how many collectives run, how large and how often; and those inside a loop of the step."""
    found = result.compiled.collectives
    looping = [one for one in found if in_a_loop(one)]
    # Outside of the loop over the steps, it runs once for all of them.
    outside = [one for one in found if not one.loops and result.steps > 1]
    once = [one for one in found if one not in looping and one not in outside]
    parts = [_kinds(once, " a step")] if once else []
    parts += [_kinds(outside, " a dispatch")] if outside else []
    return "; ".join(parts) or "none", _kinds(looping, "") if looping else "none"


def _kinds(collectives: Sequence[Collective], often: str) -> str:
    kinds = Counter(one.kind for one in collectives)
    numbers, in_bytes = (sum(getattr(one, name) for one in collectives) for name in ("numbers", "bytes"))
    counts = ", ".join(_count(number, kind) for kind, number in kinds.items())
    return f"{counts}{often} ({numbers:,} numbers, {size(in_bytes)})"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("s" if number != 1 else "")


def size(in_bytes: int) -> str:
    """Formats a number of bytes, 1,536 KiB as "1.5 MiB"."""
    value, unit = float(in_bytes), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def versions() -> dict[str, str]:
    """Returns the versions of JAX and of the installed compilers."""
    names = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "jax-cuda12-plugin")
    return {name: metadata.version(name) for name in names if _installed(name)}


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
