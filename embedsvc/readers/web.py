"""One page from the web, fetched so that its address cannot be one of our own network: a name is resolved once, all its
addresses are checked, and the connection goes to the very address that was. No proxies, no cookies, no credentials.
"""

from __future__ import annotations

import codecs
import http.client
import io
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit, urlunsplit

from embedsvc.errors import FetchFailed, FileTooLarge, PrivateAddress, ReaderTimeout
from embedsvc.records import Source

USER_AGENT = "embedsvc"
_MEGABYTE = 1_000_000
_REDIRECTS = 5
_MOVED = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}
_SUFFIXES = {
    "text/html": ".html .htm .xhtml",
    "application/xhtml+xml": ".xhtml .html .htm",
    "application/pdf": ".pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "text/markdown": ".md .markdown .mkd .mdx",
    "text/csv": ".csv .tsv .tab",
    "text/tab-separated-values": ".tsv .tab",
    "application/jsonl": ".jsonl .ndjson",
    "application/x-ndjson": ".jsonl .ndjson",
}
"""By content type, the suffixes that fit; of others the first is put behind the name."""
_IN_PATH = "/%:@!$&'()*+,;=~-._"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_GLOBAL = tuple(map(ipaddress.ip_network, ("64:ff9b:1::/48", "fec0::/10", "::/96", "100::/64", "2001::/23")))

Resolve = Callable[[str, int], list[str]]


@dataclass(frozen=True, slots=True)
class Fetching:
    """How pages are fetched. ``timeout_s`` is for all of a page, redirects included."""

    max_bytes: int = 100 * _MEGABYTE
    timeout_s: float = 30
    allow_private: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """``uri``: where it was in the end."""

    uri: str
    content_type: str
    charset: str | None
    data: bytes

    def source(self) -> Source:
        return Source(self.uri, _name(self), _as_utf8(self))


def canonical(url: str) -> str:
    """One spelling of ``url``, without its fragment.

    Raises FetchFailed: it is none, or names a user.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
        if ":" not in host:
            host = host.encode("idna").decode("ascii") if not host.isascii() else host
    except ValueError as error:  # UnicodeError too
        raise FetchFailed(f"{url}: it is no valid URL ({error}). Check its spelling.") from None
    if parts.scheme not in _PORTS or not host or re.search(r"[^\w.:%-]", host):
        raise FetchFailed(f"{url}: it is no http or https URL with a host. Check its spelling.")
    if "@" in parts.netloc:
        raise FetchFailed(f"{parts.scheme}://…@{host}: user names and passwords in URLs are not taken. Leave them out.")
    netloc = f"[{host}]" if ":" in host else host
    if port is not None and port != _PORTS[parts.scheme]:
        netloc += f":{port}"
    path = urlsplit(urljoin("http://h/", quote(parts.path or "/", safe=_IN_PATH).replace("//", "/%2F"))).path
    path = path.replace("/%2F", "//")
    return urlunsplit((parts.scheme, netloc.lower(), path, quote(parts.query, safe=_IN_PATH + "?"), ""))


def is_public(address: str) -> bool:
    """Whether ``address`` is one of the open internet; one that carries another inside is judged by both."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if any(ip in network for network in _NOT_GLOBAL):
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback)


