"""The process in which files are parsed: ``python -m embedsvc.readers.worker LIMITS FOLDER``.

It confines itself (:mod:`.confinement`), says so, then reads one file after the other as it is asked to on its standard
input, and answers on its standard output. :mod:`.sandbox` is the other end.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import BinaryIO

from embedsvc.errors import EmbedsvcError, ReaderOutOfMemory, ReadError
from embedsvc.readers import formats
from embedsvc.readers.confinement import confine, cpu_seconds
from embedsvc.readers.frames import error_about, item_messages, pack, receive, requested
from embedsvc.readers.items import FieldChoice, Limits, Means
from embedsvc.records import Source

_MEGABYTE = 1_000_000


def main() -> None:
    """Answers until its input ends. Arguments: see the module; the limits as JSON."""
    limits, folder = Limits(**json.loads(sys.argv[1])), sys.argv[2]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = _take_pipes()
    faulthandler.enable()

    def send(message: bytes) -> None:
        replies.write(message)
        replies.flush()  # what is read before a crash is not lost in it

    def recognising() -> None:
        send(pack({"kind": "recognising"}))
        if limits.timeout_s:
            cpu_seconds(limits.timeout_s + limits.ocr_timeout_s if limits.ocr_timeout_s else None)

    place = _Place()
    means = Means(limits.member_mb * _MEGABYTE, limits.ocr_languages, recognising, place.reached)
    held = confine(folder, limits.memory_mb)
    logging.getLogger("embedsvc").addHandler(_ToParent(send))
    send(pack({"kind": "ready", "held": held}))
    while True:
        try:
            about, data = receive(lambda size: _exactly(requests, size))
        except EOFError:
            return
        if limits.timeout_s:
            cpu_seconds(limits.timeout_s)
        source, fields = requested(about, data)
        del about, data
        place.reached(1.0)
        send(pack({"kind": "end"} | _answer(source, fields, means, place, send)))


class _Place:
    """Where in the source its reader is: the share that is read with the item that it gives next."""

    def __init__(self) -> None:
        self.share = 1.0

    def reached(self, share: float) -> None:
        self.share = share


def _answer(
    source: Source, fields: FieldChoice, means: Means, place: _Place, send: Callable[[bytes], None]
) -> dict[str, str]:
    """Sends what ``source`` gives, as it comes; returns the error that it ended with, if any."""
    try:
        for item in formats.read(source, fields, means):
            for message in item_messages(item, place.share):
                send(message)
        return {}
    except MemoryError:
        pass
    except EmbedsvcError as error:
        if not _of_memory(error):
            return error_about(error if isinstance(error, ReadError) else ReadError(str(error)))
    # The memory is free again by now. What to do about it is for the other end to say.
    return error_about(ReaderOutOfMemory(""))


def _of_memory(error: BaseException | None) -> bool:
    """Whether it came of a want of memory, however often that was turned into another error."""
    while error is not None and not isinstance(error, MemoryError) and not _unmapped(error):
        error = error.__cause__ or error.__context__
    return error is not None


def _unmapped(error: BaseException) -> bool:
    """Whether it is the dynamic loader's, of a library for which there was no memory: it has no number for that."""
    return isinstance(error, ImportError) and any(
        words in str(error) for words in ("failed to map segment", "cannot allocate memory")
    )


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output, for messages only: what libraries print goes to standard error."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


class _ToParent(logging.Handler):
    """Warnings of our own code belong in the log of the process that asked."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(pack({"kind": "log", "level": record.levelno, "text": self.format(record)}))


if __name__ == "__main__":
    main()
