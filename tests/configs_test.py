"""Every file in configs/ has valid values, names its commands, and describes a model that can be built."""

import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

import configs
from lovecraft_jax import cli
from lovecraft_jax.config import Config
from lovecraft_jax.model.lm import make_model

FILES = sorted(path.stem for path in Path(configs.__file__).parent.glob("*.py") if path.stem != "__init__")
VARIANTS = {name: ["quick", "plain", "article"] for name in FILES}
VARIANTS |= {"tiny": [], "c512": [], "best": [], "bpe": ["quick", "large"], "words": ["quick", "large"]}


@pytest.mark.parametrize(
    ("name", "variant"), [(name, variant) for name in FILES for variant in (None, *VARIANTS[name])]
)
def test_the_config_is_valid_and_its_model_initialises(name: str, variant: str | None) -> None:
    config = get_config(name, variant)
    Config.of(config)  # every value has its type and range
    model, rows = make_model(config, vocab_size=90), config.data.batch_size
    x_BT = jax.ShapeDtypeStruct((rows, config.data.seq_len), jnp.int32)
    (carry, logits_BTV), variables = jax.eval_shape(
        lambda x_BT: model.init_with_output(jax.random.key(0), model.initial_carry(rows), x_BT), x_BT
    )
    assert logits_BTV.shape == (rows, config.data.seq_len, 90)
    assert jax.tree.map(lambda leaf: leaf.shape, carry) == (((rows, config.model.units),) * 2,) * config.model.layers
    assert variables.keys() == {"params"}


@pytest.mark.parametrize("name", FILES)
def test_an_unknown_variant_raises(name: str) -> None:
    with pytest.raises(ValueError, match="unknown variant 'quikc'"):
        get_config(name, "quikc")


@pytest.mark.parametrize("name", [name for name in FILES if "quick" in VARIANTS[name]])
def test_quick_trains_the_same_model_on_the_same_data_for_under_a_million_characters(name: str) -> None:
    full, quick = get_config(name), get_config(name, "quick")
    full.model.update(dict.fromkeys(("dropout", "dropout_input", "dropout_recurrent"), 0.0))
    assert (quick.model.to_dict(), quick.data.to_dict()) == (full.model.to_dict(), full.data.to_dict())
    assert full.train.steps == 0
    assert 500_000 < quick.train.steps * quick.data.batch_size * quick.data.seq_len < 1_000_000


@pytest.mark.parametrize("name", ["c100", "c125", "c10"])
def test_the_articles_recipe_differs_between_models_in_sizes_and_epochs_only(name: str) -> None:
    differences = Config.of(get_config(name, "article")).differences(Config.of(get_config("c150", "article")))
    assert {line.partition(":")[0] for line in differences} <= {"model.units", "data.seq_len", "train.epochs"}


def test_a_config_finds_those_beside_it_whatever_the_working_directory_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project" / "configs"
    folder.mkdir(parents=True)
    (folder / "base.py").write_text("units = 7")
    (folder / "mine.py").write_text(
        "from ml_collections import ConfigDict\nfrom configs import base\n"
        "def get_config(variant=None):\n    return ConfigDict({'units': base.units, 'variant': variant})"
    )
    (tmp_path / "link.py").symlink_to(folder / "mine.py")
    monkeypatch.setitem(sys.modules, "configs", configs)
    monkeypatch.chdir(tmp_path)
    for path in ("link.py", "project/configs/mine.py:quick"):
        config = cli._ConfigFile().parse(path)
        assert (config.units, config.variant) == (7, "quick" if ":" in path else None)
        assert config.is_locked


def test_every_call_returns_a_new_config() -> None:
    first = get_config("c150")
    first.model.units = 7
    assert get_config("c150").model.units == 150


def get_config(name: str, variant: str | None = None) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(variant)
