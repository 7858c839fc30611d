"""The page at ``/``, in a browser: one browser and one server for all of it."""

from __future__ import annotations

import gzip
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route, expect, sync_playwright

from tests.server import Server, server
from tests.test_service import finished

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; `make browser` installs it")
expect.set_options(timeout=30_000)  # how long it may take on a busy machine
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FILES = ("index.html", "page.css", "icon.svg", "app.js", "address.js", "api.js", "dom.js", "text.js", "search.js")
FILES += ("first.js", "reader.js", "collections.js", "ingest.js", "snippets.js")
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
LONG = "\n\n".join(
    f"Chapter {at}. The 🦊 of village number {at} keeps {at} geese and sells their feathers." for at in range(600)
)
HANDBOOK: list[dict[str, Any]] = [
    {
        "id": "power",
        "uri": "https://example.org/power",
        "title": "Power failures",
        "text": "🔥🔥 Before anything else, keep calm. After a power failure 🔌 start the store first and the service "
        "second. The lamp on the door turns green when all is well.",
        "metadata": {"year": 2024, "team": "operations"},
    },
    {"id": "bread", "title": "Bread", "text": "Bread needs flour, water and salt.", "metadata": {"year": 2020}},
    {
        "id": "evil/1",
        "uri": "javascript:window.hacked=1",
        "title": EVIL,
        "text": f"The dangerous text says {EVIL} and [click](javascript:window.hacked=1) to who reads dangerous text.",
        "metadata": {EVIL: EVIL},
    },
    {"id": "long", "uri": "geese.txt", "title": "Geese", "text": LONG},
]

UPLOADED: list[Any] = [
    {"name": "moon.md", "mimeType": "text/markdown", "buffer": b"# Moon\n\nThe moon pulls at the sea."},
    {"name": "broken.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7 no more than that"},
    {"name": "<b>huge</b>.txt", "mimeType": "text/plain", "buffer": b"x" * 1_100_000},
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("page") / "data", max_file_mb=1, chunk_tokens=96, overlap=8) as running:
        response = running.http.post("/v1/collections/handbook/documents", json={"documents": HANDBOOK})
        assert finished(running.http, response.json())["status"] == "done"
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser, running: Server) -> Iterator[Callable[..., Page]]:
    """Opens the page at an address, in a window of its own; at the end, all that the browser did was harmless."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open(address: str = "", **options: Any) -> Page:
        context = browser.new_context(base_url=running.url, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
        page.on("request", went)
        page.goto(f"/{address}")
        return page

    def went(request: Request) -> None:
        if not request.url.startswith((running.url, "data:")):
            complaints.append(f"request: {request.url}")

    yield open
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("() => window.hacked") is None
        context.close()
    assert complaints == []


def ask(page: Page, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.keyboard.press("Enter")
    expect(page.locator("body.busy")).to_have_count(0)


def hit_titles(page: Page) -> list[str]:
    return page.locator(".hit .open").all_inner_texts()


def state(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_files_are_small_asked_for_once_and_confined(running: Server) -> None:
    sizes = []
    for name in FILES:
        answer = running.http.get("/" if name == "index.html" else f"/page/{name}")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policy
        assert "base-uri 'none'; form-action 'none'; frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = running.http.get(answer.request.url, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert answer.headers["content-encoding"] == "gzip"
        plain = running.http.get(answer.request.url, headers={"accept-encoding": "identity"})
        assert plain.content == answer.content
        sizes.append(len(gzip.compress(plain.content)))
    assert sum(sizes) < 150_000
    assert running.http.get("/page/none.js").status_code == 404
    assert running.http.get("/page/..%2F__init__.py").status_code == 404


def test_no_file_asks_for_anything_elsewhere(running: Server) -> None:
    for name in FILES:
        text = running.http.get("/" if name == "index.html" else f"/page/{name}").text
        assert not re.findall(r"""(?:src|href|url|import)\W{1,3}https?://""", text)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)


# -- search ------------------------------------------------------------------------------------------------------------


