"""Office files, books and mails: what is kept, what it is cited by, and what is said about hostile input."""
# ruff: noqa: E501 (markup reads worse in pieces)

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from contextlib import suppress
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedsvc.errors import DamagedFile, FileTooLarge, LockedFile, ReadError, UnsupportedFormat
from embedsvc.readers import FieldChoice, Rejected, read
from embedsvc.readers import legacy as legacy_module
from embedsvc.records import Document, Source
from tests.data_office import (
    ODF,
    make_epub,
    make_odf,
    make_ole,
    make_pptx,
    make_xls,
    make_xlsx,
    make_zip,
    msg_streams,
    record,
    rels,
    shape,
    summary_stream,
    xlsx_row,
)
from tests.data_readers import make_docx


def items(name: str, data: bytes, uri: str = "") -> list[Document | Rejected]:
    return list(read(Source(uri or f"file:///{name}", name, data), FieldChoice()))


def document(name: str, data: bytes) -> Document:
    (item,) = items(name, data)
    assert isinstance(item, Document)
    return item


def outline(doc: Document) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in doc.headings]


def lines_by_page(doc: Document) -> list[list[str]]:
    ends = [*doc.page_starts[1:], len(doc.text) + 1]
    return [doc.text[start : end - 1].split("\n") for start, end in zip(doc.page_starts, ends, strict=True)]


# -- PPTX -----------------------------------------------------------------------------------------------------------

CHART = (
    '<c:chart xmlns:c="c" xmlns:a="a"><c:title><a:p><a:r><a:t>Sales</a:t></a:r></a:p></c:title><c:ser>'
    "<c:tx><c:v>North</c:v></c:tx><c:cat><c:pt idx='0'><c:v>2023</c:v></c:pt><c:pt idx='1'><c:v>2024</c:v></c:pt></c:cat>"
    "<c:val><c:pt idx='0'><c:v>5</c:v></c:pt><c:pt idx='1'><c:v>6</c:v></c:pt></c:val></c:ser></c:chart>"
)


def test_slides_are_pages_under_their_titles_in_the_order_of_the_show_with_notes() -> None:
    table = (
        "<p:graphicFrame><a:tbl><a:tr><a:tc><a:p><a:r><a:t>a</a:t></a:r></a:p></a:tc>"
        "<a:tc><a:p><a:r><a:t>b</a:t></a:r></a:p></a:tc></a:tr></a:tbl></p:graphicFrame>"
    )
    group = f"<p:grpSp>{shape('in a group')}</p:grpSp>"
    slides = [
        shape("below", "the title") + shape("The ", "show", kind="ctrTitle") + group + shape("1", kind="sldNum"),
        "",
        table + "<p:pic/>",
        shape("End", kind="title"),
    ]
    doc = document("a.pptx", make_pptx(slides, notes={0: "Say hello"}))
    assert lines_by_page(doc) == [
        ["The show", "below", "the title", "in a group", "Notes: Say hello"],
        [""],
        ["a\tb"],
        ["End"],
    ]
    assert outline(doc) == [(1, "The show"), (1, "Slide 3"), (1, "End")]
    assert [doc.page_at(heading.start) for heading in doc.headings] == [1, 3, 4]
    assert doc.title == "The show"
    assert doc.heading_at(doc.text.index("a\tb")) == "Slide 3"


def test_charts_diagrams_and_comments_of_a_slide_are_read() -> None:
    frame = '<p:graphicFrame><c:chart xmlns:c="c" r:id="c"/><d:relIds xmlns:d="d" r:dm="d"/></p:graphicFrame>'
    more = {
        "ppt/charts/c.xml": CHART,
        "ppt/diagrams/d.xml": '<x xmlns:a="a"><a:p><a:r><a:t>Step one</a:t></a:r></a:p></x>',
        "ppt/comments/k.xml": "<l><cm><text>Why?</text></cm></l>",
    }
    relations = (
        ("c", "chart", "../charts/c.xml"),
        ("d", "diagramData", "../diagrams/d.xml"),
        ("k", "comments", "../comments/k.xml"),
    )
    doc = document("a.pptx", make_pptx([frame], more=more, relations=relations))
    assert doc.text.split("\n") == ["Sales", "North: 2023: 5 | 2024: 6", "Step one", "Comment: Why?"]


def test_a_show_without_any_text_is_an_empty_document_with_a_note() -> None:
    doc = document("a.pptx", make_pptx(["<p:pic/>", ""]))
    assert (doc.text, doc.page_starts, doc.notes, doc.title) == ("", (), ("it has no text",), "a.pptx")


# -- XLSX and XLS ---------------------------------------------------------------------------------------------------


