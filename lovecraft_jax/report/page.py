"""Renders run reports as one HTML page that needs no other file."""

import math
import re
from collections.abc import Sequence

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lovecraft_jax.data.splits import describe
from lovecraft_jax.inference.baselines import labelled_scores
from lovecraft_jax.report import plots
from lovecraft_jax.report.collect import RunReport
from lovecraft_jax.report.excerpts import BITS, mark_spans, shorten, split_activations, split_words
from lovecraft_jax.report.palette import DARK, LIGHT, RUNS
from lovecraft_jax.runtime.console import visible
from lovecraft_jax.stylometry.authorship import FeatureComparison
from lovecraft_jax.stylometry.overlap import MIN_SPAN
from lovecraft_jax.stylometry.reference import MAX_LETTERS

SAMPLE_CHARS = 900  # of a sample on the page
DISTRIBUTIONS = {  # key of `Comparison.distributions` -> title, x axis, y axis
    "letters": ("Letter frequencies", "letter", "% of letters"),
    "word_lengths": ("Word lengths", "letters", "share of words"),
    "sentence_lengths": ("Sentence lengths", "words", "share of sentences"),
    "zipf": ("Word frequencies by rank", "rank of the word", "share of words"),
    "type_token": ("Distinct words", "words from the start", "distinct words"),
}
TRAINING_FEATURES = {  # those of the training samples that are plotted, and their titles
    "real": "real words, %",
    "letters_tv": "letters: total variation from the author's",
    "copied_longest": "longest verbatim span, characters",
}


def render(runs: Sequence[RunReport]) -> str:
    """Returns the HTML page of one run, or of several side by side."""
    loader = PackageLoader("lovecraft_jax.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = (mark_spans, split_activations, split_words, shorten, number, strip_position, duration, odds)
    environment.filters |= {function.__name__: function for function in (*filters, describe, labelled_scores)}
    scorings = {"final": "", "adaptive": ", adaptive"}
    if any(run.final("test", "cache") is not None for run in runs):
        scorings["cache"] = ", neural cache"
    curves = [plots.TrainingCurve(run.name, run.rows, run.progress.chars_per_step, run.baselines) for run in runs]
    scores = {run.name: {score.tale: score.bpc for score in run.surprisal.scores} for run in runs}
    ranges = [f"{name} from {min(of.values()):.3f} to {max(of.values()):.3f}" for name, of in scores.items()]
    scores_label = f"Bits per character of each held-out tale: {', '.join(ranges)}."
    curve_label = f"Bits per character over the characters read. {'; '.join(map(_curve_label, runs))}."
    page = environment.get_template("report.html").render(
        runs=[(run, colour, _plots(run, colour)) for run, colour in zip(runs, RUNS, strict=False)],
        scorings=scorings,
        min_span=MIN_SPAN,
        max_letters=MAX_LETTERS,
        max_tales=plots.MAX_TALES,
        sample_chars=SAMPLE_CHARS,
        light=LIGHT,
        dark=DARK,
        bits=BITS,
        scores=Markup(plots.svg(plots.tale_scores(scores), scores_label, "scores")),
        curve=Markup(plots.svg(plots.training_curve(curves), curve_label, "curve")),
    )
    return visible(re.sub("[\0-\x08\x0b-\x1f]", lambda match: chr(0x2400 + ord(match[0])), page))  # ESC as its symbol


def number(value: float | None, decimals: int = 0) -> str:
    """Formats a number: "2,607,258". None is a score that is not finite."""
    if value is None:
        return "(not finite)"
    return f"{value:,.{decimals}f}"


def odds(prob: float) -> str:
    """Formats a probability: "12 in 100 times" above 0.1, otherwise "once in 4,990,000 times"."""
    if prob > 0.1:
        return f"{100 * prob:.0f} in 100 times"
    times = float(f"{1 / prob:.3g}")
    return f"once in {times:,.0f} times" if times < 1e12 else f"once in {times:.1e} times"


def duration(seconds: float) -> str:
    """Formats a duration: "5 min 40 s"."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if minutes else "", "" if hours else f"{rest} s"]
    return " ".join(filter(None, parts))


def strip_position(feature: FeatureComparison) -> float:
    """Returns where a value lies in a strip of width 100, in which the author's interval is from 30 to 70."""
    middle, half = (feature.low + feature.high) / 2, (feature.high - feature.low) / 2
    off = feature.value - middle
    return min(97.0, max(3.0, 50 + 20 * (off / half if half else math.copysign(9, off) * (off != 0))))


def _plots(run: RunReport, colour: str) -> dict[str, Markup]:
    """The plots of one run, by key."""
    figures, labels = {}, {}
    for key, (title, xlabel, ylabel) in DISTRIBUTIONS.items():
        texts = {f"at {texts.temperature}": texts.comparison.distributions[key] for texts in run.generated}
        name, last = list(texts.items())[-1]
        if (key != "letters" and run.no_words) or not np.nan_to_num(last.value).any():
            continue  # there is nothing to count
        if key == "letters":
            figures[key] = plots.letter_frequencies(name, last, colour)
        else:
            figures[key] = plots.distributions(texts, xlabel, ylabel, colour, logarithmic=key == "zipf")
        labels[key] = f"{title} of {run.name} {name}"
        if np.isnan(last.low).all():
            labels[key] += "; there are too few pieces of the author's to compare with."
        else:
            outside = int(np.count_nonzero((last.value < last.low) | (last.value > last.high)))
            labels[key] += f", beside the author's: outside the 95 % interval at {outside} of {len(last.x)} places."
    if samples := run.training_samples:
        read = [sample.step * run.progress.chars_per_step / 1e6 for sample in samples]
        shown = {key: title for key, title in TRAINING_FEATURES.items() if key != "real" or not run.no_words}
        titled = [(title, [sample.features[key] for sample in samples]) for key, title in shown.items()]
        figures["learning"] = plots.training_samples(read, titled, colour)
        ends = "; ".join(f"{title} from {values[0]:.3g} to {values[-1]:.3g}" for title, values in titled)
        labels["learning"] = f"Samples of {run.name} during training: {ends}."
    for word in () if isinstance(run.rare_words, str) else run.rare_words.article[:1]:
        figures["word"] = plots.word_probabilities(word.letters, colour)
        listed = ", ".join(f"{letter.text or 'the end'} {100 * letter.prob:.0f} %" for letter in word.letters)
        labels["word"] = f"The probability of each letter of {word.place.word} by {run.name}: {listed}."
    return {key: Markup(plots.svg(figure, labels[key], f"{run.name}-{key}")) for key, figure in figures.items()}


def _curve_label(run: RunReport) -> str:
    valid = [row["bpc"] for row in run.rows if row["split"] == "valid" and row["scoring"] == "scheduled"]
    valid = [bpc for bpc in valid if bpc is not None]
    return f"{run.name}: valid " + (f"from {valid[0]:.3f} to {valid[-1]:.3f}" if valid else "not yet scored")
