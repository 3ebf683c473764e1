"""Compiles the kernels of the recipes' layers, without a GPU, and prints what they take of a multiprocessor:
`python -m lovecraft_jax.model.cuda`. A multiprocessor has 65,536 registers and 227 kB of shared memory for blocks."""

import re

from lovecraft_jax.model.cuda.build import compile_and_report
from lovecraft_jax.model.cuda.layer import HEADERS, SOURCE
from lovecraft_jax.model.cuda.sizes import Form, Sizes, choose_sizes

LAYERS = {
    (Form(150), 64): "c150:plain",
    (Form(150, "rms_gates", "capped"), 64): "c150",
    (Form(256, "rms_gates", "capped", mask=True), 64): "bpe, words",
    (Form(512), 64): "512 units, plain",
    (Form(512, "rms_gates", "capped", mask=True), 64): "c512",
    (Form(1024), 128): "1,024 units, plain",
    (Form(1024, "rms_gates", "capped", mask=True), 64): "best",
}
"""By what they compute, and rows of the batch."""
_USED = re.compile(r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", re.DOTALL)


def report(sizes: Sizes) -> dict[str, tuple[int, int]]:
    """Returns the registers of a thread, and how many bytes of them are spilled to memory, by kernel. Raises OSError
    where NVRTC is missing."""
    log = compile_and_report(SOURCE, headers=HEADERS, defines=sizes.defines()).log
    return {kernel: (int(registers), int(spilled)) for kernel, spilled, registers in _USED.findall(log)}


def main() -> None:
    """Prints a table with a row for each kernel."""
    print("| layer | kernel | blocks | rows | threads | registers | spilled, bytes | shared memory, bytes |")
    print("|---|---|---|---|---|---|---|---|")
    for (form, rows), name in LAYERS.items():
        sizes = choose_sizes(form, rows)
        assert sizes
        used = report(sizes)
        for kernel, one in (("forward", sizes.forward), ("backward", sizes.backward)):
            registers, spilled = used[f"lstm_{kernel}"]
            cells = (name, kernel, sizes.ctas, sizes.rows, one.threads, registers, spilled, one.shared)
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
