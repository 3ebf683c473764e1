"""All that a report says of one run, as plain values."""

import dataclasses
import json
from typing import Any

import jax
from etils import epath

from lovecraft_jax.data import dataset
from lovecraft_jax.inference.generate import Sampling
from lovecraft_jax.probing import rare_words, surprisal, units
from lovecraft_jax.probing.surprisal import Surprisal
from lovecraft_jax.probing.units import UnitExcerpt
from lovecraft_jax.run import load_run
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import Row, read_rows, resolve_path
from lovecraft_jax.stylometry.authorship import Author, Comparison, FeatureComparison
from lovecraft_jax.stylometry.features import measure
from lovecraft_jax.stylometry.overlap import Overlap, Span
from lovecraft_jax.stylometry.reference import Reference
from lovecraft_jax.training import metrics
from lovecraft_jax.training.progress import Progress

TEMPERATURES = (0.4, 0.7, 1.0)
STREAMS, LENGTH = 8, 10_000
"""Samples at each temperature, and the tokens of each: one of the longest pieces that are judged."""
ROW_KEYS = {
    "train": {"step", "bpc", "chars_per_second"},
    "valid": {"step", "bpc", "scoring"},
    "test": {"step", "bpc", "scoring"},
    "sample": {"step"},
}
"""What a report takes from the rows of metrics.jsonl, by their split."""
SHOWN = 5
"""Of the samples that training wrote."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """What the run wrote at an evaluation, the prompt before it, and its valid score then, where it was kept.

    `figures` are those of `style.measure` and `Overlap.measure`, of the text without the prompt.
    """

    step: int
    text: str
    bpc: float | None
    figures: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Written:
    """What the model writes at a temperature, from nothing but a newline.

    `spans` are those of the first text. `copied` are the means of `Overlap.measure` over the texts; `longest` is the
    longest span of all, with its words.
    """

    temperature: float
    texts: list[str]
    spans: list[Span]
    copied: dict[str, float]
    longest: tuple[Span, str] | None
    style: Comparison


@dataclasses.dataclass(frozen=True)
class Findings:
    """`step` is the checkpoint's. `training_seconds` are those of the steps alone, without evaluations."""

    name: str
    workdir: str
    config: dict[str, Any]
    corpus: dict[str, Any]
    versions: dict[str, str]
    parameters: int
    step: int
    rows: list[Row]
    baselines: dict[str, float]
    training_seconds: float
    progress: Progress
    stages: list[Stage]
    written: list[Written]
    copied_by_author: dict[str, tuple[float, float, float]]
    words: rare_words.RareWords | None
    surprise: Surprisal
    units: list[UnitExcerpt] | None

    @property
    def chars_per_step(self) -> float:
        """Characters that a training step reads."""
        return self.progress.chars_per_step

    @property
    def shown_stages(self) -> list[Stage]:
        """SHOWN of them, each about as many times further on as the next: most is learnt early."""
        count = len(self.stages)
        return [self.stages[i] for i in sorted({round(count ** (n / (SHOWN - 1))) - 1 for n in range(SHOWN)}) if count]

    @property
    def longest_copied(self) -> int:
        """In characters, of all that is written."""
        return max((at.longest[0].length for at in self.written if at.longest), default=0)

    @property
    def real(self) -> FeatureComparison:
        """The rate of real words at the highest temperature, beside the author's."""
        return next(row for row in self.written[-1].style.features if row.feature.key == "real")

    @property
    def clear_units(self) -> list[UnitExcerpt]:
        """Those that stand out from chance: twice as far from a half."""
        return [unit for unit in self.units or () if unit.score - 0.5 > 2 * (unit.chance - 0.5)]

    @property
    def steps(self) -> int:
        """How far training has come, of which the checkpoint may be an earlier step."""
        return max((row["step"] for row in self.rows), default=self.step)

    @property
    def passes(self) -> float:
        """Times that training went over its text."""
        return self.progress.epochs(self.steps)

    @property
    def style_rows(self) -> list[tuple[FeatureComparison, ...]]:
        """Each figure of style at every temperature."""
        return list(zip(*(at.style.features for at in self.written), strict=True))

    def final(self, split: str) -> float | None:
        """The published score, in bits per character; None where it is not of this checkpoint."""
        final = [row for row in self.rows if row["split"] == split and row.get("scoring") == "final"]
        return final[-1]["bpc"] if final and final[-1]["checkpoint"] == self.step else None


