"""Haystack's own suites over :mod:`embedsvc.integrations.haystack`, embedded and remote; and what they do not ask:
retrieval, citations, pipelines that are written and read, bad input."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when it is imported

from haystack import Document, Pipeline, component
from haystack.components.builders import PromptBuilder
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError
from haystack.testing.document_store import CountDocumentsByFilterTest, DocumentStoreBaseExtendedTests
from haystack.testing.document_store_async import (
    CountDocumentsAsyncTest,
    CountDocumentsByFilterAsyncTest,
    DeleteAllAsyncTest,
    DeleteByFilterAsyncTest,
    DeleteDocumentsAsyncTest,
    FilterDocumentsAsyncTest,
    UpdateByFilterAsyncTest,
    WriteDocumentsAsyncTest,
)
from haystack.utils import Secret

from embedsvc import errors
from embedsvc.integrations.haystack import (
    EmbedsvcDocumentEmbedder,
    EmbedsvcDocumentStore,
    EmbedsvcEmbeddingRetriever,
    EmbedsvcRetriever,
    EmbedsvcTextEmbedder,
    condition_of,
)
from tests.server import server

REFUNDS = "Money is paid back within 14 days of a return."


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module", params=["embedded", "remote"])
def place(request: pytest.FixtureRequest, data: Path) -> Iterator[dict[str, Any]]:
    """Where the store is, as its parameters say it."""
    if request.param == "embedded":
        yield {"settings": {"data_dir": data / "embedded", "runtime": "onnx", "dtype": "int8"}}
    else:
        with server(data / "remote", api_keys="right") as running, pytest.MonkeyPatch.context() as patch:
            patch.setenv("HAYSTACK_TESTS_KEY", "right")
            yield {"url": running.url, "api_key": Secret.from_env_var("HAYSTACK_TESTS_KEY")}


@pytest.fixture(scope="module")
def opened(place: dict[str, Any]) -> EmbedsvcDocumentStore:
    store = EmbedsvcDocumentStore("store", **place)
    store.place.library.create("store")
    return store


@pytest.fixture
def document_store(opened: EmbedsvcDocumentStore) -> Iterator[EmbedsvcDocumentStore]:
    yield opened
    opened.delete_all_documents()


# -- Haystack's own suites ---------------------------------------------------------------------------------------------


class _Compared:
    """Documents come in the order of their uris, and without vectors: the collection makes its own."""

    @staticmethod
    def assert_documents_are_equal(received: list[Document], expected: list[Document]) -> None:
        def told(documents: list[Document]) -> list[Any]:
            return sorted((document.id, document.content, sorted(document.meta.items())) for document in documents)

        assert told(received) == told(expected)


class TestDocumentStore(_Compared, DocumentStoreBaseExtendedTests, CountDocumentsByFilterTest):
    @pytest.fixture
    def document_store(self, document_store: EmbedsvcDocumentStore) -> EmbedsvcDocumentStore:
        return document_store

    def test_write_documents(self, document_store: EmbedsvcDocumentStore) -> None:
        """Of a store's own default: it fails where an id is taken."""
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(errors.UsageError, match="there already"):
            document_store.write_documents([document])
        self.assert_documents_are_equal(document_store.filter_documents(), [document])


class TestDocumentStoreAsync(
    _Compared,
    CountDocumentsAsyncTest,
    CountDocumentsByFilterAsyncTest,
    DeleteAllAsyncTest,
    DeleteByFilterAsyncTest,
    DeleteDocumentsAsyncTest,
    FilterDocumentsAsyncTest,
    UpdateByFilterAsyncTest,
    WriteDocumentsAsyncTest,
):
    async def test_write_documents_async(self, document_store: EmbedsvcDocumentStore) -> None:
        assert await document_store.write_documents_async([Document(content="test doc")]) == 1


# -- retrieval ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(document_store: EmbedsvcDocumentStore) -> EmbedsvcDocumentStore:
    document_store.write_documents(
        [
            Document(id="refunds", content=REFUNDS, meta={"source": "handbook/refunds.md", "title": "Refunds", "n": 1}),
            Document(id="travel", content="The office books trains.", meta={"title": "Travel", "n": 2}),
        ]
    )
    return document_store