def test_a_question_gives_hits_with_marks_and_an_address(opened: Callable[..., Page]) -> None:
    page = opened()
    expect(page.get_by_role("heading", name="Ask your documents")).to_be_visible()
    expect(page.locator("#q")).to_be_focused()
    ask(page, "what do I start after a power failure?")
    assert hit_titles(page)[0] == "Power failures"
    first = page.locator(".hit").first
    # The offsets are of characters, and emojis before them are two units each in the browser.
    sentence = "After a power failure 🔌 start the store first and the service second."
    assert first.locator("mark").inner_text() == sentence
    assert {"power", "failure", "start"} <= {term.lower() for term in first.locator(".term").all_inner_texts()}
    expect(first.locator(".excerpt")).to_contain_text("🔥🔥 Before anything else")
    assert state(page) == {"c": "handbook", "q": "what do I start after a power failure?"}
    ask(page, "flour")
    assert hit_titles(page)[0] == "Bread"
    page.go_back()
    expect(page.locator(".hit .open").first).to_have_text("Power failures")
    assert page.get_by_label("Question").input_value() == "what do I start after a power failure?"


def test_hits_tell_what_they_are_ordered_by_and_apart_from_it_how_sure_each_is(opened: Callable[..., Page]) -> None:
    page = opened("?c=handbook&q=start+bread+village+number")
    expect(page.locator(".hit .sure").first).to_have_text(re.compile(r"^\d+ % sure$"))
    expect(page.locator(".facts")).to_contain_text("by score")
    scores = [float(score) for score in page.locator(".hit .score").all_inner_texts()]
    assert len(scores) > 2
    assert scores == sorted(scores, reverse=True)
    page.locator("#ask").get_by_text("Words").click()
    expect(page.locator(".hit .sure")).to_have_count(0)
    expect(page.locator(".hit .score").first).to_have_text(re.compile(r"^\d+\.\d\d$"))


def test_a_search_by_words_is_one_request_and_by_meaning_shows_hits_before_its_marks(
    opened: Callable[..., Page],
) -> None:
    page = opened("?c=handbook")
    asked: list[bool] = []

    def handle(route: Route) -> None:
        asked.append(route.request.post_data_json["highlight"])
        if asked == [True, False, True]:
            route.abort()
        else:
            route.continue_()

    page.route("**/search", handle)
    page.locator("#ask").get_by_text("Words").click()
    ask(page, "power failure")
    expect(page.locator(".hit mark").first).to_be_visible()
    with page.expect_event("requestfailed"):
        page.locator("#ask").get_by_text("Both").click()
    expect(page.locator(".hit .sure").first).to_be_visible()
    expect(page.locator(".hit mark")).to_have_count(0)
    assert asked == [True, False, True]


def test_filter_mode_and_size_ask_again(opened: Callable[..., Page]) -> None:
    page = opened("?c=handbook&q=bread")
    expect(page.locator(".hit .open").first).to_have_text("Bread")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("textbox", name="Filter").fill("metadata.year >= 2024")
    page.keyboard.press("Enter")
    expect(page.locator(".hit")).to_have_count(1)
    assert hit_titles(page) == ["Power failures"]
    page.locator("#ask").get_by_text("Words").click()
    expect(page.get_by_role("heading", name="Nothing found")).to_be_visible()
    page.get_by_role("link", name="search without it").click()
    expect(page.locator(".hit .open")).to_have_text(["Bread"])
    page.get_by_label("Number of hits").select_option("5")
    expect(page).to_have_url(re.compile(r"k=5"))
    assert state(page) == {"c": "handbook", "q": "bread", "mode": "lexical", "k": "5"}


def test_what_the_service_refuses_is_told_in_its_words(opened: Callable[..., Page]) -> None:
    page = opened("?c=handbook&q=bread&filter=metadata.year+%3E")
    problem = page.locator(".problem")
    expect(problem.get_by_role("heading", name="Bad filter")).to_be_visible()
    page.goto("/?c=handbok&q=bread")
    expect(page.locator(".problem")).to_contain_text("Did you mean 'handbook'?")


