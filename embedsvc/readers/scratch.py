"""Folders for what a process writes while it works. Each goes with its owner; where that was killed, the next one
clears it away."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

_PREFIX = "embedsvc-reading-"


class Scratch:
    """An empty folder, ``path``, in the one for temporary files. The lock on it, which the kernel gives back when this
    process ends, says that it is somebody's."""

    def __init__(self) -> None:
        clear_abandoned()
        while True:
            self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
            self.path = self._folder.name
            self._lock = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            with suppress(OSError):  # a file system without locks: nobody clears it away, here or there
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            if Path(self.path).is_dir():
                return
            os.close(self._lock)  # it was taken for an abandoned one in between

    def remove(self) -> None:
        """Removes it with all that is in it. To be called once."""
        try:
            self._folder.cleanup()
        except Exception as error:  # whatever a file has made there
            log.warning("%s cannot be removed: %s", self.path, error)
        os.close(self._lock)


def clear_abandoned() -> None:
    """Removes the folders whose owners, processes of this user, are dead."""
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX):
                with suppress(OSError):  # somebody's, or gone by now
                    _clear(entry.path)


def _clear(path: str) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(folder).st_uid == os.geteuid():
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(folder)
