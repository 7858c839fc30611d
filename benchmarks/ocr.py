"""What recognition finds of text that is known: pages of PDFs that have a text layer, made into scans.

    python benchmarks/ocr.py [FOLDER] [--dpi 200] [--languages eng]

Each page is drawn with ``dpi`` into a PDF of pictures, and that is read as any file is, in the sandbox. Words found: of
those in the page's text layer, the share. At most two pages of a file, none with fewer than 50 words.
"""

from __future__ import annotations

import argparse
import io
import random
import re
import time
from collections import Counter
from pathlib import Path

import pypdfium2

from embedsvc.readers import FieldChoice
from embedsvc.readers.items import Limits
from embedsvc.readers.sandbox import Sandbox
from embedsvc.records import Document, Source

_WORD = re.compile(r"[a-z]{2,}")


def words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.lower()))


def scan(page: pypdfium2.PdfPage, dpi: int) -> bytes:
    made = pypdfium2.PdfDocument.new()
    image = pypdfium2.PdfImage.new(made)
    image.set_bitmap(page.render(scale=dpi / 72, grayscale=True))
    image.set_matrix(pypdfium2.PdfMatrix().scale(*page.get_size()))
    picture = made.new_page(*page.get_size())
    picture.insert_obj(image)
    picture.gen_content()
    buffer = io.BytesIO()
    made.save(buffer)
    return buffer.getvalue()


def candidates(folder: Path) -> list[tuple[Path, int]]:
    """Pages with text, by file and index; not those of PDFs that do not open."""
    found, chance = [], random.Random(0)
    for file in sorted(folder.rglob("*.pdf")):
        try:
            pdf = pypdfium2.PdfDocument(file)
            pages = [at for at, page in enumerate(pdf) if words(page.get_textpage().get_text_range()).total() >= 50]
            found += [(file, at) for at in sorted(chance.sample(pages, min(2, len(pages))))]
        except pypdfium2.PdfiumError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("../shared/data/formats"))
    parser.add_argument("--dpi", type=int, default=200)
    parser.add_argument("--languages", default="eng")
    given = parser.parse_args()
    pages = candidates(given.folder)
    shares, seconds = [], []
    with Sandbox(Limits(ocr_languages=given.languages)) as sandbox:
        for file, at in pages:
            page = pypdfium2.PdfDocument(file)[at]
            there = words(page.get_textpage().get_text_range())
            source = Source("memory:scan.pdf", "scan.pdf", scan(page, given.dpi))
            started = time.perf_counter()
            [document] = sandbox.read(source, FieldChoice())
            seconds.append(time.perf_counter() - started)
            assert isinstance(document, Document)
            shares.append((there & words(document.text)).total() / there.total())
            print(f"  {shares[-1]:.3f}  {seconds[-1]:4.1f} s  {file.name} page {at + 1}")
    if not shares:
        print(f"skipped: no PDF with text in {given.folder}")
        return
    shares.sort()
    print(f"{len(shares)} pages, {given.dpi} dpi: words found, mean {sum(shares) / len(shares):.3f},")
    print(f"median {shares[len(shares) // 2]:.3f}; a page, mean {sum(seconds) / len(seconds):.1f} s")


if __name__ == "__main__":
    main()
