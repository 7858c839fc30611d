"""EPUB: the chapters in reading order, each by the walk of the HTML reader."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from embedsvc.errors import DamagedFile, ReadError
from embedsvc.readers.drafts import Draft
from embedsvc.readers.html import read_chapter
from embedsvc.readers.items import FieldChoice
from embedsvc.readers.packages import Package, attribute, child_of, local, locked, opened
from embedsvc.records import Document, Source

_PAGES = frozenset({"application/xhtml+xml", "text/html", "application/xml", "text/x-oeb1-document"})
_OBFUSCATIONS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
"""Of fonts, which hides no text."""
_METADATA = {"creator": "author", "language": "language", "publisher": "publisher", "date": "date"}


def read_epub(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document, with author, language, publisher and date as metadata. A chapter without a heading stands under its
    name in the table of contents; the table itself is left out.

    Raises:
        LockedFile: chapters are encrypted (DRM).
        DamagedFile, FileTooLarge: as :func:`~embedsvc.readers.packages.opened`.
    """
    with opened(source, "EPUB") as package:
        document = _read(source, package)
    yield document


def _read(source: Source, package: Package) -> Document:
    main = _main(package)
    book = package.xml(main)
    if book is None:
        raise KeyError(f"it has no {main}")
    manifest = {item.get("id", ""): item for item in _children(book, "manifest")}
    folder = posixpath.dirname(main)
    spine = [manifest[id] for item in _children(book, "spine") if (id := item.get("idref", "")) in manifest]
    if not spine:
        raise KeyError("it lists no chapters")
    secret = _encrypted(package)
    labels = _labels(package, manifest, child_of(book, "spine"), folder)
    draft, notes = Draft(source), []
    for item in spine:
        part = _path(folder, item.get("href", ""))
        if item.get("media-type") not in _PAGES or "nav" in (item.get("properties") or "").split():
            continue
        if part.lower() in secret:
            raise locked(source)
        data = package.bytes(part)
        try:
            if data is None:
                raise DamagedFile("it is not in the file")
            text, headings = read_chapter(data, f"{source.uri}, {part}")
        except ReadError as error:
            notes.append(f"its chapter {part} could not be read: {error}")
            continue
        if text.strip():
            if not headings and part in labels:
                draft.head(labels[part], 1)
            draft.extend(text, headings)
    if notes and len(notes) == len(spine):
        raise DamagedFile(f"{source.uri}: this EPUB is damaged (none of its chapters can be read). Get it anew.")
    title, metadata = _metadata(book)
    return draft.document(title=title, metadata=metadata, notes=tuple(notes))


def _main(package: Package) -> str:
    container = package.xml("META-INF/container.xml")
    for element in container.iter() if container is not None else ():
        if local(element) == "rootfile" and element.get("full-path"):
            return element.get("full-path", "")
    return next((name for name in package.names() if name.endswith(".opf")), "content.opf")


def _children(book: Element, name: str) -> list[Element]:
    parent = child_of(book, name)
    return list(parent) if parent is not None else []


def _path(folder: str, href: str) -> str:
    return posixpath.normpath(posixpath.join(folder, unquote(href.partition("#")[0])))


def _metadata(book: Element) -> tuple[str, dict[str, str | list[str]]]:
    found: dict[str, list[str]] = {}
    parent = child_of(book, "metadata")
    for element in parent.iter() if parent is not None else ():
        if text := " ".join("".join(element.itertext()).split()):
            found.setdefault(local(element), []).append(text)
    metadata: dict[str, str | list[str]] = {}
    for name, key in _METADATA.items():
        if values := found.get(name):
            metadata[key] = values[0] if len(values) == 1 else values
    return found.get("title", [""])[0], metadata


def _encrypted(package: Package) -> set[str]:
    """The parts that cannot be read without a key, in lower case."""
    root, secret = package.xml("META-INF/encryption.xml"), set()
    for data in root if root is not None else ():
        method = next((entry.get("Algorithm", "") for entry in data.iter() if local(entry) == "EncryptionMethod"), "")
        if method not in _OBFUSCATIONS:
            references = (entry.get("URI", "") for entry in data.iter() if local(entry) == "CipherReference")
            secret |= {_path("", uri).lower() for uri in references}
    return secret


def _labels(package: Package, manifest: dict[str, Element], spine: Element | None, folder: str) -> dict[str, str]:
    """What the table of contents calls each part: of EPUB 3 a page with links, of EPUB 2 an XML of its own."""
    labels: dict[str, str] = {}
    contents = [item for item in manifest.values() if "nav" in (item.get("properties") or "").split()]
    if (toc := attribute(spine, "toc")) in manifest:
        contents.append(manifest[toc or ""])
    for item in contents:
        part = _path(folder, item.get("href", ""))
        try:
            root = package.xml(part)
        except (ValueError, SyntaxError, LookupError):
            continue  # chapters keep their own headings
        base = posixpath.dirname(part)
        for element in root.iter() if root is not None else ():
            href, text = "", ""
            if local(element) == "a":
                href, text = element.get("href", ""), "".join(element.itertext())
            elif local(element) == "navPoint":
                content, label = child_of(element, "content"), child_of(element, "navLabel")
                href = content.get("src", "") if content is not None else ""
                text = "".join(label.itertext()) if label is not None else ""
            if href and text.strip():
                labels.setdefault(_path(base, href), " ".join(text.split()))
    return labels
