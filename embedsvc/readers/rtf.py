"""RTF: its text, by code pages and Unicode escapes, with headings by outline level and table rows by tabs."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from embedsvc.errors import DamagedFile
from embedsvc.readers.drafts import Draft
from embedsvc.readers.items import FieldChoice
from embedsvc.records import Document, Source


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TOKEN = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?"  # 1, 2: a control word and its number
    rb"|\\'([0-9a-fA-F]{2})"  # 3: a byte
    rb"|\\([^a-zA-Z])"  # 4: a control symbol
    rb"|([{}])"  # 5
    rb"|[\r\n\x00]+"
    rb"|([^\\{}\r\n\x00]+)",  # 6: text
    re.DOTALL,
)
_START = re.compile(rb"\s*\{\s*\\rtf")
_SKIPPED = _words(
    "colortbl pict objdata header headerl headerr headerf footer footerl footerr footerf themedata datastore "
    "colorschememapping generator xmlnstbl listtable listoverridetable rsidtbl fldinst bkmkstart bkmkend atnid "
    "atnauthor atrfstart atrfend nonshppict shprslt filetbl revtbl sp ftnsep ftnsepc ftncn aftnsep aftnsepc aftncn "
    "private xe tc pgdsctbl passwordhash"
)
_STARRED = frozenset({"shpinst", "ud", "annotation", "shppict", "do", "nesttableprops"})
"""Groups that say of themselves that programs may ignore them, but that hold text, or groups with text."""
_CHARACTERS = {
    "tab": "\t", "line": "\n", "lbr": "\n", "emdash": "\u2014", "endash": "\u2013", "lquote": "\u2018",
    "rquote": "\u2019", "ldblquote": "\u201c", "rdblquote": "\u201d", "bullet": "\u2022", "emspace": "\u2003",
    "enspace": "\u2002", "qmspace": "\u2005", "zwj": "\u200d", "zwnj": "\u200c",
}  # fmt: skip
_SYMBOLS = {b"~": "\xa0", b"_": "\u2011", b"\\": "\\", b"{": "{", b"}": "}", b"\t": "\t"}
_PARAGRAPH_ENDS = frozenset({"par", "sect", "page", "column", "softpage"})
_CHARSETS = {
    0: "cp1252", 77: "mac-roman", 128: "cp932", 129: "cp949", 130: "johab", 134: "gb18030", 136: "cp950",
    161: "cp1253", 162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251",
    222: "cp874", 238: "cp1250", 254: "cp437", 255: "cp850",
}  # fmt: skip
_SETS = {"ansi": "cp1252", "mac": "mac-roman", "pc": "cp437", "pca": "cp850"}
_HEADING = re.compile(r"heading ([1-9])\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _State:
    """What a group inherits from the one around it. Never changed in place: an open group costs a pointer."""

    goal: str = "body"
    """Where the text goes: "body", "note", "annotation", "title", "fonts", "styles", or nowhere ("")."""
    skipped_after_unicode: int = 1
    encoding: str = ""
    hidden: bool = False
    level: int = 0
    in_table: bool = False


def read_rtf(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document. Its title: that of its properties, else the first top heading, else the file name. Page headers
    and footers are left out.

    Raises:
        DamagedFile: it is no RTF.
    """
    if not _START.match(source.data):
        raise DamagedFile(
            f"{source.uri}: this RTF is damaged (it does not begin as one). "
            "Open it in a word processor and save it anew."
        )
    reader = _Reader(source)
    reader.read(source.data)
    yield reader.document()


def text_of_rtf(data: bytes) -> str:
    """The text of an RTF that is a part of something else."""
    reader = _Reader(Source("", "", data))
    reader.read(data)
    return reader.document().text


