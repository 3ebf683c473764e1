"""The files that describe a run, written before its first step and compared with the config when it resumes."""

import contextlib
import json
import platform
from importlib import metadata
from typing import Any, TypeVar

import jax
from etils import epath

import lovecraft_jax
from lovecraft_jax.config import Config
from lovecraft_jax.data.dataset import Data
from lovecraft_jax.data.tokenizer import Tokenizer, load_tokenizer
from lovecraft_jax.inference.adaptive import Rates
from lovecraft_jax.inference.neural_cache import CacheRates
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import write_json, write_text
from lovecraft_jax.runtime.hardware import cpu_name
from lovecraft_jax.training.checkpoint import saved_steps

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
RATES = "adaptive.json"
"""The rates of adaptive scores by the step of their checkpoint: {"40": {"lr": ..., "decay": ..., "theta": ..., "lam":
...}}, those that were tuned."""
IMPORTED = "imported_from"
"""In versions.json of a run whose weights come from a file (export/import_run.py): the file's name."""

AnyRates = TypeVar("AnyRates", Rates, CacheRates)


def run_record(config: Config, data: Data) -> dict[str, Any]:
    """Returns the contents of config.json, vocab.json, corpus.json and versions.json, by name."""
    kind = jax.devices()[0].device_kind
    hardware = f"{jax.device_count()} x {kind if kind != 'cpu' else cpu_name()}"
    return {
        "config": config.to_dict(),
        "vocab": data.tokenizer.dumps(),
        "corpus": {
            "name": data.name,
            "sha256": data.sha256,
            "characters": {split: encoded.n_chars for split, encoded in data.encoded.items()},
            "tokens": {split: len(encoded.ids) for split, encoded in data.encoded.items()},
            "read": data.splits.counts.read,
            "folded": data.splits.counts.folded,
            "dropped": data.splits.counts.dropped,
            "splits": data.splits.tales,
        }
        | ({"tokens_with_dropout": data.bpe_dropout.tokens_in_first_epoch} if data.bpe_dropout else {})
        | ({"path": data.path} if data.path else {})
        | data.splits.facts,
        "versions": {"lovecraft_jax": lovecraft_jax.__version__}
        | {name: metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version(), "hardware": hardware},
    }


def write_run_files(path: epath.Path, recorded: dict[str, Any]) -> None:
    """Writes what `run_record` returns into `path`."""
    for name in ("config", "corpus", "versions"):
        write_json(path / f"{name}.json", recorded[name])
    write_text(path / "vocab.json", recorded["vocab"] + "\n")


def read_run_files(path: epath.Path) -> tuple[Config, Tokenizer, dict[str, Any]]:
    """Returns config, tokenizer and corpus.json of the run in `path`. Raises UserError where there is no run."""
    try:
        config = Config.of(dict(json.loads((path / (name := "config.json")).read_text())))
        tokenizer = load_tokenizer((path / (name := "vocab.json")).read_text())
        corpus = dict(json.loads((path / (name := "corpus.json")).read_text()))
        if missing := {"name", "sha256", "characters"} - corpus.keys():
            raise ValueError(f"no {', '.join(sorted(missing))} in it")
        return config, tokenizer, corpus
    except UserError as error:
        raise UserError(f"{path / name}: {error}") from None
    except (FileNotFoundError, NotADirectoryError):  # its `filename` is None on an object store
        what = f"{name} is missing" if path.is_dir() else "no such folder"
        todo = f"put {name} back" if saved_steps(path) else "train first"
        raise UserError(f"workdir={path}: not a run ({what}); {todo}, or name another") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"workdir={path}: its {name} cannot be read ({error}); name another") from None


def read_rates(path: epath.Path, step: int, kind: type[AnyRates]) -> AnyRates | None:
    """Returns the rates of this kind that were tuned for the checkpoint of `step`, if any were saved. Raises UserError
    where their file is damaged."""
    file = path / RATES
    try:
        tuned = json.loads(file.read_text()).get(str(step), {}) if file.exists() else {}
        is_saved = not tuned.keys().isdisjoint(kind._fields)
        return kind(*(float(tuned[name]) for name in kind._fields)) if is_saved else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); delete it, and the rates are tuned again") from None


def write_rates(path: epath.Path, step: int, rates: Rates | CacheRates) -> None:
    """Adds the rates for the checkpoint of `step` to their file."""
    file, saved = path / RATES, {}
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):  # none, or damaged: written anew
        saved = {key: dict(tuned) for key, tuned in json.loads(file.read_text()).items()}
    write_json(file, saved | {str(step): saved.get(str(step), {}) | rates._asdict()})


def check_can_resume(path: epath.Path) -> None:
    """Raises UserError where the run in `path` was imported: it has weights only."""
    file = path / "versions.json"
    try:
        imported = json.loads(file.read_text()).get(IMPORTED) if file.exists() else None
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); delete it, and training writes it anew") from None
    if imported:
        raise UserError(
            f"workdir={path}: weights from {imported}, without an optimiser's state: sample, evaluate, report and "
            "export take them, and no training can go on from them; give another workdir"
        )


def check_same_run(path: epath.Path, old: Config, new: Config) -> None:
    """Raises UserError with the first differences where a run with the config `old` cannot resume with `new`."""
    if differing := new.differences(old):
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"workdir={path}: holds a run of another config ({'; '.join(differing[:3])}{more}): "
            "give the config that it began with, or another workdir"
        )
