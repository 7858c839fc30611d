from __future__ import annotations

import asyncio
import base64
import errno
import gc
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedsvc.collection import Collection, delete_collection
from embedsvc.config import Settings, load_settings
from embedsvc.encoders import Encoders
from embedsvc.encoding import Encoder
from embedsvc.errors import Closed, Conflict, NotFound, Overloaded, StorageFailure, UsageError
from embedsvc.opened import OPEN_BYTES, Collections, Opened
from embedsvc.readers import FieldChoice
from embedsvc.records import Chunking, make_document
from embedsvc.service import create_app, serve
from embedsvc.service.jobs import Jobs, Pace
from embedsvc.service.middleware import Front
from embedsvc.service.state import Bounded
from embedsvc.upkeep import Upkeep
from embedsvc.vectors import Goal, live
from tests.fakes import FakeEncoder
from tests.server import DEADLINE, Server, server, until
from tests.test_storage import simple

MODEL = "all-MiniLM-L6-v2"
RESTART = "Restart the service: after a power failure, start the store first and the service second."
BREAD = "Bread needs flour, water, salt and patience. Butter goes on top."
JSON = {"content-type": "application/json"}


def finished(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        state: dict[str, Any] = http.get(f"/v1/jobs/{job['job']}").json()
        return state if state["status"] not in ("queued", "waiting", "running") else None

    state: dict[str, Any] = until(look)
    return state


def add(http: httpx.Client, name: str, *documents: dict[str, Any]) -> dict[str, Any]:
    response = http.post(f"/v1/collections/{name}/documents", json={"documents": documents})
    assert response.status_code == 202, response.text
    return finished(http, response.json())


def is_problem(response: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:embedsvc:problem:")
    assert body["title"]
    assert body["instance"] == response.request.url.path
    for word in words:
        assert word in json.dumps(body, ensure_ascii=False), word
    return body


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service") / "indexes"


@pytest.fixture(scope="module")
def running(data_dir: Path) -> Iterator[Server]:
    with server(data_dir, max_body_mb=2, lock_timeout=0.3) as started:
        state = add(
            started.http,
            "handbook",
            {
                "id": "ops/restart",
                "uri": "kb://restart",
                "title": "Restart",
                "text": RESTART,
                "metadata": {"year": 2024},
            },
            {"id": "bread", "text": BREAD, "metadata": {"year": 1999}},
        )
        assert (state["status"], state["counts"], state["total"]) == ("done", {"indexed": 2}, 2)
        yield started


@pytest.fixture
def http(running: Server) -> httpx.Client:
    return running.http


def search(http: httpx.Client, name: str = "handbook", **body: Any) -> httpx.Response:
    return http.post(f"/v1/collections/{name}/search", json=body)


# -- search ------------------------------------------------------------------------------------------------------------


def test_hits_are_selected_as_asked(http: httpx.Client) -> None:
    from embedsvc.service import schemas

    http.put("/v1/collections/selected", json={})
    dates = {"new": "2999-01-01", "old": "1999-01-01"}
    documents = [{"id": id, "text": RESTART, "metadata": {"date": date}} for id, date in dates.items()]
    add(http, "selected", *documents, {"id": "bread", "text": BREAD, "metadata": {"kind": "food"}})
    wanted = {"query": "restart after a power failure", "mode": "dense"}
    first, second = search(http, "selected", **wanted).json()["hits"]
    (copy,) = first["duplicates"]
    assert {first["document_id"], copy["document_id"]} == {"new", "old"}
    assert set(copy) == set(schemas.CitationOut.model_fields)
    assert (copy["start"], copy["end"], second["document_id"]) == (0, len(RESTART), "bread")
    boosts = [
        {"field": "metadata.date", "half_life_days": 90, "weight": 0.2},
        {"filter": "id = 'bread:0'", "factor": 2},
    ]
    answer = search(http, "selected", **wanted, boosts=boosts, duplicates="keep", explain=True).json()
    stages = [step["stage"] for step in answer["explain"]["stages"]]
    assert stages[:2] == ["candidates", "boost"]
    assert answer["hits"][0]["document_id"] == "new"
    grouped = search(http, "selected", **wanted, group_by="metadata.kind", per_group=1, diversity=0.5).json()
    assert len(grouped["hits"]) == 2


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"duplicates": "some"}, 422, "duplicates"),
        ({"diversity": 2}, 400, "diversity is 2"),
        ({"per_group": 2}, 400, "give group_by too"),
        ({"group_by": "metadata.nothing"}, 400, "No passage of 'handbook' has a value in metadata.nothing"),
        ({"group_by": "uri"}, 400, "choose document or metadata.KEY"),
        ({"boosts": [{"filter": "title = 'a'"}]}, 400, "either field, half_life_days and weight, or filter and factor"),
        ({"boosts": [{"filter": "nothing = 1", "factor": 2}]}, 400, "unknown field"),
        ({"boosts": [{"field": "metadata.year", "half_life_days": 1, "weight": 1.5}]}, 400, "weight is 1.5"),
        ({"boosts": [{"filter": "title = 'a'", "factor": 2, "more": 1}]}, 422, "more"),
        ({"boosts": [{"filter": "title = 'a'", "factor": 2}] * 21}, 422, "boosts"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(
    http: httpx.Client, body: dict[str, Any], status: int, word: str
) -> None:
    is_problem(search(http, query="restart", **body), status, word)


def test_a_context_is_packed_and_counted_as_asked(http: httpx.Client) -> None:
    answer = search(http, query="restart after power failure", k=2, expand="document", highlight=True).json()
    assert answer["answerable"] is True
    first = answer["context"]["sources"][0]
    assert (first["marker"], first["hits"], first["text"]) == (1, [1], RESTART)
    assert answer["context"]["text"].startswith("[1] Restart\n")
    start, end = answer["hits"][0]["highlight"]["sentence"]
    assert 0 <= start < end <= len(RESTART)
    small = search(http, query="restart after power failure", k=2, max_context_tokens=5).json()
    assert small["context"] == {"text": "", "tokens": 0, "sources": [], "left_out": [1, 2]}


def test_hits_are_narrowed_to_as_many_tokens_as_asked(http: httpx.Client) -> None:
    whole, part, default = (
        search(http, query="butter", k=1, narrow=narrow).json()["hits"][0] for narrow in (False, 1, True)
    )
    assert (whole["text"], part["text"], default["text"]) == (BREAD, "Butter goes on top.", BREAD)
    assert BREAD[part["start"] : part["end"]] == part["text"]
    for narrow in (0, "yes"):
        assert search(http, query="restart", narrow=narrow).status_code in (400, 422)


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"expand": "chapter"}, 422, "expand"),
        ({"order": "document"}, 400, "max_context_tokens"),
        ({"max_context_tokens": 0}, 400, "max_context_tokens is 0"),
        ({"expand": "section", "tokenizer": "gpt"}, 404, "EMBEDSVC_TOKENIZERS"),
        ({"min_confidence": 2.0}, 400, "probability"),
        ({"rerank": "no-such"}, 404, "EMBEDSVC_RERANKERS"),
        ({"rerank_depth": 10}, 400, "send rerank too"),
    ],
)
def test_what_a_search_cannot_be_answered_with(
    http: httpx.Client, body: dict[str, Any], status: int, word: str
) -> None:
    is_problem(search(http, query="restart", **body), status, word)


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_search_answers_with_the_passage_and_its_place(http: httpx.Client, mode: str) -> None:
    answer = search(http, query="restart after power failure", mode=mode, k=1).json()
    assert list(answer) == ["query", "collection", "version", "mode", "took_ms", "answerable", "warnings", "hits"]
    assert (answer["query"], answer["collection"], answer["mode"]) == ("restart after power failure", "handbook", mode)
    (hit,) = answer["hits"]
    assert list(hit) == (
        "id document_id uri title text start end page heading score scores confidence metadata".split()  # noqa: SIM905
    )
    assert (hit["document_id"], hit["uri"], hit["title"]) == ("ops/restart", "kb://restart", "Restart")
    assert hit["text"] == RESTART[hit["start"] : hit["end"]] == RESTART
    assert hit["metadata"] == {"year": 2024}
    assert list(hit["scores"]) == ["dense", "lexical", "rerank"]
    assert (hit["scores"]["dense"] is None) == (mode == "lexical")
    assert (hit["scores"]["lexical"] is None) == (mode == "dense")


def test_several_queries_and_a_ready_made_vector(http: httpx.Client) -> None:
    several = search(http, queries=["bread and butter", "power failure"], k=1).json()
    assert [answer["hits"][0]["document_id"] for answer in several["results"]] == ["bread", "ops/restart"]
    embedded = http.post("/v1/embeddings", json={"model": MODEL, "input": BREAD}).json()
    answer = search(http, vector=embedded["data"][0]["embedding"], k=1).json()
    assert (answer["mode"], answer["hits"][0]["document_id"]) == ("dense", "bread")
    assert answer["hits"][0]["score"] > 0.99


def test_what_each_stage_did_is_told_where_asked(http: httpx.Client) -> None:
    answer = search(http, query="restart after power failure", k=1, explain=True, merge=False).json()
    assert [step["stage"] for step in answer["explain"]["stages"]] == [
        "candidates",
        "fuse",
        "wording",
        "fold",
        "merge",
        "cite",
        "confide",
    ]
    assert answer["hits"][0]["explain"]["merge"] == {"rank": 1, "score": answer["hits"][0]["score"]}


