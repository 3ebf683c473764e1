"""Flags with several values become a grid: its points, their configs, the names of their folders."""

import functools
from collections.abc import Sequence

import pytest

from lovecraft_jax import cli
from lovecraft_jax.config import flatten
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.sweep.grid import MOST_CHARACTERS, Point, make_points, parse_seeds, split_flags

TINY = "configs/tiny.py"


def points(*flags: str, seeds: Sequence[int] = (0,)) -> list[Point]:
    """Returns the points of a command line over the tiny config."""
    return make_points(functools.partial(cli.parse_config, TINY), split_flags(flags)[1], seeds)


def test_every_form_of_a_flag_gives_its_values_and_other_flags_are_left() -> None:
    line = ["--seeds=3", "--config=a.py", "--config.optimizer.lr=1,2", "--noconfig.model.tie", "-config.model.skip"]
    line += ["--config.model.units", "16, 32", "--config.optimizer.lr=3", "--config.sample.prompt=Ia, Ia", "stray"]
    rest, given = split_flags(line)
    assert rest == ["--seeds=3", "--config=a.py", "stray"]
    assert given == {
        "optimizer.lr": ["1", "2", "3"],
        "model.tie": ["false"],
        "model.skip": ["true"],
        "model.units": ["16", "32"],
        "sample.prompt": ["Ia, Ia"],
    }


def test_the_grid_is_the_product_of_all_values_with_every_seed() -> None:
    grid = points(
        "--config.optimizer.lr=0.1,0.2", "--config.model.tie=false", "--config.model.layers=1,3", seeds=(0, 7)
    )
    found = [
        (seed, config.optimizer.lr, config.model.layers, config.model.tie)
        for point in grid
        for seed, config in point.by_seed.items()
        if config.seed == seed
    ]
    assert found == [(seed, lr, layers, False) for lr in (0.1, 0.2) for layers in (1, 3) for seed in (0, 7)]
    assert [point.values for point in grid][1] == {"optimizer.lr": 0.1, "model.layers": 3}


def test_the_flags_of_a_point_give_its_config_again() -> None:
    for point in points("--config.optimizer.lr=1e-3,0.2", "--config.sample.prompt=Ia, Ia", "--config.model.units=8,9"):
        (again,) = points(*(f"--config.{name}={text}" for name, text in point.overrides))
        assert flatten(again.by_seed[0]) == flatten(point.by_seed[0])


def test_a_folder_is_named_by_values_whatever_their_spelling_and_order() -> None:
    names = [point.name for point in points("--config.optimizer.lr=1e-3,0.0010,2e-5", "--config.model.units=8")]
    assert names == ["model.units=8,optimizer.lr=0.001", "model.units=8,optimizer.lr=2e-05"]
    assert names == [point.name for point in points("--config.model.units=8", "--config.optimizer.lr=0.001,0.00002")]


def test_a_folder_is_not_named_by_one_value_that_changes_nothing_that_is_learnt() -> None:
    assert [point.name for point in points("--config.train.stop_at_step=5", "--config.data.corpus=a/b")] == [""]
    assert len({point.name for point in points("--config.model.backend=scan,fused")}) == 2


def test_a_folder_has_no_separators_or_patterns_and_a_length_that_file_systems_take() -> None:
    texts = ["a/b*,c", "a/b*,d", "x" * 300 + "1", "x" * 300 + "2"]
    names = [point.name for point in points(*(f"--config.data.corpus={text}" for text in texts))]
    assert len(set(names)) == len(texts)
    for name in names:
        assert not set(name) & set("/*?[] ")
        assert len(name) <= MOST_CHARACTERS


@pytest.mark.parametrize(("text", "seeds"), [("3", [0, 1, 2]), ("0,5, 7", [0, 5, 7]), ("7,", [7]), ("2,2", [2])])
def test_seeds_are_a_number_of_them_or_a_list(text: str, seeds: list[int]) -> None:
    assert list(parse_seeds(text)) == seeds


@pytest.mark.parametrize("text", ["0", "-1", "three", "1,,2", "0,2147483648", "1.5", ","])
def test_wrong_seeds_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"^--seeds='?{text}"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--config.optimizer.lr=0.1,banana"], "config.optimizer.lr=banana"),
        (["--config.optimizer.lr=0.1,"], "config.optimizer.lr"),
        (["--config.optimizer.lr=0.1,-1"], "config.optimizer.lr=-1.0: expected a finite float above 0"),
        (["--config.model.cell=lstm,gru", "--config.model.norm=rms_gates"], "norm='rms_gates' with cell='gru'"),
        (["--config.model.unit=8,16"], "no such setting in the config: .*units"),
        (["--config.seed=0,1"], "config.seed=0,1: a sweep takes its seeds from --seeds"),
        (["--config.optimizer={}"], "config.optimizer: not a setting"),
    ],
)
def test_a_wrong_setting_at_any_point_is_refused(flags: list[str], why: str) -> None:
    with pytest.raises(UserError, match=why):
        points(*flags)


def test_a_grid_that_is_too_large_says_its_size_before_it_is_made() -> None:
    values = ",".join(map(str, range(1, 1001)))
    flags = [f"--config.model.{name}={values}" for name in ("units", "layers", "embed")]
    why = "1000 model.units x 1000 model.layers x 1000 model.embed x 1,000,000 seeds are 1,000,000,000,000,000 runs"
    with pytest.raises(UserError, match=why):
        points(*flags, seeds=range(10**6))
