"""The way back: a run, without the optimiser's state, of weights in a .safetensors file, as trained on in PyTorch."""

import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from lovecraft_jax.config import Config
from lovecraft_jax.data.tokenizer import load_tokenizer
from lovecraft_jax.export.safetensors_file import TORCH, from_torch, layout_of, read_file, settings_of
from lovecraft_jax.export.weights import SETTINGS, variables_of
from lovecraft_jax.model.lm import make_model
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import locked_workdir
from lovecraft_jax.training.checkpoint import Checkpoints
from lovecraft_jax.training.run_files import IMPORTED, write_run_files
from lovecraft_jax.training.state import Weights, weights_target


def import_run(file: str | os.PathLike[str], workdir: str, like: Run | None = None) -> epath.Path:
    """Makes a run in `workdir`, a new folder, of the weights in a .safetensors file: one that was exported, or another
    in the layout of torch.nn.LSTM or torch.nn.GRU. Tokenizer, text and the other settings are those in the file's
    metadata, or of the run `like`. Returns the folder. Raises UserError."""
    given, tensors = read_file(file)
    known = {name: given[name] for name in ("tokenizer", "facts") if name in given}
    if like is None and len(known) < 2:
        raise UserError(f"{file}: its metadata has no tokenizer and facts (docs/export.md); give a run with --like")
    try:
        if layout_of(tensors, given) == TORCH:
            settings, tensors = from_torch(tensors)
        else:
            settings = settings_of(given)
        facts = _facts_of(like) if like else dict(json.loads(given["facts"]))
        text = like.tokenizer.dumps() if like else given["tokenizer"]
        tokenizer = load_tokenizer(text)
        config = Config.of(facts["config"]).replace(**{f"model.{name}": settings[name] for name in SETTINGS})
        config = config.replace(**{"model.dtype": "float32", "model.backend": "auto", "train.average": 0.0})
        step, corpus, versions = int(facts["step"]), dict(facts["corpus"]), dict(facts["versions"])
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: its metadata cannot be read ({error!r}); export it again, or give --like") from None
    if settings["vocab_size"] != tokenizer.size:
        raise UserError(f"{file}: weights of {settings['vocab_size']} ids, and a tokenizer of {tokenizer.size}")
    weights = _checked_weights(f"{file}", config, tokenizer.size, tensors)
    recorded = {"config": config.to_dict(), "vocab": text, "corpus": corpus}
    with locked_workdir(workdir) as path:
        if (path / "config.json").exists() or (path / "checkpoints").exists():
            raise UserError(f"--workdir={workdir}: holds a run; name a new folder")
        write_run_files(path, recorded | {"versions": versions | {IMPORTED: os.path.basename(file)}})
        checkpoints = Checkpoints(path)
        checkpoints.save(step, Weights(jnp.int32(step), weights), {})
        checkpoints.wait()
        checkpoints.close()
    return path


def _facts_of(run: Run) -> dict[str, Any]:
    return {"config": run.config.to_dict(), "corpus": run.corpus, "versions": {}, "step": 0}


def _checked_weights(file: str, config: Config, vocab_size: int, tensors: dict[str, np.ndarray]) -> Any:
    """Returns the variables of a model. Raises UserError where it has others than the file."""
    wanted = weights_target(make_model(config, vocab_size)).variables
    variables = variables_of(tensors)
    shapes = [{name: leaf.shape for name, leaf in flatten_dict(tree, sep=".").items()} for tree in (wanted, variables)]
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        there, found = (None if name not in shape else list(shape[name]) for shape in shapes)
        if there != found:
            short = name.partition(".")[2]
            raise UserError(f"{file}: {short} is {found or 'missing'}, expected {there or 'none'} (docs/export.md)")
    return jax.tree.map(jnp.asarray, variables)