def test_a_request_fuses_as_it_says(http: httpx.Client) -> None:
    rrf = search(http, query="restart after power failure", fusion={"method": "rrf", "weight": 0.3}, k=1).json()
    assert rrf["hits"][0]["score"] == pytest.approx(1)  # the first on both sides
    is_problem(search(http, query="restart", fusion={"weight": 1.5}), 400, "weight is 1.5")
    both = {"method": "rrf", "normalisation": "zscore"}
    is_problem(search(http, query="restart", fusion=both), 400, "rrf fuses ranks")
    is_problem(search(http, query="restart", mode="lexical", fusion={"weight": 0.5}), 400, "fusion is of mode hybrid")
    is_problem(search(http, query="restart", rerank="no-such"), 404, "No reranker is served here")


def test_filter_min_score_and_overflow(http: httpx.Client) -> None:
    filtered = search(http, query="restart", filter="metadata.year < 2000").json()
    assert [hit["document_id"] for hit in filtered["hits"]] == ["bread"]
    assert search(http, query="restart", min_score=1e9).json()["hits"] == []
    too_long = search(http, query="word " * 600)
    is_problem(too_long, 400, "600 tokens", "510")
    told = too_long.json()
    assert told["detail"] == told["fact"] + " Shorten it, or ask for on_overflow=split or truncate."
    cut = search(http, query="word " * 600, on_overflow="truncate").json()
    assert cut["tokens_cut"] == 90
    assert cut["hits"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"query": "a", "k": 0}, 400, ["k is 0", "1 to 1000"]),
        ({"query": "a", "k": -3}, 400, ["k is -3"]),
        ({"query": "a", "k": 10**30}, 400, ["1 to 1000"]),
        ({"query": "a", "k": "10"}, 422, ["#/k", "integer"]),
        ({"query": "a", "k": 1.5}, 422, ["#/k"]),
        ({"query": "a", "top_k": 3}, 422, ["#/top_k", "no such field"]),
        ({"query": "a", "mode": "fuzzy"}, 422, ["#/mode", "hybrid"]),
        ({"query": " \n"}, 400, ["empty"]),
        ({"query": 7}, 422, ["#/query"]),
        ({}, 400, ["exactly one", "none"]),
        ({"query": "a", "vector": [1.0]}, 400, ["exactly one", "query and vector were sent"]),
        ({"queries": []}, 400, ["1 to 100"]),
        ({"queries": ["a"] * 101}, 400, ["101"]),
        ({"queries": ["a", ""]}, 400, ["empty"]),
        ({"queries": ["a", None]}, 422, ["#/queries/1"]),
        ({"vector": [1.0, 2.0]}, 400, ["2 dimensions", "384"]),
        ({"vector": [0.0] * 384}, 400, ["zero"]),
        ({"vector": [1.0] * 384, "mode": "hybrid"}, 400, ["dense"]),
        ({"query": "a", "filter": "year >"}, 400, ["Bad filter", "year >"]),
        ({"query": "a", "filter": "nothing = 1"}, 400, ["Bad filter", "nothing"]),
        ({"query": "a", "filter": "title = '\0"}, 400, ["Bad filter"]),
        ([], 422, ["#/"]),
        (None, 422, ["#/"]),
    ],
)
def test_a_bad_search_is_told_what_is_wrong(http: httpx.Client, body: Any, status: int, words: list[str]) -> None:
    response = http.post("/v1/collections/handbook/search", content=json.dumps(body), headers=JSON)
    is_problem(response, status, *words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ["body is empty"]),
        (b"{'query': 1}", ["not JSON"]),
        (b'{"query": "\xff"}', ["not UTF-8", "0xff"]),
        (b'{"vector": [NaN]}', ["NaN"]),
        (b'{"vector": [-Infinity]}', ["Infinity"]),
        (b'{"min_score": 1e999, "query": "a"}', ["too large"]),
        (b'{"k": ' + b"9" * 5000 + b"}", ["number"]),
        (b"[" * 100_000, ["nested"]),
    ],
)
def test_a_body_that_is_not_json(http: httpx.Client, body: bytes, words: list[str]) -> None:
    is_problem(http.post("/v1/collections/handbook/search", content=body, headers=JSON), 400, *words)


def test_odd_characters_in_a_query_are_searched_for(http: httpx.Client) -> None:
    for query in ("\\ud800 power", "\\u0000power", "🙂 power", "'; DROP TABLE power; --"):
        body = f'{{"query": "{query}"}}'.encode()
        response = http.post("/v1/collections/handbook/search", content=body, headers=JSON)
        assert response.status_code == 200, (query, response.text)


def test_wrong_paths_names_and_content_types(http: httpx.Client) -> None:
    is_problem(search(http, "handbok", query="a"), 404, "handbok", "Did you mean 'handbook'?")
    is_problem(search(http, "..%2Fetc", query="a"), 404)
    is_problem(search(http, "bad name", query="a"), 400, "cannot name a collection")
    is_problem(http.get("/v1/nothing"), 404)
    is_problem(http.patch("/v1/collections/handbook"), 405)
    is_problem(http.post("/v1/collections/handbook/search", content=b"a", headers={"content-type": "text/plain"}), 415)


# -- collections -------------------------------------------------------------------------------------------------------


def test_a_collection_is_made_shown_listed_and_deleted(http: httpx.Client) -> None:
    path = "/v1/collections/made"
    asked = {
        "model": MODEL,
        "dtype": "fp32",
        "chunk_tokens": 128,
        "overlap": 8,
        "finer_tokens": 48,
        "chunk_context": "headings",
    }
    made = http.put(path, json=asked)
    assert (made.status_code, made.headers["location"]) == (201, path)
    shown = http.get(path).json()
    assert made.json() == shown
    assert list(shown) == ["name", "documents", "passages", "version", "contract", "chunking", "index", "bytes"]
    assert (shown["name"], shown["documents"], shown["passages"]) == ("made", 0, 0)
    assert (shown["contract"]["model"], shown["contract"]["dtype"]) == (MODEL, "fp32")
    assert "canary_vectors" not in shown["contract"]
    assert shown["chunking"] == {
        "window": 128, "overlap": 8, "whole": False, "finer": 48, "language": "english", "context": "headings"
    }  # fmt: skip
    assert (shown["index"]["kind"], shown["index"]["recall@10"]) == ("flat", 1.0)
    assert shown["bytes"] > 0
    assert search(http, "made", query="anything").json()["hits"] == []

    assert http.put(path, json=asked).status_code == 200
    assert http.put(path, content=b"").status_code == 200
    is_problem(http.put(path, json={"chunk_tokens": 64}), 409, "chunk_tokens 128")
    is_problem(http.put(path, json={"finer_tokens": 0}), 409, "finer_tokens 48")
    is_problem(http.put(path, json={"dtype": "int8"}), 409, "dtype")

    listed = http.get("/v1/collections").json()["collections"]
    assert [value["name"] for value in listed] == sorted(value["name"] for value in listed)
    assert shown in listed
    assert http.delete(path).status_code == 204
    is_problem(http.delete(path), 404)
    is_problem(http.get(path), 404)


def test_a_collection_that_cannot_be_made(http: httpx.Client) -> None:
    is_problem(http.put("/v1/collections/-x", json={}), 400, "cannot name")
    is_problem(http.put("/v1/collections/x", json={"model": "all-MiniLM"}), 400, "Did you mean 'all-MiniLM-L6-v2'?")
    is_problem(http.put("/v1/collections/x", json={"chunk_tokens": 1000}), 400, "512")
    is_problem(http.put("/v1/collections/x", json={"chunk_tokens": 20, "overlap": 30}), 400, "overlap")
    is_problem(http.put("/v1/collections/x", json={"chunk_tokens": 64, "finer_tokens": 64}), 400, "finer_tokens is 64")
    is_problem(http.put("/v1/collections/x", json={"dtype": "fp16"}), 400, "fp16")
    is_problem(http.put("/v1/collections/x", json={"chunk_tokens": 0}), 422, "#/chunk_tokens")
    is_problem(http.put("/v1/collections/x", json={"chunk_tokens": 64.5}), 422, "#/chunk_tokens")
    is_problem(http.put("/v1/collections/x", json={"window": 9}), 422, "#/window")
    is_problem(http.get("/v1/collections/x"), 404)


def test_a_damaged_collection_is_told_of_and_does_not_hide_the_others(http: httpx.Client, data_dir: Path) -> None:
    (data_dir / "broken" / "passages.lance").mkdir(parents=True)
    try:
        is_problem(search(http, "broken", query="a"), 500, "broken", "cannot be read")
        listed = {value["name"]: value for value in http.get("/v1/collections").json()["collections"]}
        assert "cannot be read" in listed["broken"]["error"]
        assert listed["handbook"]["documents"] == 2
    finally:
        assert http.delete("/v1/collections/broken").status_code == 204


# -- documents and jobs ------------------------------------------------------------------------------------------------


