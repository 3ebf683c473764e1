"""The layer with model.backend="cuda", from JAX through XLA and launch.cc to the kernels' own source, which a stand-in
for the CUDA driver runs on the CPU."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lovecraft_jax.model.cuda import build, launch, layer
from lovecraft_jax.model.cuda.division import GPUS, LayerForm, choose_division
from lovecraft_jax.model.native import build as native
from tests.model import lstm_variants_test
from tests.model.cuda_build_test import DRIVER, ROOT, with_compiler
from tests.model.cuda_layer_test import relative_error
from tests.model.lstm_variants_test import draw

pytestmark = [pytest.mark.slow, with_compiler, pytest.mark.usefixtures("unoptimized")]
MEMBERS, ROWS = 3, 64
UNITS = 40
H100, A100, L4 = GPUS["H100"], GPUS["A100"], GPUS["L4"]
CASES = {
    "cluster": (H100, LayerForm(UNITS, "rms_gates", "capped", mask=True)),
    "group": (A100._replace(multiprocessors=2), LayerForm(UNITS, "layer_gates", "coupled", mask=True)),
    "float32": (H100, LayerForm(UNITS, "rms_gates", "capped", mask=True, dtype="float32")),
    "group, float32": (L4, LayerForm(UNITS, "rms_gates", "own", dtype="float32")),
    "wide blocks": (H100._replace(multiprocessors=32), LayerForm(UNITS, "rms_gates", "own", dtype="float32")),
    "no gradient": (H100, LayerForm(UNITS, "layer_gates", "own", dtype="float32", saves=False)),
}
"""Groups of "group" run one at a time, those of "group, float32" all at once. Because of the members, clusters of "wide
blocks" have one block in place of two."""
MOST_ERROR = {"cluster": 4e-2, "group": 1e-2, "no gradient": 1e-4} | dict.fromkeys(
    ("float32", "group, float32", "wide blocks"), 1e-3
)
"""Of capped gates in bfloat16, where rounding decides which of i and 1 - f the gate is, the most."""


@pytest.mark.parametrize("case", CASES)
def test_the_kernels_that_xla_launches_equal_the_layer_in_jnp(case: str, tmp_path: Path) -> None:
    gpu, form = CASES[case]
    divided = choose_division(form, ROWS, gpu, MEMBERS)
    assert divided
    assert (divided.blocks == 1) == (case == "wide blocks")
    macros = [f"-D{name}={value}" for name, value in divided.macros().items()]
    folders = [f"-I{layer.SOURCE.parent}", f"-I{Path(__file__).with_name('cuda')}"]
    options = ["-O1", "-U_FORTIFY_SOURCE", "-fno-strict-aliasing", "-DLSTM_ON_CPU", *macros, *folders]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXXFLAGS", " ".join(options))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        library = native.compile_library(DRIVER, "test", (launch.SOURCES, native.SOURCES))
    shutil.copy(library, tmp_path / "libcuda.so.1")
    program = f"from tests.model.cuda_end_to_end_test import main; main({case!r}, {str(tmp_path / 'libcuda.so.1')!r})"
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert max(found["errors"]) < MOST_ERROR[case]
    launched = [line for line in found["log"] if "grid" in line]
    kernels = ("forward", "backward") if form.saves else ("forward",)
    all_blocks = ROWS // divided.rows * divided.blocks
    if case == "group":  # of each member one group after the other
        grids = MEMBERS * (all_blocks // divided.blocks_at_once) * [f"{divided.blocks_at_once} 1"]
        assert len(grids) == 2 * MEMBERS
    else:
        grids = [f"{all_blocks} {MEMBERS}"]
    expected = [f"lstm_{kernel} grid {grid}" for kernel in kernels for grid in grids]
    assert launched == expected
    assert set(found["compiled for"]) == {gpu.architecture}


def main(case: str, path: str) -> None:
    """Prints the errors of the kernels' results, and what the driver was asked for."""
    gpu, form = CASES[case]
    several = [draw(form.input_gate, form.norm, form.mask, UNITS, rows=ROWS, seed=seed) for seed in range(MEMBERS)]
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *several)

    def run(given: Any) -> Any:
        compute = lstm_variants_test.value_and_gradients if form.saves else lstm_variants_test.run
        what = form.input_gate, form.norm, "cuda", jnp.dtype(form.dtype)
        return jax.vmap(lambda one: compute(one, *what))(given)

    want = run(stacked)
    library = ctypes.CDLL(path)
    library.take_log.restype = ctypes.c_char_p
    native.compile_library = lambda *_: path  # type: ignore[assignment]
    compiled: list[str] = []
    build.compile_kernels = lambda *_, capability, **__: compiled.append(capability) or b"a cubin"
    layer.unavailable_reason = lambda: ""
    layer.lax = SimpleNamespace(platform_dependent=lambda *operands, cuda, default: cuda(*operands))  # type: ignore[attr-defined]
    device = SimpleNamespace(
        device_kind="GPU",
        local_hardware_id=0,
        compute_capability=gpu.capability,
        core_count=gpu.multiprocessors,
        shared_memory_per_block_optin=gpu.shared_limit,
    )
    launch._gpus = lambda: [device]
    for target, name in zip(launch.TARGETS, ("launch_on_cpu", "launch_cooperative_on_cpu"), strict=True):
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    for cache in (layer.compile_and_register, launch._prepare, launch._library, launch._load_launcher):
        cache.cache_clear()
    jax.clear_caches()
    got = jax.block_until_ready(run(stacked))
    errors = jax.tree.leaves(jax.tree.map(relative_error, got, want))
    log = library.take_log().decode().splitlines()
    print(json.dumps({"errors": errors, "log": log, "compiled for": compiled}))
