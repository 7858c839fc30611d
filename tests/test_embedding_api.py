"""The embedding routes, asked by the clients that they were made for."""

from __future__ import annotations

import asyncio
import base64
import gc
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from embedsvc.config import Settings
from embedsvc.encoders import Encoders
from embedsvc.encoding import Encoder
from embedsvc.errors import ModelError, NotFound
from embedsvc.service.app import create_app
from tests.server import Server, server, until
from tests.tiny_models import make_bert, make_cross_encoder

MODEL = "all-MiniLM-L6-v2"
TEXTS = ["Bread needs flour.", "After a power failure, restart the service.", "Why?"]
LONG = "word " * 600


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(
        tmp_path_factory.mktemp("models") / "tiny-bert", prompts={"query": "query: ", "document": "passage: "}
    )


@pytest.fixture(scope="module")
def rerankers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One with a single logit, one with three."""
    root = tmp_path_factory.mktemp("rerankers")
    return [make_cross_encoder(root / f"labels-{count}", "bert", labels=count) for count in (1, 3)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tiny: Path, rerankers: list[Path]) -> Iterator[Server]:
    data_dir = tmp_path_factory.mktemp("data")
    named = ",".join(map(str, rerankers))
    with server(data_dir, models=str(tiny), rerankers=named, queue_tokens=20_000, max_body_mb=2) as started:
        yield started


@pytest.fixture
def http(running: Server) -> httpx.Client:
    return running.http


def expected(encoder: Encoder, texts: list[str] = TEXTS) -> np.ndarray:
    return encoder.encode_texts(texts, kind="passage").vectors


def near(vectors: Any, encoder: Encoder, texts: list[str] = TEXTS) -> bool:
    """Whether they are the texts' vectors, as far as int8 with other batch mates can tell."""
    return bool((np.array(vectors) * expected(encoder, texts)).sum(axis=1).min() > 0.98)


# -- OpenAI ------------------------------------------------------------------------------------------------------------


def test_the_openai_client(running: Server, encoder: Encoder) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model=MODEL, input=TEXTS)  # the client asks for base64 by itself
        assert near([item.embedding for item in answer.data], encoder)
        assert [item.index for item in answer.data] == [0, 1, 2]
        assert (
            answer.usage.prompt_tokens
            == answer.usage.total_tokens
            == sum(len(ids) + 2 for ids in encoder.tokens.of_texts(TEXTS))
        )
        floats = client.embeddings.create(
            model=f"sentence-transformers/{MODEL}", input=TEXTS[0], encoding_format="float"
        )
        assert near([floats.data[0].embedding], encoder, TEXTS[:1])
        short = client.embeddings.create(model=MODEL, input=TEXTS[0], dimensions=64).data[0].embedding
        assert np.linalg.norm(short) == pytest.approx(1, abs=1e-5)
        assert np.dot(short, floats.data[0].embedding[:64]) / np.linalg.norm(floats.data[0].embedding[:64]) > 0.99
        with pytest.raises(openai.NotFoundError, match="not served"):
            client.embeddings.create(model="gpt-4", input="a")
        with pytest.raises(openai.BadRequestError, match="600 tokens"):
            client.embeddings.create(model=MODEL, input=LONG)
        assert next(model.id for model in client.models.list()) == MODEL


