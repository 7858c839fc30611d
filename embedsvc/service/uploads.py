"""Files that were uploaded to be put into collections, kept until they are deleted; and, until it is seen to be there,
which job puts which of them where.

<data dir>/.files/<id>/data                    the bytes
<data dir>/.files/<id>/file.json               name and purpose
<data dir>/.files/jobs/<collection>/<id>.json  an :class:`Attachment`

Folders and JSON files appear whole or not at all; a name that begins with a dot is in the making, or on its way out.
All else there is to know of such a file is in the collections: its documents have uris that begin with its own.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from embedsvc.config import Settings
from embedsvc.errors import NotFound, StorageFailure
from embedsvc.outcomes import INTO, uri_of_upload
from embedsvc.records import Metadata, Source, without_surrogates
from embedsvc.service.problems import json_bytes
from embedsvc.storage.durability import fsync_tree
from embedsvc.storage.store import writing
from embedsvc.syncing import fsync_path

FOLDER = "files"
"""What the uris of all documents that come out of uploaded files begin with."""
_ID = re.compile(r"file-[0-9a-f]{24}")
_URI = re.compile(rf"{FOLDER}/(?P<id>{_ID.pattern})/(?P<name>.*)", re.DOTALL)
_JOBS = "jobs"
_SAFE_AGE = 3600.0
"""Seconds after which what is still in the making was left by a process that was killed."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as it was uploaded, without its bytes."""

    id: str
    name: str
    purpose: str
    bytes: int

    @property
    def created(self) -> int:
        """Seconds since 1970."""
        return created_of(self.id)

    @property
    def uri(self) -> str:
        return f"{FOLDER}/{self.id}/{uri_of_upload(self.name)}"


@dataclass(frozen=True, slots=True)
class Attachment:
    """The ``job`` that puts a file into a collection, and with what ``attributes``. ``identity``: of the collection's
    table, so that it does not count for another one of that name."""

    job: str
    identity: str | None
    attributes: Metadata


def created_of(id: str) -> int:
    """When the file ``id`` was uploaded, in seconds since 1970."""
    return int(id[5:17], 16) // 1000


def is_upload(id: str) -> bool:
    """Whether ``id`` is one of an uploaded file, be it there or not."""
    return _ID.fullmatch(id) is not None


def upload_of(uri: str) -> str | None:
    """Id of the uploaded file that a document of this ``uri`` came out of; None: it came otherwise."""
    found = _URI.fullmatch(uri)
    return found and found["id"]


def name_of(uri: str) -> str:
    """What the file is called that a document of this ``uri`` came out of."""
    found = _URI.fullmatch(uri)
    own = INTO.split(found["name"] if found else uri, maxsplit=1)[0]
    return unquote(own.rstrip("/").rpartition("/")[2]) or uri


