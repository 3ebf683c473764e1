"""What a config may say: every value's type and range, and what may differ when a run resumes."""

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from lovecraft_jax.runtime.errors import UserError

Rule = tuple[type, str, Callable[[Any], bool]]


def _at_least(low: float, kind: type = int) -> Rule:
    return kind, f"{kind.__name__} of at least {low}", lambda value: value >= low


def _rate() -> Rule:
    return float, "a float from 0 up to, not including, 1", lambda value: 0 <= value < 1


def _one_of(*choices: str) -> Rule:
    return str, "one of " + ", ".join(choices), lambda value: value in choices


def _above_zero() -> Rule:
    return float, "a finite float above 0", lambda value: 0 < value < float("inf")


RULES: dict[str, Rule] = {
    "seed": (int, "int from 0 to 2**31 - 1", lambda value: 0 <= value < 2**31),
    "data.corpus": (str, "auto, lovecraft, bundled, or a path", bool),
    "data.level": _one_of("chars"),
    "data.regime": _one_of("stream", "window"),
    "data.alphabet": _one_of("ascii", "unicode"),
    "data.share": (float, "a float above 0 and up to 1", lambda value: 0 < value <= 1),
    "data.seq_len": _at_least(1),
    "data.batch_size": _at_least(1),
    "model.lstm": _one_of("auto", "scan", "fused", "native", "cudnn"),
    "model.layers": _at_least(1),
    "model.units": _at_least(1),
    "model.embed": _at_least(0),
    "model.dropout_input": _rate(),
    "model.dropout": _rate(),
    "model.forget_bias": (float, "a finite float", lambda value: abs(value) < float("inf")),
    "model.norm": _one_of("none", "layer", "batch_input", "batch"),
    "model.tie": (bool, "true or false", lambda value: True),
    "model.remat": _at_least(0),
    "model.dtype": _one_of("float32", "bfloat16"),
    "optimizer.lr": _above_zero(),
    "optimizer.schedule": _one_of("cosine", "constant"),
    "optimizer.warmup": _at_least(0),
    "optimizer.end": (float, "a float from 0 to 1", lambda value: 0 <= value <= 1),
    "optimizer.beta1": _rate(),
    "optimizer.beta2": _rate(),
    "optimizer.eps": _above_zero(),
    "optimizer.eps_hat": (bool, "true or false", lambda value: True),
    "optimizer.clip": (float, "a finite float of at least 0", lambda value: 0 <= value < float("inf")),
    "train.loss": _one_of("cross_entropy", "binary_cross_entropy"),
    "train.epochs": (float, "a finite float of at least 0", lambda value: 0 <= value < 1e9),
    "train.steps": _at_least(0),
    "train.stop_at_step": _at_least(0),
    "train.steps_per_dispatch": _at_least(1),
    "train.log_every": _at_least(1),
    "train.eval_every": _at_least(1),
    "train.eval_lanes": _at_least(1),
    "train.checkpoint_every": _at_least(1),
    "train.keep": _at_least(2),
    "train.watchdog": (float, "a finite float of at least 0", lambda value: 0 <= value < 1e9),
    "sample.prompt": (str, "text", lambda value: True),
    "sample.length": _at_least(1),
    "sample.temperature": (float, "a finite float of at least 0", lambda v: 0 <= v < float("inf")),
    "sample.top_k": _at_least(0),
    "sample.top_p": (float, "a float above 0 and up to 1", lambda value: 0 < value <= 1),
}
"""Every key of a config with its type, its range in words, and the test of it."""

BEFORE: dict[str, Any] = {
    "data.share": 1.0,
    "model.forget_bias": 1.0,
    "model.norm": "none",
    "optimizer.eps_hat": False,
    "train.loss": "cross_entropy",
}
"""What runs did from before there was a setting for it."""

FREE_ON_RESUME = (
    "data.corpus",  # the text itself is compared, by its hash
    "model.lstm",
    "model.remat",
    "train.stop_at_step",
    "train.steps_per_dispatch",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep",
    "train.watchdog",
    "sample.",
)
"""Keys (or, ending in a dot, sections) that change how a thing is computed or kept, never what is learnt."""

IN_CELL = ("layer", "batch")
"""Kinds of model.norm that stand in the recurrence, which nn.scan alone can run."""
OF_BATCH = ("batch_input", "batch")
"""Those whose statistics are the batch's, and so all devices'."""


def flatten(config: ConfigDict) -> dict[str, Any]:
    """The config as one flat dictionary: {"model.units": 150, ...}."""
    return dict(_walk(config, ""))


def _walk(config: ConfigDict, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _walk(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def check(config: ConfigDict) -> None:
    """Raises UserError at the first value of the wrong type or out of its range."""
    flat = flatten(config)
    for key in sorted(flat.keys() ^ RULES.keys()):
        told = "is not a setting" if key in flat else "is missing from the config"
        raise UserError(f"config.{key} {told}; configs/c150.py has them all")
    for key, (kind, expected, allowed) in RULES.items():
        value = flat[key]
        accepted = (int, float) if kind is float else (kind,)
        right_type = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
        if not right_type or not allowed(value):
            raise UserError(f"config.{key}={value!r}: expected {expected}")
    if flat["train.epochs"] == 0 and flat["train.steps"] == 0:
        raise UserError("config.train.epochs=0 and config.train.steps=0: set one of them above 0")
    if flat["model.lstm"] in ("native", "cudnn") and flat["model.dtype"] != "float32":
        told = f"config.model.lstm={flat['model.lstm']!r} with dtype={flat['model.dtype']}"
        raise UserError(f"{told}: it computes in float32 only; use auto")
    lstm, norm = flat["model.lstm"], flat["model.norm"]
    if (norm in IN_CELL and lstm not in ("auto", "scan")) or (norm != "none" and lstm == "cudnn"):
        raise UserError(f"config.model.lstm={lstm!r} with norm={norm!r}: it cannot be had there; use auto")
    if flat["model.remat"] and norm in OF_BATCH:
        raise UserError(
            f"config.model.remat={flat['model.remat']} with norm={norm!r}: its statistics are those of all time steps, "
            "not of a chunk; use remat=0, or norm='layer'"
        )
    if flat["model.remat"] and flat["data.seq_len"] % flat["model.remat"]:
        raise UserError(
            f"config.model.remat={flat['model.remat']}: data.seq_len={flat['data.seq_len']} does not divide by it"
        )
    if flat["model.tie"] and flat["model.embed"] != flat["model.units"]:
        raise UserError(
            f"config.model.tie=True with embed={flat['model.embed']} and units={flat['model.units']}: "
            "tied weights need embed equal to units"
        )


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What stands in the way of resuming: "key: old -> new" for every key not free to change."""
    old = BEFORE | old
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if not key.startswith(FREE_ON_RESUME) and old.get(key) != new.get(key)
    ]