def test_documents_are_listed_read_replaced_and_deleted(http: httpx.Client) -> None:
    path = "/v1/collections/docs/documents"
    texts = {f"d{number}": f"Document {number} is about the number {number}." for number in range(5)}
    state = add(http, "docs", *({"id": id, "uri": f"kb://{id}", "text": text} for id, text in texts.items()))
    assert state["counts"] == {"indexed": 5}
    assert state["started"] >= state["created"]
    assert state["finished"] >= state["started"]
    page = http.get(path, params={"limit": 2, "offset": 3}).json()
    assert (page["total"], page["limit"], page["offset"]) == (5, 2, 3)
    assert [document["id"] for document in page["documents"]] == ["d3", "d4"]
    assert page["documents"][0]["characters"] == len(texts["d3"])
    assert http.get(path, params={"offset": 99}).json()["documents"] == []
    for query in ({"limit": 0}, {"limit": 1001}, {"offset": -1}, {"limit": "x"}, {"offset": 2**70}):
        is_problem(http.get(path, params=query), 422)

    again = add(http, "docs", {"id": "d1", "uri": "kb://d1", "text": texts["d1"]}, {"id": "d2", "text": "Changed."})
    assert again["counts"] == {"unchanged": 1, "replaced": 1}
    assert http.get(f"{path}/d2").json()["text"] == "Changed."

    assert http.delete(f"{path}/d4").status_code == 204
    is_problem(http.delete(f"{path}/d4"), 404, "d4")
    is_problem(http.get(f"{path}/d4"), 404, "d4")
    assert http.get(path).json()["total"] == 4
    is_problem(http.get("/v1/collections/none/documents"), 404)


def test_documents_are_deleted_by_a_filter(http: httpx.Client) -> None:
    add(http, "filtered", *({"id": f"{n}", "text": f"No. {n}.", "metadata": {"n": n}} for n in range(4)))
    path = "/v1/collections/filtered/documents/delete"
    for body, told in (
        ({}, "Say which documents are meant: by ids, by a filter, or both. If all are: filter TRUE."),
        ({"filter": ""}, "filter is empty, so no document is meant. If all are: TRUE"),
        ({"ids": ["1"], "filter": "n = 1"}, "n"),
    ):
        is_problem(http.post(path, json=body), 400, told)
    is_problem(http.post(path, json={"filter": 5}), 422)
    is_problem(http.post(path.replace("filtered", "filtred"), json={"filter": "TRUE"}), 404, "Did you mean 'filtered'")
    assert http.post(path, json={"filter": "metadata.n > 2"}).json() == {"deleted": 1}
    assert http.post(path, json={"ids": ["0", "1"], "filter": "metadata.n > 0"}).json() == {"deleted": 1}
    assert http.post(path, json={"filter": "TRUE"}).json() == {"deleted": 2}


def test_metadata_are_set_by_a_job_that_encodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings({"data_dir": str(tmp_path), "runtime": "onnx"})
    path = "/v1/collections/c/documents/metadata"
    with in_app(create_app(settings)) as client:
        add(client, "c", *({"id": f"{n}", "text": f"No. {n}.", "metadata": {"n": n}} for n in range(4)))
        monkeypatch.setattr(Encoder, "submit", None)
        monkeypatch.setattr(Encoder, "encode_texts", None)
        for body, told in (
            ({"metadata": {"x": 1}}, "Say which documents are meant"),
            ({"metadata": {"x": 1}, "filter": " "}, "filter is empty"),
            ({"metadata": {"x": 1}, "filter": "metadata.n >"}, "metadata.n >"),
        ):
            is_problem(client.post(path, json=body), 400, told)  # and not by a job that fails later
        for body in ({"filter": "TRUE"}, {"metadata": None, "ids": []}, {"metadata": {}, "ids": [], "text": "x"}):
            is_problem(client.post(path, json=body), 422)
        is_problem(client.post(path.replace("/c/", "/cc/"), json={"metadata": {}, "ids": []}), 404, "Did you mean 'c'")
        taken = client.post(path, json={"metadata": {"team": "support", "n": None}, "filter": "metadata.n >= 2"})
        assert taken.headers["location"] == f"/v1/jobs/{taken.json()['job']}"
        done = finished(client, taken.json())
        assert (done["kind"], done["status"], done["result"]) == ("metadata", "done", {"changed": 2})
        assert client.get("/v1/collections/c/documents/3").json()["metadata"] == {"team": "support"}
        again = client.post(path, json={"metadata": {"team": "support"}, "ids": ["0", "3", "no-such"]})
        assert finished(client, again.json())["result"] == {"changed": 1}
    jobs = tmp_path / ".jobs"
    jobs.rename(tmp_path / ".jobs-before")
    jobs.touch()  # so that none can be written, as in a folder that is read-only
    with in_app(create_app(settings)) as client:
        is_problem(client.post(path, json={"metadata": {"x": 1}, "ids": ["1"]}), 507)


def test_documents_are_deleted_by_uri(http: httpx.Client) -> None:
    path = "/v1/collections/by-uri/documents"
    add(http, "by-uri", *({"id": f"d{n}", "uri": f"kb://{n}?a=1#b", "text": f"Number {n}."} for n in range(4)))
    records = b'{"id": "1", "text": "x"}\n{"id": "2", "text": "y"}\n'
    finished(http, upload(http, "by-uri", {"r.jsonl": records}).json())
    uris = [document["uri"] for document in http.get(path).json()["documents"]]
    (source,) = {uri.partition("#")[0] for uri in uris if not uri.startswith("kb:")}
    is_problem(http.delete(path, params={"uri": ["kb://0?a=1#b", "kb://none"]}), 404, "kb://none")
    assert http.get(path).json()["total"] == 6
    two = ["kb://0?a=1#b", "kb://3?a=1#b"]
    assert http.delete(path, params={"uri": two}).json() == {"deleted": two}
    assert len(http.delete(path, params={"uri": source}).json()["deleted"]) == 2  # all that came out of the upload
    assert http.get(path).json()["total"] == 2
    is_problem(http.delete(path), 422, "uri")
    many = {"uris": [f"kb://{n}?a=1#b" for n in (2, 1)]}
    is_problem(http.post(f"{path}/delete-by-uri", json={"uris": [*many["uris"], "kb://none"]}), 404, "kb://none")
    assert http.post(f"{path}/delete-by-uri", json=many).json() == {"deleted": many["uris"][::-1]}
    is_problem(http.delete("/v1/collections/none/documents", params={"uri": "x"}), 404)


def test_a_document_is_read_whole_with_its_passages(http: httpx.Client) -> None:
    text = "# Guide\n\n" + "\n\n".join(f"Sentence {n} speaks of café № {n}. It ends here." for n in range(200))
    add(http, "whole", {"id": "long", "text": text, "title": "Guide", "metadata": {"tag": "x"}})
    read = http.get("/v1/collections/whole/documents/long").json()
    assert (read["text"], read["title"], read["metadata"]) == (text, "Guide", {"tag": "x"})
    assert len(read["passages"]) > 1
    covered = " ".join(text[span["start"] : span["end"]] for span in read["passages"])
    assert set(text.split()) == set(covered.split())
    for hit in search(http, "whole", query="café 150").json()["hits"]:
        assert text[hit["start"] : hit["end"]] == hit["text"]
    part = http.get("/v1/collections/whole/documents/long", params={"start": 4000, "end": 4500}).json()
    assert (part["text"], part["start"], part["end"]) == (text[4000:4500], 4000, 4500)
    assert (part["characters"], part["title"], part["metadata"]) == (len(text), "Guide", {"tag": "x"})
    assert part["passages"] == [each for each in read["passages"] if each["start"] < 4500 and each["end"] > 4000]
    rest = http.get("/v1/collections/whole/documents/long", params={"start": len(text) - 3}).json()
    assert rest["text"] == text[-3:]
    is_problem(http.get("/v1/collections/whole/documents/long", params={"start": -1}), 422, "start")
    is_problem(http.get("/v1/collections/whole/documents/none", params={"end": 1}), 404, "none")


def test_ids_may_hold_slashes_and_anything_else(http: httpx.Client) -> None:
    ids = ["a/b/c", "ö 1%", "it's", "#1?x=2"]
    add(http, "ids", *({"id": id, "text": f"The text of {id}"} for id in ids))
    for id in ids:
        address = f"/v1/collections/ids/documents/{httpx.URL('http://x', params={'i': id}).query.decode()[2:]}"
        address = address.replace("+", "%20")
        assert http.get(address).json()["text"] == f"The text of {id}"
        assert http.delete(address).status_code == 204
    assert http.get("/v1/collections/ids/documents").json()["total"] == 0


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, ["#/documents"]),
        ({"documents": []}, 422, ["#/documents"]),
        ({"documents": [{"id": "a"}]}, 422, ["#/documents/0/text"]),
        ({"documents": [{"text": "a"}, {"text": 7}]}, 422, ["#/documents/1/text"]),
        ({"documents": [{"text": "a", "id": ""}]}, 422, ["#/documents/0/id"]),
        ({"documents": [{"text": "a", "meta": {}}]}, 422, ["#/documents/0/meta"]),
        ({"documents": [{"text": "a", "metadata": []}]}, 422, ["#/documents/0/metadata"]),
    ],
)
def test_bad_documents_are_refused_and_make_no_collection(
    http: httpx.Client, body: Any, status: int, words: list[str]
) -> None:
    is_problem(http.post("/v1/collections/never/documents", json=body), status, *words)
    is_problem(http.get("/v1/collections/never"), 404)