def test_sheets_are_pages_and_rows_name_their_columns() -> None:
    first = (
        xlsx_row(1, "Prices")
        + xlsx_row(3, "Name", "Price", "Since")
        + '<row r="4"><c r="A4" t="s"><v>0</v></c><c r="B4"><f>1+1</f><v>1234.5</v></c><c r="C4" s="1"><v>45352</v></c></row>'
        + '<row r="5"><c r="A5" t="s"><v>1</v></c><c r="B5" s="2"><v>0.45</v></c><c r="C5" s="3"><v>45352.75</v></c></row>'
    )
    second = '<row r="2"><c r="C2"><v>0.1</v></c><c r="E2" t="b"><v>1</v></c></row>' + xlsx_row(3, "", "", 7, "", "x")
    strings = ["<t>Tea</t>", "<r><t>Cof</t></r><r><t>fee</t></r><rPh><t>phonetic</t></rPh>"]
    formats = [(0, ""), (14, ""), (9, ""), (164, 'dd.mm.yyyy" "hh:mm')]
    doc = document("a.xlsx", make_xlsx({"One": first, "Two": second}, strings=strings, formats=formats))
    assert lines_by_page(doc) == [
        [
            "One",
            "Prices",
            "Name | Price | Since",
            "Name: Tea | Price: 1234.5 | Since: 2024-03-01",
            "Name: Coffee | Price: 45% | Since: 2024-03-01 18:00",
        ],
        ["Two", "0.1\tTRUE", "7\tx"],
    ]
    assert outline(doc) == [(1, "One"), (1, "Two")]
    assert doc.title == "a.xlsx"


@pytest.mark.parametrize(
    ("value", "format", "shown"),
    [
        ("0.30000000000000004", (0, ""), "0.3"),
        ("1000000", (3, ""), "1000000"),
        ("1.5E-5", (11, ""), "0.000015"),
        ("0.5", (20, ""), "12:00"),
        ("1.5", (164, "[h]:mm"), "36:00"),
        ("60", (14, ""), "1900-03-01"),
        ("45352", (164, '[$-407]d. mmmm yyyy;@'), "2024-03-01"),
        ("1234.5", (164, '#,##0.00\\ "days"'), "1234.5"),
        ("99999999", (14, ""), "99999999"),
        ("-3", (14, ""), "-3"),
        ("NaN", (0, ""), "nan"),
        ("1e308", (46, ""), "1e+308"),
        ("INF", (9, ""), "inf"),
    ],
)  # fmt: skip
def test_numbers_are_shown_as_a_person_would_read_them(value: str, format: tuple[int, str], shown: str) -> None:
    if value == "60":
        shown = "1900-03-01"  # 29 February 1900, which Excel has, is a day that never was
    format = (format[0], format[1].replace('"', "&quot;"))
    rows = f'<row r="1"><c r="A1" s="0"><v>{value}</v></c></row>'
    assert document("a.xlsx", make_xlsx({"S": rows}, formats=[format])).text == f"S\n{shown}"


def test_dates_from_1904_and_formulas_without_a_value() -> None:
    rows = '<row><c s="0"><v>0</v></c><c><f>SUM(B1:B2)</f></c><c t="e"><v>#N/A</v></c></row>'
    data = make_xlsx({"S": rows}, formats=[(14, "")], book='<workbookPr date1904="1"/>')
    assert document("a.xlsx", data).text == "S\n1904-01-01\t=SUM(B1:B2)\t#N/A"


def test_comments_and_text_boxes_of_a_sheet_are_read() -> None:
    more = {
        "xl/worksheets/_rels/sheet1.xml.rels": rels(("c", "comments", "../c.xml"), ("d", "drawing", "../d.xml")),
        "xl/c.xml": '<c><comment ref="B2"><text><r><t>Is it so?</t></r></text></comment></c>',
        "xl/d.xml": '<w xmlns:a="a"><sp><txBody><a:p><a:r><a:t>In a box</a:t></a:r></a:p></txBody></sp></w>',
    }
    doc = document("a.xlsx", make_xlsx({"S": xlsx_row(1, "x")}, more=more))
    assert doc.text.split("\n") == ["S", "x", "Comment on B2: Is it so?", "In a box"]


def test_a_claim_of_a_million_rows_and_cells_far_apart_cost_nothing() -> None:
    empty = '<c r="A1" s="0"/>' * 200_000
    rows = f'<row r="1">{empty}</row>' + '<row r="2"><c r="A2"><v>1</v></c></row>'
    rows += '<row r="1048576"><c r="XFD1048576"><v>2</v></c></row>'
    data = make_xlsx({"S": "</sheetData><dimension ref='A1:XFD1048576'/><sheetData>" + rows})
    started = time.perf_counter()
    assert document("a.xlsx", data).text == "S\n1\n2"
    assert time.perf_counter() - started < 20