def test_a_question_that_is_too_long_is_told_of_without_what_programs_may_ask_for(opened: Callable[..., Page]) -> None:
    page = opened("?c=handbook&q=" + "power+failure+" * 300)
    expect(page.locator(".problem .detail")).to_have_text(re.compile(r"The query has 600 tokens; .* Shorten it\.$"))


@pytest.mark.parametrize("width", [1280, 360])
def test_the_best_sentence_is_within_the_lines_that_are_shown(opened: Callable[..., Page], width: int) -> None:
    page = opened("?c=handbook&q=the+village+of+49+geese", viewport={"width": width, "height": 900})
    mark = page.locator(".hit mark").first
    mark.wait_for()
    shown = """() => [...document.querySelectorAll(".excerpt")].filter((box) => box.querySelector("mark")).map((box) =>
      box.querySelector("mark").getBoundingClientRect().bottom - box.getBoundingClientRect().bottom < 2)"""
    assert set(page.evaluate(shown)) == {True}
    page.locator(".hit .open").first.click()
    expect(page.locator("#reader .passage")).to_be_visible()
    if width > 1000:  # else the document covers the hits
        page.wait_for_function(f"() => ({shown})().every(Boolean)")


@pytest.mark.parametrize("mode", ["hybrid", "lexical"])
def test_a_hit_tells_the_heading_of_its_best_sentence_and_cites_where_it_begins(
    opened: Callable[..., Page], running: Server, mode: str
) -> None:
    text = b"# Chapter\n\nGeese are fed at noon.\n\n# Zeppelin\n\nIt is moored on the roof."
    file = {"files": ("airship.md", text, "text/markdown")}
    finished(running.http, running.http.post("/v1/collections/airships/documents", files=file).json())
    page = opened(f"?c=airships&q=where+is+the+zeppelin+moored&mode={mode}")
    expect(page.locator(".hit mark")).to_have_text("It is moored on the roof.")
    expect(page.locator(".hit .place")).to_have_text("Zeppelin")
    (hit,) = running.http.post("/v1/collections/airships/search", json={"query": "zeppelin"}).json()["hits"]
    assert (hit["heading"], hit["start"], hit["end"]) == ("Chapter", 0, len(text))


def test_warnings_and_the_verdict_are_told(opened: Callable[..., Page]) -> None:
    page = opened("?c=handbook&q=the+of+and&mode=lexical")
    expect(page.locator(".notice, .nothing").first).to_be_visible()
    ask(page, "who won the chess tournament in Reykjavik?")
    page.locator("#ask").get_by_text("Both").click()
    expect(page.locator(".unsure")).to_contain_text("does not seem to be here")


def test_scores_are_told_on_demand(opened: Callable[..., Page]) -> None:
    page = opened("?c=handbook&q=power+failure")
    page.get_by_role("button", name="Why here?").first.click()
    scores = page.locator(".scores").first
    expect(scores.locator(".places")).to_contain_text(re.compile(r"Rank 1 by meaning, 1 by words"))
    expect(scores).to_contain_text("cosine of question and passage")
    expect(scores).to_contain_text("operations")  # its metadata


# -- documents ---------------------------------------------------------------------------------------------------------


def test_a_hit_opens_in_its_document(opened: Callable[..., Page], running: Server) -> None:
    page = opened("?c=handbook&q=village+number+300&k=5")
    page.locator(".hit .open").first.click()
    reader = page.get_by_role("region", name="Document")
    passage = reader.locator(".passage")
    expect(passage.locator(".term").first).to_be_visible()
    at = state(page)
    assert passage.text_content() == LONG[int(at["start"]) : int(at["end"])]
    text = reader.locator(".text").text_content()
    assert text
    assert text in LONG
    assert len(text) < len(LONG)  # a part of it
    expect(passage.locator("mark")).to_be_in_viewport()
    page.reload()  # the address alone shows the same
    expect(passage.locator("mark")).to_be_in_viewport()
    page.get_by_role("link", name="Passage after").click()
    expect(page).not_to_have_url(re.compile(rf"start={at['start']}&"))
    follower = state(page)
    expect(passage).to_have_text(LONG[int(follower["start"]) : int(follower["end"])])
    page.get_by_role("button", name="Close the document").click()
    expect(reader).to_be_hidden()
    expect(page.locator(".hit").first).to_be_visible()


