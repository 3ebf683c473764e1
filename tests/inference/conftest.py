"""A run that is scored in no time."""

from pathlib import Path

import pytest

from configs import tiny
from lovecraft_jax.runtime.errors import DONE
from lovecraft_jax.training import loop
from tests.conftest import ROOT

FEW_TALES = str(ROOT / "lovecraft_jax" / "data" / "tales" / "the_[l-t]*.txt")


@pytest.fixture(scope="module")
def trained_on_few_tales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a finished tiny run on FEW_TALES. Copy it before you change it."""
    workdir, config = tmp_path_factory.mktemp("few") / "run", tiny.get_config()
    config.data.corpus = FEW_TALES
    assert loop.train(config, str(workdir)) == DONE
    return workdir
