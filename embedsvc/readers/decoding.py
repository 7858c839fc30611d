"""Bytes to text: byte-order mark, UTF-8, what the file declares, then a detector on a sample.

Linear in the size of the input; no character is lost without a note.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_letters

from embedsvc.errors import BinaryJunk, WrongEncoding

_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MAGIC = (
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"\x7fELF", "an executable"),
    (b"\x1f\x8b\x08", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"(\xb5/\xfd", "a Zstandard archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file"),
    (b"%PDF-", "a PDF"),
)
_SAMPLE = 65_536
_CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f\v\b\x1b"))
_MOST_CONTROL = 0.01
"""Share of control bytes above which a file is not text. Logs carry a few; executables and images above 10 %."""
_MOST_REPLACED = 0.01
"""Share of characters that may be replaced before the encoding is called wrong."""
_NON_ASCII = re.compile(rb"[\x80-\xff]")
_AROUND = 64
_BESIDE_ASCII = re.compile(r"[a-zA-Z][^\W\d_a-zA-Z]|[^\W\d_a-zA-Z](?=[a-zA-Z])")
_NOT_OF_FILES = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "utf-7"})
"""Python codecs (by their canonical names) that are no file's encoding; some are slow or take any input."""


@dataclass(frozen=True, slots=True)
class Decoded:
    text: str
    notes: tuple[str, ...] = ()