def find(workdir: str, checkpoint: str, name: str) -> Findings:
    """Everything about the run in `workdir`. Raises UserError where it is none, or its corpus is not to be had."""
    run, path = load_run(workdir, checkpoint), resolve_path(workdir)
    config = run.config.to_dict()
    texts = dataset.prepare(run.config, run.corpus, run.tokenizer).splits.by_tale
    progress = Progress.of(run.config.data.batch_size, run.config.data.seq_len, run.corpus)
    rows = _rows(path / metrics.FILE)
    versions, baselines = (_read_json(path / f"{name}.json") for name in ("versions", "baselines"))
    log(f"{name}: writing {STREAMS} samples at each of {len(TEMPERATURES)} temperatures, beside the author's pieces")
    overlap = Overlap(texts["train"])
    held_out = texts["valid"] | texts["test"]
    author = Author(texts["train"] | held_out, held_out.keys())
    written = [
        _written(temperature, run.generate("", LENGTH, 0, Sampling(temperature), STREAMS), overlap, author)
        for temperature in TEMPERATURES
    ]
    log(f"{name}: rare words, single units, held-out tales")
    everything = [text for at in written for text in at.texts]
    return Findings(
        name=name,
        workdir=workdir,
        config=config,
        corpus=run.corpus,
        versions=versions,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(run.variables["params"])),
        step=run.step,
        rows=rows,
        baselines=baselines,
        training_seconds=progress.seconds(rows),
        progress=progress,
        stages=_stages(path / "samples", rows, config["sample"]["prompt"], author.reference, overlap),
        written=written,
        copied_by_author=overlap.quantiles(held_out.values(), LENGTH),
        words=rare_words.analyze(run, texts, everything) if run.tokenizer.level == "chars" else None,
        units=units.analyze(run, texts) if run.tokenizer.level == "chars" else None,
        surprise=surprisal.analyze(run, texts),
    )


def _written(temperature: float, texts: list[str], overlap: Overlap, author: Author) -> Written:
    figures = [overlap.measure(text) for text in texts]
    copied = {key: sum(of_text[key] for of_text in figures) / len(texts) for key in figures[0]}
    longest = [(span, text[span.start : span.end]) for text in texts if (span := overlap.longest(text))]
    of_all = max(longest, key=lambda pair: pair[0].length, default=None)
    return Written(temperature, texts, overlap.spans(texts[0]), copied, of_all, author.compare("".join(texts)))


def _rows(path: epath.Path) -> list[Row]:
    try:
        rows = read_rows(path)
        for row in rows:
            if missing := ROW_KEYS[row["split"]] - row.keys():
                raise KeyError(*missing)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error}); start the training again") from None
    return rows


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); start the training again, which writes it anew") from None


def _stages(folder: epath.Path, rows: list[Row], prompt: str, reference: Reference, overlap: Overlap) -> list[Stage]:
    samples = sorted(path for path in folder.glob("*.txt") if path.stem.isdigit()) if folder.exists() else []
    bpc = {row["step"]: row["bpc"] for row in rows if row["split"] == "valid" and row["scoring"] == "scheduled"}
    stages = []
    for path in samples:
        step, text = int(path.stem), path.read_text().removesuffix("\n")
        written = text.removeprefix(prompt)
        figures = measure(written, reference) | overlap.measure(written)
        stages.append(Stage(step, text, bpc.get(step), figures))
    return stages