def post(http: httpx.Client, **body: Any) -> dict[str, Any]:
    response = http.post("/v1/embeddings", json={"model": MODEL, **body})
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_tokens_with_and_without_the_special_ones(http: httpx.Client, encoder: Encoder) -> None:
    own = [encoder.tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    whole = [encoder.tokenizer.encode(text).ids for text in TEXTS]
    for tokens in (own, whole):
        answer = post(http, input=tokens)
        assert near([item["embedding"] for item in answer["data"]], encoder)
        assert answer["usage"]["prompt_tokens"] == sum(map(len, whole))
    assert near([post(http, input=own[1])["data"][0]["embedding"]], encoder, TEXTS[1:2])


def test_long_texts_are_reported(http: httpx.Client, encoder: Encoder) -> None:
    cut = post(http, input=["a", LONG], on_overflow="truncate")
    assert cut["overflow"] == [{"index": 1, "tokens_cut": 90}]
    split = post(http, input=["a", LONG], on_overflow="split")
    assert split["overflow"] == [{"index": 1, "windows": 2}]
    assert split["usage"]["prompt_tokens"] == 3 + 604
    ours = encoder.encode_texts([LONG], kind="passage", on_overflow="split").vectors[0]
    assert np.dot(split["data"][1]["embedding"], ours) > 0.999
    assert "overflow" not in post(http, input="a", on_overflow="split")


def test_other_models_by_name_and_their_prompts(http: httpx.Client, tiny: Path) -> None:
    for name in ("tiny-bert", str(tiny)):
        answer = http.post("/v1/embeddings", json={"model": name, "input": "why", "encoding_format": "base64"}).json()
        assert len(base64.b64decode(answer["data"][0]["embedding"])) == 4 * 32
    query, passage = (
        http.post("/v1/embeddings", json={"model": "tiny-bert", "input": "why", "input_type": kind}).json()
        for kind in ("query", "passage")
    )
    assert query["data"] != passage["data"]
    assert [model["id"] for model in http.get("/v1/models").json()["data"]] == [MODEL, "tiny-bert"]
    for name in ("tiny-bert", str(tiny), MODEL):
        assert http.get(f"/v1/models/{name}").json()["id"] == name
    missing = http.get("/v1/models/gpt-4")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_a_full_queue_answers_429(http: httpx.Client) -> None:
    heavy = {"model": MODEL, "input": ["word " * 500] * 30}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: http.post("/v1/embeddings", json=heavy), range(6)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert {answer.status_code for answer in answers} == {200, 429}
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert "waiting already" in answer.json()["error"]["message"]
    assert http.post("/v1/embeddings", json=heavy).status_code == 200


def test_who_hangs_up_leaves_the_queue(running: Server, encoder: Encoder) -> None:
    texts = [f"{number} " + "word " * 480 for number in range(40)]
    body = httpx.Request("POST", running.url, json={"model": MODEL, "input": texts}).read()
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}"
        )
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
        time.sleep(0.2)  # it is being worked on now
    until(lambda: any("POST /v1/embeddings 499" in line for line in running.log))
    # 19,280 tokens would leave no room for these, were they still waiting.
    assert near([post(running.http, input=TEXTS)["data"][at]["embedding"] for at in range(3)], encoder)
    assert len(post(running.http, input=texts[:10])["data"]) == 10


# -- text-embeddings-inference -----------------------------------------------------------------------------------------


def test_the_hugging_face_client(running: Server, encoder: Encoder) -> None:
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HfHubHTTPError

    client = InferenceClient(running.url)
    assert near(client.feature_extraction(TEXTS), encoder)
    assert near(client.feature_extraction(TEXTS[0], normalize=True, truncate=True), encoder, TEXTS[:1])
    assert client.feature_extraction(TEXTS[0], dimensions=16).shape == (1, 16)
    ends = [
        client.feature_extraction(f"bread {LONG}", truncate=True, truncation_direction=side)
        for side in ("left", "right")
    ]
    kept = [f"{'word ' * 510}", f"bread {'word ' * 509}"]
    assert near(np.concatenate(ends), encoder, kept)
    scores = InferenceClient(f"{running.url}/similarity").sentence_similarity(TEXTS[0], other_sentences=TEXTS)
    assert scores[0] == max(scores) > 0.98
    with pytest.raises(HfHubHTTPError):
        client.feature_extraction(LONG)


def test_langchain(running: Server, encoder: Encoder) -> None:
    langchain = pytest.importorskip("langchain_openai")
    endpoint = langchain.OpenAIEmbeddings(
        model="all-MiniLM-L6-v2", base_url=f"{running.url}/v1", api_key="none", check_embedding_ctx_length=False
    )
    assert near(endpoint.embed_documents(TEXTS), encoder)
    assert near([endpoint.embed_query(TEXTS[1])], encoder, TEXTS[1:2])


