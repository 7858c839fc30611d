"""Which format of the office, book and mail family a file is in, by its first bytes and the names of its parts; which
archive, and whether a picture."""

from __future__ import annotations

import re
from io import BytesIO

from embedsvc.records import Source

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PARTS = {
    "word/document.xml": "docx",
    "ppt/presentation.xml": "pptx",
    "xl/workbook.xml": "xlsx",
    "xl/workbook.bin": "legacy",
}
_FOLDERS = {"word/": "docx", "ppt/": "pptx", "xl/": "xlsx"}
"""Where the main part has another name."""
_HEADER = re.compile(rb"(?:[!-9;-~]+:[^\n]*\n(?:[ \t]+[^\n]*\n)*)+", re.MULTILINE)
_MAILBOX = re.compile(rb"From [^\r\n]* \d?\d:\d\d[^\r\n]*\r?\n[!-9;-~]+:")
_ARCHIVES = {
    "zip": re.compile(rb"PK\x03\x04|PK\x05\x06"),
    "gz": re.compile(rb"\x1f\x8b\x08"),
    "bz2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "tar": re.compile(rb".{257}ustar(?:\x00|  \x00)", re.DOTALL),
}
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"GIF87a", b"GIF89a")
_FLAT = re.compile(rb"<office:document[\s>][^>]*office:mimetype", re.DOTALL)


def sniff(source: Source) -> str | None:
    """The module that reads ``source`` by what it is, whatever it is called; None where that cannot be told."""
    head = source.data[:4096].lstrip()
    if head.startswith(b"PK\x03\x04"):
        return _package(source)
    if source.data.startswith(_OLE):
        from embedsvc.readers.ole import kind_of

        kind = kind_of(source)
        return "legacy" if kind in ("doc", "ppt") else "docx" if kind == "encrypted" else kind
    if head.startswith(b"{\\rtf"):
        return "rtf"
    if head.startswith(b"%PDF-"):
        return "pdf"
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()  # of text; no binary format has it
    if head.startswith((b"<?xml", b"<office:document")):
        return "odf" if _FLAT.search(head) else None
    return "mbox" if _MAILBOX.match(head) else "mail" if _is_mail(head) else None


def archive_kind(data: bytes) -> str | None:
    """``zip``, ``tar``, ``gz``, ``bz2`` or ``xz``; a zip may yet be an office file."""
    return next((kind for kind, pattern in _ARCHIVES.items() if pattern.match(data)), None)


def is_picture(data: bytes) -> bool:
    """Whether it is a PNG, JPEG, TIFF or GIF."""
    return data.startswith(_PICTURES)


def _package(source: Source) -> str | None:
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(BytesIO(source.data)) as archive:
            names = archive.namelist()
            kind = b""
            if "mimetype" in names and archive.getinfo("mimetype").compress_type in (0, zipfile.ZIP_DEFLATED):
                kind = archive.open("mimetype").read(200)
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, NotImplementedError, RuntimeError, EOFError):
        return None
    if b"epub" in kind or "META-INF/container.xml" in names:
        return "epub"
    if b"opendocument" in kind or {"content.xml", "META-INF/manifest.xml"} <= set(names):
        return "odf"
    for name in names:
        if (module := _PARTS.get(name.replace("\\", "/").lstrip("/").lower())) is not None:
            return module
    if "[Content_Types].xml" in names:
        return next((module for name in names for folder, module in _FOLDERS.items() if name.startswith(folder)), None)
    return None


def _is_mail(head: bytes) -> bool:
    """Whether it begins with a header that only mails have. Notes with "From:" and "Date:" are not mails."""
    header = _HEADER.match(head)
    if header is None:
        return False
    names = {line.partition(b":")[0].lower() for line in header[0].splitlines() if line[:1] not in b" \t"}
    return b"from" in names and bool(names & {b"received", b"message-id", b"mime-version", b"return-path"})
