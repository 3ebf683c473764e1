"""Everything that a report shows about one run, as plain values."""

import dataclasses
import json
import math
from typing import Any

from etils import epath

from lovecraft_jax.data import dataset
from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.model.lm import count_parameters
from lovecraft_jax.probing import rare_words, surprisal, units
from lovecraft_jax.probing.rare_words import RareWords
from lovecraft_jax.probing.surprisal import Surprisal
from lovecraft_jax.probing.units import UnitExcerpt
from lovecraft_jax.run import Run, load_run
from lovecraft_jax.runtime.console import log, visible
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import Row, read_rows, resolve_path
from lovecraft_jax.stylometry.authorship import Author, Comparison, FeatureComparison
from lovecraft_jax.stylometry.features import measure
from lovecraft_jax.stylometry.overlap import Overlap, Span
from lovecraft_jax.training import metrics
from lovecraft_jax.training.early_stopping import ValidScores, final_warnings, uniform_bpc
from lovecraft_jax.training.progress import Progress

TEMPERATURES = (0.4, 0.7, 1.0)
SAMPLES = 8  # at each temperature
LENGTH = 10_000  # characters of each: the longest piece that authorship.py uses
MARGIN = 1.2  # how many more tokens are generated than such a piece of the training text has, where they are longer
SHOWN_SAMPLES = 5  # samples from training on the page
ROW_KEYS = {  # those that a report needs in the rows of metrics.jsonl, by their split
    "train": {"step", "bpc", "chars_per_second"},
    "valid": {"step", "bpc", "scoring"},
    "test": {"step", "bpc", "scoring"},
    "sample": {"step"},
}


@dataclasses.dataclass(frozen=True)
class TrainingSample:
    """A sample that training generated at an evaluation."""

    step: int
    text: str  # with its prompt
    bpc: float | None  # the valid score, if recorded
    features: dict[str, float]  # of features.py and overlap.py, measured without the prompt


@dataclasses.dataclass(frozen=True)
class GeneratedTexts:
    """Texts that the model generates at one temperature after a newline, compared with the author."""

    temperature: float
    texts: list[str]
    spans: list[Span]  # that the first text shares with the training text
    overlap: dict[str, float]  # the means over the texts of `Overlap.measure`
    longest: tuple[Span, str] | None  # the longest span of all texts and its characters
    comparison: Comparison


@dataclasses.dataclass(frozen=True)
class RunReport:
    """Everything that the page shows about one run."""

    name: str
    workdir: str
    config: dict[str, Any]
    corpus: dict[str, Any]
    versions: dict[str, str]
    parameters: int
    step: int  # of the checkpoint
    rows: list[Row]
    warnings: list[str]  # of early_stopping.py
    baselines: dict[str, float]
    progress: Progress
    training_samples: list[TrainingSample]
    generated: list[GeneratedTexts]
    author_overlap: dict[str, tuple[float, float, float]]  # quantiles of `Overlap.measure` for the held-out tales
    no_words: str  # why counts of words say nothing about the text, or ""
    has_case: bool  # whether its script has capitals
    rare_words: RareWords | str  # or why there are none
    surprisal: Surprisal
    units: list[UnitExcerpt] | None  # None if tokens are not characters

    @property
    def shown_samples(self) -> list[TrainingSample]:
        """SHOWN_SAMPLES of the training samples, at steps that grow geometrically, because most is learnt early."""
        count = len(self.training_samples)
        places = sorted({round(count ** (n / (SHOWN_SAMPLES - 1))) - 1 for n in range(SHOWN_SAMPLES)}) if count else []
        return [self.training_samples[place] for place in places]

    @property
    def longest_overlap(self) -> int:
        return max((texts.longest[0].length for texts in self.generated if texts.longest), default=0)

    @property
    def real_words(self) -> FeatureComparison:
        """The share of real words at the highest temperature, beside the author's."""
        return next(row for row in self.generated[-1].comparison.features if row.feature.key == "real")

    @property
    def clear_units(self) -> list[UnitExcerpt]:
        """The units whose score is at least twice as far from 1/2 as the score by chance."""
        return [unit for unit in self.units or () if unit.score - 0.5 > 2 * (unit.chance - 0.5)]

    @property
    def steps(self) -> int:
        """The last training step; the checkpoint may be from an earlier one."""
        return max((row["step"] for row in self.rows), default=self.step)

    @property
    def patience(self) -> int:
        """The train.patience that ended the run before its last step; 0 if none did."""
        return max((row.get("patience", 0) for row in self.rows), default=0)

    @property
    def features_by_temperature(self) -> list[tuple[FeatureComparison, ...]]:
        """For each feature that says something its comparisons at all temperatures."""
        by_temperature = zip(*(texts.comparison.features for texts in self.generated), strict=True)
        return [comparisons for comparisons in by_temperature if self.says_something(comparisons[0].feature.key)]

    def says_something(self, feature: str) -> bool:
        """Whether a feature, by its key, can differ between texts of this script."""
        return feature.startswith("letters") or not (self.no_words or (feature == "capitals" and not self.has_case))

    def final(self, split: str, scoring: str = "final") -> float | None:
        """Returns the final score in bits per character, static, "adaptive" or with a "cache"; None if it was not
        computed from this checkpoint."""
        final = [row for row in self.rows if row["split"] == split and row.get("scoring") == scoring]
        return final[-1]["bpc"] if final and final[-1]["checkpoint"] == self.step else None


