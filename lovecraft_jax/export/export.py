"""Writes a run in the format that the ending of a path names."""

import dataclasses
import os

from etils import epath

from lovecraft_jax.export import hub, onnx_file, page
from lovecraft_jax.export.safetensors_file import as_stored, safetensors_bytes
from lovecraft_jax.export.weights import DTYPES, Portable, compare_scores, portable, quantise
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.checks import checked
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import RunError, UserError
from lovecraft_jax.runtime.files import check_can_be_written, resolve_path, write_bytes

ENDINGS = {".html": "float16", ".safetensors": "float32", ".onnx": "float32", "/": "float32"}
"""Formats by the ending of their path, a folder's last, and the dtype in which each stores matrices by default."""


def export_run(run: Run, to: str | os.PathLike[str], dtype: str | None = None) -> epath.Path:
    """Writes the run's model to `to` and returns that path: a web page (.html), .safetensors, .onnx, or, where it ends
    with / or is a folder, what the Hugging Face Hub expects. `dtype`: how matrices are stored, "float32", "float16" or
    "int8"; vectors are float32. Raises UserError where the format cannot hold the model, or nothing can be written."""
    ending, path = ending_of(to), resolve_path(to, "to")
    if dtype is not None:
        checked("dtype", dtype, str, f"one of {', '.join(DTYPES)}", DTYPES.__contains__)
    dtype = dtype or ENDINGS[ending]
    model = portable(run)
    _check(model, ending, path, dtype)  # before scores are computed, which may take minutes
    stored = as_stored(model, dtype)[0] if ending in (".safetensors", "/") else model
    scores = compare_scores(run, model, stored, dtype)
    model = dataclasses.replace(model, facts=model.facts | {"scores": scores})
    try:
        _write(model, ending, path, dtype)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); give another place") from error
    if scores:
        lossy = "" if dtype == "float32" else f", {scores['stored']:.4f} as stored ({dtype})"
        log(f"step {run.step:,}, {scores['split']}: {scores['float32']:.4f} bpc in float32{lossy}")
    return path


def ending_of(to: str | os.PathLike[str]) -> str:
    """Returns the key of ENDINGS for a path. Raises UserError where it has none."""
    name = os.fspath(checked("to", to, str | os.PathLike, "a path", os.fspath))
    if name.endswith(("/", os.sep)) or resolve_path(name, "to").is_dir():
        return "/"
    for ending in ENDINGS:
        if name.endswith(ending):
            return ending
    raise UserError(f"to={name}: expected a path that ends with {', '.join(ENDINGS)} (a folder for the Hub)")


def _check(model: Portable, ending: str, path: epath.Path, dtype: str) -> None:
    """Raises UserError where the format cannot hold the model, or nothing can be written."""
    quantise(model.tensors, dtype)  # raises it where values are too large
    if ending == ".html":
        page.check_size(model, dtype)
    elif ending == ".onnx":
        onnx_file.check_size(model, dtype)
    if ending == "/":
        hub.check_folder(path)
    else:
        check_can_be_written(path)


def _write(model: Portable, ending: str, path: epath.Path, dtype: str) -> None:
    if ending == "/":
        hub.write_hub_folder(model, path, dtype)
        return
    if ending == ".html":
        content = page.render_page(model, dtype).encode()
    elif ending == ".onnx":
        content = onnx_file.onnx_bytes(model, dtype)
    elif ending == ".safetensors":
        content = safetensors_bytes(model, dtype)
    else:
        raise ValueError(f"unknown ending {ending!r}")
    write_bytes(path, content)
