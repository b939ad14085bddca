"""Matplotlib figures as SVG inside of a page: its fonts and colours, and no names that another figure has too."""

import io
import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gfn_jax.reporting.palette import STAND_INS, Palette

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FONT = re.compile(r"font: ([\d.]+)px [^;]*")
_STAND_INS = {colour: f"var(--{name})" for name, colour in STAND_INS.colours.items()}

SMALL = (3.75, 2.3)
"""Inches of a plot that a phone's screen is as wide as: there its type is about as large as the page's small type."""


def new_axes(size: tuple[float, float], palette: Palette) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    plain(axes, palette)
    return figure, axes


def plain(axes: Axes, palette: Palette) -> None:
    """A quiet frame: thin rules across, no box, small figures."""
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(palette["rule"])
    axes.tick_params(length=0, labelsize=8.5, labelcolor=palette["muted"], pad=4)
    axes.grid(axis="y", color=palette["rule"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.label.set(color=palette["muted"], size=8.5)
    axes.yaxis.label.set(color=palette["muted"], size=8.5)


def inline_svg(figure: Figure, name: str, title: str, tooltips: Mapping[str, Sequence[str]] | None = None) -> str:
    """The figure as an SVG element, with its stand-in colours as the page's variables.

    name      unlike that of any other figure of the page
    title     what those are told who cannot see it
    tooltips  the texts of a group of markers, by the `gid` it was drawn with, in their order
    """
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=nothing)
    root = ElementTree.fromstring(_NOT_XML.sub("\ufffd", file.getvalue()))  # names hold whatever a file does
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        texts = (tooltips or {}).get(element.get("id", ""), ())
        for marker, text in zip(element.iter(f"{{{_SVG}}}use"), texts, strict=False):
            ElementTree.SubElement(marker, f"{{{_SVG}}}title").text = text
        for key, value in element.attrib.items():
            element.set(key, _within(key, value, name))
    for key in ("width", "height"):
        del root.attrib[key]
    root.attrib |= {"role": "img", "aria-label": title}
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _within(key: str, value: str, name: str) -> str:
    """An attribute's value as it is in the page."""
    if key == "id":
        return f"{name}-{value}"
    if key == f"{{{_XLINK}}}href":
        return value.replace("#", f"#{name}-")
    value = _FONT.sub(r"font: \1px var(--sans)", value.replace("url(#", f"url(#{name}-"))
    for colour, variable in _STAND_INS.items():
        value = value.replace(colour, variable)
    return value
