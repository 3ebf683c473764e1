"""What is compared: settings by name, each a config of its own, and the questions that they answer together."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from configs import c150
from lovecraft_jax.config import Config, flatten

CONTEXTS = (10, 30, 50, 100, 200)
UNITS = (100, 125, 150, 256, 512)
RATES = (0.001, 0.002, 0.004, 0.008, 0.016)
SHARES = (0.1, 0.25, 0.5, 1.0)
NORMS = {
    "none": "none",
    "layer": "LayerNorm (Ba 2016)",
    "batch_input": "BatchNorm between layers (Laurent 2015)",
    "batch": "BatchNorm in the cell (Cooijmans 2016)",
}
LADDER: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("article", "the article's recipe", {}),
    ("cross-entropy", "+ categorical cross-entropy", {"train.loss": "cross_entropy"}),
    ("carry", "+ the carry across batches", {"data.regime": "stream"}),
    ("clip", "+ clipping", {"optimizer.clip": 1.0}),
    (
        "schedule",
        "+ c150's falling rate and Adam, batches of 64",
        {"optimizer": c150.get_config().optimizer.to_dict(), "data.batch_size": 64},
    ),
    ("embedding", "+ an embedding: c150", {"model.embed": 64}),
    ("dropout", "+ dropout of 0.1", {"model.dropout": 0.1}),
)
"""Name, label, and what each rung changes besides all that those before it did."""
FREE_OF_COST = ("data.share", "model.forget_bias", "optimizer.lr", "optimizer.schedule")
"""Settings that change nothing of what a step costs."""
BEST = "embedding"
"""The rung that is c150, which the side questions start from."""
PEAK = c150.get_config().optimizer.lr
"""c150's learning rate, after the warmup."""


@dataclasses.dataclass(frozen=True)
class Rung:
    """A line of a question's table: a setting, what it stands for there, and of which of its texts the style is."""

    setting: str
    label: str
    text: str = "written"  # whose style stands there, or "teacher_forced"


@dataclasses.dataclass(frozen=True)
class Question:
    """Settings held against one another: each against the one `before` it, or all against the setting `beside`."""

    title: str
    rungs: tuple[Rung, ...]
    beside: str = ""


def questions() -> dict[str, Question]:
    """Every question by its name, the most telling first."""
    first, *others = (Rung(name, label) for name, label, _ in LADDER)
    ladder = (
        dataclasses.replace(first, text="teacher_forced"),
        dataclasses.replace(first, label="+ writing, not guessing under the text"),
        *others,
    )
    return {
        "ladder": Question("What went wrong, one rung at a time", ladder),
        "context": Question(
            "Characters of context",
            tuple(
                Rung(_context(T, carried), f"{T}, with the carry" if carried else f"trained in windows of {T}")
                for carried in (False, True)
                for T in CONTEXTS
            ),
            beside=_context(50, True),
        ),
        "norm": Question("Normalisation", tuple(Rung(_norm(kind), label) for kind, label in NORMS.items()), BEST),
        "rate": Question(
            "Learning rate",
            (*(Rung(_rate(lr), f"{lr:g}, falling") for lr in RATES), Rung("rate-constant", f"{PEAK:g}, constant")),
            BEST,
        ),
        "tales": Question("Of the tales", tuple(Rung(_share(part), f"{part:.0%}") for part in SHARES), BEST),
        "units": Question("Units of each layer", tuple(Rung(_units(H), str(H)) for H in UNITS), BEST),
        "forget": Question(
            "The forget gate's bias, at first", (Rung(BEST, "1, as Keras has it"), Rung("forget-0", "0")), BEST
        ),
    }


def get_config(setting: str) -> ConfigDict:
    """The config of a setting; how long it trains is another matter."""
    return _CONFIGS[setting].copy_and_resolve_references()


def paced_as(setting: str) -> str:
    """The first setting whose steps cost as much: one that differs in nothing but numbers."""
    return next(name for name in _CONFIGS if _cost(name) == _cost(setting))


def _cost(setting: str) -> dict[str, Any]:
    return {key: value for key, value in flatten(Config.of(_CONFIGS[setting])).items() if key not in FREE_OF_COST}


def settings() -> tuple[str, ...]:
    """All names."""
    return tuple(_CONFIGS)


def _changed(config: ConfigDict, changes: dict[str, Any]) -> ConfigDict:
    changed = config.copy_and_resolve_references()
    for key, value in changes.items():
        if isinstance(value, dict):
            changed[key].update(value)
        else:
            changed.update_from_flattened_dict({key: value})
    return changed


def _context(T: int, carried: bool) -> str:
    return BEST if carried and T == 50 else f"{'carry' if carried else 'window'}-{T}"


def _norm(kind: str) -> str:
    return BEST if kind == "none" else f"norm-{kind}"


def _rate(lr: float) -> str:
    return BEST if lr == PEAK else f"rate-{lr:g}"


def _share(part: float) -> str:
    return BEST if part == 1 else f"tales-{part:.0%}".rstrip("%")


def _units(H: int) -> str:
    return BEST if H == 150 else f"units-{H}"


def _all() -> dict[str, ConfigDict]:
    configs, config = {}, c150.get_config("article")
    for name, _, changes in LADDER:
        config = configs[name] = _changed(config, changes)
    best = configs[BEST]
    side: dict[str, dict[str, Any]] = {
        _context(T, carried): {"data.seq_len": T, "data.regime": "stream" if carried else "window"}
        for carried in (False, True)
        for T in CONTEXTS
    }
    side |= {_norm(kind): {"model.norm": kind} for kind in NORMS}
    side |= {_rate(lr): {"optimizer.lr": lr} for lr in RATES}
    side |= {"rate-constant": {"optimizer.schedule": "constant"}}
    side |= {_share(part): {"data.share": part} for part in SHARES}
    side |= {_units(H): {"model.units": H} for H in UNITS}
    side |= {"forget-0": {"model.forget_bias": 0.0}}
    return configs | {name: _changed(best, changes) for name, changes in side.items() if name != BEST}


_CONFIGS = _all()