def test_a_vector_for_every_token(http: httpx.Client, encoder: Encoder) -> None:
    from sentence_transformers import SentenceTransformer

    answer = http.post("/embed_all", json={"inputs": TEXTS}).json()
    model = SentenceTransformer(str(encoder.model.folder), device="cpu", local_files_only=True)
    expected = model.encode(TEXTS, output_value="token_embeddings", show_progress_bar=False)
    for ours, theirs in zip(answer, expected, strict=True):
        found, wanted = np.array(ours), theirs.numpy()
        assert found.shape == wanted.shape
        cosines = (found * wanted).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
        assert cosines.mean() > 0.98
    (cut,) = http.post("/embed_all", json={"inputs": LONG, "truncate": True}).json()
    assert len(cut) == 512
    assert http.post("/embed_all", json={"inputs": LONG}).status_code == 422
    assert http.post("/embed_all", json={"inputs": ["word " * 500] * 40}).status_code == 413


def test_tei_headers_tell_what_it_cost(http: httpx.Client) -> None:
    response = http.post("/embed", json={"inputs": ["Why?", LONG], "truncate": True})
    assert response.headers["x-compute-characters"] == str(4 + len(LONG))
    assert response.headers["x-compute-tokens"] == str(4 + 512)
    assert response.headers["x-embedsvc-tokens-cut"] == "90"
    assert response.headers["x-compute-type"] == "cpu"
    for name in ("compute", "total", "tokenization", "queue", "inference"):
        assert int(response.headers[f"x-{name}-time"]) >= 0


def test_every_tei_route_tells_what_became_of_long_texts(http: httpx.Client, tmp_path: Path) -> None:
    long = {"inputs": ["Why?", LONG], "truncate": True}
    assert http.post("/embed_all", json=long).headers["x-embedsvc-tokens-cut"] == "90"
    words = "why " * 100
    scored = http.post("/rerank", json={"query": "why", "texts": [words, "why"], "truncate": True})
    assert int(scored.headers["x-embedsvc-tokens-cut"]) > 50
    assert int(scored.headers["x-compute-characters"]) == len(words) + 9
    assert "x-embedsvc-tokens-cut" not in http.post("/rerank", json={"query": "why", "texts": ["why"]}).headers


def test_a_split_text_is_told_and_one_too_large_to_tokenise_refused(tmp_path: Path) -> None:
    with server(tmp_path, on_overflow="split", queue_tokens=100) as started:
        response = started.http.post("/embed", json={"inputs": ["Why?", LONG]})
        assert response.headers["x-embedsvc-extra-windows"] == "1"
        assert "x-embedsvc-extra-windows" not in started.http.post("/embed", json={"inputs": "Why?"}).headers
        response = started.http.post("/embed", json={"inputs": "a" * 10_001})
        assert response.status_code == 413
        assert "10001 characters; send at most 10000" in response.json()["error"]


def test_tokens_there_and_back(http: httpx.Client) -> None:
    (tokens,) = http.post("/tokenize", json={"inputs": "Naïve café"}).json()
    assert [token["special"] for token in tokens] == [True, *[False] * (len(tokens) - 2), True]
    assert [(t["text"], t["start"], t["stop"]) for t in tokens[1:-1]] == [("Naïve", 0, 5), ("café", 6, 10)]
    assert http.post("/decode", json={"ids": [token["id"] for token in tokens]}).json() == ["naive cafe"]
    both = http.post("/tokenize", json={"inputs": ["a", "b c"], "add_special_tokens": False}).json()
    assert [len(tokens) for tokens in both] == [1, 2]
    assert http.post("/decode", json={"ids": [[101, 1037], [1038]], "skip_special_tokens": False}).json() == [
        "[CLS] a",
        "b",
    ]


