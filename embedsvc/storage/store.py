"""One collection's passages in a Lance table, seen at one version.

A :class:`Store` is a value: it reads the version it was opened at, and every write returns a new Store at the new
version. Only one process may write at a time; the collection's lock sees to that.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lance.dataset import ColumnOrdering
from lance.fragment import write_fragments
from lance.optimize import Compaction

from embedsvc.errors import BadFilter, Conflict, DamagedCollection, NotFound, StorageFailure, UsageError
from embedsvc.records import (
    Chunking,
    Contract,
    Document,
    Fusion,
    Language,
    Metadata,
    Passage,
    StoredDocument,
    Tuned,
    hash_with,
)
from embedsvc.storage import postings
from embedsvc.storage.durability import TAGS, DurableCommits, fsync_tree
from embedsvc.storage.filters import compile_filter, problem_of
from embedsvc.storage.words import matching, phrases
from embedsvc.syncing import fsync_path

log = logging.getLogger(__name__)

TABLE = "passages.lance"
FORMAT = "2"
"""Version of the table layout, kept in the table's metadata."""
_CREATED = "embedsvc.created"
"""Key of when the collection was made, in seconds since 1970."""
_IDENTITY = "embedsvc.identity"
"""Key of a random id that tells a table from another one made later under its name."""
KEYS = ("embedsvc.format", "embedsvc.contract", "embedsvc.chunking")
TUNED = "embedsvc.tuned"
"""Key of what the collection was found to be searched best by, where that was kept."""
_FUSION = "embedsvc.fusion"
"""Key of the fusion alone, in tables tuned before there was more to keep."""
ABOUT = "embedsvc.about"
"""Key of what people say of the collection: a JSON object."""
_MANY_FRAGMENTS = 64
_TAIL_SHARE = 0.1
"""Fragments are folded together once all but the largest hold this share of the rows. Reading 16 passages took 4.7 ms
from 18 fragments, 1.5 ms from one; and no row is rewritten more than about ten times as a collection grows."""
_KEEP_VERSIONS = timedelta(hours=1)
_VECTOR_INDEX = "vectors"
"""Name of Lance's own vector index, which only collections past memory have."""
_READ_AHEAD = 32_000_000
"""Bytes that are read before they are asked for; Lance's own bound is 2 GB, which is a whole collection in memory: to
put the fragments of 80,000 passages together took 200 MB, so 87. That takes no bound but this one of the environment,
which is read when Lance reads first."""
os.environ.setdefault("LANCE_DEFAULT_IO_BUFFER_SIZE", str(_READ_AHEAD))
_METADATA = 256_000_000
"""Bytes that Lance may keep of what it read about files. What is about files that are gone goes only where there is no
room, or with :meth:`Store.afresh`: each commit leaves 150 KB of it. Ten million rows need a third."""
_PASSING = 64_000_000
"""Bytes that it may keep of indexes while it writes them: nobody reads those again."""
_KEPT = "vector-index"
"""Lance's tags on the versions that saved vector indexes stand at: what came since is told by the difference to one."""
_SNAPSHOT = "snapshot-"
"""Lance's tags on the versions that people want kept, before the label."""
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""What a snapshot may be called."""
_MANY_DOCUMENTS = 10_000
"""Where more than these are put back, the whole table is: a list of so many ids takes Lance longer."""

_TEXT_HASH = pa.field("text_hash", pa.int64(), nullable=False)
# Where page or heading change within a passage, behind its start. Null: of a passage that was stored without.
_TURNS = pa.field(
    "turns",
    pa.list_(
        pa.struct([pa.field("start", pa.int64()), pa.field("page", pa.int32()), pa.field("heading", pa.string())])
    ),
)

RowIds = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def passage_schema(dimension: int, metadata: Mapping[str, str] | None = None, *, finer: bool = False) -> pa.Schema:
    """Columns of the table; ``metadata`` is the table's own (see ``KEYS``). ``finer``: passages may have more vectors
    than their own (``Chunking.finer``); tables without such are spared the two columns."""
    vector = pa.list_(pa.float32(), dimension)
    more = [
        # All vectors of the passage, counted: that can be read without reading them.
        pa.field("vectors", pa.int32(), nullable=False),
        pa.field("finer", pa.list_(vector), nullable=False),
    ]
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("document_id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("source", pa.string()),
            pa.field("title", pa.string(), nullable=False),
            pa.field("document_hash", pa.string(), nullable=False),
            pa.field("ordinal", pa.int32(), nullable=False),
            pa.field("start", pa.int64(), nullable=False),
            pa.field("end", pa.int64(), nullable=False),
            pa.field("tokens", pa.int32(), nullable=False),
            pa.field("page", pa.int32()),
            pa.field("heading", pa.string()),
            _TURNS,
            # White space between the previous passage's end and this one's start: with it the passages of a
            # document give back its text to the letter (but for white space at its very end).
            pa.field("gap", pa.string(), nullable=False),
            # Null where there is none: Lance reads a row of a column in which all values are equal, but not null, in
            # 4 ms instead of .25 (1.2 million rows), for it unfolds all of them.
            pa.field("metadata", pa.json_()),
            pa.field("text", pa.string(), nullable=False),
            # By it is found what was encoded before, in whichever document.
            _TEXT_HASH,
            pa.field("vector", vector, nullable=False),
            *(more if finer else ()),
        ],
        metadata=dict(metadata) if metadata else None,
    )


@dataclass(frozen=True, slots=True)
class StoredPassage:
    """A passage as the store gives it back. ``row_id`` is Lance's stable row id, the id the vector index uses."""

    row_id: int
    id: str
    document_id: str
    uri: str
    title: str
    start: int
    end: int
    page: int | None
    heading: str | None
    metadata: Metadata
    text: str


class Turn(NamedTuple):
    """From the character ``start`` of the document on, another page or heading holds."""

    start: int
    page: int | None
    heading: str | None


def turn_at(passage: StoredPassage, turns: Sequence[Turn] | None, start: int) -> Turn:
    """The page and heading that hold at the character ``start`` of a ``passage`` with these ``turns``."""
    place = Turn(passage.start, passage.page, passage.heading)
    for turn in turns or ():
        if turn.start <= start:
            place = turn
    return place


@dataclass(frozen=True, slots=True)
class PassagePlace:
    """Where a passage stands in its document, without its text."""

    row_id: int
    id: str
    start: int
    end: int
    tokens: int
    page: int | None
    heading: str | None


@dataclass(frozen=True, slots=True)
class DocumentPart:
    """``text`` is the document's from character ``start``; ``length``: all characters of the document. ``passages``
    are those that share a character with it; ``any``: one of the document's, for what they all have in common."""

    text: str
    start: int
    length: int
    any: StoredPassage
    passages: tuple[StoredPassage, ...]


@dataclass(frozen=True, slots=True)
class WholeDocument:
    """A document as its passages give it back, in order, one at least. ``text``: without white space at its end.
    ``turns``: where page or heading change within passages, as far as that is stored."""

    text: str
    passages: tuple[StoredPassage, ...]
    source: str | None
    hash: str
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version that can still be read; ``labels`` are those of its snapshots."""

    version: int
    created: datetime
    passages: int
    labels: tuple[str, ...]


class Known(NamedTuple):
    """What is compared to tell whether a document has changed, and which input it came from (see ``Document``)."""

    uri: str
    source: str | None
    hash: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to happen to a vector index to go from one store version to the next.

    ``row_ids`` (n,) with ``vectors`` (n, dimension) are new or replaced rows, each as often as it has vectors;
    ``deleted`` are gone.
    """

    row_ids: RowIds
    vectors: Floats
    deleted: RowIds


Embedded = tuple[str, str]
"""What a passage's vectors are of: its context and its text."""


def embedded(document: Document, passage: Passage) -> Embedded:
    return passage.context, document.text[passage.start : passage.end]


