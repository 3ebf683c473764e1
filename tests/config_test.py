import dataclasses
import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from lovecraft_jax import config as config_module
from lovecraft_jax.config import Config, all_settings, default_config, flatten
from lovecraft_jax.runtime.errors import UserError

SETTINGS = all_settings()
KEYS = sorted(SETTINGS)
INTS = [key for key in KEYS if SETTINGS[key].type is int]
FLOATS = [key for key in KEYS if SETTINGS[key].type is float]
TEXTS = [key for key in KEYS if SETTINGS[key].type is str]
CHOICES = [key for key in TEXTS if SETTINGS[key].metadata["expected"].startswith("one of ")]
BY_SIZE = {key for key in KEYS if SETTINGS[key].metadata["by_size"]}
WITH_DEFAULT = {key for key in KEYS if SETTINGS[key].default is not dataclasses.MISSING}


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (INTS, -1),
        (["data.seq_len", "data.batch_size", "model.layers", "model.units", "train.eval_every", "sample.length"], 0),
        (["seed"], 2**31),
        (["train.keep"], 1),
        (["data.corpus"], ""),
        (CHOICES, "nonesuch"),
        (["model.tie", "optimizer.eps_hat"], 1),
        ([key for key in FLOATS if key != "model.forget_bias"], -0.1),
        (["optimizer.lr", "optimizer.eps", "data.share", "sample.top_p"], 0.0),
        (["model.dropout", "model.dropout_input", "optimizer.beta1", "optimizer.beta2"], 1.0),
        (["data.share", "optimizer.end", "sample.top_p"], 1.1),
        (FLOATS, math.inf),
        (FLOATS, math.nan),
        (INTS, 1.0),
        (INTS + FLOATS, "1"),
        (["model.layers", "model.units", "optimizer.warmup", "sample.length", "train.steps"], 10**20),
        (INTS + FLOATS, True),
        (TEXTS, 1),
        ([key for key in KEYS if key not in BY_SIZE], None),
    ],
)
def test_a_value_out_of_range_or_of_another_type_is_named_with_what_was_expected(
    config: ConfigDict, keys: list[str], value: Any
) -> None:
    for key in keys:
        _refused(_with(config, key, value), rf"config\.{key}={value!r}: expected ")


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["seed"], 2**31 - 1),
        (["train.keep"], 2),
        (["model.dropout", "optimizer.end", "optimizer.clip", "sample.temperature"], 0.0),
        (["optimizer.end", "sample.top_p"], 1.0),
        (["optimizer.lr"], 1),  # an int where a float is meant
        (["model.units", "sample.top_p"], np.int64(1)),
        (["sample.prompt"], ""),
    ],
)
def test_the_ends_of_a_range_pass(config: ConfigDict, keys: list[str], value: Any) -> None:
    for key in keys:
        Config.of(_with(config, key, value))


def test_a_missing_key_without_a_default_is_named(config: ConfigDict) -> None:
    for key in sorted(set(KEYS) - WITH_DEFAULT):
        plain = config.to_dict()
        section, _, name = key.rpartition(".")
        del (plain[section] if section else plain)[name]
        _refused(ConfigDict(plain), rf"config\.{key} is missing")


@pytest.mark.parametrize("values", [None, 5, {"model": None}, {"model": "lstm"}, {5: 1, "x": 2}])
def test_what_is_no_config_raises(values: Any) -> None:
    with pytest.raises(UserError, match=r"expected a section|is not a setting|is missing"):
        Config.of(values)


@pytest.mark.parametrize("key", ["epochs", "train.learning_rate", "model.unit"])
def test_an_unknown_key_is_named(config: ConfigDict, key: str) -> None:
    _refused(_with(config, key, 1), rf"config\.{key} is not a setting")


def test_a_run_needs_a_length(config: ConfigDict) -> None:
    nothing = _with(_with(config, "train.epochs", 0.0), "train.steps", 0)
    _refused(nothing, r"train\.epochs=0 and config\.train\.steps=0")
    Config.of(_with(nothing, "train.epochs", 0.5))
    Config.of(_with(nothing, "train.steps", 1))