def test_a_diagonal_of_cells_is_not_laid_out_as_a_square() -> None:
    def name(n: int) -> str:
        return "".join(chr(65 + digit) for digit in (n // 676, n // 26 % 26, n % 26)) if n >= 676 else "A"

    rows = "".join(f'<row r="{n}"><c r="{name(n)}{n}"><v>{n}</v></c></row>' for n in range(700, 4000))
    assert len(document("a.xlsx", make_xlsx({"S": rows})).text) < 50_000


def test_one_string_in_very_many_cells_is_refused() -> None:
    rows = "".join(f'<row r="{n}">{"<c t=" + chr(34) + "s" + chr(34) + "><v>0</v></c>"}</row>' for n in range(1, 400))
    with pytest.raises(FileTooLarge, match="million characters"):
        document("a.xlsx", make_xlsx({"S": rows}, strings=[f"<t>{'x' * 1_000_000}</t>"]))


def test_xls() -> None:
    cells = record(0x27E, struct.pack("<HHHI", 2, 0, 2, (1250 << 2) | 3))  # 12.5, as a percentage
    cells += record(0xBD, struct.pack("<HHHIHIH", 4, 0, 0, (7 << 2) | 2, 0, (8 << 2) | 2, 1))
    cells += record(0x06, struct.pack("<HHH", 5, 0, 0) + b"\0\0\0\0\0\0\xff\xff" + bytes(8))
    cells += record(0x207, struct.pack("<HB", 6, 0) + b"result")
    cells += record(0x205, struct.pack("<HHHBB", 5, 1, 0, 42, 1))
    doc = document("a.xls", make_xls(cells=cells))
    assert lines_by_page(doc) == [
        ["Zahlen", "Name | Tag", "Name: Ärger 日本 | Tag: 2024-03-01", "Name: 1250%", "7\t8", "result\t#N/A"]
    ]
    assert outline(doc) == [(1, "Zahlen")]


def test_the_title_of_an_xls_is_found_among_properties_that_claim_too_much() -> None:
    """A list of four thousand million entries of no size: found by fuzzing, it took olefile hours."""
    title = struct.pack("<I", 6) + "Gr\xfc\xdfe\0".encode("cp1252")
    endless = struct.pack("<I", 0xFFFFFFFF)
    more = summary_stream((8, 0x1000, endless), (1, 2, struct.pack("<I", 1252)), (2, 30, title), (9, 30, endless))
    assert document("a.xls", make_xls(more=more)).title == "Grüße"
    assert document("a.xls", make_xls(more={"\x05SummaryInformation": b"\xfe\xff"})).title == "a.xls"


def test_locked_old_and_cut_xls() -> None:
    with pytest.raises(LockedFile):
        document("a.xls", make_xls(globals=record(0x2F, bytes(6))))
    with pytest.raises(UnsupportedFormat, match="before 5"):
        document("a.xls", make_ole({"Book": record(0x809, struct.pack("<HH", 0x400, 5))}))
    for data in (make_ole({"Workbook": record(0x809, struct.pack("<HH", 0x600, 5))}), make_xls()[:2000], b"junk\0"):
        with pytest.raises(ReadError, match=r"damaged|2007"):
            document("a.xls", data)


# -- OpenDocument ---------------------------------------------------------------------------------------------------


def test_odt() -> None:
    body = (
        '<text:tracked-changes><text:p>deleted</text:p></text:tracked-changes><text:p text:style-name="P1">The Title</text:p>'
        '<text:h text:outline-level="1">One</text:h>\n<text:p>A  <text:span> b</text:span><text:s text:c="3"/>c<text:tab/>d'
        '<text:line-break/>e<text:note text:note-class="footnote"><text:note-citation>1</text:note-citation><text:note-body>'
        "<text:p>A note</text:p></text:note-body></text:note><draw:frame><draw:text-box><text:p>boxed</text:p>"
        "</draw:text-box></draw:frame></text:p><text:list><text:list-item><text:p>item</text:p><text:list><text:list-item>"
        '<text:p>sub</text:p></text:list-item></text:list></text:list-item></text:list><text:h text:outline-level="2">Two'
        '</text:h><table:table><table:table-header-rows><table:table-row><table:table-cell><text:p>h1</text:p>'
        '</table:table-cell><table:table-cell><text:p>h2</text:p></table:table-cell></table:table-row>'
        '</table:table-header-rows><table:table-row><table:table-cell><text:p>x</text:p><text:p>y</text:p></table:table-cell>'
        '<table:table-cell table:number-columns-repeated="2"><text:p>z</text:p></table:table-cell></table:table-row>'
        "</table:table>"
    )  # fmt: skip
    style = '<style:style style:name="P1" style:parent-style-name="Title"/>'
    doc = document("a.odt", make_odf("text", body, styles=style))
    assert doc.text == (
        "The Title\nOne\nA b   c\td\ne[footnote 1]\nboxed\n- item\n- sub\nTwo\nh1\th2\nx y\tz\tz\n[footnote 1] A note"
    )
    assert outline(doc) == [(1, "One"), (2, "Two")]
    assert [doc.text[h.start :].startswith(h.title) for h in doc.headings] == [True, True]
    assert doc.title == "The Title"
    named = make_odf("text", body, meta="<dc:title>Its name</dc:title>")
    assert document("a.odt", named).title == "Its name"


SHEET = (
    '<table:table table:name="Prices"><table:table-row><table:table-cell><text:p>Name</text:p></table:table-cell>'
    "<table:table-cell><text:p>Price</text:p></table:table-cell><table:table-cell><text:p>Since</text:p></table:table-cell>"
    '</table:table-row><table:table-row><table:table-cell office:value-type="string"><text:p>Tea</text:p></table:table-cell>'
    '<table:table-cell office:value-type="float" office:value="1234.5"><text:p>1.234,50</text:p></table:table-cell>'
    '<table:table-cell office:value-type="date" office:date-value="2024-03-01"><text:p>01.03.24</text:p><office:annotation>'
    '<text:p>Sure?</text:p></office:annotation></table:table-cell></table:table-row>{}</table:table>'
)  # fmt: skip


def test_ods_and_its_flat_form() -> None:
    lines = ["Prices", "Name | Price | Since", "Name: Tea | Price: 1234.5 | Since: 2024-03-01", "Comment: Sure?"]
    doc = document("a.ods", make_odf("spreadsheet", SHEET.format("") + '<table:table table:name="Empty"/>'))
    assert lines_by_page(doc) == [lines, ["Empty"]]
    flat = (
        f'<?xml version="1.0"?><office:document {ODF} office:mimetype="application/vnd.oasis.opendocument.spreadsheet">'
        f"<office:body><office:spreadsheet>{SHEET.format('')}</office:spreadsheet></office:body></office:document>"
    ).encode()
    for name in ("a.fods", "a.ods"):
        assert lines_by_page(document(name, flat)) == [lines]


def test_empty_cells_repeated_without_end_cost_nothing_and_full_ones_are_refused() -> None:
    gap = '<table:table-row table:number-rows-repeated="1048573"><table:table-cell table:number-columns-repeated="16384"/></table:table-row>'
    last = '<table:table-row><table:table-cell table:number-columns-repeated="999999999"/><table:table-cell><text:p>end</text:p></table:table-cell></table:table-row>'
    doc = document("a.ods", make_odf("spreadsheet", SHEET.format(gap + last)))
    assert doc.text.split("\n")[-2:] == ["end", "Comment: Sure?"]
    for row in (
        '<table:table-row><table:table-cell table:number-columns-repeated="999999999"><text:p>x</text:p></table:table-cell></table:table-row>',
        '<table:table-row table:number-rows-repeated="999999999"><table:table-cell><text:p>x</text:p></table:table-cell></table:table-row>',
    ):
        for kind in ("spreadsheet", "text"):
            started = time.perf_counter()
            with pytest.raises(FileTooLarge, match="repeat"):
                document("a.ods", make_odf(kind, SHEET.format(row)))
            assert time.perf_counter() - started < 20


def test_odp() -> None:
    body = (
        '<draw:page><draw:frame><draw:text-box><text:list><text:list-item><text:p>point</text:p></text:list-item></text:list>'
        '</draw:text-box></draw:frame><draw:frame presentation:class="title"><draw:text-box><text:p>First</text:p>'
        '</draw:text-box></draw:frame><presentation:notes><draw:frame presentation:class="notes"><draw:text-box>'
        "<text:p>Say it</text:p></draw:text-box></draw:frame></presentation:notes></draw:page><draw:page/>"
        "<draw:page><draw:custom-shape><text:p>untitled</text:p></draw:custom-shape></draw:page>"
    )  # fmt: skip
    doc = document("a.odp", make_odf("presentation", body))
    assert lines_by_page(doc) == [["First", "point", "Notes: Say it"], [""], ["untitled"]]
    assert outline(doc) == [(1, "First"), (1, "Slide 3")]


def test_encrypted_opendocument() -> None:
    secret = {
        "META-INF/manifest.xml": '<m:manifest xmlns:m="m"><m:encryption-data/></m:manifest>',
        "content.xml": "\x7f",
    }
    with pytest.raises(LockedFile, match="password"):
        document("a.odt", make_odf("text", "", more=secret))


# -- RTF ------------------------------------------------------------------------------------------------------------

RTF = rb"""{\rtf1\ansi\ansicpg1252\uc1\deff0{\fonttbl{\f0\froman\fcharset0 Times;}{\f1\fcharset204 Arial Cyr;}
{\f2\fcharset128 MS Mincho;}}{\colortbl;\red0\green0\blue0;}
{\stylesheet{\s0 Normal;}{\s1\outlinelevel0 \'dcberschrift 1;}{\s2 heading 2;}{\*\cs10 Default;}}
{\info{\title The {\b bold} report}{\author Me}}{\header Page header}
\pard\s1 Caf\'e9 \u8364?uro\par
\pard\plain {\f1 \'cf\'f0\'e8\'e2\'e5\'f2} world \u-10179?\u-8694? end\par
\pard\s2 Second\par
\pard Text{\footnote \chftn  A note} and {\v hidden}{\field{\*\fldinst HYPERLINK "x"}{\fldrslt link}}
{\pict\pngblip 89504e470d0a1a0a}\par
{\f2 \'93\'fa\'96\'7b}{\uc2\u26085\'93\'fa x}\par
\trowd\cellx100\cellx200\pard\intbl A\par more\cell B\cell\row
\pard{\shp{\*\shpinst\shpleft1{\sp{\sn x}{\sv y}}{\shptxt \pard In a box\par}}{\shprslt twice}}
{\upr{Ansi}{\*\ud {\u1055?}}} A \{brace\} one\line two\emdash dash {\*\unknown junk}\~x\_y\-z\par
{\object{\*\objdata 0102}{\result seen}}\bin3 }{x after}"""


def test_rtf() -> None:
    doc = document("a.rtf", RTF)
    assert doc.text.rstrip("\n").split("\n") == [
        "Café €uro", "Привет world 😊 end", "Second", "Text[footnote 1] and link", "日本日 x", "A more\tB", "In a box",
        "П A {brace} one", "two—dash \xa0x‑yz", "seen after", "[footnote 1] A note",
    ]  # fmt: skip
    assert outline(doc) == [(1, "Café €uro"), (2, "Second")]
    assert (doc.title, doc.notes) == ("The bold report", ())


def test_rtf_that_is_cut_nested_or_none() -> None:
    cut = document("a.rtf", RTF[:-10])
    assert "cut short" in cut.notes[0]
    assert cut.text.startswith("Café €uro")
    assert document("a.rtf", rb"{\rtf1 " + b"{" * 1_000_000 + b"deep" + b"}" * 1_000_001).text.strip() == "deep"
    for data in (
        b"{\\rtf",
        b"{\\rtf1\\",
        rb"{\rtf1 \u",
        rb"{\rtf1\bin99999999999 x",
        b"{\\rtf1" + b"}" * 9,
        rb"{\rtf1\u99999999 x}",
    ):
        document("a.rtf", data)
    with pytest.raises(DamagedFile, match="RTF"):
        document("a.rtf", b"plain words")


# -- EPUB -----------------------------------------------------------------------------------------------------------


def page(body: str) -> str:
    return f'<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body>{body}</body></html>'


def test_epub() -> None:
    chapters = {
        "b.xhtml": page("<h1>Zwei</h1><p>Text <a id='x'/>zwei</p><footer>signed</footer>"),
        "a b.xhtml": page("<p>Ohne Überschrift</p>"),
        "c.xhtml": page("<p>not in the spine</p>"),
    }
    toc = "<ncx><navMap><navPoint><navLabel><text>Vorwort</text></navLabel><content src='a%20b.xhtml#x'/></navPoint></navMap></ncx>"
    doc = document("a.epub", make_epub(chapters, spine=["a b.xhtml", "b.xhtml"], more={"OEBPS/toc.ncx": toc}))
    assert doc.text == "Ohne Überschrift\nZwei\n\nText zwei\n\nsigned"
    assert outline(doc) == [(1, "Vorwort"), (1, "Zwei")]
    assert doc.text[doc.headings[1].start :].startswith("Zwei")
    assert (doc.title, doc.metadata) == ("The Book", {"author": ["Ann", "Ben"], "language": "de"})


def test_epub_with_a_lost_chapter_and_with_locked_ones() -> None:
    chapters = {"a.xhtml": page("<p>here</p>"), "b.xhtml": "\x00\x01\x02" * 100}
    doc = document("a.epub", make_epub(chapters, spine=["a.xhtml", "b.xhtml"]))
    assert doc.text == "here"
    assert "OEBPS/b.xhtml could not be read" in doc.notes[0]
    with pytest.raises(DamagedFile, match="none of its chapters"):
        document("a.epub", make_epub(chapters, spine=["b.xhtml"]))
    for method, is_locked in (
        ("http://www.w3.org/2001/04/xmlenc#aes256-cbc", True),
        ("http://www.idpf.org/2008/embedding", False),
    ):
        secret = (
            f'<e><EncryptedData><EncryptionMethod Algorithm="{method}"/><CipherData><CipherReference URI="OEBPS/a.xhtml"/>'
            "</CipherData></EncryptedData></e>"
        )
        book = make_epub(chapters, spine=["a.xhtml"], more={"META-INF/encryption.xml": secret})
        if is_locked:
            with pytest.raises(LockedFile):
                document("a.epub", book)
        else:
            assert document("a.epub", book).text == "here"


# -- mail -----------------------------------------------------------------------------------------------------------


def make_mail(subject: str = "Grüße", text: str = "Hello\n", html: str = "") -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = subject
    mail["From"] = "Änn <ann@example.org>"
    mail["To"] = "ben@example.org, Cé <ce@example.org>"
    mail["Date"] = "Fri, 1 Mar 2024 12:30:00 +0100"
    mail["Message-ID"] = "<1@example.org>"
    if text:
        mail.set_content(text)
    if html:
        mail.add_alternative(html, subtype="html") if text else mail.set_content(html, subtype="html")
    return mail


def test_eml_subject_people_date_and_attachments() -> None:
    mail = make_mail(html="<p>Hello in HTML</p>")
    mail.add_attachment(b"a,b\n1,2\n", maintype="text", subtype="csv", filename="ü 1.csv")
    mail.add_attachment(b"twice", maintype="text", subtype="plain", filename="note.txt")
    mail.add_attachment(b"twice", maintype="text", subtype="plain", filename="../x/note.txt")
    mail.add_attachment(
        make_docx("<w:p><w:r><w:t>In Word</w:t></w:r></w:p>"), maintype="application", subtype="x", filename="w.docx"
    )
    mail.add_attachment(b"8BPS", maintype="image", subtype="x", filename="logo.psd")
    first, row, note, again, word, image = items("m.eml", mail.as_bytes())
    assert isinstance(first, Document)
    assert (first.text.rstrip(), first.title, outline(first)) == ("Grüße\nHello", "Grüße", [(1, "Grüße")])
    assert first.metadata == {
        "from": "Änn <ann@example.org>",
        "to": ["ben@example.org", "Cé <ce@example.org>"],
        "date": "2024-03-01T12:30:00+01:00",
        "message_id": "<1@example.org>",
    }
    base = "file:///m.eml!/"
    assert [item.uri for item in (row, note, again, word, image)] == [
        f"{base}%C3%BC%201.csv#1", f"{base}note.txt", f"{base}note-2.txt", f"{base}w.docx", f"{base}logo.psd",
    ]  # fmt: skip
    assert isinstance(word, Document)
    assert word.text.startswith("In Word")
    assert isinstance(image, Rejected)
    assert isinstance(image.error, UnsupportedFormat)
    found = [item for item in (first, row, note, again, word) if isinstance(item, Document)]
    assert {doc.source for doc in found} == {"file:///m.eml"}
    assert len({doc.id for doc in found}) == 5
    # The hash of the file would say that all of it is known, attachments included.
    assert first.hash != Source("", "", mail.as_bytes()).hash


def test_eml_in_html_alone_in_other_code_pages_and_with_raw_bytes() -> None:
    page = make_mail(
        "S", text="", html="<html><body><h1>Head</h1><p>Body &amp; soul</p><script>x</script></body></html>"
    )
    doc = document("m.eml", page.as_bytes())
    assert doc.text == "S\nHead\n\nBody & soul"
    assert outline(doc) == [(1, "S"), (2, "Head")]
    japanese = make_mail("S")
    japanese.set_content("日本語", charset="iso-2022-jp")
    assert document("m.eml", japanese.as_bytes()).text.rstrip() == "S\n日本語"
    raw = "Subject: Café\nFrom: Ünal <u@example.org>\n\nGrüße, aus München".encode("cp1252")
    doc = document("m.eml", raw)
    assert (doc.title, doc.metadata["from"], doc.text.split("\n")[1]) == (
        "Café",
        "Ünal <u@example.org>",
        "Grüße, aus München",
    )


def test_pieces_of_a_body_are_all_kept_in_order() -> None:
    raw = (
        b"From: a@example.org\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/html\n\n<p>page</p>\n"
        b"--x\nContent-Type: text/plain\n\nfooter of the list\n--x\nContent-Type: text/plain; name=a.txt\n\nfile\n--x--\n"
    )
    mail, attached = items("m.eml", raw)
    assert isinstance(mail, Document)
    assert isinstance(attached, Document)
    assert (mail.text.split(), attached.text) == (["page", "footer", "of", "the", "list"], "file")


def test_mails_in_mails_are_read_to_a_depth() -> None:
    mail = make_mail("level 0")
    for level in range(1, 7):
        outer = make_mail(f"level {level}")
        outer.add_attachment(mail)
        mail = outer
    found = items("m.eml", mail.as_bytes())
    assert [item.title for item in found if isinstance(item, Document)] == [f"level {n}" for n in (6, 5, 4, 3, 2)]
    assert found[1].uri == "file:///m.eml!/level%205.eml"
    assert isinstance(found[-1], Rejected)
    assert "4 deep" in str(found[-1].error)


def test_mails_that_are_none_nested_too_deep_or_encrypted() -> None:
    with pytest.raises(DamagedFile, match="header"):
        items("m.eml", b"just words")
    deep = b"From: a@example.org\n" + b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(5000)
    )
    with pytest.raises(DamagedFile, match=r"m\.eml"):
        items("m.eml", deep)
    sealed = b"From: a@example.org\nContent-Type: application/pkcs7-mime; smime-type=enveloped-data\n\nAAAA"
    mail, rejected = items("m.eml", sealed)
    assert isinstance(rejected, Rejected)
    assert "encrypted" in str(rejected.error)
    assert isinstance(mail, Document)


def test_very_many_attachments_and_very_long_headers_take_linear_time() -> None:
    parts = b"--x\nContent-Type: text/plain; name=a\n\nx\n" * 3000
    many = b"From: a@example.org\nContent-Type: multipart/mixed; boundary=x\n\n" + parts + b"--x--"
    long = b"Subject: " + b"=?utf-8?q?a?= " * 100_000 + b"\nFrom: " + b"a <a@example.org>, " * 50_000 + b"\n\nx"
    started = time.perf_counter()
    assert items("m.eml", many)[-1].uri.endswith("!/a-3000")
    assert len(items("m.eml", long)) == 1
    assert time.perf_counter() - started < 20


def test_mbox_numbers_its_mails() -> None:
    one = b"From ann@example.org Fri Mar  1 12:30:00 2024\n" + make_mail("One", "Text\n\n>From here on\n").as_bytes()
    two = b"\nFrom - Fri Mar  1 12:31:00 2024\n" + make_mail("Two").as_bytes()
    broken = b"\nFrom - Fri Mar  1 12:32:00 2024\nno header\n"
    for name in ("m.mbox", "no_suffix"):
        first, second, third = items(name, one + two + broken)
        assert isinstance(first, Document)
        assert isinstance(second, Document)
        assert first.text == "One\nText\n\nFrom here on\n\n"
        assert (first.uri, second.uri) == (f"file:///{name}#1", f"file:///{name}#2")
        assert (second.title, first.id != second.id) == ("Two", True)
        assert isinstance(third, Rejected)
        assert third.uri == f"file:///{name}#3"
    with pytest.raises(DamagedFile, match="mailbox"):
        items("m.mbox", b"nothing of the kind")


def test_msg() -> None:
    inner = msg_streams("Inner", "Inner text", folder="__attach_version1.0_#00000002/__substg1.0_3701000D/")
    outer = msg_streams("Ünder", "Body\r\nof it", attachments=[("a.txt", b"attached"), ("", b"\xff\xd8\xff\xe0")])
    outer["__attach_version1.0_#00000002/__properties_version1.0"] = bytes(8)
    for name in ("m.msg", "no_suffix"):
        mail, text, image, embedded = items(name, make_ole({**outer, **inner}))
        assert isinstance(mail, Document)
        assert (mail.text, mail.title) == ("Ünder\nBody\nof it", "Ünder")
        assert mail.metadata["from"] == "Ann <ann@example.org>"
        assert mail.metadata["cc"] == ["Ben <ben@example.org>"]
        assert mail.metadata["date"].startswith("2024-01-17T")
        assert isinstance(text, Document)
        assert isinstance(embedded, Document)
        assert (text.text, embedded.text) == ("attached", "Inner\nInner text")
        assert (text.uri, embedded.uri) == (f"file:///{name}!/a.txt", f"file:///{name}!/Inner.msg")
        assert isinstance(image, Rejected)


def test_msg_in_html_and_in_packed_rtf() -> None:
    page = msg_streams("S", "", p10130102="<p>caf\u00e9</p>".encode("cp1252"))
    assert document("m.msg", make_ole(page)).text == "S\ncafé"
    packed = bytes.fromhex(
        "2d0000002b0000004c5a4675f1c5c7a703000a007263706731323542320af32068656c090020627705b06c647d0a800fa0"
    )  # the example of [MS-OXRTFCP]
    assert document("m.msg", make_ole(msg_streams("S", "", p10090102=packed))).text.strip() == "S\nhello world"
    with pytest.raises(DamagedFile, match="Outlook"):
        items("m.msg", make_ole({"__properties_version1.0": b"", "__substg1.0_10090102": b"x"}))


# -- old formats ----------------------------------------------------------------------------------------------------

DOC = make_ole({"WordDocument": bytes(64)})


@pytest.mark.parametrize("place", ["tables", "streams"])
def test_containers_that_claim_more_than_there_is_are_refused(place: str) -> None:
    """Found by fuzzing: with chains that come back to themselves, olefile reads for as long as is claimed."""
    data = bytearray(make_ole(msg_streams("S", "body")))
    entry = data.index("__substg1.0_1000001F".encode("utf-16-le"))
    struct.pack_into("<I", data, 64 if place == "tables" else entry + 120, 0x0FFFFFFF)
    with pytest.raises(DamagedFile, match="to be larger than the file"):
        items("m.msg", bytes(data))


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A soffice on the PATH that runs ``body`` with its arguments in ``argv``."""
    program = folder / "soffice"
    program.write_text(f"#!{sys.executable}\nimport os, pathlib, subprocess, sys, time\nargv = sys.argv\n{body}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_old_formats_name_the_converter_that_they_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, data in (("a.doc", DOC), ("a.ppt", make_ole({"PowerPoint Document": b"x"})), ("a", DOC)):
        with pytest.raises(UnsupportedFormat, match=r"LibreOffice.*soffice"):
            document(name, data)
    with pytest.raises(UnsupportedFormat, match="xlsb"):
        document("a.xlsx", make_zip({"[Content_Types].xml": "", "xl/workbook.bin": b"\0"}))


def test_old_formats_are_read_by_the_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "result").write_bytes(make_docx("<w:p><w:r><w:t>Converted</w:t></w:r></w:p>"))
    body = (
        "profile = argv[1].removeprefix('-env:UserInstallation=file://')\n"
        "out = pathlib.Path(argv[argv.index('--outdir') + 1])\n"
        "assert profile.startswith(str(out.parent)) and pathlib.Path(argv[-1]).read_bytes()[:2] == b'\\xd0\\xcf'\n"
        "[socket] = [each.partition('=')[2] for each in argv if each.startswith('-env:OSL_SOCKET_PATH=')]\n"
        "assert out.is_relative_to(socket)\n"
        "out.mkdir()\n"
        f"(out / 'in.docx').write_bytes(pathlib.Path({str(tmp_path / 'result')!r}).read_bytes())\n"
        f"pathlib.Path({str(tmp_path / 'where')!r}).write_text(str(out.parent))\n"
    )
    install(tmp_path, monkeypatch, body)
    doc = document("a.doc", DOC)
    assert (doc.text.split("\n")[0], doc.title, doc.uri) == ("Converted", "a.doc", "file:///a.doc")
    assert doc.hash == Source("", "", DOC).hash
    assert doc.notes == ("converted by LibreOffice",)
    assert not Path((tmp_path / "where").read_text()).exists()


def test_a_converter_that_fails_or_hangs_is_ended_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "sys.exit(1)")
    with pytest.raises(UnsupportedFormat, match=r"LibreOffice ended with code 1.*--convert-to docx"):
        document("a.doc", DOC)
    install(tmp_path, monkeypatch, "sys.exit(0)")
    with pytest.raises(DamagedFile, match="LibreOffice cannot read it"):
        document("a.doc", DOC)
    child = f"child = subprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(60)'])\n"
    install(
        tmp_path,
        monkeypatch,
        f"{child}pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\ntime.sleep(60)",
    )
    monkeypatch.setattr(legacy_module, "_SECONDS", 2.0)
    with pytest.raises(DamagedFile, match="within 2 s"):
        document("a.doc", DOC)
    stat = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    for _ in range(50):
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("what the converter started is still running")


def test_encrypted_old_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    secret = {
        "a.doc": {"WordDocument": bytes(10) + b"\x00\x01" + bytes(52)},
        "a.ppt": {"PowerPoint Document": b"x", "EncryptedSummary": b"x"},
    }
    for name, streams in secret.items():
        with pytest.raises(LockedFile):
            document(name, make_ole(streams))


# -- suffixes that lie, and hostile packages ------------------------------------------------------------------------


def test_the_content_decides_where_the_suffix_lies() -> None:
    pptx, xlsx = make_pptx([shape("slide")]), make_xlsx({"S": xlsx_row(1, "cell")})
    odt, epub = make_odf("text", "<text:p>text</text:p>"), make_epub({"a": page("<p>book</p>")}, spine=["a"])
    docx = make_docx("<w:p><w:r><w:t>word</w:t></w:r></w:p>")
    rtf, html = rb"{\rtf1 rich\par}", b"<html><body>page</body></html>"
    mail, msg = make_mail("mail").as_bytes(), make_ole(msg_streams("msg", "x"))
    expected = {
        "slide": pptx, "S\ncell": xlsx, "text": odt, "book": epub, "word": docx, "rich": rtf, "page": html,
        "Zahlen": make_xls(), "mail": mail, "msg": msg,
    }  # fmt: skip
    for text, data in expected.items():
        for name in ("a.doc", "a.xls", "a.docx", "a.pptx", "a.odt", "a.rtf", "a.epub", "a.msg", "a", "a.unknown"):
            assert items(name, data)[0].text.startswith(text), (name, text)  # type: ignore[union-attr]


def test_text_that_is_called_an_office_file_is_text() -> None:
    for name in ("a.doc", "a.xls", "a.ppt"):
        assert document(name, b"a\tb\n1\t2\n").text == "a\tb\n1\t2\n"


def test_notes_that_look_like_mail_stay_text() -> None:
    note = b"From: me\nDate: today\nSubject: a note\n\nwords\n"
    assert document("note", note).text == note.decode()
    assert document("a.txt", make_mail().as_bytes()).text.startswith("Subject:")


def test_encrypted_office_files_are_named_so() -> None:
    for name in ("a.docx", "a.xlsx", "a.pptx"):
        with pytest.raises(LockedFile, match="password"):
            document(name, make_ole({"EncryptedPackage": b"x", "EncryptionInfo": b"x"}))


PACKAGES = {
    "a.pptx": make_pptx([shape("some words")]),
    "a.xlsx": make_xlsx({"S": xlsx_row(1, "a", "b")}),
    "a.odt": make_odf("text", "<text:p>words</text:p>"),
    "a.ods": make_odf("spreadsheet", SHEET.format("")),
    "a.epub": make_epub({"a.xhtml": page("<p>words</p>")}, spine=["a.xhtml"]),
}
MAIN = {
    "a.pptx": "ppt/slides/slide1.xml",
    "a.xlsx": "xl/worksheets/sheet1.xml",
    "a.odt": "content.xml",
    "a.ods": "content.xml",
    "a.epub": "OEBPS/b.opf",
}


def replaced(name: str, content: bytes) -> bytes:
    """The package ``name`` with another main part."""
    with zipfile.ZipFile(io.BytesIO(PACKAGES[name])) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    return make_zip({**parts, MAIN[name]: content})


@pytest.mark.parametrize("name", PACKAGES)
def test_truncated_broken_and_hostile_packages(name: str) -> None:
    data = PACKAGES[name]
    for cut in (
        data[: len(data) // 2],
        data[:100],
        b"PK\x03\x04",
        b"junk",
        replaced(name, b"<a><b></a>"),
        make_zip({"x": ""}),
    ):
        with pytest.raises((DamagedFile, UnsupportedFormat), match=name):
            document(name, cut)
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "lol">{entities}]><x>&e9;</x>'
    outside = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>'
    for text in (bomb, outside):
        for encoding in ("utf-8", "utf-16"):
            with pytest.raises(DamagedFile, match="entities"):
                document(name, replaced(name, text.encode(encoding)))
    with suppress(DamagedFile):  # a sheet without rows is none that is damaged
        document(name, replaced(name, b"<a>" * 50_000 + b"</a>" * 50_000))


@pytest.mark.parametrize("name", PACKAGES)
def test_bombs_are_refused_by_what_they_declare_and_by_what_they_are(name: str) -> None:
    data = replaced(name, b"<a>" + b" " * 120_000_000 + b"</a>")
    assert len(data) < 1_000_000
    with pytest.raises(FileTooLarge, match="unpacks"):
        document(name, data)
    # A lie about the size: the headers say 100 bytes. What is inflated must stay near that.
    lie = struct.pack("<I", 120_000_007)
    assert data.count(lie) == 2
    tracemalloc.start()
    with pytest.raises(DamagedFile):
        document(name, data.replace(lie, struct.pack("<I", 100)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_many_parts_that_are_each_small_enough_are_counted_together() -> None:
    slide = shape("x") + f"<a:x>{' ' * 30_000_000}</a:x>"
    with pytest.raises(FileTooLarge, match="200 times"):
        document("a.pptx", make_pptx([slide] * 5))


def test_other_compressions_are_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("word/document.xml", "<x/>" + " " * 1000)
    with pytest.raises(DamagedFile, match="compressed"):
        document("a.docx", buffer.getvalue())


SEEDS = {
    **PACKAGES, "a.rtf": RTF, "a.eml": make_mail(html="<p>x").as_bytes(), "a.msg": make_ole(msg_streams("S", "body")),
    "a.xls": make_xls(), "a.mbox": b"From - Fri Mar  1 12:31:00 2024\n" + make_mail().as_bytes(),
}  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.binary(max_size=60), st.sampled_from(sorted(SEEDS)), st.floats(0, 1), st.booleans())
def test_any_damage_gives_documents_or_a_read_error(junk: bytes, name: str, where: float, cuts: bool) -> None:
    seed = SEEDS[name]
    cut = int(where * len(seed))
    data = seed[:cut] + junk + (b"" if cuts else seed[cut + len(junk) :])
    reason, result = "", []
    try:
        result = items(name, data)
    except ReadError as error:
        reason = str(error)
    assert "please report" not in reason
    for doc in result:
        if isinstance(doc, Document):
            assert all(0 <= heading.start < len(doc.text) for heading in doc.headings)
            assert all(0 <= start <= len(doc.text) for start in doc.page_starts)


def test_importing_the_readers_imports_no_parser() -> None:
    code = "import sys, embedsvc.readers; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"olefile", "zipfile", "xml.etree.ElementTree", "email.parser", "embedsvc.readers.packages"}
