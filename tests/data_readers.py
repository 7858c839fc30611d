"""Builders of small PDF and DOCX files, scans and pictures."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Collection

_PAD = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")


def _rc4(key: bytes, data: bytes) -> bytes:
    state, j, out = list(range(256)), 0, bytearray()
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def make_pdf(
    pages: list[str],
    *,
    title: str = "",
    bookmarks: tuple[tuple[str, int], ...] = (),
    user_password: bytes | None = None,
) -> bytes:
    """A PDF with lines of ASCII text per page and ``bookmarks`` (title, page index).

    ``user_password`` not None: encrypted (RC4, revision 2), without bookmarks then.
    """
    identity = bytes(16)
    key = b""
    objects: list[bytes] = [b""] * (4 + 2 * len(pages))
    if user_password is not None:
        owner = _rc4(hashlib.md5(_PAD).digest()[:5], (user_password + _PAD)[:32])
        permissions = b"\xfc\xff\xff\xff"
        key = hashlib.md5((user_password + _PAD)[:32] + owner + permissions + identity).digest()[:5]
        user = _rc4(key, _PAD)
        objects.append(b"<</Filter/Standard/V 1/R 2/P -4/O<%s>/U<%s>>>" % (owner.hex().encode(), user.hex().encode()))

    def sealed(number: int, data: bytes) -> bytes:
        if not key:
            return data
        return _rc4(hashlib.md5(key + number.to_bytes(3, "little") + b"\0\0").digest()[:10], data)

    kids = b" ".join(b"%d 0 R" % (5 + 2 * index) for index in range(len(pages)))
    objects[0] = b"<</Type/Catalog/Pages 2 0 R>>"
    objects[1] = b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, len(pages))
    objects[2] = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
    objects[3] = b"<</Title<%s>>>" % sealed(4, title.encode("latin-1")).hex().encode()
    for index, text in enumerate(pages):
        number = 5 + 2 * index
        lines = b" T* ".join(b"(%s) Tj" % line.encode() for line in text.split("\n"))
        content = sealed(number + 1, b"BT /F 12 Tf 14 TL 72 700 Td %s ET" % lines if text else b"")
        objects[number - 1] = (
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</F 3 0 R>>>>/Contents %d 0 R>>"
            % (number + 1)
        )
        objects[number] = b"<</Length %d>>stream\n%s\nendstream" % (len(content), content)
    if bookmarks:
        root = len(objects) + 1
        last = root + len(bookmarks)
        objects[0] = b"<</Type/Catalog/Pages 2 0 R/Outlines %d 0 R>>" % root
        objects.append(b"<</Type/Outlines/First %d 0 R/Last %d 0 R/Count %d>>" % (root + 1, last, len(bookmarks)))
        for number, (name, page) in enumerate(bookmarks, start=root + 1):
            following = b"/Next %d 0 R" % (number + 1) if number < last else b""
            item = (name.encode(), root, 5 + 2 * page, following)
            objects.append(b"<</Title(%s)/Parent %d 0 R/Dest[%d 0 R/Fit]%s>>" % item)
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    encrypt = b"/Encrypt %d 0 R" % len(objects) if key else b""
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer<</Size %d/Root 1 0 R/Info 4 0 R/ID[<%s><%s>]%s>>\nstartxref\n%d\n%%%%EOF" % (
        len(objects) + 1,
        identity.hex().encode(),
        identity.hex().encode(),
        encrypt,
        start,
    )
    return bytes(out)


def make_docx(body: str, *, strict: bool = False) -> bytes:
    """A DOCX around the XML of ``body``, with a German heading style, a style based on another, a footnote."""
    namespace = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    if strict:
        namespace = "http://purl.oclc.org/ooxml/wordprocessingml/main"
    w = f'xmlns:w="{namespace}"'
    styles = (
        '<w:style w:type="paragraph" w:styleId="Titel"><w:name w:val="Title"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="Two"><w:pPr><w:outlineLvl w:val="1"/></w:pPr></w:style>'
        '<w:style w:type="paragraph" w:styleId="Mine"><w:basedOn w:val="Two"/></w:style>'
    )
    notes = '<w:footnote w:id="2"><w:p><w:r><w:t>A note</w:t></w:r></w:p></w:footnote>'
    separator = '<w:footnote w:type="separator" w:id="-1"><w:p><w:r><w:t>---</w:t></w:r></w:p></w:footnote>'
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", f"<w:document {w}><w:body>{body}</w:body></w:document>")
        archive.writestr("word/styles.xml", f"<w:styles {w}>{styles}</w:styles>")
        archive.writestr("word/footnotes.xml", f"<w:footnotes {w}>{separator}{notes}</w:footnotes>")
    return buffer.getvalue()


def make_scan(pages: list[str], scanned: Collection[int]) -> bytes:
    """As :func:`make_pdf`, but those of ``pages`` that ``scanned`` counts (from 1) are pictures of themselves."""
    import pypdfium2

    source, scan = pypdfium2.PdfDocument(make_pdf(pages)), pypdfium2.PdfDocument.new()
    for number, original in enumerate(source, start=1):
        if number not in scanned:
            scan.import_pages(source, [number - 1])
            continue
        image = pypdfium2.PdfImage.new(scan)
        image.set_bitmap(original.render(scale=200 / 72, grayscale=True))
        image.set_matrix(pypdfium2.PdfMatrix().scale(*original.get_size()))
        page = scan.new_page(*original.get_size())
        page.insert_obj(image)
        page.gen_content()
    buffer = io.BytesIO()
    scan.save(buffer)
    scan.close()
    source.close()
    return buffer.getvalue()


def make_png(text: str) -> bytes:
    width, height, pixels = _drawn(text)
    rows = b"".join(b"\0" + pixels[at : at + width] for at in range(0, len(pixels), width))
    png = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return png


def make_tiff(*pages: str) -> bytes:
    """Grey, not compressed, a page for each text."""
    tiff = bytearray(b"II*\0\0\0\0\0")
    link = 4
    for text in pages:
        width, height, pixels = _drawn(text)
        start = len(tiff)
        tiff += pixels + b"\0" * (len(pixels) % 2)
        tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: start, 277: 1, 278: height, 279: len(pixels)}
        tiff[link : link + 4] = struct.pack("<I", len(tiff))
        tiff += struct.pack("<H", len(tags))
        tiff += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        link = len(tiff)
        tiff += bytes(4)
    return bytes(tiff)


def _drawn(text: str) -> tuple[int, int, bytes]:
    import pypdfium2

    pdf = pypdfium2.PdfDocument(make_pdf([text]))
    bitmap = pdf[0].render(scale=200 / 72, grayscale=True)
    pixels = bytes(bitmap.buffer)
    size = bitmap.width, bitmap.height
    assert bitmap.stride == bitmap.width
    pdf.close()
    return *size, pixels


PARQUET_WITHOUT_A_COLUMN = zlib.decompress(
    base64.b85decode(
        r"c-oaz&2G~`5T4zvTvO$cR^62?<=_Lgf<!}#nyRXd&^k1sB2|+}P?cMhno!|7Aqg09=E#u);xTv(#0l{b9C!eZ%<ei))Ko&OteNr5x8FCj{^`ix"
        r"E@!;Nx7wU?*aWc43;<4(sLFwFa&cFeEpC<fX@#l0qwU59!ftsKZGjL92=n;uHaf*p3J91*Gk=}UvF8=Xo?``6ZpbbvF+vLTdcOws=OHR!2g?fc"
        r"$|4f9lE<326lh*3s5#a^58}pkaIERzWpvf&7VzRWb=WL=H`|7`QsWF0B!N2GnA4|LJHTw6IV`@M&Nzjwbp)(MadZ_WGZ4%zyMYg7UUchVm0Ux{"
        r"sbJy*5g&<v;M=RG>#9ir+0c~G1;TbM*QcsqMaD8Rl4z#yMEoQ^UZ2SSo$ZRw9aI69sjM570}|`u%up{(^WTX0LHy4J{}=t|VLQvmzAEW6aGUt9"
        r"s1C&!CYW!Fub3-4McM0}o*kN};ryoe)Jlh;l(H+$dLm^i!=Y?SIh2i|&V>j#Q9(n>W1U!dX-bWeiq7@Dq6%w@S_O~7ZeB9@Bbn<d+e%gCmBJ?-"
        r")sM=b==x(Rms-pAx8mCKvzn&Fep+)?)zbTX|M89cjozLC<D3l*8RqoeOr)vn=Q2#q+(!$NFzjhRSj@8+>Z0{*?;^kNF4rG`<Bj{1*KeZP&R{&="
        r"=}#u3)O#CErkA6{yT4zpRRjDU%ms(|33c#y@)rzgy4?"
    )
)
"""Of its three columns one is a list of groups that have no fields, and no batch of rows has it (found by fuzzing)."""
