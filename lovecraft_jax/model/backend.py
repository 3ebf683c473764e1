"""Which implementation computes a cell: `model.backend`, and what "auto" stands for here."""

import functools

import jax
from ml_collections import ConfigDict

from lovecraft_jax.model.native import build
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.settings import BEFORE, IN_CELL


def resolve(settings: ConfigDict, platform: str = "") -> str:
    """What `settings.lstm` of config.model stands for on a platform (JAX's default, if none is named): "auto" is the
    `fastest` that there is.

    Raises UserError where "native" is asked for and cannot be had.
    """
    if settings.lstm == "auto":
        return fastest(settings, platform)
    if settings.lstm == "native" and (reason := _unsuited(settings, platform) or build.start().result()):
        raise UserError(f"config.model.lstm='native': {reason}; use auto, which then takes the fused layer")
    return settings.lstm


def fastest(settings: ConfigDict, platform: str = "") -> str:
    """ "native" where this machine and these settings allow it, else "fused"; says so where a compiler is missing. What
    is normalised in its cells runs as "scan"."""
    if settings.get("norm", BEFORE["model.norm"]) in IN_CELL:
        return "scan"
    if _unsuited(settings, platform):
        return "fused"
    if reason := build.start().result():
        _log_once(f"slower than it could be: {reason}")
    return "fused" if reason else "native"


def prepare(settings: ConfigDict) -> None:
    """Begins to compile what `resolve` will ask for, where it is not there yet, while the caller goes on."""
    if settings.lstm in ("auto", "native") and not _unsuited(settings):
        build.start()


def _unsuited(settings: ConfigDict, platform: str = "") -> str:
    if (found := platform or jax.default_backend()) != "cpu":
        return f"it runs on CPUs, found {found}"
    if settings.dtype != "float32":
        return f"it computes in float32, dtype={settings.dtype} was asked for"
    return ""


@functools.cache
def _log_once(what: str) -> None:
    """Once."""
    log(what)


def check(config: ConfigDict) -> None:
    """Raises UserError where `config` asks for cuDNN and there is none."""
    if config.model.lstm == "cudnn" and "cuda" not in (found := jax.devices()[0].client.platform_version).lower():
        kind = jax.default_backend()
        raise UserError(
            f"config.model.lstm='cudnn': needs an NVIDIA GPU, found {kind} ({found.splitlines()[0]}); "
            "use fused, which goes on with the same checkpoints"
        )
