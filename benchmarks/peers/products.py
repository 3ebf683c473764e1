"""The roofline: a large float32 matrix product, as three libraries make it."""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

SIZE = 1024
FLOPS = 2 * SIZE**3
"""Of one product."""


def _operands() -> list[np.ndarray]:
    return list(np.random.default_rng(0).standard_normal((2, SIZE, SIZE), np.float32))


def in_numpy(config: ConfigDict) -> Callable[[int], None]:
    """OpenBLAS."""
    del config
    a, b = _operands()
    out = np.empty_like(a)

    def products(count: int) -> None:
        for _ in range(count):
            np.matmul(a, b, out=out)

    return products


def in_jax(config: ConfigDict) -> Callable[[int], None]:
    """XLA, with what this project tells its compiler."""
    import jax

    from lovecraft_jax.training.compiled import COMPILER_OPTIONS

    del config
    a, b = map(jax.device_put, _operands())
    platform = jax.devices()[0].platform
    product = jax.jit(lambda a, b: a @ b, compiler_options=COMPILER_OPTIONS.get(platform))

    def products(count: int) -> None:
        for _ in range(count):
            result = product(a, b)
        result.block_until_ready()

    return products


def in_torch(config: ConfigDict) -> Callable[[int], None]:
    """MKL."""
    import torch

    del config
    a, b = map(torch.from_numpy, _operands())
    out = torch.empty_like(a)

    def products(count: int) -> None:
        for _ in range(count):
            torch.matmul(a, b, out=out)

    return products
