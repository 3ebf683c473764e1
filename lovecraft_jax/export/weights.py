"""A trained model as arrays and JSON, from which every format is written, and its weights in fewer bits."""

import dataclasses
import json
import os
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

import lovecraft_jax
from lovecraft_jax.config import Config
from lovecraft_jax.data.corpus import find_dataset
from lovecraft_jax.model.backend import fastest_backend
from lovecraft_jax.model.lm import Variables, make_model
from lovecraft_jax.model.normalization import STATISTICS
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.checks import checked, shown
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import Row, read_rows
from lovecraft_jax.training import metrics

DTYPES = ("float32", "float16", "int8")
KNOWN = {
    "cell": ("lstm", "gru"),
    "input_gate": ("own", "capped", "coupled"),
    "norm": ("none", "layer", "batch_input", "batch", "layer_gates", "rms_gates"),
}
"""The values of these settings that every format can compute: docs/extending.md says what a new one touches."""
SETTINGS = ("cell", "input_gate", "norm", "mogrify", "layers", "units", "embed", "tie", "skip", "softmax_head")
"""Those of config.model that say what a model computes, but for its dtype."""
FILES = ("splits", "left_out")
"""The parts of corpus.json that name files."""
SCALE = ".scale"
"""Ends the name of the array that an int8 matrix of the same name is multiplied by."""
SCORED = "test"
"""The split on which the stored weights are compared with the original ones."""


@dataclasses.dataclass(frozen=True)
class Portable:
    """A model that needs no JAX.

    `settings`: SETTINGS and `vocab_size`. `tensors`: float32, by Flax's names joined with dots ("lstm_0.kernel_x"), the
    running statistics of batch norms among them. `tokenizer`: the JSON of vocab.json. `facts`: what is known of the
    run: name, step, config, corpus, versions, baselines, metrics (the final rows of metrics.jsonl), version (of this
    package), scores (of `compare_scores`) or None.
    """

    settings: dict[str, Any]
    tensors: dict[str, np.ndarray]
    tokenizer: str
    facts: dict[str, Any]


def portable(run: Run) -> Portable:
    """Returns a run's model. Raises UserError for an ensemble, which no format holds."""
    if checked("run", run, Run, "what load_run returns").members:
        raise UserError(f"an ensemble of {len(run.members)} runs cannot be exported: give one workdir")
    config = run.config.to_dict()
    settings = {name: config["model"][name] for name in SETTINGS} | {"vocab_size": run.tokenizer.size}
    for name, known in KNOWN.items():
        if settings[name] not in known:
            raise UserError(
                f"model.{name}={settings[name]!r}: no format can hold it yet; {', '.join(known)} can be exported"
            )
    params, statistics = (_flat(run.variables.get(kind, {})) for kind in ("params", STATISTICS))
    return Portable(settings, params | statistics, run.tokenizer.dumps(), _facts(run, config))


def variables_of(tensors: dict[str, np.ndarray]) -> Variables:
    """Returns Flax's collections of the tensors of a Portable."""
    kinds: dict[str, dict[str, np.ndarray]] = {"params": {}, STATISTICS: {}}
    for name, array in tensors.items():
        kinds[STATISTICS if _is_statistic(name) else "params"][name] = array
    return {kind: unflatten_dict(named, sep=".") for kind, named in kinds.items() if named}


