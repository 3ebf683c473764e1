"""Makes a run, without an optimiser's state, from weights in a .safetensors file, as after training in PyTorch."""

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
from lovecraft_jax.export.safetensors_file import TORCH, from_torch, layout_of, read_file
from lovecraft_jax.export.weights import SETTINGS, check_facts, model_config, variables_of
from lovecraft_jax.model.lm import make_model
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import expand_home, locked_workdir, resolve_path
from lovecraft_jax.training.checkpoint import Checkpoints, saved_steps
from lovecraft_jax.training.run_files import IMPORTED, write_run_files
from lovecraft_jax.training.state import Weights, weights_target


def import_run(file: str | os.PathLike[str], workdir: str, like: Run | None = None) -> epath.Path:
    """Makes a run in `workdir`, a new folder, from weights in a .safetensors file: one that was exported, or another
    in the layout of torch.nn.LSTM or torch.nn.GRU. Tokenizer, text and the other settings are those of the run `like`,
    without one those in the file's metadata. Returns the folder. Raises UserError where one of these is missing, where
    names or shapes of tensors are not those of the model, or where the workdir holds a run."""
    path = expand_home(os.fspath(file))
    metadata, tensors = read_file(path)
    if like is None and not {"tokenizer", "facts"} <= metadata.keys():
        raise UserError(
            f"{path}: its metadata has no tokenizer and facts (docs/export.md); name a run that has them (like)"
        )
    try:
        facts = _facts_of(like) if like else dict(json.loads(metadata["facts"]))
        if layout_of(tensors, metadata) == TORCH:
            settings, tensors = from_torch(tensors)
        elif "settings" in metadata:
            settings = dict(json.loads(metadata["settings"]))
        else:
            settings = {name: facts["config"]["model"][name] for name in SETTINGS}
        vocabulary = like.tokenizer.dumps() if like else metadata["tokenizer"]
        size, config = load_tokenizer(vocabulary).size, model_config(facts["config"], settings)
        check_facts(facts)
        step, corpus, versions = int(facts["step"]), dict(facts["corpus"]), dict(facts["versions"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: its metadata cannot be read ({error!r}); export it again, or name a run to take it from (like)"
        ) from None
    variables = _checked_variables(path, config, size, tensors)
    versions |= {IMPORTED: os.path.basename(path)}
    recorded = {"config": config.to_dict(), "vocab": vocabulary, "corpus": corpus, "versions": versions}
    folder = resolve_path(workdir)
    if (folder / "config.json").exists() or saved_steps(folder):
        raise UserError(f"workdir={workdir}: holds a run; name a new folder")
    with locked_workdir(workdir):
        checkpoints = Checkpoints(folder)
        checkpoints.save(step, Weights(jnp.int32(step), variables), {})
        checkpoints.wait()
        checkpoints.close()
        write_run_files(folder, recorded)  # last, since a folder without them is no run
    return folder


def _facts_of(run: Run) -> dict[str, Any]:
    """Returns the facts for weights whose training is not known: step 0, and no versions."""
    return {"config": run.config.to_dict(), "corpus": run.corpus, "versions": {}, "baselines": {}, "step": 0}


def _checked_variables(file: str, config: Config, vocab_size: int, tensors: dict[str, np.ndarray]) -> Any:
    """Returns the variables of a model. Raises UserError at the first tensor whose name or shape is not the model's."""
    wanted = weights_target(make_model(config, vocab_size)).variables
    variables = variables_of(tensors)
    shapes = [{name: list(leaf.shape) for name, leaf in _flat(tree).items()} for tree in (wanted, variables)]
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        expected, found = (by_name.get(name) for by_name in shapes)
        if expected != found:
            tensor = name.partition(".")[2]
            raise UserError(f"{file}: {tensor} is {found or 'missing'}, expected {expected or 'none'} (docs/export.md)")
    for name, array in tensors.items():
        if not np.all(np.isfinite(array)):
            raise UserError(f"{file}: {name} has values that are not finite; export weights that are")
    return jax.tree.map(jnp.asarray, variables)


def _flat(tree: Any) -> dict[str, Any]:
    return dict(flatten_dict(tree, sep="."))
