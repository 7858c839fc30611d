"""The page at ``/`` in headless Chromium, over SciFact's 5,183 passages: what it weighs, and how long one waits.

    python benchmarks/page.py [--data FOLDER] [--documents 5183] [--loads 15] [--queries 60] [--collections FOLDER]
                              [--json FILE]

First load: a new browser context each time, with nothing cached. Search: from the key Enter until the next frame after
the hits are in the document; their best sentences are marked later. Needs Debian's ``chromium`` (``make browser``).
"""

from __future__ import annotations

import re
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, open_or_make, queries, served
from figures import Figure, at_most, percentile, report
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WATCH = """
() => {
  const painted = (resolve) => requestAnimationFrame(() => { const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => resolve(performance.now()); port2.postMessage(0); });
  addEventListener("keydown", (event) => { if (event.key === "Enter") window.began = performance.now(); }, true);
  window.marked = () => new Promise((resolve) => {
    const waited = () => performance.now() - window.began;
    const look = () => (document.querySelector(".hit mark") ? resolve(waited()) : setTimeout(look, 2));
    look();
  });
  window.answered = () => new Promise((resolve) => {
    const seen = new MutationObserver(() => { seen.disconnect(); painted((now) => resolve(now - window.began)); });
    seen.observe(document.getElementById("view"), { childList: true });
  });
}
"""


def main() -> None:
    given = arguments(__doc__, documents=5183, loads=15, queries=60, collections=True)
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("skipped: there is no chromium; make browser installs it")
    asked = queries(given.data)[: given.queries + 5]
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = given.collections or Path(scratch)
        open_or_make(data_dir, given.data, given.documents)
        with served(data_dir) as (client, _), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            url = str(client.base_url)
            paints, loads, weight, files = first_loads(browser, url, given.loads)
            searches, marks, services = search_times(browser, url, asked)
    report(
        [
            at_most("first load: bytes sent, gzip", weight / 1000, 150, "kB"),
            Figure("first load: files", files, ""),
            at_most("first load: search box painted, p50", statistics.median(paints), 300, "ms"),
            Figure("first load: search box painted, fastest", min(paints), "ms"),
            Figure("first load: counts of the collections painted too, p50", statistics.median(loads), "ms"),
            Figure("first load: counts painted too, fastest", min(loads), "ms"),
            at_most("search to hits painted: p50", statistics.median(searches), 100, "ms"),
            Figure("search to hits painted: p90", percentile(searches, 0.9), "ms"),
            Figure("search to hits painted: fastest", min(searches), "ms"),
            Figure("search to best sentences marked: p50", statistics.median(marks), "ms"),
            Figure("of hits, as the service says (took_ms): p50", statistics.median(services), "ms"),
        ],
        given.json,
        loads=given.loads,
        queries=len(searches),
        documents=given.documents,
    )


def first_loads(browser: Browser, url: str, count: int) -> tuple[list[float], list[float], int, int]:
    """Milliseconds of each load, to the largest paint and to all; bytes of bodies as sent, and how many files."""
    paints: list[float] = []
    loads: list[float] = []
    sizes: dict[str, int] = {}
    for _ in range(count + 2):
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        page.locator(".about").wait_for()
        paint, last = page.evaluate(
            "() => new Promise((resolve) => new PerformanceObserver((seen) => requestAnimationFrame(() => resolve(["
            "seen.getEntries().at(-1).startTime,"
            "Math.max(...performance.getEntriesByType('resource').map((each) => each.responseEnd))])))"
            ".observe({ type: 'largest-contentful-paint', buffered: true }))"
        )
        paints.append(paint)
        loads.append(max(paint, last))
        sizes = dict(
            page.evaluate(
                "() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
                ".map((each) => [each.name, each.encodedBodySize])"
            )
        )
        context.close()
    return paints[2:], loads[2:], sum(sizes.values()), len(sizes)


def search_times(browser: Browser, url: str, asked: list[str]) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds until hits are painted, until sentences are marked, and as the service says; the first five do not
    count."""
    page: Page = browser.new_page()
    page.goto(f"{url}?c=scifact")
    page.locator(".about").wait_for()
    page.evaluate(WATCH)
    waits, marks, services = [], [], []
    for text in asked:
        page.locator("#q").fill(text)
        page.evaluate("() => { window.waiting = window.answered(); }")
        page.keyboard.press("Enter")
        waits.append(float(page.evaluate("() => window.waiting")))
        marks.append(float(page.evaluate("() => window.marked()")))
        found = re.search(r"in ([\d.]+) ms", page.locator(".facts").inner_text())
        assert found, page.locator("#view").inner_text()
        services.append(float(found[1]))
    return waits[5:], marks[5:], services[5:]


if __name__ == "__main__":
    main()