def test_odd_values_in_documents(http: httpx.Client) -> None:
    path = "/v1/collections/odd/documents"
    nan = b'{"documents": [{"text": "a", "metadata": {"x": NaN}}]}'
    is_problem(http.post(path, content=nan, headers=JSON), 400, "NaN")
    body = rb'{"documents": [{"id": "odd", "text": "lone \ud800 and NUL \u0000.", "metadata": {"k\udfff": "\ud800"}}]}'
    state = finished(http, http.post(path, content=body, headers=JSON).json())
    assert state["counts"] == {"indexed": 1}
    assert state["notes"][0]["note"] == "3 lone surrogate(s) replaced by U+FFFD"
    read = http.get(f"{path}/odd").json()
    assert (read["text"], read["metadata"]) == ("lone \ufffd and NUL \0.", {"k\ufffd": "\ufffd"})
    state = add(
        http, "odd", {"id": "empty", "text": " \n "}, {"id": "twice", "text": "a"}, {"id": "twice", "text": "b"}
    )
    assert state["counts"] == {"empty": 1, "indexed": 1, "quarantined": 1}
    assert {failure["reason"].split(":")[0] for failure in state["failures"]} == {"there is no text in it", "duplicate"}
    told = http.get("/metrics").text
    assert 'embedsvc_ingest_inputs_total{collection="odd",status="quarantined"} 1.0' in told
    assert 'embedsvc_ingest_inputs_total{collection="odd",status="indexed"} 2.0' in told


def upload(http: httpx.Client, name: str, files: dict[str, bytes], **form: str | list[str]) -> httpx.Response:
    parts = [("files", (file, data, "application/octet-stream")) for file, data in files.items()]
    return http.post(f"/v1/collections/{name}/documents", files=parts, data=form)


def test_files_are_read_by_their_format_and_junk_does_not_stop_the_rest(http: httpx.Client) -> None:
    markdown = "# Guide\n\nAfter an outage, press the green button.\n"
    records = b'{"key": "r1", "content": "Record one."}\n{"key": "r2"}\n'
    files = {
        "guide.md": markdown.encode(),
        "broken.pdf": b"%PDF-1.7\nthis is no pdf",
        "junk.bin": bytes(range(256)),
        "sub/records.jsonl": records,
        "empty.txt": b"",
    }
    response = upload(http, "files", files, text_field="content", id_field="key")
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/jobs/{response.json()['job']}"
    state = finished(http, response.json())
    assert (state["status"], state["total"]) == ("done", 5)
    assert state["counts"] == {"indexed": 2, "quarantined": 3, "empty": 1}
    reasons = {failure["uri"]: failure["reason"].split(":")[0] for failure in state["failures"]}
    assert reasons["broken.pdf"] == "damaged"
    assert reasons["junk.bin"] == "unsupported"
    assert reasons["sub/records.jsonl#r2"] == "missing_field"
    assert "empty.txt" in reasons
    (hit,) = search(http, "files", query="outage", k=1).json()["hits"]
    assert (hit["uri"], hit["heading"]) == ("guide.md", "Guide")
    assert hit["text"] == markdown[hit["start"] : hit["end"]]
    again = finished(http, upload(http, "files", {"guide.md": markdown.encode()}).json())
    assert again["counts"] == {"unchanged": 1}


def test_file_names_that_look_like_records_or_escapes_stay_apart(http: httpx.Client) -> None:
    files = {"r.jsonl": b'{"id": "1", "text": "A record."}\n', "r.jsonl#1": b"A file.", "r.jsonl%231": b"Another."}
    assert finished(http, upload(http, "apart", files).json())["counts"] == {"indexed": 3}
    listed = http.get("/v1/collections/apart/documents").json()["documents"]
    assert [document["uri"] for document in listed] == ["r.jsonl#1", "r.jsonl%231", "r.jsonl%25231"]


def test_a_bad_form_is_refused(http: httpx.Client) -> None:
    path = "/v1/collections/never/documents"
    is_problem(upload(http, "never", {"a.txt": b"a"}, text_filed="x"), 400, "text_filed")
    broken = {"content-type": "multipart/form-data"}
    is_problem(http.post(path, content=b"x", headers=broken), 400)
    is_problem(http.post(path, files={"text_field": (None, "x")}), 400, "no file")
    is_problem(upload(http, "never", {"a.txt": b"a"}, title_field=["x", "y"]), 400, "title_field", "twice")
    is_problem(http.post(path, content=b"a", headers={"content-type": "text/plain"}), 415, "multipart")
    is_problem(http.get("/v1/collections/never"), 404)


def test_a_body_above_the_limit_is_refused_without_being_read(running: Server) -> None:
    address = (httpx.URL(running.url).host, httpx.URL(running.url).port)
    head = "POST /v1/collections/handbook/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(address, timeout=DEADLINE) as connection:
        # Not one byte of the body is sent: the answer comes all the same.
        connection.sendall(f"{head}Content-Length: 2000001\r\n\r\n".encode())
        answer = connection.recv(4096)
    assert b" 413 " in answer.splitlines()[0]

    def endless() -> Iterator[bytes]:
        for _ in range(10_000):
            yield b" " * 65536

    is_problem(running.http.post("/v1/collections/handbook/search", content=endless(), headers=JSON), 413, "2 MB")
    parts = {"files": ("big.txt", b"a" * 3_000_000)}
    is_problem(running.http.post("/v1/collections/never/documents", files=parts), 413)
    assert running.http.post("/v1/embeddings", content=b" " * 2_000_001, headers=JSON).json()["error"]["message"]
    assert search(running.http, query="power").status_code == 200


def test_unknown_jobs(http: httpx.Client) -> None:
    for id in ("x", "0" * 16 + "-" + "0" * 12, "..%2Fhandbook"):
        is_problem(http.get(f"/v1/jobs/{id}"), 404)


def test_a_job_tells_how_far_it_is_what_is_alike_and_reports_each_input(http: httpx.Client) -> None:
    documents = [{"id": id, "text": BREAD} for id in ("b1", "b2")] + [{"id": "r", "text": RESTART}]
    path = "/v1/collections/told/documents"
    done = finished(http, http.post(path, json={"documents": documents}).json())
    assert done["counts"] == {"indexed": 3}
    assert done["alike"] == [{"uri": "urn:embedsvc:b2", "like": "urn:embedsvc:b1", "similarity": 1.0}]
    assert (done["passages"], done["alike_left_out"], done["eta_s"]) == (3, 0, None)
    assert done["progress"] == 1
    assert done["tokens"] > done["encoded_tokens"] > 0, "the same text is encoded once"
    assert done["seconds"] > 0
    assert done["tokens_per_s"] > 0
    report = http.get(f"/v1/jobs/{done['job']}/report")
    assert report.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in report.text.splitlines()]
    assert [line["uri"] for line in lines] == [f"urn:embedsvc:{id}" for id in ("b1", "b2", "r")]
    assert lines[1]["like"] == {"id": "b1", "uri": "urn:embedsvc:b1", "similarity": 1.0}
    more = [{"id": "b3", "text": f"{BREAD}\n"}, {"id": "new", "text": "Jam, too."}]
    dropped = finished(http, http.post(path, json={"documents": more, "duplicates": "drop"}).json())
    assert dropped["counts"] == {"duplicate": 1, "indexed": 1}
    assert http.get(f"{path}/b3").status_code == 404
    form = {"data": {"duplicates": "drop"}, "files": {"files": ("b.txt", BREAD.encode())}}
    assert finished(http, http.post(path, **form).json())["counts"] == {"duplicate": 1}  # type: ignore[arg-type]
    form["data"] = {"duplicates": "merge"}
    is_problem(http.post(path, **form), 400, "report, drop, ignore")  # type: ignore[arg-type]
    is_problem(http.post(path, json={"documents": more, "duplicates": "merge"}), 422, "duplicates")
    verified = finished(http, http.post("/v1/collections/told/verify").json())
    is_problem(http.get(f"/v1/jobs/{verified['job']}/report"), 404, "no report", "verify")
    is_problem(http.get("/v1/jobs/x/report"), 404)


def test_two_writers_of_one_collection_both_get_their_turn(running: Server, data_dir: Path) -> None:
    with server(data_dir) as other:
        both = (running.http, other.http)
        assert running.http.put("/v1/collections/shared", json={}).status_code == 201

        def send(number: int) -> dict[str, Any]:
            return add(both[number % 2], "shared", {"id": f"n{number}", "text": f"Writer {number} was here."})

        with ThreadPoolExecutor(6) as pool:
            states = list(pool.map(send, range(6)))
        assert [state["status"] for state in states] == ["done"] * 6
        for client in both:
            assert client.get("/v1/collections/shared/documents").json()["total"] == 6
        # Either server tells about the other's jobs.
        for state in states:
            assert [client.get(f"/v1/jobs/{state['job']}").json() for client in both] == [state, state]


