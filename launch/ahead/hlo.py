"""Which collectives a compiled program holds and in which loops they stand, read from its optimised HLO text."""

import dataclasses
import math
import re
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
"""The computation that a program begins with."""

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_CALLED = re.compile(
    r"\b(?:body|condition|calls|to_apply|called_computations|branch_computations|true_computation|false_computation)"
    r"=(?:\{([^}]*)\}|(%[\w.-]+))"
)
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_SHAPE = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program: how many arrays of one device it takes, and the numbers and bytes in them.

    `loops`: the names that JAX gave the loops around it, outermost first.
    """

    kind: str
    operands: int
    numbers: int
    bytes: int
    loops: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    rest: str  # operands, a closing parenthesis, attributes


def collectives(text: str) -> list[Collective]:
    """All that the program `text` reaches from its entry; one that is reached twice is there twice."""
    computations = _computations(text)
    return list(_walk(computations, ENTRY, ()))


def _computations(text: str) -> dict[str, list[_Instruction]]:
    found: dict[str, list[_Instruction]] = {}
    for line in text.splitlines():
        if line.endswith("{") and (head := _COMPUTATION.match(line)):
            current = found.setdefault(ENTRY if head[1] else head[2], [])
        elif found and (read := _INSTRUCTION.match(line)):
            current.append(_Instruction(*read.groups()))
    return found


def _walk(computations: dict[str, list[_Instruction]], name: str, loops: tuple[str, ...]) -> Iterator[Collective]:
    shapes = {instruction.name: instruction.shape for instruction in computations[name]}
    for instruction in computations[name]:
        opcode = instruction.opcode
        if opcode.removesuffix("-start") in COLLECTIVES:
            yield _collective(instruction, shapes, loops)
        elif not opcode.endswith(("-done", "-update")):  # of what began at its -start, where it was seen
            within = (*loops, _op_name(instruction)) if opcode == "while" else loops
            for several, one in _CALLED.findall(instruction.rest):
                for called in _NAME.findall(several or one):
                    yield from _walk(computations, called, within)


def _collective(instruction: _Instruction, shapes: dict[str, str], loops: tuple[str, ...]) -> Collective:
    operands = _NAME.findall(_inside(instruction.rest))
    numbers, size = zip(*(_measure(shapes[name]) for name in operands), strict=True)
    return Collective(instruction.opcode.removesuffix("-start"), len(operands), sum(numbers), sum(size), loops)


def _op_name(instruction: _Instruction) -> str:
    """What JAX calls an operation; empty where the compiler has lost it."""
    found = _OP_NAME.search(instruction.rest)
    return found[1] if found else ""


def _inside(rest: str) -> str:
    """`rest` up to the parenthesis that closes the operands, with what shapes may stand among them."""
    depth = 1
    for at, letter in enumerate(rest):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return rest[:at]
    return rest


def _measure(shape: str) -> tuple[int, int]:
    """Numbers and bytes of a shape or a tuple of them, as they are without padding."""
    numbers = bits = 0
    for kind, width, axes in _SHAPE.findall(shape):
        count = math.prod(int(axis) for axis in axes.split(",") if axis)
        numbers += count
        bits += count * (8 if kind == "pred" else int(width or 0))
    return numbers, bits // 8
