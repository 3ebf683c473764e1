"""A matplotlib figure as SVG for a page: named for screen readers, its colours the page's own, its text text."""

import io
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from lovecraft_jax.report.palette import LIGHT

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", _XLINK)


def svg(figure: Figure, label: str, key: str) -> str:
    """One `<svg>` element that fills its container; `label` says what it shows, `key` is its own on the page.

    A colour of LIGHT becomes a variable of the page's style sheet, which knows light and dark.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(text.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # Metadata is of no use here, and a style sheet inside would be the whole page's.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        if element.tag == f"{{{_SVG}}}g":
            element.attrib.pop("id", None)  # figure_1, axes_1: the same in every figure
        if "style" in element.attrib:
            element.set("style", _themed(element.attrib["style"]))
    for size in ("width", "height"):
        root.attrib.pop(size)
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")


def _themed(style: str) -> str:
    """Variables for colours, and the page's font."""
    for name, colour in LIGHT.items():
        style = style.replace(colour, f"var(--{name})")
    return re.sub(r"font-family: [^;]+(; )?", "", style)