def test_retrievers_cite_and_score(filled: EmbedsvcDocumentStore, place: dict[str, Any]) -> None:
    retriever = EmbedsvcRetriever(filled, top_k=1)
    (best,) = retriever.run("how do refunds work?")["documents"]
    assert best.content == REFUNDS[best.meta["start_index"] : best.meta["end_index"]]
    assert best.meta.items() >= {"document_id": "refunds", "source": "handbook/refunds.md", "n": 1}.items()
    assert best.score is not None
    assert 0 <= best.score <= 1
    by_filter = {"field": "meta.n", "operator": ">=", "value": 2}
    assert [each.meta["n"] for each in retriever.run("refunds", filters=by_filter, top_k=5)["documents"]] == [2]
    merging = EmbedsvcRetriever(filled, by_filter, filter_policy="merge", search_kwargs={"mode": "lexical"})
    assert merging.run("refunds", {"field": "id", "operator": "==", "value": "refunds"})["documents"] == []
    vector = EmbedsvcTextEmbedder(**place).run("how do refunds work?")["embedding"]
    found = EmbedsvcEmbeddingRetriever(filled, top_k=1).run(vector)["documents"]
    assert [each.meta["document_id"] for each in found] == ["refunds"]


async def test_components_are_awaited(filled: EmbedsvcDocumentStore, place: dict[str, Any]) -> None:
    vector = (await EmbedsvcTextEmbedder(**place).run_async("refunds"))["embedding"]
    (document,) = (await EmbedsvcDocumentEmbedder(**place).run_async([Document(content="refunds")]))["documents"]
    assert document.embedding == pytest.approx(vector, abs=0.05)
    by_vector = await EmbedsvcEmbeddingRetriever(filled).run_async(vector, top_k=1)
    assert by_vector["documents"][0].id == (await EmbedsvcRetriever(filled).run_async("refunds"))["documents"][0].id


def test_long_texts_are_embedded_whole(place: dict[str, Any]) -> None:
    long = "The town council met on Tuesday. " * 100
    embedders = [EmbedsvcTextEmbedder(**place), EmbedsvcDocumentEmbedder(**place)]
    assert len(embedders[0].run(long)["embedding"]) == 384
    (document,) = embedders[1].run([Document(content=long)])["documents"]
    assert len(document.embedding or ()) == 384
    refusing = EmbedsvcTextEmbedder.from_dict(EmbedsvcTextEmbedder(**place, on_overflow="error").to_dict())
    with pytest.raises(errors.QueryTooLong):
        refusing.run(long)


def test_documents_are_embedded_for_other_stores(place: dict[str, Any]) -> None:
    embedder = EmbedsvcDocumentEmbedder(**place, meta_fields_to_embed=["title"], embedding_separator=": ")
    original = Document(content="Within 14 days.", meta={"title": "Refunds"})
    (embedded,) = embedder.run([original])["documents"]
    assert original.embedding is None
    other = InMemoryDocumentStore(embedding_similarity_function="cosine")
    other.write_documents([embedded])
    query = EmbedsvcTextEmbedder(**place).run("Refunds: Within 14 days.")["embedding"]
    (found,) = other.embedding_retrieval(query, top_k=1, scale_score=False)
    assert found.score == pytest.approx(1, abs=0.05)


# -- pipelines ---------------------------------------------------------------------------------------------------------

TEMPLATE = """{% for document in documents %}[{{ loop.index }}] {{ document.meta.title }}, {{ document.meta.source }}
{{ document.content }}
{% endfor %}Question: {{ query }}"""


@component
class Scripted:
    """Says one thing, and gives back what it was asked."""

    @component.output_types(replies=list[str], prompt=str)
    def run(self, prompt: str) -> dict[str, Any]:
        return {"replies": ["Within 14 days [1]."], "prompt": prompt}


def test_a_pipeline_that_was_written_and_read_answers_from_cited_sources(filled: EmbedsvcDocumentStore) -> None:
    pipeline = Pipeline()
    pipeline.add_component("retriever", EmbedsvcRetriever(filled, top_k=1, search_kwargs={"mode": "hybrid"}))
    pipeline.add_component("prompt", PromptBuilder(TEMPLATE, required_variables="*"))
    pipeline.add_component("model", Scripted())
    pipeline.connect("retriever.documents", "prompt.documents")
    pipeline.connect("prompt.prompt", "model.prompt")
    written = pipeline.dumps()
    read = Pipeline.loads(written, allowed_modules=["embedsvc.integrations.haystack.*", Scripted.__module__])
    assert read.to_dict()["components"] == pipeline.to_dict()["components"]
    question = "how do refunds work?"
    said = read.run(
        {"retriever": {"query": question}, "prompt": {"query": question}}, include_outputs_from={"retriever"}
    )
    assert said["model"]["replies"] == ["Within 14 days [1]."]
    assert said["model"]["prompt"] == f"[1] Refunds, handbook/refunds.md\n{REFUNDS}\nQuestion: {question}"
    assert said["retriever"]["documents"][0].meta["document_id"] == "refunds"


