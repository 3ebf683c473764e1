"""A compiled CUDA kernel's launch as a JAX operation. cpp/launch.cc does the launching.

No GPU has run it yet: tests/model/cuda_build_test.py runs it with a stand-in for the CUDA driver.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lovecraft_jax.model.cuda.build import nvrtc_version
from lovecraft_jax.model.cuda.division import H100, Gpu
from lovecraft_jax.model.native import build as native
from lovecraft_jax.runtime.errors import UserError

SOURCES = Path(__file__).with_name("cpp")
TARGET, COOPERATIVE_TARGET = TARGETS = ("lovecraft_cuda_launch", "lovecraft_cuda_launch_cooperative")
LEAST_CAPABILITY = 8.0


class Launch(NamedTuple):
    """How a kernel is launched for one member of a vmap; without vmap there is one.

    `key` names the compiled kernels (`register`), `kernel` is the function in them, extern "C" __global__. `grid`:
    blocks for all rows. `threads` of a block. `shared`: bytes of dynamic shared memory of a block. `cluster`: CTAs of a
    cluster, 1 for none; it must divide `grid`. `cooperative`: all blocks of a launch run at the same time. Then
    `blocks_at_once`, which `cluster` must divide, are the most of one launch: it has as many members as fit, or a part
    of one member's grid; with 0 each member is a launch. `clear_last`: fills the last result with zeros first.

    The kernel takes one struct by value: the pointers to all operands, then to all results, then int32 T, B,
    first_block and first_member. Its member is first_member + blockIdx.y, its block first_block + blockIdx.x; arrays
    have an axis of members in front, and the kernel adds the offset.
    """

    key: str
    kernel: str
    grid: int
    threads: int
    shared: int
    cluster: int = 1
    cooperative: bool = False
    blocks_at_once: int = 0
    clear_last: bool = False


def register(key: str, cubin: bytes) -> None:
    """Gives the launcher compiled kernels (build.compile_kernels) under a key; the same again does nothing.

    Works without a GPU, as ahead-of-time compilation needs it. Raises OSError where the launcher cannot be compiled,
    ValueError where other kernels have the key.
    """
    if not _library().lovecraft_cuda_register(key.encode(), cubin, len(cubin)):
        raise ValueError(f"other kernels are registered as {key!r}")


def launch(
    config: Launch, results: Sequence[jax.ShapeDtypeStruct], operands: Sequence[jax.Array], T: int, B: int
) -> list[jax.Array]:
    """Returns a kernel's results. Under jax.vmap every operand and result gets the same leading axes of members.

    Raises UserError with the driver's message where a GPU of this process cannot load the kernel: here, where a program
    is traced, not when it runs, as it may then be inside the capture of a CUDA graph.
    """
    if config.grid % config.cluster or config.blocks_at_once % config.cluster:
        blocks = f"{config.grid} blocks, {config.blocks_at_once} at once"
        raise ValueError(f"clusters of {config.cluster} do not divide {blocks}")
    _load_launcher()  # with or without a GPU, as XLA looks for its targets when it compiles
    _prepare(config.key, config.kernel, config.shared, config.cluster)
    target = COOPERATIVE_TARGET if config.cooperative else TARGET
    call = jax.ffi.ffi_call(target, list(results), vmap_method="broadcast_all")
    found = call(
        *operands,
        key=config.key,
        kernel=config.kernel,
        grid=np.int32(config.grid),
        threads=np.int32(config.threads),
        shared=np.int32(config.shared),
        cluster=np.int32(config.cluster),
        blocks_at_once=np.int32(config.blocks_at_once),
        clear_last=np.int32(config.clear_last),
        T=np.int32(T),
        B=np.int32(B),
        batch_rank=np.int32(operands[0].ndim),
    )
    return list(found)


@functools.cache
def unavailable_reason() -> str:
    """Why kernels cannot run in this process, and what to do about it, in one line; "" where they can."""
    devices = _gpus()
    if not devices:
        return f"it runs on NVIDIA GPUs, found {jax.default_backend()}"
    kinds = {device.compute_capability: f"{device.device_kind} ({device.compute_capability})" for device in devices}
    found = ", ".join(kinds.values())
    if len(kinds) > 1:
        return f"it runs on GPUs of one compute capability, found {found}; choose with CUDA_VISIBLE_DEVICES"
    if float(devices[0].compute_capability) < LEAST_CAPABILITY:
        return f"it runs on GPUs of compute capability {LEAST_CAPABILITY} and newer, found {found}"
    try:
        nvrtc_version()
    except OSError as error:
        return str(error)
    return _load_launcher()


def this_gpu() -> Gpu:
    """Returns what this process's GPUs have, the least of them where they differ; an H100 where there is none."""
    devices = _gpus()
    if not devices:
        return H100
    shared_limit = min(device.shared_memory_per_block_optin for device in devices)
    return Gpu(devices[0].compute_capability, shared_limit, min(device.core_count for device in devices))


@functools.cache
def _load_launcher() -> str:
    """Loads the launcher. Returns why it cannot be loaded, "" where it can; without a GPU it is needed only to compile
    for one."""
    try:
        _library()
    except (OSError, AttributeError) as error:
        return str(error)
    return ""


@functools.cache
def _library() -> Any:
    """Returns the launcher, registered for XLA. Raises OSError where it cannot be compiled or loaded."""
    library = ctypes.CDLL(str(native.compile_library(SOURCES / "launch.cc", "cuda", (native.SOURCES,))))
    library.lovecraft_cuda_register.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    library.lovecraft_cuda_prepare.argtypes = (ctypes.c_char_p, ctypes.c_char_p, *3 * (ctypes.c_int,))
    library.lovecraft_cuda_prepare.restype = ctypes.c_char_p
    for target in TARGETS:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="CUDA")
    return library


@functools.cache
def _prepare(key: str, kernel: str, shared: int, cluster: int) -> None:
    """Loads a kernel on each GPU of this process. Raises UserError where that fails."""
    for device in _gpus():
        call = _library().lovecraft_cuda_prepare
        if error := call(key.encode(), kernel.encode(), shared, cluster, device.local_hardware_id):
            raise UserError(
                f"{device.device_kind} cannot load CUDA kernel {kernel} ({error.decode()}); use model.backend=fused"
            )


def _gpus() -> list[Any]:
    """Returns the NVIDIA GPUs of this process, none where JAX has no backend for them."""
    try:
        return jax.local_devices(backend="cuda")
    except RuntimeError:
        return []
