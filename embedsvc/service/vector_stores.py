"""Collections as OpenAI's vector stores, and their documents as files: what is told about them, and what is done.

A vector store is a collection. Its files are the uploaded ones, each with all documents that came out of it, and
documents that came otherwise, each under its own id. All of that is read off the collection; what is not in it yet, or
never will be, off the job that was to put it in (:mod:`.uploads`).
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from embedsvc.collection import Collection, collection_names, delete_collection
from embedsvc.describe import bytes_below, read_document
from embedsvc.editing import set_metadata
from embedsvc.errors import Conflict, EmbedsvcError, NotFound
from embedsvc.ingest import chunking_for
from embedsvc.names import NAME
from embedsvc.opened import Opened
from embedsvc.outcomes import ACTIVE, INTO
from embedsvc.readers import FieldChoice
from embedsvc.records import Chunking, Metadata
from embedsvc.search.hits import Hit
from embedsvc.service import schemas_openai as schemas
from embedsvc.service.jobs import MAX_WAITING_BYTES
from embedsvc.service.problems import Refused
from embedsvc.service.state import State
from embedsvc.service.uploads import FOLDER, Attachment, Upload, Uploads, created_of, is_upload, upload_of
from embedsvc.storage import Store
from embedsvc.storage.store import Known

log = logging.getLogger(__name__)

Status = Literal["in_progress", "completed", "failed"]

_CODES = {
    "unsupported": "unsupported_file",
    "binary": "unsupported_file",
    "crashed": "server_error",
    "timeout": "server_error",
    "out_of_memory": "server_error",
}
"""What OpenAI calls the reasons that reports begin with."""
_BATCH = "vsfb_"
"""Behind it, a batch's id is that of its job."""
_chunking = threading.Lock()
"""Held while an empty collection is made anew with another chunking, and files are attached."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What is known of a job. ``lines``: by file, what became of its documents so far."""

    status: str
    error: str | None
    total: int
    created: int
    lines: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    def fate(self, id: str) -> tuple[Status, dict[str, str] | None]:
        """What became of that file; and why it failed, as OpenAI tells that."""
        lines = self.lines.get(id, ())
        if self.is_active and all(INTO.search(line["uri"]) for line in lines):
            return "in_progress", None  # of a file with many documents, more may come
        faults = [line["reason"] for line in lines if line["status"] in ("quarantined", "empty")]
        if len(faults) < len(lines):
            return "completed", None
        if not faults:
            return "failed", {"code": "server_error", "message": self.error or "It was not put in. Send it again."}
        return "failed", {"code": _CODES.get(faults[0].partition(":")[0], "invalid_file"), "message": faults[0]}


@dataclass(frozen=True, slots=True)
class File:
    """A file of a vector store. ``is_upload``: or else a document that came otherwise, whatever its id looks like.
    ``documents``: ids, of those that are there. ``error``: why it failed. ``attributes``: that it was to get, where it
    is not there."""

    id: str
    created: int
    is_upload: bool
    documents: tuple[str, ...] = ()
    status: Status = "completed"
    error: dict[str, str] | None = None
    attributes: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """What is asked for of a list, in the ``order`` of when things were made (``asc`` or ``desc``): at most ``limit``,
    behind the id ``after``, in front of the id ``before``."""

    order: str
    after: str | None
    before: str | None
    limit: int

    @property
    def ends(self) -> bool:
        """Whether it is the last of what is in front of ``before``, not the first behind something."""
        return self.before is not None and self.after is None


# -- vector stores ---------------------------------------------------------------------------------------------------


def create(state: State, asked: schemas.VectorStoreRequest) -> dict[str, Any]:
    """Makes a collection, and attaches the files that are asked for.

    Raises:
        NotFound: one of the files is not there. As :meth:`Collections.make`.
    """
    uploads = Uploads(state.settings)
    files = [uploads.get(id) for id in asked.file_ids]
    settings = _chunk_settings(state, asked.chunking_strategy)
    name = asked.name or ""
    is_free = NAME.fullmatch(name) and name not in collection_names(state.settings.data_dir)
    if not is_free or not state.collections.make(name, settings):
        name = f"vs_{time.time_ns() // 1_000_000:012x}{uuid.uuid4().hex[:12]}"
        state.collections.make(name, settings)
    about = {"name": asked.name or "", "description": asked.description, "metadata": asked.metadata}
    _tell(state.collections.open(name), about if name != asked.name else {**about, "name": None})
    if files:
        attach(state, name, [(file, {}) for file in files], None)
    return show(state, name)


