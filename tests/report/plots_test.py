"""Plots as SVG for the page: in the page's colours and fonts, with unique ids."""

import re

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.figure import Figure

from lovecraft_jax.report import plots
from lovecraft_jax.report.palette import DARK, LIGHT
from lovecraft_jax.report.plots import TrainingCurve, svg, training_curve
from lovecraft_jax.stylometry.authorship import DistributionComparison


def test_the_curve_has_the_baselines_that_all_runs_share() -> None:
    rows = [{"step": step, "split": "train", "bpc": 5.0 - step} for step in (1, 2, 3)]
    known = {"unigram": 3.0, "ngram": 2.5, "ngram_test": 2.75, "ngram_order": 2, "ppmd": 2.25, "ppmd_test": 1.0}
    earlier = {"unigram": 3.0, "ppmd": 2.25}
    names = {"unigram 3.000", "2-gram of characters (static) 2.500", "PPMd (adaptive) 2.250"}
    for others, expected in (
        ([], names),
        ([earlier], names - {"2-gram of characters (static) 2.500"}),
        ([known | {"ppmd": 2.0}], names - {"PPMd (adaptive) 2.250"}),
    ):
        curves = [TrainingCurve("a", rows, 64.0, baselines) for baselines in (known, *others)]
        assert {text.get_text() for text in training_curve(curves).axes[0].texts} == expected


def draw(colour: str) -> Figure:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], [1, 3], "o-", color=LIGHT[colour])
    axes.set_title("a < b & c")
    return figure


def test_colours_are_those_of_the_page_and_text_is_escaped_in_its_font() -> None:
    drawn = svg(draw("run"), 'says "what" & <why>', "one")
    assert "var(--run)" in drawn
    assert not [name for name, colour in LIGHT.items() if colour in drawn]
    assert "a &lt; b &amp; c" in drawn
    assert 'aria-label="says &quot;what&quot; &amp; &lt;why&gt;"' in drawn
    assert "font-family" not in drawn
    assert "<style" not in drawn


def test_palettes_have_the_same_names_and_light_has_no_colour_twice() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)


def test_dollars_in_the_names_of_runs_and_tales_are_no_formulas() -> None:
    drawn = svg(plots.tale_scores({"$a$": {"$x_1$": 2.0}, "_b": {"$x_1$": 2.1}}), "scores", "one")
    assert {">$a$<", ">$x_1$<", ">\u200b_b<"} <= set(re.findall(">[^<>]+<", drawn))
    assert rcParams["text.parse_math"]  # importing plots.py changes no global setting


@pytest.mark.parametrize("values", [[], [np.nan] * 3, [0.0] * 3, [2.0] * 3, [np.nan, np.nan, 1.0]])
@pytest.mark.parametrize("author", [np.nan, 0.0, 2.0])
def test_distributions_without_numbers_or_spread_are_drawn(values: list[float], author: float) -> None:
    value, of_author = np.array(values), np.full(len(values), author)
    found = DistributionComparison(np.arange(1, 1 + len(values)), value, *[of_author] * 3)
    for logarithmic in (False, True):
        assert "<svg" in svg(plots.distributions({"at 1": found}, "x", "y", "run", logarithmic), "a line", "one")
    assert "<svg" in svg(plots.letter_frequencies("at 1", found, "run"), "dots", "one")


def test_letters_that_the_font_lacks_are_left_to_the_browser_without_a_warning() -> None:
    names = ["나는 바다에", "故事", "\U0001f991", "\u0627\u0644"]
    drawn = svg(plots.tale_scores({names[0]: dict.fromkeys(names, 2.0), names[1]: {names[2]: 1.0}}), "scores", "one")
    assert set(names) <= set(re.findall(">([^<>]+)<", drawn))


def test_of_many_tales_the_best_the_worst_and_some_between_are_drawn() -> None:
    scores = {f"tale {n}": float(n) for n in range(1000)}
    drawn = re.findall(">tale ([0-9]+)<", svg(plots.tale_scores({"run": scores}), "scores", "one"))
    assert (len(drawn), drawn[0], drawn[-1]) == (plots.MAX_TALES, "0", "999")


def test_ids_are_unique_on_a_page_and_the_svg_is_deterministic() -> None:
    one, again, two = (svg(draw("run"), "a line", key) for key in ("one", "one", "two"))
    assert one == again
    ids = [set(re.findall(r'\bid="([^"]+)"', drawn)) for drawn in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
