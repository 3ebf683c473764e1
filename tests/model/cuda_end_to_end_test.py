"""The layer with model.backend="cuda", from JAX through XLA and launch.cc to the kernels' own source, which a stand-in
for the CUDA driver runs on the CPU."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lovecraft_jax.model.cuda import build, division, launch, layer
from lovecraft_jax.model.cuda.division import LayerForm, choose_division
from lovecraft_jax.model.native import build as native
from tests.model.cuda_build_test import DRIVER, ROOT, with_compiler
from tests.model.cuda_layer_test import relative_error, value_and_gradients
from tests.model.lstm_variants_test import draw

pytestmark = [pytest.mark.slow, with_compiler]
MEMBERS, ROWS = 2, 64
CASES = {"cluster": ("rms_gates", "capped", True), "group": ("layer_gates", "coupled", True)}
"""Norm, input gate, whether a dropout mask multiplies h."""
UNITS = 40


@pytest.mark.parametrize("case", CASES)
def test_the_kernels_that_xla_launches_equal_the_layer_in_jnp(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _divide_differently(case, monkeypatch.setattr)
    divided = choose_division(_form(case), ROWS)
    assert divided
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
    assert max(found["errors"]) < (4e-2 if "capped" in CASES[case] else 1e-2)
    launched = [line for line in found["log"] if "grid" in line]
    blocks = divided.blocks
    if case == "group":  # each member, and of each one group after the other
        groups = ROWS // divided.rows
        expected = [
            f"lstm_{kernel} grid {blocks} 1" for kernel in ("forward", "backward") for _ in range(MEMBERS * groups)
        ]
    else:
        expected = [f"lstm_{kernel} grid {ROWS // 8 * blocks} {MEMBERS}" for kernel in ("forward", "backward")]
    assert launched == expected


def main(case: str, path: str) -> None:
    """Prints the errors of the kernels' results, and what the driver was asked for."""
    norm, input_gate, masked = CASES[case]
    several = [draw(input_gate, norm, masked, UNITS, rows=ROWS, seed=seed) for seed in range(MEMBERS)]
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *several)
    _divide_differently(case, setattr)

    def run(given: Any) -> Any:
        return jax.vmap(lambda one: value_and_gradients(one, input_gate, norm))(given)

    want = run(stacked)
    library = ctypes.CDLL(path)
    library.take_log.restype = ctypes.c_char_p
    native.compile_library = lambda *_: path  # type: ignore[assignment]
    build.compile_kernels = lambda *_, **__: b"a cubin"
    layer.unavailable_reason = lambda: ""
    layer.lax = SimpleNamespace(platform_dependent=lambda *operands, cuda, default: cuda(*operands))  # type: ignore[attr-defined]
    launch._gpus = lambda: [SimpleNamespace(device_kind="GPU", local_hardware_id=0, core_count=132)]
    for target, name in zip(launch.TARGETS, ("launch_on_cpu", "launch_cooperative_on_cpu"), strict=True):
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    for cache in (layer.compile_and_register, launch._prepare, launch._library, launch._load_launcher):
        cache.cache_clear()
    jax.clear_caches()
    got = jax.block_until_ready(run(stacked))
    errors = jax.tree.leaves(jax.tree.map(relative_error, got, want))
    print(json.dumps({"errors": errors, "log": library.take_log().decode().splitlines()}))


def _form(case: str) -> LayerForm:
    norm, input_gate, masked = CASES[case]
    return LayerForm(UNITS, norm, input_gate, masked)


def _divide_differently(case: str, put: Callable[[Any, str, Any], None]) -> None:
    """Makes small groups, of which one runs at a time: as for many units, in less time."""
    put(division, "CLUSTER_UNITS", 0 if case == "group" else 512)
    put(layer, "GROUP_BLOCKS", 4)
