"""The folder that the Hugging Face Hub expects of a model. It is written only, and uploaded by whoever wants to."""

import json
from importlib import resources

from etils import epath

from lovecraft_jax.data.tokenizer import load_tokenizer
from lovecraft_jax.export.hub_tokenizer import make_library_tokenizer
from lovecraft_jax.export.model_card import render_card
from lovecraft_jax.export.safetensors_file import as_stored, safetensors_bytes
from lovecraft_jax.export.weights import Portable
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import check_can_be_written, write_files

LIBRARY = "lovecraft_jax"
CONFIG = "config.json"  # by which the folder of an earlier export is known
CARD = "README.md"
CODE = "pytorch_model.py"
FILES = (CONFIG, "model.safetensors", "tokenizer.json", "vocab.json", CODE, CARD)


def write_hub_folder(model: Portable, folder: epath.Path, dtype: str = "float32") -> None:
    """Writes a folder with FILES: the weights, stored as `dtype`, the architecture, the tokenizer as the `tokenizers`
    library reads it and in full, the model in PyTorch, and the model card. Raises UserError where `check_folder`
    does."""
    stored, layout = as_stored(model, dtype)
    tokenizer = load_tokenizer(model.tokenizer)
    library, unknown = make_library_tokenizer(tokenizer)
    config = {
        "library_name": LIBRARY,
        "library_version": model.facts["version"],
        "layout": layout,
        "dtype": dtype,
        **stored.settings,
        "token_level": tokenizer.level,
        "start_id": tokenizer.start_id,
    }
    contents = {
        CONFIG: _encoded(json.dumps(config, indent=2) + "\n"),
        "model.safetensors": safetensors_bytes(model, dtype),
        "tokenizer.json": _encoded(library.to_str(pretty=True) + "\n"),
        "vocab.json": _encoded(model.tokenizer + "\n"),
        CODE: (resources.files(__package__) / "templates" / CODE).read_bytes(),
        CARD: _encoded(render_card(model, config, unknown)),
    }
    check_folder(folder)
    write_files(folder, contents)


def check_folder(folder: epath.Path) -> None:
    """Raises UserError where files that no export wrote are in the way, or nothing could be written; makes the
    folder."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file, expected a folder; give another place")
    existing = [name for name in FILES if (folder / name).exists()]
    if existing and not _is_exported(folder / CONFIG):
        raise UserError(
            f"{folder}: its {existing[0]} is not from an earlier export, and would be replaced; give another folder"
        )
    for name in existing:
        if (folder / name).is_dir():
            raise UserError(f"{folder / name}: a folder, expected a file; remove it, or give another folder")
    check_can_be_written(folder / CONFIG)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _is_exported(config: epath.Path) -> bool:
    try:
        return dict(json.loads(config.read_text())).get("library_name") == LIBRARY
    except (OSError, ValueError, TypeError):
        return False