def embedded_hash(what: Embedded) -> int:
    """64 bits of its BLAKE2b; without context that of the text, as in tables from before there were contexts."""
    context, text = what
    said = f"{context}\0{text}" if context else text
    return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "little", signed=True)


ADDED = frozenset({_TURNS.name, _TEXT_HASH.name})
"""Columns that what was stored or exported before they came does not have: these two put them in."""


def with_turns(rows: pa.Table) -> pa.Table:
    """``rows`` with that column in its place, empty where they had none."""
    if _TURNS.name in rows.column_names:
        return rows
    at = rows.column_names.index("heading") + 1
    return rows.add_column(at, _TURNS, pa.nulls(rows.num_rows, _TURNS.type))


def with_text_hashes(rows: pa.Table) -> pa.Table:
    """``rows`` as they are written now; those that were exported, or are stored, from before lack the hashes."""
    if _TEXT_HASH.name in rows.column_names:
        return rows
    at = rows.column_names.index("text") + 1
    hashes = [embedded_hash(("", text)) for text in rows["text"].to_pylist()]
    return rows.add_column(at, _TEXT_HASH, pa.array(hashes, pa.int64()))


def with_metadata(rows: pa.Table, change: Callable[[Metadata], Metadata]) -> pa.Table:
    """``rows`` (of :meth:`Store.rows_of`) with the metadata that ``change`` makes of theirs, and so other hashes."""
    changed = [change(json.loads(value or "{}")) for value in rows["metadata"].to_pylist()]
    written = [json.dumps(dict(metadata), ensure_ascii=False) if metadata else None for metadata in changed]
    hashes = [
        hash_with(hash, {"metadata": metadata})
        for hash, metadata in zip(rows["document_hash"].to_pylist(), changed, strict=True)
    ]
    for name, column in (
        ("metadata", pa.ExtensionArray.from_storage(pa.json_(), pa.array(written, pa.string()))),
        ("document_hash", pa.array(hashes, pa.string())),
    ):
        at = rows.column_names.index(name)
        rows = rows.set_column(at, rows.schema.field(at), column)
    return with_turns(with_text_hashes(rows))


def passage_table(
    documents: Sequence[tuple[Document, Sequence[Passage], Floats]], dimension: int, *, finer: bool = False
) -> pa.Table:
    """Rows for :meth:`Store.replace`: of each document its passages and their vectors (n, dimension), of each passage
    its own and then, in a ``finer`` table, those of its sub-windows."""
    schema = passage_schema(dimension, finer=finer)
    rows: dict[str, list[Any]] = {name: [] for name in schema.names}
    counts: list[int] = []
    for document, passages, _ in documents:
        metadata = json.dumps(dict(document.metadata), ensure_ascii=False) if document.metadata else None
        end = 0
        for passage in passages:
            rows["id"].append(f"{document.id}:{passage.ordinal}")
            rows["document_id"].append(document.id)
            rows["uri"].append(document.uri)
            rows["source"].append(document.source)
            rows["title"].append(document.title)
            rows["document_hash"].append(document.hash)
            rows["ordinal"].append(passage.ordinal)
            rows["start"].append(passage.start)
            rows["end"].append(passage.end)
            rows["tokens"].append(len(passage.token_ids))
            rows["page"].append(document.page_at(passage.start))
            rows["heading"].append(document.heading_at(passage.start))
            rows["turns"].append(
                [
                    {"start": at, "page": document.page_at(at), "heading": document.heading_at(at)}
                    for at in document.turns(passage.start, passage.end)
                ]
            )
            rows["gap"].append(document.text[end : passage.start])
            rows["metadata"].append(metadata)
            what = embedded(document, passage)
            rows["text"].append(what[1])
            rows["text_hash"].append(embedded_hash(what))
            counts.append(1 + len(passage.finer))
            end = max(end, passage.end)
    vectors = np.concatenate([np.empty((0, dimension), np.float32), *(vectors for _, _, vectors in documents)])
    ends = np.cumsum([0, *counts], dtype=np.int32)
    if ends[-1] != len(vectors):
        raise ValueError(f"{len(vectors)} vectors came for {ends[-1]} windows")
    own = ends[:-1]
    columns: dict[str, pa.Array] = {
        "metadata": pa.ExtensionArray.from_storage(pa.json_(), pa.array(rows["metadata"], pa.string())),
        "vector": _vector_array(vectors[own]),
        "vectors": pa.array(counts, pa.int32()),
    }
    if finer:
        others = pa.array(ends - np.arange(len(ends), dtype=np.int32))
        columns["finer"] = pa.ListArray.from_arrays(others, _vector_array(np.delete(vectors, own, axis=0)))
    for field in schema:
        if field.name not in columns:
            columns[field.name] = pa.array(rows[field.name], field.type)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _vector_array(vectors: Floats) -> pa.FixedSizeListArray:
    """``vectors`` (n, dimension) as one column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])


def vector_count(rows: pa.Table) -> int:
    """Vectors of these passages, with those of their sub-windows."""
    return int(pc.sum(rows["vectors"]).as_py() or 0) if "vectors" in rows.column_names else rows.num_rows


_NO_SPACE = re.compile("no space left|disk quota|os error 28", re.IGNORECASE)
_NOT_WRITABLE = re.compile("permission denied|read-only file system|os error (13|30)", re.IGNORECASE)
_NOT_NOW = re.compile(r"permission denied|too many open files|input/output error|os error (5|12|13|23|24)\b", re.I)
_TORN = re.compile(r"corrupt file \S*?(?P<file>\d+\.manifest)", re.IGNORECASE)
_MOST_TORN = 1000
_COMMIT_FAILED = re.compile(r"commit handler: (?:\w+Error: )?(?:\[Errno \d+\] )?(?P<problem>.*?)(?:, src/|$)", re.S)
"""What was raised in our commit lock comes back as an error of Lance's own, of another class."""
_USERS_FAULT = re.compile("invalid user input|query execution error|feature is not implemented", re.IGNORECASE)
_RUST_PLACE = re.compile(r",?\s*/[\w./-]+\.rs:\d+:\d+")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the disk refuses, however the library words it, into StorageFailure."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        message = str(error)
        if _NO_SPACE.search(message):
            raise StorageFailure(
                f"The disk that holds {path} is full. What was there before stands; free some space and run again."
            ) from error
        if _NOT_WRITABLE.search(message):
            raise StorageFailure(
                f"{path} cannot be written. Check its permissions, or choose another place with --data-dir."
            ) from error
        if failed := _COMMIT_FAILED.search(message):
            raise StorageFailure(
                f"Writing to {path} failed: {failed['problem']}. What was told before stands. "
                "Check the disk and run again."
            ) from error
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise StorageFailure(f"Writing to {path} failed: {_RUST_PLACE.sub('', message)}.") from error
        raise


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what Lance says of files that are not what was written into DamagedCollection."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        problem = _RUST_PLACE.sub("", str(error))
        if _NOT_NOW.search(problem):
            raise StorageFailure(
                f"{path} cannot be read now: {problem}. Check permissions, disk and the limit of open files."
            ) from error
        problem = _rooted(problem, path)
        raise DamagedCollection(f"{path} cannot be read as a collection: {problem}.", _mending(path)) from error


def _rooted(problem: str, path: Path) -> str:
    """``problem`` with the slash that Lance leaves out where it names a file below ``path``."""
    bare = str(path.absolute()).removeprefix("/")
    return re.sub(rf"(?<![^\s'\"(]){re.escape(bare)}", lambda found: f"/{found[0]}", problem)


def _mending(path: Path) -> str:
    name = path.parent.name
    if name.startswith("."):  # in the making, or put aside: these commands do not take it
        return "Restore the folder from a backup, or delete it and index again."
    return (
        f"embedsvc collections verify {name} says what is damaged, embedsvc collections repair {name} which versions "
        "can be read and how to go back to one."
    )


