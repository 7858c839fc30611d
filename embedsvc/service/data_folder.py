"""The folder that everything lies in: made when the service starts, and never after that. One that went away under a
running service (renamed, unmounted) must not be made anew, or there would be two halves of the data."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from embedsvc.errors import NotReady, StorageFailure
from embedsvc.service.jobs import FOLDER

log = logging.getLogger("embedsvc.service")

_NEEDS_IT = re.compile(r"/(readyz|mcp|v1/(collections|jobs|files|vector_stores))(/|$)")


def needs_data(path: str) -> bool:
    """Whether the route ``path`` reads or writes what lies in the data folder, or tells whether others can."""
    return _NEEDS_IT.match(path) is not None


def is_read_only(folder: Path) -> bool:
    """Whether what lies in the data folder can be searched only."""
    return not os.access(folder, os.W_OK)


def make_data_folder(folder: Path) -> None:
    """Makes the data folder, where it is not there, and in it what it is known by. Warns where it cannot be written.

    Raises:
        StorageFailure: it cannot be made, or not be read.
    """
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if not folder.is_dir():  # one that is read-only can be searched
            raise StorageFailure(
                f"The data folder {folder} cannot be made: {error.strerror or error}. Make it, or choose another "
                "place with EMBEDSVC_DATA_DIR."
            ) from error
    if not os.access(folder, os.R_OK | os.X_OK):
        raise StorageFailure(
            f"The data folder {folder} cannot be read. Check its permissions, or choose another place with "
            "EMBEDSVC_DATA_DIR."
        )
    if is_read_only(folder):
        log.warning(
            "the data folder %s cannot be written: searches only; where that is not meant, mend its permissions", folder
        )


class DataFolder:
    """The data folder of a running service."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Where a disk was mounted, an empty folder stays behind: what the service made in it tells the two apart.
        own = folder / FOLDER
        self._mark = own if own.is_dir() else folder

    def check(self) -> None:
        """Raises NotReady: it is gone."""
        if not self._mark.is_dir():
            raise NotReady(
                f"The data folder {self._folder} is gone, or what it held. Mount it again, or start the service anew."
            )
