"""Documents per second, from a JSONL file to a durable collection with its index, beside two lesser tasks.

    python benchmarks/ingest.py [--data FOLDER] [--documents 1000] [--rounds 3] [--json FILE]

Every round runs all three, on the same documents cut at 256 tokens:
sentence-transformers ``encode`` of the texts (its defaults), embedsvc's encoder alone on ready token ids,
and embedsvc's whole ingest: read, tokenise, encode, commit with fsync, write the vector index.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import WINDOW, arguments, documents
from figures import Figure, at_least, at_most, interleaved, ratio, report

from embedsvc.chunking import chunk
from embedsvc.collection import Collection
from embedsvc.config import load_settings
from embedsvc.encoding import load_encoder
from embedsvc.ingest import ingest_paths
from embedsvc.readers import FieldChoice
from embedsvc.records import Chunking

PEER, ALONE, INGEST = "sentence-transformers encode", "embedsvc encoder alone", "embedsvc ingest"
CHUNKING = Chunking(WINDOW, whole=True)


def main() -> None:
    given = arguments(__doc__, documents=1000, rounds=3)
    from sentence_transformers import SentenceTransformer

    encoder = load_encoder(load_settings({"runtime": "onnx"}))
    reference = SentenceTransformer(str(encoder.model.folder), device="cpu", local_files_only=True)
    reference.max_seq_length = WINDOW
    items = list(documents(given.data, given.documents))
    texts = [item.text for item in items]
    reserved = encoder.reserved("passage")
    chunks = [chunk(item, encoder.tokenizer, CHUNKING, reserved=reserved) for item in items]
    ids = [passage.token_ids for one in chunks for passage in one.passages]

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "corpus.jsonl"
        with (given.data / "corpus.jsonl").open(encoding="utf-8") as lines:
            file.write_text("".join(itertools.islice(lines, given.documents)), encoding="utf-8")
        names = (f"round-{number}" for number in itertools.count())

        def ingest() -> None:
            settings = load_settings({"data_dir": Path(scratch) / "data"})
            collection = Collection.create(next(names), encoder.contract, CHUNKING, settings)
            fields = FieldChoice(text=("title", "text"), title="title")
            outcomes = list(ingest_paths(collection, encoder, [file], fields=fields, max_file_mb=100))
            wrong = [outcome for outcome in outcomes if outcome.status != "indexed"]
            if wrong or len(outcomes) != len(items):
                raise RuntimeError(f"{len(outcomes)} outcomes for {len(items)} documents; not indexed: {wrong[:1]}")

        reference.encode(texts[:32])
        encoder.encode(ids[:32], kind="passage")
        seconds = interleaved(
            {
                PEER: lambda: reference.encode(texts, convert_to_numpy=True, show_progress_bar=False),
                ALONE: lambda: encoder.encode(ids, kind="passage"),
                INGEST: ingest,
            },
            given.rounds,
        )

    count, tokens = len(texts), sum(len(one) + reserved for one in ids)
    figures = [
        Figure(f"{name}, {encoder.dtype}" if name != PEER else name, count / statistics.median(times), "documents/s")
        for name, times in seconds.items()
    ]
    figures += [
        Figure("embedsvc ingest", tokens / statistics.median(seconds[INGEST]), "tokens/s"),
        at_least("ingest rate over sentence-transformers", ratio(seconds[PEER], seconds[INGEST]), 1.6, "x"),
        at_most("ingest time over encode time alone", ratio(seconds[INGEST], seconds[ALONE]), 1.10, "x"),
    ]
    report(figures, given.json, documents=count, tokens=tokens, seconds=seconds)


if __name__ == "__main__":
    main()
