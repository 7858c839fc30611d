"""PPTX: each slide a page under its title, with its tables, charts and diagrams, then its notes and comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from embedsvc.readers.drafts import Draft
from embedsvc.readers.drawings import paragraphs
from embedsvc.readers.items import FieldChoice
from embedsvc.readers.packages import Package, Relation, attribute, child_of, local, opened, text_of
from embedsvc.records import Document, Source

_TITLES = frozenset({"title", "ctrTitle"})
_FURNITURE = frozenset({"sldNum", "hdr", "ftr", "dt", "sldImg"})
"""Of a notes page; of a slide only its number."""
_SLIDE = re.compile(r"ppt/slides/slide(\d+)\.xml\Z")


def read_pptx(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document. Its title: that of its properties, else of its first slide that has one, else the file name.

    A slide without a title stands under "Slide 3". Hidden slides are read too.

    Raises:
        LockedFile, DamagedFile, FileTooLarge: as :func:`~embedsvc.readers.packages.opened`.
    """
    with opened(source, "PPTX") as package:
        document = _read(source, package)
    yield document


def _read(source: Source, package: Package) -> Document:
    draft = Draft(source)
    title = text_of(package.xml("docProps/core.xml"), "title")
    for number, slide in enumerate(_slides(package), start=1):
        draft.page()
        root = package.xml(slide)
        if root is not None:
            _add_slide(draft, root, number, package, package.relations(slide))
    return draft.document(title=title)


def _slides(package: Package) -> list[str]:
    """The parts of the slides in the order of the show."""
    main = package.main("ppt/presentation.xml")
    root, relations = package.xml(main), package.relations(main)
    if root is None:
        raise KeyError(f"it has no {main}")
    listed = child_of(root, "sldIdLst")
    ids = [key for item in (listed if listed is not None else ()) if (key := _relation_id(item)) in relations]
    numbered = {int(match[1]): name for name in package.names() if (match := _SLIDE.match(name))}
    return list(dict.fromkeys(relations[id].target for id in ids)) or [numbered[number] for number in sorted(numbered)]


def _relation_id(element: Element) -> str:
    return next((value for key, value in element.attrib.items() if key.endswith("}id")), "")


def _add_slide(draft: Draft, root: Element, number: int, package: Package, relations: dict[str, Relation]) -> None:
    titles: list[str] = []
    others: list[str] = []
    for shape, kind in _shapes(root):
        if kind in _TITLES:
            # A title broken into lines is one heading.
            titles += [" ".join(text.split()) for text in paragraphs(shape, package, relations)]
        elif kind != "sldNum":
            others += paragraphs(shape, package, relations)
    for relation in relations.values():
        if relation.kind == "notesSlide":
            others += [f"Notes: {text}" for text in _notes(package, relation.target)]
        elif relation.kind == "comments":
            others += [f"Comment: {text}" for text in _comments(package, relation.target)]
    if title := " ".join(titles):
        draft.add(title, level=1)
    elif others:
        draft.head(f"Slide {number}", 1)
    for text in others:
        draft.add(text)


def _shapes(root: Element) -> Iterator[tuple[Element, str | None]]:
    """The shapes of a slide, those in groups too, each with the kind of placeholder that it is."""
    for element in root:
        name = local(element)
        if name == "sp":
            properties = child_of(child_of(element, "nvSpPr"), "nvPr")
            yield element, attribute(child_of(properties, "ph"), "type")
        elif name in ("graphicFrame", "pic", "cxnSp"):
            holder = root.makeelement("shape", {})
            holder.append(element)
            yield holder, None
        elif name not in ("Fallback", "extLst"):
            yield from _shapes(element)


def _notes(package: Package, part: str) -> Iterator[str]:
    root = package.xml(part)
    for shape, kind in () if root is None else _shapes(root):
        if kind not in _FURNITURE:
            yield from paragraphs(shape, package, {})


def _comments(package: Package, part: str) -> Iterator[str]:
    """Comments of the old form have their text in an element, those of the new one in paragraphs, with replies."""
    root = package.xml(part)
    for element in () if root is None else root.iter():
        if local(element) == "cm" and (text := text_of(element, "text").strip()):
            yield text
        elif local(element) == "txBody":
            yield from paragraphs(element, package, {})