def _chunk_settings(state: State, asked: schemas.Chunking | None) -> dict[str, Any]:
    if not isinstance(asked, schemas.StaticChunking):
        return {}
    chunking = _effective(state, asked, state.encoders.load(state.settings))
    return {"chunk_tokens": chunking.window, "overlap": chunking.overlap}


def _effective(state: State, asked: schemas.StaticChunking, encoder: Any) -> Chunking:
    """``asked`` are the most tokens of a passage: where the model's window is smaller, that is what counts."""
    sizes = asked.static
    settings = replace(
        state.settings, chunk_tokens=sizes.max_chunk_size_tokens, overlap=sizes.chunk_overlap_tokens, finer_tokens=0
    )
    return chunking_for(encoder, settings, frozenset())


def update(state: State, name: str, asked: schemas.VectorStoreUpdate) -> dict[str, Any]:
    """Keeps another name or other metadata; what is not sent stays. Raises NotFound, Locked."""
    changed = asked.model_dump(exclude_unset=True, include={"name", "metadata"})
    state.collections.call(name, lambda opened: _tell(opened, {**opened.collection.store().about, **changed}))
    return show(state, name)


def _tell(opened: Opened, about: Mapping[str, Any]) -> None:
    kept = {key: value for key, value in about.items() if value is not None}
    if kept != opened.collection.store().about:
        with opened.collection.writer(fold=False, maintain="never") as writer:
            writer.tell(kept)


def delete(state: State, name: str) -> None:
    """Raises NotFound; Conflict: something writes to it."""
    delete_collection(name, state.settings)
    state.collections.forget(name)
    Uploads(state.settings).detach_all(name)


def show(state: State, name: str) -> dict[str, Any]:
    """What OpenAI tells of a vector store. Raises NotFound, DamagedCollection."""
    return state.collections.steadily(name, lambda: _shown(state, state.collections.peek(name).store()))


def _shown(state: State, store: Store) -> dict[str, Any]:
    name, about = store.path.parent.name, store.about
    store, files = _uploaded(state, name, store)
    statuses = [file.status for file in files.values()]
    otherwise = store.count_documents() - sum(len(file.documents) for file in files.values())
    counts = {
        "in_progress": statuses.count("in_progress"),
        "completed": otherwise + statuses.count("completed"),
        "failed": statuses.count("failed"),
        "cancelled": 0,
    }
    return {
        "id": name,
        "object": "vector_store",
        "created_at": store.created,
        "name": about.get("name", name),
        "description": about.get("description"),
        "usage_bytes": bytes_below(store.path.parent),
        "file_counts": {**counts, "total": sum(counts.values())},
        "status": "in_progress" if counts["in_progress"] else "completed",
        "expires_after": None,
        "expires_at": None,
        "last_active_at": int((store.path / "_versions").stat().st_mtime),
        "metadata": about.get("metadata", {}),
    }


def list_all(state: State, part: Part) -> dict[str, Any]:
    """A page of all collections that can be read, in the order in which they were made."""
    created: dict[str, int] = {}
    for name in collection_names(state.settings.data_dir):
        with _left_out(name):
            created[name] = state.collections.peek(name).store().created

    def shown(names: Sequence[str]) -> list[dict[str, Any]]:
        found = []
        for name in names:
            with _left_out(name):
                found.append(show(state, name))
        return found

    return page(sorted(created, key=lambda name: (created[name], name)), part, shown)


@contextmanager
def _left_out(name: str) -> Iterator[None]:
    """Passes over a collection that cannot be read, or was deleted just now."""
    try:
        yield
    except NotFound:
        pass
    except EmbedsvcError as error:
        log.warning("the vector store %s is left out of the list: %s", name, error)