def in_another_process(code: str, data_dir: Path) -> subprocess.Popen[str]:
    head = (
        "import sys, json\nfrom pathlib import Path\nfrom embedsvc.config import load_settings\n"
        "from embedsvc.collection import Collection, delete_collection\n"
        "from embedsvc.ingest import ingest_items, open_or_create\nfrom embedsvc.readers import FieldChoice\n"
        "from embedsvc.records import make_document\n"
        "settings = load_settings({'data_dir': sys.argv[1], 'runtime': 'onnx'})\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_what_another_process_commits_deletes_and_makes_anew_is_seen(http: httpx.Client, data_dir: Path) -> None:
    add(http, "seen", {"id": "old", "text": "Something old."})
    assert search(http, "seen", query="zebra").json()["hits"][0]["document_id"] == "old"
    put = (
        "collection, encoder = open_or_create('seen', settings, set())\n"
        "list(ingest_items(collection, encoder, [make_document('kb://z', 'A zebra.', id='zebra')], FieldChoice()))\n"
    )
    with in_another_process(put, data_dir) as process:
        assert process.wait(DEADLINE) == 0
    assert search(http, "seen", query="zebra").json()["hits"][0]["document_id"] == "zebra"
    with in_another_process("delete_collection('seen', settings)\n" + put, data_dir) as process:
        assert process.wait(DEADLINE) == 0
    assert [hit["document_id"] for hit in search(http, "seen", query="zebra").json()["hits"]] == ["zebra"]
    with in_another_process("delete_collection('seen', settings)\n", data_dir) as process:
        assert process.wait(DEADLINE) == 0
    is_problem(search(http, "seen", query="zebra"), 404)


def test_while_another_process_writes_deletions_are_refused_and_jobs_wait(http: httpx.Client, data_dir: Path) -> None:
    add(http, "locked", {"id": "kept", "text": "It stays."})
    hold = "with Collection.open('locked', settings).writer():\n    print('held', flush=True)\n    sys.stdin.read()\n"
    with in_another_process(hold, data_dir) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "held\n"
        refusal = http.delete("/v1/collections/locked/documents/kept")
        is_problem(refusal, 409, "Another process is writing")
        assert refusal.headers["retry-after"] == "5"
        assert refusal.json()["title"] == "Collection in use"
        is_problem(http.delete("/v1/collections/locked"), 409)
        is_problem(http.post("/v1/collections/locked/documents/delete", json={"filter": "TRUE"}), 409, "is writing")
        which = {"metadata": {"x": 1}, "filter": "TRUE"}
        put = http.post("/v1/collections/locked/documents/metadata", json=which)
        posted = http.post("/v1/collections/locked/documents", json={"documents": [{"id": "new", "text": "It waits."}]})
        # Longer than the server waits for the lock at once: the job is not given up.
        time.sleep(0.5)
        assert http.get(put.headers["location"]).json()["status"] == "waiting"
        assert http.get(posted.headers["location"]).json()["status"] == "queued"
        process.stdin.close()
    assert finished(http, put.json())["result"] == {"changed": 1}
    assert finished(http, posted.json())["counts"] == {"indexed": 1}


# -- the end of a server -----------------------------------------------------------------------------------------------

# One document that takes many seconds to encode: it is stopped between two batches of the encoder.
LONG = [{"id": "long", "text": "lorem ipsum dolor sit amet. " * 40_000}]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopping_server_ends_its_job_and_another_tells_of_it(number: int, running: Server, data_dir: Path) -> None:
    with server(data_dir) as stopping:
        name = f"drained-{number}"
        job = stopping.http.post(f"/v1/collections/{name}/documents", json={"documents": LONG}).json()
        until(lambda: stopping.http.get(f"/v1/jobs/{job['job']}").json()["status"] == "running")
        assert stopping.stop(number) == 0
    assert not [line for line in stopping.log if "did not stop" in line]
    state = running.http.get(f"/v1/jobs/{job['job']}").json()
    assert state["status"] == "interrupted"
    assert "again" in state["error"]
    assert state["finished"]
    # The lock is free, and nothing is half done.
    add(running.http, name, {"id": "after", "text": "A new one."})
    assert not list((data_dir / ".jobs").glob("*.tmp"))


def test_requests_in_flight_are_finished(data_dir: Path) -> None:
    texts = ["lorem ipsum dolor sit amet " * 40] * 24
    body = json.dumps({"model": MODEL, "input": texts}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with server(data_dir) as stopping:
        address = (httpx.URL(stopping.url).host, httpx.URL(stopping.url).port)
        with socket.create_connection(address, timeout=DEADLINE) as connection:
            connection.sendall(head + body)
            # A later connection was answered, so the earlier one was taken up.
            assert httpx.get(f"{stopping.url}/healthz", timeout=DEADLINE).status_code == 200
            stopping.process.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: connection.recv(1 << 20), b""))
        assert stopping.process.wait(DEADLINE) == 0
    assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["data"]) == 24


def test_a_job_whose_process_was_killed_is_interrupted(running: Server, data_dir: Path) -> None:
    with server(data_dir) as killed:
        job = killed.http.post("/v1/collections/killed/documents", json={"documents": LONG}).json()
        path = f"/v1/jobs/{job['job']}"
        until(lambda: killed.http.get(path).json()["status"] == "running")
        assert running.http.get(path).json()["status"] == "running"
        assert killed.stop(signal.SIGKILL) != 0
    assert running.http.get(path).json()["status"] == "interrupted"
    assert add(running.http, "killed", {"id": "after", "text": "A new one."})["counts"] == {"indexed": 1}


def test_what_is_left_of_a_job_follows_from_the_share_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(monotonic=lambda: 10.0)
    monkeypatch.setattr("embedsvc.service.jobs.time", now)
    pace = Pace(100.0, began=0.0)
    assert pace.to_dict(0) == {"progress": 0.0, "seconds": 10.0, "tokens_per_s": None, "eta_s": None}
    pace.done = 70.0
    assert pace.to_dict(500) == {
        "progress": 0.7, "seconds": 10.0, "tokens_per_s": 50.0, "eta_s": round(10 * 30 / 70, 1),
    }  # fmt: skip
    pace.done = 100.0
    assert pace.to_dict(500)["eta_s"] == 0
    resumed = Pace(100.0, 80.0, first=60.0, began=0.0)
    assert resumed.to_dict(0)["eta_s"] == 10.0, "what an earlier job did says nothing of the pace"


