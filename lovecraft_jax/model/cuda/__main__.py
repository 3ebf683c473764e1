"""Compiles the kernels of the recipes' layers, without a GPU, and prints what they take of a multiprocessor:
`python -m lovecraft_jax.model.cuda [--gpu=A100]`. A multiprocessor has 65,536 registers; how much shared memory a block
can have, division.py lists by GPU."""

import argparse
import re

from lovecraft_jax.model.cuda.build import compile_and_report, nvrtc_version
from lovecraft_jax.model.cuda.division import GPUS, Division, LayerForm, choose_division
from lovecraft_jax.model.cuda.layer import HEADERS, SOURCE

LAYERS = {
    "c150:plain": (LayerForm(150), 64),
    "c150": (LayerForm(150, "rms_gates", "capped"), 64),
    "bpe, words": (LayerForm(256, "rms_gates", "capped", mask=True), 64),
    "c150, 16 seeds of 64 rows": (LayerForm(150, "rms_gates", "capped"), 16 * 64),
    "bpe, words, 8 seeds of 64 rows": (LayerForm(256, "rms_gates", "capped", mask=True), 8 * 64),
    "c150:plain, float32": (LayerForm(150, dtype="float32"), 64),
    "c150, float32": (LayerForm(150, "rms_gates", "capped", dtype="float32"), 64),
    "bpe, words, float32": (LayerForm(256, "rms_gates", "capped", mask=True, dtype="float32"), 64),
    "448 units, float32": (LayerForm(448, "rms_gates", "capped", mask=True, dtype="float32"), 64),
    "512 units, float32": (LayerForm(512, "rms_gates", "capped", mask=True, dtype="float32"), 64),
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
    macros, architecture = division.macros(), division.gpu.architecture
    log = compile_and_report(SOURCE, headers=HEADERS, defines=macros, capability=architecture).log
    return {kernel: (int(registers), int(spilled)) for kernel, spilled, registers in _USED.findall(log)}


def main() -> None:
    """Prints a table with a row for each kernel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", choices=GPUS, default="H100")
    gpu = GPUS[parser.parse_args().gpu]
    try:
        version = nvrtc_version()
    except OSError as error:
        parser.exit(2, f"{error}, or, to compile only, nvidia-cuda-nvrtc\n")
    print(f"compute capability {gpu.capability}, NVRTC", ".".join(map(str, version)))
    print("| layer | kernel | blocks | rows | threads | registers | spilled, bytes | shared memory, bytes |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (form, rows) in LAYERS.items():
        division = choose_division(form, rows, gpu)
        if not division:
            print(f"| {name} | too large for a block: runs as fused |" + 6 * " |")
            continue
        used = registers_and_spills(division)
        for plan in (division.forward, division.backward):
            kernel = plan.name.removeprefix("lstm_")
            cells = (name, kernel, division.blocks, division.rows, plan.threads, *used[plan.name], plan.shared)
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