def addresses_of(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def fetch(
    url: str,
    how: Fetching,
    *,
    resolve: Resolve = addresses_of,
    context: ssl.SSLContext | None = None,
) -> Page:
    """The page at ``url``, after at most five redirects, each checked as the first was.

    Raises:
        PrivateAddress, FetchFailed, FileTooLarge, ReaderTimeout.
    """
    deadline = time.monotonic() + how.timeout_s
    at = canonical(url)
    try:
        for _ in range(_REDIRECTS + 1):
            following, page = _one(at, how, deadline, resolve, context)
            if page is not None:
                return page
            at = canonical(urljoin(at, following))
    except TimeoutError:
        raise ReaderTimeout(
            f"{url}: it was not there after {how.timeout_s:g} s. Try again, or raise url_timeout_s."
        ) from None
    except (OSError, http.client.HTTPException, zlib.error) as error:
        why = getattr(error, "verify_message", "") or getattr(error, "strerror", None) or str(error)
        raise FetchFailed(
            f"{url}: it cannot be fetched ({type(error).__name__}: {why}). Check the URL and the network."
        ) from error
    raise FetchFailed(f"{url}: more than {_REDIRECTS} redirects. Name the page that they should lead to.")


def _one(
    url: str, how: Fetching, deadline: float, resolve: Resolve, context: ssl.SSLContext | None
) -> tuple[str, Page | None]:
    """Where it redirects to, or the page."""
    parts = urlsplit(url)
    timed = _Timed(_connected(url, parts, how, deadline, resolve, context), deadline)
    connection = http.client.HTTPConnection(parts.hostname or "")
    connection.sock = timed
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
        for name, value in (
            ("Host", parts.netloc), ("User-Agent", USER_AGENT), ("Accept", "*/*"), ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ):  # fmt: skip
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        location = response.headers.get("Location")
        if response.status in _MOVED and location:
            return location, None
        if response.status != 200:
            raise FetchFailed(f"{url}: the server answered {response.status} {response.reason[:80]}. Check the URL.")
        data = response.read(how.max_bytes + 1)
        _check_size(url, data, how)
        if response.length:
            raise FetchFailed(f"{url}: it ended {response.length:,} bytes too early. Try again.")
        data = _decoded(url, data, response.headers, how)
    finally:
        timed.end()
    headers = response.headers
    return "", Page(url, headers.get_content_type() if "Content-Type" in headers else "", _charset(headers), data)


def _connected(
    url: str, parts: SplitResult, how: Fetching, deadline: float, resolve: Resolve, context: ssl.SSLContext | None
) -> socket.socket:
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    addresses = _in_time(lambda: resolve(host, port), deadline)
    for address in addresses:
        if not how.allow_private and not is_public(address):
            what = f"{host} is" if address == host else f"{host} is {address},"
            raise PrivateAddress(
                f"{url}: {what} an address of a private network or of this machine. "
                "Pages there are fetched with --allow-private-urls (setting allow_private_urls) only."
            )
    error: OSError = OSError("its name has no address")
    for address in addresses:
        try:
            plain = socket.create_connection((address, port), _left(deadline))
        except OSError as failure:
            if address != addresses[-1] and not isinstance(failure, TimeoutError):
                error = failure
                continue
            raise
        try:
            if parts.scheme == "https":
                tls = context or ssl.create_default_context()
                plain.settimeout(_left(deadline))
                plain = tls.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
        return plain
    raise error


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _in_time(work: Callable[[], list[str]], deadline: float) -> list[str]:
    """The system's resolver takes no time limit, so it is left behind where it needs too long."""
    done: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put(work())
        except (OSError, UnicodeError) as error:
            done.put(error)

    threading.Thread(target=run, name="resolver", daemon=True).start()
    try:
        found = done.get(timeout=_left(deadline))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(found, UnicodeError):
        raise OSError(f"its name cannot be looked up: {found}")
    if isinstance(found, OSError):
        raise found
    return found


class _Timed:
    """A socket whose every step has only the time that is left of the whole: a server that sends a byte now and then
    would get round a limit for each."""

    def __init__(self, plain: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = plain, deadline

    def sendall(self, data: Any) -> None:
        self._socket.settimeout(_left(self._deadline))
        self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedStream(self._socket, self._deadline))

    def close(self) -> None:
        """Not yet: http.client closes it while the body is still to be read."""

    def end(self) -> None:
        self._socket.close()


class _TimedStream(io.RawIOBase):
    def __init__(self, plain: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = plain, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_left(self._deadline))
        return self._socket.recv_into(buffer)


def _check_size(url: str, data: bytes, how: Fetching) -> None:
    if len(data) > how.max_bytes:
        raise FileTooLarge(
            f"{url}: it has more than the limit of {how.max_bytes / _MEGABYTE:,.1f} MB. "
            "Raise --max-file-mb (setting max_file_mb)."
        )


def _decoded(url: str, data: bytes, headers: Message, how: Fetching) -> bytes:
    """Though asked not to, some servers compress."""
    encoding = str(headers.get("Content-Encoding") or "identity").strip().lower()
    if encoding == "identity":
        return data
    if encoding not in ("gzip", "x-gzip"):
        raise FetchFailed(f"{url}: the server sends it in the encoding {encoding[:40]!r}, which was not asked for.")
    return gunzipped(url, data, how)


def gunzipped(url: str, data: bytes, how: Fetching) -> bytes:
    inflate = zlib.decompressobj(wbits=31)
    whole = inflate.decompress(data, how.max_bytes + 1)
    _check_size(url, whole, how)
    if not inflate.eof:
        raise FetchFailed(f"{url}: its compressed data is cut short. Try again.")
    return whole


def _charset(headers: Message) -> str | None:
    name = headers.get_content_charset()
    try:
        return codecs.lookup(name).name if name else None
    except (LookupError, ValueError):
        return None


def _name(page: Page) -> str:
    """A file name for it: the URL's last part, with a suffix that fits the content type."""
    parts = urlsplit(page.uri)
    name = unquote(parts.path.rstrip("/").rpartition("/")[2]).replace("/", "_") or parts.hostname or "page"
    suffix = f".{name.rpartition('.')[2].lower()}" if "." in name.strip(".") and parts.path.strip("/") else ""
    fitting = _SUFFIXES.get(page.content_type, "").split()
    if not fitting and page.content_type == "text/plain" and not suffix:
        fitting = [".txt"]
    return name if not fitting or suffix in fitting else name + fitting[0]


def _as_utf8(page: Page) -> bytes:
    """Readers see the bytes only: what the header says of them is applied here."""
    if page.charset in (None, "utf-8", "ascii") or not page.content_type.startswith("text/"):
        return page.data
    try:
        return page.data.decode(page.charset or "utf-8").encode("utf-8")
    except (ValueError, LookupError):
        return page.data