def test_info_and_health(http: httpx.Client) -> None:
    info = http.get("/info").json()
    assert (info["model_id"], info["model_type"], info["max_input_length"]) == (
        MODEL,
        {"embedding": {"pooling": "mean"}},
        512,
    )
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "words"),
    [
        ("/embed", {"inputs": ""}, 400, "Empty", "inputs[0]"),
        ("/embed", {"inputs": []}, 400, "Empty", "inputs"),
        ("/embed", {"inputs": [[40_000]]}, 422, "Validation", "40000"),
        ("/embed", {"inputs": [[]]}, 400, "Empty", "inputs[0]"),
        ("/embed", {"inputs": ["a"] * 10_000}, 413, "Validation", "10000"),
        ("/embed", {"inputs": LONG}, 422, "Validation", "600 tokens"),
        ("/embed", {"inputs": LONG, "truncate": False}, 422, "Validation", "600 tokens"),
        ("/embed", {"inputs": 7}, 422, "Validation", "inputs"),
        ("/embed", {}, 422, "Validation", "inputs"),
        ("/embed", {"inputs": "a", "dimensions": 400}, 422, "Validation", "384"),
        ("/embed", {"inputs": "a", "prompt_name": "poem"}, 422, "Validation", "poem"),
        ("/embed", {"inputs": [[2**40]]}, 422, "Validation", str(2**40)),
        ("/tokenize", {"inputs": "a", "prompt_name": "poem"}, 422, "Validation", "poem"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": [""]}}, 400, "Empty", "inputs.sentences[0]"),
        ("/embed", {"inputs": ["a", None]}, 422, "Validation", "inputs.1: "),
        ("/similarity", {"inputs": "a"}, 422, "Validation", "inputs: Input should be a JSON object"),
        ("/tokenize", {"inputs": [3]}, 422, "Validation", "inputs"),
        ("/decode", {"ids": [40_000]}, 422, "Validation", "40000"),
        ("/decode", {"ids": [-1]}, 422, "Validation", "-1"),
        ("/decode", {"ids": []}, 400, "Empty", "empty"),
    ],
)
def test_tei_errors(http: httpx.Client, path: str, body: dict[str, Any], status: int, kind: str, words: str) -> None:
    response = http.post(path, json=body)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error", "error_type"]
    assert response.json()["error_type"] == kind
    assert words in response.json()["error"]


def test_a_megabyte_of_text(http: httpx.Client) -> None:
    text = "a sentence of words. " * 45_000
    assert http.post("/embed", json={"inputs": text}).status_code == 422
    cut = http.post("/embed", json={"inputs": text, "truncate": True})
    assert int(cut.headers["x-embedsvc-tokens-cut"]) == 225_000 - 510


# -- reranking ---------------------------------------------------------------------------------------------------------

QUERY = "how do i restart the service"
DOCUMENTS = ["vitamin d", "restart the power service", "a failure: 42"]


def ranking(folder: Path) -> list[tuple[int, float]]:
    """What sentence-transformers makes of the documents."""
    from sentence_transformers import CrossEncoder

    found = CrossEncoder(str(folder), device="cpu", local_files_only=True).rank(QUERY, DOCUMENTS)
    return [(int(each["corpus_id"]), float(each["score"])) for each in found]


def test_the_cohere_client(running: Server, http: httpx.Client, rerankers: list[Path]) -> None:
    cohere = pytest.importorskip("cohere")
    expected = ranking(rerankers[0])
    for version in (cohere.Client, cohere.ClientV2):
        client = version("none", base_url=running.url, httpx_client=http)
        answer = client.rerank(model="labels-1", query=QUERY, documents=DOCUMENTS, top_n=2)
        assert [result.index for result in answer.results] == [index for index, _ in expected[:2]]
        scores = [result.relevance_score for result in answer.results]
        assert scores == pytest.approx([score for _, score in expected[:2]], abs=1e-4)
        with pytest.raises(cohere.core.api_error.ApiError, match="not served"):
            client.rerank(model="rerank-v4", query=QUERY, documents=DOCUMENTS)


def test_rerank_reports_what_it_cut(http: httpx.Client) -> None:
    body = {"model": "labels-1", "query": QUERY, "documents": [{"text": DOCUMENTS[1]}, "why"], "return_documents": True}
    whole = http.post("/v1/rerank", json=body).json()
    assert sorted(result["document"]["text"] for result in whole["results"]) == ["restart the power service", "why"]
    assert "warnings" not in whole["meta"]
    cut = http.post("/v1/rerank", json={**body, "max_tokens_per_doc": 2}).json()
    assert sorted(result["document"]["text"] for result in cut["results"]) == ["restart the", "why"]
    assert cut["meta"]["warnings"] == ["2 tokens of the documents were cut"]
    assert cut["usage"]["total_tokens"] == whole["usage"]["total_tokens"] - 2


