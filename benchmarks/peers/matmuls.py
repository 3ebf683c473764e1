"""The roofline: a large float32 matmul in three libraries."""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

SIZE = 1024
FLOPS = 2 * SIZE**3
"""Floating-point operations of one matmul."""


def in_numpy(config: ConfigDict) -> Callable[[int], None]:
    """OpenBLAS."""
    del config
    a, b = _operands()
    out = np.empty_like(a)

    def matmuls(count: int) -> None:
        for _ in range(count):
            np.matmul(a, b, out=out)

    return matmuls


def in_jax(config: ConfigDict) -> Callable[[int], None]:
    """XLA, with this project's compiler options."""
    import jax

    from lovecraft_jax.training.compiled import COMPILER_OPTIONS

    del config
    a, b = map(jax.device_put, _operands())
    platform = jax.devices()[0].platform
    matmul = jax.jit(lambda a, b: a @ b, compiler_options=COMPILER_OPTIONS.get(platform))

    def matmuls(count: int) -> None:
        for _ in range(count):
            result = matmul(a, b)
        result.block_until_ready()

    return matmuls


def in_torch(config: ConfigDict) -> Callable[[int], None]:
    """MKL."""
    import torch

    del config
    a, b = map(torch.from_numpy, _operands())
    out = torch.empty_like(a)

    def matmuls(count: int) -> None:
        for _ in range(count):
            torch.matmul(a, b, out=out)

    return matmuls


def _operands() -> list[np.ndarray]:
    return list(np.random.default_rng(0).standard_normal((2, SIZE, SIZE), np.float32))
