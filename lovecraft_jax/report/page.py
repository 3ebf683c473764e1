"""Findings in, one HTML page out, with everything that it needs inside."""

import datetime
import math
from collections.abc import Sequence

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lovecraft_jax.report import plots
from lovecraft_jax.report.collect import Findings
from lovecraft_jax.report.excerpts import BITS, copied, held, shortened, surprising
from lovecraft_jax.report.palette import DARK, LIGHT, RUNS
from lovecraft_jax.stylometry.authorship import DistributionComparison, FeatureComparison
from lovecraft_jax.stylometry.overlap import MIN_SPAN

SHOWN = 900
"""Characters of a sample on the page."""

CURVES = {
    "letters": ("Letter frequencies", "letter", "% of letters"),
    "word_lengths": ("Word lengths", "letters", "share of words"),
    "sentence_lengths": ("Sentence lengths", "words", "share of sentences"),
    "zipf": ("Frequencies of words by rank", "rank of the word", "share of words"),
    "type_token": ("Distinct words", "running words", "distinct words"),
}
"""Key of `Comparison.distributions` -> what it is, its axes."""

LEARNING = {
    "real": "real words, %",
    "letters_tv": "letters: total variation from the author's",
    "copied_longest": "longest copied span, characters",
}
"""Of each sample that was written while training."""


def render(runs: Sequence[Findings]) -> str:
    """The page of one run, or of several side by side."""
    environment = Environment(
        loader=PackageLoader("lovecraft_jax.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "place": _place, "duration": _duration, "chance": _chance}
    environment.filters |= {"copied": copied, "held": held, "shortened": shortened, "surprising": surprising}
    curves = [plots.Curve(run.name, run.rows, run.chars_per_step, run.baselines) for run in runs]
    scores = {run.name: {score.tale: score.bpc for score in run.surprise.scores} for run in runs}
    return environment.get_template("report.html").render(
        runs=[(run, colour, _figures(run, colour)) for run, colour in zip(runs, RUNS, strict=False)],
        least=MIN_SPAN,
        shown=SHOWN,
        light=LIGHT,
        dark=DARK,
        bits=BITS,
        scores=Markup(plots.svg(plots.scores(scores), _scores_label(scores), "scores")),
        curve=Markup(plots.svg(plots.curve(curves), _curve_label(runs), "curve")),
    )


def _scores_label(scores: dict[str, dict[str, float]]) -> str:
    parts = [f"{name} from {min(of.values()):.3f} to {max(of.values()):.3f}" for name, of in scores.items()]
    return f"Bits per character of each held-out tale: {', '.join(parts)}."


def _figures(run: Findings, colour: str) -> dict[str, Markup]:
    """What is drawn of one run, by name."""
    last = run.written[-1]
    name = f"{run.name} at {last.temperature}"
    drawn = {"letters": plots.letters(f"at {last.temperature}", last.style.distributions["letters"], colour)}
    for key, (_, xlabel, ylabel) in CURVES.items():
        texts = {f"at {written.temperature}": written.style.distributions[key] for written in run.written}
        if key != "letters":
            drawn[key] = plots.lines(texts, xlabel, ylabel, colour, logarithmic=key == "zipf")
    labels = {
        key: _beside_label(f"{title} of {name}", last.style.distributions[key]) for key, (title, _, _) in CURVES.items()
    }
    if run.stages:
        read = [stage.step * run.chars_per_step / 1e6 for stage in run.stages]
        values = {key: [stage.figures[key] for stage in run.stages] for key in LEARNING}
        drawn["learning"] = plots.learning(read, [(LEARNING[key], values[key]) for key in LEARNING], colour)
        ends = "; ".join(f"{LEARNING[key]} from {v[0]:.3g} to {v[-1]:.3g}" for key, v in values.items())
        labels["learning"] = f"What {run.name} wrote while it learnt: {ends}."
    for guess in run.words.article[:1] if run.words else ():
        letters = [letter.text for letter in guess.letters]
        probs = [letter.prob for letter in guess.letters]
        drawn["word"] = plots.word(letters, probs, [letter.likeliest for letter in guess.letters], colour)
        told = ", ".join(
            f"{letter or 'the end'} {100 * prob:.0f} %" for letter, prob in zip(letters, probs, strict=True)
        )
        labels["word"] = f"How probable {run.name} finds each letter of {guess.place.word}: {told}."
    return {key: Markup(plots.svg(figure, labels[key], f"{run.name}-{key}")) for key, figure in drawn.items()}


def _beside_label(title: str, text: DistributionComparison) -> str:
    if np.isnan(text.low).all():
        return f"{title}; of the author there are too few pieces to show."
    outside = int(np.count_nonzero((text.value < text.low) | (text.value > text.high)))
    return f"{title}, beside the author's: outside the 95 % interval at {outside} of {len(text.x)} places."


def _place(row: FeatureComparison) -> float:
    """Where a value lies in a strip of 100 of which the author's interval takes the middle 40."""
    middle, half = (row.low + row.high) / 2, (row.high - row.low) / 2
    off = row.value - middle
    return min(97.0, max(3.0, 50 + 20 * (off / half if half else math.copysign(9, off) * (off != 0))))


def _curve_label(runs: Sequence[Findings]) -> str:
    parts = []
    for run in runs:
        valid = [row["bpc"] for row in run.rows if row["split"] == "valid" and row["scoring"] == "scheduled"]
        valid = [bpc for bpc in valid if bpc is not None]
        ends = f"from {valid[0]:.3f} to {valid[-1]:.3f}" if valid else "not yet scored"
        parts.append(f"{run.name}: valid {ends}")
    return "Bits per character over the characters read. " + "; ".join(parts) + "."


def _number(value: float, decimals: int = 0) -> str:
    """As 2,607,258."""
    return f"{value:,.{decimals}f}"


def _chance(prob: float) -> str:
    """As "once in 4,990,000 times", or of what is not rare "12 in 100 times"."""
    if prob > 0.1:
        return f"{100 * prob:.0f} in 100 times"
    times = float(f"{1 / prob:.3g}")
    return f"once in {times:,.0f} times" if times < 1e12 else f"once in {times:.1e} times"


def _duration(seconds: float) -> str:
    """As 5 min 40 s."""
    whole = datetime.timedelta(seconds=round(seconds))
    hours, rest = divmod(int(whole.total_seconds()), 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if minutes else "", "" if hours else f"{rest} s"]
    return " ".join(filter(None, parts))
