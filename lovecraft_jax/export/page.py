"""Builds page.html: a model, the program that runs it and the page around it, in one file that needs no other."""

import base64
import hashlib
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lovecraft_jax.export.safetensors_file import own_bytes
from lovecraft_jax.export.weights import Portable, variables_of
from lovecraft_jax.runtime.console import visible

FOLDER = Path(__file__).parent / "page"
START = "main.js"
MOST_PROMPT, MOST_READING, MOST_LENGTH = 1000, 20_000, 20_000  # characters
MOST_TEMPERATURE = 1.5  # the slider's; beyond it a model writes noise
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


def render_page(model: Portable, dtype: str = "float16") -> str:
    """Returns the HTML of a page that writes with the model and reads with it, with matrices stored as `dtype`."""
    environment = Environment(
        loader=PackageLoader("lovecraft_jax.export", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    level = model.facts["config"]["data"]["level"]
    sample = model.facts["config"]["sample"]
    source = _describe_source(model.facts["corpus"])
    style = (FOLDER / "style.css").read_text("utf-8")
    program = bundle({file.name: file.read_text("utf-8") for file in FOLDER.glob("*.js")}, START)
    page = environment.get_template("page.html").render(
        policy=_content_security_policy(program, style),
        style=Markup(style),
        program=Markup(program),
        weights=base64.b64encode(own_bytes(model, dtype)).decode(),
        given={
            "bounds": _bounds(model.settings["vocab_size"]),
            "levels": BITS[level],
            "mostPrompt": MOST_PROMPT,
            "mostReading": MOST_READING,
        },
        prompt=visible(sample["prompt"]),
        temperature=min(sample["temperature"], MOST_TEMPERATURE),
        top_k=min(sample["top_k"], model.settings["vocab_size"]),
        top_p=sample["top_p"],
        example=source["example"] or visible(sample["prompt"]),
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


def _bounds(vocab_size: int) -> dict[str, dict[str, Any]]:
    """Returns what may be typed into each field."""

    def bounds(least: float, most: float, is_whole: bool = True, is_optional: bool = False) -> dict[str, Any]:
        return {"least": least, "most": most, "isWhole": is_whole, "isOptional": is_optional}

    return {
        "topK": bounds(0, vocab_size),
        "topP": bounds(0.01, 1, is_whole=False),
        "length": bounds(1, MOST_LENGTH),
        "seed": bounds(0, 2**32 - 1, is_optional=True),
    }


def _name_levels(bits: tuple[int, ...]) -> list[str]:
    """Returns the names of the levels of surprisal: "under 1", "1 to 2", ... "8 or more"."""
    between = [f"{low} to {high}" for low, high in itertools.pairwise(bits)]
    return [f"under {bits[0]}", *between, f"{bits[-1]} or more"]


def _describe_source(corpus: Mapping[str, Any]) -> dict[str, str]:
    """Returns how the page speaks of the text that the model was trained on."""
    name, characters = visible(str(corpus["name"]), one_line=True), _round(corpus["characters"]["train"])
    if name == "lovecraft":
        return {
            "title": "Write like H.\N{NO-BREAK SPACE}P.\N{NO-BREAK SPACE}Lovecraft",
            "question": "What would surprise Lovecraft?",
            "ask": "See what would surprise Lovecraft",
            "described": f"{characters} of H. P. Lovecraft's tales",
            "own": "tales of his that it had never read",
            "example": "The ancient house stood alone upon the hill, and it had very fast wifi.",
            "licence": "",
            "warning": "It makes everything up, and may repeat the slurs and prejudices of its author and his time.",
        }
    described, licence = f"{characters} of {name}", ""
    if name == "bundled":
        described, licence = f"{characters} of the tales that come with lovecraft_jax", "Apache 2.0"
    return {
        "title": "Write like the bundled tales" if name == "bundled" else f"Write like {name}",
        "question": "What would surprise the model?",
        "ask": "See what would surprise the model",
        "described": described,
        "own": "text of its kind that it had never read",
        "example": "",
        "licence": licence,
        "warning": "It makes everything up, and may repeat the prejudices of the text that it has read.",
    }


def _list_facts(model: Portable, level: str, source: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns the rows of the footer."""
    settings, facts, scores = model.settings, model.facts, model.facts["scores"]
    parameters = sum(array.size for array in flatten_dict(variables_of(model.tensors)["params"]).values())
    layers = f"{settings['layers']} {'layer' if settings['layers'] == 1 else 'layers'} of {settings['units']:,} units"
    size = f"{settings['cell'].upper()}, {layers}, {parameters:,} parameters"
    corpus = facts["corpus"]
    text = f"{visible(str(corpus['name']), one_line=True)}: {corpus['characters']['train']:,} characters to learn from"
    rows = [
        ("Model", f"{visible(facts['name'], one_line=True)}: {size}"),
        ("A token, what it writes at one step", TOKENS[level].format(settings["vocab_size"] - 1)),
        ("Trained on", f"{text}, {facts['step']:,} steps"),
    ]
    if source["licence"]:
        rows.append(("Licence of the text", source["licence"]))
    if scores:
        stored = f"{scores['stored']:.4f} with the {DTYPES[scores['dtype']]} weights of this page"
        rows.append((f"Bits per character of its {scores['split']} text", f"{scores['float32']:.4f}; {stored}"))
    purpose = "It is for play: names, dates and claims mean nothing in what it writes. Take no advice from it."
    rows.append(("What it is not for", f"{purpose} {source['warning']}"))
    return [*rows, ("Made with", f"lovecraft_jax {facts['version']}")]


def _round(characters: int) -> str:
    """Returns a number of characters in words: "2.6 million characters"."""
    return f"{characters / 1e6:.1f} million characters" if characters >= 1e6 else f"{characters:,} characters"
