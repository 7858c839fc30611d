"""A collection as one Parquet file that any tool reads; contract, chunking and tuning travel in its metadata."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedsvc.errors import DamagedFile, NotFound, UsageError
from embedsvc.records import Chunking, Contract, Metadata, Tuned
from embedsvc.storage.store import (
    ABOUT,
    ADDED,
    FORMAT,
    KEYS,
    TUNED,
    Store,
    passage_schema,
    with_text_hashes,
    with_turns,
    writing,
)
from embedsvc.syncing import fsync_path

_ROWS_PER_GROUP = 4096


@dataclass(frozen=True, slots=True)
class Exported:
    """What :func:`export_store` wrote. ``tables``: the rows, fit for ``Store.replace``; none ends in mid-document."""

    contract: Contract
    chunking: Chunking
    tuned: Tuned
    about: Metadata
    tables: Iterator[pa.Table]


def export_store(store: Store, file: Path) -> int:
    """Writes all passages of ``store`` to ``file``, which appears whole or not at all; returns their number.

    Raises:
        UsageError: ``file`` is a folder. NotFound: there is no folder to hold it.
        StorageFailure: the place cannot be written, or is full.
    """
    if file.is_dir():
        raise UsageError(f"{file} is a folder. Name the file in it to export to.")
    if not file.absolute().parent.is_dir():
        raise NotFound(f"There is no folder {file.absolute().parent} to write {file.name} to. Make it first.")
    schema = store.dataset.schema
    # Metadata goes out as plain JSON text: the JSON extension type is Arrow's own.
    plain = schema.set(schema.get_field_index("metadata"), pa.field("metadata", pa.string()))
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    rows = 0
    with writing(file):
        try:
            with pq.ParquetWriter(temporary, plain, compression="zstd") as writer:
                for batch in store.batches(_ROWS_PER_GROUP):
                    columns = [_plain(batch[name]) if name == "metadata" else batch[name] for name in plain.names]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=plain))
                    rows += len(batch)
            fsync_path(temporary)
            temporary.rename(file)
            fsync_path(file.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return rows


def _plain(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def read_exported(file: Path) -> Exported:
    """
    Raises:
        NotFound: there is no such file.
        DamagedFile: it is cut short, or is not an export of this layout.
    """
    if not file.is_file():
        raise NotFound(f"There is no file {file} to import.")
    try:
        parquet = pq.ParquetFile(file)
        metadata = {key.decode(): value.decode() for key, value in (parquet.schema_arrow.metadata or {}).items()}
        written, contract, chunking = (metadata[key] for key in KEYS)
        if written != FORMAT:
            raise ValueError(f"it has layout {written}, this embedsvc reads layout {FORMAT}")
        parsed = Contract.from_dict(json.loads(contract)), Chunking(**json.loads(chunking))
        tuned = Tuned.from_dict(json.loads(metadata.get(TUNED, "{}")))
        about = dict(json.loads(metadata.get(ABOUT, "{}")))
    except KeyError:
        raise DamagedFile(f"{file} is a Parquet file, but not one that `embedsvc collections export` wrote.") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DamagedFile(
            f"{file} is not a whole export of a collection: {_why(error)}. Export the collection again."
        ) from error
    schema = passage_schema(parsed[0].dimension, finer=parsed[1].finer > 0)
    _check_columns(file, parquet.schema_arrow.names, schema.names)
    return Exported(*parsed, tuned, about, _tables(file, parquet, schema))


def _check_columns(file: Path, there: Sequence[str], wanted: Sequence[str]) -> None:
    lacking = [name for name in wanted if name not in there and name not in ADDED]
    strange = [name for name in there if name not in wanted]
    if lacking or strange:
        what = [f"it lacks the column(s) {', '.join(lacking)}"] * bool(lacking)
        what += [f"it has the column(s) {', '.join(strange)}, which no export has"] * bool(strange)
        raise DamagedFile(
            f"{file} was changed since it was exported: {'; '.join(what)}. Import the file as it was, or index it with "
            "embedsvc index."
        )


def _check_metadata(column: pa.ChunkedArray) -> None:
    """Raises ValueError, TypeError: some of it is no JSON."""
    for text in column.drop_null().unique().to_pylist():
        try:
            json.loads(text)
        except ValueError as error:
            raise ValueError(f"metadata in it are no JSON ({error})") from None


def _check_vectors(column: pa.ChunkedArray) -> None:
    """Raises ValueError: some would be stored, and found by `verify` at the earliest."""
    if not np.isfinite(column.combine_chunks().flatten().to_numpy(zero_copy_only=False)).all():
        raise ValueError("a vector in it has a value that is no finite number")


def _why(error: Exception) -> str:
    return str(error).rstrip(".")


def _tables(file: Path, parquet: pq.ParquetFile, schema: pa.Schema) -> Iterator[pa.Table]:
    try:
        held: pa.Table | None = None
        for batch in parquet.iter_batches(batch_size=_ROWS_PER_GROUP):
            table = with_turns(with_text_hashes(pa.Table.from_batches([batch]).replace_schema_metadata(None)))
            _check_metadata(table["metadata"])
            at = table.column_names.index("metadata")
            json_column = pa.ExtensionArray.from_storage(pa.json_(), table["metadata"].combine_chunks())
            table = table.set_column(at, "metadata", json_column).select(schema.names).cast(schema)
            _check_vectors(table["vector"])
            held = table if held is None else pa.concat_tables([held, table])
            # The last document of a batch may go on in the next one.
            last = held["document_id"][-1]
            inside = pa.compute.equal(held["document_id"], last)
            if not pa.compute.all(inside).as_py():
                yield held.filter(pa.compute.invert(inside))
                held = held.filter(inside)
        if held is not None:
            yield held
    except (OSError, ValueError, TypeError) as error:
        raise DamagedFile(f"{file} is damaged: {_why(error)}. Export the collection again.") from error
