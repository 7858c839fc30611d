"""Archives: each file in one is read by the table of formats, as documents of its own at ``{archive}!/{path}``.

Members inflate in memory, one at a time, and nothing is written to the disk. What they inflate to is counted while it
comes out, whatever headers say of it, over all archives within archives together.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self
from urllib.parse import quote

from embedsvc.errors import DamagedFile, FileTooLarge, LockedFile, ReadError, UnsupportedFormat
from embedsvc.readers import formats
from embedsvc.readers.discovery import is_left_out
from embedsvc.readers.items import FieldChoice, Means, Rejected
from embedsvc.readers.sniffing import archive_kind
from embedsvc.records import Document, Source

_DEEPEST = 4
"""Archives within each other."""
_MOST_MEMBERS = 100_000
_MOST_BYTES = 1_000_000_000
"""Of all members together, inflated; a disk image has more, a collection of documents hardly."""
_MOST_TIMES = 200
"""What an archive may inflate to, as a multiple of its size. Logs reach 20, deflate ends at 1,030, bombs nest."""
_ALWAYS = 10_000_000
"""Bytes that even the smallest archive may inflate to."""
_PIECE = 1 << 20
_OPEN: dict[str, Callable[[Any], Any]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
_OF_TARS = {"tgz": "gz", "tbz": "bz2", "tbz2": "bz2", "txz": "xz"}
"""What tars are called that are compressed, and by what."""
_SUFFIXES = frozenset({"zip", "tar", *_OPEN, *_OF_TARS})
_HEAD = 512
"""Bytes of a tar's first header."""
_CENTRAL = b"PK\x01\x02"
_DRIVE = re.compile(r"[A-Za-z]:")
_FAILURES = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, KeyError,
    LookupError, NotImplementedError, RuntimeError, MemoryError, OverflowError, SystemError,
)  # fmt: skip
"""What the libraries raise for what they cannot unpack."""


class _TooMuch(FileTooLarge):
    """The limits of the outermost archive are reached: it ends there, also from within archives in it."""


