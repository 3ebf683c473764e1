import dataclasses
import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from lovecraft_jax import config as config_module
from lovecraft_jax.config import Config, all_settings, default_config, flatten
from lovecraft_jax.runtime.errors import UserError

CONFIGS = sorted(path.stem for path in (Path(__file__).parents[1] / "configs").glob("[!_]*.py"))
SETTINGS = all_settings()
KEYS = sorted(SETTINGS)
INTS = [key for key in KEYS if SETTINGS[key].type in (int, int | None)]
FLOATS = [key for key in KEYS if SETTINGS[key].type is float]
TEXTS = [key for key in KEYS if SETTINGS[key].type is str]
OPTIONAL = {"train.eval_lanes"}
WITH_DEFAULT = {key for key in KEYS if SETTINGS[key].default is not dataclasses.MISSING}


@pytest.mark.parametrize(
    ("name", "variant"), [(name, v) for name in CONFIGS for v in (None, "quick", "article") if name != "tiny" or not v]
)
def test_every_config_passes(name: str, variant: str | None) -> None:
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    assert flatten(Config.of(config)).keys() == SETTINGS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_an_unknown_variant_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="nonesuch"):
        importlib.import_module(f"configs.{name}").get_config("nonesuch")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", 2**31),
        ("data.corpus", ""),
        ("data.level", "syllables"),
        ("data.regime", "streams"),
        ("data.alphabet", "latin"),
        ("data.seq_len", 0),
        ("data.batch_size", 0),
        ("model.backend", "gru"),
        ("model.layers", 0),
        ("model.units", -1),
        ("model.embed", -1),
        ("model.dropout", 1.0),
        ("model.dropout_input", -0.1),
        ("model.remat", -1),
        ("model.forget_bias", math.inf),
        ("data.share", 0.0),
        ("data.share", 1.5),
        ("model.norm", "instance"),
        ("model.tie", 1),
        ("model.dtype", "float16"),
        ("train.watchdog", -1.0),
        ("train.watchdog", math.inf),
        ("optimizer.lr", 0.0),
        ("optimizer.lr", math.inf),
        ("optimizer.schedule", "linear"),
        ("optimizer.warmup", -1),
        ("optimizer.end", 1.5),
        ("optimizer.beta1", 1.0),
        ("optimizer.beta2", -0.5),
        ("optimizer.eps", 0.0),
        ("optimizer.eps_hat", 1),
        ("optimizer.clip", -1.0),
        ("optimizer.clip", math.inf),
        ("train.loss", "binary"),
        ("train.epochs", -1.0),
        ("train.epochs", math.inf),
        ("train.steps", -1),
        ("train.stop_at_step", -1),
        ("train.steps_per_dispatch", 0),
        ("train.log_every", 0),
        ("train.eval_every", 0),
        ("train.eval_lanes", 0),
        ("train.checkpoint_every", 0),
        ("train.keep", 1),
        ("sample.length", 0),
        ("sample.temperature", -0.1),
        ("sample.top_k", -1),
        ("sample.top_p", 0.0),
        ("sample.top_p", 1.1),
    ],
)
def test_a_value_out_of_range_is_named_with_what_was_expected(config: ConfigDict, key: str, value: Any) -> None:
    _refused(_with(config, key, value), rf"config\.{key}={value!r}: expected ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2**31 - 1),
        ("model.dropout", 0.0),
        ("model.dropout", 0.99),
        ("optimizer.end", 0.0),
        ("optimizer.end", 1.0),
        ("optimizer.clip", 0.0),
        ("optimizer.lr", 1),  # an int where a float is meant
        ("sample.temperature", 0.0),
        ("sample.top_p", 1.0),
        ("sample.prompt", ""),
        ("train.keep", 2),
    ],
)
def test_the_ends_of_a_range_pass(config: ConfigDict, key: str, value: Any) -> None:
    Config.of(_with(config, key, value))


@pytest.mark.parametrize("key", INTS + FLOATS)
def test_a_bool_is_no_number(config: ConfigDict, key: str) -> None:
    _refused(_with(config, key, True), rf"config\.{key}=True: expected ")


@pytest.mark.parametrize("key", FLOATS)
def test_nan_is_never_accepted(config: ConfigDict, key: str) -> None:
    _refused(_with(config, key, math.nan), rf"config\.{key}=nan: expected ")


@pytest.mark.parametrize(
    ("keys", "value"),
    [(INTS, 1.0), (INTS + FLOATS, "1"), (TEXTS, 1), ([key for key in KEYS if key not in OPTIONAL], None)],
)
def test_a_value_of_another_type_is_named(config: ConfigDict, keys: list[str], value: Any) -> None:
    for key in keys:
        _refused(_with(config, key, value), rf"config\.{key}={value!r}: expected ")


def test_a_missing_key_without_a_default_is_named(config: ConfigDict) -> None:
    for key in sorted(set(KEYS) - WITH_DEFAULT):
        plain = config.to_dict()
        section, _, name = key.rpartition(".")
        del (plain[section] if section else plain)[name]
        _refused(ConfigDict(plain), rf"config\.{key} is missing")


@pytest.mark.parametrize("key", ["epochs", "train.learning_rate", "model.unit"])
def test_an_unknown_key_is_named(config: ConfigDict, key: str) -> None:
    _refused(_with(config, key, 1), rf"config\.{key} is not a setting")


