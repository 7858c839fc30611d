"""Real vectors for the index benchmarks: windows of 48 tokens over the long documents, encoded by the default model.

    python benchmarks/vectors.py

They are made once, in about ten minutes on two cores, and kept in the user's cache (float32, unit length).
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

LONG = Path("../shared/data/long")
WINDOW, OVERLAP = 48, 24
SUFFIXES = {".rst", ".md", ".txt"}
QUERIES = 2000
_NOISE = 0.35


def cached() -> Path:
    """Where the vectors of this machine's user are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embedsvc-benchmarks" / "long-48.npy"


def encode(folder: Path) -> Floats:
    """Vectors (n, dimension) of all windows of the documents under ``folder``."""
    from embedsvc.chunking import chunk
    from embedsvc.config import load_settings
    from embedsvc.encoding import load_encoder
    from embedsvc.records import Chunking, make_document

    encoder = load_encoder(load_settings({"runtime": "onnx"}))
    chunking, reserved = Chunking(WINDOW, overlap=OVERLAP), encoder.reserved("passage")
    waiting: list[tuple[int, ...]] = []
    made: list[Floats] = []
    started = time.perf_counter()
    for file in sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES):
        document = make_document(str(file), file.read_text("utf-8", errors="replace"))
        waiting += [
            tuple(p.token_ids) for p in chunk(document, encoder.tokenizer, chunking, reserved=reserved).passages
        ]
        if len(waiting) > 5000:
            made.append(encoder.encode(waiting, kind="passage"))
            waiting = []
            done = sum(map(len, made))
            print(f"{done:,} vectors, {done / (time.perf_counter() - started):,.0f}/s", flush=True)
    made.append(encoder.encode(waiting, kind="passage"))
    return np.concatenate(made)


def load(file: Path | None = None) -> Floats:
    """The vectors (n, dimension), made first where they are not there.

    Exits with a line that says so where the documents are absent too.
    """
    file = file or cached()
    if not file.is_file():
        if not LONG.is_dir():
            print(f"skipped: there is no {LONG}, and no vectors at {file}")
            sys.exit(0)
        vectors = encode(LONG)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, vectors)
    loaded: Floats = np.load(file)
    return loaded


def more(vectors: Floats, count: int, block: int = 100_000) -> Iterator[Floats]:
    """``count`` vectors of unit length, ``block`` at a time: those there are, then points between two that follow
    each other in the text, with noise as long as ``_NOISE`` of the vector; in each block in the order of the text, as
    documents come. Not real, and said so in the output. Another ``block`` gives others."""

    def made(start: int) -> Floats:
        rng, here = np.random.default_rng([7, start]), min(block, count - start)
        real = vectors[start : start + here]
        at = np.sort(rng.integers(0, len(vectors) - 1, here - len(real)))
        share = rng.random((len(at), 1), dtype=np.float32)
        between = vectors[at] * share + vectors[at + 1] * (1 - share)
        noise = rng.standard_normal(between.shape, dtype=np.float32)
        between += noise * (_NOISE / np.sqrt(vectors.shape[1]))
        between /= np.linalg.norm(between, axis=1, keepdims=True)
        joined: Floats = np.concatenate([real, between]).astype(np.float32, copy=False)
        return joined

    with ThreadPoolExecutor() as pool:
        ahead: deque[Future[Floats]] = deque()
        for start in range(0, count, block):
            ahead.append(pool.submit(made, start))
            if len(ahead) > (os.cpu_count() or 1):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


if __name__ == "__main__":
    print(load().shape)
