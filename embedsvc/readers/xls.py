"""XLS of Excel 5 to 2003: the records of its one stream, shown as the sheets of an XLSX are.

Read here because what reads it otherwise lays out every sheet in full, a gigabyte for two cells in opposite corners,
or asks to be advertised (docs/formats.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from embedsvc.errors import UnsupportedFormat
from embedsvc.readers.drafts import Draft
from embedsvc.readers.items import FieldChoice
from embedsvc.readers.numbers import kind_of, shown
from embedsvc.readers.ole import opened, stream, summary
from embedsvc.readers.packages import locked
from embedsvc.readers.tables import Cell, lines
from embedsvc.records import Document, Source

_BOF, _EOF, _CONTINUE = 0x809, 0x0A, 0x3C
_FILEPASS, _CODEPAGE, _DATEMODE, _BOUNDSHEET, _SST, _FORMAT, _XF = 0x2F, 0x42, 0x22, 0x85, 0xFC, 0x41E, 0xE0
_NUMBER, _RK, _MULRK, _LABELSST, _LABEL, _RSTRING, _BOOLERR, _STRING, _TXO = (
    0x203, 0x27E, 0xBD, 0xFD, 0x204, 0xD6, 0x205, 0x207, 0x1B6,
)  # fmt: skip
_FORMULAS = (0x06, 0x206, 0x406)
_ERRORS = {0: "#NULL!", 7: "#DIV/0!", 15: "#VALUE!", 23: "#REF!", 29: "#NAME?", 36: "#NUM!", 42: "#N/A"}
_PAGES = {1200: "utf-16-le", 10000: "mac-roman", 32768: "mac-roman", 32769: "cp1252", 65001: "utf-8"}


@dataclass(slots=True)
class _Book:
    is_8: bool = True
    encoding: str = "cp1252"
    from_1904: bool = False
    sheets: dict[int, str] = field(default_factory=dict)
    """Their names, by the position where they begin."""
    strings: list[str] = field(default_factory=list)
    codes: dict[int, str] = field(default_factory=dict)
    formats: list[int] = field(default_factory=list)
    """The number format of each cell style."""


def read_xls(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document, each sheet a page under its name; text boxes and comments after its rows. Its title: that of its
    properties, else the file name.

    Raises:
        LockedFile: encrypted with a password.
        UnsupportedFormat: of a time before Excel 5.
        DamagedFile: not an XLS, or cut short.
    """
    with opened(source, "XLS") as container:
        data = stream(container, "Workbook")
        data = stream(container, "Book") if data is None else data
        if data is None:
            raise ValueError("it has no workbook")
        code_page, title = summary(container)
        book = _book(source, data)
        draft = Draft(source)
        for position, name in book.sheets.items():
            draft.page()
            draft.add(name, level=1)
            for line in _sheet(book, data, position, draft):
                draft.add(line)
        document = draft.document(title=title.decode(_encoding(code_page or 1252), "replace"), from_headings=False)
    yield document


def _encoding(code_page: int) -> str:
    return _PAGES.get(code_page, f"cp{code_page}")


def _records(data: bytes, position: int) -> Iterator[tuple[int, bytes]]:
    """The records from ``position`` on: their kinds and contents."""
    while position + 4 <= len(data):
        kind, size = struct.unpack_from("<HH", data, position)
        if position + 4 + size > len(data):
            raise ValueError("it ends in the middle of a record")
        yield kind, data[position + 4 : position + 4 + size]
        position += 4 + size


def _book(source: Source, data: bytes) -> _Book:
    book = _Book()
    shared: list[bytes] = []
    previous = 0
    for kind, body in _records(data, 0):
        if kind == _BOF:
            version = struct.unpack_from("<H", body)[0]
            if version not in (0x500, 0x600):
                raise UnsupportedFormat(
                    f"{source.uri}: it is of a version of Excel before 5. Save it as .xlsx, then index that."
                )
            book.is_8 = version == 0x600
        elif kind == _FILEPASS:
            raise locked(source)
        elif kind == _CODEPAGE:
            book.encoding = _encoding(struct.unpack_from("<H", body)[0])
        elif kind == _DATEMODE:
            book.from_1904 = struct.unpack_from("<H", body)[0] == 1
        elif kind == _BOUNDSHEET:
            name = _text(book, body, 6, short=True)
            if body[5] in (0, 2):  # a sheet or a chart; others are macros
                book.sheets.setdefault(struct.unpack_from("<I", body)[0], name)
        elif kind == _FORMAT:
            book.codes[struct.unpack_from("<H", body)[0]] = _text(book, body, 2, short=not book.is_8)
        elif kind == _XF:
            book.formats.append(struct.unpack_from("<H", body, 2)[0])
        elif kind == _SST or (kind == _CONTINUE and previous == _SST):
            shared.append(body)
            kind = _SST
        elif kind == _EOF:
            break
        previous = kind
    else:
        raise ValueError("it ends before its sheets")
    book.strings = list(_shared_strings(shared))
    return book


def _text(book: _Book, body: bytes, position: int, *, short: bool = False) -> str:
    """A string with its length before it, in one byte or two."""
    length = body[position] if short else struct.unpack_from("<H", body, position)[0]
    position += 1 if short else 2
    if not book.is_8:
        return body[position : position + length].decode(book.encoding, "replace")
    is_wide = body[position] & 1
    characters = body[position + 1 : position + 1 + length * (1 + is_wide)]
    return characters.decode("utf-16-le" if is_wide else "latin-1", "replace")


