"""Plots as SVG for the page: in the page's colours and fonts, with unique ids."""

import re

from matplotlib import rcParams
from matplotlib.figure import Figure

from lovecraft_jax.report import plots
from lovecraft_jax.report.palette import DARK, LIGHT
from lovecraft_jax.report.plots import svg


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


def test_ids_are_unique_on_a_page_and_the_svg_is_deterministic() -> None:
    one, again, two = (svg(draw("run"), "a line", key) for key in ("one", "one", "two"))
    assert one == again
    ids = [set(re.findall(r'\bid="([^"]+)"', drawn)) for drawn in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
