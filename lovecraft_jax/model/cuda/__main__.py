"""Compiles the kernels of the recipes' layers, without a GPU, and prints what they take of a multiprocessor:
`python -m lovecraft_jax.model.cuda`. A multiprocessor has 65,536 registers and 227 kB of shared memory for blocks."""

import re

from lovecraft_jax.model.cuda.build import compile_and_report, nvrtc_version
from lovecraft_jax.model.cuda.division import Division, LayerForm, choose_division
from lovecraft_jax.model.cuda.layer import HEADERS, SOURCE

LAYERS = {
    "c150:plain": (LayerForm(150), 64),
    "c150": (LayerForm(150, "rms_gates", "capped"), 64),
    "bpe, words": (LayerForm(256, "rms_gates", "capped", mask=True), 64),
    "512 units, plain": (LayerForm(512), 64),
    "c512": (LayerForm(512, "rms_gates", "capped", mask=True), 64),
    "1,024 units, plain": (LayerForm(1024), 128),
    "best": (LayerForm(1024, "rms_gates", "capped", mask=True), 64),
}
"""What the layers compute, and rows of the batch."""
_USED = re.compile(r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", re.DOTALL)


def registers_and_spills(division: Division) -> dict[str, tuple[int, int]]:
    """Returns the registers of a thread, and how many bytes of them are spilled to memory, by kernel. Raises OSError
    where NVRTC is missing."""
    log = compile_and_report(SOURCE, headers=HEADERS, defines=division.macros()).log
    return {kernel: (int(registers), int(spilled)) for kernel, spilled, registers in _USED.findall(log)}


def main() -> None:
    """Prints a table with a row for each kernel."""
    print("NVRTC", ".".join(map(str, nvrtc_version())))
    print("| layer | kernel | blocks | rows | threads | registers | spilled, bytes | shared memory, bytes |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (form, rows) in LAYERS.items():
        division = choose_division(form, rows)
        assert division
        used = registers_and_spills(division)
        for plan in (division.forward, division.backward):
            kernel = plan.name.removeprefix("lstm_")
            cells = (name, kernel, division.blocks, division.rows, plan.threads, *used[plan.name], plan.shared)
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
