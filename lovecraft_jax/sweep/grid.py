"""The grid of a sweep: from flags with several values to points, each with a typed config for every seed."""

import dataclasses
import hashlib
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ml_collections import ConfigDict

from lovecraft_jax.config import Config, all_settings, flatten
from lovecraft_jax.runtime.checks import shown
from lovecraft_jax.runtime.errors import UserError

TEXTS = ("data.corpus", "sample.prompt")
"""Settings in which a comma is a part of the text: several values need several flags."""
MOST_RUNS = 2000
MOST_CHARACTERS = 200
"""Of a point's name, which is that of a folder: file systems take 255 bytes."""

Given = dict[str, list[str]]
"""The values of each setting that was given, as text: {"optimizer.lr": ["0.002", "0.004"]}"""


@dataclasses.dataclass(frozen=True)
class Point:
    """One combination of values. `name` is the name of its folder, "" where no setting was given; `overrides` its flags
    as (setting, text); `values` those of the settings that have several values in the grid."""

    name: str
    overrides: tuple[tuple[str, str], ...]
    values: dict[str, Any]
    by_seed: dict[int, Config]


def split_flags(argv: Sequence[str]) -> tuple[list[str], Given]:
    """Returns the command line without the flags of settings, --config.NAME, and the values of these. A comma separates
    values, except in TEXTS; a flag that is repeated adds its values."""
    rest, given, settings = list[str](), Given(), all_settings()
    arguments = iter(argv)
    for argument in arguments:
        match = re.fullmatch(r"--?(no)?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
        if not match:
            rest.append(argument)
            continue
        negated, name, text = match.groups()
        is_switch = negated or (name in settings and settings[name].type is bool)
        if text is None:  # --config.model.tie, --noconfig.model.tie, or the value is the next argument
            text = ("false" if negated else "true") if is_switch else next(arguments, "")
        values = [text] if name in TEXTS else [value.strip() for value in text.split(",")]
        given.setdefault(name, []).extend(values)
    return rest, given


def parse_seeds(text: str) -> Sequence[int]:
    """Returns the seeds that --seeds=3 (0, 1 and 2), --seeds=0,5,7 or --seeds=7, names. Raises UserError."""
    numbers = text.removesuffix(",").split(",")
    if not all(re.fullmatch(r"\s*\d{1,10}\s*", number) for number in numbers):
        raise UserError(f"--seeds={shown(text)}: expected how many, as 3, or which, as 0,5,7")
    seeds = list(dict.fromkeys(map(int, numbers)))
    if "," not in text:
        if not seeds[0]:
            raise UserError("--seeds=0: expected at least 1, or which, as 0,5,7")
        return range(seeds[0])
    if max(seeds) >= 2**31:
        raise UserError(f"--seeds={shown(text)}: expected seeds from 0 to 2**31 - 1")
    return seeds


def make_points(
    parse: Callable[[Sequence[tuple[str, str]]], ConfigDict], given: Mapping[str, Sequence[str]], seeds: Sequence[int]
) -> list[Point]:
    """Returns the points of the grid, in the order of the flags' values; equal ones once. `parse` makes a config with
    some settings changed. Every config is checked: raises UserError for the first that is wrong, and for a grid of more
    than MOST_RUNS runs."""
    if "seed" in given:
        raise UserError(f"--config.seed={','.join(given['seed'])}: a sweep takes its seeds from --seeds")
    sizes = [len(values) for values in given.values()]
    if (count := math.prod(sizes) * len(seeds)) > MOST_RUNS:
        size = " x ".join([f"{len(values)} {name}" for name, values in given.items() if len(values) > 1])
        raise UserError(
            f"{size + ' x ' if size else ''}{len(seeds):,} seeds are {count:,} runs: expected at most {MOST_RUNS:,}; "
            "sweep over fewer values at once"
        )
    points: dict[str, Point] = {}
    for texts in itertools.product(*given.values()):
        overrides = tuple(zip(given, texts, strict=True))
        parsed = parse(overrides)
        for name in given.keys() - all_settings().keys():
            raise UserError(f"--config.{name}: not a setting, but a section of them; give its settings one by one")
        config = Config.of(parsed)
        every = flatten(config)
        varied = {name: every[name] for name, values in given.items() if len(values) > 1}
        # One value that only changes how something is computed or kept may be another when the sweep goes on.
        resume = {name: setting.metadata["resume"] for name, setting in all_settings().items()}
        named = {name: every[name] for name in sorted(given) if name in varied or resume[name] == "same"}
        point = Point(_folder_name(named), overrides, varied, {seed: config.replace(seed=seed) for seed in seeds})
        points.setdefault(point.name, point)
    return list(points.values())


def _folder_name(values: Mapping[str, Any]) -> str:
    """Returns "model.dropout=0.1,optimizer.lr=0.002", with escapes for whatever a path or a pattern would read as
    something else; the end of a long one is replaced by its hash."""
    name = ",".join(f"{setting}={quote(str(value), safe='+')}" for setting, value in values.items())
    if len(name) <= MOST_CHARACTERS:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: MOST_CHARACTERS - 13]}-{digest}"
