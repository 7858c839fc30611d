"""DrawingML, which slides, sheets and charts share: paragraphs, tables, diagrams and charts in a tree of shapes."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from embedsvc.readers.packages import Package, Relation, attribute, child_of, local

_SKIPPED = frozenset(
    {"Fallback", "nvPr", "nvSpPr", "spPr", "rPr", "endParaRPr", "extLst", "bodyPr", "lstStyle", "style"}
)
"""Properties, and the second rendering of what is there already."""
_DATA = ("cat", "xVal", "val", "yVal", "bubbleSize")


def paragraphs(root: Element, package: Package, relations: dict[str, Relation]) -> Iterator[str]:
    """The paragraphs and table rows below ``root`` in order, with those of the charts and diagrams that it shows."""
    for element in root:
        name = local(element)
        if name == "p":
            text = "".join(_characters(element))
            if text.strip():
                yield text
        elif name == "tbl":
            yield from _rows(element)
        elif name in ("chart", "relIds"):
            relation = relations.get(attribute(element, "id" if name == "chart" else "dm") or "")
            part = package.xml(relation.target) if relation is not None else None
            if part is not None:
                yield from chart(part) if name == "chart" else paragraphs(part, package, {})
        elif name not in _SKIPPED:
            yield from paragraphs(element, package, relations)


def _characters(element: Element) -> Iterator[str]:
    for child in element:
        name = local(child)
        if name == "t":
            yield child.text or ""
        elif name == "br":
            yield "\n"
        elif name not in _SKIPPED:
            yield from _characters(child)


def _rows(table: Element) -> Iterator[str]:
    for row in (child for child in table if local(child) == "tr"):
        cells = (cell for cell in row if local(cell) == "tc")
        line = "\t".join(" ".join("".join(_cell(cell)).split()) for cell in cells).rstrip()
        if line:
            yield line


def _cell(cell: Element) -> Iterator[str]:
    for paragraph in cell.iter():
        if local(paragraph) == "p":
            yield from _characters(paragraph)
            yield " "


def chart(part: Element) -> Iterator[str]:
    """What a chart shows: its texts, then a line per series, with the values as they were when it was saved."""
    yield from (text for text in _texts(part) if text.strip())
    for series in part.iter():
        if local(series) == "ser":
            name = " ".join(_points(child_of(series, "tx")).values())
            columns = [_points(child_of(series, kind)) for kind in _DATA]
            places = sorted({place for column in columns for place in column})
            values = (": ".join(column[place] for column in columns if place in column) for place in places)
            line = " | ".join(values)
            yield f"{name}: {line}" if name and line else name or line


def _texts(element: Element) -> Iterator[str]:
    """Paragraphs outside of the series."""
    for child in element:
        name = local(child)
        if name == "p":
            yield "".join(_characters(child))
        elif name == "ser" or name not in ("txPr", "extLst", "Fallback"):
            yield from _texts(child)


def _points(element: Element | None) -> dict[int, str]:
    """The cached values of a series' names, categories or values, by position."""
    found: dict[int, str] = {}
    for point in () if element is None else element.iter():
        if local(point) == "pt":
            text = "".join((leaf.text or "") for leaf in point if local(leaf) == "v")
            place = point.get("idx", "")
            if text:
                found[int(place) if place.isdecimal() else len(found)] = text
    if element is not None and not found:
        name = "".join((leaf.text or "") for leaf in element if local(leaf) == "v")
        found = {0: name} if name else {}
    return found
