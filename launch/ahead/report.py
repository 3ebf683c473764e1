"""What compiling ahead has found, for people and for programs."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from ml_collections import ConfigDict

from launch.ahead.compile import Compiled, TooLarge, in_a_loop
from launch.ahead.hlo import Collective
from launch.ahead.topologies import Topology


@dataclasses.dataclass(frozen=True)
class Result:
    """A topology, the global batch and the steps of a dispatch, and the program that came of them."""

    topology: Topology
    batch: int
    steps: int
    compiled: Compiled

    @property
    def fits(self) -> bool:
        """Whether a device has the memory for it, by the compiler's word and by the chip's data sheet."""
        memory, there = self.compiled.memory, self.topology.memory
        return not isinstance(memory, TooLarge) and (not there or memory.total <= there)

    @property
    def available(self) -> int:
        """Bytes of a device's memory; 0 if unknown."""
        memory = self.compiled.memory
        return memory.available if isinstance(memory, TooLarge) else self.topology.memory

    def advice(self, config: ConfigDict) -> str:
        """One line for who sees that it does not fit."""
        place, needed = self.topology, size(self.compiled.memory.total)
        return (
            f"{place.name}: does not fit: it needs {needed} of memory a device, where {place.kind} has "
            f"{size(self.available)}; lower --batch_per_chip (now {self.batch // place.chips}) or config.data.seq_len "
            f"({config.data.seq_len}), set config.model.remat ({config.model.remat}), or take a smaller model"
        )

    def record(self) -> dict[str, Any]:
        """All of it as JSON; memory in bytes, of one device."""
        place, compiled = self.topology, self.compiled
        memory = dataclasses.asdict(compiled.memory) | {"total": compiled.memory.total}
        collectives = [
            dataclasses.asdict(one) | {"in_a_loop_of_the_step": in_a_loop(one)} for one in compiled.collectives
        ]
        return {
            "topology": place.name,
            "kind": place.kind,
            "chips": place.chips,
            "devices": len(place.devices),
            "hosts": place.hosts,
            "batch_size": self.batch,
            "steps_per_dispatch": self.steps,
            "fits": self.fits,
            "memory": memory,
            "memory_available": self.available,
            "collectives": collectives,
            "compile_seconds": compiled.seconds,
            "versions": versions(),
        }


def lines(result: Result) -> str:
    """A topology as a person reads it."""
    place, memory = result.topology, result.compiled.memory
    told = [
        f"{place.name}: {place.kind}, chips {_chips(result)}, hosts {place.hosts}, global batch {result.batch:,}",
        f"  memory       {_of_available(result)} a device",
    ]
    if isinstance(memory, TooLarge):
        return "\n".join([*told, "  does not fit"])
    told[-1] += f": arguments {size(memory.arguments)} ({size(memory.padding)} of it padding)"
    told[-1] += f", results {size(memory.results)}, temporaries {size(memory.temporaries)}"
    told[-1] += f", code {size(memory.code)}" if memory.code else ""
    outside, looping = _collectives(result)
    told.append(f"  collectives  {outside}, {'none' if looping == 'none' else f'BUT {looping}'} in a loop of the step")
    return "\n".join([*told, f"  compiled in  {result.compiled.seconds:.1f} s"])


def table(results: Sequence[Result]) -> str:
    """All topologies in Markdown."""
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
    place, memory = result.topology, result.compiled.memory
    first = (place.name, _chips(result), str(place.hosts), f"{result.batch:,}", _of_available(result))
    if isinstance(memory, TooLarge):
        return *first, "-", "-", "-", "does not fit"
    arguments = f"{size(memory.arguments)}, {memory.padding / memory.arguments:.0%}"
    return *first, arguments, *_collectives(result), f"{result.compiled.seconds:.1f} s"


def _chips(result: Result) -> str:
    place = result.topology
    each = f" ({len(place.devices)} devices)" if len(place.devices) > place.chips else ""
    return f"{place.chips}{each}"


def _of_available(result: Result) -> str:
    there = f" of {size(result.available)}" if result.available else ""
    return size(result.compiled.memory.total) + there


def _collectives(result: Result) -> tuple[str, str]:
    """How many, how large and how often; and those in a loop of the step."""
    found = result.compiled.collectives
    looping = [one for one in found if in_a_loop(one)]
    # Beside the loop over the steps it runs once for all of them.
    beside = [one for one in found if not one.loops and result.steps > 1]
    once = [one for one in found if one not in looping and one not in beside]
    told = [_kinds(once, " a step")] if once else []
    told += [_kinds(beside, " a dispatch")] if beside else []
    return "; ".join(told) or "none", _kinds(looping, "") if looping else "none"


def _kinds(collectives: Sequence[Collective], often: str) -> str:
    kinds = Counter(one.kind for one in collectives)
    numbers, in_bytes = (sum(getattr(one, name) for one in collectives) for name in ("numbers", "bytes"))
    told = ", ".join(_count(number, kind) for kind, number in kinds.items())
    return f"{told}{often} ({numbers:,} numbers, {size(in_bytes)})"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("s" if number != 1 else "")


def size(in_bytes: int) -> str:
    """1,536 KiB as "1.5 MiB"."""
    value, unit = float(in_bytes), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def versions() -> dict[str, str]:
    """Of JAX and of the compilers that are installed."""
    names = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "jax-cuda12-plugin")
    return {name: metadata.version(name) for name in names if _installed(name)}


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