def test_components_are_read_as_they_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSVC_KEY", "secret")
    place: dict[str, Any] = {"url": "http://localhost:1", "api_key": Secret.from_env_var("EMBEDSVC_KEY")}
    store = EmbedsvcDocumentStore("c", **place)
    for each in (
        store,
        EmbedsvcDocumentStore("c", **place, create=True),
        EmbedsvcDocumentStore("c", settings={"data_dir": Path("indexes"), "threads": 1}),
        EmbedsvcRetriever(store, {"field": "meta.n", "operator": "==", "value": 1}, 3, "merge", {"mode": "dense"}),
        EmbedsvcEmbeddingRetriever(store),
        EmbedsvcTextEmbedder("model", **place),
        EmbedsvcDocumentEmbedder(**place, meta_fields_to_embed=["title"]),
    ):
        written = each.to_dict()
        assert "secret" not in str(written)
        assert type(each).from_dict(written).to_dict() == written
    with pytest.raises(ValueError, match="token"):  # a key as it is cannot be written
        EmbedsvcTextEmbedder(url="http://localhost:1", api_key=Secret.from_token("secret")).to_dict()


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        ({"field": "meta.n", "operator": "near", "value": 1}, "no 'near' of meta.n; there are =="),
        ({"operator": "XOR", "conditions": []}, "AND, OR and NOT"),
        ({"operator": "AND", "conditions": {}}, "list of filters"),
        ({"operator": "AND", "conditions": [5]}, "not 5"),
        ({"field": "content", "operator": "==", "value": "x"}, "cannot be filtered by 'content'"),
        ({"field": 'meta.a"b', "operator": "==", "value": "x"}, "double quote"),
        ({"field": "meta.n", "operator": "==", "value": {"a": 1}}, "cannot be compared"),
    ],
)
def test_what_cannot_be_expressed_is_refused(
    document_store: EmbedsvcDocumentStore, filters: dict[str, Any], told: str
) -> None:
    with pytest.raises(errors.BadFilter, match=told) as caught:
        document_store.filter_documents(filters)
    assert isinstance(caught.value, FilterError)


def test_filters_nested_without_end_are_refused() -> None:
    filters: dict[str, Any] = {"field": "meta.n", "operator": "==", "value": 1}
    for _ in range(2000):
        filters = {"operator": "NOT", "conditions": [filters]}
    with pytest.raises(FilterError, match="nested too deep"):
        condition_of(filters)


def test_deeper_fields_and_not_are_as_haystack_has_them(document_store: EmbedsvcDocumentStore) -> None:
    document_store.write_documents(
        [Document(id="a", content="x", meta={"of": {"n": 1}}), Document(id="b", content="y", meta={"of": "text"})]
    )
    deeper = {"field": "meta.of.n", "operator": "==", "value": 1}
    assert [each.id for each in document_store.filter_documents(deeper)] == ["a"]
    document_store.write_documents([Document(id="c", content="z", meta={"tags": ["x", "y"]})])
    tagged = {"field": "meta.tags", "operator": "in", "value": ["y", "z"]}
    assert [each.id for each in document_store.filter_documents(tagged)] == ["c"]
    document_store.delete_documents(["c"])
    other = {"operator": "NOT", "conditions": [deeper]}
    assert [each.id for each in document_store.filter_documents(other)] == ["b"]


def test_what_cannot_be_written_is_refused_before_anything_is(document_store: EmbedsvcDocumentStore) -> None:
    fine = Document(id="1", content="fine")
    for wrong, told in (
        ([fine, Document(id="2")], "Document 1 .* has no text"),
        ([fine, Document(id="2", content=" ")], "has no text"),
        ([fine, Document(id="1", content="other")], "'1' is the id of two"),
        ([fine, Document(id="2", content="x", meta={"when": {1}})], "metadata .* is not JSON"),
    ):
        with pytest.raises(errors.UsageError, match=told):
            document_store.write_documents(wrong)
    assert document_store.count_documents() == 0
    assert document_store.write_documents([]) == 0
    twice = [fine, Document(id="1", content="other")]
    assert document_store.write_documents(twice, DuplicatePolicy.SKIP) == 1
    assert document_store.filter_documents()[0].content == "fine"
    assert document_store.write_documents(twice, DuplicatePolicy.OVERWRITE) == 1
    assert document_store.filter_documents()[0].content == "other"
    with pytest.raises(errors.UsageError, match=r"documents\[0\] has no text"):
        EmbedsvcDocumentEmbedder().run([Document(id="1")])
    with pytest.raises(errors.UsageError, match="InMemoryDocumentStore, not an Embedsvc"):
        EmbedsvcRetriever(InMemoryDocumentStore())  # type: ignore[arg-type]


