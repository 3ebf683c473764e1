"""A trained model as arrays and JSON, from which every format is written, and its weights in fewer bits."""

import dataclasses
import json
import os
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

import lovecraft_jax
from lovecraft_jax.model.backend import fastest_backend
from lovecraft_jax.model.lm import Variables, make_model
from lovecraft_jax.model.normalization import STATISTICS
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import Row, read_rows
from lovecraft_jax.training import metrics

DTYPES = ("float32", "float16", "int8")
CELLS = ("lstm", "gru")
"""The values of model.cell that every format knows."""
SETTINGS = ("cell", "input_gate", "norm", "mogrify", "layers", "units", "embed", "tie", "skip", "softmax_head")
"""Those of config.model that say what a model computes, but for its dtype."""
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
    if run.members:
        raise UserError(f"an ensemble of {len(run.members)} runs cannot be exported: give one --workdir")
    config = run.config.to_dict()
    if (cell := config["model"]["cell"]) not in CELLS:
        raise UserError(f"model.cell={cell!r} cannot be exported: expected {' or '.join(CELLS)} (docs/extending.md)")
    settings = {name: config["model"][name] for name in SETTINGS} | {"vocab_size": run.tokenizer.size}
    params, statistics = (_flat(run.variables.get(kind, {})) for kind in ("params", STATISTICS))
    return Portable(settings, params | statistics, run.tokenizer.dumps(), _facts(run, config))


def variables_of(tensors: dict[str, np.ndarray]) -> Variables:
    """Returns Flax's collections of the tensors of a Portable."""
    kinds: dict[str, dict[str, np.ndarray]] = {"params": {}, STATISTICS: {}}
    for name, array in tensors.items():
        is_statistic = name.rpartition(".")[2].startswith(("mean_", "variance_"))
        kinds[STATISTICS if is_statistic else "params"][name] = array
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
                raise UserError(f"--dtype=float16: {name} has values beyond {largest:,.0f}; use float32")
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


def compare_scores(run: Run, dtype: str) -> dict[str, Any] | None:
    """Returns the bits per character of the run's test text in float32, as "float32", and with the weights that are
    stored as `dtype`, as "stored". None where its text is not here."""
    config, tensors = run.config.replace(**{"model.dtype": "float32"}), portable(run).tensors
    model = make_model(config, run.tokenizer.size, fastest_backend(config.model))
    try:
        text = run.split(SCORED)
    except UserError as error:
        log(f"no scores of the exported weights: {error}")
        return None
    scores = {}
    for name, kind in (("float32", "float32"), ("stored", dtype)):
        variables = jax.device_put(variables_of(dequantise(quantise(tensors, kind))))
        scores[name] = dataclasses.replace(run, model=model, variables=variables).score(text).bpc
    return {"split": SCORED, "dtype": dtype, **scores}


def metadata(model: Portable, layout: str) -> dict[str, str]:
    """Returns the strings that a file of the model holds beside its weights; `layout` says how these are named."""
    return {
        "format": "pt",  # what readers of safetensors on the Hugging Face Hub look for
        "lovecraft_jax": lovecraft_jax.__version__,
        "layout": layout,
        "settings": json.dumps(model.settings),
        "tokenizer": model.tokenizer,
        "facts": json.dumps(model.facts, ensure_ascii=False),
    }


def _flat(nested: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf, np.float32) for name, leaf in flatten_dict(nested, sep=".").items()}


def _facts(run: Run, config: dict[str, Any]) -> dict[str, Any]:
    """Returns what is known of a run, without the paths of this machine."""
    corpus = {key: value for key, value in run.corpus.items() if key != "path"}
    if run.corpus.get("path"):
        corpus["name"] = config["data"]["corpus"] = os.path.basename(run.corpus["path"].rstrip("/"))
    read = {name: _read_json(run, name) for name in ("versions", "baselines")}
    scored = ("final", "adaptive", "cache")
    rows = read_rows(run.workdir / metrics.FILE) if run.workdir else []
    final: list[Row] = [row for row in rows if row.get("scoring") in scored and row.get("checkpoint") == run.step]
    name = run.workdir.name if run.workdir else "model"
    known = {"name": name, "step": run.step, "version": lovecraft_jax.__version__, "scores": None}
    return known | {"config": config, "corpus": corpus, "metrics": final} | read


def _read_json(run: Run, name: str) -> dict[str, Any]:
    file = run.workdir / f"{name}.json" if run.workdir else None
    return dict(json.loads(file.read_text())) if file is not None and file.exists() else {}
