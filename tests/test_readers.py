"""The readers: what is kept, where headings and pages are, and what is said about input that cannot be read."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from embedsvc.errors import (
    BinaryJunk,
    DamagedFile,
    FileTooLarge,
    LockedFile,
    MissingField,
    NotFound,
    ReadError,
    UnsupportedFormat,
    WrongEncoding,
)
from embedsvc.readers import FieldChoice, FoundFile, Rejected, discover, read
from embedsvc.records import Document, Source
from tests.data_readers import make_docx, make_pdf

LIMIT = 1_000_000


def items(name: str, data: bytes | str, **fields: object) -> list[Document | Rejected]:
    data = data.encode() if isinstance(data, str) else data
    return list(read(Source(f"file:///{name}", name, data), FieldChoice(**fields)))  # type: ignore[arg-type]


def document(name: str, data: bytes | str) -> Document:
    (item,) = items(name, data)
    assert isinstance(item, Document)
    return item


def outline(doc: Document) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in doc.headings]


def found(*paths: Path | str, limit: int = LIMIT) -> list[FoundFile | Rejected]:
    return list(discover(paths, max_file_bytes=limit))


# -- discovery ------------------------------------------------------------------------------------------------------


def test_folders_are_walked_in_name_order_without_hidden_and_backup_files(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.txt", "a.txt", ".git/x.txt", "b/.hidden", "b/1.txt~", "CVS/x.txt", "~$a.docx", "c.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [Path(item.uri).name for item in found(tmp_path)] == ["a.txt", "1.txt", "2.txt", "c.md"]
    assert [item.uri for item in found(tmp_path / "b/.hidden")] == [(tmp_path / "b/.hidden").as_uri()]


def test_a_file_named_twice_is_found_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert len(found(tmp_path, tmp_path / "a.txt", tmp_path)) == 1


def test_the_bytes_are_read_when_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "ü 1.txt"
    file.write_text("old")
    (item,) = found(tmp_path)
    file.write_text("new")
    assert isinstance(item, FoundFile)
    assert item.load() == Source(uri=file.as_uri(), name="ü 1.txt", data=b"new")
    assert item.uri.endswith("/%C3%BC%201.txt")
    file.write_bytes(b"x" * (LIMIT + 1))
    with pytest.raises(FileTooLarge, match="max_file_mb"):
        item.load()
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UnsupportedFormat, match="FIFO"):
        item.load()
    file.unlink()
    with pytest.raises(ReadError, match="vanished"):
        item.load()


def test_where_no_path_exists_each_is_named_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"{tmp_path}/no/such.*{tmp_path} is there.*{tmp_path}/other does not exist"):
        discover([tmp_path / "no/such", tmp_path / "other"], max_file_bytes=LIMIT)


def test_a_missing_path_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    missing, there = found(tmp_path / "no/such", tmp_path / "a.txt")
    assert isinstance(missing, Rejected)
    assert (missing.uri, str(missing.error).partition(". ")[0]) == (
        (tmp_path / "no/such").as_uri(), f"{tmp_path}/no/such does not exist",
    )  # fmt: skip
    assert isinstance(there, FoundFile)


def test_a_loop_of_links_ends_and_is_reported_and_a_linked_folder_keeps_its_own_path(tmp_path: Path) -> None:
    (tmp_path / "z").mkdir()
    (tmp_path / "z/file.txt").write_text("x")
    (tmp_path / "a_link").symlink_to("z")
    (tmp_path / "z/up").symlink_to("..")
    (tmp_path / "self").symlink_to("self")
    result = found(tmp_path)
    assert [item.uri for item in result if isinstance(item, FoundFile)] == [(tmp_path / "z/file.txt").as_uri()]
    reasons = {Path(item.uri).name: str(item.error) for item in result if isinstance(item, Rejected)}
    assert reasons.keys() == {"up", "self"}
    assert "leads back" in reasons["up"]
    assert "link to itself" in reasons["self"]


def test_what_has_a_path_of_its_own_is_met_there_before_a_link_to_it(tmp_path: Path) -> None:
    for name in ("a", "b", "b/sub"):
        (tmp_path / name).mkdir()
    (tmp_path / "b/real.txt").write_text("x")
    (tmp_path / "b/sub/deep.txt").write_text("x")
    (tmp_path / "a/to_file.txt").symlink_to("../b/real.txt")
    (tmp_path / "a/to_folder").symlink_to("../b/sub")
    (tmp_path / "top").symlink_to("b/real.txt")
    named = [tmp_path / "top", tmp_path / "a", tmp_path / "b"]
    expected = ["b/real.txt", "b/sub/deep.txt", "top", "a/to_file.txt"]
    assert [item.uri for item in found(*named)] == [(tmp_path / path).as_uri() for path in expected]


def test_a_link_to_a_folder_outside_is_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file.txt").write_text("x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "out")
    assert [item.uri for item in found(tmp_path / "in")] == [(tmp_path / "in/link/file.txt").as_uri()]


def test_what_is_no_readable_file_is_an_item_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "big.txt").write_bytes(b"x" * 11)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "closed").mkdir()
    listdir = os.listdir

    def deny(path: Path) -> list[str]:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", deny)  # the tests may run as root, who is denied nothing
    reasons = {Path(item.uri).name: item.error for item in found(tmp_path, limit=10) if isinstance(item, Rejected)}
    assert isinstance(reasons["fifo"], UnsupportedFormat)
    assert isinstance(reasons["big.txt"], FileTooLarge)
    assert "--max-file-mb" in str(reasons["big.txt"])
    assert "restore its target" in str(reasons["dangling"])
    assert "permission to read" in str(reasons["closed"])


@pytest.mark.parametrize(("size", "seen"), [(0, 0), (99_000, 10), (LIMIT, 10), (99_000, 200_000)])
def test_a_file_that_changes_size_while_it_is_opened_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, seen: int
) -> None:
    """``seen``: its size when it was opened."""
    data = bytes(at % 251 for at in range(size))
    (tmp_path / "log.txt").write_bytes(data)
    (item,) = found(tmp_path)
    assert isinstance(item, FoundFile)
    fstat = os.fstat

    def before(descriptor: int) -> os.stat_result:
        return os.stat_result((*fstat(descriptor)[:6], seen, *fstat(descriptor)[7:10]))

    monkeypatch.setattr(os, "fstat", before)
    assert item.load().data == data


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("text")
    (item,) = found(tmp_path)
    assert isinstance(item, FoundFile)
    assert item.uri.endswith("/caf%E9.txt")
    (doc,) = read(item.load(), FieldChoice())
    assert isinstance(doc, Document)
    assert (doc.text, doc.title) == ("text", "caf\ufffd.txt")


# -- encodings ------------------------------------------------------------------------------------------------------

GERMAN = "Die Straße führt über die Brücke. Größere Änderungen müssen früher angekündigt werden – „sehr viel“."
RUSSIAN = "Вчера вечером мы пошли в кино, потому что хотели посмотреть новый фильм о жизни в городе."
FRENCH = "Café à la crème, déjà vu. Où est la bibliothèque?"
JAPANESE = "昨日の夜、私たちは映画館に行きました。新しい映画を見たかったからです。とても面白かったです。"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (GERMAN, "cp1252"),
        (FRENCH, "latin-1"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
    ]
    + [(text, encoding) for text in (GERMAN, JAPANESE) for encoding in ("utf-16-le", "utf-16-be")],
)
def test_an_undeclared_encoding_is_detected_and_noted(text: str, encoding: str) -> None:
    doc = document("a.txt", text.encode(encoding))
    assert doc.text == text
    assert "detected" in doc.notes[0]


PATHS = "./src/main.py\0./notes.txt\0./a b/c.md\0./x\0./Straße/Übung.txt\0./Makefile\0"
NUMBERS = "\0".join(map(str, range(200)))


@pytest.mark.parametrize(
    "text",
    [PATHS, PATHS[:-1], PATHS * 9_000, "./a.txt\0", NUMBERS, "abc\0def\0" * 20, "1\0\0\0two"],
    ids=["ended", "parted", "sampled", "one", "of two lengths", "of even length", "empty ones"],
)
def test_fields_parted_by_nul_are_lines_not_utf16(text: str) -> None:
    doc = document("a.txt", text.encode())
    assert doc.text == text.replace("\0", "\n")
    assert "NUL" in doc.notes[0]


@pytest.mark.parametrize(
    "text", ["hello", "two\nlines", "Hallo 你好", "naïve", "一二三,四五一", "今日は、いい天気ですね。"]
)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_short_text_in_utf16_is_told_by_where_its_nuls_are(text: str, encoding: str) -> None:
    assert document("a.txt", text.encode(encoding)).text == text


@pytest.mark.parametrize("text", ["hello", GERMAN])
def test_utf16_that_is_cut_within_a_character_is_no_list_of_letters(text: str) -> None:
    with pytest.raises(BinaryJunk):
        document("a.txt", text.encode("utf-16-le")[:-1])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_believed_and_is_no_text(encoding: str) -> None:
    assert document("a.txt", GERMAN.encode(encoding)).text == GERMAN


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\r\n\t"), min_size=1))
@example(" \r\n mixed\rends\n\n ")
@example("%PDF-1.4 is how they begin")
def test_text_is_exactly_the_files_own(text: str) -> None:
    text = text.removeprefix("\ufeff")
    for name in ("a.txt", "a.md", "a.rst", "a.py", "no_suffix.unknown"):
        assert document(name, b"\xef\xbb\xbf" + text.encode()).text == text


def test_a_few_bad_bytes_are_replaced_and_counted_but_not_many() -> None:
    doc = document("a.txt", (GERMAN * 3).encode() + b"\xff" + b" rest")
    assert doc.text == GERMAN * 3 + "\ufffd rest"
    assert doc.notes[0].startswith("1 byte")
    with pytest.raises(WrongEncoding, match="UTF-8"):
        document("a.txt", b"\xff\xfe" + b"\x00\xd8" * 50)


def test_declared_encodings_are_honoured() -> None:
    page = "<html><head><meta charset='cp1251'><title>т</title></head><body>Да, мир</body></html>"
    assert document("a.html", page.encode("cp1251")).text == "Да, мир"
    xml = "<?xml version='1.0' encoding='iso-8859-2'?><a>Łódź</a>"
    assert document("a.xml", xml.encode("iso-8859-2")).text == "Łódź"


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.csv", "a.jsonl", "a.html", "a", "a.rst"])
@pytest.mark.parametrize(
    "data", [b"\x89HDF\r\n\x1a\n" + bytes(range(256)), b"\x7fELF" + bytes(500), bytes(range(256)) * 9]
)
def test_binary_junk_is_told_under_any_name(name: str, data: bytes) -> None:
    with pytest.raises(BinaryJunk, match=f"file:///{name}: "):
        items(name, data)


@pytest.mark.parametrize("name", ["a.txt", "a.pdf", "a.docx", "a.csv", "a.jsonl", "a.html", "a"])
@pytest.mark.parametrize("data", [b"", b" \n\t\n"])
def test_an_empty_file_is_an_empty_document(name: str, data: bytes) -> None:
    doc = document(name, data)
    assert (doc.text, doc.notes) == ("", ("it holds only white space" if data else "the file is empty",))


# -- Markdown and reStructuredText ----------------------------------------------------------------------------------


def test_markdown_headings() -> None:
    text = (
        "---\r\ntitle: 'Front'\r\n---\r\n# One { #one }\r\n\r\nSet *ext*\r\n===\r\n```\r\n# not this\r\n```\r\n"
        "    # nor this\r\n> # nor that\r\n\r\n  ### `Three` [link](http://x) ###\r\ntext\r\n\r\nTwo\r\n---\r\n"
    )
    doc = document("a.md", text)
    assert (doc.text, doc.title) == (text, "Front")
    assert outline(doc) == [(1, "One"), (1, "Set ext"), (3, "Three link"), (2, "Two")]
    starts = ["# One", "Set *ext*", "### `Three`", "Two\r\n---"]
    assert [doc.text.startswith(s, h.start) for s, h in zip(starts, doc.headings, strict=True)] == [True] * 4
    assert document("b.md", "## Sub\n# Top\n").title == "Top"


words = st.text(st.sampled_from("abcxyzäß中 "), min_size=1, max_size=20).map(str.strip).filter(bool)


@given(st.lists(st.tuples(st.integers(1, 6), words, words)), st.sampled_from(["\n", "\r\n"]))
def test_every_markdown_heading_is_found_where_it_is(sections: list[tuple[int, str, str]], end: str) -> None:
    text = "".join(f"{'#' * level} {title}{end}{end}{body}{end}{end}" for level, title, body in sections)
    if not text:
        return
    doc = document("a.md", text)
    assert outline(doc) == [(level, " ".join(title.split())) for level, title, _ in sections]
    for (level, title, _), heading in zip(sections, doc.headings, strict=True):
        assert text.startswith(f"{'#' * level} {title}", heading.start)


def test_rst_sections_have_levels_by_order_of_appearance() -> None:
    text = (
        "PEP: 1\nTitle: A long\n  title\nStatus: Final\n\n=======\n Top\n=======\n\nPart `one`\n==========\n\ntext\n\n"
        "Sub\n---\n\n- item\n------\n\nnot\nover two lines\n==============\n\n::\n\n  Code\n  ====\n\n----\n\n"
        "Part **two**\n============\n"
    )
    doc = document("a.rst", text)
    assert doc.title == "A long title"
    assert outline(doc) == [(1, "Top"), (2, "Part one"), (3, "Sub"), (2, "Part two")]
    starts = ["=======\n Top", "Part `one`", "Sub", "Part **two**"]
    assert [doc.text.startswith(s, h.start) for s, h in zip(starts, doc.headings, strict=True)] == [True] * 4
    assert doc.heading_at(text.index("Sub") + 1) == "Top > Part one > Sub"


# -- HTML -----------------------------------------------------------------------------------------------------------


def test_html_keeps_content_and_drops_the_rest() -> None:
    doc = document(
        "a.html",
        "<html><head><title>The  page</title><style>css</style></head><body><nav>Menu</nav><h1>Big <i>news</i></h1>"
        "<p>One<br>two <b>bo</b>ld</p><div>three</div><ol><li>first<li>second</ol><table><tr><th>a<th>b<tr><td>1<td>"
        "<p>2</p></table><pre>x\n  y</pre><h2>After</h2>end<script>js</script><footer>Imprint</footer>",
    )
    assert doc.title == "The page"
    assert doc.text == (
        "Big news\n\nOne\ntwo bold\n\nthree\n\n1. first\n2. second\n\na\tb\n1\t2\n\nx\n  y\n\nAfter\n\nend"
    )
    assert outline(doc) == [(1, "Big news"), (2, "After")]
    assert all(doc.text.startswith(heading.title, heading.start) for heading in doc.headings)


def test_html_main_is_taken_when_it_holds_the_content_only() -> None:
    story = "<p>A story.</p>" * 5
    assert document("a.html", f"<div>ad</div><main>{story}</main>").text.startswith("A story.")
    assert "ad" not in document("a.html", f"<div>ad</div><main>{story}</main>").text
    assert "A story." in document("a.html", f"<main>x</main><div>{story}</div>").text
    assert "A story." in document("a.html", f"<nav>{story}</nav>").text


def test_html_nested_beyond_reason_is_refused_and_deep_html_is_not() -> None:
    assert document("a.html", "<div>" * 3000 + "deep").text == "deep"
    with pytest.raises(DamagedFile, match="nested"):
        document("a.html", "<div>" * 50_000 + "deep")


# -- PDF ------------------------------------------------------------------------------------------------------------


def test_pdf_pages_and_title() -> None:
    doc = document("a.pdf", make_pdf(["First page", "", "Third page"], title="A PDF"))
    assert doc.title == "A PDF"
    assert [doc.page_at(doc.text.index(words)) for words in ("First page", "Third page")] == [1, 3]
    assert doc.text[doc.page_starts[2] :].strip() == "Third page"
    assert doc.notes == ("page(s) 2: blank",)


def test_a_blank_pdf_says_so() -> None:
    doc = document("a.pdf", make_pdf(["", ""]))
    assert (doc.text, doc.page_starts, doc.notes) == ("", (), ("page(s) 1, 2: blank",))


def test_pdf_bookmarks_are_headings_where_their_words_stand() -> None:
    pages = ["Intro about Method", "See Method below\n2 Method\nwe did"]
    doc = document("a.pdf", make_pdf(pages, bookmarks=(("Intro", 0), ("Method", 1), ("Absent", 1))))
    assert outline(doc) == [(1, "Intro"), (1, "Method")]
    assert [doc.text[heading.start :].split()[0] for heading in doc.headings] == ["Intro", "2"]
    assert doc.title == "Intro"


def test_pdf_hyphens_at_line_ends_stay() -> None:
    assert document("a.pdf", make_pdf(["an exam-\nple of it"])).text.strip() == "an exam-\nple of it"


def test_pdf_passwords() -> None:
    assert document("a.pdf", make_pdf(["Free to read"], user_password=b"")).text.strip() == "Free to read"
    with pytest.raises(LockedFile, match="password"):
        document("a.pdf", make_pdf(["Secret"], user_password=b"pw"))


@pytest.mark.parametrize("data", [b"not a pdf", b"%PDF-1.7\njunk", make_pdf(["x"])[:40]])
def test_a_broken_pdf_is_damaged(data: bytes) -> None:
    with pytest.raises(DamagedFile, match=r"a\.pdf"):
        document("a.pdf", data)


def test_a_pdf_with_pages_without_end_is_damaged() -> None:
    """Found by fuzzing: all of them were drawn, to see whether they were scanned."""
    objects = (
        b"1 0 obj\n<</Type/Catalog/Pages 2 0 R>>\nendobj\n",
        b"2 0 obj\n<</Type/Pages/Kids[3 0 R]/Count 300000>>\nendobj\n",
        b"3 0 obj\n<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>\nendobj\n",
    )
    with pytest.raises(DamagedFile, match="300,000 pages"):
        document("a.pdf", b"%PDF-1.4\n" + b"".join(objects) + b"trailer<</Root 1 0 R>>\n%%EOF")


# -- DOCX -----------------------------------------------------------------------------------------------------------

BODY = (
    '<w:p><w:pPr><w:pStyle w:val="berschrift1"/></w:pPr><w:r><w:t>Kapitel</w:t></w:r></w:p>'
    '<w:p><w:r><w:t xml:space="preserve">One </w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>'
    '<w:ins><w:r><w:t>two</w:t><w:tab/><w:t>three</w:t><w:footnoteReference w:id="2"/></w:r></w:ins></w:p>'
    "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>a</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>b</w:t></w:r></w:p></w:tc></w:tr>"
    "</w:tbl><w:sdt><w:sdtContent><w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>item</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    '<w:p><w:pPr><w:pStyle w:val="Mine"/></w:pPr><w:r><w:t>Teil</w:t></w:r></w:p>'
)


@pytest.mark.parametrize("strict", [False, True])
def test_docx_order_headings_tables_and_notes(strict: bool) -> None:
    doc = document("a.docx", make_docx(BODY, strict=strict))
    assert doc.text == "Kapitel\nOne two\tthree[footnote 2]\na\tb\n- item\nTeil\n[footnote 2] A note"
    assert outline(doc) == [(1, "Kapitel"), (2, "Teil")]
    assert all(doc.text.startswith(heading.title, heading.start) for heading in doc.headings)
    assert doc.title == "Kapitel"


def test_docx_title_style_names_the_document() -> None:
    heading = '<w:p><w:pPr><w:pStyle w:val="Titel"/></w:pPr><w:r><w:t>The book</w:t></w:r></w:p>'
    assert document("a.docx", make_docx(BODY + heading)).title == "The book"


def test_broken_locked_and_swollen_docx() -> None:
    whole = make_docx(BODY)
    for data in (b"junk", whole[: len(whole) // 2], make_docx("<w:p>"), b"PK\x03\x04"):
        with pytest.raises(DamagedFile, match=r"a\.docx"):
            document("a.docx", data)
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500)
    with pytest.raises(LockedFile):
        document("a.docx", ole + "EncryptedPackage".encode("utf-16-le"))
    with pytest.raises(UnsupportedFormat, match="2007"):
        document("a.docx", ole)
    with pytest.raises(FileTooLarge, match="unpacks"):
        document("a.docx", make_docx(" " * 100_000_001))


def test_entities_that_multiply_are_refused() -> None:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "lol lol lol lol">{entities}]><x>&e9;</x>'
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", bomb)
    with pytest.raises(DamagedFile):
        document("a.docx", buffer.getvalue())


# -- JSONL and CSV --------------------------------------------------------------------------------------------------


def test_jsonl_records_with_the_customary_names() -> None:
    big = 2**70
    text = f'{{"_id": "a/1", "title": "T", "text": "x\u2028y", "n": {big}, "nan": NaN, "deep": {{"k": [1e999]}}}}\n\n'
    (doc,) = items("a.jsonl", text)
    assert isinstance(doc, Document)
    assert (doc.uri, doc.title, doc.text) == ("file:///a.jsonl#a%2F1", "T", "x\u2028y")
    assert doc.metadata == {"n": big, "nan": None, "deep": {"k": [None]}}


def test_a_bad_line_costs_itself_only() -> None:
    lines = ['{"id": 1, "text": "one"}', "{broken", '["no object"]', '{"id": 1, "text": "again"}', '{"other": "x"}']
    lines += ["[" * 100_000, '{"text": ' + "9" * 5000 + "}", '{"id": 9, "text": "last"}']
    result = items("a.jsonl", "\n".join(lines))
    assert [item.text for item in result if isinstance(item, Document)] == ["one", "last"]
    errors = [item.error for item in result if isinstance(item, Rejected)]
    assert [type(error) for error in errors] == [DamagedFile] * 3 + [MissingField] + [DamagedFile] * 2
    assert [f"line {number}" in str(error) for number, error in zip((2, 3, 4, 5, 6, 7), errors, strict=True)] == [
        True
    ] * 6
    assert "'1'" in str(errors[2])
    assert "other" in str(errors[3])


def test_chosen_fields() -> None:
    result = items(
        "a.jsonl",
        '{"a": "1", "b": ["2", "3"], "head": "H", "key": "k", "m": 5, "o": 6}',
        text=("b", "a"),
        title="head",
        id="key",
        metadata=("m",),
    )
    (doc,) = result
    assert isinstance(doc, Document)
    assert (doc.text, doc.title, doc.uri, doc.metadata) == ("2\n3\n1", "H", "file:///a.jsonl#k", {"m": 5})
    (absent,) = items("a.jsonl", '{"text": "x"}', text=("body",))
    assert isinstance(absent, Rejected)
    assert isinstance(absent.error, MissingField)
    with pytest.raises(MissingField, match=r"'body'.*a, text"):
        items("a.csv", "a,text\n1,x\n", text=("body",))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_delimiters_quotes_and_numbers(delimiter: str) -> None:
    rows = [["id", "text", "year", "zip", "share"], ["7", '"a, b; c | d\n""e"""', "2020", "00123", "0.5"]]
    rows.append(["8", "plain", "", "-3", "1e5"])
    first, second = items("a.csv", "\r\n".join(delimiter.join(row) for row in rows))
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert (first.uri, first.text) == ("file:///a.csv#7", 'a, b; c | d\n"e"')
    assert first.metadata == {"year": 2020, "zip": "00123", "share": 0.5}
    assert second.metadata == {"year": None, "zip": -3, "share": "1e5"}