class Uploads:
    """Those of a data directory; any process and thread may use it."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.data_dir / f".{FOLDER}"
        self._most = settings.uploads_mb * 1_000_000
        self._is_durable = settings.durability == "fsync"

    def add(self, name: str, purpose: str, data: bytes) -> Upload:
        """Keeps a file; it is on the disk when this returns.

        Raises:
            StorageFailure: there is no room for it, or the data directory cannot be written.
        """
        held = sum(upload.bytes for upload in self.all())
        if held + len(data) > self._most:
            raise StorageFailure(
                f"{name} cannot be kept: the uploaded files take {held:,} bytes, and {self._most:,} is all they "
                "may take together (uploads_mb). Delete some; that takes them out of vector stores, too."
            )
        id = f"file-{time.time_ns() // 1_000_000:012x}{uuid.uuid4().hex[:12]}"
        name = without_surrogates(name).replace("\0", "").replace("\\", "/").rpartition("/")[2].strip() or "unnamed"
        staged = self._folder / f".{id}.tmp"
        with writing(self._folder):
            self._sweep()
            try:
                self._folder.mkdir(exist_ok=True)  # not its parents, as in jobs.py
                staged.mkdir()
                (staged / "data").write_bytes(data)
                (staged / "file.json").write_bytes(json_bytes({"name": name, "purpose": purpose}))
                if self._is_durable:
                    fsync_tree(staged)
                staged.rename(self._folder / id)
                if self._is_durable:
                    fsync_tree(self._folder / id)
                    fsync_path(self._folder.parent)  # which names this folder since the first upload
            finally:
                shutil.rmtree(staged, ignore_errors=True)
        return Upload(id, name, purpose, len(data))

    def get(self, id: str) -> Upload:
        """Raises NotFound: there is none of that id."""
        if is_upload(id):
            with suppress(FileNotFoundError):
                about = json.loads((self._folder / id / "file.json").read_bytes())
                return Upload(id, about["name"], about["purpose"], (self._folder / id / "data").stat().st_size)
        raise NotFound(f"There is no file {id!r}. A file's id comes with the answer to its upload.")

    def __contains__(self, id: str) -> bool:
        return is_upload(id) and (self._folder / id / "file.json").exists()

    def data(self, id: str) -> bytes:
        """Raises NotFound: there is none of that id."""
        self.get(id)
        try:
            return (self._folder / id / "data").read_bytes()
        except FileNotFoundError:
            raise NotFound(f"The file {id!r} was deleted just now.") from None

    def source(self, upload: Upload, attributes: Metadata) -> Source:
        """As an input of a collection. Raises NotFound: it was deleted."""
        return Source(upload.uri, upload.name, self.data(upload.id), attributes)

    def all(self) -> list[Upload]:
        """In the order in which they came."""
        found = []
        for folder in sorted(self._folder.glob("file-*")):
            with suppress(NotFound):
                found.append(self.get(folder.name))
        return found

    def remove(self, id: str) -> None:
        """Raises NotFound: there is none of that id."""
        gone = self._folder / f".{id}.{uuid.uuid4().hex}.deleted"
        self.get(id)
        with writing(self._folder):
            try:
                (self._folder / id).rename(gone)
            except FileNotFoundError:
                raise NotFound(f"The file {id!r} was deleted just now.") from None
            shutil.rmtree(gone, ignore_errors=True)

    def _sweep(self) -> None:
        """Removes what killed processes left."""
        for left in self._folder.glob(".*"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _SAFE_AGE:
                    shutil.rmtree(left, ignore_errors=True)

    # -- on their way into a collection ------------------------------------------------------------------------------

    def attach(self, collection: str, ids: Iterable[str], attachment: dict[str, Attachment]) -> None:
        """Notes, by file, how they come into ``collection``. Raises StorageFailure."""
        folder = self._folder / _JOBS / collection
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for id in ids:
                temporary = folder / f".{id}.{uuid.uuid4().hex}.tmp"
                temporary.write_bytes(json_bytes(asdict(attachment[id])))
                temporary.replace(folder / f"{id}.json")

    def attached(self, collection: str, identity: str | None) -> dict[str, Attachment]:
        """By file, what is noted of the collection with that table."""
        ids = sorted(file.stem for file in (self._folder / _JOBS / collection).glob("file-*.json"))
        noted = {id: self.attachment(collection, identity, id) for id in ids}
        return {id: attachment for id, attachment in noted.items() if attachment is not None}

    def attachment(self, collection: str, identity: str | None, id: str) -> Attachment | None:
        """What is noted of that file, as :meth:`attached` tells it."""
        if not is_upload(id):
            return None
        file = self._folder / _JOBS / collection / f"{id}.json"
        try:
            attachment = Attachment(**_read(file))
        except FileNotFoundError:
            return None
        if attachment.identity == identity:
            return attachment
        file.unlink(missing_ok=True)
        return None

    def detach(self, collection: str, ids: Iterable[str]) -> None:
        """What is noted of these counts no more. Documents that came otherwise may be among them: nothing is ever noted
        of those, and what their ids spell is not a place to look for it."""
        for id in filter(is_upload, ids):
            (self._folder / _JOBS / collection / f"{id}.json").unlink(missing_ok=True)

    def detach_all(self, collection: str) -> None:
        """The collection is gone."""
        shutil.rmtree(self._folder / _JOBS / collection, ignore_errors=True)


def _read(file: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(file.read_bytes())
    return value
