"""Builders of small office files, books and mails, from the formats' own bytes."""
# ruff: noqa: E501 (markup reads worse in pieces)

from __future__ import annotations

import io
import itertools
import struct
import zipfile
from collections.abc import Mapping, Sequence
from html import escape

_A = "http://schemas.openxmlformats.org/drawingml/2006/main"
_P = "http://schemas.openxmlformats.org/presentationml/2006/main"
_S = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_RELS = "http://schemas.openxmlformats.org/package/2006/relationships"
ODF = " ".join(
    f'xmlns:{prefix}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for prefix, name in {
        "office": "office", "text": "text", "table": "table", "draw": "drawing", "presentation": "presentation",
        "meta": "meta", "style": "style",
    }.items()
)  # fmt: skip


def make_zip(parts: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def rels(*relations: tuple[str, str, str]) -> str:
    """The relations (id, kind, target) of a part."""
    entries = (f'<Relationship Id="{id}" Type="{_R}/{kind}" Target="{target}"/>' for id, kind, target in relations)
    return f'<Relationships xmlns="{_RELS}">{"".join(entries)}</Relationships>'


def shape(*paragraphs: str, kind: str = "") -> str:
    placeholder = f'<p:nvPr><p:ph type="{kind}"/></p:nvPr>' if kind else "<p:nvPr/>"
    lines = "".join(f"<a:p><a:r><a:t>{text}</a:t></a:r></a:p>" for text in paragraphs)
    return f"<p:sp><p:nvSpPr>{placeholder}</p:nvSpPr><p:txBody>{lines}</p:txBody></p:sp>"


def make_pptx(
    slides: Sequence[str],
    *,
    notes: Mapping[int, str] | None = None,
    more: Mapping[str, str] | None = None,
    relations: tuple[tuple[str, str, str], ...] = (),
) -> bytes:
    """A PPTX of the shapes of each slide; ``notes`` by slide index; the first slide has ``relations``."""
    space = f'xmlns:a="{_A}" xmlns:p="{_P}" xmlns:r="{_R}"'
    ids = "".join(f'<p:sldId id="{256 + n}" r:id="r{n}"/>' for n in range(len(slides)))
    # The last slide has the lowest number: the order of the show is that of the list.
    names = [f"slides/slide{len(slides) - n}.xml" for n in range(len(slides))]
    parts = {
        "_rels/.rels": rels(("r1", "officeDocument", "ppt/presentation.xml")),
        "ppt/presentation.xml": f"<p:presentation {space}><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": rels(*((f"r{n}", "slide", name) for n, name in enumerate(names))),
    }
    for n, (name, shapes) in enumerate(zip(names, slides, strict=True)):
        parts[f"ppt/{name}"] = f"<p:sld {space}><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:sld>"
        mine = relations if n == 0 else ()
        if notes and n in notes:
            parts[f"ppt/notesSlides/n{n}.xml"] = (
                f"<p:notes {space}><p:cSld><p:spTree>{shape(notes[n], kind='body')}{shape('7', kind='sldNum')}"
                "</p:spTree></p:cSld></p:notes>"
            )
            mine = (*mine, ("n", "notesSlide", f"../notesSlides/n{n}.xml"))
        if mine:
            parts[f"ppt/slides/_rels/{name.partition('/')[2]}.rels"] = rels(*mine)
    return make_zip({**parts, **(more or {})})


def make_xlsx(
    sheets: Mapping[str, str],
    *,
    strings: Sequence[str] = (),
    formats: Sequence[tuple[int, str]] = ((0, ""),),
    more: Mapping[str, str] | None = None,
    book: str = "",
) -> bytes:
    """An XLSX of the rows (XML) of each sheet. ``formats``: id and code of the number format of each cell style."""
    entries = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, name in enumerate(sheets, 1))
    codes = "".join(f'<numFmt numFmtId="{id}" formatCode="{escape(code)}"/>' for id, code in formats if code)
    styles = "".join(f'<xf numFmtId="{id}"/>' for id, _ in formats)
    parts = {
        "_rels/.rels": rels(("r1", "officeDocument", "xl/workbook.xml")),
        "xl/workbook.xml": f'<workbook xmlns="{_S}" xmlns:r="{_R}">{book}<sheets>{entries}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": rels(
            *((f"r{n}", "worksheet", f"worksheets/sheet{n}.xml") for n in range(1, len(sheets) + 1)),
            ("s", "sharedStrings", "sharedStrings.xml"),
            ("t", "styles", "/xl/styles.xml"),
        ),
        "xl/sharedStrings.xml": f'<sst xmlns="{_S}">{"".join(f"<si>{text}</si>" for text in strings)}</sst>',
        "xl/styles.xml": f'<styleSheet xmlns="{_S}"><numFmts>{codes}</numFmts><cellXfs>{styles}</cellXfs></styleSheet>',
    }
    for n, rows in enumerate(sheets.values(), 1):
        parts[f"xl/worksheets/sheet{n}.xml"] = f'<worksheet xmlns="{_S}"><sheetData>{rows}</sheetData></worksheet>'
    return make_zip({**parts, **(more or {})})