def quantise(tensors: dict[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Returns the tensors with matrices as `dtype`; vectors, which are few numbers, stay float32. An int8 matrix has a
    scale for each output [1, columns], the embedding one for each token [V, 1]: the largest magnitude becomes 127."""
    stored: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if array.ndim < 2 or dtype == "float32":
            stored[name] = array
        elif dtype == "float16":
            largest = np.finfo(np.float16).max
            if np.abs(array).max(initial=0.0) > largest:
                raise UserError(f"dtype=float16: {name} has values beyond {largest:,.0f}; use float32")
            stored[name] = array.astype(np.float16)
        elif dtype == "int8":
            axis = 1 if name == "embedding" else 0
            scale = np.abs(array).max(axis=axis, keepdims=True, initial=0.0) / np.float32(127)
            scale = np.where(scale > 0, scale, np.float32(1))
            stored |= {name: np.rint(array / scale).astype(np.int8), name + SCALE: scale}
        else:
            raise ValueError(f"unknown dtype {dtype!r}")
    return stored


def dequantise(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns float32 tensors from those of `quantise`."""
    tensors = {name: array.astype(np.float32) for name, array in stored.items() if not name.endswith(SCALE)}
    return {name: array * stored[name + SCALE] if name + SCALE in stored else array for name, array in tensors.items()}


def compare_scores(run: Run, exact: Portable, stored: Portable, dtype: str) -> dict[str, Any] | None:
    """Returns the bits per character of the run's test text: as "float32" with its weights, which `exact` has, and as
    "stored" with those of `stored`, the same model as a format stores it, in `dtype`. None where its text is not here.
    """

    def score(model: Portable, tensors: dict[str, np.ndarray]) -> float:
        config = model_config(run.config.to_dict(), model.settings)
        built = make_model(config, run.tokenizer.size, fastest_backend(config.model))
        variables = jax.device_put(variables_of(tensors))
        return dataclasses.replace(run, config=config, model=built, variables=variables).score(text).bpc

    try:
        text = run.split(SCORED)
        bpc = score(exact, exact.tensors)
    except UserError as error:
        log(f"no scores of the exported weights: {error}")
        return None
    is_exact = dtype == "float32"
    lossy = bpc if is_exact else score(stored, dequantise(quantise(stored.tensors, dtype)))
    return {"split": SCORED, "dtype": dtype, "float32": bpc, "stored": lossy}


def model_config(values: dict[str, Any], settings: dict[str, Any]) -> Config:
    """Returns the config `values` with these settings of the model, computed in float32 by any backend, and without
    averaged weights. Raises UserError where they do not go together."""
    model = {name: settings[name] for name in SETTINGS} | {"dtype": "float32", "backend": "auto", "remat": 0}
    return Config.of(values | {"model": values["model"] | model, "train": values["train"] | {"average": 0.0}})


def make_metadata(model: Portable, layout: str) -> dict[str, str]:
    """Returns the strings that a file of the model holds beside its weights; `layout` says how these are named."""
    return {
        "format": "pt",  # what readers of safetensors on the Hugging Face Hub look for
        "lovecraft_jax": lovecraft_jax.__version__,
        "layout": layout,
        "settings": json.dumps(model.settings),
        "tokenizer": model.tokenizer,
        "facts": json.dumps(model.facts),
    }


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2].startswith(("mean_", "variance_"))


def _flat(nested: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf, np.float32) for name, leaf in flatten_dict(nested, sep=".").items()}


def _facts(run: Run, config: dict[str, Any]) -> dict[str, Any]:
    """Returns what is known of a run, without the paths of this machine, and of a text that is no dataset without the
    names of its files. Changes the corpus in `config` likewise."""
    is_dataset = find_dataset(run.corpus.get("sha256", "")) is not None
    corpus = {key: value for key, value in run.corpus.items() if key != "path" and (is_dataset or key not in FILES)}
    if isinstance(corpus.get("name"), str):  # another type is reported below
        corpus["name"] = os.path.basename(corpus["name"].rstrip("/"))
    config["data"]["corpus"] = os.path.basename(config["data"]["corpus"].rstrip("/"))
    try:
        read = {name: _read_json(run, name) for name in ("versions", "baselines")}
        rows = read_rows(run.workdir / metrics.FILE) if run.workdir else []
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"workdir={run.workdir}: a file of it cannot be read ({error}); repair or delete it") from None
    scored: list[Row] = [row for row in rows if row.get("scoring") in metrics.FINAL]
    final = [row for row in scored if row.get("checkpoint") == run.step]
    name = run.workdir.name if run.workdir else "model"
    known = {"name": name, "step": run.step, "version": lovecraft_jax.__version__, "scores": None}
    facts = known | {"config": config, "corpus": corpus, "metrics": final} | read
    try:
        check_facts(facts)
    except UserError as error:
        raise UserError(f"workdir={run.workdir}: {error}") from None
    return facts


def check_facts(facts: dict[str, Any]) -> None:
    """Raises UserError where facts of a run, which may be from a file, are not of the types that formats need."""
    corpus = facts["corpus"]
    expected: list[tuple[str, Any, Any, Any]] = [
        ("corpus.json: name", corpus.get("name", ""), str, None),
        ("corpus.json: sha256", corpus.get("sha256", ""), str, None),
        ("corpus.json: characters", corpus.get("characters", {}), dict, int),
        ("corpus.json: tokens", corpus.get("tokens", {}), dict, int),
        ("corpus.json: splits", corpus.get("splits", {}), dict, list),
        ("versions.json", facts["versions"], dict, str),
        ("baselines.json", facts["baselines"], dict, int | float),
    ]
    for name, value, kind, kind_of_values in expected:
        if not isinstance(value, kind) or (
            kind is dict and not all(isinstance(v, kind_of_values) for v in value.values())
        ):
            raise UserError(f"{name} is {shown(value)}: damaged; repair or delete it")
    if not 0 <= facts["step"] < 2**31:
        raise UserError(f"step is {facts['step']}: expected 0 to 2**31 - 1")


def _read_json(run: Run, name: str) -> dict[str, Any]:
    file = run.workdir / f"{name}.json" if run.workdir else None
    return dict(json.loads(file.read_text())) if file is not None and file.exists() else {}