@contextmanager
def _evaluating(condition: str) -> Iterator[None]:
    """Turns what Lance finds wrong with the user's SQL ``condition`` into BadFilter."""
    try:
        yield
    except (ValueError, OSError) as error:
        if not _USERS_FAULT.search(str(error)):
            raise
        problem = problem_of(_RUST_PLACE.sub("", str(error)))
        raise BadFilter(f"Bad filter: {problem}\n  {condition}") from None


@contextmanager
def _finding_phrases(store: Store) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "position is not found" not in str(error):
            raise
        name = store.path.parent.name
        raise UsageError(
            f"The text index of {name!r} was made before phrases could be searched for. "
            f"Build it anew, embedsvc collections compact {name}, or leave out the quotes."
        ) from None


def check_free(directory: Path) -> None:
    """Raise Conflict where ``directory`` is there already and holds something."""
    if directory.exists() and any(directory.iterdir()):
        raise _taken(directory)


def _taken(directory: Path) -> Conflict:
    return Conflict(f"{directory} exists already. Choose another name, or delete it first.")


def move_into_place(made: Path, directory: Path, durability: Literal["fsync", "os"]) -> None:
    """Gives a table's folder, finished out of sight, the name it is found by.

    Raises:
        Conflict: somebody else has made ``directory`` meanwhile.
        OSError: the place cannot be written.
    """
    try:
        made.rename(directory)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # whether or not it is still there by now
            raise _taken(directory) from error
        raise
    if durability == "fsync":
        fsync_path(directory.parent)


def _quoted(values: Sequence[str]) -> str:
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)


def _any_of(conditions: Iterable[str]) -> str:
    return f"({' OR '.join(conditions) or 'false'})"


