"""Matplotlib figures as SVG that lives inside a page: in the page's font and colours, light or dark.

A figure is painted in marker colours that stand for the page's CSS variables. What matplotlib writes is parsed and
cleaned: no document type, no metadata, no style sheet that would reach the rest of the page, no identifiers but those
that are referred to, and these are the figure's own. The same figure gives the same text, whenever it is made.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_VARIABLES = (
    "ink", "muted", "line", "card", "behaviour", "filtered", "random", "awr", "reinforce", "digirl", "mc", "rerank",
    "digiq", "other", "good", "bad",
)  # fmt: skip
_MARKERS = {name: f"#fe{index:02x}01" for index, name in enumerate(_VARIABLES)}
_MARKER = re.compile("#fe([0-9a-f]{2})01")
_REFERENCE = re.compile(r"url\(#([^)]+)\)|^#([^\s]+)$")
_FONT = re.compile(r"font-family: [^;]+;?|font: ([\d.]+px) [^;]+;?")
_STYLE = {
    "svg.fonttype": "none",  # text stays text: in the page's font, and readable aloud
    "svg.hashsalt": "digiq",
    "font.size": 11.0,
    "text.color": _MARKERS["ink"],
    "text.parse_math": False,
    "axes.labelcolor": _MARKERS["muted"],
    "axes.edgecolor": _MARKERS["line"],
    "axes.labelsize": 11.0,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "xtick.color": _MARKERS["line"],
    "ytick.color": _MARKERS["line"],
    "xtick.labelcolor": _MARKERS["muted"],
    "ytick.labelcolor": _MARKERS["muted"],
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "grid.color": _MARKERS["line"],
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
}
_LOCK = threading.Lock()  # matplotlib's settings are global


def colour(variable: str) -> str:
    """The colour to paint with where the page's CSS variable ``--variable`` is meant.

    Raises:
        KeyError: the page has no such colour.
    """
    return _MARKERS[variable]


def inline_svg(paint: Callable[[Any], None], *, width: int, height: int, label: str) -> str:
    """The figure that ``paint`` draws, as an ``<svg>`` element that scales with its container.

    Args:
        paint: Draws on an empty ``matplotlib.figure.Figure`` with constrained layout.
        width: Natural width in CSS pixels; font sizes are in the same unit.
        height: Natural height in CSS pixels.
        label: What the figure shows, for those who cannot see it; also tells its identifiers from other figures'.
    """
    written = io.StringIO()
    with _LOCK, matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue())
    prefix = re.sub("[^a-z0-9]+", "-", label.lower())[:40].strip("-")
    _clean(root, prefix=prefix, used=_referenced(root))
    root.attrib = {"viewBox": root.attrib["viewBox"], "class": "plot", "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _referenced(root: ElementTree.Element) -> set[str]:
    values = (value for element in root.iter() for value in element.attrib.values())
    return {found[1] or found[2] for value in values for found in _REFERENCE.finditer(value)}


def _clean(element: ElementTree.Element, *, prefix: str, used: set[str]) -> None:
    element.tag = _local(element.tag)
    attributes: dict[str, str] = {}
    for key, value in element.attrib.items():
        name = _local(key)
        if name == "id":
            if value not in used:
                continue
            value = f"{prefix}-{value}"
        elif name == "style":
            value = _FONT.sub(lambda m: f"font-size: {m[1]};" if m[1] else "", value)
            value = _MARKER.sub(lambda m: f"var(--{_VARIABLES[int(m[1], 16)]})", value).strip()
        elif found := _REFERENCE.search(value):
            value = value.replace(f"#{found[1] or found[2]}", f"#{prefix}-{found[1] or found[2]}")
        attributes[name] = value
    element.attrib = attributes
    element.tail = None
    if element.tag != "text":
        element.text = None
    for child in list(element):
        if _local(child.tag) in ("metadata", "style"):
            element.remove(child)
        else:
            _clean(child, prefix=prefix, used=used)


def _local(name: str) -> str:
    return name.rpartition("}")[2]