def collect_run(workdir: str, checkpoint: str, name: str, corpus: str | None = None) -> RunReport:
    """Loads the run in `workdir`, which the page calls `name`, and analyses it. Raises UserError if it is no run, and
    OSError where one of its files cannot be read. `corpus`: see `load_run`."""
    run, path = load_run(workdir, checkpoint, corpus), resolve_path(workdir)
    data = dataset.prepare(run.config, run.corpus, run.tokenizer)
    by_tale = data.splits.by_tale
    tales = {split: {visible(tale, one_line=True): text for tale, text in by_tale[split].items()} for split in by_tale}
    rows = _read_metrics(path / metrics.FILE)
    uniform = {split: uniform_bpc(text, run.tokenizer.size) for split, text in data.encoded.items()}
    versions, baselines = (_read_json(path / f"{name}.json") for name in ("versions", "baselines"))
    overlap = Overlap(tales["train"])
    held_out = tales["valid"] | tales["test"]
    author = Author(tales["train"] | held_out, held_out.keys())
    training_samples = _training_samples(path / "samples", rows, run.config.sample.prompt, author, overlap)
    log(f"{name}: generating {SAMPLES} samples at each of {len(TEMPERATURES)} temperatures")
    generated = [_compare(temperature, _generate(run, temperature), overlap, author) for temperature in TEMPERATURES]
    log(f"{name}: analysing rare words, single units and held-out tales")
    all_texts = [text for texts in generated for text in texts.texts]
    chars, no_words = run.tokenizer.level == "chars", author.reference.why_no_words
    try:
        words = no_words or rare_words.analyze(run, tales, all_texts)
    except UserError as error:
        words = str(error)
    return RunReport(
        name=visible(name, one_line=True),
        workdir=workdir,
        config=run.config.to_dict(),
        corpus=run.corpus,
        versions=versions,
        parameters=count_parameters(run.variables),
        step=run.step,
        rows=rows,
        warnings=final_warnings(ValidScores(rows), rows, uniform),
        baselines=baselines,
        progress=Progress.of(run.config.data.batch_size, run.config.data.seq_len, run.corpus),
        training_samples=training_samples,
        generated=generated,
        author_overlap=overlap.quantiles(held_out.values(), LENGTH),
        no_words=no_words,
        has_case=author.reference.alphabet != author.reference.alphabet.upper(),
        rare_words=words,
        units=units.analyze(run, tales, not no_words) if chars else None,
        surprisal=surprisal.analyze(run, tales),
    )


def _generate(run: Run, temperature: float) -> list[str]:
    """Returns SAMPLES texts of LENGTH characters."""
    tokens = run.corpus.get("tokens", run.corpus["characters"])["train"] / run.corpus["characters"]["train"]
    length = LENGTH if tokens == 1 else math.ceil(MARGIN * LENGTH * tokens)
    return [text[:LENGTH] for text in run.generate("", length, 0, Sampling(temperature), SAMPLES)]


def _compare(temperature: float, texts: list[str], overlap: Overlap, author: Author) -> GeneratedTexts:
    measured = [overlap.measure(text) for text in texts]
    means = {key: sum(values[key] for values in measured) / len(texts) for key in measured[0]}
    spans = [(span, text[span.start : span.end]) for text in texts if (span := overlap.longest(text))]
    longest = max(spans, key=lambda pair: pair[0].length, default=None)
    return GeneratedTexts(temperature, texts, overlap.spans(texts[0]), means, longest, author.compare("".join(texts)))


def _read_metrics(path: epath.Path) -> list[Row]:
    try:
        rows = read_rows(path)
        for row in rows:
            needed = ROW_KEYS[row["split"]] | ({"checkpoint"} if row.get("scoring") in metrics.FINAL else set())
            if missing := needed - row.keys():
                raise KeyError(*missing)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error}); start the training again") from None
    return rows


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); start the training again, which writes it anew") from None


def _training_samples(
    folder: epath.Path, rows: list[Row], prompt: str, author: Author, overlap: Overlap
) -> list[TrainingSample]:
    bpc = {row["step"]: row["bpc"] for row in rows if row["split"] == "valid" and row["scoring"] == "scheduled"}
    samples = []
    for file in sorted(folder.glob("*.txt")) if folder.exists() else ():
        if file.stem.isdigit():
            step, text = int(file.stem), file.read_bytes().decode(errors="replace").removesuffix("\n")
            generated = text.removeprefix(prompt)
            features = measure(generated, author.reference) | overlap.measure(generated)
            samples.append(TrainingSample(step, text, bpc.get(step), features))
    return samples
