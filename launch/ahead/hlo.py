"""A compiled program's collectives and the loops around them, and what is in its loops, parsed from its HLO text."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "ragged-all-to-all",
    "reduce-scatter",
    "collective-permute",
    "collective-broadcast",
)
ENTRY = ""
"""Name of the computation that a program starts with."""

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_CALLED = re.compile(
    r"\b(?:body|condition|calls|to_apply|called_computations|branch_computations|true_computation|false_computation)"
    r"=(?:\{([^}]*)\}|(%[\w.-]+))"
)
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_SHAPE = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.-]+)")
_BODY = re.compile(r"\bbody=%([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all")
"""Operations that take no time."""


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective: the number of operand arrays on one device, and the numbers and bytes in them.

    `loops`: JAX's names of the loops around it, outermost first.
    """

    kind: str
    operands: int
    numbers: int
    bytes: int
    loops: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Loop:
    """One loop without a loop in it: JAX's name, its iterations (0 if the compiler does not say), and how many
    operations of each kind one iteration runs. On a GPU each is a kernel, a library's matmul or a copy."""

    name: str
    iterations: int
    operations: dict[str, int]

    def per_step(self, steps: int) -> float:
        """Operations a time step, if the loop is over so many time steps; an iteration may do several of them."""
        return sum(self.operations.values()) * (self.iterations or steps) / steps


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    rest: str  # operands, a closing parenthesis, attributes


def collectives(text: str) -> list[Collective]:
    """Returns the collectives that are reachable from the program's entry; one that is called twice is listed twice."""
    computations = _computations(text)
    return list(_walk(computations, ENTRY, ()))


def innermost_loops(text: str) -> list[Loop]:
    """Returns the loops that have no loop inside, in the order in which the compiler wrote them."""
    computations, found = _computations(text), []
    for instructions in computations.values():
        for loop in instructions:
            if loop.opcode != "while" or not (body := _BODY.search(loop.rest)):
                continue
            inside = [one for one in computations[body[1]] if one.opcode not in _FREE]
            if any(one.opcode == "while" for one in inside):
                continue
            iterations = _TRIPS.search(loop.rest)
            kinds = Counter(_kind(one, computations) for one in inside)
            found.append(Loop(_op_name(loop), int(iterations[1]) if iterations else 0, dict(kinds)))
    return found


def _kind(instruction: _Instruction, computations: dict[str, list[_Instruction]]) -> str:
    """Returns what an operation does, in a word."""
    called = [name for several, one in _CALLED.findall(instruction.rest) for name in _NAME.findall(several or one)]
    opcodes = {instruction.opcode} | {one.opcode for name in called for one in computations[name]}
    if "cublas" in instruction.rest or opcodes & {"dot", "convolution"}:
        return "matmul"
    if instruction.shape.startswith("s32[]"):
        return "counter"
    if "kind=kCustom" in instruction.rest and "copy" in opcodes:  # XLA for GPUs: a slice of a larger array
        return "copy"
    return "kernel" if instruction.opcode == "fusion" else instruction.opcode


def _computations(text: str) -> dict[str, list[_Instruction]]:
    found: dict[str, list[_Instruction]] = {}
    for line in text.splitlines():
        if line.endswith("{") and (head := _COMPUTATION.match(line)):
            current = found.setdefault(ENTRY if head[1] else head[2], [])
        elif found and (match := _INSTRUCTION.match(line)):
            current.append(_Instruction(*match.groups()))
    return found


def _walk(computations: dict[str, list[_Instruction]], name: str, loops: tuple[str, ...]) -> Iterator[Collective]:
    shapes = {instruction.name: instruction.shape for instruction in computations[name]}
    for instruction in computations[name]:
        opcode = instruction.opcode
        if opcode.removesuffix("-start") in COLLECTIVES:
            yield _collective(instruction, shapes, loops)
        elif not opcode.endswith(("-done", "-update")):  # their -start was listed already
            inner = (*loops, _op_name(instruction)) if opcode == "while" else loops
            for several, one in _CALLED.findall(instruction.rest):
                for called in _NAME.findall(several or one):
                    yield from _walk(computations, called, inner)


def _collective(instruction: _Instruction, shapes: dict[str, str], loops: tuple[str, ...]) -> Collective:
    operands = _NAME.findall(_inside(instruction.rest))
    numbers, size = zip(*(_measure(shapes[name]) for name in operands), strict=True)
    return Collective(instruction.opcode.removesuffix("-start"), len(operands), sum(numbers), sum(size), loops)


def _op_name(instruction: _Instruction) -> str:
    """Returns JAX's name of an operation; empty if the compiler has dropped it."""
    match = _OP_NAME.search(instruction.rest)
    return match[1] if match else ""


def _inside(rest: str) -> str:
    """Returns the operands: `rest` up to its closing parenthesis."""
    depth = 1
    for index, letter in enumerate(rest):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return rest[:index]
    return rest


def _measure(shape: str) -> tuple[int, int]:
    """Returns the numbers and the bytes, without padding, of a shape or a tuple of shapes."""
    numbers = bits = 0
    for kind, width, axes in _SHAPE.findall(shape):
        count = math.prod(int(axis) for axis in axes.split(",") if axis)
        numbers += count
        bits += count * (8 if kind == "pred" else int(width or 0))
    return numbers, bits // 8