def test_tei_reranks(http: httpx.Client, rerankers: list[Path]) -> None:
    answer = http.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "return_text": True}).json()
    assert [(each["index"], each["text"]) for each in answer] == [
        (at, DOCUMENTS[at]) for at, _ in ranking(rerankers[0])
    ]
    assert [each["score"] for each in answer] == pytest.approx([score for _, score in ranking(rerankers[0])], abs=1e-4)
    raw = http.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "raw_scores": True}).json()
    logits = np.array([each["score"] for each in raw])
    assert 1 / (1 + np.exp(-logits)) == pytest.approx([each["score"] for each in answer], abs=1e-5)


def test_predict(tmp_path: Path, rerankers: list[Path]) -> None:
    with server(tmp_path, rerankers=str(rerankers[1])) as started:
        single = started.http.post("/predict", json={"inputs": "why"}).json()
        assert sorted(each["label"] for each in single) == ["LABEL_0", "LABEL_1", "LABEL_2"]
        assert sum(each["score"] for each in single) == pytest.approx(1, abs=1e-5)
        assert [each["score"] for each in single] == sorted((each["score"] for each in single), reverse=True)
        several = started.http.post("/predict", json={"inputs": [["why"], ["why", "power"]]}).json()
        assert [each["label"] for each in several[0]] == [each["label"] for each in single]
        alone, pair = (np.array([each["score"] for each in answer]) for answer in several)
        assert alone == pytest.approx([each["score"] for each in single], abs=1e-5)
        assert np.abs(alone - pair).max() > 1e-3
        refused = started.http.post("/rerank", json={"query": "a", "texts": ["b"]})
        assert refused.status_code == 422
        assert "a classifier of 3 labels" in refused.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/rerank", {"query": "a", "documents": []}, 400, "documents"),
        ("/v1/rerank", {"query": "", "documents": ["a"]}, 400, "query"),
        ("/v1/rerank", {"query": "a", "documents": [{"title": "b"}]}, 400, "documents[0] has no text"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "top_n": 0}, 400, "top_n"),
        ("/v1/rerank", {"query": "a", "documents": ["word " * 99]}, 400, "Pair 0"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "model": MODEL}, 404, "not served"),
        ("/rerank", {"query": "a", "texts": []}, 400, "texts is empty"),
        ("/rerank", {"query": "a", "texts": ["a"] * 3000}, 413, "3000"),
        ("/rerank", {"query": "a", "texts": ["word " * 99]}, 422, "Pair 0"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "model": "labels-3"}, 400, "Ask /predict"),
        ("/predict", {"inputs": []}, 400, "inputs is empty"),
        ("/predict", {"inputs": [["a", "b", "c"]]}, 422, "inputs[0] has 3 texts"),
    ],
)
def test_rerank_errors(http: httpx.Client, path: str, body: dict[str, Any], status: int, words: str) -> None:
    response = http.post(path, json=body)
    assert response.status_code == status, response.text
    assert list(response.json()) == (["message"] if path == "/v1/rerank" else ["error", "error_type"])
    assert words in response.json().get("message", response.json().get("error"))


def test_without_a_reranker(tmp_path: Path) -> None:
    with server(tmp_path) as started:
        response = started.http.post("/rerank", json={"query": "a", "texts": ["b"]})
        assert (response.status_code, response.json()["error_type"]) == (424, "Backend")
        assert "EMBEDSVC_RERANKERS" in response.json()["error"]
        assert "EMBEDSVC_RERANKERS" in started.http.post("/v1/rerank", json={"query": "a", "documents": ["b"]}).text


# -- several models ----------------------------------------------------------------------------------------------------


