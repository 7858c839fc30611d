"""URLs as inputs: pages, and sitemaps, which stand for the pages that they list. One page at a time."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit
from urllib.robotparser import RobotFileParser

from embedsvc.errors import FetchFailed, NotAllowed, ReadError
from embedsvc.readers.items import Rejected
from embedsvc.readers.web import USER_AGENT, Fetching, Page, canonical, fetch, gunzipped
from embedsvc.records import Source

_MOST_PAGES = 50_000
_MOST_SITEMAPS = 1000
_ROOT = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<((?:\w+:)?)(urlset|sitemapindex)[\s>]", re.S)
"""No XML parser sees what strangers wrote: it would be one in our own process."""

Fetch = Callable[[str, Fetching], Page]


def pages(
    urls: Sequence[str], how: Fetching, *, other_hosts: bool = False, fetched: Fetch = fetch
) -> Iterator[Source | Rejected]:
    """The pages at ``urls``, and those that the sitemaps among them list: on the sitemap's own host unless
    ``other_hosts``, as far as robots.txt allows."""
    seen: set[str] = set()
    robots = _Robots(how, fetched)
    for url in urls:
        listed: list[str] = []
        maps = [url]
        count = 0
        host: str | None = None
        while maps:
            at = maps.pop(0)
            try:
                at = canonical(at)
                if at in seen:
                    continue
                seen.add(at)
                if host is not None:
                    _check_host(at, host, other_hosts)
                page = fetched(at, how)
                data = _unpacked(page, how)
            except ReadError as error:
                yield Rejected(at, error)
                continue
            root = _ROOT.match(data[:65536])
            if root is None:
                if at == url or not count:
                    yield page.source()
                else:
                    yield Rejected(at, FetchFailed(f"{at}: a sitemap names it as one, but it is none."))
                continue
            count += 1
            host = host or urlsplit(page.uri).hostname or ""
            own = _located(data, root[1])
            (maps if root[2] == b"sitemapindex" else listed).extend(own)
            if root[2] == b"sitemapindex" and count + len(maps) > _MOST_SITEMAPS:
                del maps[_MOST_SITEMAPS:]
                why = f"{at}: it leads to more than {_MOST_SITEMAPS:,} sitemaps; the rest is left out."
                yield Rejected(at, FetchFailed(why))
            yield from _listed(listed, page.uri, host, how, other_hosts, fetched, seen, robots)
            listed = []


def _listed(
    listed: Sequence[str],
    sitemap: str,
    host: str,
    how: Fetching,
    other_hosts: bool,
    fetched: Fetch,
    seen: set[str],
    robots: _Robots,
) -> Iterator[Source | Rejected]:
    for each in listed:
        if len(seen) >= _MOST_PAGES:
            yield Rejected(
                sitemap, FetchFailed(f"{sitemap}: more than {_MOST_PAGES:,} pages in one run; the rest is left out.")
            )
            return
        at = each
        try:
            at = canonical(each)
            if at in seen:
                continue
            seen.add(at)
            _check_host(at, host, other_hosts)
            if not robots.allow(at):
                raise NotAllowed(f"{at}: the robots.txt of its host forbids it, or cannot be read.")
            yield fetched(at, how).source()
        except ReadError as error:
            yield Rejected(at, error)


def _check_host(url: str, host: str, other_hosts: bool) -> None:
    if not other_hosts and urlsplit(url).hostname != host:
        raise NotAllowed(
            f"{url}: a sitemap of {host} lists it, but it is on another host. "
            "What is there is taken with --other-hosts (setting sitemap_other_hosts) only."
        )


def _unpacked(page: Page, how: Fetching) -> bytes:
    if page.data[:2] == b"\x1f\x8b" and urlsplit(page.uri).path.endswith((".xml.gz", ".gz")):
        return gunzipped(page.uri, page.data, how)
    return page.data


def _located(data: bytes, prefix: bytes) -> list[str]:
    found = re.findall(rb"<%sloc\s*>([^<]*(?:<!\[CDATA\[[^\]<]*\]\]>)?[^<]*)<" % re.escape(prefix), data)
    texts = (re.sub(r"<!\[CDATA\[(.*?)\]\]>", r"\1", each.decode("utf-8", "replace")) for each in found)
    return [html.unescape(text).strip() for text in texts]


class _Robots:
    """What robots.txt says, asked for once per host. None there: all is allowed. One that cannot be had: nothing is."""

    def __init__(self, how: Fetching, fetched: Fetch) -> None:
        self._how, self._fetched = how, fetched
        self._known: dict[str, RobotFileParser] = {}

    def allow(self, url: str) -> bool:
        parts = urlsplit(url)
        host = f"{parts.scheme}://{parts.netloc}"
        if host not in self._known:
            rules = self._known[host] = RobotFileParser()
            try:
                rules.parse(self._fetched(f"{host}/robots.txt", self._how).data.decode("utf-8", "replace").splitlines())
            except ReadError as error:
                missing = re.search(r"the server answered 4\d\d", str(error))
                rules.parse([] if missing else ["User-agent: *", "Disallow: /"])
        return self._known[host].can_fetch(USER_AGENT, url)
