"""The Python API: one suite over collections in this process and of a service, each synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import embedsvc
from embedsvc import errors
from embedsvc.api.collections import AsyncCollection, Collection
from embedsvc.api.libraries import AsyncLibrary, Library
from embedsvc.api.options import CollectionOptions, SearchOptions
from embedsvc.api.remote import Remote, body_of, pause_before
from embedsvc.api.steps import Pause, Request, Response, run
from embedsvc.encoding import Encoder
from embedsvc.encoding.canaries import CANARY_TEXTS
from embedsvc.ingest import FIXED
from embedsvc.opened import Hold
from embedsvc.search.asking import Asked
from embedsvc.search.telling import answer_dict, answer_of
from embedsvc.service.schemas import CollectionRequest, SearchRequest
from embedsvc.statuses import STATUS
from embedsvc.upkeep import Upkeep
from embedsvc.vectors import VectorIndex
from tests.conftest import write_tree
from tests.server import server
from tests.test_layers import HOMES, loaded
from tests.test_reranking import FakeReranker

REFUNDS = "# Refunds\n\nMoney is paid back within 14 days of a return.\n\n# Travel\n\nThe office books trains.\n"
HANDBOOK = {
    "refunds.md": REFUNDS,
    "garden/trees.txt": "Prune the apple trees in winter. Tomatoes want sun and water.",
    "broken.pdf": "%PDF-1.4 and no more",
}


class Awaited:
    """Something asynchronous, called as if it were not."""

    def __init__(self, wrapped: Any, loop: asyncio.Runner) -> None:
        self._wrapped, self._loop = wrapped, loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        if inspect.iscoroutinefunction(value):
            return lambda *given, **named: self._wrapped_again(self._loop.run(value(*given, **named)))
        return (lambda *given: self._wrapped_again(value(*given))) if name == "open" else value

    def _wrapped_again(self, value: Any) -> Any:
        return Awaited(value, self._loop) if isinstance(value, AsyncCollection) else value


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def url(data: Path) -> Iterator[str]:
    with server(data) as running:
        yield running.url


@pytest.fixture(params=["embedded", "embedded async", "remote", "remote async"])
def library(request: pytest.FixtureRequest, url: str, data: Path) -> Iterator[Any]:
    """Collections of one data directory, got at in each of the ways."""
    settings = {"data_dir": data, "runtime": "onnx", "dtype": "int8"}
    match request.param:
        case "embedded":
            yield embedsvc.library(**settings)
        case "remote":
            with embedsvc.connect(url) as library:
                yield library
        case way:
            with asyncio.Runner() as loop:
                made = embedsvc.library_async(**settings) if way == "embedded async" else embedsvc.connect_async(url)
                yield Awaited(made, loop)
                loop.run(made.close())


@pytest.fixture
def handbook(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "handbook", HANDBOOK)


@pytest.fixture
def docs(library: Any) -> Iterator[Any]:
    yield library.open("c")
    if "c" in library.names():
        library.delete("c")


# -- the suite ---------------------------------------------------------------------------------------------------------


def test_files_are_indexed_and_searched(docs: Any, handbook: Path) -> None:
    report = docs.index(handbook)
    assert report.counts == {"indexed": 2, "quarantined": 1}
    assert [outcome.reason.partition(":")[0] for outcome in report.failed] == ["damaged"]
    answer = docs.search("how do refunds work?", k=2)
    assert isinstance(answer, embedsvc.Answer)
    best = answer.hits[0]
    assert isinstance(best, embedsvc.Hit)
    assert best.uri.endswith("handbook/refunds.md")
    assert best.text == REFUNDS[best.start : best.end]
    assert (best.title, answer.collection, answer.mode, len(answer.hits)) == ("Refunds", "c", "hybrid", 2)
    assert docs.index(str(handbook)).counts == {"unchanged": 2, "quarantined": 1}
    (handbook / "refunds.md").write_text("# Refunds\n\nNone are given.\n")
    assert docs.index(handbook, exclude=["*.pdf"]).counts == {"replaced": 1, "unchanged": 1}
    assert docs.index(handbook, include=["garden/"]).counts == {"unchanged": 1}


def test_after_its_end_a_library_refuses_calls(library: Any, handbook: Path) -> None:
    docs = library.open("closing")
    docs.add([{"text": "Jupiter is a planet."}])
    library.delete("closing")
    library.close()
    library.close()
    for call in (
        lambda: library.names(),
        lambda: library.create("c"),
        lambda: library.embed(["a"]),
        lambda: library.delete("c"),
        lambda: docs.search("planets"),
        lambda: docs.index(handbook),
        lambda: docs.add([{"text": "a"}]),
        lambda: docs.count(),
        lambda: docs.describe(),
    ):
        with pytest.raises(errors.UsageError, match="was closed"):
            call()


def test_documents_are_added_read_listed_and_deleted(docs: Any) -> None:
    report = docs.add(
        [
            {"id": "a/1", "text": "Jupiter is a planet.", "title": "Sky", "metadata": {"year": 2020}},
            {"id": "b", "uri": "urn:own:b", "text": "Bread needs flour."},
            {"id": "b", "text": "Another with the same id."},
            {"id": "c", "text": " \n"},
            {"id": "d", "text": "A lone surrogate: \ud800.", "title": "\ud800", "metadata": {"by": "\udfff"}},
        ]
    )
    assert {outcome.uri: outcome.status for outcome in report.outcomes if outcome.uri != "urn:own:b"} == {
        "urn:embedsvc:a/1": "indexed",
        "urn:embedsvc:b": "quarantined",
        "urn:embedsvc:c": "empty",
        "urn:embedsvc:d": "indexed",
    }
    assert "'b'" in next(outcome.reason for outcome in report.failed if outcome.status == "quarantined")
    assert report.passages == docs.count() == docs.describe()["documents"] == 3
    read = docs.get("a/1")
    assert isinstance(read, embedsvc.WholeText)
    assert (read.text, read.title, read.uri) == ("Jupiter is a planet.", "Sky", "urn:embedsvc:a/1")
    assert read.metadata == {"year": 2020}
    assert [(span.start, span.end) for span in read.passages] == [(0, 20)]
    (note,) = next(outcome.notes for outcome in report.outcomes if outcome.uri == "urn:embedsvc:d")
    assert note == "3 lone surrogate(s) replaced by U+FFFD"
    assert docs.get("d").text == "A lone surrogate: \ufffd."
    assert [document.id for document in docs.documents()] == ["a/1", "d", "b"]
    assert [document.id for document in docs.documents(limit=1, offset=1)] == ["d"]
    docs.delete("a/1")
    with pytest.raises(errors.NotFound, match="a/1"):
        docs.get("a/1")
    with pytest.raises(errors.NotFound, match="a/1"):
        docs.delete("a/1")
    assert [hit.document_id for hit in docs.search("planet", k=1).hits] == ["b"] or docs.count() == 2


def test_searches_take_filters_vectors_and_the_other_options(docs: Any) -> None:
    docs.add(
        [{"id": f"{year}", "text": f"The report of {year}.", "metadata": {"year": year}} for year in range(2000, 2010)]
    )
    found = docs.search("report", filter="metadata.year >= 2008", k=5)
    assert {hit.metadata["year"] for hit in found.hits} == {2008, 2009}
    assert [hit.document_id for hit in docs.search("report of 2003", mode="lexical", k=1).hits] == ["2003"]
    dimension = docs.describe()["contract"]["dimension"]
    by_vector = docs.search([1.0] + [0.0] * (dimension - 1), k=3)
    assert (by_vector.mode, len(by_vector.hits)) == ("dense", 3)
    weighed = docs.search("report of 2003", fusion={"weight": 0.0}, k=1)
    assert weighed.hits[0].document_id == "2003"
    boosted = docs.search("report", boosts=[{"filter": "metadata.year = 2005", "factor": 100.0}], k=1)
    assert boosted.hits[0].metadata == {"year": 2005}


def test_narrow_near_diversity_groups_and_warnings_are_those_of_rest(docs: Any, handbook: Path) -> None:
    filler = " ".join(f"Sentence {number} says something else altogether." for number in range(30))
    long = f"{filler} Refunds take 14 days. {filler}"
    docs.add([{"id": name, "text": f"{long} Edition {name}.", "metadata": {"kind": "x"}} for name in "ab"])
    narrowed = docs.search("how long do refunds take?", narrow=20, k=1).hits[0]
    assert "Refunds take 14 days." in narrowed.text
    assert len(narrowed.text) < len(long) / 4
    folded = docs.search("how long do refunds take?", duplicates="near", k=10)
    assert {copy.document_id for hit in folded.hits for copy in hit.duplicates}
    grouped = docs.search("refunds", group_by="metadata.kind", per_group=1, k=10)
    assert len(grouped.hits) == 1
    assert len(docs.search("refunds", diversity=0.5, k=2).hits) == 2
    assert any("quotes" in warning for warning in docs.search('"no such phrase" refunds').warnings)


def test_a_context_is_packed_within_its_tokens(docs: Any, handbook: Path) -> None:
    docs.index(handbook)
    context = docs.context("how do refunds work?", max_tokens=40, expand="document")
    assert isinstance(context, embedsvc.Context)
    assert context.text.startswith("[1] Refunds")
    assert context.tokens <= 40
    source = context.sources[0]
    assert source.text == REFUNDS[source.start : source.end]


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"k": 0}, errors.UsageError, "k is 0"),
        ({"filter": "metadata.year >"}, errors.BadFilter, "filter"),
        ({"rerank_depth": 20}, errors.UsageError, "send rerank too"),
        ({"fusion": {"wait": 1}}, errors.UsageError, "wait"),
        ({"fusion": {"weight": 2.0}}, errors.UsageError, "weight is 2"),
        ({"fusion": {"weight": 0.5}, "mode": "dense"}, errors.UsageError, "of mode hybrid"),
        ({"max_context_tokens": 200_001}, errors.UsageError, "200,001"),
        ({"narrow": 20, "group_by": "document"}, errors.UsageError, "narrow"),
        ({"query": "restart " * 2000}, errors.QueryTooLong, "Shorten it"),
        ({"query": " "}, errors.UsageError, "query is empty"),
        ({"query": [1.0, 2.0]}, errors.UsageError, "2 numbers|dimension"),
        ({"query": None}, errors.UsageError, "query is None; it must be a text"),
        ({"query": ["a", "b"]}, errors.UsageError, "must be a text, or a vector"),
        ({"query": b"ab"}, errors.UsageError, "must be a text, or a vector"),
        ({"filtre": "page = 1"}, errors.UsageError, "no search option filtre. Did you mean filter"),
        ({"weight": 1.2}, errors.UsageError, r"give fusion={'weight': 1.2}"),
        ({"k": "5"}, errors.UsageError, "k is '5'; it must be a whole number"),
        ({"k": None}, errors.UsageError, "k is None; it must be a whole number"),
        ({"k": True}, errors.UsageError, "k is True"),
        ({"mode": "vector"}, errors.UsageError, "mode is 'vector'; choose hybrid, dense, lexical"),
        ({"expand": "chapter"}, errors.UsageError, "expand is 'chapter'; choose neighbours, section, document"),
        ({"query": [float("nan")] * 384}, errors.UsageError, "zero or not finite"),
        ({"query": [0.0] * 384}, errors.UsageError, "zero or not finite"),
        ({"highlight": "yes"}, errors.UsageError, "highlight is 'yes'; it must be True or False"),
        ({"mode": 1}, errors.UsageError, "mode is 1; it must be a text"),
        ({"fusion": {"weight": "much"}}, errors.UsageError, "weight of fusion is 'much'; it must be a number"),
        ({"fusion": 3}, errors.UsageError, "fusion is 3; it must be a dict"),
        ({"boosts": ["a"]}, errors.UsageError, r"boosts\[0\] is 'a'"),
    ],
)
def test_a_wrong_search_is_refused(docs: Any, options: dict[str, Any], kind: type[Exception], told: str) -> None:
    docs.add([{"text": "Something."}])
    with pytest.raises(kind, match=told) as caught:
        docs.search(**{"query": "something", **options})
    assert type(caught.value) is kind


def test_a_collection_that_is_missing_is_told_with_the_nearest_name(library: Any, docs: Any) -> None:
    docs.add([{"text": "Something."}])
    missing = library.open("cc")
    for ask in (partial(missing.search, "x"), missing.count, missing.describe, partial(missing.get, "x")):
        with pytest.raises(errors.NotFound, match="Did you mean 'c'"):
            ask()
    with pytest.raises(errors.UsageError, match="cannot name a collection"):
        library.open("../c")
    assert library.names() == ["c"]
    library.delete("c")
    assert library.names() == []
    with pytest.raises(errors.NotFound):
        docs.search("x")
    docs.add([{"text": "Made anew."}])
    assert docs.search("anew").hits[0].text == "Made anew."


def test_what_cannot_be_put_in_is_refused_before_anything_is(library: Any, docs: Any, tmp_path: Path) -> None:
    fine = {"text": "fine"}
    for wrong, told in (
        ({"title": "no text"}, r"documents\[1\] has no text"),
        ({"text": 5}, r"text of documents\[1\] is 5"),
        ({"text": "x", "url": "y"}, "field 'url'"),
        ({"content": "x"}, "field 'content'; there are text, "),
        ({"text": "x", "metadata": {"when": {1, 2}}}, "metadata .* is not JSON"),
        ({"text": "x", "metadata": {"n": float("nan")}}, "metadata .* is not JSON"),
        ({"text": "x", "id": ""}, "empty"),
        ({"text": "x", "id": "i" * 513}, "513 characters"),
        ("x", r"documents\[1\] is a str"),
    ):
        with pytest.raises(errors.UsageError, match=told):
            docs.add([fine, wrong])
    for single, called in ((fine, "dict"), ("fine", "str"), (5, "int")):
        with pytest.raises(errors.UsageError, match=f"documents is a {called}; give a list of dicts"):
            docs.add(single)
    with pytest.raises(errors.NotFound, match="nowhere"):
        docs.index(tmp_path / "nowhere")
    with pytest.raises(errors.UsageError, match="nothing to index"):
        docs.index()
    with pytest.raises(errors.UsageError, match=r"is no path\. Name several one after the other"):
        docs.index([tmp_path])
    assert library.names() == []
    docs.add([])
    with pytest.raises(errors.UsageError, match="limit is 0, offset 0; ask for 1 to 1000"):
        docs.documents(limit=0)
    for delete in (docs.delete_many, docs.delete_uris, docs.get_many):
        with pytest.raises(errors.UsageError, match=r"s is 'g3'; give a list: \['g3'\]"):
            delete("g3")


LONG = "The town council met on Tuesday. " * 100


def test_long_texts_are_embedded_as_is_said(library: Any) -> None:
    with pytest.raises(errors.QueryTooLong, match="on_overflow=split or truncate"):
        library.embed([LONG])
    (split,), (cut,) = (library.embed([f"{LONG} Jupiter."], on_overflow=way) for way in ("split", "truncate"))
    (beginning,) = library.embed([LONG], on_overflow="truncate")
    assert cut == pytest.approx(beginning, abs=1e-6)
    assert split != pytest.approx(beginning, abs=1e-4)
    assert sum(number * number for number in split) == pytest.approx(1)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"texts": "abc"}, r"texts is 'abc'; give a list: \['abc'\]"),
        ({"texts": 5}, "texts is 5; give a list"),
        ({"texts": ["a", ""]}, r"texts\[1\] is empty"),
        ({"texts": ["a"], "kind": "doc"}, "kind is 'doc'; choose query, passage"),
        ({"texts": ["a"], "on_overflow": "refuse"}, "on_overflow is 'refuse'; choose error, split, truncate"),
    ],
)
def test_what_cannot_be_embedded_is_refused(library: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(errors.UsageError, match=told):
        library.embed(**given)


def test_more_than_is_sent_at_once(docs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedsvc.api.remote._BATCH_DOCUMENTS", 3)
    monkeypatch.setattr("embedsvc.api.remote._BATCH_FILES", 3)
    report = docs.add({"id": f"{number % 7}", "text": f"Number {number}."} for number in range(8))
    assert report.counts == {"indexed": 7, "quarantined": 1}
    files = write_tree(tmp_path / "many", {f"{number}.txt": f"File {number}." for number in range(8)})
    assert docs.index(files / "1.txt", files).counts == {"indexed": 8}
    assert docs.count() == 15
    assert docs.search("Number 6.", mode="lexical", k=1).hits[0].document_id == "6"


def test_folders_that_would_be_cited_alike_are_not_sent_over_one_another(url: str, tmp_path: Path) -> None:
    one, other = (write_tree(tmp_path / top / "docs", {"a.txt": f"Of {top}."}) for top in ("one", "other"))
    with embedsvc.connect(url) as library:
        docs = library.open("alike")
        with pytest.raises(errors.UsageError, match=r"one/docs and .*other/docs would both be cited as docs"):
            docs.index(one, other)
        assert docs.index(tmp_path, one).counts == {"indexed": 2}
        library.delete("alike")
        with pytest.raises(errors.NotFound):
            docs.index(tmp_path / "gone" / "docs")
        for _ in range(2):
            assert docs.index(one).counts.keys() <= {"indexed", "unchanged"}
            with pytest.raises(errors.UsageError, match=r"one/docs and .*other/docs would both be cited as docs"):
                docs.index(other)
        assert docs.search("Of whom?").hits[0].text == "Of one."
        assert library.open("other").index(other).counts == {"indexed": 1}
        library.delete("other")
        library.delete("alike")
        assert docs.index(other).counts == {"indexed": 1}
    with embedsvc.connect(url) as library:  # which knows nothing of that, and tells what was replaced
        assert library.open("alike").index(one).counts == {"replaced": 1}
        library.delete("alike")


def test_a_folder_within_another_of_its_name_is_cited_below_it(url: str, tmp_path: Path) -> None:
    outer = write_tree(tmp_path / "docs", {"a.txt": "Of the outer.", "docs/a.txt": "Of the inner."})
    with embedsvc.connect(url) as library:
        docs = library.open("nested")
        assert docs.index(outer / "docs", outer).counts == {"indexed": 2}
        with pytest.raises(errors.UsageError, match="would both be cited as docs"):
            docs.index(outer / "docs")
        library.delete("nested")


def test_folders_that_would_be_cited_alike_are_told_apart_in_calls_at_once(url: str, tmp_path: Path) -> None:
    one, other = (write_tree(tmp_path / top / "docs", {"a.txt": f"Of {top}."}) for top in ("one", "other"))

    async def at_once() -> list[Any]:
        async with embedsvc.connect_async(url) as library:
            docs = library.open("together")
            came = await asyncio.gather(docs.index(one), docs.index(other), return_exceptions=True)
            await library.delete("together")
            return came

    report, refused = asyncio.run(at_once())
    assert report.counts == {"indexed": 1}
    assert isinstance(refused, errors.UsageError)


def test_a_reranker_that_is_not_there_is_told(docs: Any) -> None:
    docs.add([{"text": "Something."}])
    with pytest.raises((errors.NotFound, errors.ModelError), match=r"no-such|No reranker is served"):
        docs.search("something", rerank="no-such")


def test_documents_are_listed_by_a_filter_and_deleted_together(docs: Any) -> None:
    docs.add([{"id": f"{number}", "text": f"No. {number}.", "metadata": {"n": number}} for number in range(6)])
    assert [document.id for document in docs.documents(filter="metadata.n >= 4")] == ["4", "5"]
    assert [document.id for document in docs.documents(limit=1, offset=1, filter="metadata.n >= 4")] == ["5"]
    assert docs.count(filter="metadata.n < 2 OR text LIKE '%5%'") == 3
    assert docs.count(filter="metadata.none = 1") == 0
    for ask in (docs.documents, docs.count):
        with pytest.raises(errors.BadFilter):
            ask(filter="metadata.n >")
    assert docs.get_many(["5", "no-such", "0", "5"]) == [docs.get("5"), docs.get("0")]
    assert docs.delete_many(["1", "no-such", "2"]) == 2
    assert docs.delete_many([]) == docs.delete_many(["1"]) == 0
    assert docs.delete_uris(["urn:embedsvc:5", "urn:embedsvc:3"]) == ["urn:embedsvc:3", "urn:embedsvc:5"]
    with pytest.raises(errors.NotFound, match="none was deleted"):
        docs.delete_uris(["urn:embedsvc:0", "urn:none"])
    assert docs.delete_uris([]) == []
    assert docs.count() == 2
    long = [f"kb://{number}?{'x' * 90}" for number in range(900)]  # more than a URL has room for
    with pytest.raises(errors.NotFound, match="none was deleted"):
        docs.delete_uris(["urn:embedsvc:0", *long])
    assert docs.delete_uris(["urn:embedsvc:0", "urn:embedsvc:4"] * 500) == ["urn:embedsvc:0", "urn:embedsvc:4"]
    assert docs.count() == 0


def test_documents_are_deleted_by_a_filter(docs: Any) -> None:
    docs.add({"id": f"{number}", "text": f"No. {number}.", "metadata": {"n": number}} for number in range(6))
    assert docs.delete_many(filter="metadata.n >= 4") == 2
    assert docs.delete_many(["0", "3", "no-such"], filter="metadata.n < 2") == 1
    assert docs.delete_many(filter="metadata.n > 7") == docs.delete_many([], filter="TRUE") == 0
    assert [document.id for document in docs.documents()] == ["1", "2", "3"]
    assert docs.search("No. 0.", mode="lexical", k=3).hits
    assert docs.delete_many(filter="TRUE") == 3
    assert docs.count() == 0


def test_metadata_are_set_and_nothing_is_encoded(docs: Any, handbook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs.index(handbook)
    docs.add({"id": f"{n}", "text": f"No. {n}.", "metadata": {"n": n, "draft": True}} for n in range(6))
    answer = docs.search("how do refunds work?", k=10)
    with monkeypatch.context() as patch:  # what a service does is seen in test_service
        patch.setattr(Encoder, "submit", None)
        patch.setattr(Encoder, "encode_texts", None)
        over = {"team": "support", "draft": None, "of": {"a": [1]}}
        assert docs.set_metadata(over, filter="metadata.n >= 4") == 2
        assert docs.set_metadata(over, ["4", "3", "no-such"]) == 1
        assert docs.set_metadata({"n": 0}, ["0", "1"], filter="metadata.n > 0") == 1
        assert docs.set_metadata({"kind": "page"}, filter="uri LIKE '%refunds.md'") == 1
        assert docs.set_metadata({"x": 1}, ["no-such"]) == docs.set_metadata({"x": 1}, []) == 0
    assert [document.id for document in docs.documents(filter="metadata.team = 'support'")] == ["3", "4", "5"]
    assert docs.get("5").metadata == {"n": 5, "team": "support", "of": {"a": [1]}}
    assert docs.get("1").metadata == {"n": 0, "draft": True}
    same = docs.search("how do refunds work?", k=10)
    # Not their order where scores are equal: what was written again comes after what was not.
    assert {hit.id: (hit.score, hit.heading) for hit in same.hits} == {
        hit.id: (pytest.approx(hit.score), hit.heading) for hit in answer.hits
    }
    assert same.hits[0].id == answer.hits[0].id
    assert same.hits[0].metadata == {"kind": "page"}
    # What is put in again has what it comes with.
    assert docs.add([{"id": "5", "text": "No. 5.", "metadata": {"n": 5, "draft": True}}]).counts == {"replaced": 1}
    assert docs.get("5").metadata == {"n": 5, "draft": True}


def test_nobody_means_all_documents_by_accident(library: Any, docs: Any) -> None:
    docs.add([{"id": "1", "text": "Something.", "metadata": {"n": 1}}])
    for edit in (docs.delete_many, partial(docs.set_metadata, {"x": 1})):
        for given, kind, told in (
            ({}, errors.UsageError, "Say which documents are meant"),
            ({"filter": ""}, errors.BadFilter, "The filter is empty, so no document is meant. If all are: TRUE"),
            ({"filter": " "}, errors.BadFilter, "The filter is empty"),
            ({"filter": "metadata.n >"}, errors.BadFilter, "metadata.n >"),
            ({"filter": {"n": 1}}, errors.UsageError, "filter is {'n': 1}; it must be a text"),
            ({"ids": "metadata.n = 1"}, errors.UsageError, "give a list"),
        ):
            with pytest.raises(kind, match=told) as caught:
                edit(**given)
            assert type(caught.value) is kind
    for metadata, told in (({"a": {1}}, "metadata is not JSON"), ([("a", 1)], "it must be a dict"), (None, "a dict")):
        with pytest.raises(errors.UsageError, match=told):
            docs.set_metadata(metadata, ["1"])
    assert docs.get("1").metadata == {"n": 1}
    missing = library.open("cc")
    for edit in (missing.delete_many, partial(missing.set_metadata, {"x": 1})):
        with pytest.raises(errors.NotFound, match="Did you mean 'c'"):
            edit(filter="TRUE")


def test_a_request_that_has_no_room_in_a_url_is_told(url: str) -> None:
    filter = f"uri = '{'x' * 100_000}'"
    with embedsvc.connect(url) as library, pytest.raises(errors.UsageError, match=r"cannot be sent.*too long"):
        library.open("c").count(filter=filter)
    with asyncio.Runner() as loop:
        made = embedsvc.connect_async(url)
        with pytest.raises(errors.UsageError, match=r"cannot be sent.*too long"):
            loop.run(made.open("c").count(filter=filter))
        loop.run(made.close())


def test_texts_are_embedded(library: Any) -> None:
    texts = [CANARY_TEXTS[1], "An apple.", "x\ny"] * 100
    vectors = library.embed(texts)
    assert len(vectors) == 300
    assert sum(number * number for number in vectors[1]) == pytest.approx(1, abs=1e-4)
    assert library.embed([], "query") == []
    (query,) = library.embed(["An apple."], "query", model="all-MiniLM-L6-v2")
    assert query == pytest.approx(vectors[1], abs=0.05)
    with pytest.raises(errors.UsageError, match=r"texts\[1\] is empty"):
        library.embed(["x", ""])
    with pytest.raises(errors.NotFound, match="no-such"):
        library.embed(["x"], model="no-such")
    with pytest.raises(errors.QueryTooLong):
        library.embed(["restart " * 2000])


def test_a_collection_is_made_with_what_it_keeps(library: Any, docs: Any) -> None:
    made = library.create("c", chunk_tokens=64, overlap=0, chunk_context="headings", language="german")
    assert made.count() == 0
    chunking = docs.describe()["chunking"]
    assert (chunking["window"], chunking["context"], chunking["language"]) == (64, "headings", "german")
    library.create("c")
    with pytest.raises(errors.Conflict, match="chunk_tokens 64, not 128"):
        library.create("c", chunk_tokens=128)
    with pytest.raises(errors.UsageError, match="Did you mean chunk_tokens"):
        library.create("d", chunk_token=5)
    for wrong, told in (
        ({"chunk_tokens": "many"}, "chunk_tokens"),
        ({"language": "klingon"}, "language"),
        ({"chunk_tokens": 2}, "window of 2 tokens"),
        ({"overlap": -1}, "overlap"),
    ):
        with pytest.raises(errors.UsageError, match=told):
            library.create("d", **wrong)
    assert library.names() == ["c"]


# -- both are the same -------------------------------------------------------------------------------------------------


def test_a_service_answers_what_this_process_does(url: str, data: Path, handbook: Path) -> None:
    here = embedsvc.open("same", data_dir=data, runtime="onnx", dtype="int8")
    here.index(handbook)
    here.add([{"id": "copy", "text": REFUNDS, "metadata": {"year": 2020}}])
    with embedsvc.connect(url) as there:
        options: SearchOptions = {
            "k": 3, "explain": True, "highlight": True, "expand": "section", "max_context_tokens": 200,
        }  # fmt: skip
        one, other = (docs.search("how do refunds work?", **options) for docs in (here, there.open("same")))
        assert timeless(one) == timeless(other)
        assert one.hits[0].duplicates
        assert one.explanation is not None
        assert there.open("same").documents() == here.documents()
        assert there.open("same").get("copy") == here.get("copy")


def timeless(answer: embedsvc.Answer) -> embedsvc.Answer:
    assert answer.explanation is not None
    steps = tuple(dataclasses.replace(step, ms=0.0) for step in answer.explanation.steps)
    return dataclasses.replace(answer, took_ms=0.0, explanation=dataclasses.replace(answer.explanation, steps=steps))


def test_an_answer_survives_json(library: Any, docs: Any, handbook: Path) -> None:
    docs.index(handbook)
    answer = docs.search("refunds", explain=True, highlight=True, max_context_tokens=100)
    assert answer_of(json.loads(json.dumps(answer_dict(answer)))) == answer


@pytest.mark.parametrize(("plain", "twin"), [(Collection, AsyncCollection), (Library, AsyncLibrary)])
def test_the_asynchronous_twin_has_the_same_methods(plain: type, twin: type) -> None:
    def methods(of: type) -> dict[str, Any]:
        return {name: member for name, member in inspect.getmembers(of, inspect.isfunction) if not name.startswith("_")}

    assert methods(plain).keys() == methods(twin).keys()
    for name, method in methods(plain).items():
        one, other = inspect.signature(method), inspect.signature(methods(twin)[name])
        assert one.parameters == other.parameters
        if name != "open":
            assert inspect.iscoroutinefunction(methods(twin)[name])


def test_options_are_those_of_rest() -> None:
    assert set(CollectionOptions.__annotations__) == set(CollectionRequest.model_fields) == FIXED
    three = {"query", "queries", "vector"}
    fields = {field.name for field in dataclasses.fields(Asked)}
    assert fields == set(SearchRequest.model_fields)
    assert fields - three == set(SearchOptions.__annotations__)
    for name, field in SearchRequest.model_fields.items():
        wanted = next(each for each in dataclasses.fields(Asked) if each.name == name)
        default = field.get_default(call_default_factory=True)
        assert (tuple(default) if isinstance(default, list) else default) == wanted.default


# -- this process ------------------------------------------------------------------------------------------------------


def test_importing_is_light() -> None:
    heavy = {*HOMES, "numpy", "pyarrow", "tokenizers", "sqlglot"}
    assert loaded("import embedsvc") & heavy == set()
    assert loaded("import embedsvc; embedsvc.connect('http://localhost:1').open('x')") & heavy == {"httpx"}


def test_names_are_there_and_others_are_not() -> None:
    for name in embedsvc.__all__:
        assert getattr(embedsvc, name).__doc__
        assert name in dir(embedsvc)
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        embedsvc.opne  # noqa: B018


def test_settings_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="Did you mean chunk_tokens"):
        embedsvc.open("c", data_dir=tmp_path, chunk_token=5)
    with pytest.raises(errors.UsageError, match="chunk_tokens"):
        embedsvc.open("c", data_dir=tmp_path, chunk_tokens="many")


def test_an_encoder_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedsvc import encoders

    made: list[Any] = []
    load = encoders.load_encoder
    monkeypatch.setattr("embedsvc.encoders.load_encoder", lambda settings: made.append(settings) or load(settings))
    for folder in ("a", "b", "a"):
        # threads: settings that no other test has.
        docs = embedsvc.open("c", data_dir=tmp_path / folder, runtime="onnx", dtype="int8", threads=1)
        docs.add([{"text": CANARY_TEXTS[1]}])
        assert docs.search(CANARY_TEXTS[1]).hits
    assert len(made) == 1


def test_a_reranker_and_a_tokenizer_are_what_they_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("embedsvc.encoders.Encoders.reranker", lambda _, name: asked.append(name) or FakeReranker())
    monkeypatch.setattr("embedsvc.api.embedded.load_counter", lambda file: asked.append(file.name) or len)
    docs = embedsvc.open("c", data_dir=tmp_path, runtime="onnx", dtype="int8")
    docs.add([{"id": "b", "text": "blue blue"}, {"id": "r", "text": "red"}])
    answer = docs.search("red", rerank="cross", tokenizer="letters", max_context_tokens=1000)
    assert [hit.document_id for hit in answer.hits] == ["b", "r"]
    assert answer.context is not None
    assert answer.context.tokens == len(answer.context.text)
    assert asked == ["letters", "cross"]


def test_what_a_collection_was_made_with_is_insisted_on(tmp_path: Path) -> None:
    here = {"data_dir": tmp_path, "runtime": "onnx", "dtype": "int8"}
    embedsvc.open("c", **here, chunk_tokens=64).add([{"text": "x"}])
    assert embedsvc.open("c", **here).add([{"text": "x"}]).counts == {"unchanged": 1}
    with pytest.raises(errors.Conflict, match="chunk_tokens 64, not 128"):
        embedsvc.open("c", **here, chunk_tokens=128).add([{"text": "x"}])


# -- a service ---------------------------------------------------------------------------------------------------------

FINE = {"x-embedsvc-version": embedsvc.__version__}
COUNT = b'{"total": 7, "limit": 1, "offset": 0, "documents": []}'


def taken(responses: list[Response], remote: Remote | None = None) -> tuple[Any, list[Request | Pause]]:
    """What comes of ``count`` where the service answers so, and the steps that were taken."""
    steps = (remote or Remote("http://there", retries=2)).count("c", None)
    done: list[Any] = [next(steps)]
    coming = iter(responses)
    try:
        while True:
            done.append(steps.send(next(coming) if isinstance(done[-1], Request) else None))
    except StopIteration as end:
        return end.value, done


@pytest.mark.parametrize("status", [429, 503])
def test_what_the_service_had_no_room_for_is_sent_again(status: int) -> None:
    count, steps = taken(
        [Response(status, {"retry-after": "3"}, b""), Response(status, {}, b""), Response(200, FINE, COUNT)]
    )
    assert count == 7
    assert [type(step) for step in steps] == [Request, Pause, Request, Pause, Request]
    assert steps[1] == Pause(3.0)
    assert isinstance(steps[3], Pause)
    assert 0.5 <= steps[3].seconds <= 1.0
    assert steps[0] == steps[2] == steps[4]


def test_the_last_refusal_is_raised() -> None:
    told = problem(429, errors.Overloaded, "512 searches are waiting already.")
    with pytest.raises(errors.Overloaded, match="512 searches") as caught:
        taken([told] * 3)
    assert caught.value.retry_after == 1
    with pytest.raises(errors.NotReady):  # is told to take an hour, and is not waited for
        taken([Response(503, {"retry-after": "3600"}, b"<html>")])
    with pytest.raises(errors.Overloaded, match="ask again later") as caught:  # a proxy's, which keeps no conventions
        taken([Response(429, {"retry-after": "2"}, b"<html>")] * 3)
    assert caught.value.retry_after == 2


def test_pauses_grow_and_dates_are_understood() -> None:
    for retry, most in enumerate((0.5, 1.0, 2.0)):
        pause = pause_before(Response(503, {}, b""), retry)
        assert pause is not None
        assert most / 2 <= pause <= most
    assert pause_before(Response(503, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, b""), 0) == 0.0


def problem(status: int, kind: type[Exception], detail: str) -> Response:
    title = STATUS[kind][1]
    body = {"type": f"urn:embedsvc:problem:{title.lower().replace(' ', '-')}", "title": title, "detail": detail}
    return Response(status, {**FINE, "retry-after": "1"}, json.dumps(body).encode())


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
def test_every_error_comes_back_as_itself(kind: type[errors.EmbedsvcError]) -> None:
    status = STATUS[kind][0]
    with pytest.raises(kind, match="so it is") as caught:
        taken([problem(status, kind, "so it is")], Remote("http://there", retries=0))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("response", "kind", "told"),
    [
        (Response(401, {}, b"no"), errors.AccessDenied, "Check the api_key"),
        (Response(403, FINE, b'{"detail": "no"}'), errors.AccessDenied, "Check the api_key"),
        (Response(404, {}, b"<html>"), errors.Unreachable, r"\(status 404\) is not an embedsvc service"),
        (Response(501, {}, b"<html>"), errors.Unreachable, "is not an embedsvc service"),
        (Response(502, {}, b"<html>"), errors.Unreachable, "one that it does not reach"),
        (Response(200, {}, b"<html>"), errors.Unreachable, "is not an embedsvc service"),
        (Response(200, FINE, b"<html>"), errors.Unreachable, "no JSON"),
        (Response(200, {"x-embedsvc-version": "0.99.0"}, COUNT), errors.VersionMismatch, "0.99.0"),
        (Response(422, {"x-embedsvc-version": "99.0"}, b"{}"), errors.VersionMismatch, "same version"),
    ],
)
def test_answers_of_others_are_told_apart(response: Response, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told) as caught:
        taken([response])
    assert type(caught.value) is kind


def test_a_job_that_fails_is_an_error() -> None:
    def send(request: Request) -> Response:
        job = {"job": "1", "status": "queued" if request.method == "POST" else "failed", "error": "The disk is full."}
        return Response(200, FINE, json.dumps(job).encode())

    with pytest.raises(errors.JobFailed, match=r"The disk is full\. \(job 1"):
        run(Remote("http://there", retries=0).add("c", [{"text": "x"}]), send)


def test_what_is_not_asked_for_is_not_sent() -> None:
    assert json.loads(body_of(Asked(query="x", k=3))) == {"query": "x", "k": 3}
    with pytest.raises(errors.UsageError, match="cannot be sent"):
        body_of(Asked(query="x", min_score=float("nan")))


def test_pages_are_not_sent_to_a_service(url: str) -> None:
    with embedsvc.connect(url) as there, pytest.raises(errors.UsageError, match="sent files only"):
        there.open("c").index("https://example.org")


@pytest.fixture
def guarded() -> Iterator[str]:
    """A service that lets one key in."""

    class Guard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            right = self.headers["authorization"] == "Bearer right"
            body = b'{"collections": []}' if right else b'{"error": "no"}'
            self.send_response(200 if right else 401)
            self.send_header("content-length", str(len(body)))
            self.send_header("x-embedsvc-version", embedsvc.__version__)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Guard) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}/"
        serving.shutdown()
        thread.join()


def names(url: str, key: str | None) -> list[str]:
    with embedsvc.connect(url, api_key=key) as library:
        return library.names()


def names_async(url: str, key: str | None) -> list[str]:
    async def ask() -> list[str]:
        async with embedsvc.connect_async(url, api_key=key) as library:
            return await library.names()

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [names, names_async])
def test_the_key_is_sent_and_a_wrong_one_told(guarded: str, ask: Callable[..., list[str]]) -> None:
    assert ask(guarded, "right") == []
    assert ask(guarded, " right\n") == []
    for key in ("wrong", None):
        with pytest.raises(errors.AccessDenied, match="api_key"):
            ask(guarded, key)


@pytest.mark.parametrize("ask", [names, names_async])
def test_where_no_key_is_given_that_of_the_environment_is_sent(
    guarded: str, ask: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDSVC_API_KEY", "right")
    assert ask(guarded, None) == []
    with pytest.raises(errors.AccessDenied):
        ask(guarded, "wrong")
    monkeypatch.setenv("EMBEDSVC_API_KEY", "")  # as not set: compose files do that
    with pytest.raises(errors.AccessDenied):
        ask(guarded, None)


def test_a_key_is_any_text_that_can_be_sent(tmp_path: Path) -> None:
    with server(tmp_path, api_keys="schlüssel") as running:
        assert names(running.url, "schlüssel") == names_async(running.url, "schlüssel") == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"api_key": "a\nb"}, "api_key has a line break"),
        ({"api_key": " "}, "api_key is empty"),
        ({"api_key": 5}, "api_key is a int; it must be a text"),
        ({"timeout": -1}, "timeout is -1; give a number of seconds above 0"),
        ({"timeout": "5"}, "timeout is '5'; it must be a number"),
        ({"retries": -1}, "retries is -1"),
        ({"url": 8080}, "url is 8080; it must be a text"),
    ],
)
def test_what_a_service_cannot_be_reached_with_is_refused(options: dict[str, Any], told: str) -> None:
    for connect in (embedsvc.connect, embedsvc.connect_async):
        with pytest.raises(errors.UsageError, match=told):
            connect(**{"url": "http://localhost:1", **options})


def test_files_that_are_too_large_for_a_service_do_not_stop_the_others(tmp_path: Path) -> None:
    for name, text in {"a.txt": "Money is paid back.", "b#.txt": "b " * 700_000, "z.txt": "Trains are booked."}.items():
        (tmp_path / name).write_text(text)
    with server(tmp_path / "indexes", max_body_mb=1) as running, embedsvc.connect(running.url) as service:
        report = service.open("docs").index(*(tmp_path / name for name in ("a.txt", "b#.txt", "z.txt")))
        assert service.open("docs").count() == 2
    assert {outcome.uri: outcome.status for outcome in report.outcomes} == {
        "a.txt": "indexed",
        "b%23.txt": "quarantined",
        "z.txt": "indexed",
    }
    (failed,) = report.failed
    assert (failed.reason or "").startswith("too_large: ")
    assert "max_body_mb" in (failed.reason or "")


@pytest.mark.parametrize("ask", [names, names_async])
def test_a_service_that_is_not_there_is_told(ask: Callable[..., list[str]]) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closing:
        port = closing.server_port
    with pytest.raises(errors.Unreachable, match=rf"127\.0\.0\.1:{port} cannot be reached"):
        ask(f"http://127.0.0.1:{port}", None)
    for wrong in ("localhost:8080", "ftp://x", "http://"):
        with pytest.raises(errors.UsageError, match="address of a service"):
            ask(wrong, None)


def test_type_hints_can_be_resolved() -> None:
    assert get_type_hints(SearchOptions)["k"] is int


def test_closing_lets_go_of_what_nobody_else_uses(tmp_path: Path) -> None:
    def kept() -> list[object]:
        gc.collect()
        # By type: to be asked for their class, some of torch's objects answer with a warning.
        return [each for each in gc.get_objects() if issubclass(type(each), Encoder | VectorIndex | Hold)]

    before = list(map(id, kept()))
    settings = {"data_dir": tmp_path, "runtime": "onnx", "dtype": "int8", "threads": 1}
    with embedsvc.library(**settings) as first:
        first.open("c").add([{"text": "Jupiter is a planet."}])
        with embedsvc.library(**settings) as second:
            assert second.open("c").search("planets").hits
        assert first.open("c").search("planets").hits

    async def awaited() -> None:
        async with embedsvc.library_async(**settings) as third:
            assert (await third.open("c").search("planets")).hits

    asyncio.run(awaited())
    assert [each for each in kept() if id(each) not in before] == []


def test_collections_that_nobody_searches_are_closed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedsvc.opened.MOST_OPEN", 2)

    def kept() -> int:
        gc.collect()
        return sum(issubclass(type(each), Upkeep) for each in gc.get_objects())

    before = kept()
    with embedsvc.library(data_dir=tmp_path, runtime="onnx", dtype="int8") as library:
        for number in range(5):
            library.open(f"c{number}").add([{"text": f"Planet number {number}."}])
        assert kept() - before <= 2
        assert [len(library.open(f"c{number}").documents()) for number in range(5)] == [1] * 5


def test_more_collections_than_stay_open_are_all_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedsvc.opened.MOST_OPEN", 2)

    def kept() -> int:
        return sum(issubclass(type(each), Hold | Upkeep) for each in gc.get_objects())

    with embedsvc.library(data_dir=tmp_path, runtime="onnx", dtype="int8") as library:
        names = [f"c{number}" for number in range(4)]
        for name in names:
            library.open(name).add([{"text": f"Planet number {name}."}])
        gc.collect()
        before = kept()
        gc.disable()  # what is closed is gone by itself, with its files
        try:
            for name in [*names, *names]:
                assert library.open(name).search("planets").hits[0].text == f"Planet number {name}."
            assert kept() <= before
        finally:
            gc.enable()