def test_a_long_document_is_read_to_both_ends(opened: Callable[..., Page]) -> None:
    page = opened("?c=handbook&view=documents&doc=long&start=20000&end=20100")
    reader = page.locator("#reader")
    expect(reader.locator(".passage")).to_be_visible()
    earlier = reader.get_by_role("button", name="Earlier text")
    for _ in range(20):
        if not earlier.is_visible():
            break
        before = reader.locator(".text").text_content()
        with suppress(Exception):
            earlier.click(timeout=2000)
        expect(reader.locator(".text")).not_to_have_text(before or "")
    for _ in range(20):
        if len(reader.locator(".text").text_content() or "") == len(LONG):
            break
        reader.evaluate("(reader) => { reader.scrollTop = reader.scrollHeight; }")
        page.wait_for_timeout(100)
    assert reader.locator(".text").text_content() == LONG


def test_collections_and_their_documents(opened: Callable[..., Page]) -> None:
    page = opened("?view=collections")
    card = page.locator(".collection", has_text="handbook").first
    expect(card).to_be_visible()
    figures = dict(zip(card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts(), strict=True))
    assert figures["documents"] == "4"
    assert (figures["vector index"], figures["recall@10"]) == ("exact", "100 %")
    card.get_by_role("link", name="Documents").click()
    expect(page.locator(".hit")).to_have_count(4)
    assert sorted(hit_titles(page)) == sorted(["Power failures", "Bread", EVIL, "Geese"])
    page.get_by_role("link", name="Bread").click()
    expect(page.locator("#reader .text")).to_have_text("Bread needs flour, water and salt.")
    page.goto("/?view=documents&c=handbook&doc=nobody")
    expect(page.locator("#reader")).to_contain_text("No document has the id 'nobody'")


# -- keys --------------------------------------------------------------------------------------------------------------


def test_the_keyboard_is_enough(opened: Callable[..., Page]) -> None:
    page = opened("?c=handbook&q=power+failure")
    expect(page.locator(".hit").nth(1)).to_be_visible()
    page.keyboard.press("j")
    expect(page.locator(".hit .open").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".hit .open").nth(1)).to_be_focused()
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page.locator("#reader .passage")).to_be_visible()
    expect(page.locator(".hit").first).to_have_class(re.compile("current"))
    page.keyboard.press("j")
    expect(page.locator(".hit").nth(1)).to_have_class(re.compile("current"))
    page.keyboard.press("Escape")
    expect(page.locator("#reader")).to_be_hidden()
    expect(page.locator(".hit .open").nth(1)).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys and query language")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("/")
    expect(page.get_by_label("Question")).to_be_focused()
    page.keyboard.type("j?k")
    assert page.get_by_label("Question").input_value() == "j?k"


def test_the_key_to_the_search_box_is_not_typed_where_that_has_the_focus_from_the_start(
    opened: Callable[..., Page],
) -> None:
    page = opened()
    question = page.get_by_label("Question")
    expect(question).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.type("/etc")
    expect(question).to_have_value("/etc")


# -- putting in --------------------------------------------------------------------------------------------------------


def test_a_name_that_no_collection_can_have_is_told_of(opened: Callable[..., Page]) -> None:
    page = opened("?view=add")
    name = page.get_by_label("Collection", exact=True).and_(page.locator("#into"))
    name.fill("my notes")
    assert "1 to 64 letters, digits, dots" in name.evaluate("(input) => input.validationMessage")
    name.fill("my-notes")
    assert name.evaluate("(input) => input.validationMessage") == ""


