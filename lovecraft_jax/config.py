"""Every setting of a run: its type, its range, its default, and whether it may change when a run resumes.

configs/*.py build ConfigDicts, which flags can change. `Config.of` turns one into the frozen dataclasses below, once,
at the top; everything beneath takes these. To add a setting, add its line here and the line that uses it, with a
default that changes nothing for earlier runs, so that their config.json still loads.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

from ml_collections import ConfigDict, config_dict

from lovecraft_jax.runtime.checks import checked, shown
from lovecraft_jax.runtime.errors import UserError

REQUIRED: Any = dataclasses.MISSING

NORMS_IN_CELL = ("layer", "batch")  # of the cell state too; only the scan backend has them
NORMS_OF_BATCH = ("batch_input", "batch")  # with the statistics of the whole batch, over all devices
NORMS_OF_GATES = ("layer_gates", "rms_gates")  # of each gate before its activation, with the statistics of its H values


def setting(
    expected: str,
    allowed: Callable[[Any], bool] = lambda value: True,
    default: Any = REQUIRED,
    resume: str = "same",
    by_size: bool = False,
) -> Any:
    """A field of a section. `allowed` checks a value beyond its type; `expected` describes it in error messages. Every
    config must give a value where there is no `default`. With resume="free" a run may resume with another value: the
    setting changes how something is computed or kept, and never what is learnt. A setting with `by_size` may be None:
    then training/settings_by_size.py chooses it when the run begins, before anything uses it."""
    metadata = {"expected": expected, "allowed": allowed, "resume": resume, "by_size": by_size}
    return dataclasses.field(default=default, kw_only=True, metadata=metadata)


boolean = partial(setting, "true or false")
probability = partial(setting, "a float from 0 up to, not including, 1", lambda value: 0 <= value < 1)
positive = partial(setting, "a finite float above 0", lambda value: 0 < value < float("inf"))
fraction = partial(setting, "a float above 0 and up to 1", lambda value: 0 < value <= 1)


def at_least(
    low: int, default: Any = REQUIRED, resume: str = "same", most: float = float("inf"), by_size: bool = False
) -> Any:
    """An integer setting, of at least `low` and at `most`."""
    expected = f"int of at least {low}" if most == float("inf") else f"int from {low} to {most}"
    return setting(expected, lambda value: low <= value <= most, default, resume, by_size)


def one_of(*choices: str, default: Any = REQUIRED, resume: str = "same") -> Any:
    """A string setting, with these choices."""
    return setting("one of " + ", ".join(choices), lambda value: value in choices, default, resume)


def nonnegative(
    default: Any = REQUIRED, below: float = float("inf"), resume: str = "same", by_size: bool = False
) -> Any:
    """A finite float setting, of at least 0 and `below` something."""
    expected = "a finite float of at least 0" + ("" if below == float("inf") else f" and below {below:g}")
    return setting(expected, lambda value: 0 <= value < below, default, resume, by_size)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """config.data: the text, its tokens, and how batches are cut from it."""

    # On resume the text itself is compared, by its hash.
    corpus: str = setting("auto, a dataset of data/corpus.py, or a path", bool, resume="free")
    level: str = one_of("chars", "bpe", "words")
    vocab_size: int = at_least(2, default=2000, most=2**20)  # ids at most, of all levels but chars
    min_count: int = at_least(1, default=2)  # for level="words": how often a word with an id of its own occurs
    # For level="words": what the others become (data/word_tokenizer.py).
    rare: str = one_of("spell", "cluster", "class", "unk", "drop", default="spell")
    # For level="bpe": how likely a merge of the training text is dropped, by other draws in each epoch
    # (data/bpe_dropout.py).
    bpe_dropout: float = probability(default=0.0)
    regime: str = one_of("stream", "window")
    alphabet: str = one_of("ascii", "unicode")
    share: float = fraction(default=1.0)
    seq_len: int = at_least(1)
    batch_size: int = at_least(1)

    def __post_init__(self) -> None:
        if self.bpe_dropout and self.level != "bpe":
            raise UserError(
                f"config.data.bpe_dropout={self.bpe_dropout} with level={self.level!r}: only level='bpe' has merges to "
                "drop; use that, or bpe_dropout=0"
            )
        for name in ("rare", "min_count"):
            value, default = getattr(self, name), getattr(DataConfig, name)
            if self.level != "words" and value != default:
                raise UserError(
                    f"config.data.{name}={value!r} with level={self.level!r}: only level='words' has rare words; use "
                    f"that, or {name}={default!r}"
                )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """config.model: what is computed (cell, sizes, norm, dropout) and how (backend, remat, dtype)."""

    cell: str = one_of("lstm", "gru", default="lstm")
    # The LSTM's: i of its own, i = min(i, 1 - f), or i = 1 - f.
    input_gate: str = one_of("own", "capped", "coupled", default="own")
    backend: str = one_of(
        "auto", "scan", "fused", "blocks", "wavefront", "native", "cuda", default="auto", resume="free"
    )
    layers: int = at_least(1, most=1000)  # each is traced and compiled on its own
    units: int = at_least(1, most=2**20)  # beyond the memory of any machine, and XLA aborts where sizes overflow
    embed: int = at_least(0, most=2**20)
    # The initial scale of the embedding and of kernel_x (model/cell.py, model/lm.py).
    init_scale: str = one_of("glorot", "unit", default="glorot")
    dropout_embedding: float = probability(default=0.0)
    dropout_input: float = probability(by_size=True)
    dropout_recurrent: float = probability(default=0.0, by_size=True)
    dropout_weights: float = probability(default=0.0)
    dropout: float = probability(by_size=True)
    # Initial bias of the LSTM's forget gate; a GRU has none and ignores it.
    forget_bias: float = setting("a finite float", lambda value: abs(value) < float("inf"), default=1.0)
    # Rounds in which the LSTM's x and h modulate each other before a time step (Melis et al. 2020, with 5); 0: none.
    mogrify: int = at_least(0, default=0, most=100)  # each is compiled on its own
    norm: str = one_of("none", "layer", "batch_input", "batch", *NORMS_OF_GATES, default="none")
    tie: bool = boolean()
    # The number of frequent ids that an adaptive softmax always computes (model/adaptive_softmax.py); 0: all ids.
    softmax_head: int = at_least(0, default=0, most=2**20)
    # Every layer takes the token too, and the head takes the outputs of all layers (Graves 2013).
    skip: bool = boolean(default=False)
    remat: int = at_least(0, default=0, resume="free")
    dtype: str = one_of("float32", "bfloat16")

    def __post_init__(self) -> None:
        backend, not_scan = f"config.model.backend={self.backend!r}", self.backend not in ("auto", "scan")
        if self.cell != "lstm" and not_scan:
            raise UserError(f"{backend} with cell={self.cell!r}: not available; use auto")
        for name, only in (("norm", "none"), ("input_gate", "own"), ("mogrify", 0)):
            if self.cell != "lstm" and (value := getattr(self, name)) != only:
                raise UserError(f"config.model.{name}={value!r} with cell={self.cell!r}: not available; use {only!r}")
        if self.backend == "native" and self.dtype != "float32":
            raise UserError(f"{backend} with dtype={self.dtype}: it computes in float32 only; use auto")
        if self.backend in ("wavefront", "cuda") and self.norm not in ("none", *NORMS_OF_GATES):
            raise UserError(f"{backend} with norm={self.norm!r}: not available; use auto")
        if self.norm in NORMS_IN_CELL and not_scan:
            raise UserError(f"{backend} with norm={self.norm!r}: not available; use auto")
        if self.mogrify and self.norm not in ("none", *NORMS_OF_GATES):
            raise UserError(
                f"config.model.mogrify={self.mogrify} with norm={self.norm!r}: use a norm of the gates, or none"
            )
        if self.mogrify and not self.embed:
            raise UserError(
                f"config.model.mogrify={self.mogrify} with embed=0: it modulates vectors, found one-hot ones, of which "
                "all values but one are 0; use embed above 0"
            )
        if self.mogrify and self.backend in ("blocks", "wavefront", "native", "cuda"):
            raise UserError(f"{backend} with mogrify={self.mogrify}: not available; use auto")
        if self.remat and self.norm in NORMS_OF_BATCH:
            raise UserError(
                f"config.model.remat={self.remat} with norm={self.norm!r}: its statistics are those of all time steps, "
                "not of a chunk; use remat=0, or norm='layer'"
            )
        if self.tie and not self.embed:
            raise UserError("config.model.tie=True with embed=0: there is no embedding to share; use embed above 0")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """config.optimizer: the update rule, the learning rate's schedule, clipping."""

    # sgd is optax.sgd: its momentum is beta1 (0 for none), and it has no use for beta2, eps and eps_hat.
    # Its choices are the branches of training/optimizer.py, which refuses any other name.
    name: str = setting("the name of an update rule", bool, default="adam")
    lr: float = positive()
    schedule: str = one_of("cosine", "constant")
    warmup: int = at_least(0, most=2**31 - 1)
    end: float = setting("a float from 0 to 1", lambda value: 0 <= value <= 1)
    beta1: float = probability()
    beta2: float = probability()
    eps: float = positive()
    eps_hat: bool = boolean(default=False)
    weight_decay: float = nonnegative(default=0.0)  # of adamw, on matrices only, scaled by the learning rate
    clip: float = nonnegative()

    def __post_init__(self) -> None:
        if self.weight_decay and self.name != "adamw":
            raise UserError(
                f"config.optimizer.weight_decay={self.weight_decay} with name={self.name!r}: only adamw decays "
                "weights; use name='adamw', or weight_decay=0"
            )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """config.train: the loss, the length of the run, how often it logs, evaluates and saves."""

    loss: str = one_of("cross_entropy", "binary_cross_entropy", default="cross_entropy")
    epochs: float = nonnegative(below=1e9, by_size=True)
    steps: int = at_least(0, most=2**63 - 1)
    stop_at_step: int = at_least(0, resume="free")
    patience: int = at_least(0, default=0, resume="free")
    steps_per_dispatch: int = at_least(1, resume="free")
    log_every: int = at_least(1, resume="free")
    log_tensors: bool = boolean(default=False, resume="free")
    eval_every: int = at_least(1, resume="free", by_size=True)
    eval_rows: int = at_least(1, by_size=True)
    # Decay of the exponential moving average of the weights at each step, which scores and samples then use; 0: none.
    average: float = probability(default=0.0)
    checkpoint_every: int = at_least(1, resume="free")
    keep: int = at_least(2, resume="free")
    watchdog: float = nonnegative(below=1e9, resume="free")
    adaptive: bool = boolean(default=False, resume="free")

    def __post_init__(self) -> None:
        if self.epochs == 0 and self.steps == 0:
            raise UserError("config.train.epochs=0 and config.train.steps=0: set one of them above 0")


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """config.sample: the text that is generated at every evaluation."""

    prompt: str = setting("text", resume="free")
    length: int = at_least(1, resume="free", most=2**31 - 1)
    temperature: float = nonnegative(resume="free")
    top_k: int = at_least(0, resume="free")
    top_p: float = fraction(resume="free")


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole experiment. `Config.of` builds it from a ConfigDict and checks every value."""

    seed: int = setting("int from 0 to 2**31 - 1", lambda value: 0 <= value < 2**31)
    data: DataConfig = dataclasses.field(kw_only=True)
    model: ModelConfig = dataclasses.field(kw_only=True)
    optimizer: OptimizerConfig = dataclasses.field(kw_only=True)
    train: TrainConfig = dataclasses.field(kw_only=True)
    sample: SampleConfig = dataclasses.field(kw_only=True)

    def __post_init__(self) -> None:
        remat, seq_len = self.model.remat, self.data.seq_len
        if remat and seq_len % remat:
            raise UserError(f"config.model.remat={remat}: data.seq_len={seq_len} is not a multiple of it")

    @classmethod
    def of(cls, config: ConfigDict | Mapping[str, Any]) -> "Config":
        """The typed config. Raises UserError at the first value that is missing, unknown, of another type or range."""
        values = config.to_dict() if isinstance(config, ConfigDict) else config
        return _read(cls, _with_new_names(values), "config")

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries, as config.json holds them."""
        return dataclasses.asdict(self)

    def replace(self, **values: Any) -> "Config":
        """A copy with other values, given by their dotted names: replace(**{"model.units": 64})."""
        config = self
        for name, value in values.items():
            section, _, key = name.rpartition(".")
            if section:
                value = dataclasses.replace(getattr(config, section), **{key: value})
            config = dataclasses.replace(config, **{section or key: value})
        return config

    def filled_from(self, recorded: "Config") -> "Config":
        """A copy with the values of `recorded` for those that are None here, which are chosen when a run begins."""
        theirs = flatten(recorded)
        return self.replace(**{name: theirs[name] for name, value in flatten(self).items() if value is None})

    @property
    def open_settings(self) -> list[str]:
        """The names of the settings that are None: no run can begin before they are chosen."""
        return [name for name, value in flatten(self).items() if value is None]

    def differences(self, recorded: "Config") -> list[str]:
        """The settings that keep a run of the config `recorded` from resuming with this one, as "name: old -> new"."""
        new, old = flatten(self), flatten(recorded)
        return [
            f"{name}: {old[name]!r} -> {new[name]!r}"
            for name, field in all_settings().items()
            if field.metadata["resume"] == "same" and new[name] != old[name]
        ]


