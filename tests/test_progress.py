"""How far a run is: readers say where they are in their file, and what is told of a file is what is done with it."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from email.message import EmailMessage
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from embedsvc import filling, ingest, intake
from embedsvc.chunking import Chunks, chunk
from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.ingest import ingest_items, ingest_paths
from embedsvc.opened import Opened
from embedsvc.readers import FieldChoice, read
from embedsvc.readers.frames import Malformed, share_from
from embedsvc.readers.items import Limits, Means
from embedsvc.readers.sandbox import Sandbox
from embedsvc.records import Chunking, Source
from embedsvc.service.jobs import Jobs
from embedsvc.tally import Extent
from tests.fakes import FakeEncoder
from tests.server import until

COUNT = 40
TEXTS = [f"{'red green ' * 20}{number}" for number in range(COUNT)]
ROWS = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
TABLE = pa.Table.from_pylist(ROWS)


def mbox(attached: Mapping[str, bytes] = {}) -> bytes:
    mails = []
    for text in TEXTS:
        mail = EmailMessage()
        mail["Subject"] = "S"
        mail.set_content(text)
        for name, data in attached.items():
            mail.add_attachment(data, maintype="application", subtype="x", filename=name)
        mails.append(b"From a@b.c Fri Mar  1 12:31:00 2024\n" + mail.as_bytes() + b"\n")
    return b"".join(mails)


def packed(kind: str, members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def written(write: Any, table: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    write(table, buffer, **options)
    return buffer.getvalue()


def streamed() -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=4)
    return buffer.getvalue()


JSONL = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
LARGE = {f"{number:02}.txt": (text * 50).encode() for number, text in enumerate(TEXTS)}
CONTAINERS = {
    "a.mbox": mbox(),
    "attached.mbox": mbox({"r.jsonl": b"".join(JSONL.splitlines(keepends=True)[:3]), "a.txt": b"green"}),
    "a.jsonl": JSONL,
    "a.json": json.dumps(ROWS).encode(),
    "lines.json": JSONL,
    "a.csv": b"id,text\n" + b"".join(f"{row['id']},{row['text']}\n".encode() for row in ROWS),
    "a.parquet": written(pa.parquet.write_table, TABLE, row_group_size=7),
    "a.feather": written(pa.feather.write_feather, TABLE, chunksize=7),
    "whole.feather": written(pa.feather.write_feather, TABLE),
    "a.arrow": streamed(),
    "a.zip": packed("zip", LARGE),
    "a.tar": packed("tar", LARGE),
    "of-mails.tar": packed("tar", {"a.mbox": mbox(), "b.mbox": mbox()}),
    "a.jsonl.gz": gzip.compress(JSONL),
    "in.zip": packed("zip", {"a.tar": packed("tar", LARGE), "b.zip": packed("zip", LARGE)}),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_reader_of_many_documents_says_where_it_is(name: str) -> None:
    reached: list[float] = []
    items = read(Source(f"file:///{name}", name, CONTAINERS[name]), FieldChoice(), Means(reached=reached.append))
    shares = [reached[-1] for _ in items]
    assert len(shares) >= COUNT
    assert shares == sorted(shares)
    assert shares[0] < 0.6
    assert 0.7 < shares[-1] <= 1, "a tar is padded"
    assert len(set(shares)) > COUNT / 3 or name.endswith(".gz"), "a small one is inflated at once"


def test_the_sandbox_tells_it_of_the_source_under_way() -> None:
    with Sandbox(Limits(memory_mb=600, timeout_s=5)) as box:
        shares = [box.share for _ in box.read(Source("file:///a.jsonl", "a.jsonl", JSONL), FieldChoice())]
        assert shares == sorted(shares)
        assert (shares[0], shares[-1]) == (pytest.approx(1 / COUNT, abs=0.01), pytest.approx(1, abs=0.001))
        assert box.share == 1
        [share] = [box.share for _ in box.read(Source("file:///a.txt", "a.txt", b"red"), FieldChoice())]
        assert share == 1
        given = box.read(Source("file:///a.jsonl", "a.jsonl", JSONL), FieldChoice())
        next(given)
        given.close()
        assert box.share == 1


@pytest.mark.parametrize("share", [None, "1", -0.1, 1.5, True, {}])
def test_a_share_that_is_none_is_not_believed(share: object) -> None:
    with pytest.raises(Malformed):
        share_from({"share": share})


class _Slow(FakeEncoder):
    """Encodes a text whenever somebody was told of those before."""

    ticket = SimpleNamespace(left=0)

    def submit(self, token_ids: Sequence[Any], *, kind: str) -> Any:
        self.ticket = SimpleNamespace(future=Future(), left=len(token_ids))
        self.vectors = self.encode(token_ids, kind=kind)
        return self.ticket

    def went_on(self) -> None:
        if self.ticket.left:
            self.ticket.left -= 1
            if not self.ticket.left:
                self.ticket.future.set_result(self.vectors)


def test_progress_moves_within_one_large_document(
    here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedsvc.filling.TELL_SECONDS", 0.001)
    told: list[tuple[Mapping[str, float], int]] = []
    file = tmp_path / "a.txt"
    file.write_text(" ".join(f"w{n}" for n in range(18)))
    slow = _Slow()

    def progress(shares: Mapping[str, float], texts: int) -> None:
        told.append((shares, texts))
        slow.went_on()

    collection = Collection.create("c", slow.contract, Chunking(8, 0), here)
    [outcome] = ingest_paths(collection, slow, [file], fields=FieldChoice(), max_file_mb=1, progress=progress)  # type: ignore[arg-type]
    assert outcome.passages == 3
    uri = file.as_uri()
    assert [(shares[uri], texts) for shares, texts in told if shares] == [(0, 0), (1 / 3, 1), (2 / 3, 2), (1, 0)]


@pytest.mark.parametrize("slow", ["reading", "chunking"])
def test_progress_is_called_while_one_document_takes_long(
    here: Settings, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    for module in (filling, ingest):
        monkeypatch.setattr(module, "TELL_SECONDS", 0.001)
    called = threading.Semaphore(0)
    heard: list[bool] = []

    def hears(where: str) -> None:
        if where == slow:
            heard.extend(called.acquire(timeout=60) for _ in range(3))

    def items() -> Iterator[Source]:
        hears("reading")
        yield Source("file:///a.txt", "a.txt", b"red")

    def chunked(*args: Any, **how: Any) -> Chunks:
        hears("chunking")
        return chunk(*args, **how)

    monkeypatch.setattr(intake, "chunk", chunked)
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    list(ingest_items(collection, fake, items(), FieldChoice(), progress=lambda *_: called.release()))  # type: ignore[arg-type]
    assert heard == [True] * 3


@pytest.mark.parametrize("name", ["a.jsonl", "attached.mbox", "in.zip"])
def test_progress_moves_within_one_container_with_what_is_committed(
    here: Settings, fake: FakeEncoder, name: str
) -> None:
    settings = Settings(**{**vars_of(here), "commit_tokens": 200})
    collection = Collection.create("c", fake.contract, Chunking(64, 8), settings)
    uri = f"file:///{name}"
    shares: list[float] = []
    known: list[tuple[int, float]] = []
    items = [Source(uri, name, CONTAINERS[name]), Source("file:///z.txt", "z.txt", b"blue")]
    outcomes = ingest_items(
        collection, fake, items, FieldChoice(), progress=lambda told, _: shares.append(told.get(uri, 0.0))
    )  # type: ignore[arg-type]
    for count, _ in enumerate(outcomes, start=1):
        known.append((count, max(shares, default=0.0)))
    assert len({share for share in shares if 0 < share < 1}) >= 4
    assert max(shares) == 1
    assert known[len(known) // 2][1] < 0.8, "what is read ahead is not done"


def vars_of(settings: Settings) -> dict[str, Any]:
    from dataclasses import fields

    return {each.name: getattr(settings, each.name) for each in fields(settings)}


def test_what_is_left_out_at_the_end_of_a_container_is_done_with_it(here: Settings, fake: FakeEncoder) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    data = packed("zip", {"a.txt": b"red", "b.psd": bytes(100_000), ".hidden": bytes(100_000)})
    inputs = {"a.zip": data, "b.txt": b"green", "c.txt": b""}
    items = [Source(f"file:///{name}", name, data) for name, data in inputs.items()]
    for again in (False, True):
        shares: dict[str, float] = {}
        list(ingest_items(collection, fake, items, FieldChoice(), progress=lambda told, _, s=shares: s.update(told)))  # type: ignore[arg-type, misc]
        assert shares == {f"file:///{name}": 1.0 for name in inputs}, again


def test_extent_counts_each_share_once() -> None:
    extent = Extent({"a": 60.0, "b": 40.0})
    extent.take_in({"a": 0.5, "unknown": 1.0})
    extent.take_in({"a": 0.25, "b": 1.0})
    assert (extent.done, extent.all) == (70, 100)


def test_a_job_tells_how_far_it_is_within_a_large_document(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedsvc.filling.TELL_SECONDS", 0.001)
    monkeypatch.setattr("embedsvc.service.jobs._SAVE_SECONDS", -1)
    slow = _Slow()
    collection = Collection.create("c", slow.contract, Chunking(8, 0), here)
    opened = SimpleNamespace(collection=collection, encoder=slow, is_current=lambda: True)
    jobs = Jobs(here.data_dir, lambda name: cast("Opened", opened))
    slow.close = lambda: None  # type: ignore[attr-defined]
    file = Source("upload:a.txt", "a.txt", b" ".join(b"w%d" % n for n in range(18)))
    id = jobs.submit("c", [file], FieldChoice(), 1)["job"]
    told = []
    until(lambda: slow.ticket.left)
    for done in (0, 1, 2):
        until(lambda done=done: jobs.get(id)["progress"] == round(done / 3, 4))  # type: ignore[misc]
        told.append(jobs.get(id)["eta_s"])
        slow.went_on()
    until(lambda: jobs.get(id)["status"] == "done")
    assert jobs.get(id)["progress"] == 1
    assert told[0] is None
    assert told[1] > 0
    jobs.stop(10)
