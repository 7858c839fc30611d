"""Text in pictures: scanned pages, pictures, what is said where tesseract is not there. Those tests that are not about
how well it reads run with a program in its place."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.errors import DamagedFile, NeedsOcr, UnsupportedFormat
from embedsvc.ingest import ingest_paths
from embedsvc.readers import FieldChoice, ocr, read
from embedsvc.readers.items import Limits, Means
from embedsvc.readers.sandbox import Sandbox
from embedsvc.records import Chunking, Document, Source
from tests.data_readers import make_pdf, make_png, make_scan, make_tiff
from tests.fakes import FakeEncoder

real = pytest.mark.skipif(shutil.which("tesseract") is None, reason="needs tesseract (Debian: tesseract-ocr)")
PAGES = ["The river rises in spring", "Stones are older\nthan all rivers", "Budgets are made in winter"]


def document(name: str, data: bytes, means: Means = Means()) -> Document:
    (item,) = read(Source(f"file:///{name}", name, data), FieldChoice(), means)
    assert isinstance(item, Document)
    return item


def words_by_page(doc: Document) -> list[str]:
    ends = [*doc.page_starts[1:], len(doc.text) + 1]
    return [" ".join(doc.text[start : end - 1].split()) for start, end in zip(doc.page_starts, ends, strict=True)]


@pytest.fixture
def without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without tesseract: a folder that is the PATH, empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def install(folder: Path, body: str) -> None:
    """In the place of tesseract, what runs ``body``; ``argv``, ``picture`` (bytes) and ``table(*words)`` are there."""
    program = folder / "tesseract"
    program.write_text(
        f"#!{sys.executable}\n"
        "import os, sys, time\n"
        "argv, picture = sys.argv, sys.stdin.buffer.read()\n"
        "def table(*words):\n"
        "    print('level page_num block_num par_num line_num word_num left top width height conf text')\n"
        "    print('1 1 0 0 0 0 0 0 9 9 -1 '.replace(' ', chr(9)))\n"
        "    for place, sure, text in words:\n"
        "        print('5', *place, 1, 0, 0, 9, 9, sure, text, sep=chr(9))\n"
        f"{body}\n"
    )
    program.chmod(0o755)


# -- by tesseract ------------------------------------------------------------------------------------------------------


@real
def test_a_scan_is_read_page_by_page() -> None:
    data = make_scan(PAGES, {1, 2, 3})
    doc = document("a.pdf", data)
    assert words_by_page(doc) == [" ".join(page.split()) for page in PAGES]
    assert doc.page_at(doc.text.index("older")) == 2
    assert "older\nthan" in doc.text
    assert doc.notes == ("page(s) 1, 2, 3: recognised by tesseract (eng)",)
    assert doc.hash == Source("", "", data).hash


@real
def test_pictures_are_read_and_those_of_several_pages_are_cited_by_page() -> None:
    doc = document("a.png", make_png(PAGES[0]))
    assert (doc.text, doc.page_starts, doc.title) == (PAGES[0], (), "a.png")
    assert document("a", make_png(PAGES[0])).text == PAGES[0]
    assert words_by_page(document("a.tiff", make_tiff(PAGES[0], "", PAGES[2]))) == [PAGES[0], "", PAGES[2]]


@real
def test_what_tesseract_cannot_read_is_damaged() -> None:
    with pytest.raises(DamagedFile, match=r"a\.jpg: tesseract cannot read this picture"):
        document("a.jpg", make_png(PAGES[0])[:200])


@real
def test_a_picture_without_text_is_an_empty_document() -> None:
    doc = document("a.png", make_png(""))
    assert (doc.text, doc.notes) == ("", ("no text was recognised in it",))


@real
def test_the_sandbox_lets_tesseract_work() -> None:
    data = make_scan(PAGES, {2})
    with Sandbox() as box:
        (doc,) = box.read(Source("file:///a.pdf", "a.pdf", data), FieldChoice())
    assert isinstance(doc, Document)
    assert words_by_page(doc) == [" ".join(page.split()) for page in PAGES]


@real
def test_data_of_a_language_that_is_not_there_is_named() -> None:
    for languages in ("xyz_abc", "eng+xyz_abc"):
        with pytest.raises(NeedsOcr, match=r"'xyz_abc' \(setting ocr_languages\).*tesseract-ocr-xyz-abc"):
            document("a.png", make_png(PAGES[0]), Means(ocr_languages=languages))


# -- without it --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize(("name", "data"), [("a.pdf", make_scan(PAGES, {1, 2, 3})), ("a.png", make_png(PAGES[0]))])
def test_what_is_missing_is_named(name: str, data: bytes) -> None:
    with pytest.raises(NeedsOcr, match=rf"file:///{name}: .*tesseract-ocr; it must be on the PATH") as raised:
        document(name, data)
    assert raised.value.reason == "needs_ocr"


@pytest.mark.usefixtures("without")
def test_pages_with_text_are_read_and_blank_ones_need_nothing() -> None:
    data = make_scan([*PAGES, ""], {2})
    doc = document("a.pdf", data)
    assert words_by_page(doc) == [PAGES[0], "", PAGES[2], ""]
    assert any("2, 4" in note and "tesseract-ocr" in note for note in doc.notes)
    assert doc.hash != Source("", "", data).hash, "the next run would not read it again"
    assert document("a.pdf", make_pdf(["One", ""])).hash == Source("", "", make_pdf(["One", ""])).hash


def test_where_it_is_off_nothing_is_started(without: Path) -> None:
    install(without, "open(os.path.join(os.path.dirname(argv[0]), 'started'), 'w')")
    off = Means(ocr_languages=None)
    doc = document("a.pdf", make_scan(PAGES, {1, 2, 3}), off)
    assert doc.text == ""
    assert any("ocr is off" in note for note in doc.notes)
    with pytest.raises(UnsupportedFormat, match="ocr is off"):
        document("a.png", make_png(PAGES[0]), off)
    assert [file.name for file in without.iterdir()] == ["tesseract"]


def test_a_file_is_read_again_once_tesseract_is_there(
    without: Path, here: Settings, fake: FakeEncoder, tmp_path: Path
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    file = tmp_path / "a.pdf"
    file.write_bytes(make_scan(PAGES, {2}))

    def run() -> str:
        (outcome,) = ingest_paths(collection, fake, [file], fields=FieldChoice(), max_file_mb=1)  # type: ignore[arg-type]
        return outcome.status

    assert [run(), run()] == ["indexed", "unchanged"]
    install(without, "table(((1, 1, 1, 1), 90, 'recognised'))")
    assert [run(), run()] == ["replaced", "unchanged"]
    (stored,) = collection.snapshot().store.documents()
    assert "recognised" in collection.snapshot().store.document_passages(stored.id)[0]


# -- what is made of its answers ---------------------------------------------------------------------------------------


def test_only_pages_without_text_are_given_to_it(without: Path) -> None:
    install(
        without,
        "folder = os.path.dirname(argv[0])\n"
        "open(os.path.join(folder, f'page-{os.getpid()}'), 'wb').write(picture)\n"
        "assert argv[1:3] == ['stdin', 'stdout'] and argv[argv.index('-l') + 1] == 'deu+eng', argv\n"
        "assert os.environ['OMP_THREAD_LIMIT'] == '1'\n"
        "table(((1, 1, 1, 1), 90, 'seen'))",
    )
    doc = document("a.pdf", make_scan([*PAGES, ""], {1, 3}), Means(ocr_languages="deu+eng"))
    assert words_by_page(doc) == ["seen", " ".join(PAGES[1].split()), "seen", ""]
    assert doc.notes == ("page(s) 1, 3: recognised by tesseract (deu+eng)", "page(s) 4: blank")
    given = [file.read_bytes() for file in without.glob("page-*")]
    assert [picture.split()[:4] for picture in given] == [[b"P5", b"2480", b"3509", b"255"]] * 2


def test_lines_and_blocks_stay_apart(without: Path) -> None:
    words = "((1, 1, 1, 1), 90, 'One'), ((1, 1, 1, 1), 90, 'line.'), ((1, 1, 1, 2), 90, 'Another.')"
    install(without, f"table({words}, ((1, 1, 2, 1), 95, ' '), ((1, 2, 1, 1), 95, 'Block'))")
    assert document("a.png", b"\x89PNG").text == "One line.\nAnother.\n\nBlock"


def test_what_it_is_not_sure_of_is_no_text(without: Path) -> None:
    install(without, "table(((1, 1, 1, 1), 60, 'oo'), ((1, 1, 1, 1), 20, '|~'))")
    assert document("a.png", b"\x89PNG").text == ""
    doc = document("a.pdf", make_scan(PAGES, {2}))
    assert words_by_page(doc) == [PAGES[0], "", PAGES[2]]
    assert doc.notes == ("page(s) 2: no text was recognised",)


def test_pages_on_which_it_fails_cost_themselves_only(without: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "_SECONDS", 1.0)
    for body in ("sys.exit(1)", "time.sleep(60)", "print('no table')", "os.abort()"):
        install(without, body)
        doc = document("a.pdf", make_scan(PAGES, {2}))
        assert words_by_page(doc) == [PAGES[0], "", PAGES[2]]
        assert doc.notes == ("page(s) 2: tesseract failed, or took too long",)


def test_a_page_of_any_size_is_drawn(without: Path) -> None:
    install(without, "width, height = map(int, picture.split()[1:3])\ntable(((1, 1, 1, 1), 90, width * height))")
    for box in (b"0 0 14400 14400", b"0 0 14400 1", b"0 0 3 3"):
        data = make_scan(["x"], {1}).replace(b"/MediaBox[ 0 0 595 842]", b"/MediaBox[ %b]" % box)
        assert box in data
        assert 0 <= int(document("a.pdf", data).text or 0) <= 41_000_000


# -- time --------------------------------------------------------------------------------------------------------------


def test_limits_reach_the_process_that_reads(without: Path) -> None:
    install(without, "time.sleep(3)\ntable(((1, 1, 1, 1), 90, argv[argv.index('-l') + 1]))")
    source = Source("file:///a.png", "a.png", b"\x89PNG")
    with Sandbox(Limits(timeout_s=2, ocr_timeout_s=100, ocr_languages="deu")) as box:
        (doc,) = box.read(source, FieldChoice())
    assert isinstance(doc, Document)
    assert doc.text == "deu"
    with Sandbox(Limits(ocr_languages=None)) as box, pytest.raises(UnsupportedFormat, match="ocr is off"):
        list(box.read(source, FieldChoice()))
