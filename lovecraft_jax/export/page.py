"""Builds page.html: a model, the program that runs it and the page around it, in one file that needs no other."""

import base64
import hashlib
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lovecraft_jax.data.corpus import find_dataset
from lovecraft_jax.export.safetensors_file import own_bytes
from lovecraft_jax.export.weights import Portable, variables_of
from lovecraft_jax.model.lm import count_parameters
from lovecraft_jax.runtime.console import visible
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.training.run_files import IMPORTED

FOLDER = Path(__file__).parent / "page"
START = "main.js"
MOST_PROMPT, MOST_READING, MOST_LENGTH = 1000, 20_000, 20_000  # characters
MOST_TEMPERATURE = 1.5  # the slider's; beyond it a model writes noise
LEAST_TOP_P = 0.01
MOST_BYTES = 400_000_000
"""Of the weights: in base64 just under 2^29 characters, the longest string of the JavaScript of Chromium and Node."""
EXAMPLE = "The ancient house stood alone upon the hill, and it had very fast wifi."
"""What a model of any English text has to read at first."""
WARNING = "It may repeat the prejudices of the text that it has read."
UNITS = {  # by level: how a text grows, a token in words for one and for many
    "chars": ("letter by letter", "character", "characters"),
    "bpe": ("a piece of a word at a time", "piece of a word", "pieces of words"),
    "words": ("word by word", "word", "words"),
}
TOKENS = {
    "chars": "One character. It knows {:,}.",
    "bpe": "A piece of a word, often a whole one. It knows {:,}.",
    "words": "A word or a mark. It knows {:,}; rare words are spelled, letter by letter.",
}
BITS = {"chars": (1, 2, 4, 6, 8), "bpe": (2, 4, 7, 10, 13), "words": (3, 6, 9, 12, 16)}
"""By level: the lower ends of the colours of surprisal, in bits of a token; the first is without a colour."""
DTYPES = {"float32": "32-bit", "float16": "16-bit", "int8": "8-bit"}
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?function|class|const)", re.MULTILINE)
_DECLARED = re.compile(r"^(export )?(?:(?:async )?function\*?|class|const|let|var)\s+([\w$]+|[\[{])", re.MULTILINE)


def check_size(model: Portable, dtype: str) -> None:
    """Raises UserError where the weights, with matrices stored as `dtype`, are too large for a browser."""
    matrix = np.dtype(dtype).itemsize
    sizes = (array.size * (matrix if array.ndim == 2 else 4) for array in model.tensors.values())
    if (size := sum(sizes) + len(model.tokenizer)) > MOST_BYTES:
        other = "" if dtype == "int8" else "dtype=int8, or "
        raise UserError(
            f"the weights take {size / 1e6:,.0f} MB as {dtype}: a page holds at most {MOST_BYTES / 1e6:,.0f} MB; use "
            f"{other}to=model.safetensors"
        )