def test_models_are_unloaded_within_the_memory_budget(tmp_path: Path) -> None:
    names = ["one", "two", "three"]
    folders = [str(make_bert(tmp_path / name, seed=seed)) for seed, name in enumerate(names)]
    settings = Settings(
        model=folders[0],
        models=",".join(folders[1:]),
        cache_dir=tmp_path / "cache",
        runtime="torch",
        model_memory_mb=0,
    )
    encoders = Encoders(settings)
    dropped: list[object] = []

    def told_once(encoder: object) -> None:
        encoders.on_unload.remove(told_once)

    encoders.on_unload += [told_once, dropped.append]
    first, second = encoders.default(), encoders.named("two")
    assert encoders.named("two") is second
    assert dropped == []
    third = encoders.named("three")
    assert dropped == [second]
    assert encoders.loaded("two") is None
    assert encoders.loaded("three") is third
    assert encoders.default() is encoders.named("one") is first
    again = encoders.named(folders[1])
    assert again is not second
    assert again.contract == second.contract
    with pytest.raises(NotFound, match="'four' is not served here"):
        encoders.named("four")
    with pytest.raises(NotFound, match="No reranker is served"):
        encoders.reranker_model(None)


@pytest.mark.usefixtures("exports_in_process")
def test_an_unloaded_model_leaves_the_memory_at_once(tmp_path: Path) -> None:
    folders = [str(make_bert(tmp_path / name, seed=seed)) for seed, name in enumerate(("one", "two", "three"))]
    settings = Settings(
        model=folders[0], models=",".join(folders[1:]), cache_dir=tmp_path / "cache", runtime="onnx", model_memory_mb=0
    )
    encoders = Encoders(settings)
    encoders.default()
    held = weakref.ref(encoders.named("two"))
    second = held()
    assert second is not None
    second.encode_texts(["used"], kind="passage")
    session = weakref.ref(second.runtime)
    del second
    gc.disable()
    try:
        encoders.named("three")
        assert held() is session() is None
    finally:
        gc.enable()


def test_one_that_was_dropped_but_is_in_use_counts_again(tmp_path: Path) -> None:
    folders = [str(make_bert(tmp_path / name, seed=seed)) for seed, name in enumerate(("one", "two", "three"))]
    settings = Settings(
        model=folders[0], models=",".join(folders[1:]), cache_dir=tmp_path / "cache", runtime="torch", model_memory_mb=0
    )
    encoders = Encoders(settings)
    encoders.default()
    second, third = encoders.named("two"), encoders.named("three")
    encoders.touch(second)
    assert encoders.loaded("two") is second
    assert encoders.loaded("three") is not third


def test_while_a_model_loads_all_else_goes_on(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data_dir=tmp_path, models=str(tiny), runtime="onnx")
    app = create_app(settings)
    app.state.embedsvc.encoders.default()
    go, loads = threading.Event(), []

    def load(settings: Settings) -> Encoder:
        loads.append(settings.model)
        assert go.wait(60)
        raise ModelError("its weights are damaged")

    monkeypatch.setattr("embedsvc.encoders.load_encoder", load)

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:

            async def embed(model: str, text: str) -> int:
                return (await client.post("/v1/embeddings", json={"model": model, "input": text})).status_code

            waiting = [asyncio.ensure_future(embed("tiny-bert", "a")) for _ in range(30)]
            try:
                while not loads:
                    await asyncio.sleep(0.01)
                others = [
                    (await client.get("/readyz")).status_code,
                    (await client.get("/health")).status_code,
                    (await client.get("/v1/collections")).status_code,
                    await embed(MODEL, "sentence " * 400),
                ]
            finally:
                go.set()
            return others + await asyncio.gather(*waiting)

    assert asyncio.run(ask()) == [200] * 4 + [503] * 30
    assert loads == [str(tiny)]


def test_a_request_that_would_take_minutes_is_refused(http: httpx.Client) -> None:
    text = "word " * 1000
    answer = http.post("/embed", json={"inputs": [text] * 300, "truncate": True, "normalize": False})
    assert answer.status_code == 200  # 150,000 tokens; and this model's own vectors have unit length
    answer = http.post("/embed", json={"inputs": [f"{'word ' * 500}{at}" for at in range(500)], "truncate": True})
    assert answer.status_code == 413
    assert "send at most 200000 at once" in answer.json()["error"]


def test_unit_length_is_said_not_assumed(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "plain", normalize=False)
    with server(tmp_path / "data", model=str(folder)) as started:
        assert started.http.post("/embed", json={"inputs": "a"}).status_code == 200
        refused = started.http.post("/embed", json={"inputs": "a", "normalize": False})
        assert (refused.status_code, "unit length only" in refused.text) == (422, True)
