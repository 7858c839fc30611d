"""LangChain's own suites over what :mod:`embedsvc.integrations.langchain` gives it, embedded and remote; and what they
do not ask: citations, scores, filters, a chain, bad input."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.language_models import SimpleChatModel
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

import embedsvc
from embedsvc import errors
from embedsvc.integrations.langchain import EmbedsvcEmbeddings, EmbedsvcRetriever, EmbedsvcVectorStore, condition_of
from tests.conftest import write_tree
from tests.server import server

KEY = "right"
HANDBOOK = {
    "refunds.md": "# Refunds\n\nMoney is paid back within 14 days of a return.\n",
    "travel.md": "# Travel\n\nThe office books trains. Flights need a signature.\n",
    "garden.txt": "Prune the apple trees in winter. Tomatoes want sun and water.",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the handbook."""
    data = tmp_path_factory.mktemp("data")
    handbook = write_tree(tmp_path_factory.mktemp("files") / "handbook", HANDBOOK)
    here(data).open("handbook").index(handbook)
    return data


def here(data: Path) -> embedsvc.Library:
    return embedsvc.library(data_dir=data, runtime="onnx", dtype="int8")


@pytest.fixture(scope="module")
def url(data: Path) -> Iterator[str]:
    with server(data, api_keys=KEY) as running:
        yield running.url


@pytest.fixture(scope="module", params=["embedded", "remote"])
def library(request: pytest.FixtureRequest, data: Path) -> Iterator[embedsvc.Library]:
    if request.param == "embedded":
        yield here(data)
    else:
        with embedsvc.connect(request.getfixturevalue("url"), api_key=KEY) as library:
            yield library


@pytest.fixture
def store(library: embedsvc.Library) -> Iterator[EmbedsvcVectorStore]:
    store = EmbedsvcVectorStore(library.create("store"))
    yield store
    store.delete()


# -- LangChain's own suites --------------------------------------------------------------------------------------------


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, store: EmbedsvcVectorStore) -> VectorStore:
        return store


class _Retriever(RetrieversIntegrationTests):
    collection: embedsvc.Collection

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return EmbedsvcRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"collection": self.collection}

    @property
    def retriever_query_example(self) -> str:
        return "how do refunds work?"


class TestRetrieverEmbedded(_Retriever):
    @pytest.fixture(autouse=True)
    def _opened(self, data: Path) -> None:
        self.collection = here(data).open("handbook")


class TestRetrieverRemote(_Retriever):
    @pytest.fixture(autouse=True)
    def _opened(self, url: str) -> Iterator[None]:
        with embedsvc.connect(url, api_key=KEY) as library:
            self.collection = library.open("handbook")
            yield


class _Embeddings:
    library: embedsvc.Library

    @pytest.fixture(autouse=True)
    def _opened(self, library: embedsvc.Library) -> None:
        self.library = library

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return EmbedsvcEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"library": self.library}


class TestEmbeddingsUnit(_Embeddings, EmbeddingsUnitTests):
    pass


class TestEmbeddings(_Embeddings, EmbeddingsIntegrationTests):
    pass


# -- citations and scores ----------------------------------------------------------------------------------------------


def test_a_retriever_cites(library: embedsvc.Library) -> None:
    retriever = EmbedsvcRetriever(collection=library.open("handbook"), k=2, filter="uri LIKE '%.md'")
    best, other = retriever.invoke("how do refunds work?")
    text = HANDBOOK["refunds.md"]
    assert best.page_content == text[best.metadata["start_index"] : best.metadata["end_index"]]
    assert best.metadata["source"].endswith("handbook/refunds.md")
    assert (best.metadata["title"], best.metadata["heading"]) == ("Refunds", "Refunds")
    assert best.id == best.metadata["passage_id"]
    assert 1 >= best.metadata["score"] > other.metadata["score"] >= 0
    assert [each.metadata["title"] for each in retriever.invoke("trains", k=1, mode="lexical")] == ["Travel"]
    assert retriever.invoke("trains", filter={"no_such": 1}) == []