def _shared_strings(parts: list[bytes]) -> Iterator[str]:
    """The strings of all cells. A record has room for 8 kB, so strings run on from one record into the next."""
    if not parts:
        return
    number, position, body = 0, 8, parts[0]
    for _ in range(struct.unpack_from("<I", body, 4)[0]):
        if position >= len(body) and number + 1 < len(parts):
            number, position, body = number + 1, 0, parts[number + 1]
        if position + 3 > len(body):
            return
        left, flags = struct.unpack_from("<HB", body, position)
        position += 3
        runs = extra = 0
        if flags & 8:
            runs = struct.unpack_from("<H", body, position)[0]
            position += 2
        if flags & 4:
            extra = struct.unpack_from("<I", body, position)[0]
            position += 4
        pieces = []
        while True:
            width = 1 + (flags & 1)
            taken = min(left, (len(body) - position) // width)
            piece = body[position : position + taken * width]
            pieces.append(piece.decode("utf-16-le" if width == 2 else "latin-1", "replace"))
            position, left = position + taken * width, left - taken
            if not left or number + 1 >= len(parts):
                break
            # What runs on says anew whether its characters have one byte or two.
            number, body = number + 1, parts[number + 1]
            flags, position = (body[0] if body else 0), 1
        yield "".join(pieces)
        position += 4 * runs + extra
        while position > len(body) and number + 1 < len(parts):
            number, position, body = number + 1, position - len(body), parts[number + 1]


def _sheet(book: _Book, data: bytes, position: int, draft: Draft) -> Iterator[str]:
    rows: dict[int, dict[int, Cell]] = {}
    beside: list[str] = []
    depth = boxed = 0
    waiting: tuple[int, int] | None = None  # of a formula, whose text follows

    def put(row: int, column: int, cell: Cell) -> None:
        if cell.text.strip():
            draft.expect(len(cell.text))
            rows.setdefault(row, {})[column] = cell

    for kind, body in _records(data, position):
        if kind == _BOF:
            depth += 1
        elif kind == _EOF:
            depth -= 1
            if depth <= 0:
                break
        elif kind == _TXO and len(body) >= 12:
            boxed = struct.unpack_from("<H", body, 10)[0]
        elif kind == _CONTINUE and boxed:
            is_wide = body[0] & 1
            text = body[1 : 1 + boxed * (1 + is_wide)].decode("utf-16-le" if is_wide else "latin-1", "replace")
            beside.append(text.replace("\r", "\n").strip())
            boxed = 0
        elif depth > 1:
            continue  # a chart in the sheet
        elif kind == _MULRK:
            row, column = struct.unpack_from("<HH", body)
            for offset in range(4, len(body) - 2, 6):
                style, packed = struct.unpack_from("<HI", body, offset)
                put(row, column + (offset - 4) // 6, _number(book, _unpacked(packed), style))
        elif kind == _STRING and waiting:
            put(*waiting, Cell(_text(book, body, 0)))
            waiting = None
        elif kind in _FORMULAS or kind in (_NUMBER, _RK, _LABELSST, _LABEL, _RSTRING, _BOOLERR):
            row, column, style = struct.unpack_from("<HHH", body)
            if kind in _FORMULAS and body[12:14] == b"\xff\xff":
                waiting = (row, column) if body[6] == 0 else None
                if body[6] in (1, 2):
                    put(row, column, _truth(body[8], is_error=body[6] == 2))
            else:
                put(row, column, _cell(book, kind, body, style))
    yield from lines((row, rows[row]) for row in sorted(rows))
    yield from filter(None, beside)


def _cell(book: _Book, kind: int, body: bytes, style: int) -> Cell:
    if kind == _RK:
        return _number(book, _unpacked(struct.unpack_from("<I", body, 6)[0]), style)
    if kind == _LABELSST:
        return Cell(book.strings[struct.unpack_from("<I", body, 6)[0]])
    if kind in (_LABEL, _RSTRING):
        return Cell(_text(book, body, 6))
    if kind == _BOOLERR:
        return _truth(body[6], is_error=bool(body[7]))
    return _number(book, struct.unpack_from("<d", body, 6)[0], style)


def _truth(code: int, *, is_error: bool) -> Cell:
    return Cell(_ERRORS.get(code, "#ERROR!") if is_error else "TRUE" if code else "FALSE", is_text=False)


def _unpacked(packed: int) -> float:
    """A number of 30 bits: an integer or the upper half of a float, perhaps times 100."""
    if packed & 2:
        number = float((packed >> 2) - (1 << 30 if packed >> 31 else 0))
    else:
        number = struct.unpack("<d", struct.pack("<Q", (packed & 0xFFFFFFFC) << 32))[0]
    return number / 100 if packed & 1 else number


def _number(book: _Book, number: float, style: int) -> Cell:
    format_id = book.formats[style] if style < len(book.formats) else 0
    kind = kind_of(format_id, book.codes.get(format_id, ""))
    return Cell(shown(number, kind, from_1904=book.from_1904), is_text=False)
