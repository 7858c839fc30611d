"""OpenAI's own client, unmodified, on our vector-store routes: against a server in a process of its own."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import openai
import pytest
from openai import OpenAI

from embedsvc.config import Settings
from embedsvc.errors import DamagedCollection, NotFound
from embedsvc.service import vector_stores
from embedsvc.service.attribute_filters import sql_of
from embedsvc.service.problems import Refused
from embedsvc.service.state import State
from embedsvc.service.vector_stores import Part
from embedsvc.storage import Store, write_lock
from tests.server import Server, server, until
from tests.test_collection import collection_of

KEY = "sesame"
REFUNDS = b"# Refunds\n\nMoney is paid back within 14 days of a return.\n"
TRAVEL = b"# Travel\n\nThe office books trains, never planes.\n"
RECORDS = b'{"id": "a", "text": "Badges are handed out at the desk."}\n{"id": "b", "text": "Desks are shared."}\n'


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores") / "indexes"


@pytest.fixture(scope="module")
def running(data_dir: Path) -> Iterator[Server]:
    with server(data_dir, max_file_mb=1, max_body_mb=3, uploads_mb=5, duplicates="drop", api_keys=KEY) as started:
        started.http.headers["authorization"] = f"Bearer {KEY}"
        yield started


@pytest.fixture(scope="module")
def client(running: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def store(client: OpenAI) -> Iterator[str]:
    made = client.vector_stores.create()
    yield made.id
    client.vector_stores.delete(made.id)


def put(client: OpenAI, store: str, name: str, data: bytes, **options: Any) -> Any:
    return client.vector_stores.files.upload_and_poll(vector_store_id=store, file=(name, data), **options)


def results(client: OpenAI, store: str, query: str | list[str], **options: Any) -> list[Any]:
    return list(client.vector_stores.search(store, query=query, **options))


def test_a_file_is_uploaded_attached_found_read_and_deleted(client: OpenAI) -> None:
    made = client.vector_stores.create(name="handbook", metadata={"owner": "support"})
    assert (made.id, made.name, made.status, made.metadata) == (
        "handbook",
        "handbook",
        "completed",
        {"owner": "support"},
    )
    assert made.file_counts.total == 0
    uploaded = client.files.create(file=("refunds.md", REFUNDS), purpose="assistants")
    assert (uploaded.filename, uploaded.bytes, uploaded.status) == ("refunds.md", len(REFUNDS), "processed")
    file = client.vector_stores.files.create_and_poll(
        uploaded.id, vector_store_id="handbook", attributes={"team": "support", "year": 2024, "public": True}
    )
    assert (file.status, file.last_error, file.id) == ("completed", None, uploaded.id)
    assert file.attributes == {"team": "support", "year": 2024, "public": True}
    assert file.usage_bytes == len(REFUNDS)
    found = client.vector_stores.search("handbook", query="when do I get my money back?", max_num_results=3)
    (best,) = found.data
    assert (best.file_id, best.filename, best.attributes) == (uploaded.id, "refunds.md", file.attributes)
    assert 0 < best.score <= 1
    (content,) = best.content
    text = REFUNDS.decode()
    assert content.text == text[content.start : content.end]  # type: ignore[attr-defined]  # ours
    assert (
        "".join(part.text or "" for part in client.vector_stores.files.content(uploaded.id, vector_store_id="handbook"))
        == text.rstrip()
    )
    assert client.files.content(uploaded.id).read() == REFUNDS
    assert client.vector_stores.retrieve("handbook").file_counts.completed == 1
    assert client.files.delete(uploaded.id).deleted
    assert results(client, "handbook", "money") == []
    with pytest.raises(openai.NotFoundError, match="no file"):
        client.files.retrieve(uploaded.id)
    assert client.vector_stores.delete("handbook").deleted
    with pytest.raises(openai.NotFoundError, match="handbook"):
        client.vector_stores.retrieve("handbook")


def test_it_is_a_collection_like_any_other(client: OpenAI, running: Server) -> None:
    document = {
        "id": "faq/1",
        "title": "Restart",
        "text": "Start the store first.",
        "metadata": {"year": 1999, "tags": ["x"]},
    }
    job = running.http.post("/v1/collections/library/documents", json={"documents": [document]}).json()
    until(lambda: running.http.get(f"/v1/jobs/{job['job']}").json()["status"] == "done")
    put(client, "library", "travel.md", TRAVEL)
    files = {file.id: file for file in client.vector_stores.files.list("library")}
    assert files.keys() > {"faq/1"}
    assert files["faq/1"].attributes == {"year": 1999}
    assert client.vector_stores.retrieve("library").file_counts.completed == len(files) == 2
    changed = client.vector_stores.files.update("faq/1", vector_store_id="library", attributes={"year": 2001.5})
    assert changed.attributes == {"year": 2001.5}
    own = running.http.get("/v1/collections/library/documents/faq/1").json()
    assert own["metadata"] == {"tags": ["x"], "year": 2001.5}
    texts = [part.text for part in client.vector_stores.files.content("faq/1", vector_store_id="library")]
    assert texts == ["Start the store first."]
    hit = running.http.post("/v1/collections/library/search", json={"query": "trains", "k": 1}).json()["hits"][0]
    assert hit["uri"].endswith("/travel.md")
    assert client.vector_stores.files.delete("faq/1", vector_store_id="library").deleted
    assert running.http.get("/v1/collections/library/documents").json()["total"] == 1
    client.vector_stores.delete("library")


def test_pages_of_files_fit_together(client: OpenAI, running: Server) -> None:
    early = client.files.create(file=("early.md", b"Uploaded first."), purpose="assistants")
    until(lambda: int(time.time()) > early.created_at)
    made = client.vector_stores.create()
    for number in (3, 1, 4, 2, 5):
        body = {"documents": [{"id": f"d{number}", "text": f"Document {number}."}]}
        job = running.http.post(f"/v1/collections/{made.id}/documents", json=body).json()["job"]
        until(lambda job=job: running.http.get(f"/v1/jobs/{job}").json()["status"] == "done")  # type: ignore[misc]
    client.vector_stores.files.create_and_poll(early.id, vector_store_id=made.id)
    late = put(client, made.id, "late.md", b"Uploaded last.").id
    oldest_first = [early.id, "d1", "d2", "d3", "d4", "d5", late]

    def page(**asked: Any) -> tuple[list[str], bool]:
        answer = running.http.get(f"/v1/vector_stores/{made.id}/files", params=asked).json()
        return [file["id"] for file in answer["data"]], answer["has_more"]

    for order, listed in (("asc", oldest_first), ("desc", oldest_first[::-1])):
        assert page(order=order) == (listed, False)
        for limit in (1, 3):
            for at, id in enumerate(listed):
                behind = listed[at + 1 : at + 1 + limit]
                assert page(order=order, limit=limit, after=id) == (behind, at + 1 + limit < len(listed))
                assert page(order=order, limit=limit, before=id)[0] == listed[max(0, at - limit) : at]
            between = page(order=order, limit=limit, after=listed[0], before=listed[-1])
            assert between == (listed[1 : 1 + limit], True)
    assert page(filter="failed") == ([], False)
    gone = running.http.get(f"/v1/vector_stores/{made.id}/files", params={"after": "d0"})
    assert gone.status_code == 400
    client.vector_stores.delete(made.id)


def test_a_document_whose_id_looks_like_an_uploads_is_a_file_like_any_other(
    client: OpenAI, running: Server, store: str
) -> None:
    uploaded = put(client, store, "refunds.md", REFUNDS)
    ids = ["file-019b8c5d2a40f1e2d3c4b5a6", "file-ffffffffffffffffffffffff", "plain"]
    body = {"documents": [{"id": id, "text": f"Document {id}.", "metadata": {"year": 1999}} for id in ids]}
    job = running.http.post(f"/v1/collections/{store}/documents", json=body).json()["job"]
    until(lambda: running.http.get(f"/v1/jobs/{job}").json()["status"] == "done")
    files = list(client.vector_stores.files.list(store, limit=1))
    assert sorted(file.id for file in files) == sorted([*ids, uploaded.id])
    listed = {file.id: file for file in files}
    made = client.vector_stores.retrieve(store)
    assert made.file_counts.completed == made.file_counts.total == 4
    told = client.vector_stores.files.retrieve(ids[0], vector_store_id=store)
    assert told == listed[ids[0]]
    assert (told.created_at, told.attributes, told.usage_bytes) == (
        made.created_at,
        {"year": 1999},
        len(f"Document {ids[0]}."),
    )
    assert client.vector_stores.files.delete(ids[0], vector_store_id=store).deleted
    with pytest.raises(openai.NotFoundError, match="no file"):
        client.vector_stores.files.retrieve(ids[0], vector_store_id=store)


def test_a_document_whose_uri_looks_like_an_uploads_is_found_under_its_own_id(
    client: OpenAI, running: Server, store: str
) -> None:
    uploaded = put(client, store, "refunds.md", REFUNDS)
    made = {"id": "d", "uri": "files/file-ffffffffffffffffffffffff/x.md", "text": "Money is for refunds."}
    job = running.http.post(f"/v1/collections/{store}/documents", json={"documents": [made]}).json()["job"]
    until(lambda: running.http.get(f"/v1/jobs/{job}").json()["status"] == "done")
    found = {each.file_id for each in results(client, store, "refunds")}
    assert found == {"d", uploaded.id} == {file.id for file in client.vector_stores.files.list(store)}


def test_a_file_whose_documents_were_deleted_as_such_can_be_deleted(
    client: OpenAI, running: Server, store: str
) -> None:
    uploaded = put(client, store, "refunds.md", REFUNDS)
    documents = f"/v1/collections/{store}/documents"
    (document,) = running.http.get(documents).json()["documents"]
    assert running.http.delete(f"{documents}/{document['id']}").is_success
    assert client.files.delete(uploaded.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.delete(uploaded.id)


def test_a_page_of_files_is_read_at_once(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = collection_of(here, "c", *["red green"] * 9)
    scans: list[str | None] = []
    scan = Store._scan

    def counted(self: Store, columns: list[str], condition: str | None, with_row_id: bool = False) -> Any:
        scans.append(condition)
        return scan(self, columns, condition, with_row_id)

    monkeypatch.setattr(Store, "_scan", counted)
    opened = SimpleNamespace(collection=collection)
    state = cast("Any", SimpleNamespace(settings=here, collections=SimpleNamespace(call=lambda _, work: work(opened))))

    def scans_for(limit: int) -> int:
        scans.clear()
        files = vector_stores.list_files(state, "c", None, Part("asc", None, None, limit))["data"]
        assert [(file["id"], file["usage_bytes"]) for file in files] == [(f"d{each}", 9) for each in range(limit)]
        return len(scans)

    assert scans_for(1) == scans_for(8)


def test_what_is_gone_meanwhile_is_left_out_of_a_page() -> None:
    def show(ids: Sequence[str]) -> list[dict[str, Any]]:
        return [{"id": id} for id in ids if id not in ("b", "c")]

    told = vector_stores.page(list("abcde"), Part("asc", None, None, 2), show)
    assert ([each["id"] for each in told["data"]], told["last_id"], told["has_more"]) == (["a", "d"], "d", True)
    told = vector_stores.page(list("abc"), Part("asc", "a", None, 2), show)
    assert (told["data"], told["last_id"], told["has_more"]) == ([], None, False)


def test_of_the_vector_stores_only_those_of_the_page_are_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    created = {"old": 1, "deleted": 2, "damaged": 3, "new": 4}
    looked: list[str] = []

    def show(_: State, name: str) -> dict[str, Any]:
        looked.append(name)
        if name == "deleted":
            raise NotFound("deleted just now")
        return {"id": name}

    def peek(name: str) -> Any:
        if name == "damaged":
            raise DamagedCollection("damaged")
        return SimpleNamespace(store=lambda: SimpleNamespace(created=created[name]))

    monkeypatch.setattr(vector_stores, "show", show)
    monkeypatch.setattr(vector_stores, "collection_names", lambda _: sorted(created))
    state = cast("Any", SimpleNamespace(settings=Settings(), collections=SimpleNamespace(peek=peek)))

    def page(after: str | None, limit: int) -> tuple[list[str], bool]:
        looked.clear()
        told = vector_stores.list_all(state, Part("asc", after, None, limit))
        return [each["id"] for each in told["data"]], told["has_more"]

    assert (page(None, 1), looked) == ((["old"], True), ["old"])
    assert (page("old", 1), looked) == ((["new"], False), ["deleted", "new"])


def test_names_that_no_collection_can_have_or_that_are_taken_get_another_id(client: OpenAI) -> None:
    named = client.vector_stores.create(name="Support FAQ", description="of 2026")
    again = client.vector_stores.create(name="Support FAQ")
    assert named.id != again.id
    assert (named.name, named.id[:3]) == ("Support FAQ", "vs_")
    renamed = client.vector_stores.update(named.id, name="FAQ", metadata={"a": "b"})
    assert (renamed.id, renamed.name, renamed.metadata) == (named.id, "FAQ", {"a": "b"})
    kept = client.vector_stores.update(named.id, metadata={})
    assert (kept.name, kept.metadata) == ("FAQ", {})
    listed = [each.id for each in client.vector_stores.list(limit=1)]  # the client goes on by itself
    assert {named.id, again.id} <= set(listed)
    assert len(listed) == len(set(listed))
    assert client.vector_stores.list(order="asc").data[-1].id == listed[0]
    for id in (named.id, again.id):
        client.vector_stores.delete(id)


@pytest.fixture(scope="module")
def shelf(client: OpenAI) -> Iterator[str]:
    """Of three files, one of which has no attributes."""
    made = client.vector_stores.create()
    put(client, made.id, "refunds.md", REFUNDS, attributes={"team": "o'support", "year": 2024, "public": True})
    put(client, made.id, "travel.md", TRAVEL, attributes={"team": "office", "year": 2020.5, "public": False})
    put(client, made.id, "other.txt", b"The office is open all year, money or not.")
    yield made.id
    client.vector_stores.delete(made.id)


def comparison(kind: str, key: str, value: Any) -> Any:
    return {"type": kind, "key": key, "value": value}


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (comparison("eq", "team", "o'support"), ["refunds.md"]),
        (comparison("eq", "year", 2024), ["refunds.md"]),
        (comparison("eq", "public", False), ["travel.md"]),
        (comparison("ne", "team", "office"), ["other.txt", "refunds.md"]),
        (comparison("ne", "year", "2024"), ["other.txt", "travel.md"]),
        (comparison("gt", "year", 2020), ["refunds.md", "travel.md"]),
        (comparison("gte", "year", 2020.5), ["refunds.md", "travel.md"]),
        (comparison("lt", "year", 2021), ["travel.md"]),
        (comparison("lte", "year", -1), []),
        (comparison("in", "team", ["office", "x"]), ["travel.md"]),
        (comparison("in", "year", [2024, "x"]), ["refunds.md"]),
        (comparison("in", "public", [True]), ["refunds.md"]),
        (comparison("nin", "team", ["office"]), ["other.txt", "refunds.md"]),
        (
            {"type": "and", "filters": [comparison("gt", "year", 2000), comparison("eq", "public", True)]},
            ["refunds.md"],
        ),
        (
            {
                "type": "or",
                "filters": [
                    comparison("eq", "team", "office"),
                    {"type": "and", "filters": [comparison("gte", "year", 2024)]},
                ],
            },
            ["refunds.md", "travel.md"],
        ),
    ],
    ids=str,
)
def test_filters(client: OpenAI, shelf: str, filters: Any, names: list[str]) -> None:
    assert sorted(found.filename for found in results(client, shelf, "office money", filters=filters)) == names


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ({"type": "like", "key": "a", "value": "b"}, "there are eq, ne"),
        ({"type": "eq", "key": "a"}, "'key' and 'value'"),
        ({"type": "eq", "key": 'a"b', "value": 1}, "double quotes"),
        ({"type": "gt", "key": "a", "value": True}, "no order"),
        ({"type": "eq", "key": "a", "value": None}, "a text, a number"),
        ({"type": "eq", "key": "a", "value": ["b"]}, "a text, a number"),
        ({"type": "in", "key": "a", "value": []}, "list of 1 to"),
        ({"type": "in", "key": "a", "value": "b"}, "list of 1 to"),
        ({"type": "and", "filters": []}, "at least one"),
        ({"type": "and", "filters": ["x"]}, r"filters.filters\[0\]: a filter is an object"),
    ],
)
def test_filters_that_cannot_be_expressed_are_refused(filters: Any, says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        sql_of(filters)
    assert refused.value.param == "filters"


def test_filters_nested_without_end_are_refused() -> None:
    filters: Any = comparison("eq", "a", 1)
    for _ in range(50):
        filters = {"type": "or", "filters": [filters]}
    with pytest.raises(Refused, match="nested"):
        sql_of(filters)


def test_ranking_options_and_several_queries(client: OpenAI, shelf: str) -> None:
    everything = results(client, shelf, "office money")
    assert [found.score for found in everything] == sorted((found.score for found in everything), reverse=True)
    threshold = everything[0].score
    assert (
        0
        < len(results(client, shelf, "office money", ranking_options={"score_threshold": threshold}))
        < len(everything)
    )
    assert len(results(client, shelf, "office money", max_num_results=1)) == 1
    page = client.vector_stores.search(shelf, query=["trains", "money paid back"], ranking_options={"ranker": "auto"})
    assert page.search_query == ["trains", "money paid back"]  # type: ignore[attr-defined]
    names = [found.filename for found in page.data]
    assert set(names[:2]) == {"travel.md", "refunds.md"}
    assert len({found.content[0].text for found in page.data}) == len(page.data)
    with pytest.raises(openai.NotFoundError, match="reranker"):
        results(client, shelf, "x", ranking_options={"ranker": "nothing"})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"query": "x", "max_num_results": 51}, "max_num_results"),
        ({"query": "x", "rewrite_query": True}, "rewrite_query"),
        ({"query": []}, "query"),
        ({"query": "x", "ranking_options": {"score_threshold": 2.0}}, "score_threshold"),
        ({"query": "x", "filters": comparison("like", "a", "b")}, "filters"),
    ],
)
def test_searches_that_cannot_be_made_are_refused(client: OpenAI, shelf: str, options: Any, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says) as refused:
        client.vector_stores.search(shelf, **options)
    assert refused.value.type == "invalid_request_error"


def test_a_collection_that_is_not_there(client: OpenAI) -> None:
    for call in (
        lambda: results(client, "nowhere", "x"),
        lambda: client.vector_stores.files.list("nowhere"),
        lambda: client.vector_stores.update("nowhere", name="x"),
        lambda: client.vector_stores.delete("nowhere"),
        lambda: put(client, "nowhere", "a.txt", b"a"),
        lambda: client.vector_stores.file_batches.retrieve("vsfb_x", vector_store_id="nowhere"),
    ):
        with pytest.raises(openai.NotFoundError, match="nowhere"):
            call()


def test_a_wrong_key(running: Server) -> None:
    with (
        OpenAI(base_url=f"{running.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="none of this service's") as refused,
    ):
        client.vector_stores.list()
    assert refused.value.code == "invalid_api_key"


def test_a_batch_tells_of_each_file(client: OpenAI, store: str) -> None:
    batch = client.vector_stores.file_batches.upload_and_poll(
        store, files=[("refunds.md", REFUNDS), ("blank.txt", b" \n"), ("people.jsonl", RECORDS)]
    )
    assert batch.status == "completed"
    counts = batch.file_counts
    assert (counts.total, counts.completed, counts.failed, counts.in_progress) == (3, 2, 1, 0)
    files = {
        file.status: file for file in client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store)
    }
    assert files.keys() == {"completed", "failed"}
    failed = files["failed"]
    assert failed.last_error
    assert (failed.last_error.code, failed.last_error.message) == ("invalid_file", "it holds only white space")
    there = client.vector_stores.retrieve(store)
    assert (there.status, there.file_counts.completed, there.file_counts.failed) == ("completed", 2, 1)
    assert [file.id for file in client.vector_stores.files.list(store, filter="failed")] == [failed.id]
    badge = results(client, store, "badge")[0]
    assert (badge.filename, badge.content[0].text) == ("people.jsonl", "Badges are handed out at the desk.")
    texts = [part.text for part in client.vector_stores.files.content(badge.file_id, vector_store_id=store)]
    assert texts == ["Badges are handed out at the desk.", "Desks are shared."]
    client.vector_stores.files.delete(failed.id, vector_store_id=store)
    client.vector_stores.files.delete(badge.file_id, vector_store_id=store)
    assert client.vector_stores.retrieve(store).file_counts.total == 1
    assert client.files.retrieve(badge.file_id).filename == "people.jsonl"


def test_more_than_fits_is_refused_before_it_is_read() -> None:
    upload = SimpleNamespace(id="file-1", bytes=600_000_000)
    state = SimpleNamespace(settings=Settings(), collections=SimpleNamespace(open=MagicMock()))
    with pytest.raises(Refused, match="These 2 files have 1,200 MB together; put in at most 1,000 MB at once"):
        vector_stores.attach(cast("Any", state), "c", [(cast("Any", upload), {})] * 2, None)


@pytest.mark.parametrize(
    ("job", "lines", "status", "in_progress"),
    [
        ("running", {}, "in_progress", 2),
        ("running", {"a": ["indexed"]}, "in_progress", 1),
        ("running", {"a": ["indexed"], "b": ["empty"]}, "completed", 0),  # it is still at its upkeep
        ("done", {"a": ["indexed"], "b": ["empty"]}, "completed", 0),
        ("interrupted", {"a": ["indexed"], "b": ["indexed"]}, "completed", 0),
        ("interrupted", {"a": ["indexed"]}, "failed", 0),
        ("failed", {}, "failed", 0),
    ],
)
def test_status_and_counts_of_a_batch_agree(
    job: str, lines: dict[str, list[str]], status: str, in_progress: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {id: [{"uri": id, "status": each, "reason": "no"} for each in those] for id, those in lines.items()}
    work = vector_stores._Work(job, None, 2, 0, told)
    monkeypatch.setattr(vector_stores, "_batch", lambda *_: work)
    batch = vector_stores.show_batch(cast("State", None), "c", "vsfb_x")
    assert (batch["status"], batch["file_counts"]["in_progress"]) == (status, in_progress)


def test_a_batch_of_files_with_attributes_of_their_own(client: OpenAI, store: str) -> None:
    ids = [client.files.create(file=(name, REFUNDS), purpose="assistants").id for name in ("a.md", "a.md")]
    files: Any = [{"file_id": id, "attributes": {"number": number}} for number, id in enumerate(ids)]
    batch = client.vector_stores.file_batches.create_and_poll(store, files=files)
    # Of one name and one text, and yet two: whoever attaches a file wants it there.
    assert batch.file_counts.completed == 2
    numbers = {file.id: file.attributes for file in client.vector_stores.files.list(store)}
    assert numbers == {id: {"number": number} for number, id in enumerate(ids)}
    again = client.vector_stores.files.create_and_poll(ids[0], vector_store_id=store, attributes={"number": 7})
    assert (again.status, again.attributes) == ("completed", {"number": 7})
    with pytest.raises(openai.BadRequestError, match="either file_ids or files"):
        client.vector_stores.file_batches.create(store, file_ids=ids, files=files)
    with pytest.raises(openai.NotFoundError, match="file-gone"):
        client.vector_stores.file_batches.create(store, file_ids=["file-gone"])


def test_chunking(client: OpenAI) -> None:
    text = " ".join(f"Sentence number {number} is about nothing." for number in range(60)).encode()
    static: Any = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20}}
    made = client.vector_stores.create(metadata={"kept": "yes"})
    file = put(client, made.id, "long.txt", text, chunking_strategy=static)
    assert file.chunking_strategy.static.max_chunk_size_tokens == 100
    assert client.vector_stores.retrieve(made.id).created_at == made.created_at  # though it was made anew for that
    assert file.chunking_strategy.static.chunk_overlap_tokens == 20
    assert client.vector_stores.retrieve(made.id).metadata == {"kept": "yes"}
    assert put(client, made.id, "a.txt", b"a", chunking_strategy={"type": "auto"}).status == "completed"
    assert put(client, made.id, "b.txt", b"b", chunking_strategy=static).status == "completed"
    other: Any = {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 20}}
    with pytest.raises(openai.BadRequestError, match="passages of 100 tokens"):
        put(client, made.id, "c.txt", b"c", chunking_strategy=other)
    client.vector_stores.delete(made.id)
    # OpenAI's own default is more than the model's window: the most is kept to all the same.
    large: Any = {"type": "static", "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}}
    made = client.vector_stores.create(chunking_strategy=large)
    file = put(client, made.id, "a.txt", b"a", chunking_strategy=large)
    assert file.chunking_strategy.static.max_chunk_size_tokens <= 512
    client.vector_stores.delete(made.id)
    large["static"]["chunk_overlap_tokens"] = 401
    with pytest.raises(openai.BadRequestError, match="half"):
        client.vector_stores.create(chunking_strategy=large)


def test_files_asked_for_at_creation(client: OpenAI) -> None:
    id = client.files.create(file=("refunds.md", REFUNDS), purpose="user_data").id
    made = client.vector_stores.create(name="at once", file_ids=[id])
    assert made.file_counts.total == 1
    until(lambda: client.vector_stores.retrieve(made.id).status == "completed")
    assert [found.file_id for found in results(client, made.id, "money")] == [id]
    client.vector_stores.delete(made.id)
    assert id in [file.id for file in client.files.list(purpose="user_data")]
    with pytest.raises(openai.NotFoundError, match="file-nope"):
        client.vector_stores.create(file_ids=["file-nope"])
    with pytest.raises(openai.BadRequestError, match="expires_after"):
        client.vector_stores.create(expires_after={"anchor": "last_active_at", "days": 1})


def test_uploads_that_are_refused(client: OpenAI, running: Server) -> None:
    with pytest.raises(openai.APIStatusError, match="max_file_mb") as refused:
        client.files.create(file=("large.txt", b"x" * 1_500_000), purpose="assistants")
    assert (refused.value.status_code, refused.value.type) == (413, "invalid_request_error")
    with pytest.raises(openai.APIStatusError, match="max_body_mb") as refused:
        client.files.create(file=("huge.txt", b"x" * 4_000_000), purpose="assistants")
    assert refused.value.status_code == 413
    kept = [
        client.files.create(file=(f"{number}.txt", b"x" * 1_000_000), purpose="assistants").id for number in range(4)
    ]
    with pytest.raises(openai.APIStatusError, match="uploads_mb") as refused:
        client.files.create(file=("one more.txt", b"x" * 1_000_000), purpose="assistants")
    assert refused.value.status_code == 507
    for id in kept:
        client.files.delete(id)
    answer = running.http.post("/v1/files", data={"purpose": "assistants"}, files={"other": b"x"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "file"


@pytest.mark.parametrize("name", ["../../etc/passwd", "a#b%20c.txt", "é\\x/ü.md", "", "…" * 80 + ".md"])
def test_names_of_files_are_kept_and_harm_nothing(client: OpenAI, store: str, name: str, data_dir: Path) -> None:
    file = put(client, store, name or "  ", REFUNDS)
    assert file.status == "completed"
    wanted = name.replace("\\", "/").rpartition("/")[2] or "unnamed"
    assert client.files.retrieve(file.id).filename == wanted
    assert results(client, store, "money")[0].filename == wanted
    assert {entry.name for entry in (data_dir / ".files").iterdir() if not entry.name.startswith(("file-", "."))} <= {
        "jobs"
    }


def test_a_file_of_bytes_that_are_no_text_fails_and_says_why(client: OpenAI, store: str) -> None:
    file = put(client, store, "program.exe", bytes(range(256)) * 20)
    assert file.status == "failed"
    assert file.last_error.code == "unsupported_file"
    with pytest.raises(openai.NotFoundError, match="failed"):
        client.vector_stores.files.content(file.id, vector_store_id=store)


def test_what_is_still_being_read_is_told_so_and_stays(client: OpenAI, store: str, data_dir: Path) -> None:
    id = client.files.create(file=io.BytesIO(REFUNDS), purpose="assistants").id
    with write_lock(data_dir / store, 10):
        file = client.vector_stores.files.create(store, file_id=id, attributes={"a": "b"})
        assert (file.status, file.attributes) == ("in_progress", {"a": "b"})
        batch = client.vector_stores.file_batches.create(store, file_ids=[id])
        assert (batch.status, batch.file_counts.in_progress, batch.file_counts.total) == ("in_progress", 1, 1)
        waiting = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store, filter="in_progress")
        assert [each.id for each in waiting] == [id]
        there = client.vector_stores.retrieve(store)
        assert (there.status, there.file_counts.in_progress) == ("in_progress", 1)
        with pytest.raises(openai.ConflictError, match="still being read"):
            client.files.delete(id)
    assert client.vector_stores.file_batches.poll(batch.id, vector_store_id=store).file_counts.completed == 1
    assert client.vector_stores.files.poll(id, vector_store_id=store).status == "completed"
    assert client.vector_stores.retrieve(store).file_counts.total == 1
    assert client.files.delete(id).deleted


def test_the_state_outlives_the_server(data_dir: Path, tmp_path: Path) -> None:
    with server(tmp_path / "indexes") as first, OpenAI(base_url=f"{first.url}/v1", api_key="-") as client:
        made = client.vector_stores.create(name="Kept")
        kept = put(client, made.id, "refunds.md", REFUNDS, attributes={"a": 1})
        lost = put(client, made.id, "blank.txt", b"")
        first.process.kill()
    with server(tmp_path / "indexes") as second, OpenAI(base_url=f"{second.url}/v1", api_key="-") as client:
        assert client.vector_stores.retrieve(made.id).name == "Kept"
        files = {file.id: file.status for file in client.vector_stores.files.list(made.id)}
        assert files == {kept.id: "completed", lost.id: "failed"}
        assert client.files.content(kept.id).read() == REFUNDS


def test_the_id_of_a_document_is_no_path(client: OpenAI, running: Server, store: str, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}")
    ids = [str(tmp_path / "package"), "a\0b", "long" * 100]
    for id in ids:
        job = running.http.post(f"/v1/collections/{store}/documents", json={"documents": [{"id": id, "text": id}]})
        until(lambda job=job: running.http.get(f"/v1/jobs/{job.json()['job']}").json()["status"] == "done")
        assert client.vector_stores.files.delete(id, vector_store_id=store).deleted
    assert (tmp_path / "package.json").exists()


def test_what_could_be_put_back_keeps_a_collection_from_being_made_anew(
    client: OpenAI, running: Server, store: str
) -> None:
    file = put(client, store, "refunds.md", REFUNDS)
    running.http.post(f"/v1/collections/{store}/snapshots", json={"label": "before"}).raise_for_status()
    client.vector_stores.files.delete(file.id, vector_store_id=store)
    other: Any = {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 20}}
    with pytest.raises(openai.BadRequestError, match="stay so"):
        put(client, store, "travel.md", TRAVEL, chunking_strategy=other)
    kept = running.http.get(f"/v1/collections/{store}/snapshots").json()["snapshots"]
    assert [each["labels"] for each in kept] == [["before"]]