def test_results_are_cited_where_that_is_asked_for(store: EmbedsvcVectorStore) -> None:
    written = {"source": "https://example.org/moon", "title": "Moons", "year": 2020}
    store.add_texts(["Jupiter has moons."], [written], ids=["moons"])
    (plain,) = store.similarity_search("moons")
    assert (plain.id, plain.metadata) == ("moons", written)
    (cited,) = store.as_retriever().invoke("moons")
    assert cited.metadata.items() >= {**written, "document_id": "moons", "start_index": 0, "end_index": 18}.items()
    assert 0 <= cited.metadata["score"] <= 1


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_scores_are_from_0_to_1(store: EmbedsvcVectorStore, mode: str) -> None:
    store.add_texts(["Tea is brewed.", "Tea, tea and tea again.", "Nothing of the kind stands here."])
    found = store.similarity_search_with_relevance_scores("tea", k=3, mode=mode)
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert all(score >= 0.5 for _, score in store.similarity_search_with_relevance_scores("tea", score_threshold=0.5))


def test_a_vector_store_is_searched_by_vectors_and_for_diversity(
    store: EmbedsvcVectorStore, library: embedsvc.Library
) -> None:
    store.add_texts(["A red apple.", "One red apple.", "Blue whales sing."], ids=["a", "b", "c"])
    vector = EmbedsvcEmbeddings(library).embed_query("a red apple")
    assert store.similarity_search_by_vector(vector, k=1)[0].id == "a"
    for found in (
        store.max_marginal_relevance_search("red apple", k=2, lambda_mult=0.0),
        store.max_marginal_relevance_search_by_vector(vector, k=2, lambda_mult=0.0),
    ):
        assert found[1].id == "c"


async def test_asynchronous_methods_await_the_asynchronous_twin(url: str) -> None:
    async with embedsvc.connect_async(url, api_key=KEY) as library:
        with embedsvc.connect("http://localhost:1") as nowhere:
            twin = library.open("handbook")
            retriever = EmbedsvcRetriever(collection=nowhere.open("handbook"), async_collection=twin, k=1)
            store = EmbedsvcVectorStore(nowhere.open("handbook"), twin)
            embeddings = EmbedsvcEmbeddings(nowhere, library)
            (vector,) = await embeddings.aembed_documents(["refunds"])
            found = await asyncio.gather(
                retriever.ainvoke("refunds"),
                store.asimilarity_search("refunds", k=1),
                store.asimilarity_search_by_vector(vector, k=1),
                store.amax_marginal_relevance_search("refunds", k=1),
                store.amax_marginal_relevance_search_by_vector(vector, k=1),
            )
            assert {documents[0].page_content for documents in found} == {found[0][0].page_content}
            ((_, score),) = await store.asimilarity_search_with_relevance_scores("refunds", k=1)
            assert 0 <= score <= 1
            added = EmbedsvcVectorStore(nowhere.open("async"), await library.create("async"))
            assert await added.aadd_texts(["x"], ids=["1"]) == ["1"]
            await library.delete("async")


# -- filters -----------------------------------------------------------------------------------------------------------

DOCUMENTS: dict[str, dict[str, Any]] = {
    "a": {"year": 2020, "kind": "manual", "draft": False},
    "b": {"year": 2024, "kind": "it's 100% new", "a key": "x", "tags": ["x", "it's"]},
    "c": {"kind": "manual", "draft": True},
}


@pytest.fixture(scope="module")
def filtered(data: Path) -> EmbedsvcVectorStore:
    store = EmbedsvcVectorStore(here(data).create("filtered"))
    store.add_texts([f"A report, {id}." for id in DOCUMENTS], list(DOCUMENTS.values()), ids=list(DOCUMENTS))
    return store


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ({}, "abc"),
        ({"year": 2020}, "a"),
        ({"year": {"$gte": 2020, "$lt": 2024}}, "a"),
        ({"year": {"$ne": 2020}}, "bc"),
        ({"year": None}, "c"),
        ({"year": {"$in": [2024, 1999, None]}}, "bc"),
        ({"year": {"$in": []}}, ""),
        ({"year": {"$nin": [2024, "text"]}}, "ac"),
        ({"year": {"$exists": True}, "kind": "manual"}, "a"),
        ({"year": {"$exists": False}}, "c"),
        ({"draft": True}, "c"),
        ({"draft": {"$ne": True}}, "ab"),
        ({"kind": "it's 100% new"}, "b"),
        ({"kind": {"$like": "%100%"}}, "b"),
        ({"a key": "x"}, "b"),
        ({"no such": {"$gt": 5}}, ""),
        ({"tags": "x"}, "b"),
        ({"tags": {"$in": ["y", "it's"]}}, "b"),
        ({"tags": {"$nin": ["x"]}}, "ac"),
        ({"$or": [{"year": 2024}, {"draft": True}]}, "bc"),
        ({"$and": [{"year": {"$gt": 2000}}, {"kind": "manual"}]}, "a"),
        ({"$not": {"$and": [{"year": 2020}, {"kind": "manual"}]}}, "bc"),
        ({"$or": []}, ""),
        ("metadata.year > 2020 OR metadata.draft = true", "bc"),
    ],
)
def test_filters_are_translated(filtered: EmbedsvcVectorStore, filter: Any, found: str) -> None:
    documents = filtered.similarity_search("report", k=10, filter=filter)
    assert "".join(sorted(str(document.id) for document in documents)) == found