@dataclass(slots=True)
class _Allowance:
    """What the outermost archive, and all within it, may still give."""

    uri: str
    bytes: int
    members: int

    def take(self, count: int) -> None:
        self.bytes -= count
        if self.bytes < 0:
            raise _TooMuch(
                f"{self.uri}: it inflates to more than {_MOST_BYTES / 1e6:,.0f} MB, or than {_MOST_TIMES} times its "
                "own size. What was read until there is kept. If you trust it, unpack it and index the folder."
            )

    def take_member(self) -> None:
        self.members -= 1
        if self.members < 0:
            raise _TooMuch(
                f"{self.uri}: it has more than {_MOST_MEMBERS:,} members. What was read until there is kept. Unpack it "
                "and index the folder."
            )


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in an archive: its path there; how to open it, or why it is not read."""

    path: str
    open: Callable[[], Any] | None = None
    error: type[ReadError] | None = None
    why: str = ""
    size: int = 0
    """Bytes that it is said to have."""
    counted: bool = False
    """Whether the bytes that it gives are counted already where they come from."""
    packed: Callable[[], int] | None = None
    """How many bytes of the archive it takes, as far as it was read; None: that cannot be told."""


def read_archive(source: Source, fields: FieldChoice, means: Means) -> Iterator[Document | Rejected]:
    """The documents of all files in it, but hidden and backup files. A member that gives none is a Rejected.

    So is the archive itself, behind the documents before that point, where it inflates to too much.

    Raises:
        DamagedFile: it is no archive, or none of this kind.
    """
    allowance = _Allowance(source.uri, min(_MOST_BYTES, max(_ALWAYS, _MOST_TIMES * len(source.data))), _MOST_MEMBERS)
    try:
        yield from _documents(source, fields, means, allowance, 1)
    except _TooMuch as error:
        yield Rejected(source.uri, error)


def _documents(
    source: Source, fields: FieldChoice, means: Means, allowance: _Allowance, depth: int
) -> Iterator[Document | Rejected]:
    seen: set[str] = set()
    file = io.BytesIO(source.data)
    members = _members(source, file, allowance)
    before = 0.0
    means.reached(before)  # of members that are not unpacked it is not known where they end

    def means_there() -> Means:
        """For what has been unpacked since the last time."""
        nonlocal before
        start, before = before, file.tell() / len(source.data)
        means.reached(before)
        return means.of_part(start, before)

    while True:
        try:
            member = next(members, None)
        except _FAILURES as error:
            if not seen and depth == 1:
                raise _damaged(source.uri, error) from error
            yield Rejected(source.uri, _damaged(source.uri, error))
            return
        if member is None:
            return
        allowance.take_member()
        path = member.path
        uri = f"{source.uri}!/{quote(path.encode('utf-8', 'surrogateescape'), safe='/')}"
        if (why := _outside(path)) or member.error:
            error_class = member.error or UnsupportedFormat
            yield Rejected(uri, error_class(f"{uri}: {why or member.why}"))
            seen.add(path)
            continue
        if path in seen:
            yield Rejected(uri, DamagedFile(f"{uri}: the archive has this path twice; the first was read."))
            continue
        seen.add(path)
        if is_left_out(path) or member.open is None:
            continue
        try:
            yield from _read(uri, member, fields, means.member_bytes, means_there, allowance, depth)
        except _TooMuch:
            raise
        except ReadError as error:
            yield Rejected(uri, error)


def _read(
    uri: str,
    member: _Member,
    fields: FieldChoice,
    most: int,
    means_there: Callable[[], Means],
    allowance: _Allowance,
    depth: int,
) -> Iterator[Document | Rejected]:
    name = member.path.rpartition("/")[2].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    refused = formats.refusal(uri, name)
    if refused:  # before it is inflated for nothing
        raise refused
    source = Source(uri, name, _inflated(uri, member, most, allowance))
    means = means_there()
    if formats.module_of(source) != "archive" or not source.data.strip():
        yield from formats.read(source, fields, means)
    elif depth < _DEEPEST:
        yield from _documents(source, fields, means, allowance, depth + 1)
    else:
        raise UnsupportedFormat(
            f"{uri}: it is an archive more than {_DEEPEST} archives deep. If you trust it, unpack it and index the "
            "folder."
        )


def _inflated(uri: str, member: _Member, most: int, allowance: _Allowance) -> bytes:
    if member.size > most:  # before it is inflated for nothing
        raise _too_large(uri, member, most, member.size)
    pieces: list[bytes] = []
    length = 0
    assert member.open is not None
    try:
        with member.open() as file:
            while piece := file.read(_PIECE):
                length += len(piece)
                if not member.counted:
                    allowance.take(len(piece))
                if length > most:
                    raise _too_large(uri, member, most, length)
                pieces.append(piece)
    except _FAILURES as error:
        if isinstance(error, NotImplementedError):
            raise UnsupportedFormat(f"{uri}: it is compressed in a way that is not read ({error}).") from error
        raise _damaged(uri, error) from error
    return b"".join(pieces)


def _too_large(uri: str, member: _Member, most: int, length: int) -> FileTooLarge:
    """``length``: bytes that it has at least."""
    fact = f"{uri}: it has more than {most / 1e6:,.0f} MB"
    if member.packed is not None and length > _MOST_TIMES * member.packed():
        return FileTooLarge(
            f"{fact}, and more than {_MOST_TIMES} times what it takes in the archive, as files have that are made to "
            "fill memory and disks. Leave it out; if you know what it is, unpack it and index that."
        )
    return FileTooLarge(f"{fact}. Raise --max-file-mb (setting max_file_mb), or split the file.")


def _damaged(uri: str, error: BaseException) -> DamagedFile:
    return DamagedFile(f"{uri}: it cannot be unpacked ({error or type(error).__name__}). Get it anew.")


def _outside(path: str) -> str:
    """Why ``path`` is none within an archive, or ""."""
    if path.startswith("/") or _DRIVE.match(path) or ".." in path.split("/"):
        return "its path leads out of the archive. Somebody may have made it to overwrite files: look where it is from."
    return ""


def _members(source: Source, file: io.BytesIO, allowance: _Allowance) -> Iterator[_Member]:
    stem, _, suffix = source.name.rpartition(".")
    suffix = suffix.lower()
    if suffix not in _SUFFIXES:
        stem, suffix = source.name, ""
    kind = archive_kind(source.data) or _OF_TARS.get(suffix, suffix)
    if kind == "zip":
        yield from _of_zip(source, file)
        return
    if kind == "tar":
        yield from _of_tar(file)
        return
    stream = _Counted(_OPEN[kind](file), allowance)
    buffered = io.BufferedReader(stream, _PIECE)
    if suffix in _OF_TARS or stem.lower().endswith(".tar") or archive_kind(buffered.peek(_HEAD)) == "tar":
        yield from _of_tar(buffered)
    else:
        yield _Member(stem or "content", lambda: buffered, counted=True, packed=file.tell)


class _Counted(io.RawIOBase):
    """What a decompressor gives, counted."""

    def __init__(self, stream: Any, allowance: _Allowance) -> None:
        self._stream, self._allowance = stream, allowance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read(len(buffer))
        self._allowance.take(len(piece))
        buffer[: len(piece)] = piece
        return len(piece)


def _of_zip(source: Source, file: io.BytesIO) -> Iterator[_Member]:
    if source.data.count(_CENTRAL) > 10 * _MOST_MEMBERS:  # each becomes an object before the first can be looked at
        raise _TooMuch(f"{source.uri}: it has more than {_MOST_MEMBERS:,} members. Unpack it and index the folder.")
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            path = info.filename.replace("\\", "/")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or path.endswith("/"):
                continue
            if info.flag_bits & 1:
                yield _Member(path, error=LockedFile, why="it is encrypted. Unpack the archive with its password.")
            elif kind not in (0, stat.S_IFREG):
                yield _Member(path, error=UnsupportedFormat, why=_NO_FILE)
            else:
                packed = partial(int, info.compress_size)
                yield _Member(path, partial(archive.open, info), size=info.file_size, packed=packed)


_NO_FILE = "it is a link or device, not a file. Links in archives are not followed."


def _of_tar(file: Any) -> Iterator[_Member]:
    ended: list[type[tarfile.HeaderError]] = []

    class Header(tarfile.TarInfo):
        """Remembers why the last header was none: tarfile takes a damaged one for the end, without a word."""

        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            try:
                return super().frombuf(buf, encoding, errors)
            except tarfile.HeaderError as error:
                ended.append(type(error))
                raise

    with tarfile.open(fileobj=file, mode="r|", tarinfo=Header) as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # they would pile up
            path = info.name.removeprefix("./")
            if info.isdir():
                continue
            if not info.isfile() or info.issparse():
                why = "it is a sparse file. Unpack the archive." if info.issparse() else _NO_FILE
                yield _Member(path, error=UnsupportedFormat, why=why)
            else:
                yield _Member(path, partial(archive.extractfile, info), size=info.size, counted=True)
    if not ended or ended[-1] is not tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        raise tarfile.ReadError("it ends without its end mark: it is cut short or damaged there")
    with contextlib.suppress(EOFError):
        while file.read(_PIECE):  # a checksum, or a lie, may stand behind the end of the tar
            pass
