"""The folder that the Hugging Face Hub expects of a model. It is written only, and uploaded by whoever wants to."""

import collections
import itertools
import json
import shlex
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from etils import epath
from jinja2 import Environment, PackageLoader, StrictUndefined
from tokenizers import decoders, models, normalizers, pre_tokenizers

from lovecraft_jax.data.cleaning import Cleaning
from lovecraft_jax.data.corpus import DATASETS, Corpus, Tale
from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.data.pretokens import PATTERN
from lovecraft_jax.data.tokenizer import Tokenizer, load_tokenizer
from lovecraft_jax.data.word_classes import FORMS, classify
from lovecraft_jax.export.safetensors_file import safetensors_bytes
from lovecraft_jax.export.weights import Portable
from lovecraft_jax.runtime.console import visible
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import Row, check_can_be_written, write_bytes
from lovecraft_jax.training.progress import Progress
from lovecraft_jax.training.run_files import IMPORTED

LIBRARY = "lovecraft_jax"
CONFIG = "config.json"  # by which the folder of an earlier export is known
CARD = "README.md"
CODE = "pytorch_model.py"
FILES = (CONFIG, "model.safetensors", "tokenizer.json", "vocab.json", CODE, CARD)
UNKNOWN = "[unknown]"  # no text has such a token: it would be more than one
STORED = "stored"  # the scoring of the weights as they are in the folder, static too
SCORINGS = {
    "final": "static",
    STORED: "static, with the weights as stored here",
    "adaptive": "adaptive: dynamic evaluation",
    "cache": "adaptive: a neural cache",
}
"""The scores of a model by the names that the card gives to them."""


def write_hub_folder(model: Portable, folder: epath.Path, dtype: str = "float32") -> None:
    """Writes a folder with FILES: the weights, stored as `dtype`, the architecture, the tokenizer as the `tokenizers`
    library reads it and in full, the model in PyTorch, and the model card. Raises UserError where `check_folder`
    does."""
    weights = safetensors_bytes(model, dtype)
    metadata = _metadata(weights)
    tokenizer = load_tokenizer(model.tokenizer)
    library, unknown = make_library_tokenizer(tokenizer)
    config = {
        "library_name": LIBRARY,
        "library_version": model.facts["version"],
        "layout": metadata["layout"],
        "dtype": dtype,
        **json.loads(metadata["settings"]),
        "token_level": tokenizer.level,
        "start_id": tokenizer.start_id,
    }
    contents: dict[str, str | bytes] = {
        CONFIG: json.dumps(config, indent=2) + "\n",
        "model.safetensors": weights,
        "tokenizer.json": library.to_str(pretty=True) + "\n",
        "vocab.json": model.tokenizer + "\n",
        CODE: (resources.files(__package__) / "templates" / CODE).read_text(),
        CARD: render_card(model, config, unknown),
    }
    check_folder(folder)
    for name, content in contents.items():
        write_bytes(folder / name, content if isinstance(content, bytes) else content.encode())