def render_page(model: Portable, dtype: str = "float16") -> str:
    """Returns the HTML of a page that writes with the model and reads with it, with matrices stored as `dtype`. Raises
    UserError where `check_size` does."""
    check_size(model, dtype)
    environment = Environment(
        loader=PackageLoader("lovecraft_jax.export", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    level = model.facts["config"]["data"]["level"]
    sample = model.facts["config"]["sample"]
    prompt = visible(sample["prompt"])
    source = _describe_source(model.facts["corpus"], prompt)
    style = (FOLDER / "style.css").read_text("utf-8")
    program = bundle({file.name: file.read_text("utf-8") for file in FOLDER.glob("*.js")}, START)
    page = environment.get_template("page.html").render(
        policy=_content_security_policy(program, style),
        style=Markup(style),
        program=Markup(program),
        weights=base64.b64encode(own_bytes(model, dtype)).decode(),
        given={
            "bounds": _bounds(model.settings["vocab_size"] - 1),
            "levels": BITS[level],
            "mostPrompt": MOST_PROMPT,
            "mostReading": MOST_READING,
            "ownScore": model.facts["scores"]["stored"] if model.facts["scores"] else None,
        },
        prompt=prompt,
        temperature=min(sample["temperature"], MOST_TEMPERATURE),
        most_temperature=MOST_TEMPERATURE,
        top_k=min(sample["top_k"], model.settings["vocab_size"] - 1),
        top_p=f"{max(sample['top_p'], LEAST_TOP_P):g}",
        source=source,
        unit=dict(zip(("manner", "one", "many"), UNITS[level], strict=True)),
        levels=_name_levels(BITS[level]),
        scores=model.facts["scores"],
        facts=_list_facts(model, level, source),
    )
    return page.lstrip()


def bundle(sources: Mapping[str, str], start: str) -> str:
    """Returns the ES modules `sources`, by file name, as one script that does what the module `start` does: each after
    those that it imports from, without `import` and `export`. An import is a line
    `import { a, b } from "./file.js";`, an export stands before a declaration. Raises ValueError for anything else, and
    where two modules declare the same name."""
    done: dict[str, str] = {}
    owners: dict[str, str] = {}

    def add(file: str, importers: tuple[str, ...]) -> None:
        if file in importers:
            raise ValueError(f"{file}: imports itself by way of {', '.join(importers[importers.index(file) + 1 :])}")
        if file in done:
            return
        source = sources[file]
        for names, other in _IMPORT.findall(source):
            if other not in sources:
                raise ValueError(f"{file}: imports from {other}, which is not there")
            add(other, (*importers, file))
            exported = {name for is_exported, name in _DECLARED.findall(sources[other]) if is_exported}
            if missing := {name for name in re.split(r"[\s,]+", names) if name} - exported:
                raise ValueError(f"{file}: imports {', '.join(sorted(missing))}, which {other} does not export")
        body = _EXPORT.sub("", _IMPORT.sub("", source))
        if wrong := re.search(r"^(?:import|export)\b.*|</script|<!--", body, re.MULTILINE | re.IGNORECASE):
            raise ValueError(f"{file}: the bundler does not understand {wrong[0]!r}")
        for _, name in _DECLARED.findall(body):
            if name in "[{":
                raise ValueError(f"{file}: destructuring outside functions: the bundler would miss its names")
            if name in owners:
                raise ValueError(f"{name} is declared in {owners[name]} and in {file}: names must be unique")
            owners[name] = file
        done[file] = body.strip()

    add(start, ())
    parts = [f"// {file}\n{body}\n" for file, body in done.items()]
    return "\n".join(['"use strict";\n(() => {', *parts, "})();\n"])


def _content_security_policy(program: str, style: str) -> str:
    """Returns a policy that allows this program, also in a worker, and this style, and no access to any network."""
    program_hash, style_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (program, style)
    )
    return (
        f"default-src 'none'; script-src 'sha256-{program_hash}'; worker-src blob:; style-src 'sha256-{style_hash}'; "
        "img-src data:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _bounds(known: int) -> dict[str, dict[str, Any]]:
    """Returns what may be typed into each field, for a model that knows so many tokens."""

    def bounds(least: float, most: float, is_whole: bool = True, is_optional: bool = False) -> dict[str, Any]:
        return {"least": least, "most": most, "isWhole": is_whole, "isOptional": is_optional}

    return {
        "topK": bounds(0, known),
        "topP": bounds(LEAST_TOP_P, 1, is_whole=False),
        "length": bounds(1, MOST_LENGTH),
        "seed": bounds(0, 2**32 - 1, is_optional=True),
    }


def _name_levels(bits: tuple[int, ...]) -> list[str]:
    """Returns the names of the levels of surprisal: "under 1", "1 to 2", ... "8 or more"."""
    between = [f"{low} to {high}" for low, high in itertools.pairwise(bits)]
    return [f"under {bits[0]}", *between, f"{bits[-1]} or more"]


def _describe_source(corpus: Mapping[str, Any], prompt: str) -> dict[str, str]:
    """Returns how the page speaks of the text that the model was trained on."""
    dataset = find_dataset(corpus.get("sha256", ""))
    name, author = _name(corpus), _without_breaks(dataset.author) if dataset else ""
    characters = corpus.get("characters", {}).get("train")
    known = dataset.title if dataset else name or "a text"
    like = author or (dataset.title if dataset else re.sub(r"\.\w{2,4}$", "", name))
    who = author.split()[-1] if author else "the model"
    warning = dataset.warning if dataset else ""
    return {
        "title": f"Write like {like}" if re.search(r"\w", like) else "Write with a small neural network",
        "question": f"What would surprise {who}?",
        "own": f"Parts of {dataset.title if dataset else 'its text'} that it had never read",
        "described": f"{_round(characters)} of {known}" if characters else known,
        "example": EXAMPLE if dataset and dataset.language == "en" else prompt,
        "about": dataset.about if dataset else "",
        "warning": f"It makes everything up. {warning or WARNING}",
    }


def _list_facts(model: Portable, level: str, source: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns the rows of the footer. A model that was imported may lack some facts of its run."""
    settings, facts, scores = model.settings, model.facts, model.facts["scores"]
    layers = f"{settings['layers']} {'layer' if settings['layers'] == 1 else 'layers'} of {settings['units']:,} units"
    size = f"{settings['cell'].upper()}, {layers}, {count_parameters(variables_of(model.tensors)):,} parameters"
    characters, imported = facts["corpus"].get("characters", {}).get("train"), facts["versions"].get(IMPORTED)
    trained = [_name(facts["corpus"]) or "a text"]
    if characters:
        trained[0] += f": {characters:,} characters to learn from"
    if facts["step"]:
        trained.append(f"{facts['step']:,} steps")
    rows = [
        ("Model", f"{visible(facts['name'], one_line=True)}: {size}"),
        ("What it writes at one step (a token)", TOKENS[level].format(settings["vocab_size"] - 1)),
        ("Trained on", ", ".join(trained)),
    ]
    if source["about"]:
        rows.append(("That text", source["about"]))
    if imported:
        file = visible(str(imported), one_line=True)
        rows.append(("Weights", f"imported from {file}; they may have been trained further in another program"))
    if scores:
        stored = f"{scores['stored']:.4f} with the {DTYPES[scores['dtype']]} weights of this page"
        rows.append((f"Bits per character of its {scores['split']} text", f"{scores['float32']:.4f}; {stored}"))
    purpose = "It is for play: names, dates and claims mean nothing in what it writes. Take no advice from it."
    rows.append(("What it is not for", f"{purpose} {source['warning']}"))
    return [*rows, ("Made with", f"lovecraft_jax {facts['version']}")]


def _name(corpus: Mapping[str, Any]) -> str:
    """Returns the name of a text, "" where none is known."""
    return visible(str(corpus.get("name", "")), one_line=True)


def _without_breaks(author: str) -> str:
    """Returns a name that no line breaks after an initial."""
    return author.replace(". ", ".\N{NO-BREAK SPACE}")


def _round(characters: int) -> str:
    """Returns a number of characters in words: "2.6 million characters"."""
    return f"{characters / 1e6:.1f} million characters" if characters >= 1e6 else f"{characters:,} characters"
