"""Old formats (DOC, PPT) and the binary XLSB, read through LibreOffice where it is installed: it writes the format of
today into a folder of its own, which is read like any other file and removed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from embedsvc.errors import DamagedFile, UnsupportedFormat
from embedsvc.readers.items import FieldChoice, Rejected
from embedsvc.readers.ole import MAGIC, container_of, kind_of, stream
from embedsvc.readers.packages import locked
from embedsvc.records import Document, Source

_PROGRAMS = ("soffice", "libreoffice")
_TARGETS = {"doc": "docx", "ppt": "pptx", "xlsb": "xlsx"}
_SECONDS = 60.0
_MOST_BYTES = 500_000_000
_SECRET_WORD = 0x100
"""Of the flags of a DOC: it is encrypted."""
_SECRET_SLIDES = b"\xdf\xc4\xd1\xf3"
"""What the user's stream of an encrypted PPT says."""


def program() -> str | None:
    """Where LibreOffice is; None where it is not."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


def read_legacy(source: Source, fields: FieldChoice) -> Iterator[Document | Rejected]:
    """What the converted file gives, under the uri and the hash of the original.

    Raises:
        UnsupportedFormat: LibreOffice is not on the PATH, or does not start.
        LockedFile: encrypted with a password.
        DamagedFile: LibreOffice cannot read it, or takes more than a minute.
    """
    _check_open(source)
    kind = _kind(source)
    target = _TARGETS[kind]
    converter = program()
    if converter is None:
        raise UnsupportedFormat(
            f"{source.uri}: files of this kind ({kind}) are read through LibreOffice, which is not there. "
            f"Install it (soffice must be on the PATH), or save the file as .{target}, then index it again."
        )
    data = _converted(converter, source, kind, target)
    stand_in = Source(source.uri, f"{source.name}.{target}", data)
    for item in getattr(import_module(f"embedsvc.readers.{target}"), f"read_{target}")(stand_in, fields):
        if isinstance(item, Document):
            title = source.name if item.title == stand_in.name else item.title
            item = replace(item, title=title, hash=source.hash, notes=(*item.notes, "converted by LibreOffice"))
        yield item


def _kind(source: Source) -> str:
    """What it is, whatever it is called; a text where it cannot be told."""
    if source.data.startswith(b"PK"):
        return "xlsb"
    kind = kind_of(source)
    return kind if kind in _TARGETS else "ppt" if source.name.lower().endswith((".ppt", ".pps", ".pot")) else "doc"


def _check_open(source: Source) -> None:
    if not source.data.startswith(MAGIC):
        return
    try:
        with container_of(source.data) as container:
            word = stream(container, "WordDocument") or b""
            is_secret = len(word) > 12 and bool(int.from_bytes(word[10:12], "little") & _SECRET_WORD)
            is_secret |= _SECRET_SLIDES in (stream(container, "Current User") or b"")
    except Exception:  # a container that olefile cannot read may yet be one that LibreOffice can
        return
    if is_secret or container.exists("EncryptedSummary"):
        raise locked(source)


def _converted(program: str, source: Source, kind: str, target: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="embedsvc-") as name:
        folder = Path(name)
        (folder / f"in.{kind}").write_bytes(source.data)
        command = [
            program,
            f"-env:UserInstallation={(folder / 'profile').as_uri()}",  # two that run at once must not share one
            # Where it makes its socket: /tmp, otherwise. Not in `folder`: the whole path must have less than 108 bytes.
            f"-env:OSL_SOCKET_PATH={tempfile.gettempdir()}",
            "--headless",
            "--norestore",
            "--convert-to",
            target,
            "--outdir",
            str(folder / "out"),
            str(folder / f"in.{kind}"),
        ]
        # In a process group of its own: soffice is a script, and what it starts would outlive it. But in this session,
        # which ends as one: out of another, no reader may end a process.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            process_group=0,
        )  # fmt: skip
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise DamagedFile(
                f"{source.uri}: LibreOffice did not convert it within {_SECONDS:.0f} s. "
                f"Open it there and save it as .{target}, then index that."
            ) from None
        finally:
            _kill(process)
        if process.returncode:  # 0 also where it cannot read the file
            raise UnsupportedFormat(
                f"{source.uri}: LibreOffice ended with code {process.returncode} before it had converted it. An "
                "old one does not start where readers are kept from /tmp (docs/formats.md, Old formats). "
                f"Convert it yourself, soffice --headless --convert-to {target} FILE, then index that."
            )
        result = folder / "out" / f"in.{target}"
        if not result.is_file() or not 0 < result.stat().st_size <= _MOST_BYTES:
            raise DamagedFile(
                f"{source.uri}: LibreOffice cannot read it. Open it in the program it is from, "
                f"and save it as .{target}, then index that."
            )
        return result.read_bytes()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