def check_folder(folder: epath.Path) -> None:
    """Raises UserError where files that no export wrote are in the way, or nothing could be written; makes the
    folder."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file, expected a folder; give another place with --to")
    there = [name for name in FILES if (folder / name).exists()]
    if there and not _is_exported(folder / CONFIG):
        raise UserError(
            f"{folder}: has a {there[0]}, and no {CONFIG} of an earlier export: expected a folder without it, or that "
            "of an export; give another one with --to"
        )
    for name in there:
        if (folder / name).is_dir():
            raise UserError(f"{folder / name}: a folder, expected a file; remove it, or give another folder with --to")
    check_can_be_written(folder / CONFIG)


def _is_exported(config: epath.Path) -> bool:
    try:
        return dict(json.loads(config.read_text())).get("library_name") == LIBRARY
    except (OSError, ValueError, TypeError):
        return False


def _metadata(weights: bytes) -> dict[str, str]:
    """Returns the metadata in the content of a .safetensors file, whose first 8 bytes are the length of its header."""
    length = int.from_bytes(weights[:8], "little")
    return dict(json.loads(weights[8 : 8 + length])["__metadata__"])


def make_library_tokenizer(tokenizer: Tokenizer) -> tuple[tokenizers.Tokenizer, int]:
    """Returns a tokenizer of the `tokenizers` library that cleans a text and gives the ids of `tokenizer`, as far as
    the library can, and the id of what it does not know.

    Of words it knows those with an id. It gives rare ones the id of one class, which most rare words of the training
    text have; where rare words are to be left out of the ids, UNKNOWN_ID, which the model has never seen.
    """
    saved, unknown = json.loads(tokenizer.dumps()), UNKNOWN_ID
    if tokenizer.level == "chars":
        ids = {char: number for number, char in enumerate(saved["chars"], UNKNOWN_ID + 1)}
        model = models.BPE({UNKNOWN: UNKNOWN_ID} | ids, [], unk_token=UNKNOWN, fuse_unk=False)  # without a merge
        library = tokenizers.Tokenizer(model)
        library.decoder = decoders.Fuse()
    elif tokenizer.level == "bpe":
        library = tokenizers.Tokenizer.from_str(json.dumps(saved["tokenizer"]))
    elif tokenizer.level == "words":
        texts, unknown = _texts_of_words(tokenizer, saved)
        ids = {text: number for number, text in enumerate(texts)}
        library = tokenizers.Tokenizer(models.WordLevel(ids, texts[unknown]))
        library.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
        library.decoder = decoders.Fuse()
    else:
        raise ValueError(f"unknown level {tokenizer.level!r}")
    library.normalizer = make_normalizer(tokenizer.cleaning)
    return library, unknown


def _texts_of_words(tokenizer: Tokenizer, saved: dict[str, Any]) -> tuple[list[str], int]:
    """Returns the text of each id, a mark for those that are no words, and the id of the commonest class of rare words,
    UNKNOWN_ID where they have none."""
    texts = [tokenizer.decode(np.array([number])) for number in range(tokenizer.size)]
    n_classes = len(list(itertools.takewhile("\N{REPLACEMENT CHARACTER}".__eq__, texts))) - 1
    names = FORMS if saved["rare"] in ("spell", "class") else [f" {n}" for n in range(n_classes)]
    marks = [f"{name[: -len(name.lstrip())]}[rare: {name.strip()}]" for name in names[:n_classes]]
    texts = [UNKNOWN, *marks, *texts[1 + n_classes :]]
    if not n_classes:
        return texts, UNKNOWN_ID
    known, clusters = set(texts), dict(zip(saved["counts"], saved.get("clusters", ()), strict=False))
    counts: collections.Counter[int] = collections.Counter()
    for word, count in saved["counts"].items():
        if word not in known:
            counts[classify(word)[0] if names is FORMS else clusters.get(word, 0)] += count
    return texts, UNKNOWN_ID + 1 + counts.most_common(1)[0][0]


def make_normalizer(cleaning: Cleaning) -> normalizers.Normalizer:
    """Returns what cleans a text in the `tokenizers` library. Its Unicode is older than Python's: a few characters of
    newer versions are composed by one of them only."""
    steps: list[normalizers.Normalizer] = [normalizers.NFC(), _replace("\r\n?", "\n")]
    chars_of: dict[str, str] = collections.defaultdict(str)
    for char, text in cleaning.table.items():
        chars_of[text] += char
    # One after the other: no character of a text that replaces another is itself replaced.
    steps += [_replace(f"[{char_class(chars)}]", text) for text, chars in chars_of.items()]
    if cleaning.keep is not None:
        steps.append(_replace(f"[^{char_class(cleaning.keep)}]", ""))
    return normalizers.Sequence(steps)


def _replace(pattern: str, text: str) -> normalizers.Normalizer:
    return normalizers.Replace(tokenizers.Regex(pattern), text)


def char_class(chars: Iterable[str]) -> str:
    r"""Returns characters as the inside of a regular expression's class, with ranges: " -~" for printable ASCII."""
    points = sorted(set(map(ord, chars)))
    ranges = []
    for _, group in itertools.groupby(enumerate(points), lambda place: place[1] - place[0]):  # where both count up
        ends = [chr(point) for _, point in group]
        first, last = ("\\" + end if end in r"\]^-[&" else end for end in (ends[0], ends[-1]))
        ranges.append(first if len(ends) == 1 else f"{first}-{last}")
    return "".join(ranges)


