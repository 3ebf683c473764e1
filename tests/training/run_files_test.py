"""The rates of adaptive scores in adaptive.json: kept by checkpoint, and written anew where the file is damaged."""

from pathlib import Path

import pytest
from etils import epath

from lovecraft_jax.inference.adaptive import Rates
from lovecraft_jax.inference.neural_cache import CacheRates
from lovecraft_jax.training.run_files import read_rates, write_rates

ADAPTIVE, CACHE = Rates(0.5, 0.25), CacheRates(2.0, 0.1)


def test_rates_of_both_kinds_and_of_other_checkpoints_are_kept(tmp_path: Path) -> None:
    path = epath.Path(tmp_path)
    write_rates(path, 40, ADAPTIVE)
    write_rates(path, 40, CACHE)
    write_rates(path, 50, Rates(1.0, 0.0))
    assert (read_rates(path, 40, Rates), read_rates(path, 40, CacheRates)) == (ADAPTIVE, CACHE)
    assert (read_rates(path, 50, Rates), read_rates(path, 50, CacheRates)) == (Rates(1.0, 0.0), None)


@pytest.mark.parametrize("damaged", ["", "[]", '{"40": [1]}', '{"40": 3}'])
def test_the_end_of_a_run_writes_a_damaged_file_anew(tmp_path: Path, damaged: str) -> None:
    path = epath.Path(tmp_path)
    (path / "adaptive.json").write_text(damaged)
    write_rates(path, 40, ADAPTIVE)
    assert read_rates(path, 40, Rates) == ADAPTIVE