def xlsx_row(number: int, *cells: str | float) -> str:
    inner = "".join(
        f'<c r="{chr(65 + n)}{number}" t="inlineStr"><is><t>{cell}</t></is></c>' if isinstance(cell, str)
        else f'<c r="{chr(65 + n)}{number}"><v>{cell}</v></c>'
        for n, cell in enumerate(cells) if cell != ""
    )  # fmt: skip
    return f'<row r="{number}">{inner}</row>'


def make_odf(kind: str, body: str, *, styles: str = "", meta: str = "", more: Mapping[str, str] | None = None) -> bytes:
    """``kind``: text, spreadsheet or presentation."""
    content = (
        f"<office:document-content {ODF}><office:automatic-styles>{styles}</office:automatic-styles>"
        f"<office:body><office:{kind}>{body}</office:{kind}></office:body></office:document-content>"
    )
    parts = {
        "mimetype": f"application/vnd.oasis.opendocument.{kind}",
        "content.xml": content,
        "meta.xml": f'<office:document-meta {ODF} xmlns:dc="http://purl.org/dc/elements/1.1/"><office:meta>{meta}'
        "</office:meta></office:document-meta>",
        "META-INF/manifest.xml": "<manifest/>",
    }
    return make_zip({**parts, **(more or {})})


def make_epub(chapters: Mapping[str, str], *, spine: Sequence[str], more: Mapping[str, str] | None = None) -> bytes:
    """An EPUB of XHTML ``chapters`` by file name, read in the order of ``spine``."""
    items = "".join(f'<item id="{name}" href="{name}" media-type="application/xhtml+xml"/>' for name in chapters)
    order = "".join(f'<itemref idref="{name}"/>' for name in spine)
    return make_zip(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container><rootfiles><rootfile full-path="OEBPS/b.opf"/></rootfiles></container>',
            "OEBPS/b.opf": '<package xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>The Book</dc:title>'
            "<dc:creator>Ann</dc:creator><dc:creator>Ben</dc:creator><dc:language>de</dc:language></metadata>"
            f'<manifest>{items}<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/></manifest>'
            f'<spine toc="ncx">{order}</spine></package>',
            **{f"OEBPS/{name}": text for name, text in chapters.items()},
            **(more or {}),
        }
    )


# -- OLE ------------------------------------------------------------------------------------------------------------