def test_a_service_that_is_down_or_lets_nobody_in_is_told(place: dict[str, Any]) -> None:
    with pytest.raises(errors.Unreachable):
        EmbedsvcRetriever(EmbedsvcDocumentStore("c", url="http://localhost:1")).run("x")
    if "url" in place:
        with pytest.raises(errors.AccessDenied):
            EmbedsvcRetriever(EmbedsvcDocumentStore("store", place["url"], Secret.from_token("wrong"))).run("x")
    for wrong, told in (
        ({"url": "http://localhost:1", "settings": {"threads": 1}}, "give one of the two"),
        ({"api_key": Secret.from_token("k")}, "give its url too"),
        ({"url": "http://localhost:1", "api_key": "k"}, "api_key is a str; it must be a Secret"),
    ):
        with pytest.raises(errors.UsageError, match=told):
            EmbedsvcDocumentStore("c", **wrong)  # type: ignore[arg-type]


def test_the_first_write_makes_the_collection(place: dict[str, Any]) -> None:
    store = EmbedsvcDocumentStore("made", **place)
    by_meta = {"field": "meta.n", "operator": "==", "value": 1}
    assert store.count_documents() == 0  # what tutorials ask before they index
    for ask in (
        store.filter_documents,
        store.delete_all_documents,
        partial(store.count_documents_by_filter, by_meta),
        partial(store.delete_by_filter, by_meta),
        partial(store.update_by_filter, by_meta, {"n": 2}),
        partial(store.delete_documents, ["1"]),
        partial(EmbedsvcRetriever(store).run, "x"),
    ):
        with pytest.raises(errors.NotFound, match="no collection 'made'"):
            ask()
    assert "made" not in store.place.library.names()
    assert store.write_documents([Document(content=f"{number}") for number in range(3)]) == 3
    misspelt = EmbedsvcDocumentStore("mdae", **place)
    with pytest.raises(errors.NotFound, match="Did you mean 'made'"):
        EmbedsvcRetriever(misspelt).run("x")
    store.place.library.delete("made")


def test_a_store_that_may_be_new_is_empty(place: dict[str, Any]) -> None:
    store = EmbedsvcDocumentStore.from_dict(EmbedsvcDocumentStore("new", **place, create=True).to_dict())
    assert (store.count_documents(), store.filter_documents()) == (0, [])
    assert EmbedsvcRetriever(store).run("x")["documents"] == []
    assert "new" in store.place.library.names()
    store.place.library.delete("new")


def test_nobody_means_all_documents_by_accident(filled: EmbedsvcDocumentStore) -> None:
    empty = {"operator": "AND", "conditions": []}
    for filters in ({}, None, empty, {"operator": "AND", "conditions": [empty]}):
        with pytest.raises(FilterError, match=r"filter is empty.*delete_all_documents\(\) deletes all"):
            filled.delete_by_filter(filters)  # type: ignore[arg-type]
        with pytest.raises(FilterError, match=r"filter is empty.*if all are meant, give {'field': 'id'"):
            filled.update_by_filter(filters, {"n": 3})  # type: ignore[arg-type]
    assert {each.meta["n"] for each in filled.filter_documents()} == {1, 2}
    everything = {"field": "id", "operator": "!=", "value": ""}
    assert filled.update_by_filter(everything, {"n": 3}) == filled.delete_by_filter(everything) == 2


def test_other_meta_leave_a_document_cited_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "refunds.md").write_text(f"# Refunds\n\n{REFUNDS}\n")
    store = EmbedsvcDocumentStore("files", settings={"data_dir": tmp_path / "data", "runtime": "onnx", "dtype": "int8"})
    store.collection.index(tmp_path / "refunds.md")
    (before,) = store.collection.search(REFUNDS, mode="dense").hits
    refunds = {"field": "id", "operator": "==", "value": before.document_id}
    assert store.update_by_filter(refunds, {"team": "support", "title": "Another", "source": "elsewhere"}) == 1
    assert store.update_by_filter(refunds, {"title": None, "source": None}) == 1
    (after,) = store.collection.search(REFUNDS, mode="dense").hits
    assert dataclasses.replace(after, metadata={}) == before
    assert (after.title, after.heading) == ("Refunds", "Refunds")
    assert store.filter_documents()[0].meta == {"team": "support"}