def test_tied_weights_need_an_embedding_and_chunks_of_time_divide_the_window(
    config: ConfigDict,
) -> None:
    tied = _with(config, "model.tie", True)
    _refused(tied, r"model\.tie=True with embed=0")
    Config.of(_with(tied, "model.embed", 16))
    _refused(_with(config, "model.remat", 3), r"model\.remat=3: data\.seq_len=8 is not a multiple of it")
    Config.of(_with(config, "model.remat", 4))


def test_only_merges_can_be_dropped(config: ConfigDict) -> None:
    dropped = _with(config, "data.bpe_dropout", 0.1)
    _refused(dropped, r"data\.bpe_dropout=0\.1 with level='chars': only level='bpe' has merges")
    Config.of(_with(dropped, "data.level", "bpe"))


@pytest.mark.parametrize(("key", "value", "default"), [("rare", "cluster", "spell"), ("min_count", 5, 2)])
def test_only_a_vocabulary_of_words_has_rare_words(config: ConfigDict, key: str, value: Any, default: Any) -> None:
    for level in ("chars", "bpe"):
        changed = _with(_with(config, "data.level", level), f"data.{key}", value)
        why = f"data.{key}={value!r} with level={level!r}: only level='words' has rare words; .* {key}={default!r}"
        _refused(changed, why)
    Config.of(_with(changed, "data.level", "words"))


FREE = {"data.corpus", "model.backend", "model.remat"}
FREE |= {f"train.{name}" for name in ("stop_at_step", "steps_per_dispatch", "log_every", "log_tensors", "eval_every")}
FREE |= {f"train.{name}" for name in ("checkpoint_every", "keep", "watchdog", "patience", "adaptive")}
FREE |= {f"sample.{name}" for name in ("prompt", "length", "temperature", "top_k", "top_p")}


def test_every_setting_that_changes_what_is_learnt_counts_as_a_difference_and_no_other(config: ConfigDict) -> None:
    config.optimizer.name = "adamw"  # so that weight_decay may be above 0
    config.model.embed = 16  # so that tie may be either
    for key in KEYS:
        # The level that bpe_dropout needs, or that of rare words.
        old = Config.of(_with(config, "data.level", "words" if key in ("data.rare", "data.min_count") else "bpe"))
        assert old.differences(old) == []
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
    for key in WITH_DEFAULT:
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


def test_train_eval_lanes_the_old_name_of_eval_rows_still_loads_and_resumes(config: ConfigDict) -> None:
    now = Config.of(_with(config, "train.eval_rows", 7))
    old = now.to_dict()
    old["train"]["eval_lanes"] = old["train"].pop("eval_rows")
    assert Config.of(old) == now
    assert Config.of(_with(config, "train.eval_rows", None)).filled_from(Config.of(old)).train.eval_rows == 7
    old["train"]["eval_lanes"] = 0
    _refused(ConfigDict(old), r"config\.train\.eval_rows=0")
    old["train"]["eval_rows"] = 7
    _refused(ConfigDict(old), r"config\.train\.eval_lanes is the old name of config\.train\.eval_rows: give one")


def test_what_was_chosen_at_the_start_is_kept_on_resume_and_compared_where_it_is_given(config: ConfigDict) -> None:
    asked = Config.of(_with(config, "train.eval_rows", None))
    began = asked.replace(**{"train.eval_rows": 32})
    assert asked.filled_from(began) == began
    other = asked.replace(**{"train.eval_rows": 4})
    assert other.filled_from(began).differences(began) == ["train.eval_rows: 32 -> 4"]


def test_configs_begin_with_every_default_so_that_flags_can_change_them() -> None:
    plain = default_config().to_dict()
    for key in WITH_DEFAULT | BY_SIZE:
        section, _, name = key.rpartition(".")
        default = SETTINGS[key].default
        assert plain[section][name] == (None if default is dataclasses.MISSING else default), key


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