def decode(data: bytes, uri: str, *, declared: str | None = None) -> Decoded:
    """The text of ``data`` without its byte-order mark; ``declared`` is the encoding that the file names itself.

    Raises:
        BinaryJunk: ``data`` is not text.
        WrongEncoding: it looks like text, but no encoding fits it.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark) and (len(data) - len(mark)) % _unit(encoding) == 0:
            return _decode_as(data[len(mark) :], encoding, uri, note=False)
    for magic, kind in _MAGIC:
        if data.startswith(magic) and not (magic.isascii() and magic != b"PK\x03\x04" and _is_ascii_text(data)):
            raise _junk(uri, f"it is {kind}, not text")
    sample = _sample(data)
    control = len(sample) - len(sample.translate(None, _CONTROL))
    if control > _MOST_CONTROL * len(sample):
        if _is_parted_by_nul(sample):
            lines = decode(data.replace(b"\0", b"\n"), uri, declared=declared)
            return Decoded(lines.text, ("the NULs that part or end its fields are read as ends of lines", *lines.notes))
        if (encoding_without_mark := _utf16(sample)) is not None and len(data) % 2 == 0:
            return _decode_as(data, encoding_without_mark, uri, note=True)
        raise _junk(uri, f"it is not text: {100 * control / len(sample):.0f} % control characters")
    try:
        return Decoded(data.decode("utf-8"))
    except UnicodeDecodeError:
        pass
    if declared and (text := _decode_declared(data, declared)) is not None:
        return Decoded(text, (f"decoded as {declared}, as the file declares",))
    nearly = data.decode("utf-8", "replace")
    replaced, foreign = nearly.count("\ufffd"), len(nearly.encode("utf-8")) - len(nearly)
    # Each replacement counts 2 in ``foreign``. UTF-8 with a damaged byte here and there beats any other guess:
    # text of another encoding almost never forms valid multi-byte sequences.
    if 10 * replaced <= (foreign - 2 * replaced) / 2:
        return Decoded(nearly, (f"{replaced} byte(s) that are not UTF-8 replaced by U+FFFD",))
    return _decode_as(data, _detect(data, uri), uri, note=True)


def _unit(encoding: str) -> int:
    return {"utf-8": 1, "utf-16": 2, "utf-32": 4}[encoding[:6].rstrip("-")]


def _sample(data: bytes) -> bytes:
    """The beginning, middle and end of ``data``, cut at even places so that UTF-16 stays in step."""
    if len(data) <= 3 * _SAMPLE:
        return data
    middle = len(data) // 4 * 2
    end = (len(data) - _SAMPLE) // 2 * 2
    return data[:_SAMPLE] + data[middle : middle + _SAMPLE] + data[end:]


def _is_ascii_text(data: bytes) -> bool:
    """Whether bytes that begin like a binary format ("BZh…", "GIF89a…") are prose after all."""
    return not data[:1024].translate(None, bytes(range(32, 127)) + b"\t\n\r")


def _is_parted_by_nul(sample: bytes) -> bool:
    """Whether it is UTF-8 in fields that NULs part or end (``find -print0``). UTF-16 that has as many ASCII characters
    has a NUL in most pairs of bytes, and always at the same place of the pair."""
    few, many = sorted((sample[::2].count(0), sample[1::2].count(0)))
    if 4 * many > len(sample) and 10 * few < many:
        return False
    fields = sample.replace(b"\0", b"\n")
    control = len(fields) - len(fields.translate(None, _CONTROL))
    foreign = fields.decode("utf-8", "replace").count("\ufffd")
    return 2 * (few + many) < len(sample) and control <= _MOST_CONTROL * len(sample) and foreign <= 0.001 * len(sample)


def _utf16(sample: bytes) -> str | None:
    """The UTF-16 that ``sample`` is in, by its share of ASCII and CJK punctuation, which other files lack there."""
    for encoding in ("utf-16-le", "utf-16-be"):
        text = sample[: len(sample) // 2 * 2].decode(encoding, "replace")
        common = sum(" " <= c <= "~" or c in "\t\r\n、。，" for c in text)
        odd = sum(c not in "\t\r\n\f" and unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs") for c in text)
        if common >= 0.02 * len(text) and odd + text.count("\ufffd") <= 0.001 * len(text):
            return encoding
    return None


def _decode_declared(data: bytes, declared: str) -> str | None:
    try:
        name = codecs.lookup(declared).name
        # On the web latin-1 and ASCII mean cp1252 (WHATWG Encoding).
        encoding = "cp1252" if name in ("iso8859-1", "ascii") else name
        return None if encoding in _NOT_OF_FILES else data.decode(encoding)
    except (LookupError, ValueError):  # unknown, not a text encoding, or not what the file is in
        return None


def _detect(data: bytes, uri: str) -> str:
    import chardet

    sample = b"".join(_foreign_stretches(data))
    guess = chardet.detect(sample)["encoding"]
    try:
        known = guess is not None and codecs.lookup(guess).name not in _NOT_OF_FILES
    except LookupError:
        known = False
    if guess is None or not known:
        raise WrongEncoding(f"{uri}: its text encoding cannot be told. Save it as UTF-8, then index it again.")
    return "cp1252" if _mixes_scripts(sample.decode(guess, "replace")) else guess


def _mixes_scripts(text: str) -> bool:
    """Whether most letters beyond ASCII stand in one word with ASCII letters, but are not Latin: "Cafй".

    No language writes so. It is Western text that a detector took for Cyrillic or Greek.
    """
    beside = [pair.strip(ascii_letters) for pair in _BESIDE_ASCII.findall(text)]
    foreign = sum(not unicodedata.name(letter, "").startswith("LATIN") for letter in beside)
    return 2 * foreign > sum(character.isalpha() and not character.isascii() for character in text)


def _foreign_stretches(data: bytes) -> Iterator[bytes]:
    """What surrounds the bytes that tell encodings apart, up to a sample's size."""
    taken, position = 0, 0
    while taken < _SAMPLE and (match := _NON_ASCII.search(data, position)):
        start, position = max(position, match.start() - _AROUND), match.end() + _AROUND
        yield data[start:position]
        taken += position - start


def _decode_as(data: bytes, encoding: str, uri: str, *, note: bool) -> Decoded:
    text = data.decode(encoding, "replace")
    replaced = text.count("\ufffd")
    if replaced > max(1, _MOST_REPLACED * len(text)):
        raise WrongEncoding(
            f"{uri}: it looks like {encoding}, but {replaced} of its {len(text)} characters are not. "
            "Save it as UTF-8, then index it again."
        )
    notes = [f"decoded as {encoding} (not declared: detected)"] if note else []
    if replaced:
        notes.append(f"{replaced} character(s) that are not {encoding} replaced by U+FFFD")
    return Decoded(text, tuple(notes))


def _junk(uri: str, what: str) -> BinaryJunk:
    return BinaryJunk(f"{uri}: {what}. Leave it out, or convert it to text or PDF.")
