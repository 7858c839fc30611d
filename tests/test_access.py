"""Keys: who has none of them learns nothing, and can change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

import embedsvc
from embedsvc.config import Settings
from embedsvc.errors import AccessDenied
from embedsvc.service.access import is_this_machine, refusal, stranger
from tests.server import Server, server

KEYS = "first-key, zweiter-schlüssel"


@pytest.fixture(scope="module")
def keyed(_library: Path) -> Iterator[Server]:
    with server(_library / "data", api_keys=KEYS) as running:
        yield running


def bearer(key: str | bytes) -> dict[str, bytes]:
    return {"authorization": b"Bearer " + (key.encode() if isinstance(key, str) else key)}


@pytest.mark.parametrize("key", ["first-key", "zweiter-schlüssel"])
def test_each_key_opens_everything(keyed: Server, key: str) -> None:
    assert keyed.http.get("/v1/collections", headers=bearer(key)).status_code == 200
    assert keyed.http.get("/metrics", headers=bearer(key)).status_code == 200
    found = keyed.http.post("/v1/collections/library/search", headers=bearer(key), json={"query": "bones", "k": 1})
    assert found.json()["hits"][0]["title"] == "Bones"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": b"Bearer"},
        bearer("first"),
        bearer("first-key, zweiter-schlüssel"),
        bearer(b"\xff\xfe"),
        {"authorization": b"Basic first-key"},
        {"authorization": b"first-key"},
        {"x-api-key": b"first-key"},
    ],
)
def test_without_a_key_nothing_is_told_or_done(keyed: Server, headers: dict[str, bytes]) -> None:
    for method, path in (
        ("GET", "/v1/collections"),
        ("GET", "/v1/collections/library"),
        ("DELETE", "/v1/collections/library"),
        ("PUT", "/v1/collections/other"),
        ("GET", "/metrics"),
        ("GET", "/nowhere"),
        ("POST", "/v1/collections/library/search"),
        ("POST", "/v1/collections/library/documents/delete"),
        ("POST", "/v1/collections/library/documents/metadata"),
    ):
        answer = keyed.http.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["title"]) == (401, "Access denied"), (method, path)
        assert "Bearer KEY" in answer.json()["detail"]
        assert answer.headers["www-authenticate"] == "Bearer"
    names = keyed.http.get("/v1/collections", headers=bearer("first-key")).json()["collections"]
    assert [each["name"] for each in names] == ["library"]


def test_the_same_key_twice_is_one_too_many() -> None:
    header = (b"authorization", b"Bearer a")
    scope = {"method": "GET", "path": "/v1/collections", "headers": [header, header]}
    assert refusal(scope, ["a"]) is not None
    assert refusal(scope | {"headers": [header]}, ["a"]) is None


def test_routes_of_others_refuse_in_their_own_shape(keyed: Server) -> None:
    assert keyed.http.post("/embed", json={"inputs": "a"}).json()["error_type"] == "Validation"
    assert "Bearer KEY" in keyed.http.post("/v1/rerank", json={}).json()["message"]
    client = openai.OpenAI(base_url=f"{keyed.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        client.embeddings.create(model="all-MiniLM-L6-v2", input="a")
    assert refused.value.code == "invalid_api_key"
    right = client.with_options(api_key="first-key").embeddings.create(model="all-MiniLM-L6-v2", input="a")
    assert len(right.data[0].embedding) == 384


def test_what_needs_no_key(keyed: Server) -> None:
    for path in ("/healthz", "/readyz", "/health", "/docs", "/"):
        assert keyed.http.get(path, follow_redirects=True).status_code == 200, path
    document = keyed.http.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert keyed.http.post("/", json={"inputs": "a"}).status_code == 401  # TEI's, not the page


def test_a_body_without_a_key_is_not_read(keyed: Server) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(2000):
            yield bytes(1_000_000)

    try:
        answer = httpx.post(f"{keyed.url}/v1/collections/library/documents", content=endless())
    except httpx.HTTPError:
        return  # the connection was closed in mid-sending
    assert answer.status_code == 401


def test_the_python_client(keyed: Server) -> None:
    with embedsvc.connect(keyed.url, api_key="first-key") as service:
        assert service.names() == ["library"]
    with embedsvc.connect(keyed.url, api_key="wrong") as service, pytest.raises(AccessDenied, match="api_key"):
        service.names()


def test_a_service_open_to_all_says_so(tmp_path: Path) -> None:
    with server(tmp_path, host="0.0.0.0") as running:
        running.stop()
    assert any("EMBEDSVC_API_KEYS" in line for line in running.log)
    with server(tmp_path, host="0.0.0.0", api_keys="a") as running:
        running.stop()
    assert not any("EMBEDSVC_API_KEYS" in line for line in running.log)


def test_the_clients_variable_is_not_taken_for_the_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSVC_API_KEY", "k")
    with server(tmp_path) as running:
        running.stop()
    assert any("EMBEDSVC_API_KEY is what clients send" in line for line in running.log)


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("keyless")) as running:
        yield running


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
        {"origin": "null", "sec-fetch-site": "cross-site"},  # a page in a sandboxed frame
        {"origin": "null"},
        {"host": "localhost:8080", "origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
        {"host": "localhost:8080", "origin": "http://localhost:3000"},
        {"host": "evil.example"},  # a name that was made to point here
        {"host": "evil.example", "origin": "http://evil.example", "sec-fetch-site": "same-origin"},
    ],
)
def test_without_keys_no_page_of_another_site_learns_or_changes_anything(
    keyless: Server, headers: dict[str, str]
) -> None:
    form = {"files": ("note.md", b"Send the money to Mallory.")}
    for answer in (
        keyless.http.post("/v1/collections/handbook/documents", files=form, headers=headers),
        keyless.http.post("/v1/files", files={"file": form["files"]}, data={"purpose": "x"}, headers=headers),
        keyless.http.post("/v1/collections/handbook/documents", content=b'{"documents": []}', headers=headers),
        keyless.http.get("/v1/collections", headers=headers),
        keyless.http.post("/mcp", json={}, headers=headers),
    ):
        assert answer.status_code == 403, answer.text
        assert "public_url" in answer.text
    assert keyless.http.get("/v1/collections").json()["collections"] == []
    assert keyless.http.get("/healthz", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "settings"),
    [
        ({"host": "127.0.0.1:8080"}, {}),
        ({"host": "[::1]:8080", "origin": "http://[::1]:8080"}, {}),
        ({"host": "localhost:8080", "origin": "http://localhost:8080", "sec-fetch-site": "same-origin"}, {}),
        ({"host": "docs.example:80", "origin": "http://docs.example"}, {"host": "0.0.0.0"}),
        ({"host": "docs.example", "origin": "https://docs.example"}, {"host": "0.0.0.0"}),  # TLS ends before us
        ({"host": "docs.example", "origin": "https://docs.example"}, {"public_url": "https://docs.example/kb"}),
        ({"host": "localhost:8080", "origin": "https://docs.example"}, {"public_url": "https://docs.example"}),
        ({"host": "localhost:8080", "origin": "https://docs.example", "sec-fetch-site": "same-origin"}, {}),
        ({}, {}),
    ],
)
def test_whoever_is_no_page_or_our_own_is_no_stranger(headers: dict[str, str], settings: dict[str, str]) -> None:
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert stranger({"type": "http", "headers": sent}, Settings(**settings)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        *((host, True) for host in ("localhost", "127.0.0.1", "127.8.0.1", "::1")),
        *(
            (host, False)
            for host in ("0.0.0.0", "::", "192.168.1.4", "fe80::1%eth0", "evil.example", "127.evil.example")
        ),
    ],
)
def test_what_only_this_machine_reaches(host: str, is_it: bool) -> None:
    assert is_this_machine(host) is is_it
    asked = {"type": "http", "headers": [(b"host", b"evil.example")]}
    assert (stranger(asked, Settings(host=host)) == "evil.example") is is_it
