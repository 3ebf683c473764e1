"""CUDA kernels without a GPU: NVRTC compiles them, and a stand-in for the driver logs how they are launched."""

import ctypes
import functools
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
from jax.sharding import SingleDeviceSharding

from launch.ahead.topologies import find
from lovecraft_jax.model.cuda import build, launch
from lovecraft_jax.model.cuda.division import H100, Gpu
from lovecraft_jax.model.cuda.launch import Launch
from lovecraft_jax.model.native import build as native
from lovecraft_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
DRIVER = ROOT / "tests" / "helpers" / "cuda_driver.cc"
T, B = 6, 2
FILL = """
#include "value.cuh"
extern "C" __global__ void fill(int* out) { out[threadIdx.x] = value() + OFFSET; }
"""
PLAIN = Launch("key", "scale_and_count", grid=T, threads=96, shared=1000, clear_last=True)
LAUNCHED = "scale_and_count grid {} {} 1 block 96 1 1 shared 1000 stream 64 first {} {}"


def _has_nvrtc() -> bool:
    try:
        return bool(build.nvrtc_version())
    except OSError:
        return False


with_nvrtc = pytest.mark.skipif(not _has_nvrtc(), reason="no NVRTC: pip install nvidia-cuda-nvrtc")
with_compiler = pytest.mark.skipif(
    not any(map(shutil.which, native.COMPILERS)) or sys.platform != "linux", reason="no C++ compiler, or not on Linux"
)