def test_a_run_needs_a_length(config: ConfigDict) -> None:
    nothing = _with(_with(config, "train.epochs", 0.0), "train.steps", 0)
    _refused(nothing, r"train\.epochs=0 and config\.train\.steps=0")
    Config.of(_with(nothing, "train.epochs", 0.5))
    Config.of(_with(nothing, "train.steps", 1))


def test_tied_weights_need_an_embedding_as_wide_as_the_layers(config: ConfigDict) -> None:
    tied = _with(config, "model.tie", True)
    _refused(tied, r"model\.tie=True with embed=0 and units=16")
    _refused(_with(tied, "model.embed", 15), r"model\.tie=True with embed=15 and units=16")
    Config.of(_with(tied, "model.embed", 16))


def test_chunks_of_time_divide_the_window(config: ConfigDict) -> None:
    _refused(_with(config, "model.remat", 3), r"model\.remat=3: data\.seq_len=8 is not a multiple of it")
    Config.of(_with(config, "model.remat", 4))


FREE = {
    "data.corpus",
    "model.backend",
    "model.remat",
    "train.stop_at_step",
    "train.steps_per_dispatch",
    "train.log_every",
    "train.log_tensors",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep",
    "train.watchdog",
    "sample.prompt",
    "sample.length",
    "sample.temperature",
    "sample.top_k",
    "sample.top_p",
}


def test_every_setting_that_changes_what_is_learnt_counts_as_a_difference_and_no_other(config: ConfigDict) -> None:
    config.optimizer.name = "adamw"  # so that weight_decay may be above 0
    old = Config.of(_with(config, "model.embed", 16))  # so that tie may be either
    assert old.differences(old) == []
    for key in KEYS:
        was = flatten(old)[key]
        changed = old.replace(**{key: other_value(key, was)})
        expected = [] if key in FREE else [f"{key}: {was!r} -> {flatten(changed)[key]!r}"]
        assert changed.differences(old) == expected


def other_value(key: str, value: Any) -> Any:
    """A value of the same type that no rule between settings forbids."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "scan" if key == "model.backend" else value + "x"
    if key == "model.remat":
        return 4
    if key == "data.seq_len":
        return 16
    return 1 if value is None else value + type(value)(1)


def test_a_config_from_before_a_setting_means_what_runs_did_then(config: ConfigDict) -> None:
    now = Config.of(config)
    old = config.to_dict()
    for key in WITH_DEFAULT - OPTIONAL:
        section, _, name = key.rpartition(".")
        del old[section][name]
    assert Config.of(old).differences(now) == []
    other = now.replace(**{"train.loss": "binary_cross_entropy", "optimizer.eps_hat": True, "data.share": 0.5})
    assert other.differences(Config.of(old)) == [
        "data.share: 1.0 -> 0.5",
        "optimizer.eps_hat: False -> True",
        "train.loss: 'cross_entropy' -> 'binary_cross_entropy'",
    ]


def test_model_lstm_the_old_name_of_the_backend_still_loads(config: ConfigDict) -> None:
    old = config.to_dict()
    del old["model"]["backend"]
    old["model"]["lstm"] = "fused"
    assert Config.of(old).model.backend == "fused"


def test_what_was_chosen_at_the_start_is_kept_on_resume_and_compared_where_it_is_given(config: ConfigDict) -> None:
    asked = Config.of(_with(config, "train.eval_lanes", None))
    began = asked.replace(**{"train.eval_lanes": 32})
    assert asked.filled_from(began) == began
    other = asked.replace(**{"train.eval_lanes": 4})
    assert other.filled_from(began).differences(began) == ["train.eval_lanes: 32 -> 4"]


def test_configs_begin_with_every_default_so_that_flags_can_change_them() -> None:
    plain = default_config().to_dict()
    for key in WITH_DEFAULT:
        section, _, name = key.rpartition(".")
        assert plain[section][name] == SETTINGS[key].default, key


def _with(config: ConfigDict, key: str, value: Any) -> ConfigDict:
    """A copy with one value set, whatever its type."""
    plain = config.to_dict()
    section, _, name = key.rpartition(".")
    (plain[section] if section else plain)[name] = value
    return ConfigDict(plain)


def _refused(config: ConfigDict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Config.of(config)


def test_a_new_setting_is_one_line_in_config_py(config: ConfigDict, tmp_path: Path) -> None:
    source = Path(config_module.__file__).read_text()
    line, before = "    nesterov: float = probability(default=0.5)\n", "    lr: float = positive()\n"
    (tmp_path / "config_with_setting.py").write_text(source.replace(before, line + before, 1))
    spec = importlib.util.spec_from_file_location("config_with_setting", tmp_path / "config_with_setting.py")
    assert spec is not None
    assert spec.loader is not None
    changed = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = changed  # dataclasses looks the module up
    spec.loader.exec_module(changed)
    assert changed.default_config().optimizer.nesterov == 0.5  # so that --config.optimizer.nesterov exists
    old = changed.Config.of(config)  # made before there was the setting
    assert old.optimizer.nesterov == 0.5
    assert old.replace(**{"optimizer.nesterov": 0.9}).differences(old) == ["optimizer.nesterov: 0.5 -> 0.9"]
    wrong = config.to_dict()
    wrong["optimizer"]["nesterov"] = 1.5
    with pytest.raises(UserError, match=r"config\.optimizer\.nesterov=1\.5: expected a float from 0 up to"):
        changed.Config.of(wrong)
