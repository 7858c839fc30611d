"""What :mod:`embedsvc.integrations.llama_index` gives LlamaIndex, embedded and remote. LlamaIndex has no standard suite
of its own: these are what its indexes and engines ask of a store, a retriever and an embedding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.base.llms.types import CompletionResponse, CompletionResponseGen, LLMMetadata
from llama_index.core.llms import CustomLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

import embedsvc
from embedsvc import errors
from embedsvc.integrations.llama_index import EmbedsvcEmbedding, EmbedsvcRetriever, EmbedsvcVectorStore, condition_of
from tests.server import server

REFUNDS = "Money is paid back within 14 days of a return."


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module", params=["embedded", "remote"])
def library(request: pytest.FixtureRequest, data: Path) -> Iterator[embedsvc.Library]:
    if request.param == "embedded":
        yield embedsvc.library(data_dir=data / "embedded", runtime="onnx", dtype="int8")
    else:
        with (
            server(data / "remote", api_keys="right") as running,
            embedsvc.connect(running.url, api_key="right") as library,
        ):
            yield library


@pytest.fixture
def store(library: embedsvc.Library) -> Iterator[EmbedsvcVectorStore]:
    store = EmbedsvcVectorStore(library.create("store"))
    yield store
    store.clear()


def node(id: str, text: str, parent: str = "handbook", **metadata: Any) -> TextNode:
    relationships = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=parent)}
    return TextNode(id_=id, text=text, metadata=metadata, relationships=relationships)


NODES = [
    node("refunds", REFUNDS, file_path="handbook/refunds.md", file_name="refunds.md", n=1),
    node("travel", "The office books trains.", n=2, kind="it's 100% new", tags=["a", "b"]),
    node("garden", "Prune the apple trees in winter.", parent="other", kind="Manual"),
]


@pytest.fixture
def filled(store: EmbedsvcVectorStore) -> EmbedsvcVectorStore:
    assert store.add(NODES) == ["refunds", "travel", "garden"]
    return store


# -- the vector store --------------------------------------------------------------------------------------------------


def test_nodes_come_back_as_they_were(filled: EmbedsvcVectorStore) -> None:
    (found,) = filled.get_nodes(["refunds", "no-such"])
    assert found == NODES[0]
    assert found.ref_doc_id == "handbook"
    assert {each.node_id for each in filled.get_nodes()} == {"refunds", "travel", "garden"}
    filled.add([node("refunds", "None are given.", n=5)])
    assert filled.get_nodes(["refunds"])[0].get_content() == "None are given."


def test_nodes_are_deleted_by_their_document_ids_and_filters(filled: EmbedsvcVectorStore) -> None:
    def left() -> set[str]:
        return {each.node_id for each in filled.get_nodes()}

    filled.delete("other")
    filled.delete("no-such")
    assert left() == {"refunds", "travel"}
    of_two = MetadataFilters(filters=[MetadataFilter(key="n", value=2)])
    filled.delete_nodes(["refunds"], of_two)
    assert left() == {"refunds", "travel"}
    filled.delete_nodes(filters=of_two)
    assert left() == {"refunds"}
    filled.delete_nodes(["refunds", "no-such"])
    assert left() == set()
    filled.add([NODES[0]])
    empty = MetadataFilters(filters=[])
    for filters in (None, empty, MetadataFilters(filters=[empty])):
        with pytest.raises(errors.UsageError, match="Say which nodes"):
            filled.delete_nodes(filters=filters)
    filled.delete_nodes([])
    assert left() == {"refunds"}
    filled.delete_nodes(["refunds"], empty)
    assert left() == set()


def test_a_query_finds_cites_and_scores(filled: EmbedsvcVectorStore, library: embedsvc.Library) -> None:
    found = filled.query(VectorStoreQuery(query_str="how do refunds work?", similarity_top_k=2))
    assert found.nodes is not None
    assert found.similarities is not None
    assert (found.ids or [])[0] == found.nodes[0].node_id == "refunds"
    assert found.similarities == sorted(found.similarities, reverse=True)
    assert all(0 <= score <= 1 for score in found.similarities)
    best = found.nodes[0]
    cited = {"source": "handbook/refunds.md", "title": "refunds.md", "start_index": 0, "end_index": len(REFUNDS)}
    assert best.metadata.items() >= {**cited, "n": 1, "document_id": "refunds"}.items()
    assert "start_index" not in best.get_content(MetadataMode.LLM)
    untitled = (found.nodes or [])[1]
    assert (untitled.node_id, untitled.metadata["source"]) == ("travel", "urn:embedsvc:travel")
    read = untitled.get_content(MetadataMode.LLM)
    assert "kind: it's 100% new" in read
    assert "source:" not in read
    assert "title:" not in read
    vector = EmbedsvcEmbedding(library).get_query_embedding("refunds")
    assert filled.query(VectorStoreQuery(query_embedding=vector)).ids == ["refunds"]


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("default", {}),
        ("hybrid", {"alpha": 0.2, "hybrid_top_k": 1}),
        ("sparse", {}),
        ("text_search", {}),
        ("mmr", {"mmr_threshold": 0.7}),
    ],
)
def test_modes(filled: EmbedsvcVectorStore, mode: str, options: dict[str, Any]) -> None:
    query = VectorStoreQuery(query_str="trains", mode=VectorStoreQueryMode(mode), **options)
    found = filled.query(query)
    assert (found.ids or [])[0] == "travel"
    if query.mode in (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.TEXT_SEARCH):
        assert found.similarities == [1.0]


def test_queries_are_narrowed_to_nodes_and_documents(filled: EmbedsvcVectorStore) -> None:
    for narrowed, ids in (({"node_ids": ["travel"]}, {"travel"}), ({"doc_ids": ["other"]}, {"garden"})):
        query = VectorStoreQuery(query_str="refunds", similarity_top_k=5, **narrowed)
        assert set(filled.query(query).ids or ()) == ids


AND, OR, NOT = FilterCondition.AND, FilterCondition.OR, FilterCondition.NOT


def by(key: str, operator: str, value: Any) -> MetadataFilter:
    return MetadataFilter(key=key, operator=FilterOperator(operator), value=value)


@pytest.mark.parametrize(
    ("filters", "condition", "found"),
    [
        ([by("n", "==", 1)], AND, {"refunds"}),
        ([by("n", "!=", 1)], AND, {"travel", "garden"}),
        ([by("n", ">", 1)], AND, {"travel"}),
        ([by("n", "<=", 1), by("n", ">=", 1)], AND, {"refunds"}),
        ([by("n", "in", [2, 3]), by("kind", "==", "Manual")], OR, {"travel", "garden"}),
        ([by("n", "nin", [2, 3])], AND, {"refunds", "garden"}),
        ([by("kind", "text_match", "100% n")], AND, {"travel"}),
        ([by("kind", "text_match", "manual")], AND, set()),
        ([by("kind", "text_match_insensitive", "manual")], AND, {"garden"}),
        ([by("n", "==", 1), by("kind", "==", "Manual")], NOT, {"travel"}),
        ([MetadataFilters(filters=[by("n", "<", 2), by("n", ">", 0)]), by("n", "==", 7)], OR, {"refunds"}),
        ([by("tags", "contains", "a")], AND, {"travel"}),
        ([by("tags", "any", ["b", "c"])], AND, {"travel"}),
        ([by("tags", "all", ["a", "b"])], AND, {"travel"}),
        ([by("tags", "all", ["a", "c"])], AND, set()),
        ([by("tags", "nin", ["a"])], AND, {"refunds", "garden"}),
        ([], AND, {"refunds", "travel", "garden"}),
    ],
)
def test_filters_are_translated(
    filled: EmbedsvcVectorStore, filters: list[Any], condition: FilterCondition, found: set[str]
) -> None:
    wanted = MetadataFilters(filters=filters, condition=condition)
    query = VectorStoreQuery(query_str="what is there?", similarity_top_k=5, filters=wanted)
    assert set(filled.query(query).ids or ()) == found == {each.node_id for each in filled.get_nodes(filters=wanted)}


@pytest.mark.parametrize(
    ("filter", "told"),
    [
        (by("n", "is_empty", None), "whether a list is empty"),
        (by("n", "in", 5), "takes a list"),
        (by("n", "text_match", 5), "no text to look for"),
        (by('a"b', "==", 5), "double quote"),
        (by("n", "==", ["a"]), "cannot be compared"),
    ],
)
def test_what_cannot_be_expressed_is_refused(store: EmbedsvcVectorStore, filter: MetadataFilter, told: str) -> None:
    with pytest.raises(errors.BadFilter, match=told):
        store.query(VectorStoreQuery(query_str="x", filters=MetadataFilters(filters=[filter])))


def test_filters_nested_without_end_are_refused() -> None:
    filters = MetadataFilters(filters=[by("n", "==", 1)])
    for _ in range(2000):
        filters = MetadataFilters.model_construct(filters=[filters], condition=FilterCondition.NOT)
    with pytest.raises(errors.BadFilter, match="nested too deep"):
        condition_of(filters)


def test_what_is_wrong_is_told(store: EmbedsvcVectorStore, library: embedsvc.Library) -> None:
    for nodes, told in (
        ([node("1", "fine"), node("2", " ")], "Document 1 .* has no text"),
        ([node("1", "fine"), node("1", "fine")], "both have the id '1'"),
    ):
        with pytest.raises(errors.UsageError, match=told):
            store.add(nodes)
    assert store.get_nodes() == []
    assert store.query(VectorStoreQuery(query_str="x")).ids == []
    with pytest.raises(errors.UsageError, match="neither words"):
        store.query(VectorStoreQuery())
    with pytest.raises(errors.UsageError, match="no mode svm; there are default"):
        store.query(VectorStoreQuery(query_str="x", mode=VectorStoreQueryMode.SVM))
    with pytest.raises(errors.NotFound):
        EmbedsvcRetriever(library.open("no-such")).retrieve("x")
    with embedsvc.connect("http://localhost:1") as down, pytest.raises(errors.Unreachable):
        EmbedsvcVectorStore(down.open("c")).query(VectorStoreQuery(query_str="x"))


async def test_all_is_asynchronous_too(store: EmbedsvcVectorStore, library: embedsvc.Library) -> None:
    assert await store.async_add(NODES) == ["refunds", "travel", "garden"]
    assert (await store.aquery(VectorStoreQuery(query_str="refunds"))).ids == ["refunds"]
    assert [each.node_id for each in await store.aget_nodes(["travel"])] == ["travel"]
    retrieved = await EmbedsvcRetriever(store.client, similarity_top_k=1).aretrieve("refunds")
    assert [each.node.metadata["document_id"] for each in retrieved] == ["refunds"]
    embedding = EmbedsvcEmbedding(library)
    assert await embedding.aget_query_embedding("x") == pytest.approx(embedding.get_query_embedding("x"), abs=1e-6)
    assert len(await embedding.aget_text_embedding_batch(["x", "y"])) == 2
    assert await embedding.aget_text_embedding("x") == pytest.approx(embedding.get_text_embedding("x"), abs=1e-6)
    await store.adelete_nodes(["travel"])
    await store.adelete("other")
    await store.aclear()
    assert store.client.count() == 0


async def test_the_asynchronous_twin_is_awaited(data: Path) -> None:
    settings = {"data_dir": data / "embedded", "runtime": "onnx", "dtype": "int8"}
    library = embedsvc.library_async(**settings)
    collection = await library.create("twin")
    await collection.add([{"id": "1", "text": "Bees make honey."}])
    with embedsvc.connect("http://localhost:1") as nowhere:
        retriever = EmbedsvcRetriever(nowhere.open("twin"), collection)
        assert [each.node.node_id for each in await retriever.aretrieve("honey")] == ["1:0"]
        store = EmbedsvcVectorStore(nowhere.open("twin"), collection)
        assert (await store.aquery(VectorStoreQuery(query_str="honey"))).ids == ["1"]
        assert await EmbedsvcEmbedding(nowhere, library).aget_query_embedding("honey")
    await library.delete("twin")


# -- indexes and engines -----------------------------------------------------------------------------------------------


def test_an_index_stands_on_the_store(store: EmbedsvcVectorStore, library: embedsvc.Library) -> None:
    index = VectorStoreIndex.from_vector_store(store, embed_model=EmbedsvcEmbedding(library))
    index.insert_nodes(NODES)
    wanted = MetadataFilters(filters=[by("n", ">=", 1)])
    found: list[NodeWithScore] = index.as_retriever(similarity_top_k=2, filters=wanted).retrieve("how do refunds work?")
    assert [each.node.node_id for each in found] == ["refunds", "travel"]
    index.delete_ref_doc("handbook")
    assert [each.node_id for each in store.get_nodes()] == ["garden"]


def test_documents_longer_than_the_models_window_are_indexed(
    store: EmbedsvcVectorStore, library: embedsvc.Library
) -> None:
    documents = [Document(text=f"{'The town council met on Tuesday. ' * 110} {REFUNDS}", id_="long")]
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex.from_documents(documents, context, embed_model=EmbedsvcEmbedding(library))
    (found,) = index.as_retriever(similarity_top_k=1).retrieve("how do refunds work?")
    assert REFUNDS in found.node.get_content()
    with pytest.raises(errors.QueryTooLong):
        EmbedsvcEmbedding(library, on_overflow="error").get_text_embedding(documents[0].text)


@pytest.mark.parametrize("wrong", [{"kk": 2}, {"on_overflow": "refuse"}])
def test_options_that_there_are_not_are_refused(library: embedsvc.Library, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EmbedsvcEmbedding(library, **wrong)


class Scripted(CustomLLM):
    """Says one thing, and keeps what it was asked."""

    heard: list[str] = []  # noqa: RUF012 - a field of a pydantic model

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="scripted")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.heard.append(prompt)
        return CompletionResponse(text="Within 14 days.")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        raise NotImplementedError


def test_an_engine_answers_from_cited_sources(filled: EmbedsvcVectorStore) -> None:
    model = Scripted(heard=[])
    retriever = EmbedsvcRetriever(filled.client, similarity_top_k=1)
    said = RetrieverQueryEngine.from_args(retriever, llm=model).query("how do refunds work?")
    assert str(said) == "Within 14 days."
    (heard,) = model.heard
    assert REFUNDS in heard
    assert "source: handbook/refunds.md" in heard
    assert "how do refunds work?" in heard
    (source,) = said.source_nodes
    assert REFUNDS[source.node.metadata["start_index"] : source.node.metadata["end_index"]] == REFUNDS
    assert source.score is not None
    assert 0 <= source.score <= 1


def test_documents_that_came_otherwise_are_nodes_too(store: EmbedsvcVectorStore) -> None:
    store.client.add([{"id": "bees", "text": "Bees make honey.", "metadata": {"n": 9}}])
    (found,) = store.get_nodes()
    assert (found.node_id, found.get_content(), found.metadata) == ("bees", "Bees make honey.", {"n": 9})
    (retrieved,) = EmbedsvcRetriever(store.client).retrieve("honey")
    assert (retrieved.node.node_id, retrieved.node.metadata["document_id"]) == ("bees:0", "bees")
