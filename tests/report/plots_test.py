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


def test_colours_become_css_variables() -> None:
    drawn = svg(draw("run"), "a line", "one")
    assert "var(--run)" in drawn
    assert not [name for name, colour in LIGHT.items() if colour in drawn]


def test_palettes_have_the_same_names_and_light_has_no_colour_twice() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)


def test_text_is_escaped_and_in_the_font_of_the_page() -> None:
    drawn = svg(draw("ink"), 'says "what" & <why>', "one")
    assert "a &lt; b &amp; c" in drawn
    assert 'aria-label="says &quot;what&quot; &amp; &lt;why&gt;"' in drawn
    assert "font-family" not in drawn


def test_dollars_in_the_names_of_runs_and_tales_are_no_formulas() -> None:
    drawn = svg(plots.tale_scores({"$a$": {"$x_1$": 2.0}, "_b": {"$x_1$": 2.1}}), "scores", "one")
    assert {">$a$<", ">$x_1$<", ">\u200b_b<"} <= set(re.findall(">[^<>]+<", drawn))
    assert rcParams["text.parse_math"]  # importing plots.py changes no global setting


def test_ids_are_unique_on_a_page_and_there_is_no_style_sheet() -> None:
    ids = [set(re.findall(r'\bid="([^"]+)"', svg(draw("run"), "a line", key))) for key in ("one", "two")]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert "<style" not in svg(draw("run"), "a line", "one")


def test_the_svg_of_a_figure_is_deterministic() -> None:
    assert svg(draw("run"), "a line", "one") == svg(draw("run"), "a line", "one")
