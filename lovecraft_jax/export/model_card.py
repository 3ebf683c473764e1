"""The model card: README.md of a folder for the Hugging Face Hub."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lovecraft_jax.data.corpus import find_dataset
from lovecraft_jax.export.weights import Portable, variables_of
from lovecraft_jax.inference.baselines import ngram_names
from lovecraft_jax.model.lm import count_parameters
from lovecraft_jax.runtime.console import visible
from lovecraft_jax.runtime.files import Row
from lovecraft_jax.training.progress import Progress
from lovecraft_jax.training.run_files import IMPORTED

MOST_NAME = 200  # characters of what was given from outside
STORED = "stored"  # the scoring of the weights as they are in the folder, static too
SCORINGS = {
    "final": "static",
    STORED: "static, with the weights as stored here",
    "adaptive": "adaptive: dynamic evaluation",
    "cache": "adaptive: a neural cache",
}
"""The scores of a model by the names that the card gives to them."""


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
    characters, imported = corpus.get("characters", {}), facts["versions"].get(IMPORTED, "")
    is_known = not imported or facts["step"] > 0  # else the run that the weights were imported beside says nothing
    dataset = find_dataset(corpus.get("sha256", "")) if is_known else None
    return environment.get_template(
        "card.md.jinja"
    ).render(
        name=_plain(facts["name"]),
        config=config,
        trained=model.settings,
        run=facts["config"],
        sha256=corpus.get("sha256", ""),
        characters=characters,
        tokens=corpus.get("tokens", characters),  # which older runs have not recorded
        corpus_name=_plain(corpus.get("name", "a text of its own")),
        dataset=dataset,
        prompt=visible(facts["config"]["sample"]["prompt"], one_line=True)[:MOST_NAME],
        held_out=_held_out(corpus),
        parameters=count_parameters(variables_of(model.tensors)),
        step=facts["step"],
        epochs=_epochs(facts),
        versions={name: _plain(str(version)) for name, version in facts["versions"].items() if name != IMPORTED},
        imported=_plain(imported),
        is_known=is_known,
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
    """Returns a name that was given from outside as one line that is plain text in a page of Markdown."""
    return visible(text, one_line=True)[:MOST_NAME].replace("`", "'").replace("<", "&lt;")


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


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
    labels |= ngram_names(known) | {"ppmd": "PPMd, a file compressor"}
    return [(labels[key], known[key], known.get(f"{key}_test")) for key in keys if key in known]
