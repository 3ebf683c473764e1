"""The colours of the report in light and dark, by name. Plots are drawn in those of LIGHT, which plots.py then replaces
by names: so no two of LIGHT may be the same."""

_COLOURS = {  # in light, in dark
    "paper": ("#fbfaf6", "#151719"),
    "ink": ("#1f1d1a", "#e8e4da"),
    "quiet": ("#67625a", "#a8a297"),
    "line": ("#dcd7cc", "#383b3d"),
    "author": ("#8a8478", "#8f897e"),
    "run": ("#0b6a62", "#5cc4b6"),
    "run2": ("#a8471c", "#ee9a6c"),
    "run3": ("#5b4fa8", "#aca3f0"),
    "run4": ("#96650a", "#dcb354"),
    "mark": ("#f6df9a", "#5c4a12"),
    "heat": ("#c8452d", "#d8583e"),
}
LIGHT, DARK = ({name: colours[n] for name, colours in _COLOURS.items()} for n in (0, 1))
RUNS = ("run", "run2", "run3", "run4")  # one for each run on a page