@pytest.mark.parametrize(
    ("filter", "told"),
    [
        ({"year": {"$near": 5}}, r"no \$near of a field; there are \$eq"),
        ({"$nor": []}, r"no \$nor of filters"),
        ({"$or": {"year": 1}}, "takes a list of filters"),
        ({"year": {"$in": 5}}, "takes a list of values"),
        ({"year": [1, 2]}, r"\[1, 2\] cannot be compared"),
        ({"year": float("nan")}, "nan cannot be compared"),
        ({"draft": {"$gt": True}}, "no order"),
        ({"kind": {"$like": 5}}, "no pattern"),
        ({'a "quoted" key': 1}, "double quote"),
        ({"$not": 5}, "SQL or a dict"),
        (lambda document: True, "what Python decides"),
    ],
)
def test_what_cannot_be_expressed_is_refused(filtered: EmbedsvcVectorStore, filter: Any, told: str) -> None:
    with pytest.raises(errors.BadFilter, match=told):
        filtered.similarity_search("report", filter=filter)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_added_is_refused_before_anything_is(store: EmbedsvcVectorStore) -> None:
    for texts, metadatas, ids, told in (
        (["fine", " \n"], None, None, "Document 1 .* has no text"),
        (["fine", "fine too"], None, ["x", "x"], "Documents 0 and 1 both have the id 'x'"),
        (["fine"], [{}, {}], None, "1 texts and 2 metadatas"),
        (["fine"], None, ["1", "2"], "1 texts and 2 ids"),
        (["fine"], [{"when": {1, 2}}], None, "metadata .* is not JSON"),
    ):
        with pytest.raises(errors.UsageError, match=told):
            store.add_texts(texts, metadatas, ids=ids)
    assert store.collection.count() == 0
    assert store.add_texts([]) == []


def test_documents_of_one_text_are_both_kept(store: EmbedsvcVectorStore) -> None:
    first, second = store.add_documents([Document("the same"), Document("the same", id="2")])
    assert second == "2"
    assert {document.id for document in store.get_by_ids([first, second])} == {first, "2"}
    assert {document.id for document in store.similarity_search("same", duplicates="keep")} == {first, "2"}


def test_ten_thousand_documents_in_one_call(data: Path) -> None:
    # Neither builds an index nor looks for duplicates, of which there are many.
    settings = {"runtime": "onnx", "dtype": "int8", "exact_passages": 20_000, "duplicates": "ignore"}
    store = EmbedsvcVectorStore(embedsvc.library(data_dir=data, **settings).create("many"))
    ids = [f"{number}" for number in range(10_000)]
    assert store.add_texts([f"No. {number % 50}" for number in range(10_000)], ids=ids) == ids
    assert store.collection.count() == 10_000
    store.delete()
    assert store.collection.count() == 0


def test_a_store_is_made_of_texts_by_its_own_model(library: embedsvc.Library, store: EmbedsvcVectorStore) -> None:
    documents = [Document("Bees make honey.", id="bees")]
    made = EmbedsvcVectorStore.from_documents(documents, EmbedsvcEmbeddings(library), collection=store.collection)
    assert [document.id for document in made.similarity_search("honey")] == ["bees"]
    with pytest.raises(errors.UsageError, match="not by DeterministicFakeEmbedding"):
        EmbedsvcVectorStore.from_documents(documents, DeterministicFakeEmbedding(size=6), collection=store.collection)
    with pytest.raises(errors.UsageError, match="which collection"):
        EmbedsvcVectorStore.from_texts(["x"])