def test_csv_without_a_text_column_and_with_ragged_rows() -> None:
    result = items("a.csv", "city,city,\nBonn,Ulm,1\nKiel\n\nA,B,C,D\n")
    docs = [item for item in result if isinstance(item, Document)]
    assert [doc.text for doc in docs] == [
        "city: Bonn\ncity_2: Ulm\ncolumn_3: 1",
        "city: Kiel",
        "city: A\ncity_2: B\ncolumn_3: C\ncolumn_4: D",
    ]
    assert [bool(doc.notes) for doc in docs] == [False, True, True]
    assert [doc.uri[-2:] for doc in docs] == ["#1", "#2", "#3"]


def test_a_long_cell_is_read() -> None:
    (doc,) = items("a.csv", "text,n\n" + "x" * 300_000 + ",1\n")
    assert isinstance(doc, Document)
    assert len(doc.text) == 300_000


# -- which reader ---------------------------------------------------------------------------------------------------


def test_formats_are_told_by_content_where_the_suffix_tells_nothing() -> None:
    assert document("a", make_pdf(["In a PDF"])).text.strip() == "In a PDF"
    assert document("a.unknown", make_docx(BODY)).title == "Kapitel"
    assert document("a", "<!DOCTYPE html><p>Hi</p>").text == "Hi"
    assert document("A.HTML", "<p>Hi</p>").text == "Hi"
    assert document(".profile", "export A=1\n").text == "export A=1\n"
    assert document("a.py", "# x = 1\n").headings == ()


