"""Figures for a page: named, in the page's colours and fonts, and none in the way of another."""

import re

from matplotlib.figure import Figure

from lovecraft_jax.report.palette import DARK, LIGHT
from lovecraft_jax.report.plots import svg


def draw(colour: str) -> Figure:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], [1, 3], "o-", color=LIGHT[colour])
    axes.set_title("a < b & c")
    return figure


def test_every_colour_of_the_palette_becomes_the_pages_own() -> None:
    drawn = svg(draw("run"), "a line", "one")
    assert "var(--run)" in drawn
    assert not [name for name, colour in LIGHT.items() if colour in drawn]


def test_the_palettes_name_the_same_colours_and_none_twice() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)


def test_text_stays_text_in_the_font_of_the_page_and_is_escaped() -> None:
    drawn = svg(draw("ink"), 'says "what" & <why>', "one")
    assert "a &lt; b &amp; c" in drawn
    assert 'aria-label="says &quot;what&quot; &amp; &lt;why&gt;"' in drawn
    assert "font-family" not in drawn


def test_figures_of_a_page_share_no_id_and_bring_no_style_sheet() -> None:
    ids = [set(re.findall(r'\bid="([^"]+)"', svg(draw("run"), "a line", key))) for key in ("one", "two")]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert "<style" not in svg(draw("run"), "a line", "one")


def test_the_same_figure_is_the_same_text() -> None:
    assert svg(draw("run"), "a line", "one") == svg(draw("run"), "a line", "one")