def test_files_are_put_in_and_told_of(opened: Callable[..., Page]) -> None:
    page = opened("?view=add&c=uploads")
    page.locator("#files").set_input_files(UPLOADED)
    report = page.locator("#report")
    expect(report.get_by_role("link", name="Search it")).to_be_visible()
    expect(report.locator(".said")).to_contain_text("1 indexed")
    expect(report.locator(".said")).to_contain_text("2 not read")
    expect(report.locator(".line", has_text="<b>huge</b>.txt")).to_contain_text("max_file_mb")
    expect(report.locator(".line", has_text="broken.pdf").locator(".reason")).not_to_be_empty()
    expect(report.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "100")
    report.get_by_role("link", name="Search it").click()
    ask(page, "what pulls at the sea?")
    assert hit_titles(page) == ["Moon"]
    page.goto("/?c=uploads")
    expect(page.locator(".about")).to_have_text("1 document, 1 passage in uploads")


def test_a_service_that_goes_away_while_files_are_sent_is_told_of(opened: Callable[..., Page]) -> None:
    page = opened("?view=add&c=uploads")
    page.route("**/documents", lambda route: route.abort())
    page.locator("#files").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"One line."})
    expect(page.locator("#report .problem")).to_contain_text("The connection broke while the files were sent")
    expect(page.locator("#report .problem")).to_contain_text("embedsvc serve")


def test_files_that_are_dropped_anywhere_are_put_in(opened: Callable[..., Page]) -> None:
    page = opened("?c=handbook&q=bread")
    expect(page.locator(".hit").first).to_be_visible()
    given = page.evaluate_handle(
        "() => { const given = new DataTransfer();"
        " given.items.add(new File(['Rivers run to the sea.'], 'rivers.txt')); return given; }"
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": given})
    expect(page.get_by_text("Add to handbook")).to_be_visible()
    page.get_by_label("Collection").evaluate("(select) => select.append(new Option('drops', 'drops', true, true))")
    page.dispatch_event("body", "drop", {"dataTransfer": given})
    expect(page.locator("#report .said")).to_contain_text("1 indexed")
    assert state(page) == {"view": "add", "c": "drops"}


def test_where_there_is_nothing_yet_it_says_how_to_begin(opened: Callable[..., Page]) -> None:
    page = opened("?view=add")
    page.route("**/v1/collections", lambda route: route.fulfill(json={"collections": []}))
    page.goto("/")
    expect(page.get_by_role("heading", name="Nothing is indexed yet")).to_be_visible()
    expect(page.get_by_text("embedsvc index ~/papers -c papers")).to_be_visible()
    expect(page.get_by_role("button", name="Choose files")).to_be_visible()


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, ("The service does not answer", "embedsvc serve")),
        ({"status": 500, "body": "<h1>Bad gateway</h1>"}, ("The service answered 500", "log of the service")),
        (
            {"status": 429, "json": {"title": "Too many requests", "detail": "512 searches are waiting already."}},
            ("Too many requests", "512 searches", "in a few seconds"),
        ),
        ({"status": 200, "body": "<html>"}, ("no answer of embedsvc",)),
    ],
)
def test_errors_say_what_to_do_and_can_be_tried_again(
    opened: Callable[..., Page], answer: dict[str, Any] | None, words: tuple[str, ...]
) -> None:
    page = opened("?c=handbook")
    failing = [True]

    def handle(route: Route) -> None:
        if not failing[0]:
            route.continue_()
        elif answer is None:
            route.abort()
        else:
            route.fulfill(**answer)

    page.route("**/search", handle)
    ask(page, "bread")
    problem = page.locator(".problem")
    for word in words:
        expect(problem).to_contain_text(word)
    failing[0] = False
    problem.get_by_role("button", name="Try again").click()
    expect(page.locator(".hit .open").first).to_have_text("Bread")