@pytest.mark.parametrize("name", ["a.mobi", "a.key", "a.7z", "a.PSD", "a.exe"])
def test_formats_that_are_not_read_are_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=r"Markdown.*PDF"):
        items(name, b"anything")


SUFFIXES = [".txt", ".md", ".rst", ".html", ".pdf", ".docx", ".jsonl", ".csv", ".tsv", ".xml", ""]
SEEDS = [make_pdf(["x"]), make_docx(BODY), b"<html><table><td>x", b'{"text": "a"}\n', b"a,b\n1,2\n", b"# H\n\nT\n===\n"]


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.binary(max_size=200), st.sampled_from(SEEDS), st.integers(0, 3000), st.sampled_from(SUFFIXES))
def test_any_bytes_give_documents_or_a_read_error(junk: bytes, seed: bytes, cut: int, suffix: str) -> None:
    for data in (junk, seed[:cut] + junk, seed[:cut] + junk + seed[cut + len(junk) :]):
        try:
            result = items("f" + suffix, data)
        except ReadError:
            continue
        assert result
        for doc in result:
            if isinstance(doc, Document):
                assert all(0 <= heading.start < len(doc.text) for heading in doc.headings)


def test_importing_the_readers_imports_no_library() -> None:
    code = "import sys, embedsvc.readers; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {
        "pypdfium2",
        "selectolax",
        "chardet",
        "markdown_it",
        "xml.etree.ElementTree",
        "csv",
        "zipfile",
        "pyarrow",
        "tarfile",
    }


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", b"a" * 5_000_000 + b"\xe9"),
        ("a.csv", b"a," * 100_000 + b"\n1\n"),
        ("a.rst", b"=\n" * 300_000),
        ("a.html", b"<p>" * 100_000),
        ("a.md", b"# " + b"[" * 30_000),
    ],
)
def test_awkward_input_takes_linear_time(name: str, data: bytes) -> None:
    started = time.process_time()
    items(name, data)
    assert time.process_time() - started < 5  # quadratic behaviour takes minutes on these