# -- their files -----------------------------------------------------------------------------------------------------


def attach(
    state: State,
    name: str,
    files: Sequence[tuple[Upload, Metadata]],
    chunking: schemas.Chunking | None,
) -> str:
    """Has a job put ``files`` in, each with its attributes; the job's id.

    Raises:
        Refused: the collection's documents are cut otherwise than asked for. Busy: too much is waiting.
        NotFound: there is no such collection, or a file was deleted just now.
    """
    uploads = Uploads(state.settings)
    with _chunking:
        if isinstance(chunking, schemas.StaticChunking):
            _agree_on_chunking(state, name, chunking)
        identity = state.collections.open(name).collection.store().identity
        size = sum(file.bytes for file, _ in files)
        if size > MAX_WAITING_BYTES:  # before they are read into memory; waiting would not help
            most = MAX_WAITING_BYTES // 1_000_000
            raise Refused(
                f"These {len(files)} files have {size // 1_000_000:,} MB together; put in at most {most:,} MB at once.",
                param="file_ids",
            )
        sources = [uploads.source(file, attributes) for file, attributes in files]
        # Whoever attaches a file wants it there, whatever else says the same.
        job: str = state.jobs.submit(name, sources, FieldChoice(), size, "ignore")["job"]
        attachments = {file.id: Attachment(job, identity, attributes) for file, attributes in files}
        uploads.attach(name, attachments, attachments)
    return job


def _agree_on_chunking(state: State, name: str, asked: schemas.StaticChunking) -> None:
    """A collection has one chunking, which it got when it was made; one that never held a document, as far as can be
    told by what could be put back, may still get another."""
    opened = state.collections.open(name)
    store, there = opened.collection.store(), opened.collection.chunking
    wanted = _effective(state, asked, opened.encoder)
    if (wanted.window, wanted.overlap) == (there.window, there.overlap):
        return

    def check() -> None:
        versions = state.collections.peek(name).store().versions()
        if any(each.passages for each in versions) or Uploads(state.settings).attached(name, store.identity):
            raise Refused(
                f"The documents of {name!r} are cut into passages of {there.window} tokens that share up to "
                f"{there.overlap}, and stay so. Leave chunking_strategy out, or make another vector store.",
                param="chunking_strategy",
            )

    check()  # without waiting for who writes
    about = store.about
    delete_collection(name, state.settings, check)
    state.collections.forget(name)
    finer = there.finer if there.finer < wanted.window else 0
    made = replace(there, window=wanted.window, overlap=wanted.overlap, finer=finer)
    Collection.create(name, store.contract, made, state.settings, store.created)
    _tell(state.collections.open(name), about)


def show_file(state: State, name: str, id: str) -> dict[str, Any]:
    """What OpenAI tells of a file of a vector store. Raises NotFound: it has none of that id."""
    return state.collections.call(name, lambda opened: _shown_file(state, opened, id))


def _shown_file(state: State, opened: Opened, id: str) -> dict[str, Any]:
    store, file = _file(state, opened, id)
    [told] = _told(state, opened, store, [file])
    return told


def list_files(state: State, name: str, status: Status | None, part: Part) -> dict[str, Any]:
    """A page of all files, or of those of one status, in the order in which they came."""

    def work(opened: Opened) -> dict[str, Any]:
        store, files = _uploaded(state, name, opened.collection.store())
        near = _documents_near(store, files, part) if status in (None, "completed") else []
        files |= {id: File(id, store.created, False, (id,)) for id in near}
        return _page_of_files(
            state, opened, store, [file for file in files.values() if status in (None, file.status)], part
        )

    return state.collections.call(name, work)


def _page_of_files(state: State, opened: Opened, store: Store, files: Sequence[File], part: Part) -> dict[str, Any]:
    by_id = {file.id: file for file in sorted(files, key=lambda file: (file.created, file.id))}
    return page(list(by_id), part, lambda ids: _told(state, opened, store, [by_id[id] for id in ids]))