def make_ole(streams: Mapping[str, bytes]) -> bytes:
    """An OLE container with ``streams`` by path ("storage/stream")."""
    entries: list[tuple[str, int, list[int], bytes]] = [("Root Entry", 5, [], b"")]
    places = {"": 0}
    for path, data in streams.items():
        folder = ""
        for step in path.split("/")[:-1]:
            inner = f"{folder}/{step}".lstrip("/")
            if inner not in places:
                places[inner] = len(entries)
                entries[places[folder]][2].append(len(entries))
                entries.append((step, 1, [], b""))
            folder = inner
        entries[places[folder]][2].append(len(entries))
        entries.append((path.rpartition("/")[2], 2, [], data))
    chains: list[list[int]] = []
    sectors: list[bytes] = []

    def put(data: bytes) -> int:
        chain = list(range(len(sectors), len(sectors) + -(-len(data) // 512)))
        sectors.extend(data[n : n + 512].ljust(512, b"\0") for n in range(0, len(data), 512))
        chains.append(chain)
        return chain[0] if chain else 0xFFFFFFFE

    # What is smaller than 4,096 bytes lies in a stream of small sectors, which is the root's.
    small, small_fat, starts = b"", b"", []
    for _, _, _, data in entries:
        if 0 < len(data) < 4096:
            first, count = len(small) // 64, -(-len(data) // 64)
            starts.append(first)
            small += data.ljust(count * 64, b"\0")
            small_fat += struct.pack(f"<{count}I", *range(first + 1, first + count), 0xFFFFFFFE)
        else:
            starts.append(put(data))
    entries[0] = ("Root Entry", 5, entries[0][2], small)
    starts[0] = put(small)
    small_sectors = -(-len(small_fat) // 512)
    small_start = put(small_fat.ljust(small_sectors * 512, b"\xff"))
    siblings = dict.fromkeys(range(len(entries)), 0xFFFFFFFF)
    for _, _, children, _ in entries:
        siblings.update(itertools.pairwise(children))
    directory = b""
    for n, (name, kind, children, data) in enumerate(entries):
        raw = name.encode("utf-16-le") + b"\0\0"
        directory += raw.ljust(64, b"\0") + struct.pack("<HBB", len(raw), kind, 1)
        directory += struct.pack("<III", 0xFFFFFFFF, siblings[n], children[0] if children else 0xFFFFFFFF)
        directory += bytes(36) + struct.pack("<IQ", starts[n], len(data))
    directory_start = put(directory.ljust(-(-len(directory) // 512) * 512, b"\0"))
    fat_sectors = 1
    while (len(sectors) + fat_sectors) * 4 > fat_sectors * 512:
        fat_sectors += 1
    assert fat_sectors <= 109
    fat = [0xFFFFFFFF] * (fat_sectors * 128)
    for chain in chains:
        for here, there in itertools.pairwise([*chain, 0xFFFFFFFE]):
            fat[here] = there
    fat_places = list(range(len(sectors), len(sectors) + fat_sectors))
    for place in fat_places:
        fat[place] = 0xFFFFFFFD
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6) + bytes(6)
    header += struct.pack(
        "<IIIIIIIII", 0, fat_sectors, directory_start, 0, 4096, small_start, small_sectors, 0xFFFFFFFE, 0
    )
    header += struct.pack("<109I", *fat_places, *[0xFFFFFFFF] * (109 - fat_sectors))
    return header + b"".join(sectors) + struct.pack(f"<{len(fat)}I", *fat)


def msg_streams(
    subject: str, body: str, *, attachments: Sequence[tuple[str, bytes]] = (), folder: str = "", **more: bytes
) -> dict[str, bytes]:
    """The streams of an Outlook message, to be made a file by :func:`make_ole`; ``more``: properties by tag."""
    ticks = 133_500_000_000_000_000  # 2024-01-17T21:20:00+00:00
    streams = {
        "__properties_version1.0": bytes(24 if folder else 32) + struct.pack("<HHIQ", 64, 0x39, 6, ticks),
        "__substg1.0_0037001F": subject.encode("utf-16-le"),
        "__substg1.0_0C1A001F": "Ann".encode("utf-16-le"),
        "__substg1.0_5D01001F": "ann@example.org".encode("utf-16-le"),
        "__recip_version1.0_#00000000/__properties_version1.0": bytes(8) + struct.pack("<HHIQ", 3, 0x0C15, 6, 2),
        "__recip_version1.0_#00000000/__substg1.0_3001001F": "Ben".encode("utf-16-le"),
        "__recip_version1.0_#00000000/__substg1.0_39FE001F": "ben@example.org".encode("utf-16-le"),
    }
    if body:
        streams["__substg1.0_1000001F"] = body.encode("utf-16-le")
    streams |= {f"__substg1.0_{tag.removeprefix('p')}": data for tag, data in more.items()}
    for n, (name, data) in enumerate(attachments):
        place = f"__attach_version1.0_#{n:08}"
        streams[f"{place}/__properties_version1.0"] = bytes(8)
        streams[f"{place}/__substg1.0_3707001F"] = name.encode("utf-16-le")
        streams[f"{place}/__substg1.0_37010102"] = data
    return {f"{folder}{path}": data for path, data in streams.items()}


def record(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("<HH", kind, len(body)) + body


def summary_stream(*properties: tuple[int, int, bytes]) -> dict[str, bytes]:
    """The stream of properties: id, kind and value of each."""
    table, values = b"", b""
    for id, kind, value in properties:
        table += struct.pack("<II", id, 8 + 8 * len(properties) + len(values))
        values += struct.pack("<I", kind) + value.ljust(-(-len(value) // 4) * 4, b"\0")
    section = struct.pack("<II", 8 + len(table) + len(values), len(properties)) + table + values
    return {"\x05SummaryInformation": struct.pack("<HHI16xI16xI", 0xFFFE, 0, 0, 1, 48) + section}


def make_xls(
    *, extra: bytes = b"", cells: bytes = b"", globals: bytes = b"", more: Mapping[str, bytes] | None = None
) -> bytes:
    """An XLS of one sheet "Zahlen" with the strings "Name", "Tag" and "Ärger 日本", plus ``cells``."""

    def label(row: int, column: int, index: int) -> bytes:
        return record(0xFD, struct.pack("<HHHI", row, column, 0, index))

    wide = "Ärger 日本"
    # The second half of the third string runs on in a record of its own, in the other width.
    first = struct.pack("<II", 3, 3) + struct.pack("<HB", 4, 0) + b"Name" + struct.pack("<HB", 3, 0) + b"Tag"
    first += struct.pack("<HB", len(wide), 0) + "Ärger ".encode("latin-1")
    rest = b"\x01" + "日本".encode("utf-16-le")
    styles = b"".join(record(0xE0, struct.pack("<HH", 0, id) + bytes(16)) for id in (0, 14, 10))
    before = record(0x809, struct.pack("<HH", 0x600, 5) + bytes(12)) + globals + styles
    after = record(0xFC, first) + record(0x3C, rest) + record(0x0A)
    position = len(before) + len(after) + 4 + 8 + 6
    bound = record(0x85, struct.pack("<IBBBB", position, 0, 0, 6, 0) + b"Zahlen")
    sheet = record(0x809, struct.pack("<HH", 0x600, 0x10) + bytes(12))
    sheet += label(0, 0, 0) + label(0, 1, 1) + label(1, 0, 2)
    sheet += record(0x203, struct.pack("<HHHd", 1, 1, 1, 45352.0))
    sheet += cells + record(0x0A)
    return make_ole({"Workbook": before + bound + after + sheet + extra, **(more or {})})
