"""Zip packages of XML parts, as Office, OpenDocument and EPUB files are: opened, bounded and parsed in one place.

Nothing is unpacked to the disk, no external entity is fetched, and no more is inflated than the limits allow,
whatever sizes the archive declares.
"""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from embedsvc.errors import DamagedFile, FileTooLarge, LockedFile, UnsupportedFormat
from embedsvc.records import Source

_OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
MOST_TREE_BYTES = 100_000_000
"""A larger XML part would need gigabytes as a tree. The text of a thousand-page book has about 10 MB of XML."""
MOST_BYTES = 500_000_000
"""What all parts that are read from one package may unpack to, and a part that is read as a stream."""
_MOST_RATIO = 200
"""How many times its own size a package may unpack to. XML of real documents shrinks to a tenth, of sheets to a
fiftieth."""
_ALWAYS_BYTES = 110_000_000
"""Up to here nobody asks for the ratio."""
_SLICE = 1 << 20
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""No such file uses others, and zipfile inflates those without a limit."""
_ENTITY = tuple("<!ENTITY".encode(encoding) for encoding in ("ascii", "utf-16-le", "utf-16-be"))
"""In these alone can expat meet a declaration: all other encodings that it takes are ASCII here."""
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    ElementTree.ParseError,
    EOFError,
    LookupError,  # an absent part; an XML declaration with an unknown encoding
    NotImplementedError,  # a zip of a version that zipfile lacks
    OSError,
    RecursionError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Relation:
    """What one part says of another: ``kind`` is the last word of its type, as "slide" or "notesSlide"."""

    kind: str
    target: str


@contextmanager
def opened(source: Source, kind: str) -> Iterator[Package]:
    """The package that ``source`` is. What goes wrong in the block, while parsing too, leaves it as a ReadError.

    Raises:
        LockedFile: encrypted with a password.
        DamagedFile: not such a package, or a part of it cannot be read.
        FileTooLarge: it unpacks to more than is held.
    """
    try:
        with zipfile.ZipFile(BytesIO(source.data)) as archive:
            yield Package(archive, source)
    except _ERRORS as error:
        if source.data.startswith(_OLE_MAGIC):
            raise ole_error(source) from error
        raise damaged(source, kind, error) from error


def damaged(source: Source, kind: str, error: Exception) -> DamagedFile:
    reason = error.args[0] if isinstance(error, KeyError) and error.args else error
    return DamagedFile(
        f"{source.uri}: this {kind} is damaged ({str(reason).rstrip('.') or type(error).__name__}). "
        "Open it in the program it is from, and save it anew."
    )


def ole_error(source: Source) -> LockedFile | UnsupportedFormat:
    """What is wrong with an OLE container: Office wraps encrypted files in one; old binary formats are one."""
    if _ENCRYPTED in source.data:
        return locked(source)
    return UnsupportedFormat(
        f"{source.uri}: this is an Office file of before 2007. Save it in a format of today (as .docx), "
        "then index that."
    )


def locked(source: Source) -> LockedFile:
    return LockedFile(f"{source.uri}: this document is encrypted. Save a copy without a password, then index that.")


class Package:
    """An open package, with account of what was unpacked so far. Names of parts are compared without case."""

    def __init__(self, archive: zipfile.ZipFile, source: Source) -> None:
        self._archive = archive
        self._source = source
        self._parts = {info.filename.replace("\\", "/").lstrip("/").lower(): info for info in archive.infolist()}
        self._unpacked = 0

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._parts

    def names(self) -> list[str]:
        """In lower case, in the order of the archive."""
        return list(self._parts)

    def bytes(self, name: str, most: int = MOST_TREE_BYTES) -> bytes | None:
        """A part; None where there is none of this name."""
        info = self._parts.get(name.lower())
        if info is None:
            return None
        if info.flag_bits & 1:
            raise locked(self._source)
        if info.compress_type not in _COMPRESSIONS:
            raise ValueError(f"{name} is compressed in a way that these files do not use")
        self._check(name, info.file_size, most)
        # Read with a bound: without one, zipfile inflates all there is before it looks at the declared size.
        data = bytearray()
        with self._archive.open(info) as part:
            while piece := part.read(_SLICE):
                data += piece
        self._unpacked += len(data)
        return bytes(data)

    def xml(self, name: str) -> Element | None:
        """The tree of an XML part; None where there is none of this name."""
        data = self.bytes(name)
        return None if data is None else parse(data)

    def events(self, name: str) -> Iterator[tuple[str, Element]]:
        """Starts and ends of the elements of an XML part, for parts too large for a tree: clear what is done with.

        Raises:
            KeyError: there is no such part.
        """
        data = self.bytes(name, MOST_BYTES)
        if data is None:
            raise KeyError(f"it has no {name}")
        return stream(data)

    def relations(self, part: str) -> dict[str, Relation]:
        """The parts that ``part`` ("" for the package) refers to, by id; what lies outside the package is left out."""
        folder, name = posixpath.split(part)
        root = self.xml(posixpath.join(folder, "_rels", f"{name}.rels"))
        found = {}
        for relation in () if root is None else root:
            if relation.get("TargetMode") != "External":
                target = relation.get("Target", "").replace("\\", "/")
                path = posixpath.normpath(target.lstrip("/") if target[:1] == "/" else posixpath.join(folder, target))
                found[relation.get("Id", "")] = Relation(relation.get("Type", "").rpartition("/")[2], path)
        return found

    def main(self, default: str) -> str:
        """The name of the part that an Office package is about."""
        found = (relation.target for relation in self.relations("").values() if relation.kind == "officeDocument")
        return next(found, default)

    def _check(self, name: str, size: int, most: int) -> None:
        total = self._unpacked + size
        if size > most:
            what, limit, bound = f"its part {name} unpacks", size, f"the limit of {most / 1e6:,.0f} MB"
        elif total > MOST_BYTES:
            what, limit, bound = "it unpacks", total, f"the limit of {MOST_BYTES / 1e6:,.0f} MB"
        elif total > max(_ALWAYS_BYTES, _MOST_RATIO * len(self._source.data)):
            what, limit, bound = "it unpacks", total, f"{_MOST_RATIO} times its own size"
        else:
            return
        raise FileTooLarge(
            f"{self._source.uri}: {what} to {limit / 1e6:,.0f} MB, more than {bound}. "
            "Split the document, or leave it out."
        )


def parse(data: bytes) -> Element:
    """The tree of ``data``. Entities of its own are refused: Office writes none, and they can multiply."""
    _check_entities(data)
    return ElementTree.fromstring(data)


def stream(data: bytes) -> Iterator[tuple[str, Element]]:
    """The starts and ends of the elements of ``data``."""
    _check_entities(data)
    return ElementTree.iterparse(BytesIO(data), events=("start", "end"))


def _check_entities(data: bytes) -> None:
    if any(mark in data for mark in _ENTITY):
        raise ValueError("it declares XML entities, which no such file does")


def local(element: Element) -> str:
    """The name of ``element`` without its namespace: the strict and the usual forms differ in nothing else."""
    return _local(element.tag) if isinstance(element.tag, str) else ""


@lru_cache(4096)
def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def attribute(element: Element | None, name: str = "val") -> str | None:
    """The attribute ``name`` of ``element``, in whatever namespace."""
    if element is None:
        return None
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), None)


def child_of(element: Element | None, name: str) -> Element | None:
    for child in element if element is not None else ():
        if local(child) == name:
            return child
    return None


def text_of(root: Element | None, name: str) -> str:
    """All text of the child ``name``, or ""."""
    element = child_of(root, name)
    return "" if element is None else "".join(element.itertext())