def _documents_near(store: Store, uploaded: Mapping[str, File], part: Part) -> list[str]:
    """Ids of the documents that came otherwise, each a file that is as old as the collection, as many as may be in that
    part of the list, and those that it lies between. The others are not read."""
    least, most = (part.after, part.before) if part.order == "asc" else (part.before, part.after)
    created = store.created

    def when(id: str) -> int:
        return uploaded[id].created if id in uploaded else created

    if (least is not None and when(least) > created) or (most is not None and when(most) < created):
        return []
    near = store.document_ids(
        FOLDER,
        part.limit + 2,
        least=least if least is not None and when(least) == created else None,
        most=most if most is not None and when(most) == created else None,
        descending=(part.order == "desc") != part.ends,
    )
    ends = store.known_among([id for id in (least, most) if id is not None], ())
    return sorted({*near, *ends} - uploaded.keys())


def update_file(state: State, name: str, id: str, attributes: Metadata) -> dict[str, Any]:
    """Puts ``attributes`` in the place of those that the file has; metadata that is none (lists, objects) stays.

    Raises:
        NotFound: there is none of that id. Conflict: it is still being read. Locked: another process writes.
    """

    def work(opened: Opened) -> dict[str, Any]:
        _, file = _settled(state, opened, id)
        if file.documents:
            set_metadata(
                opened.collection,
                lambda own: {**_not_attributes(own), **attributes},
                file.documents,
                maintain="seldom",
            )
        return _shown_file(state, opened, id)

    return state.collections.call(name, work)


def remove_file(state: State, name: str, id: str) -> None:
    """Takes a file out of a vector store, not out of the uploads; raises as :func:`update_file`."""

    def work(opened: Opened) -> None:
        _, file = _settled(state, opened, id)
        if file.documents:
            with opened.collection.writer(fold=False, maintain="seldom") as writer:
                writer.replace((), file.documents)
        Uploads(state.settings).detach(name, [id])

    state.collections.call(name, work)


def file_texts(state: State, name: str, id: str) -> list[str]:
    """The text of each of the file's documents. Raises NotFound: there is none of that id, or no text of it."""

    def work(opened: Opened) -> list[str]:
        store, file = _file(state, opened, id)
        if not file.documents:
            raise NotFound(f"The file {id!r} of {name!r} is {file.status}: there is no text of it.")
        return [read_document(store, document).text for document in file.documents]

    return state.collections.call(name, work)


def files_of(state: State, store: Store, hits: Sequence[Hit]) -> list[str]:
    """Of each hit the id of its file. What a document's uri says is believed where there is such an upload: to ask
    ``store`` what it came out of takes .15 s of half a million documents."""
    uploads = Uploads(state.settings)
    said = {hit.document_id: upload_of(hit.uri) for hit in hits}
    doubtful = [document for document, upload in said.items() if upload and upload not in uploads]
    for document, known in (store.known_among(doubtful, ()) if doubtful else {}).items():
        said[document] = upload_of(known.source or "")
    return [said[hit.document_id] or hit.document_id for hit in hits]


def delete_upload(state: State, id: str) -> None:
    """Deletes an uploaded file, and what came of it in every collection.

    Raises:
        NotFound: there is none. Conflict: it is still being put into one. Locked: another process writes.
    """
    uploads = Uploads(state.settings)
    uploads.get(id)
    for name in collection_names(state.settings.data_dir):
        try:
            store = state.collections.peek(name).store()
        except EmbedsvcError:  # it cannot be read, so nothing can be taken out of it
            continue
        if uploads.attachment(name, store.identity, id) or store.known_below([f"{FOLDER}/{id}"]):
            with suppress(NotFound):  # its documents were deleted otherwise, or all of the collection just now
                remove_file(state, name, id)
            uploads.detach(name, [id])
    uploads.remove(id)


def _settled(state: State, opened: Opened, id: str) -> tuple[Store, File]:
    store, file = _file(state, opened, id)
    if file.status == "in_progress":
        raise Conflict(f"The file {id!r} is still being read into {opened.collection.name!r}. Wait until it is done.")
    return store, file