def test_a_service_that_is_down_a_collection_that_is_missing_and_an_empty_text(library: embedsvc.Library) -> None:
    with embedsvc.connect("http://localhost:1") as down, pytest.raises(errors.Unreachable, match="embedsvc serve"):
        EmbedsvcRetriever(collection=down.open("handbook")).invoke("x")
    with pytest.raises(errors.NotFound, match="Did you mean 'handbook'"):
        EmbedsvcRetriever(collection=library.open("handbok")).invoke("x")
    with pytest.raises(errors.UsageError, match=r"texts\[1\] is empty"):
        EmbedsvcEmbeddings(library).embed_documents(["x", ""])
    with pytest.raises(errors.NotFound, match="no-such"):
        EmbedsvcEmbeddings(library, model="no-such").embed_query("x")
    with pytest.raises(errors.QueryTooLong):
        EmbedsvcEmbeddings(library, on_overflow="error").embed_query("restart " * 2000)
    with pytest.raises(ValueError, match="kk"):
        EmbedsvcRetriever(collection=library.open("handbook"), kk=2)  # type: ignore[call-arg]


async def test_long_texts_are_embedded_whole(library: embedsvc.Library) -> None:
    embeddings, long = EmbedsvcEmbeddings(library), "The town council met on Tuesday. " * 100
    (whole,), (beginning,) = (
        each.embed_documents([f"{long} Jupiter."])
        for each in (embeddings, EmbedsvcEmbeddings(library, on_overflow="truncate"))
    )
    assert whole != pytest.approx(beginning, abs=1e-4)
    assert await embeddings.aembed_query(long) == pytest.approx(embeddings.embed_query(long), abs=1e-6)


@pytest.mark.parametrize(
    ("package", "needed", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("haystack", "haystack", "haystack"),
        ("llama_index", "llama_index.core", "llama-index"),
    ],
)
def test_a_framework_that_is_not_installed_is_told(
    package: str, needed: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"embedsvc.integrations.{package}"
    for name in [name for name in sys.modules if name.startswith(module)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, needed, None)
    with pytest.raises(errors.MissingDependency, match=rf"embedsvc\[{extra}\]"):
        importlib.import_module(module)


def test_a_wrong_key_is_told(url: str) -> None:
    with embedsvc.connect(url, api_key="wrong") as service:
        for ask in (
            lambda: EmbedsvcRetriever(collection=service.open("handbook")).invoke("x"),
            lambda: EmbedsvcVectorStore(service.open("handbook")).add_texts(["x"]),
            lambda: EmbedsvcEmbeddings(service, model="all-MiniLM-L6-v2").embed_query("x"),
        ):
            with pytest.raises(errors.AccessDenied):
                ask()


# -- a chain -----------------------------------------------------------------------------------------------------------


class Scripted(SimpleChatModel):
    """Says one thing, and keeps what it was asked."""

    heard: list[str] = []  # noqa: RUF012 - a field of a pydantic model

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _call(self, messages: list[BaseMessage], *_: Any, **__: Any) -> str:
        self.heard.append(str(messages[-1].content))
        return "Within 14 days [1]."


def numbered(documents: list[Document]) -> str:
    return "\n\n".join(
        f"[{number}] {document.metadata['title']}, {document.metadata['source']}\n{document.page_content}"
        for number, document in enumerate(documents, start=1)
    )


def test_a_chain_answers_from_cited_sources(library: embedsvc.Library) -> None:
    model = Scripted(heard=[])
    retriever = EmbedsvcRetriever(collection=library.open("handbook"), k=2)
    prompt = ChatPromptTemplate.from_template("Sources:\n{context}\n\nQuestion: {question}")
    answer = prompt | model | StrOutputParser()
    chain = RunnablePassthrough.assign(documents=RunnableLambda(lambda asked: asked["question"]) | retriever).assign(
        answer=RunnablePassthrough.assign(context=lambda asked: numbered(asked["documents"])) | answer
    )
    said = chain.invoke({"question": "how do refunds work?"})
    assert said["answer"] == "Within 14 days [1]."
    (heard,) = model.heard
    assert "[1] Refunds, file://" in heard
    assert "paid back within 14 days" in heard
    assert heard.endswith("Question: how do refunds work?")
    cited = said["documents"][0].metadata
    assert HANDBOOK["refunds.md"][cited["start_index"] : cited["end_index"]] in heard


def test_a_condition_is_our_filter_language() -> None:
    assert condition_of({"year": {"$gte": 2020}}) == '(metadata."year" >= 2020) IS TRUE'


def test_a_condition_nested_without_end_is_refused() -> None:
    filter: dict[str, Any] = {"year": 2020}
    for _ in range(2000):
        filter = {"$not": filter}
    with pytest.raises(errors.BadFilter, match="nested too deep"):
        condition_of(filter)