@dataclass(frozen=True, slots=True)
class Store:
    """A Lance table of passages at one version. Make it with :meth:`create` or :meth:`open`."""

    path: Path
    dataset: lance.LanceDataset
    durability: Literal["fsync", "os"]
    contract: Contract
    chunking: Chunking
    tuned: Tuned

    # -- open and create ---------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        directory: Path,
        contract: Contract,
        chunking: Chunking,
        durability: Literal["fsync", "os"],
        created: int | None = None,
    ) -> None:
        """Makes an empty table under ``directory``; it appears whole or not at all. ``created``: when that is said to
        have been, in seconds since 1970; None: now.

        Raises:
            StorageFailure: the place cannot be written.
            Conflict: ``directory`` exists and is not empty.
        """
        values = (FORMAT, json.dumps(contract.to_dict()), json.dumps(asdict(chunking)))
        metadata = {
            **dict(zip(KEYS, values, strict=True)),
            _IDENTITY: uuid.uuid4().hex,
            _CREATED: str(int(time.time()) if created is None else created),
        }
        schema = passage_schema(contract.dimension, metadata, finer=chunking.finer > 0)
        temporary = directory.parent / f".{directory.name}.{uuid.uuid4().hex}.tmp"
        with writing(directory):
            try:
                try:
                    temporary.mkdir(parents=True)
                except FileNotFoundError as error:  # how /proc, or a mount that went away, says no
                    raise StorageFailure(
                        f"{directory.parent} cannot be made. Choose another place with --data-dir."
                    ) from error
                dataset = lance.write_dataset(
                    schema.empty_table(), str(temporary / TABLE), schema=schema, enable_stable_row_ids=True
                )
                # Made while empty, so that lexical search never meets a table without it: rows that the index
                # does not cover yet are searched all the same.
                postings.build(dataset, chunking.language)
                if durability == "fsync":
                    fsync_tree(temporary)
                move_into_place(temporary, directory, durability)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def open(
        cls,
        directory: Path,
        durability: Literal["fsync", "os"] = "fsync",
        cache_bytes: int | None = None,
        version: int | None = None,
    ) -> Store:
        """The newest version of the table under ``directory``, or the one asked for. ``cache_bytes``: memory that Lance
        may keep its indexes in; None: Lance's default.

        Raises:
            DamagedCollection: the table, or what embedsvc keeps in its metadata, is not what was written.
            StorageFailure: it may be whole, but this process may not read it (permissions, open files, memory).
        """
        path = directory / TABLE
        with _reading(path):
            dataset = lance.dataset(
                str(path), version, index_cache_size_bytes=cache_bytes, metadata_cache_size_bytes=_METADATA
            )
        try:
            metadata = {key.decode(): value.decode() for key, value in (dataset.schema.metadata or {}).items()}
            written, contract, chunking = (metadata[key] for key in KEYS)
            if written != FORMAT:
                raise DamagedCollection(
                    f"{path} has layout {written}, this embedsvc reads layout {FORMAT}: use the embedsvc that wrote it."
                )
            return cls(
                path,
                dataset,
                durability,
                Contract.from_dict(json.loads(contract)),
                Chunking(**json.loads(chunking)),
                _tuned_of(dataset),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedCollection(
                f"{path} cannot be read as a collection: it lacks {error} or has another layout.", _mending(path)
            ) from error

    @classmethod
    def copy_of_version(cls, directory: Path, made: Path, version: int) -> None:
        """Makes a table under the folder ``made`` that ends with ``version`` of the one under ``directory``, whatever
        became of later ones. It counts as another table: who has the old one open has to open it again. The files are
        the same on the disk (linked) where the file system can do that.

        Raises:
            DamagedCollection: that version cannot be read either. StorageFailure: the disk is full or not writable.
        """
        path = made / TABLE

        def later(folder: str, names: list[str]) -> set[str]:
            if Path(folder).name == "_versions":
                return {name for name in names if _manifest_version(name) not in range(1, version + 1)}
            tags = Path(folder).parent.name == TAGS
            return {name for name in names if tags and not _tagged(Path(folder, name)) <= version}

        def copied(source: str, target: str) -> str:
            try:
                os.link(source, target)
            except OSError:
                shutil.copy2(source, target)
            return target

        with writing(made):
            made.mkdir(parents=True, exist_ok=True)
            shutil.copytree(directory / TABLE, path, ignore=later, copy_function=copied)
        with _reading(path):
            dataset = lance.dataset(str(path), version)
            dataset.update_schema_metadata({_IDENTITY: uuid.uuid4().hex})
        with writing(made):
            fsync_tree(made)

    @staticmethod
    def versions_on_disk(directory: Path) -> dict[int, datetime]:
        """Versions that have a manifest, readable or not, newest first, and when that was written."""
        files = (directory / TABLE / "_versions").glob("*.manifest")
        found = {_manifest_version(file.name): datetime.fromtimestamp(file.stat().st_mtime, UTC) for file in files}
        return {version: found[version] for version in sorted(found, reverse=True) if version}

    @property
    def fusion(self) -> Fusion:
        """How hybrid search of this collection fuses, unless a query says otherwise."""
        return self.tuned.fusion or Fusion()

    @property
    def about(self) -> Metadata:
        """What people say of the collection, in their own fields."""
        kept = (self.dataset.schema.metadata or {}).get(ABOUT.encode())
        return {} if kept is None else dict(json.loads(kept))

    @property
    def created(self) -> int:
        """When the collection was made, in seconds since 1970. Of one from before that was kept, about when: Lance puts
        folders into the table's own with the first documents, and few later."""
        kept = (self.dataset.schema.metadata or {}).get(_CREATED.encode())
        return int(self.path.stat().st_mtime) if kept is None else int(kept)

    @property
    def version(self) -> int:
        return int(self.dataset.version)

    def latest(self) -> Store:
        """The newest version; this very Store when nothing was committed since."""
        with _reading(self.path):
            newest = self.dataset.latest_version
            if newest == self.version:
                return self
            newer = self._at(self.dataset.checkout_version(newest))
        if newer.identity != self.identity:
            raise Conflict(f"{self.path.parent} was deleted and made anew meanwhile. Open it again.")
        return newer

    def afresh(self) -> Store:
        """This version, without what Lance keeps of files that were read: after maintenance most of them are gone."""
        with _reading(self.path):
            session = lance.Session(_PASSING, _METADATA)  # type: ignore[attr-defined]
            return self._at(lance.dataset(str(self.path), self.version, session=session))

    @property
    def identity(self) -> str | None:
        """Differs between two tables that were made one after the other at the same place."""
        found = (self.dataset.schema.metadata or {}).get(_IDENTITY.encode())
        return None if found is None else str(found.decode())

    def _at(self, dataset: lance.LanceDataset) -> Store:
        return Store(self.path, dataset, self.durability, self.contract, self.chunking, _tuned_of(dataset))

    # -- write ---------------------------------------------------------------------------------------------------

    def replace(self, rows: pa.Table, document_ids: Sequence[str]) -> Store:
        """In ONE commit, makes ``rows`` (from :func:`passage_table`) all there is of the documents ``document_ids``.

        A document with an id in ``document_ids`` and no row is deleted, an unknown id ignored. Returns only when the
        commit is durable.

        Raises:
            StorageFailure: nothing is acknowledged; where the manifest alone could not be synced, readers may see it.
        """

        def work(dataset: lance.LanceDataset) -> None:
            if not len(rows):  # a third of the time
                dataset.delete(f"document_id IN ({_quoted(document_ids)})")
                return
            if _TEXT_HASH.name not in dataset.schema.names:
                _add_text_hashes(dataset)
            if _TURNS.name not in dataset.schema.names:
                dataset.add_columns(_TURNS)
            _insert_as_new(dataset, rows, f"document_id IN ({_quoted(document_ids)})")

        return self._committed(work)

    def emptied(self) -> Store:
        """In ONE durable commit, without a passage. To name all documents to :meth:`replace` takes Lance .4 s and 100
        MB for 60,000 of them."""

        def work(dataset: lance.LanceDataset) -> None:
            dataset.delete("true")

        return self._committed(work)

    def maintain(self, *, in_passing: bool = False) -> Store:
        """Folds new rows into the text index, and small fragments together. ``in_passing``: fragments, and segments of
        the text index, are left as they are where indexed rows went, for that takes their texts indexed anew."""

        def work(dataset: lance.LanceDataset) -> None:
            postings.extend(dataset, self.chunking.language)
            if not in_passing:
                postings.renew(dataset, self.chunking.language, _TAIL_SHARE)
            _put_together(dataset, self.chunking.language, in_passing=in_passing)
            if any(index.name == _VECTOR_INDEX for index in dataset.describe_indices()):
                dataset.optimize.optimize_indices(index_names=[_VECTOR_INDEX])

        return self._committed(work, apart=True)

    def compacted(self) -> Store:
        """Rewrites whatever holds a row that went, so that none is in the files of the new version: fragments, and the
        text index, which is built anew before that (as in :func:`.postings.forget_deleted`). Older versions keep
        theirs."""

        def work(dataset: lance.LanceDataset) -> None:
            postings.build(dataset, self.chunking.language)
            dataset.optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)

        return self._committed(work, apart=True)

    def with_tuned(self, tuned: Tuned) -> Store:
        """Keeps ``tuned`` in the place of what there was."""

        def work(dataset: lance.LanceDataset) -> None:
            dataset.update_schema_metadata({TUNED: json.dumps(tuned.to_dict())})

        return self._committed(work)

    def with_about(self, about: Metadata) -> Store:
        """Keeps ``about`` in the place of what there was."""

        def work(dataset: lance.LanceDataset) -> None:
            dataset.update_schema_metadata({ABOUT: json.dumps(dict(about))})

        return self._committed(work)

    def with_text_index(self) -> Store:
        """Builds the text index anew, in place of the one there was, readable or not."""
        return self._committed(lambda dataset: postings.build(dataset, self.chunking.language), apart=True)

    def with_rows_of(self, old: Store) -> Store:
        """In ONE commit, puts back what ``old``, an earlier version of this table, held; this very Store where that is
        what it holds already.

        Not by Lance's own restore: rows that come back by that do not count as changed, so that nobody who holds an
        index of this version could bring it up to date by the difference.
        """
        changed = self._scan(["document_id"], f"_row_last_updated_at_version > {old.version}")["document_id"]
        deleted = self.dataset.delta(compared_against=old.version).get_deleted_row_ids().read_all()["_rowid"]
        with _reading(old.path):
            gone = old.dataset._take_rows(deleted.to_pylist(), columns=["document_id"])["document_id"]
        documents = sorted({*changed.to_pylist(), *gone.to_pylist()})
        if not documents:
            return self
        condition = None if len(documents) > _MANY_DOCUMENTS else f"document_id IN ({_quoted(documents)})"

        with _reading(old.path):  # before anything is written: what is gone of it is no fault of writing
            scanner = old.dataset.scanner(filter=condition)
            scanner.count_rows()
            rows = scanner.to_reader()
            if set(self.dataset.schema.names) - set(rows.schema.names):  # from before they came
                rows = with_text_hashes(with_turns(rows.read_all())).select(self.dataset.schema.names)

        def work(dataset: lance.LanceDataset) -> None:
            _insert_as_new(dataset, rows, condition)

        return self._committed(work)

    def index_vectors(self, lists: int) -> Store:
        """Makes Lance's own index of the passages' own vectors, in place of the one there was: ``lists`` inverted lists
        of RaBitQ codes (Gao and Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound",
        SIGMOD 2024). Rows that come later are searched one by one until :meth:`maintain`.

        Raises:
            StorageFailure: the disk is full or not writable. ValueError: Lance cannot index so few or such vectors.
        """

        def work(dataset: lance.LanceDataset) -> None:
            dataset.create_index(
                "vector", "IVF_RQ", name=_VECTOR_INDEX, metric="dot", num_partitions=lists, replace=True
            )

        return self._committed(work)

    def drop_vector_index(self) -> Store:
        """Removes what :meth:`index_vectors` made."""
        return self._committed(lambda dataset: dataset.drop_index(_VECTOR_INDEX))

    def has_vector_index(self) -> bool:
        return any(index.name == _VECTOR_INDEX for index in self.dataset.describe_indices())

    def keep(self, version: int) -> None:
        """Keeps ``version`` from being cleaned up."""
        with writing(self.path):
            if version not in self._kept():
                self._handle().tags.create(f"{_KEPT}-{version}", version)

    def keep_only(self, versions: Collection[int]) -> None:
        """Of the versions that were kept, lets go of all but these."""
        with writing(self.path):
            for version, tag in self._kept().items():
                if version not in versions:
                    self._handle().tags.delete(tag)

    def _kept(self) -> dict[int, str]:
        tags = self._handle().tags.list().items()
        return {int(tag["version"]): name for name, tag in tags if name.startswith(_KEPT)}

    def clean_up(self, older_than: timedelta | None = None, *, torn: bool = False) -> int:
        """Removes versions older than that (an hour), but for the kept ones, and their files; with ``torn``, also files
        that no version names, such as a commit that was killed leaves, and older versions that cannot be read. Returns
        the bytes. By the one that writes.

        Where an older version cannot be read, none is removed without ``torn``; that is logged."""
        with writing(self.path):
            for tries in range(_MOST_TORN):
                try:
                    removed = self._handle().cleanup_old_versions(
                        older_than=_KEEP_VERSIONS if older_than is None else older_than,
                        delete_unverified=torn,
                        error_if_tagged_old_versions=False,
                    )
                    break
                except (ValueError, OSError) as error:
                    damaged = _TORN.search(str(error))
                    if damaged and 0 < _manifest_version(damaged["file"]) < self.version:
                        if not torn:
                            log.warning(
                                "%s: version %d cannot be read, so that no older versions are removed: embedsvc "
                                "collections repair %s removes it.",
                                self.path.parent.name,
                                _manifest_version(damaged["file"]),
                                self.path.parent.name,
                            )
                            return 0
                        (self.path / "_versions" / damaged["file"]).unlink(missing_ok=True)
                    elif tries >= 2 or "_refs/tags" not in str(error):  # a fold let go of a tag while Lance read them
                        raise
            else:
                raise StorageFailure(f"{self.path} has too many versions that cannot be read: repair it again.")
        return int(removed.bytes_removed)

    # -- snapshots -----------------------------------------------------------------------------------------------

    def versions(self) -> list[StoredVersion]:
        """Those that can still be read, newest first."""
        labels: dict[int, list[str]] = {}
        for label, version in self.snapshots().items():
            labels.setdefault(version, []).append(label)
        with _reading(self.path):
            found: list[dict[str, Any]] = list(map(dict, self._handle().versions()))
        return [
            StoredVersion(
                int(each["version"]),
                each["timestamp"].astimezone(UTC),
                int(each["metadata"].get("total_rows", 0)),
                tuple(sorted(labels.get(int(each["version"]), ()))),
            )
            for each in sorted(found, key=lambda each: -int(each["version"]))
        ]

    def snapshots(self) -> dict[str, int]:
        """By label the version of each snapshot, whether or not that can be read."""
        with _reading(self.path):
            tags = self._handle().tags.list().items()
        return {name.removeprefix(_SNAPSHOT): int(tag["version"]) for name, tag in tags if name.startswith(_SNAPSHOT)}

    def fault_of(self, version: int) -> str | None:
        """Why that version cannot be read, as far as its manifest and the presence of its files tell; None: these are
        well."""
        try:
            with _reading(self.path):
                dataset = lance.dataset(str(self.path), version)  # without what was kept of it when it was whole
                fragments = dataset.get_fragments()
                files = [f"data/{file.path}" for fragment in fragments for file in fragment.data_files()]
                files += filter(None, (fragment.deletion_file() for fragment in fragments))
        except DamagedCollection as error:
            return error.fact
        missing = [file for file in files if not (self.path / file).exists()]
        return f"{self.path / missing[0]} is gone." if missing else None

    def at(self, version: int) -> Store:
        """That version of the table.

        Raises:
            NotFound: it was cleaned up, or there never was one. DamagedCollection: it cannot be read.
        """
        there = [each.version for each in self.versions()]
        if version not in there:
            some = ", ".join(map(str, there[:20])) + (" …" if len(there) > 20 else "")
            raise NotFound(f"Version {version} is not there (any more). There are: {some}.")
        with _reading(self.path):
            return self._at(self.dataset.checkout_version(version))

    def snapshot(self, label: str) -> None:
        """Keeps this version from being cleaned up, under ``label``.

        Raises:
            UsageError: no label. Conflict: there is one of that name.
        """
        if not LABEL.fullmatch(label):
            raise UsageError(
                f"{label!r} cannot be a label: use 1 to 64 letters, digits, '_' or '-', the first a letter or digit."
            )
        with writing(self.path):
            handle = self._handle()
            if (tag := f"{_SNAPSHOT}{label}") in handle.tags.list():
                raise Conflict(f"There is a snapshot {label!r} already. Choose another label, or delete that one.")
            handle.tags.create(tag, self.version)
            self._sync_tags()

    def delete_snapshot(self, label: str) -> None:
        """Lets go of a version that :meth:`snapshot` kept; it is cleaned up with the others. Raises NotFound."""
        with writing(self.path):
            handle = self._handle()
            if (tag := f"{_SNAPSHOT}{label}") not in handle.tags.list():
                raise _no_snapshot(label, self.versions())
            handle.tags.delete(tag)
            self._sync_tags()

    def snapshot_version(self, label: str) -> int:
        """The version that has that label. Raises NotFound."""
        versions = self.versions()
        for each in versions:
            if label in each.labels:
                return each.version
        raise _no_snapshot(label, versions)

    def _sync_tags(self) -> None:
        if self.durability == "fsync":
            fsync_tree(self.path / TAGS)

    def _committed(self, work: Callable[[lance.LanceDataset], None], *, apart: bool = False) -> Store:
        """``apart``: what Lance keeps of the files that ``work`` reads is forgotten with it."""
        session = lance.Session(_PASSING, _METADATA) if apart else None  # type: ignore[attr-defined]
        with writing(self.path):
            dataset = self._handle(DurableCommits(self.path) if self.durability == "fsync" else None, session)
            work(dataset)
        if apart:
            with _reading(self.path):
                dataset = self.dataset.checkout_version(dataset.version)
        return self._at(dataset)

    def _handle(self, commit_lock: DurableCommits | None = None, session: Any = None) -> lance.LanceDataset:
        """An object of its own for what changes something: Lance refuses that ("Already borrowed") on one that another
        thread reads through."""
        return lance.dataset(
            str(self.path), self.version, session=session or self.dataset.session(), commit_lock=commit_lock
        )

    # -- read ----------------------------------------------------------------------------------------------------

    def count(self) -> int:
        """Number of passages."""
        with _reading(self.path):
            return int(self.dataset.count_rows())

    def count_vectors(self) -> int:
        """Number of vectors: as many as passages, or more where ``Chunking.finer`` is set."""
        return vector_count(self._scan(["vectors"], None)) if self.chunking.finer else self.count()

    def known_documents(self, since: int = 0) -> dict[str, Known]:
        """Every document by its id; of those that are new or replaced ``since`` a version."""
        return self._known(f"_row_last_updated_at_version > {since}" if since else None)

    def known_among(self, ids: Collection[str], sources: Collection[str]) -> dict[str, Known]:
        """By id, the documents of these ids and those that came out of these sources. Half a second less than all of
        them for every 100,000 documents that there are; without an index of Lance's on either column, which each commit
        would have to write (500,000 documents: 0.15 s)."""
        asked = {"document_id": ids, "source": sources}
        return self._known(_any_of(f"{name} IN ({_quoted(list(of))})" for name, of in asked.items() if of))

    def known_as(self, names: Collection[str]) -> dict[str, Known]:
        """By id, the documents that have one of these ids or uris, or came out of the file or upload of such a uri."""
        quoted = _quoted(list(names))
        return self._known(
            _any_of(f"{column} IN ({quoted})" for column in ("document_id", "uri", "source")) if names else "false"
        )

    def document_ids(
        self, outside: str, count: int, *, least: str | None, most: str | None, descending: bool
    ) -> list[str]:
        """At most ``count`` ids, sorted, of documents that did not come out of sources below ``outside``, from
        ``least`` to ``most`` where they are given: the first of them, or the last where it is ``descending``."""
        conditions = ["ordinal = 0", f"starts_with(source, {_quoted([outside + '/'])}) IS NOT TRUE"]
        if least is not None:
            conditions.append(f"document_id >= {_quoted([least])}")
        if most is not None:
            conditions.append(f"document_id <= {_quoted([most])}")
        order = ColumnOrdering("document_id", ascending=not descending)
        with _reading(self.path):
            scanner = self.dataset.scanner(
                columns=["document_id"], filter=" AND ".join(conditions), order_by=[order], limit=count
            )
            return sorted(scanner.to_table()["document_id"].to_pylist())

    def known_below(self, tops: Sequence[str]) -> dict[str, Known]:
        """By id, the documents that came out of these sources, or of any below them."""
        below = (f"starts_with(source, {_quoted([top.rstrip('/') + '/'])})" for top in tops)
        return self._known(_any_of([f"source IN ({_quoted(tops)})", *below]))

    def _known(self, condition: str | None) -> dict[str, Known]:
        names = ["document_id", "uri", "source", "document_hash"]
        rows = self._scan(names, " AND ".join(filter(None, ["ordinal = 0", condition])))
        ids, *columns = (rows[name].to_pylist() for name in names)
        return dict(zip(ids, map(Known, *columns), strict=True))

    def passage_counts(self, document_ids: Iterable[str] | None = None) -> dict[str, int]:
        """By document id, how many passages it has: of these documents, or of all."""
        condition = None if document_ids is None else _any_of([f"document_id IN ({_quoted(list(document_ids))})"])
        counts = self._scan(["document_id"], condition)["document_id"].value_counts()
        return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))

    def check_document(self, document_id: str) -> None:
        """Raise NotFound unless there is such a document."""
        if not self.dataset.count_rows(filter=f"document_id = {_quoted([document_id])}"):
            raise _no_document(document_id)

    def count_documents(self, where: str | None = None) -> int:
        """How many there are; with the user's SQL condition ``where``, of those with a passage for which it holds.

        Raises:
            BadFilter: as :meth:`matching`. DamagedCollection: a file of it cannot be read.
        """
        if where is None:
            with _reading(self.path):
                return int(self.dataset.count_rows(filter="ordinal = 0"))
        return len(self._documents_where(where))

    def documents_where(self, where: str) -> list[str]:
        """Sorted ids of the documents with a passage for which the user's SQL condition ``where`` holds.

        Raises:
            BadFilter: as :meth:`matching`.
        """
        return sorted(self._documents_where(where).to_pylist())

    def _documents_where(self, where: str) -> pa.ChunkedArray:
        """Ids of the documents with a passage for which the user's condition holds."""
        compiled = compile_filter(where)
        with _reading(self.path), _evaluating(where):
            return pc.unique(self.dataset.scanner(columns=["document_id"], filter=compiled).to_table()["document_id"])

    def documents(self, start: int = 0, count: int | None = None, where: str | None = None) -> list[StoredDocument]:
        """All documents in the order of their uris, or ``count`` of them from the place ``start`` on; with the user's
        SQL condition ``where``, of those with a passage for which it holds.

        Raises:
            BadFilter: as :meth:`matching`.
        """
        rows = self._scan(["document_id", "uri", "title", "document_hash", "end"], None)
        if where is not None:
            rows = rows.filter(pc.is_in(rows["document_id"], value_set=self._documents_where(where)))
        groups = rows.group_by(["document_id", "uri", "title", "document_hash"]).aggregate(
            [("end", "max"), ([], "count_all")]
        )
        # By id where several have one uri, so that pages of them fit together.
        groups = groups.sort_by([("uri", "ascending"), ("document_id", "ascending")]).slice(start, count)
        return [
            StoredDocument(
                row["document_id"], row["uri"], row["title"], row["document_hash"], row["count_all"], row["end_max"]
            )
            for row in groups.to_pylist()
        ]

    def document_passages(self, document_id: str) -> tuple[str, list[StoredPassage]]:
        """Text of a document (without white space at its very end) and its passages in order.

        Raises:
            NotFound: no document has that id.
        """
        columns = [*_PASSAGE_COLUMNS, "ordinal", "gap"]
        table = self._scan(columns, f"document_id = {_quoted([document_id])}", with_row_id=True).sort_by("ordinal")
        if not table.num_rows:
            raise _no_document(document_id)
        passages = _stored(table)
        return _text_of(table["gap"].to_pylist(), passages), passages

    def document_part(self, document_id: str, start: int, end: int) -> DocumentPart:
        """The characters ``[start, end)`` of a document, as far as it has them, without reading the rest of its text.

        Raises:
            NotFound: no document has that id.
        """
        places = self.outlines([document_id]).get(document_id)
        if not places:
            raise _no_document(document_id)
        length = places[-1].end
        start, end = min(start, length), min(max(start, end), length)
        # From the last passage that begins by then to the first that reaches as far: what lies between passages is
        # stored with the later one.
        first = max(0, bisect_right(places, start, key=lambda place: place.start) - 1)
        last = min(len(places) - 1, bisect_left(places, end, key=lambda place: place.end))
        run = places[first : max(first, last) + 1]
        passages = self.take([place.row_id for place in run])
        [text] = self.texts_of([run])
        before = run[0].start
        if start < before:  # white space in front of the first passage
            [[gap]] = self.columns([run[0].row_id], ["gap"])
            text, before = gap + text, 0
        within = [passage for passage in passages if passage.start < end and start < passage.end]
        return DocumentPart(text[start - before : end - before], start, length, passages[0], tuple(within))

    def whole_documents(self, document_ids: Sequence[str]) -> list[WholeDocument]:
        """All that is stored of these documents, of those that there are, in any order."""
        columns = [*_PASSAGE_COLUMNS, "ordinal", "gap", "source", "document_hash"]
        if _TURNS.name in self.dataset.schema.names:
            columns.append(_TURNS.name)
        table = with_turns(self._scan(columns, f"document_id IN ({_quoted(document_ids)})", with_row_id=True))
        table = table.sort_by([("document_id", "ascending"), ("ordinal", "ascending")])
        names = ("gap", "source", "document_hash", _TURNS.name)
        more = zip(*(table[name].to_pylist() for name in names), strict=True)
        found = []
        for _, rows in groupby(zip(_stored(table), more, strict=True), key=lambda row: row[0].document_id):
            passages, rest = zip(*rows, strict=True)
            gaps = [gap for gap, _, _, _ in rest]
            turns = {Turn(**turn) for *_, own in rest for turn in own or ()}
            found.append(
                WholeDocument(
                    _text_of(gaps, passages),
                    passages,
                    source=rest[0][1],
                    hash=rest[0][2],
                    turns=tuple(sorted(turns, key=lambda turn: turn.start)),
                )
            )
        return found

    def rows_of(self, document_ids: Collection[str]) -> pa.Table:
        """All passages of these documents with all columns, as :meth:`replace` takes them."""
        return self._scan(list(self.dataset.schema.names), f"document_id IN ({_quoted(list(document_ids))})")

    def metadata_of(self, document_ids: Collection[str]) -> dict[str, Metadata]:
        """By id, those of these documents that there are."""
        condition = f"ordinal = 0 AND document_id IN ({_quoted(list(document_ids))})"
        rows = self._scan(["document_id", "metadata"], condition if document_ids else "false")
        each = zip(rows["document_id"].to_pylist(), rows["metadata"].to_pylist(), strict=True)
        return {id: json.loads(value or "{}") for id, value in each}

    def outlines(self, document_ids: Collection[str]) -> dict[str, list[PassagePlace]]:
        """The places of all passages of these documents, in order, of those that there are."""
        names = ["id", "start", "end", "tokens", "page", "heading"]
        condition = f"document_id IN ({_quoted(list(document_ids))})" if document_ids else "false"
        table = self._scan([*names, "document_id", "ordinal"], condition, with_row_id=True).sort_by("ordinal")
        found: dict[str, list[PassagePlace]] = {}
        columns = (table[name].to_pylist() for name in ("document_id", "_rowid", *names))
        for document_id, *place in zip(*columns, strict=True):
            found.setdefault(document_id, []).append(PassagePlace(*place))
        return found

    def texts_of(self, runs: Sequence[Sequence[PassagePlace]]) -> list[str]:
        """For each run of neighbouring passages, one at least, its document's text from the first one's start to the
        last one's end."""
        with _reading(self.path):
            row_ids = [place.row_id for run in runs for place in run]
            table = self.dataset._take_rows(row_ids, columns=["gap", "text"])
        rows = iter(zip(table["gap"].to_pylist(), table["text"].to_pylist(), strict=True))
        texts = []
        for run in runs:
            pieces: list[str] = []
            end = run[0].start
            for place in run:
                gap, text = next(rows)
                pieces += (gap if pieces else "", text[max(0, end - place.start) :])
                end = max(end, place.end)
            texts.append("".join(pieces))
        return texts

    def some_texts(self, count: int) -> list[tuple[str, str]]:
        """Title and text of ``count`` passages all over the table, or of all where there are fewer."""
        with _reading(self.path):
            some = self.dataset.sample(min(count, self.count()), columns=["title", "text"])
        return list(zip(some["title"].to_pylist(), some["text"].to_pylist(), strict=True))

    def spread_texts(self, count: int) -> list[tuple[int, str]]:
        """Row id and text of ``count`` passages at equal distances all over the table, or of all where there are fewer:
        the same ones each time."""
        places = range(0, self.count(), max(1, -(-self.count() // count)))
        if not places:
            return []
        with _reading(self.path):
            some = self.dataset.take(list(places), columns=["_rowid", "text"])
        return list(zip(some["_rowid"].to_pylist(), some["text"].to_pylist(), strict=True))

    def row_ids(self) -> RowIds:
        """Of all passages, sorted."""
        return np.sort(self._scan([], None, with_row_id=True)["_rowid"].to_numpy().astype(np.int64))

    def take(self, row_ids: Sequence[int]) -> list[StoredPassage]:
        """The passages of these row ids, in this order."""
        with _reading(self.path):
            table = self.dataset._take_rows(list(row_ids), columns=list(_PASSAGE_COLUMNS))
        return _stored(table.append_column("_rowid", pa.array(row_ids, pa.uint64())))

    def columns(self, row_ids: Sequence[int], names: Sequence[str]) -> list[list[Any]]:
        """For each of the columns ``names``, its values of these row ids, in this order. Metadata are JSON text, None
        where there are none."""
        with _reading(self.path):
            table = self.dataset._take_rows(list(row_ids), columns=list(names))
        return [table[name].to_pylist() for name in names]

    def some_metadata(self, condition: str, count: int) -> list[Metadata]:
        """Of up to ``count`` passages for which the user's SQL ``condition`` holds."""
        with _reading(self.path), _evaluating(condition):
            table = self.dataset.scanner(columns=["metadata"], filter=compile_filter(condition), limit=count).to_table()
        return [json.loads(value or "{}") for value in table["metadata"].to_pylist()]

    def turns(self, row_ids: Sequence[int]) -> list[list[Turn] | None]:
        """For each passage, where in it page or heading change, in order; None: that was not stored with it."""
        if _TURNS.name not in self.dataset.schema.names:
            return [None] * len(row_ids)
        (found,) = self.columns(row_ids, [_TURNS.name])
        return [None if turns is None else [Turn(**turn) for turn in turns] for turns in found]

    def batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        """All passages with all columns, at most ``rows`` at a time."""
        with _reading(self.path):
            yield from self.dataset.scanner(batch_size=rows).to_batches()

    def vectors(self) -> tuple[RowIds, Floats]:
        """All row ids (n,) and their vectors (n, dimension); a passage that has several comes several times on end, its
        own vector first."""
        return _vectors(self._scan(self._vector_columns, None, with_row_id=True))

    def vector_batches(
        self, vectors: int = 2_500, *, finer: bool = True, since: int = 0
    ) -> Iterator[tuple[RowIds, Floats]]:
        """As :meth:`vectors`, about ``vectors`` of them at a time; without ``finer``, the passages' own only. Of rows
        that are new or replaced ``since`` a version."""
        columns = self._vector_columns if finer else ["vector"]
        rows = max(1, vectors * self.count() // max(1, self.count_vectors())) if finer else vectors
        changed = f"_row_last_updated_at_version > {since}" if since else None
        scanner = self.dataset.scanner(columns=columns, filter=changed, with_row_id=True, batch_size=rows)
        with _reading(self.path):
            for batch in scanner.to_batches():
                yield _vectors(pa.Table.from_batches([batch]))

    @property
    def _vector_columns(self) -> list[str]:
        return ["vector", "finer"] if self.chunking.finer else ["vector"]

    def nearest(
        self, query: Floats, k: int, *, lists: int, refine: int, where: str | None = None
    ) -> tuple[RowIds, Floats]:
        """Row ids and cosines of the ``k`` passages whose own vectors are nearest to ``query`` (dimension,), best
        first. By Lance's index, where there is one: ``lists`` of it are looked into, and ``refine`` times ``k``
        candidates scored with their vectors; ``lists`` 0: by all vectors. ``where``: the user's SQL.

        Raises:
            BadFilter: ``where`` is not SQL over the collection's fields.
        """
        condition = None if where is None else compile_filter(where)
        asked: dict[str, Any] = {"column": "vector", "q": query, "k": k, "metric": "dot"}
        asked |= {"nprobes": lists, "refine_factor": refine} if lists else {"use_index": False}
        scanner = self.dataset.scanner(
            columns=["_distance"], with_row_id=True, nearest=asked, filter=condition, prefilter=condition is not None
        )
        with _reading(self.path), _evaluating(where) if where is not None else nullcontext():
            table = scanner.to_table()
        ids = table["_rowid"].to_numpy().astype(np.int64)
        scores = 1 - table["_distance"].to_numpy().astype(np.float32)
        order = np.lexsort((ids, -scores))
        return ids[order], scores[order]

    def own_vectors(self, row_ids: Sequence[int]) -> Floats:
        """The passages' own vectors (n, dimension), in the order of ``row_ids``."""
        with _reading(self.path):
            table = self.dataset._take_rows(list(row_ids), columns=["vector"])
        return _vector_matrix(_one_array(table["vector"]))

    def some_vectors(self, count: int) -> Floats:
        """The own vectors (n, dimension) of ``count`` passages all over the table, or of all where there are fewer."""
        with _reading(self.path):
            some = self.dataset.sample(min(count, self.count()), columns=["vector"])
            return _vector_matrix(_one_array(some["vector"]))

    def vectors_of(self, asked: Iterable[Embedded]) -> dict[Embedded, Floats]:
        """The vectors (n, dimension) of a passage, its own first, for each of ``asked`` that some document has."""
        by_hash = {embedded_hash(what): what for what in asked}
        if not by_hash or _TEXT_HASH.name not in self.dataset.schema.names:
            return {}
        condition = f"text_hash IN ({', '.join(map(str, by_hash))})"
        table = self._scan(["text", "text_hash", *self._vector_columns], condition, with_row_id=True)
        row_ids, vectors = _vectors(table)
        starts = np.flatnonzero(np.diff(row_ids, prepend=-1))
        found = [by_hash[hash] for hash in table["text_hash"].to_pylist()]
        each = zip(found, table["text"].to_pylist(), np.split(vectors, starts)[1:], strict=True)
        return {what: vectors for what, text, vectors in each if what[1] == text}

    def changes_since(self, version: int) -> Changes:
        """The difference between ``version`` and this one, as Lance keeps it with every row."""
        # The delta's own readers of inserted and updated rows bring every column, all the text included.
        changed = self._scan(self._vector_columns, f"_row_last_updated_at_version > {version}", with_row_id=True)
        return Changes(*_vectors(changed), self.deleted_since(version))

    def deleted_since(self, version: int) -> RowIds:
        """Row ids (n,) of the rows of ``version`` that are gone."""
        deleted = self.dataset.delta(compared_against=version).get_deleted_row_ids().read_all()["_rowid"]
        return np.asarray(deleted.to_numpy(), np.int64)

    def matching(self, condition: str, since: int = 0, among: Sequence[int] | None = None) -> RowIds:
        """Sorted row ids of the passages for which the user's SQL ``condition`` holds (see :mod:`.filters`), of those
        that are new or replaced ``since`` a version, or of the row ids ``among``.

        Raises:
            BadFilter: it is not SQL, or the store cannot evaluate it.
        """
        compiled = compile_filter(condition)
        if since:  # in front: what it leaves out is not looked at further
            compiled = f"_row_last_updated_at_version > {since} AND ({compiled})"
        if among is not None:
            compiled = f"_rowid IN ({', '.join(map(str, among)) or 'NULL'}) AND ({compiled})"
        scanner = self.dataset.scanner(columns=[], filter=compiled, with_row_id=True)
        with _reading(self.path), _evaluating(condition):
            table = scanner.to_table()
        return np.sort(table["_rowid"].to_numpy().astype(np.int64))

    def phrases(self, query: str) -> list[str]:
        """What a passage must hold to be found by :meth:`lexical`: stands in double quotes in ``query``."""
        return phrases(query, self.chunking.language)

    def lexical(
        self, query: str, limit: int, *, where: str | None = None, among: Sequence[int] | None = None
    ) -> tuple[RowIds, Floats]:
        """BM25 over the passages' text, by the words of the collection's language: row ids and scores, best first. Any
        term may match; what stands in double quotes must, as a phrase.

        ``where`` (the user's SQL) or ``among`` (row ids) restricts the search; the scores are those of the
        unrestricted search.

        Raises:
            BadFilter: ``where`` is not SQL over the collection's fields.
            UsageError: a phrase, of a collection whose text index was made before there were any.
        """
        if among is not None and not len(among):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        condition = f"_rowid IN ({', '.join(map(str, among))})" if among is not None else None
        if where is not None:
            condition = compile_filter(where)
        scanner = self.dataset.scanner(
            columns=["_rowid", "_score"],
            full_text_query=matching(query, "text", self.chunking.language),
            limit=limit,
            filter=condition,
            prefilter=condition is not None,
        )
        with _reading(self.path), _evaluating(where) if where is not None else nullcontext(), _finding_phrases(self):
            table = scanner.to_table()
        ids, scores = table["_rowid"].to_numpy().astype(np.int64), table["_score"].to_numpy().astype(np.float32)
        order = np.lexsort((ids, -scores))  # Lance leaves equal scores in any order
        return ids[order], scores[order]

    def _scan(self, columns: list[str], condition: str | None, with_row_id: bool = False) -> pa.Table:
        with _reading(self.path):
            return self.dataset.scanner(columns=columns, filter=condition, with_row_id=with_row_id).to_table()


def _tuned_of(dataset: lance.LanceDataset) -> Tuned:
    metadata = dataset.schema.metadata or {}
    if (kept := metadata.get(TUNED.encode())) is not None:
        return Tuned.from_dict(json.loads(kept))
    fusion = metadata.get(_FUSION.encode())
    return Tuned() if fusion is None else Tuned(Fusion(**json.loads(fusion)))


def _insert_as_new(dataset: lance.LanceDataset, rows: Any, condition: str | None) -> None:
    """In ONE commit, puts ``rows`` in the place of those for which ``condition`` holds (None: of all).

    Not by Lance's ``merge_insert``: that reads the ids of all rows there are, at every commit (of 41,000, 75 ms of CPU
    and 37 MB of memory, where this takes 17 ms and none). And a row that comes in the place of another with its ``id``
    would keep that one's row id, so that a text index that saw the old words had to be written anew as a whole.
    """
    condition = condition or "true"
    there = dataset.scanner(columns=[], filter=condition, with_row_address=True).to_table()["_rowaddr"]
    touched = set(np.unique(there.to_numpy() >> np.uint64(32)).tolist())
    left = {each.fragment_id: each.delete(condition) for each in dataset.get_fragments() if each.fragment_id in touched}
    update = lance.LanceOperation.Update(
        removed_fragment_ids=[id for id, fragment in left.items() if fragment is None],
        updated_fragments=[fragment for fragment in left.values() if fragment is not None],
        new_fragments=write_fragments(rows, dataset),
    )
    lance.LanceDataset.commit(dataset, update, read_version=dataset.version)
    dataset.checkout_latest()  # type: ignore[no-untyped-call]


def _put_together(dataset: lance.LanceDataset, language: Language, *, in_passing: bool) -> None:
    """Small fragments, where there are many. Those of a segment of the text index that saw rows that went have its
    texts indexed anew: not ``in_passing``, and not before such rows and those in its small fragments are not few."""
    fragments = dataset.get_fragments()
    rows = {fragment.fragment_id: fragment.count_rows() for fragment in fragments}
    gone = {fragment.fragment_id: fragment.num_deletions for fragment in fragments}
    # Lance puts only such fragments together as lie in the same segment of the text index.
    segments = [segment & rows.keys() for segment in postings.segments(dataset)]
    held = [sum(rows[id] for id in segment) for segment in segments]
    largest = [max((rows[id] for id in segment), default=0) for segment in segments]
    tail = sum(rows.values()) - sum(largest)
    if len(rows) - len(segments) <= _MANY_FRAGMENTS and tail <= _TAIL_SHARE * sum(rows.values()):
        return
    left: set[int] = set()
    for segment, size, most in zip(segments, held, largest, strict=True):
        went = sum(gone[id] for id in segment)
        if went and (in_passing or went + size - most <= _TAIL_SHARE * size):
            left |= segment
    plan = Compaction.plan(dataset, {"excluded_fragment_ids": sorted(left)})
    postings.forget_deleted(dataset, {fragment.id for task in plan.tasks for fragment in task.fragments}, language)
    dataset.optimize.compact_files(excluded_fragment_ids=sorted(left))


def _manifest_version(name: str) -> int:
    """The version whose manifest is called that, in either of Lance's ways to number them; 0: it is none."""
    stem, _, suffix = name.partition(".")
    if suffix != "manifest" or not stem.isdigit():
        return 0
    number = int(stem)
    return 2**64 - 1 - number if number >= 2**63 else number


def _tagged(file: Path) -> float:
    """The version that a tag of Lance's names; infinity where it cannot be read."""
    try:
        return int(json.loads(file.read_bytes())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return float("inf")


def _no_snapshot(label: str, versions: Sequence[StoredVersion]) -> NotFound:
    there = ", ".join(label for each in versions for label in each.labels) or "none"
    return NotFound(f"There is no snapshot {label!r}. There are: {there}.")


_PASSAGE_COLUMNS = ("id", "document_id", "uri", "title", "start", "end", "page", "heading", "metadata", "text")


def _add_text_hashes(dataset: lance.LanceDataset) -> None:
    """To a table that was made without."""

    @lance.batch_udf(output_schema=pa.schema([_TEXT_HASH]))
    def hashes(batch: pa.RecordBatch) -> pa.RecordBatch:
        found = pa.array([embedded_hash(("", text)) for text in batch["text"].to_pylist()], pa.int64())
        return pa.RecordBatch.from_arrays([found], schema=pa.schema([_TEXT_HASH]))

    dataset.add_columns(hashes, read_columns=["text"])


def _no_document(id: str) -> NotFound:
    return NotFound(f"No document has the id {id!r}. List them to see the ids there are.")


def _text_of(gaps: Sequence[str], passages: Sequence[StoredPassage]) -> str:
    pieces: list[str] = []
    end = 0
    for gap, passage in zip(gaps, passages, strict=True):
        pieces += (gap, passage.text[max(0, end - passage.start) :])
        end = max(end, passage.end)
    return "".join(pieces)


def _stored(table: pa.Table) -> list[StoredPassage]:
    return [
        StoredPassage(row_id=row.pop("_rowid"), metadata=json.loads(row.pop("metadata") or "{}"), **row)
        for row in table.select(["_rowid", *_PASSAGE_COLUMNS]).to_pylist()
    ]


def _vectors(table: pa.Table) -> tuple[RowIds, Floats]:
    row_ids = table["_rowid"].to_numpy().astype(np.int64)
    own = _vector_matrix(_one_array(table["vector"]))
    if "finer" not in table.column_names:
        return row_ids, own
    finer = _one_array(table["finer"])
    counts = 1 + finer.value_lengths().to_numpy(zero_copy_only=False)
    is_own = np.zeros(int(counts.sum()), bool)
    is_own[np.cumsum(counts) - counts] = True
    vectors = np.empty((len(is_own), own.shape[1]), np.float32)
    vectors[is_own], vectors[~is_own] = own, _vector_matrix(finer.flatten())
    return np.repeat(row_ids, counts), vectors


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # an empty column combines to no chunk
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return array


def _vector_matrix(array: pa.FixedSizeListArray) -> Floats:
    """The vectors of a column (n, dimension)."""
    flat = array.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat.reshape(len(array), array.type.list_size), np.float32)