def _file(state: State, opened: Opened, id: str) -> tuple[Store, File]:
    """The file, and the store that it was seen in. Raises NotFound: there is none of that id."""
    name = opened.collection.name
    # What is noted is read before the collection, so that what is done in between is seen to be there.
    attachment = Uploads(state.settings).attachment(name, opened.collection.store().identity, id)
    work = None if attachment is None else _work_of(state, attachment.job, id)
    store = opened.collection.store()
    came = _came_of(store, store.known_below([f"{FOLDER}/{id}"])) if is_upload(id) else {}
    file = _standing(id, came.get(id), attachment, work)
    if file is not None:
        return store, file
    if store.known_among([id], ()):
        return store, File(id, store.created, False, (id,))
    if attachment is None or work is None:
        raise NotFound(f"{name!r} has no file {id!r}. List its files to see the ids there are.")
    raise NotFound(f"The file {id!r} was taken out of {name!r}.")


def _uploaded(state: State, name: str, store: Store) -> tuple[Store, dict[str, File]]:
    """By id, the files that were uploaded, those too that are not in the collection, not yet or for a reason; and the
    store that they were seen in. What is noted of files that are done with is forgotten."""
    uploads = Uploads(state.settings)
    attached = uploads.attached(name, store.identity)  # before the collection is read, as in _file
    works = {job: _work_of(state, job) for job in {each.job for each in attached.values()}}
    store = store.latest()
    files = _came_of(store, store.known_below([FOLDER]))
    for id, attachment in attached.items():
        work = works[attachment.job]
        file = _standing(id, files.get(id), attachment, work)
        if file is not None:
            files[id] = file
        if work is None or (not work.is_active and work.fate(id)[0] == "completed"):
            uploads.detach(name, [id])
    return store, files


def _came_of(store: Store, known: Mapping[str, Known]) -> dict[str, File]:
    """By id, the files that documents from below :data:`FOLDER` came out of; such a document itself where that is no
    upload."""
    documents: dict[str, list[str]] = {}
    for _, document, upload in sorted((each.uri, id, upload_of(each.source or "")) for id, each in known.items()):
        documents.setdefault(upload or document, []).append(document)
    uploaded = {upload for each in known.values() if (upload := upload_of(each.source or ""))}
    return {
        id: File(id, created_of(id) if id in uploaded else store.created, id in uploaded, tuple(own))
        for id, own in documents.items()
    }


def _standing(id: str, there: File | None, attachment: Attachment | None, work: _Work | None) -> File | None:
    """How it is with the upload ``id``, of which ``there`` is in the collection, by what is noted of it and the job
    that puts it in. None: it is not there, and nothing is on the way."""
    if attachment is None or work is None:
        return there
    status, error = work.fate(id)
    if there is not None:  # one that failed to be put in again is there as it was before
        return replace(there, status="in_progress") if status == "in_progress" else there
    if status == "completed" and not work.is_active:
        return None
    # The job is not done as long as its other files are not.
    status = "in_progress" if status == "completed" else status
    return File(id, created_of(id), True, (), status, error, attachment.attributes)


def _told(state: State, opened: Opened, store: Store, files: Sequence[File]) -> list[dict[str, Any]]:
    chunking = opened.collection.chunking
    own = store.metadata_of([file.documents[0] for file in files if file.documents])
    outlines = store.outlines([id for file in files if not file.is_upload for id in file.documents])
    lengths = {id: places[-1].end for id, places in outlines.items()}
    return [
        {
            "id": file.id,
            "object": "vector_store.file",
            "created_at": file.created,
            "vector_store_id": opened.collection.name,
            "status": file.status,
            "usage_bytes": _bytes(state, file.id) if file.is_upload else sum(map(lengths.__getitem__, file.documents)),
            "last_error": file.error,
            "attributes": attributes(own[file.documents[0]]) if file.documents else file.attributes,
            "chunking_strategy": {
                "type": "static",
                "static": {"max_chunk_size_tokens": chunking.window, "chunk_overlap_tokens": chunking.overlap},
            },
        }
        for file in files
    ]


def _bytes(state: State, upload: str) -> int:
    try:
        return Uploads(state.settings).get(upload).bytes
    except NotFound:
        return 0


