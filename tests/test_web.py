"""Pages from a loopback server; addresses by table. Nothing here leaves this machine."""

from __future__ import annotations

import gzip
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from embedsvc.collection import Collection
from embedsvc.config import Settings, load_settings
from embedsvc.errors import FetchFailed, FileTooLarge, PrivateAddress, ReaderTimeout, UsageError
from embedsvc.ingest import ingest_paths
from embedsvc.readers import FieldChoice, Rejected
from embedsvc.readers.sitemaps import pages
from embedsvc.readers.web import Fetching, Page, canonical, fetch, is_public
from embedsvc.records import Chunking, Source
from tests.fakes import FakeEncoder

LOCAL = Fetching(max_bytes=10_000, timeout_s=20, allow_private=True)
HTML = b"<!doctype html><title>Rivers</title><p>red green</p>"


class Site:
    """A server on this machine; ``pages``: by path, what answers."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        site = self
        self.pages: dict[str, Any] = {}
        self.asked: list[str] = []
        self.hosts: set[str] = set()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.hosts.add(self.headers["Host"])
                answer = site.pages.get(self.path)
                with suppress(OSError):
                    if callable(answer):
                        answer(self)
                        return
                    status, headers, body = answer or (404, {}, b"none")
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(body)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        self.url = f"http{'s' * bool(context)}://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def html(body: bytes = HTML) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "text/html; charset=utf-8"}, body


def to(url: str) -> tuple[int, dict[str, str], bytes]:
    return 302, {"Location": url}, b""


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True), ("8.8.8.8", True), ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False), ("127.9.9.9", False), ("0.0.0.0", False), ("10.1.2.3", False), ("172.16.0.1", False),
        ("192.168.1.1", False), ("169.254.169.254", False), ("100.64.0.1", False), ("224.0.0.1", False),
        ("239.1.1.1", False), ("240.0.0.1", False), ("255.255.255.255", False), ("192.0.2.1", False),
        ("198.18.0.1", False), ("::1", False), ("::", False), ("fe80::1", False), ("fe80::1%eth0", False),
        ("fc00::1", False), ("fd12::1", False), ("fec0::1", False), ("ff02::1", False), ("2001:db8::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:10.0.0.1", False), ("::ffff:8.8.8.8", True), ("::127.0.0.1", False),
        ("::8.8.8.8", False), ("64:ff9b::7f00:1", False), ("64:ff9b::a9fe:a9fe", False), ("64:ff9b::808:808", True),
        ("64:ff9b:1::808:808", False), ("2002:7f00:1::", False), ("2002:a00:1::1", False), ("2002:808:808::1", True),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"])
def test_this_machine_is_not_asked_however_it_is_written(site: Site, host: str) -> None:
    site.pages["/"] = html()
    with pytest.raises((PrivateAddress, FetchFailed)):
        fetch(f"http://{host}:{site.port}/", Fetching(timeout_s=20))
    assert site.asked == []


def test_a_literal_address_is_named_once() -> None:
    with pytest.raises(PrivateAddress, match=r": 127\.0\.0\.1 is an address of"):
        fetch("http://127.0.0.1:1/", Fetching())


def test_one_private_address_among_public_ones_is_enough() -> None:
    with pytest.raises(PrivateAddress, match=r"10\.0\.0\.1"):
        fetch("http://h.example/", Fetching(), resolve=lambda host, port: ["8.8.8.8", "10.0.0.1"])


def test_the_name_is_resolved_once_and_the_checked_address_is_connected_to(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is public when it is checked and private when it is connected to gains nothing."""
    answers = iter([["93.184.215.14"], ["127.0.0.1"]])
    asked: list[str] = []
    connected: list[Any] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    def create_connection(address: Any, timeout: float) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(socket, "create_connection", create_connection)
    with pytest.raises(FetchFailed, match="refused"):
        fetch(f"http://rebinding.example:{site.port}/", Fetching(), resolve=resolve)
    assert asked == ["rebinding.example"]
    assert connected == [("93.184.215.14", site.port)]