def default_config() -> ConfigDict:
    """The ConfigDict that configs/*.py begin with: every setting that has a default, with that default, and a
    placeholder for each that may stay None."""
    sections = [field.name for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)]
    config = ConfigDict({section: ConfigDict() for section in sections})
    for name, field in all_settings().items():
        section, _, key = name.rpartition(".")
        if field.metadata["by_size"]:
            config[section][key] = config_dict.placeholder(field.type)
        if field.default is not REQUIRED:
            (config[section] if section else config)[key] = field.default
    return config


def all_settings(section: Any = Config, prefix: str = "") -> dict[str, dataclasses.Field]:
    """Every setting by its dotted name, as "model.units"."""
    found: dict[str, dataclasses.Field] = {}
    for field in dataclasses.fields(section):
        name = prefix + field.name
        found |= all_settings(field.type, f"{name}.") if dataclasses.is_dataclass(field.type) else {name: field}
    return found


def flatten(config: Config) -> dict[str, Any]:
    """{"model.units": 150, ...}"""
    return {name: attrgetter(name)(config) for name in all_settings()}


RENAMED = {("model", "lstm"): "backend", ("train", "eval_lanes"): "eval_rows"}
"""Settings of earlier versions, by section and name, and their names of today."""


def _with_new_names(values: Any) -> Any:
    """The values with today's names for settings that earlier versions named otherwise."""
    sections: dict[str, Any] = {}
    if not isinstance(values, Mapping):
        return values
    for (section, old), new in RENAMED.items():
        given = values.get(section)
        if isinstance(given, Mapping) and old in given:
            if new in given:
                raise UserError(f"config.{section}.{old} is the old name of config.{section}.{new}: give one of them")
            value = "fused" if (old, given[old]) == ("lstm", "cudnn") else given[old]  # "cudnn" is gone since
            sections[section] = {new: value} | {key: other for key, other in given.items() if key != old}
    return {**values, **sections}


def _read(section: Any, values: Any, name: str) -> Any:
    """An instance of a section from a mapping, every value checked."""
    if not isinstance(values, Mapping):
        raise UserError(f"{name}={shown(values)}: expected a section with the settings of configs/c150.py")
    fields = {field.name: field for field in dataclasses.fields(section)}
    for key in sorted(map(str, values.keys() - fields.keys())):
        raise UserError(f"{name}.{key} is not a setting; lovecraft_jax/config.py has them all")
    read = {}
    for key, field in fields.items():
        if dataclasses.is_dataclass(field.type):
            read[key] = _read(field.type, values.get(key, {}), f"{name}.{key}")
        elif key in values:
            read[key] = _checked(field, values[key], f"{name}.{key}")
        elif field.default is REQUIRED:
            raise UserError(f"{name}.{key} is missing from the config; configs/c150.py has all that are needed")
    return section(**read)


def _checked(field: dataclasses.Field, value: Any, name: str) -> Any:
    if value is None and field.metadata["by_size"]:
        return None
    expected = field.metadata["expected"] + (", or None" if field.metadata["by_size"] else "")
    return checked(name, value, field.type, expected, field.metadata["allowed"])