def attributes(metadata: Metadata) -> dict[str, Any]:
    """What OpenAI's attributes can hold of a document's metadata."""
    return {key: value for key, value in metadata.items() if isinstance(value, str | int | float)}


def _not_attributes(metadata: Metadata) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if not isinstance(value, str | int | float)}


# -- batches ---------------------------------------------------------------------------------------------------------


def show_batch(state: State, name: str, id: str) -> dict[str, Any]:
    """What OpenAI tells of a batch of files. Raises NotFound: there is none, or no job tells of it any more."""
    work = _batch(state, name, id)
    fates = [work.fate(file)[0] for file in work.lines]
    left = work.total - len(fates)
    counts = {
        "in_progress": fates.count("in_progress") + (left if work.is_active else 0),
        "completed": fates.count("completed"),
        "failed": fates.count("failed") + (0 if work.is_active else left),
        "cancelled": 0,
    }
    return {
        "id": id,
        "object": "vector_store.files_batch",
        "created_at": work.created,
        "vector_store_id": name,
        # By the counts, not by the job: what it still does after its last file is upkeep that no client waits for.
        "status": "in_progress" if counts["in_progress"] else "failed" if left and not work.is_active else "completed",
        "file_counts": {**counts, "total": work.total},
    }


def list_batch(state: State, name: str, id: str, status: Status | None, part: Part) -> dict[str, Any]:
    """A page of the files of a batch, as :func:`list_files`."""

    def work(opened: Opened) -> dict[str, Any]:
        members = set(_batch(state, name, id).lines)
        store = opened.collection.store()
        attached = Uploads(state.settings).attached(name, store.identity)
        members |= {file for file, attachment in attached.items() if batch_id(attachment.job) == id}
        store, files = _uploaded(state, name, store)
        asked = [file for file in files.values() if file.id in members and status in (None, file.status)]
        return _page_of_files(state, opened, store, asked, part)

    return state.collections.call(name, work)


def batch_id(job: str) -> str:
    return f"{_BATCH}{job}"


def _batch(state: State, name: str, id: str) -> _Work:
    job = id.removeprefix(_BATCH)
    if id.startswith(_BATCH):
        try:
            if state.jobs.get(job)["collection"] == name and (work := _work_of(state, job)):
                return work
        except NotFound:
            pass
    raise NotFound(f"{name!r} has no batch {id!r}. The newest 1,000 are kept.")


def _work_of(state: State, job: str, file: str = "") -> _Work | None:
    """What is known of a job, or of what it does with one ``file``: that is asked again and again while it goes on, and
    reports are long. None: it was so long ago that nothing is told of it."""
    try:
        told = state.jobs.get(job)
    except NotFound:
        return None
    lines: dict[str, list[dict[str, Any]]] = {}
    try:
        for line in (json.loads(line) for line in state.jobs.report(job).splitlines() if file.encode() in line):
            lines.setdefault(upload_of(line["uri"]) or "", []).append(line)
    except (NotFound, ValueError):  # there is none yet, or its last line is being written
        pass
    created = int(datetime.fromisoformat(told["created"]).timestamp())
    return _Work(told["status"], told["error"], told["total"], created, lines)


# -- pages of lists --------------------------------------------------------------------------------------------------


def page(ids: Sequence[str], part: Part, show: Callable[[Sequence[str]], list[dict[str, Any]]]) -> dict[str, Any]:
    """A page of what has these ``ids``, oldest first. ``show`` tells of some; it may leave out what is gone meanwhile,
    in the place of which more are told of."""
    if part.order == "desc":
        ids = ids[::-1]
    start = _place(ids, part.after, "after") + 1 if part.after is not None else 0
    end = _place(ids, part.before, "before") if part.before is not None else len(ids)
    if part.ends:
        start = max(0, end - part.limit)
    left = ids[start:end]
    data: list[dict[str, Any]] = []
    while left and (room := part.limit - len(data)):
        data += show(left[:room])
        left = left[room:]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": bool(left),
    }


def _place(ids: Sequence[str], id: str, param: str) -> int:
    try:
        return ids.index(id)
    except ValueError:
        raise Refused(f"{param}: there is no {id!r} in the list (any more).", param=param) from None
