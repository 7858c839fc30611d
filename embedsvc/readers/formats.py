"""The one table of formats, and :func:`read`, which picks a reader: by suffix, else by content."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module

from embedsvc.errors import DamagedFile, EmbedsvcError, UnsupportedFormat
from embedsvc.readers.items import FieldChoice, Means, Rejected
from embedsvc.readers.sniffing import archive_kind, is_picture, sniff
from embedsvc.records import Document, Source, make_document

log = logging.getLogger(__name__)

Reader = Callable[[Source, FieldChoice], Iterator[Document | Rejected]]

READERS = {  # module of this package, the suffixes that its function ``read_<module>`` reads
    "plain": "txt text log",
    "markdown": "md markdown mkd mdx",
    "restructured": "rst rest",
    "html": "html htm xhtml",
    "pdf": "pdf",
    "docx": "docx docm dotx dotm",
    "pptx": "pptx pptm ppsx ppsm potx potm",
    "xlsx": "xlsx xlsm xltx xltm",
    "xls": "xls xlt",
    "odf": "odt ott odm oth fodt ods ots fods odp otp fodp odg otg fodg",
    "rtf": "rtf",
    "epub": "epub",
    "mail": "eml",
    "msg": "msg oft",
    "mbox": "mbox mbx",
    "legacy": "doc dot ppt pps pot xlsb",
    "jsonl": "jsonl ndjson",
    "delimited": "csv tsv tab",
    "jsonfile": "json",
    "columnar": "parquet pq arrow feather ipc",
    "notebook": "ipynb",
    "subtitles": "vtt srt",
    "xml": "xml nxml jats dbk docbook tei",
    "latex": "tex latex ltx",
    "asciidoc": "adoc asciidoc asc",
    "code": (
        "py pyi pyw js mjs cjs jsx ts mts cts tsx java kt kts scala groovy dart c h cc cpp cxx hpp hh hxx cu cuh cs go "
        "rs swift php rb lua sh bash zsh sql r pl pm ps1 jl ex exs"
    ),
    "archive": "zip tar tgz tbz tbz2 txz gz bz2 xz",
    "image": "png jpg jpeg tif tiff bmp gif webp",
}
_BY_SUFFIX = {f".{suffix}": module for module, suffixes in READERS.items() for suffix in suffixes.split()}
_SNIFFED = frozenset({"docx", "pptx", "xlsx", "xls", "odf", "rtf", "epub", "mail", "msg", "mbox", "legacy"})
"""Whose suffixes are not believed: a .doc may well be RTF, HTML or a DOCX."""
_WITH_MEANS = frozenset(
    {"archive", "columnar", "delimited", "image", "jsonfile", "jsonl", "mail", "mbox", "msg", "pdf"}
)
"""Readers that are also told what they may use: of files that hold other files, many records, or pictures of text."""
_NOT_READ = (
    "mobi pages numbers key zst 7z rar jar whl heic ico psd mp3 mp4 m4a wav flac ogg avi mkv mov webm exe dll so dylib "
    "o a class pyc pyd bin iso dmg ttf otf woff woff2 npy npz safetensors onnx pt pkl pickle sqlite db"
)
_REFUSED = frozenset(f".{suffix}" for suffix in _NOT_READ.split())
_READABLE = (
    "plain text and source code, Markdown, reStructuredText, AsciiDoc, LaTeX, HTML, XML, PDF, Office and OpenDocument "
    "files, RTF, EPUB, mail (EML, MSG, MBOX), notebooks, subtitles, JSON, JSONL, CSV, TSV, Parquet and Arrow, pictures "
    "of text, and archives of these"
)


def read(source: Source, fields: FieldChoice, means: Means = Means()) -> Iterator[Document | Rejected]:
    """The documents of ``source``: one, or one per record of a file of records, or those of the files in an archive.

    A record that gives none is a :class:`Rejected` in the stream. An input without any content gives one Document
    with empty text and a note.

    Raises:
        ReadError: (of the class that fits; while iterating) the input as a whole gives no document.
    """
    count = 0
    if source.data.strip():
        try:
            for item in _reader(source, means)(source, fields):
                count += 1
                yield item if isinstance(item, Rejected) else replace(item, source=source.uri)
        except EmbedsvcError:
            raise
        except Exception as error:  # parsers fail in ways of their own, and one file must not end the batch
            log.exception("%s: its reader failed", source.uri)
            raise DamagedFile(
                f"{source.uri}: its reader failed ({type(error).__name__}: {error}). "
                "If other programs open it, please report this as a bug, with the file."
            ) from error
    if not count:
        note = "the file is empty"
        if source.data:
            note = "it has no records" if source.data.strip() else "it holds only white space"
        empty = make_document(source.uri, "", title=source.name, hash=source.hash, notes=(note,))
        yield replace(empty, source=source.uri)


def _reader(source: Source, means: Means) -> Reader:
    refused = refusal(source.uri, source.name)
    if refused:
        raise refused
    module = module_of(source)
    reader = getattr(import_module(f"embedsvc.readers.{module}"), f"read_{module}")
    return partial(reader, means=means) if module in _WITH_MEANS else reader


def refusal(uri: str, name: str) -> UnsupportedFormat | None:
    """Why a file called ``name`` is not read, whatever is in it."""
    suffix = _suffix(name)
    if suffix not in _REFUSED:
        return None
    return UnsupportedFormat(
        f"{uri}: {suffix} files are not read. Convert it to one of the formats that are: {_READABLE}."
    )


def module_of(source: Source) -> str:
    """The reader's module, by suffix, else by content."""
    module = _BY_SUFFIX.get(_suffix(source.name))
    if module in _SNIFFED:
        module = _sniffed(source, module)
    return module or _by_content(source)


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def _by_content(source: Source) -> str:
    head = source.data[:1024]
    if head.lstrip().startswith(b"%PDF-"):
        return "pdf"
    if (module := sniff(source)) is not None:
        return module
    if archive_kind(head):
        return "archive"
    if is_picture(head):
        return "image"
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        from embedsvc.readers.packages import ole_error

        raise ole_error(source)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "html"
    if start.startswith(b"<?xml"):
        return "html" if b"<html" in start else "xml"
    return "subtitles" if start.startswith(b"webvtt") else "plain"


def _sniffed(source: Source, module: str) -> str:
    """The module for a file with a suffix of ``_SNIFFED``: what it is, else what it says."""
    if (found := sniff(source)) is not None:
        return found
    start = source.data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "html"
    # Programs without a writer for these formats write plain text, and call it so.
    head = source.data[:4096]
    is_text = module in ("legacy", "xls") and not head.startswith(b"\xd0\xcf") and b"\0" not in head
    return "plain" if is_text else module