def test_a_key_is_asked_for_kept_for_the_tab_and_sent(opened: Callable[..., Page]) -> None:
    page = opened()

    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer open sesame":
            route.continue_()
        else:
            route.fulfill(status=401, json={"title": "Unauthorized", "detail": "Send a key."})

    page.route("**/v1/**", guarded)
    page.goto("/?c=handbook&q=bread")
    page.get_by_role("button", name="Enter a key").click()
    page.locator("#key-value").fill("open sesame")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator(".hit .open").first).to_have_text("Bread")
    assert "sesame" not in page.url
    assert page.evaluate("() => JSON.stringify(localStorage)").count("sesame") == 0
    page.reload()
    expect(page.locator(".hit .open").first).to_have_text("Bread")
    page.get_by_role("button", name="API", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("$EMBEDSVC_API_KEY")
    expect(page.get_by_role("dialog")).not_to_contain_text("sesame")


def test_text_of_documents_and_queries_is_never_html(opened: Callable[..., Page]) -> None:
    page = opened("?c=handbook")
    ask(page, f"dangerous text {EVIL}")
    title = page.locator(".hit .open", has_text="<img").first
    expect(title).to_have_text(EVIL)
    hit = page.locator(".hit", has_text="<img").first
    assert hit.locator("img, script, a[href^=javascript]").count() == 0
    hit.get_by_role("button", name="Why here?").click()
    expect(hit.locator(".metadata")).to_contain_text("onerror")
    title.click()
    reader = page.locator("#reader")
    expect(reader.locator("h2")).to_have_text(EVIL)
    expect(reader.locator(".text")).to_contain_text("[click](javascript:window.hacked=1)")
    assert page.locator("#reader img, #reader script, a[href^=javascript]").count() == 0
    page.get_by_role("button", name="API", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("<img")
    page.goto("/?c=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E&q=a")
    expect(page.locator(".problem")).to_be_visible()


# -- the same by the API -----------------------------------------------------------------------------------------------


def test_the_calls_that_it_shows_do_what_the_view_does(opened: Callable[..., Page], running: Server) -> None:
    page = opened(
        '?c=handbook&q=it\'s+"power+failure"+%24HOME&k=5&filter=metadata.year+%3E%3D+2024&doc=power&start=3&end=30'
    )
    expect(page.locator(".hit").first).to_be_visible()
    page.get_by_role("button", name="API", exact=True).click()
    curl, document = page.locator("[data-language=curl]").all_inner_texts()
    answer = shelled(curl)
    assert answer["query"] == 'it\'s "power failure" $HOME'
    assert [hit["title"] for hit in answer["hits"]] == ["Power failures"]
    part = shelled(document)
    assert (part["start"], part["end"], part["text"]) == (3, 30, HANDBOOK[0]["text"][3:30])
    search, whole = page.locator("[data-language=python]").all_inner_texts()
    assert "Power failures" in ran(search)
    assert ran(whole).strip() == HANDBOOK[0]["text"][3:30].strip()


def shelled(command: str) -> Any:
    return httpx.Response(
        200, text=subprocess.run(["bash", "-c", command], capture_output=True, check=True, text=True).stdout
    ).json()


def ran(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout


# -- for everybody -----------------------------------------------------------------------------------------------------

FAILURES: dict[str, tuple[str, str, Callable[[Route], None]]] = {
    "service down": ("**/search", "?c=handbook&q=bread", lambda route: route.abort()),
    "server error": ("**/search", "?c=handbook&q=bread", lambda route: route.fulfill(status=500, body="<h1>no</h1>")),
    "no key": ("**/v1/**", "?c=handbook&q=bread", lambda route: route.fulfill(status=401, json={"title": "No key"})),
    "nothing yet": ("**/v1/collections", "", lambda route: route.fulfill(json={"collections": []})),
    "document gone": ("**/nothing", "?view=documents&c=handbook&doc=nobody", lambda route: route.continue_()),
    "bad filter": ("**/nothing", "?c=handbook&q=bread&filter=metadata.year+%3E", lambda route: route.continue_()),
}
VIEWS = {
    "home": ("", "h1:visible"),
    "hits": ("?c=handbook&q=power+failure", ".hit"),
    "document": ("?c=handbook&q=power+failure&doc=power&start=0&end=40", "#reader .passage"),
    "collections": ("?view=collections", ".collection"),
    "documents": ("?view=documents&c=handbook", ".hit"),
    "add": ("?view=add", ".zone"),
    "error": ("?c=nowhere&q=power", ".problem"),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opened: Callable[..., Page], scheme: str) -> None:
    page = opened(color_scheme=scheme)
    dark = page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor") == "rgb(21, 20, 18)"
    assert dark == (scheme == "dark")
    only = {"runOnly": ["color-contrast"]} if scheme == "dark" else None  # nothing else differs
    found: dict[str, list[str]] = {}
    for name, (address, sign) in VIEWS.items():
        page.goto(f"/{address}")
        page.locator(sign).first.wait_for()
        expect(page.locator("body.busy")).to_have_count(0)
        found[name] = violations(page, only)
    page.keyboard.press("?")
    found["help"] = violations(page, only)
    page.keyboard.press("Escape")
    for name in ("API", "Key"):
        page.get_by_role("button", name=name, exact=True).click()
        found[name] = violations(page, only)
        page.keyboard.press("Escape")
    page.goto("/?view=add&c=axe")
    page.locator("#files").set_input_files(UPLOADED)
    expect(page.locator("#report").get_by_role("link", name="Search it")).to_be_visible()
    found["report"] = violations(page, only)
    for name, (pattern, address, answer) in FAILURES.items():
        page.route(pattern, answer)
        page.goto(f"/{address}")
        expect(page.locator(".problem, .zone").first).to_be_visible()
        found[name] = violations(page, only)
        page.unroute(pattern)
    assert {name: each for name, each in found.items() if each} == {}


def violations(page: Page, options: dict[str, Any] | None) -> list[str]:
    said = Axe().run(page, options=options).response["violations"]
    return [f"{each['impact']} {each['id']}: {[node['html'][:90] for node in each['nodes'][:3]]}" for each in said]


def test_a_phone_shows_all_without_scrolling_sideways(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 360, "height": 700}, has_touch=True, is_mobile=True)
    for address, sign in VIEWS.values():
        for width in (320, 360):
            page.set_viewport_size({"width": width, "height": 700})
            page.goto(f"/{address}")
            page.locator(sign).first.wait_for()
            expect(page.locator("body.busy")).to_have_count(0)
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width, address
            covered = "doc=" in address  # by the document
            expect(page.get_by_role("button", name="Help")).to_be_in_viewport(ratio=0 if covered else 1)
            for view in page.locator("nav a").all():
                expect(view).to_be_in_viewport(ratio=0 if covered else 1)
        assert violations(page, {"runOnly": ["target-size"]}) == [], address  # WCAG 2.2 AA: 24 px, or as far apart
    page.goto(f"/{VIEWS['document'][0]}")
    box = page.locator("#reader").bounding_box()
    assert box
    assert (box["x"], box["width"]) == (0, 360)
    page.get_by_role("button", name="Close the document").tap()
    expect(page.locator(".hit").first).to_be_in_viewport()


# -- what Lighthouse would look at (docs/page.md has the list) ---------------------------------------------------------

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml; charset=utf-8"}
TYPES[".js"] = "text/javascript; charset=utf-8"
SHIFTS = """
window.shifts = [];
new PerformanceObserver((seen) => {
  for (const each of seen.getEntries())
    if (!each.hadRecentInput) window.shifts.push([each.value, ...each.sources.map((from) => from.node?.className)]);
}).observe({ type: "layout-shift", buffered: true });
"""


def test_files_say_what_they_are_and_may_be_kept(running: Server) -> None:
    for name in FILES:
        answer = running.http.get("/" if name == "index.html" else f"/page/{name}")
        assert answer.headers["content-type"] == TYPES[name[name.index(".") :]]
        assert answer.headers["cache-control"] == "no-cache", "kept, and asked for by its ETag"
        assert answer.headers["vary"].lower() == "accept-encoding"


def test_each_view_has_a_title_a_heading_and_no_complaint(opened: Callable[..., Page]) -> None:
    page = opened()
    said: list[str] = []
    page.on("console", lambda each: said.append(each.text) if each.type in ("error", "warning") else None)
    html, description = page.locator("html"), page.locator("meta[name=description]")
    assert (html.get_attribute("lang"), len(description.get_attribute("content") or "") > 40) == ("en", True)
    scale = page.locator("meta[name=viewport]").get_attribute("content")
    assert scale == "width=device-width, initial-scale=1", "and it may be made larger"
    titles = set()
    for name in ("home", "hits", "collections", "documents", "add"):
        address, sign = VIEWS[name]
        page.goto(f"/{address}")
        page.locator(sign).first.wait_for()
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        levels = [int(each[1]) for each in page.locator("h1, h2, h3, h4").evaluate_all(SHOWN_TAGS)]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), (name, levels)
        titles.add(page.title())
    assert len(titles) == 5
    assert said == []


SHOWN_TAGS = "(all) => all.filter((each) => each.checkVisibility()).map((each) => each.tagName)"


@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_jumps(opened: Callable[..., Page], width: int) -> None:
    page = opened(viewport={"width": width, "height": 800})
    page.add_init_script(SHIFTS)
    for address, sign in (VIEWS["home"], VIEWS["hits"], VIEWS["collections"]):
        page.goto(f"/{address}")
        page.locator(sign).first.wait_for()
        if "q=" in address:
            page.locator(".hit mark").first.wait_for()
        ask_again = page.locator("#q")
        if ask_again.is_visible():
            ask(page, "what do I start after a power failure?")
            page.locator(".hit mark").first.wait_for()
        shifts = page.evaluate("() => new Promise((done) => setTimeout(() => done(window.shifts), 100))")
        assert sum(each[0] for each in shifts) < 0.1, (address, shifts)


FOCUSED = """() => {
  const at = document.activeElement;
  const seen = at.matches(".open") ? at.closest(".hit") : (at.labels?.[0] ?? at);
  const { x, y, height } = (at.labels?.[0] ?? at).getBoundingClientRect();
  const clip = seen.getBoundingClientRect();
  const [left, top] = [Math.max(clip.x - 20, 0), Math.max(clip.y - 8, 0)];
  return [
    { name: at.id || at.textContent.trim().slice(0, 30), x, y: y + scrollY, height },
    { x: left, y: top, width: clip.right + 20 - left, height: clip.bottom + 8 - top },
  ];
}"""
"""Which element has the focus and where, and the part of the window in which that would be seen."""


def test_the_keys_focus_is_seen_and_goes_down_the_page(opened: Callable[..., Page]) -> None:
    for width in (1280, 360):
        page = opened(
            "?c=handbook&q=power+failure&k=5", viewport={"width": width, "height": 900}, reduced_motion="reduce"
        )
        page.locator(".hit mark").first.wait_for()
        page.evaluate("() => document.activeElement.blur()")
        stops = []
        for _ in range(16):
            page.keyboard.press("Tab")
            place, clip = page.evaluate(FOCUSED)
            focused = page.screenshot(clip=clip)  # type: ignore[arg-type]
            page.evaluate("() => document.activeElement.blur()")
            assert page.screenshot(clip=clip) != focused, f"{place['name']} looks the same with the focus"  # type: ignore[arg-type]
            stops.append(place)
        assert len({(each["x"], each["y"]) for each in stops}) == len(stops)
        for before, after in itertools.pairwise(stops[1:]):  # the first is the link to skip the bar
            down = after["y"] >= before["y"] + before["height"] - 8
            right = after["y"] > before["y"] - 16 and after["x"] > before["x"]
            assert down or right, f"at {width} px {after['name']} follows {before['name']}"


@pytest.mark.parametrize(("wanted", "moves"), [("reduce", False), ("no-preference", True)])
def test_who_wants_no_motion_has_none(opened: Callable[..., Page], wanted: str, moves: bool) -> None:
    page = opened("?c=handbook", reduced_motion=wanted)
    page.route("**/search", lambda route: None)  # no answer
    page.locator("#q").fill("bread")
    page.keyboard.press("Enter")
    page.locator("body.busy").wait_for()
    assert bool(page.evaluate("() => document.getAnimations().length")) == moves
    page.unroute("**/search")
