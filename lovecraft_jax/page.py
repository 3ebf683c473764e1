"""Findings in, one HTML page out, with everything that it needs inside."""

import datetime
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lovecraft_jax import plots
from lovecraft_jax.colours import DARK, LIGHT, RUNS
from lovecraft_jax.copying import LEAST
from lovecraft_jax.excerpts import BITS, copied, shortened, surprising
from lovecraft_jax.findings import Findings
from lovecraft_jax.svg import svg

SHOWN = 900
"""Characters of a sample on the page."""


def render(runs: Sequence[Findings]) -> str:
    """The page of one run, or of several side by side."""
    environment = Environment(
        loader=PackageLoader("lovecraft_jax"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "duration": _duration}
    environment.filters |= {"copied": copied, "shortened": shortened, "surprising": surprising}
    curves = [plots.Curve(run.name, run.rows, run.chars_per_step, run.baselines) for run in runs]
    return environment.get_template("report.html").render(
        runs=[(run, colour, {}) for run, colour in zip(runs, RUNS, strict=False)],
        least=LEAST,
        shown=SHOWN,
        light=LIGHT,
        dark=DARK,
        bits=BITS,
        curve=Markup(svg(plots.curve(curves), _curve_label(runs), "curve")),
    )


def _curve_label(runs: Sequence[Findings]) -> str:
    parts = []
    for run in runs:
        valid = [row["bpc"] for row in run.rows if row["split"] == "valid" and row["scoring"] == "scheduled"]
        ends = f"from {valid[0]:.3f} to {valid[-1]:.3f}" if valid else "not yet scored"
        parts.append(f"{run.name}: valid {ends}")
    return "Bits per character over the characters read. " + "; ".join(parts) + "."


def _number(value: float, decimals: int = 0) -> str:
    """With thin spaces between thousands, as 2,607,258."""
    return f"{value:,.{decimals}f}"


def _duration(seconds: float) -> str:
    """As 5 min 40 s."""
    whole = datetime.timedelta(seconds=round(seconds))
    hours, rest = divmod(int(whole.total_seconds()), 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if minutes else "", "" if hours else f"{rest} s"]
    return " ".join(filter(None, parts))