@pytest.mark.parametrize("where", ["state", "report"])
def test_a_job_that_meets_a_full_disk_says_so_while_nothing_can_be_written_and_after(
    here: Settings, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    full = threading.Event()

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            full.set()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def report(path: Path, *arguments: Any, **options: Any) -> Any:
        if not path.name.endswith(".report.jsonl"):
            return opened_file(path, *arguments, **options)
        return Full(path, "w")

    def state(path: Path, data: bytes) -> int:
        if full.is_set() or (where == "state" and b'"indexed"' in data):
            full.set()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(path, data)

    plain, opened_file = Path.write_bytes, Path.open
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    opened = SimpleNamespace(collection=collection, encoder=fake, is_current=lambda: True)
    jobs = Jobs(here.data_dir, lambda name: cast("Opened", opened))
    item = make_document("t:1", "red green")
    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_bytes", state)
        if where == "report":
            broken.setattr(Path, "open", report)
        broken.setattr("embedsvc.service.jobs._SAVE_SECONDS", -1)
        job = jobs.submit("c", [item], FieldChoice(), 1)["job"]
        until(lambda: jobs.get(job)["status"] not in ("queued", "running"))
        told = jobs.get(job)
        assert (told["status"], told["finished"] is not None) == ("failed", True)
        assert "is full" in told["error"]
        with pytest.raises(StorageFailure, match="is full"):
            jobs.submit("c", [item], FieldChoice(), 1)
    elsewhere = Jobs(here.data_dir, lambda name: cast("Opened", opened))
    assert elsewhere.get(job)["status"] == "running"
    full.clear()
    next_one = jobs.submit("c", [item], FieldChoice(), 1)["job"]
    assert elsewhere.get(job) == told
    until(lambda: elsewhere.get(next_one)["status"] == "done")
    jobs.stop(10)
    assert not list((here.data_dir / ".jobs").glob(".*.tmp"))


def test_old_jobs_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedsvc.service.jobs._KEEP", 3)

    def nothing(name: str) -> Any:
        raise UsageError(f"no {name}")

    jobs = Jobs(tmp_path, nothing)
    ids = []
    for _ in range(5):
        ids.append(jobs.submit("x", [], FieldChoice(), 0)["job"])
        until(lambda: jobs.get(ids[-1])["status"] == "failed")
    assert sorted(file.stem for file in (tmp_path / ".jobs").glob("*.json")) == ids[2:]
    assert jobs.get(ids[-1])["error"] == "no x"
    jobs.stop(1)


def test_several_workers_share_port_and_jobs_and_end_together(data_dir: Path) -> None:
    with server(data_dir, workers=2) as started:
        job = started.http.post("/v1/collections/workers/documents", json={"documents": [{"text": RESTART}]}).json()
        # A connection of its own for each request, so that both workers get some.
        state = until(
            lambda: look if (look := httpx.get(f"{started.url}/v1/jobs/{job['job']}").json())["finished"] else None
        )
        assert state["counts"] == {"indexed": 1}
        for _ in range(4):
            answer = httpx.post(
                f"{started.url}/v1/collections/workers/search", json={"query": "power"}, timeout=DEADLINE
            )
            assert len(answer.json()["hits"]) == 1
        # A terminal sends the signal to all of them, and the workers get another one from who started them.
        children = Path(f"/proc/{started.process.pid}/task/{started.process.pid}/children").read_text().split()
        workers = [int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        assert len(workers) == 2
        for pid in workers:
            os.kill(pid, signal.SIGINT)
        assert started.stop(signal.SIGINT) == 0
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert not [line for line in started.log if "Traceback" in line or "abort" in line.lower()]


def test_no_torch_in_the_server(tmp_path: Path) -> None:
    with server(tmp_path) as started:
        add(started.http, "x", {"text": RESTART})
        assert search(started.http, "x", query="power").json()["hits"]
        assert upload(started.http, "x", {"a.html": b"<p>Hello there, reader.</p>"}).status_code == 202
        assert started.http.post("/v1/embeddings", json={"model": MODEL, "input": "a"}).status_code == 200
        assert started.stop() == 0
        assert started.process.stdout
        modules = json.loads(started.process.stdout.readlines()[-1])
    assert "onnxruntime" in modules
    assert not {"torch", "transformers", "sentence_transformers"} & set(modules)


def test_an_address_that_cannot_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for workers in (1, 2):
            with pytest.raises(Conflict, match=f"Port {port} on 127.0.0.1 is in use"):
                serve(load_settings({"port": port, "workers": workers}))
    with pytest.raises(UsageError, match="cannot be listened on"):
        serve(load_settings({"host": "192.0.2.1", "port": 8080}))
    with pytest.raises(UsageError, match="not an address"):
        serve(load_settings({"host": "no.such.host.invalid", "port": 8080}))
    with pytest.raises(UsageError, match="65535"):
        serve(load_settings({"port": 70000}))
    with pytest.raises(UsageError, match="workers"):
        serve(load_settings({"workers": 0}))


# -- embeddings --------------------------------------------------------------------------------------------------------


def embed(http: httpx.Client, **body: Any) -> httpx.Response:
    return http.post("/v1/embeddings", json={"model": MODEL, **body})


def test_embeddings_in_openai_shape(http: httpx.Client) -> None:
    body = embed(http, input=[RESTART, BREAD], user="me", dimensions=384).json()
    assert list(body) == ["object", "data", "model", "usage"]
    assert (body["object"], body["model"]) == ("list", MODEL)
    assert [(item["object"], item["index"]) for item in body["data"]] == [("embedding", 0), ("embedding", 1)]
    vectors = np.array([item["embedding"] for item in body["data"]])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    one = embed(http, input="Why?").json()
    assert one["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    packed = embed(http, input=[RESTART, BREAD], encoding_format="base64").json()
    raw = np.array([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in packed["data"]])
    assert np.array_equal(raw, vectors.astype(np.float32))


@pytest.mark.parametrize(
    ("body", "status", "param", "code", "words"),
    [
        ({"input": ""}, 400, "input", None, "empty"),
        ({"input": ["a", ""]}, 400, "input", None, "input[1]"),
        ({"input": []}, 400, "input", None, "0 entries"),
        ({"input": ["a"] * 2049}, 400, "input", None, "2049"),
        ({"input": None}, 400, "input", None, "missing"),
        ({"input": {"a": 1}}, 400, "input", None, "not a string"),
        ({"input": [True]}, 400, "input", None, "not a string"),
        ({"input": [1, 40_000]}, 400, "input", None, "40000"),
        ({"input": [[1], [-2]]}, 400, "input", None, "-2"),
        ({"input": [[1], "a"]}, 400, "input", None, "input[1] is not a list of tokens"),
        ({"input": ["a", [1]]}, 400, "input", None, "input[1] is not a string"),
        ({"input": [[1, "a"]]}, 400, "input", None, "input[0][1] is no token"),
        ({"input": [1, "a"]}, 400, "input", None, "input[1] is no token"),
        ({"input": [2**70]}, 400, "input", None, "input[0] is no token"),
        ({"input": [[]]}, 400, "input", None, "empty"),
        ({"input": "word " * 600}, 400, "input", "context_length_exceeded", "600 tokens"),
        ({"input": "a", "model": "gpt-4"}, 404, "model", "model_not_found", MODEL),
        ({"input": "a", "model": 4}, 400, "model", None, "string"),
        ({"input": "a", "dimensions": 385}, 400, "dimensions", None, "384"),
        ({"input": "a", "dimensions": 0}, 400, "dimensions", None, "384"),
        ({"input": "a", "dimensions": -3}, 400, "dimensions", None, "384"),
        ({"input": "a", "on_overflow": "drop"}, 400, "on_overflow", None, "split"),
        ({"input": "a", "encoding_format": "int8"}, 400, "encoding_format", None, "base64"),
        ({"input": "a", "inputs": "b"}, 400, "inputs", None, "no such field"),
    ],
)
def test_embedding_errors_in_openai_shape(
    http: httpx.Client, body: dict[str, Any], status: int, param: str, code: str | None, words: str
) -> None:
    response = embed(http, **body)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert words in error["message"]


def test_other_embedding_errors_in_openai_shape(http: httpx.Client) -> None:
    for response, status in (
        (http.post("/v1/embeddings", content=b"{", headers=JSON), 400),
        (http.post("/v1/embeddings", content=b"[]", headers=JSON), 400),
        (http.post("/v1/embeddings", json={"input": "a"}), 400),
        (http.get("/v1/embeddings"), 405),
    ):
        assert response.status_code == status
        assert response.json()["error"]["type"] == "invalid_request_error"


# -- health, errors, docs ----------------------------------------------------------------------------------------------


def test_metrics_tell_the_recall_that_was_measured_and_that_people_get(
    here: Settings, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = replace(here, exact_passages=100, recall_sample=1.0)
    monkeypatch.setattr(live, "_TOGETHER", 4)
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((8, encoder.dimension))

    def vectors(count: int) -> Any:
        made = rng.standard_normal((count, 8)) @ directions
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)

    with Collection.create("large", encoder.contract, Chunking(64, 8), here).writer() as writer:
        writer.replace([(*simple(str(at), f"text {at}")[:2], vector[None]) for at, vector in enumerate(vectors(2000))])
    Collection.create("empty", encoder.contract, Chunking(64, 8), here)
    app = create_app(here)

    async def ask() -> tuple[str, httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
            before = (await client.get("/metrics")).text
            assert (await client.post("/v1/collections/empty/search", json={"query": "x"})).status_code == 200
            for vector in vectors(4).tolist():
                body = {"vector": vector, "mode": "dense"}
                assert (await client.post("/v1/collections/large/search", json=body)).status_code == 200
            live._background.submit(lambda: None).result(DEADLINE)
            return before, await client.get("/metrics")

    before, response = asyncio.run(ask())
    assert 'collection="' not in before, "nothing is open yet"
    assert response.headers["content-type"].startswith("text/plain")
    found = {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert found["embedsvc_index_vectors", "large", "hnsw8"] == 2000
    assert found["embedsvc_index_vectors", "empty", "flat"] == 0
    assert found["embedsvc_index_recall_sample", "empty", "stand_ins"] == 0
    assert found["embedsvc_index_recall_sample", "large", "stand_ins"] == 1000
    assert found["embedsvc_index_recall_sample", "large", "live"] == 4
    low, high = (found["embedsvc_index_recall_at_10_bound", each, "large", "live"] for each in ("low", "high"))
    assert 0 < low <= found["embedsvc_index_recall_at_10", "large", "live"] <= high


def test_health_and_readiness(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    ready = http.get("/readyz").json()
    assert ready == {
        "status": "ready", "model": MODEL, "runtime": "onnx", "dtype": "int8", "dimension": 384, "read_only": False
    }  # fmt: skip


def test_a_data_folder_that_cannot_be_written_is_told_of_and_searched(
    library: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: (path != library or mode != os.W_OK) and access(path, mode))
    app = create_app(load_settings({"data_dir": str(library), "runtime": "onnx"}))
    assert f"the data folder {library} cannot be written: searches only" in caplog.text
    app.state.embedsvc.encoders.default()
    with in_app(app) as client:
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["read_only"]) == (200, True)
        assert search(client, "library", query="power").json()["hits"]


def test_not_ready_without_a_model(tmp_path: Path) -> None:
    app = create_app(load_settings({"data_dir": str(tmp_path), "model": "no-such-model"}))
    with in_app(app) as client:
        body = is_problem(client.get("/readyz"), 503)
        assert "no-such-model" in body["detail"] or "loaded" in body["detail"]
        assert client.get("/healthz").status_code == 200
        error = client.post("/v1/embeddings", json={"model": "no-such-model", "input": "a"})
        assert (error.status_code, error.json()["error"]["type"]) == (503, "server_error")
        is_problem(client.put("/v1/collections/x", json={}), 503, "no-such-model")


def test_a_canary_that_sings_another_tune_is_not_ready(tmp_path: Path) -> None:
    app = create_app(load_settings({"data_dir": str(tmp_path), "runtime": "onnx"}))
    encoder = app.state.embedsvc.encoders.default()
    wrong = tuple(tuple(-value for value in row) for row in encoder.contract.canary_vectors)
    from dataclasses import replace

    encoder.__dict__["contract"] = replace(encoder.contract, canary_vectors=wrong)
    with in_app(app) as client:
        is_problem(client.get("/readyz"), 503, "canary")


def test_what_nobody_foresaw_is_a_500_that_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("embedsvc.service.routes.collections.collection_names", fail)
    with in_app(create_app(load_settings({"data_dir": str(tmp_path)}))) as client:
        response = client.get("/v1/collections")
    body = is_problem(response, 500)
    assert "secret" not in response.text
    id = response.headers["x-request-id"]
    assert id in body["detail"]
    assert any(id in record.getMessage() and record.exc_info for record in caplog.records)


def test_while_one_collection_is_opened_the_others_are_searched(
    here: Settings, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("slow", "other"):
        Collection.create(name, encoder.contract, Chunking(64, 8), here)
    index_for, go, opened = Upkeep._index_for, threading.Event(), []

    def held(self: Upkeep, *arguments: Any) -> Any:
        opened.append(self.name)
        if self.name == "slow":
            assert go.wait(DEADLINE)
        return index_for(self, *arguments)

    monkeypatch.setattr(Upkeep, "_index_for", held)
    app = create_app(here)

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:

            async def search(name: str) -> int:
                return (await client.post(f"/v1/collections/{name}/search", json={"query": "x"})).status_code

            waiting = [asyncio.ensure_future(search("slow")) for _ in range(50)]
            try:
                while "slow" not in opened:
                    await asyncio.sleep(0.01)
                other = await asyncio.wait_for(search("other"), DEADLINE / 2)
            finally:
                go.set()
            return [other, *await asyncio.gather(*waiting)]

    assert asyncio.run(ask()) == [200] * 51
    assert sorted(opened) == ["other", "slow"]


def test_a_deleted_collection_is_let_go_of(here: Settings, encoder: Encoder) -> None:
    collections = Collections(here, Encoders(here))
    Collection.create("c", encoder.contract, Chunking(64, 8), here)
    held = weakref.ref(collections.open("c").collection)
    assert held() is not None
    delete_collection("c", here)  # by another process
    with pytest.raises(NotFound):
        collections.open("c")
    gc.collect()
    assert held() is None


def test_what_is_closed_while_a_search_opens_a_collection_stays_closed(
    here: Settings, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    Collection.create("c", encoder.contract, Chunking(64, 8), here)
    encoders = Encoders(here)
    collections = Collections(here, encoders)
    index_for = Upkeep._index_for

    def closed_meanwhile(self: Upkeep, *arguments: Any) -> Any:
        collections.close()
        return index_for(self, *arguments)

    monkeypatch.setattr(Upkeep, "_index_for", closed_meanwhile)
    collections.load("c")
    with pytest.raises(Closed, match="was closed"):
        collections.call("c", lambda opened: None)
    assert collections.loaded() == []

    another = Collections(here, encoders)
    of = encoders.of
    monkeypatch.setattr(encoders, "of", lambda contract: (another.close(), of(contract))[1])
    with pytest.raises(Closed):
        another.open("c")
    assert another.loaded() == []


def test_of_many_collections_those_unused_for_longest_are_closed(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=library, runtime="onnx")
    names = [f"copy{at}" for at in range(5)]
    for name in names:
        shutil.copytree(library / "library", library / name)
    one = Collection.open("library", settings)
    size = OPEN_BYTES + one.snapshot().index.bytes_resident
    monkeypatch.setattr("embedsvc.opened.index_goal", lambda _: Goal(memory=int(3.5 * size)))
    collections = Collections(settings, Encoders(settings))
    for name in names[:3]:
        collections.load(name)
    collections.open(names[0])  # used again
    collections.load(names[3])
    assert [name for name in names if collections.is_ready(name)] == [names[0], names[2], names[3]]
    collections.load(names[1])
    assert collections.call(names[1], lambda opened: len(opened.collection.snapshot().index)) == 5
    assert sum(map(collections.is_ready, names)) == 3


def test_a_look_into_all_collections_closes_none_that_somebody_uses(
    here: Settings, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedsvc.opened.MOST_OPEN", 3)
    names = [f"c{at}" for at in range(6)]
    for name in names:
        Collection.create(name, encoder.contract, Chunking(64, 8), here)
    collections = Collections(here, Encoders(here))
    for name in names[:2]:
        collections.load(name)
    for name in (*names, *names):
        collections.load(name, in_passing=True)
    assert [name for name in names if collections.is_ready(name)] == [*names[:2], names[-1]]
    collections.open(names[-1])  # somebody means it now
    collections.load(names[2], in_passing=True)
    assert [name for name in names if collections.is_ready(name)] == [names[1], names[2], names[-1]]


def test_put_makes_collections_with_the_encoder_that_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(load_settings({"data_dir": str(tmp_path), "runtime": "onnx"}))
    default = app.state.embedsvc.encoders.default()
    monkeypatch.setattr("embedsvc.encoders.load_encoder", lambda settings: pytest.fail("loaded once more"))
    with in_app(app) as client:
        made = client.put("/v1/collections/c", json={"model": MODEL})
    assert made.status_code == 201
    assert made.json()["contract"]["dtype"] == default.dtype


def test_a_model_that_put_loaded_serves_its_collection(
    here: Settings, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = Encoders(here)
    collections = Collections(here, encoders)
    loaded: list[Settings] = []

    def load(settings: Settings) -> Encoder:
        loaded.append(settings)
        return replace(encoder, model=replace(encoder.model, name=settings.model))

    monkeypatch.setattr("embedsvc.encoders.load_encoder", load)
    monkeypatch.setattr("embedsvc.encoders.encoder_for", lambda *_: pytest.fail("loaded once more"))
    assert collections.make("c", {"model": "another"})
    assert not collections.make("c", {})
    assert collections.open("c").encoder.model.name == "another"
    assert len(loaded) == 1


def test_work_that_a_delete_disturbs_is_done_again(here: Settings, encoder: Encoder) -> None:
    collections = Collections(here, Encoders(here))
    tries: list[int] = []

    def disturbed() -> int:
        tries.append(1)
        if len(tries) < 3:
            if len(tries) == 2:
                delete_collection("c", here)
            Collection.create("c", encoder.contract, Chunking(64, 8), here)
            raise OSError("a file is gone")
        return Collection.open("c", here).store().count()

    assert collections.steadily("c", disturbed) == 0
    assert len(tries) == 3

    def broken() -> None:
        tries.append(1)
        raise OSError("a fault of its own")

    with pytest.raises(OSError, match="of its own"):
        collections.steadily("c", broken)
    assert len(tries) == 4
    with pytest.raises(NotFound):
        collections.describe("never-there")


def test_a_data_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    app = create_app(load_settings({"data_dir": str(tmp_path / "data"), "runtime": "onnx"}))
    monkeypatch.setattr("embedsvc.storage.store.lance.write_dataset", full)
    with in_app(app) as client:
        is_problem(client.put("/v1/collections/x", json={}), 507)
        is_problem(client.post("/v1/collections/x/documents", json={"documents": [{"text": "a"}]}), 507)
        assert client.get("/v1/collections").json() == {"collections": []}


def test_the_data_directory_is_made_at_the_start_or_the_service_does_not_start(tmp_path: Path) -> None:
    create_app(load_settings({"data_dir": str(tmp_path / "new" / "data")}))
    assert (tmp_path / "new" / "data").is_dir()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFailure, match=r"file/data cannot be made.*EMBEDSVC_DATA_DIR"):
        create_app(load_settings({"data_dir": str(tmp_path / "file" / "data")}))


@pytest.mark.parametrize("is_a_mount", [False, True])
def test_a_data_directory_that_went_away_is_told_and_not_made_anew(library: Path, is_a_mount: bool) -> None:
    app = create_app(load_settings({"data_dir": str(library), "runtime": "onnx"}))
    app.state.embedsvc.encoders.default()
    document = {"documents": [{"id": "late", "text": RESTART}]}
    asked: tuple[tuple[str, str, Any], ...] = (
        ("GET", "/readyz", None),
        ("GET", "/v1/collections", None),
        ("POST", "/v1/collections/library/search", {"query": "power"}),
        ("POST", "/v1/collections/library/documents", document),
        ("PUT", "/v1/collections/new", {}),
    )
    with in_app(app) as client:
        add(client, "library", {"id": "early", "text": BREAD})
        elsewhere = library.rename(library.with_name("elsewhere"))
        if is_a_mount:
            library.mkdir()  # what is left where a disk was
        for method, path, body in asked:
            answer = client.request(method, path, json=body)
            is_problem(answer, 503, f"{library} is gone", "Mount it again")
            assert answer.headers["retry-after"] == "5"
        answer = client.post("/mcp", json={})
        assert (answer.status_code, answer.json()["jsonrpc"]) == (503, "2.0")
        assert f"{library} is gone" in answer.json()["error"]["message"]
        for path in ("/v1/files", "/v1/vector_stores"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
        assert client.get("/healthz").status_code == 200
        assert client.post("/v1/embeddings", json={"model": MODEL, "input": "a"}).status_code == 200
        if is_a_mount:
            assert not [each for each in library.iterdir() if each.is_dir()]
            shutil.rmtree(library)
        assert not library.exists()
        elsewhere.rename(library)
        assert client.get("/readyz").status_code == 200
        assert add(client, "library", *document["documents"])["counts"] == {"indexed": 1}
        assert search(client, "library", query="power").json()["hits"]
        there = client.get("/v1/collections/library/documents").json()["documents"]
        assert {"early", "late"} <= {each["id"] for each in there}


def test_a_job_whose_data_directory_goes_away_ends_and_the_next_one_is_done(tmp_path: Path, fake: FakeEncoder) -> None:
    settings = Settings(data_dir=tmp_path / "data", lock_timeout=0.0)
    collection = Collection.create("c", fake.contract, Chunking(64, 8), settings)
    elsewhere = tmp_path / "elsewhere"
    goes = [True]

    def opened(name: str) -> Any:
        if goes:
            goes.clear()
            settings.data_dir.rename(elsewhere)
        return SimpleNamespace(collection=collection, encoder=fake, is_current=lambda: True)

    jobs = Jobs(settings.data_dir, opened)
    item = make_document("t:1", "red green")
    first = jobs.submit("c", [item], FieldChoice(), 1)["job"]
    until(lambda: first in jobs._unsaved)
    assert jobs.get(first)["status"] == "failed"
    assert not settings.data_dir.exists()
    elsewhere.rename(settings.data_dir)
    second = jobs.submit("c", [item], FieldChoice(), 1)["job"]
    until(lambda: jobs.get(second)["finished"])
    assert (jobs.get(first)["status"], jobs.get(second)["status"]) == ("failed", "done")
    jobs.stop(10)


@contextmanager
def in_app(app: Any) -> Iterator[httpx.Client]:
    """The application without a server, behind a synchronous client."""
    loop = asyncio.new_event_loop()

    class Transport(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            async def ask() -> httpx.Response:
                asynchronous = httpx.ASGITransport(app=app)
                response = await asynchronous.handle_async_request(
                    httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
                )
                return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())

            return loop.run_until_complete(ask())

    with httpx.Client(transport=Transport(), base_url="http://localhost") as client:
        yield client
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_every_request_has_an_id_and_one_log_line(running: Server) -> None:
    response = running.http.get("/v1/jobs/a%0Ab")
    id = response.headers["x-request-id"]
    lines = until(lambda: [line for line in running.log if id in line])
    assert len(lines) == 1
    assert re.search(rf"GET /v1/jobs/a%0Ab 404 \d+\.\d ms {id}$", lines[0].rstrip())


def test_openapi_describes_every_route(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    tags = {tag["name"] for tag in document["tags"]}
    routes = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert routes == {
        ("POST", "/v1/collections/{name}/search"),
        ("GET", "/v1/collections"),
        *((method, "/v1/collections/{name}") for method in ("GET", "PUT", "DELETE")),
        *((method, "/v1/collections/{name}/documents") for method in ("GET", "POST", "DELETE")),
        *((method, "/v1/collections/{name}/documents/{id}") for method in ("GET", "DELETE")),
        *(
            ("POST", f"/v1/collections/{{name}}/documents/{what}")
            for what in ("delete", "delete-by-uri", "metadata", "read")
        ),
        *(
            ("POST", f"/v1/collections/{{name}}/{what}")
            for what in ("verify", "repair", "compact", "duplicates", "restore", "migrate")
        ),
        *(("POST", f"/v1/collections/{{name}}/{what}") for what in ("alike", "clusters", "classify")),
        ("POST", "/v1/similarity"),
        ("GET", "/v1/collections/{name}/export"),
        *((method, "/v1/collections/{name}/snapshots") for method in ("GET", "POST")),
        ("DELETE", "/v1/collections/{name}/snapshots/{label}"),
        ("GET", "/v1/jobs/{id}"),
        ("GET", "/v1/jobs/{id}/report"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{model}"),
        *(
            ("POST", f"/{name}")
            for name in ("embed", "embed_all", "similarity", "tokenize", "decode", "rerank", "predict")
        ),
        ("POST", "/v1/rerank"),
        *((method, "/v1/vector_stores") for method in ("GET", "POST")),
        *((method, "/v1/vector_stores/{id}") for method in ("GET", "POST", "DELETE")),
        ("POST", "/v1/vector_stores/{id}/search"),
        *((method, "/v1/vector_stores/{id}/files") for method in ("GET", "POST")),
        *((method, "/v1/vector_stores/{id}/files/{file_id}") for method in ("GET", "POST", "DELETE")),
        ("GET", "/v1/vector_stores/{id}/files/{file_id}/content"),
        ("POST", "/v1/vector_stores/{id}/file_batches"),
        ("GET", "/v1/vector_stores/{id}/file_batches/{batch_id}"),
        ("GET", "/v1/vector_stores/{id}/file_batches/{batch_id}/files"),
        *((method, "/v1/files") for method in ("GET", "POST")),
        *((method, "/v1/files/{file_id}") for method in ("GET", "DELETE")),
        ("GET", "/v1/files/{file_id}/content"),
        *(("GET", f"/{name}") for name in ("info", "health")),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert len(operation["description"]) > 30, where
            assert set(operation["tags"]) <= tags, where
            if method in ("put", "post") and not path.endswith(("/verify", "/compact")):  # which take no body
                assert next(iter(operation["requestBody"]["content"].values()))["examples"], where
            for status, response in operation["responses"].items():
                if status == "204":
                    continue
                (content,) = response["content"].values()
                assert "schema" in content, (where, status)
                assert "example" in content or "examples" in content, (where, status)
    # Nothing is referred to that is not there.
    for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert name in document["components"]["schemas"]


def test_the_documented_shapes_are_the_real_ones(http: httpx.Client) -> None:
    from embedsvc.service import schemas

    answer = search(http, query="power", explain=True, expand="section", highlight=True).json()
    assert set(answer) | {"tokens_cut", "rerank_late"} == set(schemas.Answer.model_fields)
    assert set(answer["context"]) == set(schemas.ContextOut.model_fields)
    assert set(answer["context"]["sources"][0]) == set(schemas.SourceOut.model_fields)
    assert set(answer["hits"][0]["highlight"]) == set(schemas.HighlightOut.model_fields)
    assert set(answer["hits"][0]) | {"duplicates"} == set(schemas.HitOut.model_fields)
    shown = http.get("/v1/collections/handbook").json()
    schemas.CollectionOut.model_validate(shown)
    assert set(shown) | {"vectors"} == set(schemas.CollectionOut.model_fields)
    assert set(shown["contract"]) == set(schemas.ContractOut.model_fields)
    listed = http.get("/v1/collections/handbook/documents").json()
    assert set(listed["documents"][0]) == set(schemas.DocumentSummary.model_fields)
    read = http.get("/v1/collections/handbook/documents/bread").json()
    assert set(read) | {"start", "end", "characters"} == set(schemas.DocumentOut.model_fields)
    job = http.post("/v1/collections/handbook/documents", json={"documents": [{"id": "bread", "text": BREAD}]}).json()
    assert set(job) == set(schemas.JobOut.model_fields)
    finished(http, job)


def test_the_documentation_page_needs_no_network(http: httpx.Client) -> None:
    page = http.get("/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) >= 2
    for address in loaded:
        assert address.startswith("/")
        assert len(http.get(address).content) > 1000
    assert "http://" not in page
    assert "https://" not in page


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")
def test_the_documentation_page_shows_the_routes(running: Server, tmp_path: Path) -> None:
    shown = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--virtual-time-budget=10000", f"--user-data-dir={tmp_path}", "--dump-dom"),
            *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"{running.url}/docs"),
        ],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={**os.environ, "HOME": str(tmp_path)},
    ).stdout
    assert "Search a collection" in shown
    assert "Add or replace documents" in shown


def test_more_searches_than_may_wait_are_refused() -> None:
    """One thread, one that waits; the third is told to come back."""

    async def ask() -> list[object]:
        queries, release = Bounded("searches", threads=1, most=2), threading.Event()
        first = asyncio.ensure_future(queries.run(lambda: release.wait(DEADLINE)))
        second = asyncio.ensure_future(queries.run(lambda: "second"))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 searches are waiting already"):
            await queries.run(lambda: "third")
        release.set()
        found = [await first, await second, await queries.run(lambda: "third")]
        queries.shutdown()
        return found

    assert asyncio.run(ask()) == [True, "second", "third"]


@pytest.mark.parametrize(("path", "shape"), [("/v1/embeddings", "error"), ("/embed", "error_type"), ("/x", "title")])
def test_a_request_that_a_stopping_server_gives_up_is_told_so(path: str, shape: str) -> None:
    """uvicorn cancels what is not done in time."""
    sent: list[Any] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(DEADLINE)

    async def send(message: Any) -> None:
        sent.append(message)

    async def stop() -> None:
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": []}
        task = asyncio.ensure_future(Front(endless, Settings())(scope, None, send))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(stop())
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"5") in sent[0]["headers"]
    assert shape in json.loads(sent[1]["body"])


# -- overview ----------------------------------------------------------------------------------------------------------


def test_a_collection_is_looked_over(http: httpx.Client) -> None:
    labels = {"labels": {"machines": "restarting a server", "food": "baking bread"}}
    found = http.post("/v1/collections/handbook/classify", json=labels).json()
    assert {each["document_id"]: each["label"] for each in found["passages"]} == {
        "ops/restart": "machines",
        "bread": "food",
    }
    assert found["counts"] == {"machines": 1, "food": 1}
    assert (found["total"], found["limit"], found["offset"]) == (2, 100, 0)
    page = http.post("/v1/collections/handbook/classify", json={**labels, "limit": 1, "offset": 1}).json()
    assert page == {**found, "limit": 1, "offset": 1, "passages": found["passages"][1:]}
    for wrong in ({"limit": 0}, {"limit": 1001}, {"offset": -1}):
        is_problem(http.post("/v1/collections/handbook/classify", json={**labels, **wrong}), 422, *wrong)
    made = http.post("/v1/collections/handbook/clusters", json={"count": 2}).json()["clusters"]
    assert [cluster["passages"] for cluster in made] == [1, 1]
    assert http.post("/v1/collections/handbook/alike", json={}).json() == {"groups": []}
    assert http.post("/v1/collections/handbook/clusters", json={"count": 9}).json()["clusters"] == made
    is_problem(http.post("/v1/collections/handbook/clusters", json={"count": 0}), 422, "count")
    is_problem(http.post("/v1/collections/handbook/classify", json={"labels": {"one": ""}}), 422, "labels")
    is_problem(http.post("/v1/collections/handbook/classify", json={"labels": {" ": "", "b": ""}}), 422, "labels")
    is_problem(http.post("/v1/collections/nowhere/alike", json={}), 404, "nowhere")


def test_texts_are_compared(http: httpx.Client) -> None:
    found = http.post("/v1/similarity", json={"texts": ["a cat", "a bus"], "others": ["a kitten"]}).json()
    (cat,), (bus,) = found["similarities"]
    assert cat > bus
    own = http.post("/v1/similarity", json={"texts": ["a cat", "a bus"]}).json()["similarities"]
    assert [own[0][0], own[1][1]] == pytest.approx([1, 1], abs=1e-4)
    assert own[0][1] == pytest.approx(own[1][0])
    assert all(-1 <= cosine <= 1 for row in own for cosine in row), "also where unit vectors are rounded"
    is_problem(http.post("/v1/similarity", json={"texts": []}), 422, "texts")
