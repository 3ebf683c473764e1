"""Which implementation computes a cell: `model.backend`, and what "auto" stands for here."""

import functools

import jax

from lovecraft_jax.config import NORMS_IN_CELL, Config, ModelConfig
from lovecraft_jax.model.native import build
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import UserError


def resolve_backend(config: ModelConfig, platform: str = "") -> str:
    """What `config.lstm` of config.model stands for on a platform (JAX's default, if none is named): "auto" is the
    `fastest` that there is.

    Raises UserError where "native" is asked for and cannot be had.
    """
    if config.backend == "auto":
        return fastest_backend(config, platform)
    if config.backend == "native" and (reason := _unsuited(config, platform) or build.start().result()):
        raise UserError(f"config.model.backend='native': {reason}; use auto, which then takes the fused layer")
    return config.backend


def fastest_backend(config: ModelConfig, platform: str = "") -> str:
    """ "native" where this machine and these settings allow it, else "fused"; says so where a compiler is missing. What
    is normalised in its cells runs as "scan"."""
    if config.norm in NORMS_IN_CELL:
        return "scan"
    if _unsuited(config, platform):
        return "fused"
    if reason := build.start().result():
        _log_once(f"slower than it could be: {reason}")
    return "fused" if reason else "native"


def start_compiling(config: ModelConfig) -> None:
    """Begins to compile what `resolve` will ask for, where it is not there yet, while the caller goes on."""
    if config.backend in ("auto", "native") and not _unsuited(config):
        build.start()


def _unsuited(config: ModelConfig, platform: str = "") -> str:
    if (found := platform or jax.default_backend()) != "cpu":
        return f"it runs on CPUs, found {found}"
    if config.dtype != "float32":
        return f"it computes in float32, dtype={config.dtype} was asked for"
    return ""


@functools.cache
def _log_once(what: str) -> None:
    """Once."""
    log(what)


def check_cudnn(config: Config) -> None:
    """Raises UserError where `config` asks for cuDNN and there is none."""
    if config.model.backend == "cudnn" and "cuda" not in (found := jax.devices()[0].client.platform_version).lower():
        kind = jax.default_backend()
        raise UserError(
            f"config.model.backend='cudnn': needs an NVIDIA GPU, found {kind} ({found.splitlines()[0]}); "
            "use fused, which goes on with the same checkpoints"
        )