def render_card(model: Portable, config: dict[str, Any], unknown: int) -> str:
    """Returns the model card. `config`: the content of config.json, `unknown`: the id that tokenizer.json gives to what
    it does not know."""
    environment = Environment(
        loader=PackageLoader("lovecraft_jax.export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": lambda value: f"{value:,}", "json": _json, "repr": repr, "quote": shlex.quote}
    facts, rows = model.facts, _scored(model.facts)
    corpus, baselines = facts["corpus"], facts["baselines"]
    characters = corpus.get("characters", {})
    return environment.get_template("card.md.jinja").render(
        name=_plain(facts["name"]),
        config=config,
        trained=model.settings,
        run=facts["config"],
        sha256=corpus.get("sha256", ""),
        characters=characters,
        tokens=corpus.get("tokens", characters),  # which older runs have not recorded
        corpus_name=_plain(corpus.get("name", "a text of its own")),
        dataset=_dataset(corpus.get("sha256", "")),
        held_out=_held_out(corpus),
        parameters=sum(array.size for name, array in model.tensors.items() if not _is_statistic(name)),
        step=facts["step"],
        epochs=_epochs(facts),
        versions={name: version for name, version in facts["versions"].items() if name != IMPORTED},
        imported=_plain(facts["versions"].get(IMPORTED, "")),
        results={split: [row for row in rows if row["split"] == split] for split in ("valid", "test")},
        names=SCORINGS,
        static=_scores(rows, {"final": "**this model**", STORED: f"**this model**, stored as {config['dtype']}"})
        + _baselines(baselines, ("word_ngram", "ngram", "unigram", "uniform")),
        adaptive=_scores(rows, {name: f"**this model**, {SCORINGS[name]}" for name in ("adaptive", "cache")})
        + _baselines(baselines, ("ppmd",)),
        unknown=unknown,
        rare=json.loads(model.tokenizer).get("rare"),
    )


def _plain(text: str) -> str:
    """Returns a name that was given from outside as one line, which ends no code in a page of Markdown."""
    return visible(text, one_line=True).replace("`", "'")


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2].startswith(("mean_", "variance_"))


def _dataset(sha256: str) -> str:
    """Returns the name of the dataset in data/corpus.py that has this hash, "" for any other text."""
    for row in DATASETS:
        if Corpus(row.name, tuple(Tale(name, Path(), one) for name, one in row.hashes.items())).sha256 == sha256:
            return row.name
    return ""


def _held_out(corpus: dict[str, Any]) -> dict[str, list[str]]:
    """Returns the names of the files that valid and test are; none where a text was cut by position."""
    return {part: corpus["splits"][part] for part in ("valid", "test") if corpus.get("splits", {}).get(part)}


def _epochs(facts: dict[str, Any]) -> float | None:
    """Returns how often the model has seen the training text, None where its size is not known."""
    data = facts["config"]["data"]
    if not facts["corpus"].get("characters"):
        return None
    progress = Progress.of(data["batch_size"], data["seq_len"], facts["corpus"])
    return progress.epochs(facts["step"]) if progress.steps_per_epoch else None


def _scored(facts: dict[str, Any]) -> list[Row]:
    """Returns the rows of scores that are finite, and those that the export itself has computed."""
    rows = [row for row in facts["metrics"] if row["bpc"] is not None]
    if scores := facts["scores"]:
        if not _bpc(rows, "final").get(scores["split"]):
            rows.append({"split": scores["split"], "scoring": "final", "bpc": scores["float32"]})
        if scores["dtype"] != "float32":
            rows.append({"split": scores["split"], "scoring": STORED, "bpc": scores["stored"]})
    return rows


def _bpc(rows: Sequence[Row], scoring: str) -> dict[str, float]:
    """Returns the bits per character of each split that was scored so."""
    return {row["split"]: row["bpc"] for row in rows if row["scoring"] == scoring}


Scores = list[tuple[str, float | None, float | None]]
"""The rows of a table: a name, and bits per character on valid and on test."""


def _scores(rows: Sequence[Row], labels: dict[str, str]) -> Scores:
    """Returns the rows of the scorings that have labels."""
    scored = ((label, _bpc(rows, scoring)) for scoring, label in labels.items())
    return [(label, bpc.get("valid"), bpc.get("test")) for label, bpc in scored if bpc]


def _baselines(known: dict[str, float], keys: Sequence[str]) -> Scores:
    """Returns the rows of those baselines that baselines.json has."""
    labels = {"uniform": "all characters equally likely", "unigram": "frequencies of characters"}
    labels |= {"ppmd": "PPMd, a file compressor"}
    for key, tokens in (("ngram", "characters"), ("word_ngram", "words")):
        labels[key] = f"{known.get(f'{key}_order', 0):.0f}-gram of {tokens}"
    return [(labels[key], known[key], known.get(f"{key}_test")) for key in keys if key in known]