class _Reader:
    def __init__(self, source: Source) -> None:
        self._draft = Draft(source)
        self._state = _State()
        self._stack: list[_State] = []
        self._bytes = bytearray()
        """Text that waits for the rest of a character of two bytes."""
        self._skip = 0  # characters that stand in for a Unicode escape
        self._line: list[str] = []
        self._cells: list[str] = []
        self._aside: list[str] = []  # text that is not of the body
        self._notes: list[str] = []
        self._footnotes = 0
        self._title = ""
        self._default = "cp1252"
        self._fonts: dict[int, str] = {}
        self._font = 0
        self._levels: dict[int, int] = {}
        self._style = 0
        self._is_cut = False

    def read(self, data: bytes) -> None:
        position, end = 0, len(data)
        while position < end:
            token = _TOKEN.match(data, position)
            if token is None:  # a lone backslash at the end
                break
            position = token.end()
            if token[1]:
                word, number = token[1].decode("ascii"), int(token[2]) if token[2] else None
                if word == "bin":
                    position += max(0, number or 0)
                elif self._skip:
                    self._skip -= 1
                else:
                    self._word(word, number, starred=data[token.start() - 2 : token.start()] == b"\\*")
            elif token[5] == b"{":
                self._flush()
                self._skip = 0
                self._stack.append(self._state)
            elif token[5]:
                self._close()
                if not self._stack:
                    return  # what comes after the last brace is no RTF
            elif token[6]:
                text = token[6]
                if self._skip:
                    text, self._skip = text[self._skip :], max(0, self._skip - len(text))
                if self._state.goal:
                    self._bytes += text
            elif token[3] or token[4]:
                if self._skip:
                    self._skip -= 1
                elif token[3]:
                    self._bytes.append(int(token[3], 16))
                elif token[4] in b"\r\n":
                    self._word("par", None, starred=False)
                else:
                    self._emit(_SYMBOLS.get(token[4], ""))
        self._is_cut = True

    def document(self) -> Document:
        self._flush()
        self._end_row()
        self._end_paragraph()
        for note in self._notes:
            self._draft.add(note)
        notes = ("it ends before its last brace: it may have been cut short",) if self._is_cut else ()
        return self._draft.document(title=_joined(self._title), notes=notes)

    # -- groups and words ----------------------------------------------------------------------------------------------

    def _close(self) -> None:
        self._flush()
        self._skip = 0
        inner = self._state
        if self._stack:
            self._state = self._stack.pop()
        if inner.goal == self._state.goal:
            if inner.goal == "styles":
                self._end_style()
            return
        aside = _joined("".join(self._aside))
        if inner.goal == "note":
            self._notes.append(f"[footnote {self._footnotes}] {aside}")
        elif inner.goal == "annotation" and aside:
            self._notes.append(f"Comment: {aside}")
        elif inner.goal == "title":
            self._title = aside
        if inner.goal in ("note", "annotation", "title", "fonts", "styles"):
            self._aside.clear()

    def _end_style(self) -> None:
        if match := _HEADING.match(_joined("".join(self._aside))):
            self._levels.setdefault(self._style, int(match[1]))
        self._aside.clear()

    def _word(self, word: str, number: int | None, *, starred: bool) -> None:
        state = self._state
        if word == "u" and number is not None:
            self._flush()
            code = number if number > 0xFFFF else number & 0xFFFF
            self._emit(chr(code) if code <= 0x10FFFF else "\ufffd")
            self._skip = state.skipped_after_unicode
            return
        self._flush()
        if word == "uc":
            self._state = replace(state, skipped_after_unicode=min(max(0, number or 0), 10))
        elif word == "ud":  # a text in Unicode, after the same without
            self._state = replace(state, goal=self._stack[-2].goal if len(self._stack) > 1 else "body")
        elif not state.goal:
            return
        elif word in _SKIPPED or word == "upr" or (starred and word not in _STARRED):
            self._state = replace(state, goal="")
        elif word in _CHARACTERS:
            self._emit(_CHARACTERS[word])
        elif state.goal in ("fonts", "styles"):
            self._define(word, number)
        elif action := _ACTIONS.get(word):
            action(self, number)
        elif word in _PARAGRAPH_ENDS:
            self._end_line()
        elif word in ("cell", "nestcell"):
            self._cells.append(_joined("".join(self._line)))
            self._line.clear()
        elif word in ("row", "nestrow"):
            self._end_row()
        elif word in _SETS:
            self._default = _SETS[word]

    def _define(self, word: str, number: int | None) -> None:
        """A word of the table of fonts or of styles."""
        if word == "f" and number is not None:
            self._font = number
        elif word == "fcharset" and number in _CHARSETS:
            self._fonts[self._font] = _CHARSETS[number]
        elif word == "cpg" and number is not None:
            self._fonts[self._font] = _known(f"cp{number}", self._default)
        elif word == "s" and number is not None:
            self._style = number
        elif word == "outlinelevel" and number is not None and self._state.goal == "styles":
            self._levels[self._style] = number + 1 if number < 9 else 0

    def _aim(self, goal: str) -> None:
        self._aside.clear()
        if goal == "note":
            self._footnotes += 1
            self._emit(f"[footnote {self._footnotes}]")
        self._style = 0
        self._state = replace(self._state, goal=goal)

    def _set_page(self, number: int | None) -> None:
        self._default = _known(f"cp{number}", self._default) if number != 65001 else "utf-8"

    def _set_font(self, number: int | None) -> None:
        self._state = replace(self._state, encoding=self._fonts.get(number or 0, ""))

    def _set_level(self, level: int) -> None:
        self._state = replace(self._state, level=level)

    def _set_hidden(self, number: int | None) -> None:
        self._state = replace(self._state, hidden=number != 0)

    def _reset_paragraph(self) -> None:
        self._state = replace(self._state, level=0, in_table=False)

    # -- text ------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._bytes:
            data = bytes(self._bytes)
            self._bytes.clear()
            self._emit(data.decode(self._state.encoding or self._default, "replace"))

    def _emit(self, text: str) -> None:
        if self._bytes:
            self._flush()
        if self._state.hidden or not self._state.goal:
            return
        (self._line if self._state.goal == "body" else self._aside).append(text)

    def _end_line(self) -> None:
        if self._state.goal != "body":
            self._aside.append(" ")
        elif self._state.in_table:
            self._line.append(" ")
        else:
            self._end_row()
            self._end_paragraph()

    def _end_paragraph(self) -> None:
        # Characters beyond the first 65,536 are written as two escapes.
        text = "".join(self._line).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        self._line.clear()
        self._draft.add(text.rstrip(), self._state.level if text.strip() else 0)

    def _end_row(self) -> None:
        if self._cells:
            row = "\t".join(self._cells).rstrip()
            self._cells.clear()
            waiting, self._line = self._line, [row]
            state, self._state = self._state, _State()
            self._end_paragraph()
            self._line, self._state = waiting, state


