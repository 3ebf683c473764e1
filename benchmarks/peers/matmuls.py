"""The roofline: large matmuls in three libraries, and copies of a large array."""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

SIZE = {"cpu": 1024, "gpu": 8192}
"""Rows and columns."""
COPIED = {"cpu": 1 << 26, "gpu": 1 << 30}
"""Bytes of the copied array."""


def flops(device: str) -> float:
    """Returns the floating-point operations of one matmul."""
    return 2.0 * SIZE[device] ** 3


def copied_bytes(device: str) -> float:
    """Returns the bytes that one copy reads and writes."""
    return 2.0 * COPIED[device]


def in_numpy(config: ConfigDict) -> Callable[[int], None]:
    """OpenBLAS, on a CPU whatever else there is."""
    del config
    a, b = _operands("cpu")
    out = np.empty_like(a)

    def matmuls(count: int) -> None:
        for _ in range(count):
            np.matmul(a, b, out=out)

    return matmuls


def in_jax(config: ConfigDict, dtype: str = "float32") -> Callable[[int], None]:
    """XLA, with this project's compiler options. On a GPU float32 operands are rounded to TF32, which is JAX's
    default."""
    import jax

    from lovecraft_jax.training.compiled import COMPILER_OPTIONS

    del config
    device = jax.default_backend()
    a, b = (jax.device_put(operand).astype(dtype) for operand in _operands(device))
    matmul = jax.jit(lambda a, b: a @ b, compiler_options=COMPILER_OPTIONS.get(device))

    def matmuls(count: int) -> None:
        for _ in range(count):
            result = matmul(a, b)
        result.block_until_ready()

    return matmuls


def in_torch(config: ConfigDict, precision: str = "float32") -> Callable[[int], None]:
    """MKL or cuBLAS."""
    import torch

    from benchmarks.peers.pytorch import choose_precision, wait

    del config
    device, dtype = choose_precision(precision)
    operands = _operands("cpu" if device == "cpu" else "gpu")
    a, b = (torch.from_numpy(operand).to(device, dtype) for operand in operands)
    out = torch.empty_like(a)

    def matmuls(count: int) -> None:
        for _ in range(count):
            torch.matmul(a, b, out=out)
        wait()

    return matmuls


def copy_in_jax(config: ConfigDict) -> Callable[[int], None]:
    """Reads and writes an array that no cache holds; XLA leaves out a copy that changes nothing."""
    import jax
    import jax.numpy as jnp

    del config
    x = jnp.zeros(COPIED[jax.default_backend()] // 4)
    negate = jax.jit(jnp.negative, donate_argnums=0)

    def copies(count: int) -> None:
        nonlocal x
        for _ in range(count):
            x = negate(x)
        x.block_until_ready()

    return copies


def _operands(device: str) -> list[np.ndarray]:
    size = SIZE[device]
    return list(np.random.default_rng(0).standard_normal((2, size, size), np.float32))