@pytest.fixture
def compile_fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    """Compiles FILL with macros, into a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    header = tmp_path / "value.cuh"
    header.write_text("__device__ int value() { return 40; }")
    return lambda **defines: build.compile_kernels(FILL, headers=[header], defines=defines)


@with_nvrtc
def test_kernels_are_compiled_once_for_each_source_and_macro(
    compile_fill: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = compile_fill(OFFSET=2), compile_fill(OFFSET=3)
    assert first[:4] == second[:4] == b"\x7fELF"
    assert first != second
    assert b"fill" in first
    monkeypatch.delattr(build._Program, "compile")  # from here on there is only the cache
    assert compile_fill(OFFSET=2) == first
    with pytest.raises(AttributeError):
        compile_fill(OFFSET=4)


@with_nvrtc
def test_damaged_cubin_is_compiled_again(compile_fill: Callable[..., bytes], tmp_path: Path) -> None:
    cubin = compile_fill(OFFSET=2)
    (file,) = (tmp_path / "cache").rglob("*.cubin")
    file.write_bytes(b"\0" + cubin[1:])
    assert compile_fill(OFFSET=2) == cubin == file.read_bytes()


@with_nvrtc
def test_error_in_a_source_is_one_line_with_its_place(compile_fill: Callable[..., bytes]) -> None:
    with pytest.raises(OSError, match=r'kernels.cu\(3\): error: identifier "OFFSET" is undefined') as caught:
        compile_fill()
    assert str(caught.value).startswith("NVRTC cannot compile kernels.cu (")
    assert "\n" not in str(caught.value)


@with_nvrtc
def test_report_has_registers_and_spills_of_a_kernel() -> None:
    log = build.compile_and_report('extern "C" __global__ void fill(int* out) { out[threadIdx.x] = 1; }').log
    assert "Compiling entry function 'fill' for 'sm_90a'" in log
    assert "0 bytes spill stores" in log
    assert "registers" in log


def test_without_nvrtc_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_packaged", lambda: [])
    monkeypatch.setattr(ctypes, "CDLL", _no_library)
    with pytest.raises(OSError, match=r"no NVRTC \(libnvrtc.so.13: not there\): pip install 'jax\[cuda13\]'"):
        build._nvrtc.__wrapped__()


def _no_library(name: str) -> None:
    raise OSError(f"{name}: not there")


def test_unavailable_reason_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    unavailable_reason = launch.unavailable_reason.__wrapped__
    assert unavailable_reason() == "it runs on NVIDIA GPUs, found cpu"
    monkeypatch.setattr(launch, "nvrtc_version", lambda: (13, 0))
    monkeypatch.setattr(launch, "_load_launcher", lambda: "no C++ compiler")
    gpus = [SimpleNamespace(device_kind="NVIDIA A100", compute_capability="8.0")]
    monkeypatch.setattr(launch, "_gpus", lambda: gpus)
    assert unavailable_reason() == "no C++ compiler"
    gpus.append(SimpleNamespace(device_kind="NVIDIA B200", compute_capability="10.0"))
    assert unavailable_reason() == (
        "it runs on GPUs of one compute capability, found NVIDIA A100 (8.0), NVIDIA B200 (10.0); "
        "choose with CUDA_VISIBLE_DEVICES"
    )
    del gpus[0]
    assert unavailable_reason() == "no C++ compiler"
    gpus[0] = SimpleNamespace(device_kind="Tesla T4", compute_capability="7.5")
    assert unavailable_reason() == "it runs on GPUs of compute capability 8.0 and newer, found Tesla T4 (7.5)"


def test_gpu_of_a_process_has_what_the_smallest_one_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.this_gpu() == H100
    both = [
        SimpleNamespace(compute_capability="8.6", core_count=count, shared_memory_per_block_optin=101376)
        for count in (82, 28)
    ]
    monkeypatch.setattr(launch, "_gpus", lambda: both)
    assert launch.this_gpu() == Gpu("8.6", 99 * 1024, 28)


def test_without_a_compiler_programs_for_cpus_can_still_be_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setattr(launch, "_library", launch._library.__wrapped__)
    monkeypatch.setattr(launch, "_load_launcher", launch._load_launcher.__wrapped__)
    assert "/no/such/compiler" in launch._load_launcher()
    assert len(_trace(PLAIN, jnp.zeros(T * B))) == 0


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `main` has printed, by the names of its cases."""
    folder = tmp_path_factory.mktemp("driver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXXFLAGS", "-O0")  # compiles faster
        library = native.compile_library(DRIVER, "test", (launch.SOURCES, native.SOURCES))
    shutil.copy(library, folder / "libcuda.so.1")
    program = f"from tests.model.cuda_build_test import main; main({str(folder / 'libcuda.so.1')!r})"
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def main(path: str) -> None:
    """Runs launches with the stand-in on the CPU; prints their logs, results and errors. In a process of its own, as
    nothing can take the place of a driver that is loaded."""
    library = ctypes.CDLL(path)
    library.take_log.restype = ctypes.c_char_p
    native.compile_library = lambda *_: path  # type: ignore[assignment]
    launch._gpus = lambda: [SimpleNamespace(device_kind="GPU", local_hardware_id=n) for n in (0, 1)]
    for target, name in zip(launch.TARGETS, ("launch_on_cpu", "launch_cooperative_on_cpu"), strict=True):
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    launch.register("key", b"a cubin")
    launch.register("bad", b"no cubin")
    one, many = (jnp.arange(2.0 * T * B).reshape(2, T * B), jnp.arange(6.0 * T * B).reshape(2, 3, T * B))
    cases: dict[str, tuple[Launch, Any, tuple[jax.Array, ...]]] = {
        "plain": (PLAIN, _run, (one[0], one[1])),
        "members": (PLAIN, lambda *it: jax.vmap(jax.vmap(lambda a: _run(it[0], a, it[2])))(it[1]), (many, one[0])),
        "no blocks": (PLAIN._replace(grid=0), _run, (one[0], one[1])),
        "pieces": (
            PLAIN._replace(cooperative=True, blocks_at_once=4),
            jax.vmap(_run, (None, 0, None)),
            (one, one[0]),
        ),
        "at once": (PLAIN._replace(cooperative=True), _run, (one[0], one[1])),
        "cluster": (PLAIN._replace(cluster=2), _run, (one[0], one[1])),
        "large cluster": (PLAIN._replace(grid=16, cluster=16, shared=70), lambda *it: _trace(*it), (one[0], one[1])),
        "bad cubin": (PLAIN._replace(key="bad"), _run, (one[0], one[1])),
        "missing": (PLAIN._replace(kernel="missing"), _run, (one[0], one[1])),
        "bad launch": (PLAIN._replace(threads=2000), _run, (one[0], one[1])),
        "operands": (PLAIN, lambda what, a: _call(what, a), (one[0],)),
    }
    found: dict[str, Any] = {"traits": [library.traits_of(cooperative) for cooperative in (0, 1)]}
    for name, (what, run, operands) in cases.items():
        try:
            results = jax.block_until_ready(run(what, *operands))
            found[name] = {"results": [np.asarray(result).tolist() for result in results]}
        except (UserError, jax.errors.JaxRuntimeError) as error:
            found[name] = {"error": str(error)}
        found[name]["log"] = library.take_log().decode().splitlines()
    print(json.dumps(found))


def _run(what: Launch, *operands: jax.Array) -> list[jax.Array]:
    return jax.jit(functools.partial(_call, what))(*operands)


def _trace(what: Launch, *operands: jax.Array) -> list[jax.Array]:
    jax.eval_shape(functools.partial(_call, what), *operands)
    return []