_Action = Callable[[_Reader, int | None], None]
_ACTIONS: dict[str, _Action] = {
    "ansicpg": lambda reader, number: reader._set_page(number),
    "fonttbl": lambda reader, _: reader._aim("fonts"),
    "stylesheet": lambda reader, _: reader._aim("styles"),
    "footnote": lambda reader, _: reader._aim("note"),
    "annotation": lambda reader, _: reader._aim("annotation"),
    "info": lambda reader, _: reader._aim("info"),
    "title": lambda reader, _: reader._aim("title"),
    "f": lambda reader, number: reader._set_font(number),
    "pard": lambda reader, _: reader._reset_paragraph(),
    "plain": lambda reader, _: reader._set_hidden(0),
    "v": lambda reader, number: reader._set_hidden(number),
    "deleted": lambda reader, number: reader._set_hidden(number),
    "intbl": lambda reader, _: setattr(reader, "_state", replace(reader._state, in_table=True)),
    "outlinelevel": lambda reader, n: reader._set_level((n or 0) + 1 if (n or 0) < 9 else 0),
    "s": lambda reader, number: reader._set_level(reader._levels.get(number or 0, 0)),
}


def _joined(text: str) -> str:
    return " ".join(text.replace(";", " ").split()) if text.endswith(";") else " ".join(text.split())


def _known(encoding: str, otherwise: str) -> str:
    try:
        codecs.lookup(encoding)
    except LookupError:
        return otherwise
    return encoding
