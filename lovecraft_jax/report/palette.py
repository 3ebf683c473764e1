"""The colours of the report in light and dark, by name.

Plots are drawn in the colours of LIGHT, which plots.py then replaces by names. So no two of LIGHT may be the same.
"""

LIGHT = {
    "paper": "#fbfaf6",
    "ink": "#1f1d1a",
    "quiet": "#67625a",
    "line": "#dcd7cc",
    "author": "#8a8478",
    "run": "#0b6a62",
    "run2": "#a8471c",
    "run3": "#5b4fa8",
    "run4": "#96650a",
    "mark": "#f6df9a",
    "heat": "#c8452d",
}
DARK = {
    "paper": "#151719",
    "ink": "#e8e4da",
    "quiet": "#a8a297",
    "line": "#383b3d",
    "author": "#8f897e",
    "run": "#5cc4b6",
    "run2": "#ee9a6c",
    "run3": "#aca3f0",
    "run4": "#dcb354",
    "mark": "#5c4a12",
    "heat": "#d8583e",
}
RUNS = ("run", "run2", "run3", "run4")
"""One for each run on a page."""