def _call(what: Launch, *operands: jax.Array) -> list[jax.Array]:
    results = [jax.ShapeDtypeStruct((T * B,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)]
    return launch.launch(what, results, operands, T, B)


@with_compiler
def test_kernel_gets_operands_then_results_then_sizes(launches: dict[str, Any]) -> None:
    out, blocks = launches["plain"]["results"]
    assert out == [a + 10.0 * (a + T * B) for a in range(T * B)]
    assert blocks == [T]
    assert launches["plain"]["log"][-2:] == ["memset 0, 4 bytes, stream 64", LAUNCHED.format(T, 1, 0, 0)]


@with_compiler
def test_kernel_is_loaded_on_each_gpu_with_its_shared_memory_before_it_runs(launches: dict[str, Any]) -> None:
    loaded = ["device {}: scale_and_count 8 = 1000", "function scale_and_count"]
    lines = [line.format(gpu) for gpu in (0, 1) for line in ("context {}", *(["cubin"] * (gpu == 0)), *loaded)]
    assert launches["plain"]["log"][:-2] == lines
    assert len(launches["members"]["log"]) == 2  # it is loaded already
    # Only clusters of more than 8 CTAs need a permission, and memory that another launch needs is not taken back.
    assert not any("count 14" in line for line in launches["cluster"]["log"])
    expected = [f"device {gpu}: scale_and_count {what}" for gpu in (0, 1) for what in ("8 = 1000", "14 = 1")]
    assert [line for line in launches["large cluster"]["log"] if " = " in line] == expected


@with_compiler
def test_vmap_adds_members_to_one_launch(launches: dict[str, Any]) -> None:
    out, blocks = launches["members"]["results"]
    a = np.arange(6 * T * B).reshape(2, 3, T * B)
    assert np.array_equal(out, a + 10.0 * np.arange(T * B))
    assert blocks == [[[T]] * 3] * 2
    assert launches["members"]["log"] == ["memset 0, 24 bytes, stream 64", LAUNCHED.format(T, 6, 0, 0)]


@with_compiler
def test_cooperative_launch_is_one_for_each_member_and_piece_of_the_grid(launches: dict[str, Any]) -> None:
    pieces = launches["pieces"]
    assert np.array_equal(pieces["results"][0], np.arange(2 * T * B).reshape(2, -1) + 10.0 * np.arange(T * B))
    assert pieces["results"][1] == [[T], [T]]
    expected = [(4, 1, 0, 0), (2, 1, 4, 0), (4, 1, 0, 1), (2, 1, 4, 1)]
    lines = [line for one in expected for line in (LAUNCHED.format(*one), "  cooperative 1")]
    assert pieces["log"] == ["memset 0, 8 bytes, stream 64", *lines]
    assert launches["at once"]["log"][1:] == [LAUNCHED.format(T, 1, 0, 0), "  cooperative 1"]


@with_compiler
def test_without_blocks_nothing_is_launched(launches: dict[str, Any]) -> None:
    assert launches["no blocks"]["log"] == ["memset 0, 4 bytes, stream 64"]


@with_compiler
def test_launch_states_its_cluster(launches: dict[str, Any]) -> None:
    assert launches["cluster"]["log"][-2:] == [LAUNCHED.format(T, 1, 0, 0), "  cluster 2 1 1"]


@with_compiler
def test_only_launches_that_are_not_cooperative_may_be_recorded_in_a_cuda_graph(launches: dict[str, Any]) -> None:
    assert launches["traits"] == [1, 0]


@with_compiler
def test_errors_name_the_kernel_and_what_the_driver_says(launches: dict[str, Any]) -> None:
    refused = "GPU cannot load CUDA kernel {} ({}); use model.backend=fused"
    assert launches["bad cubin"]["error"] == refused.format("scale_and_count", "bad cubin")
    assert launches["missing"]["error"] == refused.format("missing", "no such kernel")
    assert "CUDA kernel scale_and_count: bad launch (6 blocks of 2000 threads" in launches["bad launch"]["error"]
    expected = "takes a struct of 48 bytes, and 1 operands and 2 results make one of 40"
    assert expected in launches["operands"]["error"]


@pytest.mark.parametrize("change", [{"grid": 7}, {"blocks_at_once": 3}])
def test_clusters_that_do_not_divide_the_blocks_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="clusters of 2 do not divide"):
        launch.launch(PLAIN._replace(cluster=2, **change), [], [], T, B)


@with_compiler
@pytest.mark.slow
@pytest.mark.aot
def test_a_program_with_kernels_compiles_for_an_h100_that_is_not_here() -> None:
    try:
        device = find("h100:1").devices[0]
    except UserError as error:
        pytest.skip(str(error))

    def program(a: jax.Array) -> jax.Array:
        def step(a: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.tanh(_call(PLAIN._replace(cooperative=True), _call(PLAIN, a, a)[0], a)[0]), None

        return jax.lax.scan(step, a, None, 5)[0]

    rows = jax.ShapeDtypeStruct((3, T * B), jnp.float32, sharding=SingleDeviceSharding(device))
    lowered = jax.jit(jax.vmap(program)).trace(rows).lower()
    text = lowered.compile(compiler_options={"xla_gpu_autotune_level": 0}).as_text()
    assert all(f'custom_call_target="{target}"' in text for target in launch.TARGETS)
