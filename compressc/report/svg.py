"""A little SVG: shapes by class, so that one style sheet colours them for light and for dark."""

from __future__ import annotations

from xml.etree import ElementTree

from markupsafe import Markup

#: Width of an average character at the chart's font size of 12.
CHARACTER = 6.6

Point = tuple[float, float]


class Svg:
    """A drawing of `width` x `height` units with a title for screen readers.

    Text and attributes are escaped by ElementTree, whatever names a user's model holds.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height = width, height
        box = f"0 0 {width:g} {height:g}"
        self._root = ElementTree.Element("svg", {"viewBox": box, "role": "img"})
        ElementTree.SubElement(self._root, "title").text = title

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self._add("line", kind, x1=x1, y1=y1, x2=x2, y2=y2)

    def path(self, points: list[Point], kind: str) -> None:
        """A line through all points."""
        element = self._add("polyline", kind)
        element.set("points", " ".join(f"{x:.1f},{y:.1f}" for x, y in points))

    def dot(self, x: float, y: float, kind: str, hint: str = "", radius: float = 4) -> None:
        """A filled circle; `hint` appears under the mouse."""
        self._hint(self._add("circle", kind, cx=x, cy=y, r=radius), hint)

    def bar(self, corner: Point, size: Point, kind: str, hint: str) -> None:
        """A filled rectangle, at least one unit wide and high, so that a small value is seen."""
        (x, y), (width, height) = corner, (max(size[0], 1), max(size[1], 1))
        element = self._add("rect", kind, x=x, y=y, width=width, height=height, rx=1.5)
        self._hint(element, hint)

    def text(self, x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> None:
        """Text with its base line at `y`; `anchor` is start, middle or end."""
        element = self._add("text", kind, x=x, y=y)
        element.set("text-anchor", anchor)
        element.text = content

    def markup(self) -> Markup:
        """The drawing, safe to be put into HTML."""
        return Markup(ElementTree.tostring(self._root, encoding="unicode"))

    def _add(self, tag: str, kind: str, **numbers: float) -> ElementTree.Element:
        attributes = {name: f"{value:.1f}" for name, value in numbers.items()}
        return ElementTree.SubElement(self._root, tag, {"class": kind, **attributes})

    def _hint(self, element: ElementTree.Element, hint: str) -> None:
        if hint:
            ElementTree.SubElement(element, "title").text = hint


def shorten(content: str, width: float) -> str:
    """`content` cut to about `width` units."""
    fit = max(int(width / CHARACTER), 2)
    return content if len(content) <= fit else content[: fit - 1] + "\N{HORIZONTAL ELLIPSIS}"
