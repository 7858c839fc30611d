"""Compare libraries on a folder of real files: words found, seconds, failures. Candidates not installed are left out.

    python benchmarks/readers.py ../shared/data/formats

``words``: of the words that at least two candidates find in a file, the share that this one finds.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedsvc.readers import FieldChoice, read
from embedsvc.records import Document, Source


def embedsvc(suffix: str) -> Callable[[bytes], str]:
    def extract(data: bytes) -> str:
        (item,) = read(Source("file:///x", f"x.{suffix}", data), FieldChoice())
        return item.text if isinstance(item, Document) else ""

    return extract


def pypdf(data: bytes) -> str:
    import pypdf as library

    return "\n".join(page.extract_text() for page in library.PdfReader(io.BytesIO(data)).pages)


def pdfplumber(data: bytes) -> str:
    import pdfplumber as library

    with library.open(io.BytesIO(data)) as pdf:
        return "\n".join(page.extract_text() or "" for page in pdf.pages)


def pdfminer(data: bytes) -> str:
    from pdfminer.high_level import extract_text

    return extract_text(io.BytesIO(data))


def trafilatura(data: bytes) -> str:
    import trafilatura as library

    return library.extract(data, favor_recall=True, include_tables=True) or ""


def resiliparse(data: bytes) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    return extract_plain_text(HTMLTree.parse_from_bytes(data, "utf-8"), main_content=True)


def readability(data: bytes) -> str:
    import lxml.html
    from readability import Document as Page

    return lxml.html.fromstring(Page(data.decode("utf-8", "replace")).summary()).text_content()


def bs4(data: bytes) -> str:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(data, "html.parser")
    for element in soup(["script", "style", "nav", "footer", "noscript", "template"]):
        element.decompose()
    return (soup.body or soup).get_text("\n")


def docx(data: bytes) -> str:
    import docx as library

    lines = []
    for block in library.Document(io.BytesIO(data)).iter_inner_content():
        rows: Any = getattr(block, "rows", None)
        lines += [block.text] if rows is None else ["\t".join(cell.text for cell in row.cells) for row in rows]
    return "\n".join(lines)


def mammoth(data: bytes) -> str:
    import mammoth as library

    return library.extract_raw_text(io.BytesIO(data)).value


def docx2python(data: bytes) -> str:
    import docx2python as library

    with library.docx2python(io.BytesIO(data)) as result:
        return result.text


CANDIDATES = {
    "pdf": [pypdf, pdfplumber, pdfminer],
    "html": [trafilatura, resiliparse, readability, bs4],
    "docx": [docx, mammoth, docx2python],
}


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w{2,}", text))


def compare(suffix: str, files: list[Path]) -> None:
    candidates = {"embedsvc": embedsvc(suffix)}
    candidates |= {f.__name__: f for f in CANDIDATES[suffix] if importlib.util.find_spec(f.__name__)}
    found: dict[str, list[Counter[str]]] = {}
    reports = {}
    for name, extract in candidates.items():
        failures: Counter[str] = Counter()
        found[name] = []
        started = time.perf_counter()
        for file in files:
            data = file.read_bytes()
            try:
                text = extract(data)
            except Exception as error:
                failures[type(error).__name__] += 1
                text = ""
            found[name].append(words(text))
        reports[name] = (time.perf_counter() - started, dict(failures))
    agreed = [
        Counter({w: sorted(c[w] for c in counts)[-2] for w in set().union(*counts)})
        for counts in zip(*found.values(), strict=True)
    ]
    total = max(1, sum(reference.total() for reference in agreed))
    for name, (seconds, failures) in reports.items():
        share = sum((mine & reference).total() for mine, reference in zip(found[name], agreed, strict=True)) / total
        empty = sum(not mine for mine in found[name])
        print(f"{suffix:5} {name:12} words {share:.3f}  {seconds:6.2f} s  empty {empty}  {failures or ''}")


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python benchmarks/readers.py FOLDER (of real pdf, html and docx files)")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for suffix in CANDIDATES:
        compare(suffix, sorted(Path(sys.argv[1]).rglob(f"*.{suffix}")))


if __name__ == "__main__":
    main()
