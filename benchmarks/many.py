"""Many small collections: what a search of all of them, as agents make it over MCP, takes in time, memory and files.

python benchmarks/many.py [--documents 20] [--collections FOLDER] [--json FILE]

``--documents``: of each of 200 collections, of a sentence each.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments
from figures import Figure, report

import embedsvc
from embedsvc.agents.shelves import OfLibrary
from embedsvc.agents.tools import TOOLS

COUNT = 200


def make(data_dir: Path, documents: int) -> None:
    with embedsvc.library(data_dir=data_dir, runtime="onnx", durability="os") as library:
        for number in set(range(COUNT)) - {int(name[1:]) for name in library.names()}:
            texts = [f"In place {number}, fact {fact}: {fact * 31} trains and planets." for fact in range(documents)]
            library.open(f"c{number}").add([{"id": str(at), "text": text} for at, text in enumerate(texts)])


def held() -> tuple[float, int]:
    """Megabytes of memory, and open files."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def measure(data_dir: Path) -> list[Figure]:
    search = next(tool for tool in TOOLS if tool.name == "search")
    async with embedsvc.library_async(data_dir=data_dir, runtime="onnx") as library:
        shelf = OfLibrary(library)
        await search.call(shelf, "", {"query": "trains", "collection": "c0"})
        figures = [Figure("memory after a search of one collection", held()[0], "MB")]
        for turn in range(1, 4):
            started = time.perf_counter()
            await search.call(shelf, "", {"query": f"trains and planets {turn}"})
            took = time.perf_counter() - started
            memory, files = held()
            figures += [
                Figure(f"search {turn} of all collections", took, "s"),
                Figure(f"memory after search {turn}", memory, "MB"),
                Figure(f"open files after search {turn}", files, ""),
            ]
    return figures


def main() -> None:
    given = arguments(__doc__, documents=20, collections=True)
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = given.collections or Path(scratch)
        make(data_dir, given.documents)
        report(asyncio.run(measure(data_dir)), given.json, collections=COUNT, documents=given.documents)


if __name__ == "__main__":
    main()