def test_the_next_address_is_tried_and_the_host_is_named(site: Site) -> None:
    site.pages["/"] = html()
    page = fetch(f"http://some.example:{site.port}/", LOCAL, resolve=lambda *_: ["127.0.0.2", "127.0.0.1"])
    assert page.data == HTML
    assert site.hosts == {f"some.example:{site.port}"}


# -- redirects, sizes, times -------------------------------------------------------------------------------------------


def test_redirects(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages |= {f"/{at}": to(f"/{at + 1}") for at in range(9)}
    site.pages["/9"] = html()
    assert fetch(f"{site.url}/4", LOCAL).uri == f"{site.url}/9"
    with pytest.raises(FetchFailed, match="5 redirects"):
        fetch(f"{site.url}/3", LOCAL)
    site.pages["/file"] = to("file:///etc/passwd")
    with pytest.raises(FetchFailed, match="http or https"):
        fetch(f"{site.url}/file", LOCAL)
    # To a private address: the first one counts as public here, the second is judged.
    monkeypatch.setattr("embedsvc.readers.web.is_public", lambda address: address == "127.0.0.1")
    site.pages["/in"] = to("http://169.254.169.254/latest/meta-data")
    with pytest.raises(PrivateAddress, match=r"169\.254"):
        fetch(f"{site.url}/in", Fetching(timeout_s=20))


def test_a_body_without_end(site: Site) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 1000)

    def endless_chunks(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        while True:
            handler.wfile.write(b"5\r\nxxxxx\r\n")

    bomb = gzip.compress(bytes(1_000_000))
    site.pages |= {"/a": endless, "/b": endless_chunks, "/c": (200, {"Content-Encoding": "gzip"}, bomb)}
    site.pages["/long"] = (200, {}, bytes(20_000))
    for path in ("a", "b", "c", "long"):
        with pytest.raises(FileTooLarge, match="max-file-mb"):
            fetch(f"{site.url}/{path}", LOCAL)
    site.pages["/d"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(HTML))
    assert fetch(f"{site.url}/d", LOCAL).data == HTML
    site.pages["/e"] = (200, {"Content-Length": "99"}, b"short")
    site.pages["/f"] = (200, {"Content-Encoding": "br"}, b"?")
    for path in "ef":
        with pytest.raises(FetchFailed):
            fetch(f"{site.url}/{path}", LOCAL)


def test_a_server_that_drips(site: Site) -> None:
    """Each byte comes soon, the page never: in the body, and in the headers."""
    stop = threading.Event()

    def body(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not stop.wait(0.05):
            handler.wfile.write(b"x")

    def headers(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not stop.wait(0.05):
            handler.wfile.write(b"x")

    site.pages |= {"/body": body, "/headers": headers, "/silent": lambda handler: stop.wait(30)}
    for path in ("body", "headers", "silent"):
        started = time.monotonic()
        with pytest.raises(ReaderTimeout, match="url_timeout_s"):
            fetch(f"{site.url}/{path}", Fetching(timeout_s=1, allow_private=True))
        assert time.monotonic() - started < 15
    with pytest.raises(ReaderTimeout):
        fetch("http://slow.example/", Fetching(timeout_s=1), resolve=lambda *_: [str(stop.wait(20))])
    stop.set()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the certificate")
def test_a_certificate_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key", "-out",
         tmp_path / "certificate", "-days", "2", "-subj", "/CN=right.example", "-addext",
         "subjectAltName=DNS:right.example"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    site = Site(server)
    site.pages["/"] = html()
    trusting = ssl.create_default_context(cafile=str(tmp_path / "certificate"))

    def get(host: str, context: ssl.SSLContext | None) -> Page:
        return fetch(f"https://{host}:{site.port}/", LOCAL, resolve=lambda *_: ["127.0.0.1"], context=context)

    try:
        assert get("right.example", trusting).data == HTML
        for host, context in (("right.example", None), ("wrong.example", trusting)):
            with pytest.raises(FetchFailed, match=r"certificate|Hostname"):
                get(host, context)
        assert site.asked == ["/"]
    finally:
        site.close()


# -- names and content -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "is_canonical"),
    [
        ("HTTP://Example.COM", "http://example.com/"), ("http://e.com:80/a#b", "http://e.com/a"),
        ("https://e.com:443/?q=1", "https://e.com/?q=1"), ("https://e.com:80/", "https://e.com:80/"),
        ("http://e.com/a/../b/./c", "http://e.com/b/c"), ("http://e.com/ä b", "http://e.com/%C3%A4%20b"),
        ("http://e.com/%C3%A4", "http://e.com/%C3%A4"), ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[::1]:8/", "http://[::1]:8/"), ("http://e.com//a", "http://e.com//a"),
    ],
)  # fmt: skip
def test_one_page_has_one_uri(url: str, is_canonical: str) -> None:
    assert canonical(url) == is_canonical
    assert canonical(is_canonical) == is_canonical


@pytest.mark.parametrize(
    "url",
    ["ftp://e.com/", "file:///etc/passwd", "http://", "http://u:secret@e.com/", "http://e.com:x/", "http://[::1/"],
)
def test_what_is_no_url_of_a_page(url: str) -> None:
    with pytest.raises(FetchFailed) as refused:
        canonical(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "content_type", "name"),
    [
        ("/", "text/html", "e.com.html"), ("/a", "text/html", "a.html"), ("/a.html", "text/html", "a.html"),
        ("/README.md", "text/html", "README.md.html"), ("/README.md", "text/plain", "README.md"),
        ("/a", "text/plain", "a.txt"), ("/a.pdf", "application/pdf", "a.pdf"), ("/get", "application/pdf", "get.pdf"),
        ("/a", "", "a"), ("/d.csv", "application/octet-stream", "d.csv"), ("/a%2Fb/", "text/html", "a_b.html"),
    ],
)  # fmt: skip
def test_the_content_type_gives_the_suffix(path: str, content_type: str, name: str) -> None:
    assert Page(f"http://e.com{path}", content_type, None, b"").source().name == name


def test_the_character_set_of_the_header_counts() -> None:
    data = "Flüsse".encode("latin-1")
    assert Page("http://e.com/a", "text/html", "iso8859-1", data).source().data == "Flüsse".encode()
    assert Page("http://e.com/a", "text/html", "utf-8", data).source().data == data


# -- sitemaps ----------------------------------------------------------------------------------------------------------


def sitemap(*urls: str, kind: str = "urlset") -> tuple[int, dict[str, str], bytes]:
    entries = "".join(f"<url><loc>\n {url} </loc></url>" for url in urls)
    return 200, {"Content-Type": "application/xml"}, f'<?xml version="1.0"?>\n<{kind}>{entries}</{kind}>'.encode()


def got(*urls: str, **options: Any) -> tuple[list[str], dict[str, str]]:
    """uris of the pages, reasons of the others."""
    found = list(pages(urls, LOCAL, **options))
    return (
        [each.uri for each in found if isinstance(each, Source)],
        {each.uri: each.error.reason for each in found if isinstance(each, Rejected)},
    )


def test_a_sitemap_stands_for_its_pages(site: Site) -> None:
    url = site.url
    packed = gzip.compress(sitemap(f"{url}/c", f"{url}/a")[2])
    site.pages |= {
        "/a": html(), "/b?x=1&y=2": html(), "/c": html(), "/private/d": html(),
        "/index.xml": sitemap(f"{url}/one.xml", f"{url}/two.xml.gz", f"{url}/gone.xml", kind="sitemapindex"),
        "/one.xml": sitemap(f"{url}/a", f"{url}/b?x=1&amp;y=2", f"{url}/private/d", f"{url}/gone", "http://o.example/"),
        "/two.xml.gz": (200, {"Content-Type": "application/gzip"}, packed),
        "/robots.txt": (200, {}, b"User-agent: *\nDisallow: /private/\n"),
    }  # fmt: skip
    uris, reasons = got(f"{url}/index.xml")
    assert uris == [f"{url}/a", f"{url}/b?x=1&y=2", f"{url}/c"]
    assert reasons == {
        f"{url}/private/d": "not_allowed", f"{url}/gone": "not_fetched", f"{url}/gone.xml": "not_fetched",
        "http://o.example/": "not_allowed",
    }  # fmt: skip
    assert site.asked.count("/robots.txt") == 1
    site.pages["/robots.txt"] = (503, {}, b"")
    assert got(f"{url}/two.xml.gz") == ([], {f"{url}/c": "not_allowed", f"{url}/a": "not_allowed"})
    assert got(f"{url}/a") == ([f"{url}/a"], {})  # what is named itself is asked for by a person


def test_a_sitemap_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedsvc.readers.sitemaps._MOST_PAGES", 4)
    monkeypatch.setattr("embedsvc.readers.sitemaps._MOST_SITEMAPS", 3)
    site.pages |= {f"/{at}": html() for at in range(9)}
    site.pages["/s.xml"] = sitemap(*(f"{site.url}/{at}" for at in range(9)))
    assert [len(each) for each in got(f"{site.url}/s.xml")] == [3, 1]
    site.pages["/i.xml"] = sitemap(*(f"{site.url}/i{at}.xml" for at in range(9)), kind="sitemapindex")
    assert f"{site.url}/i.xml" in got(f"{site.url}/i.xml")[1]
    assert not any(f"/i{at}.xml" in site.asked for at in range(4, 9))


# -- into a collection -------------------------------------------------------------------------------------------------


def test_pages_are_indexed_as_files_are(here: Settings, fake: FakeEncoder, site: Site, tmp_path: Path) -> None:
    from dataclasses import replace

    collection = Collection.create("c", fake.contract, Chunking(64, 8), replace(here, allow_private_urls=True))
    site.pages |= {"/old": to("/page"), "/page": html()}
    (tmp_path / "a.txt").write_text("blue")

    def again() -> dict[str, str]:
        paths = [f"{site.url}/old", str(tmp_path / "a.txt"), f"{site.url}/none"]
        run: Callable[..., Any] = ingest_paths
        outcomes = run(collection, fake, paths, fields=FieldChoice(), max_file_mb=1, exact=True)
        return {outcome.uri.rpartition("/")[2]: outcome.status for outcome in outcomes}

    assert again() == {"page": "indexed", "a.txt": "indexed", "none": "quarantined"}
    assert again() == {"page": "unchanged", "a.txt": "unchanged", "none": "quarantined"}
    site.pages["/page"] = html(HTML.replace(b"red", b"white"))
    assert again()["page"] == "replaced"
    assert {document.title for document in collection.store().documents()} == {"Rivers", "a.txt"}
    refused: Any = ingest_paths
    (outcome,) = refused(Collection.open("c", here), fake, [f"{site.url}/page"], fields=FieldChoice(), max_file_mb=1)
    assert outcome.reason.startswith("private_address")  # they need a word from the caller


def test_settings_that_are_true_or_false(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for word, value in (("true", True), ("0", False), ("Yes", True)):
        monkeypatch.setenv("EMBEDSVC_ALLOW_PRIVATE_URLS", word)
        assert load_settings(directory=tmp_path).allow_private_urls is value
    monkeypatch.setenv("EMBEDSVC_ALLOW_PRIVATE_URLS", "perhaps")
    with pytest.raises(UsageError, match="true or false"):
        load_settings(directory=tmp_path)
