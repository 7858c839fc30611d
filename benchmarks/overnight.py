"""Whether an ingest can be left alone: awkward files, what is indexed again, where the time goes, and memory.

    python benchmarks/overnight.py [--peps FOLDER] [--formats FOLDER] [--sample 48] [--json FILE]

Every ingest is an ``embedsvc index`` of its own, measured from outside, memory as the sum over its processes. But for
the sample that is encoded, the model is the default one without its layers (``tests.tiny_models.make_shallow``): same
tokenizer, window and dimension, and next to no time to encode. So such a run takes what reading, tokenising, cutting
and storing take together, and the share of that in a real ingest is it / (it + encoding the same tokens): measured on
``sample`` passages, in CPU seconds (what else runs on the machine does not count) and in wall time, as if nothing
overlapped.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # what tests use, too

from figures import Figure, at_least, at_most, report  # noqa: E402

NAME = "overnight"
NOT_READABLE = ("unsupported", "locked", "binary", "too_large")
"""Reasons that are the answer to such a file, not a failure to read it."""
WITHOUT_TEXT = (
    "*_cal.xml", "*_def.xml", "*_pre.xml", "imagemagick-ASCII85Decode.pdf", "imagemagick-CCITTFaxDecode.pdf",
    "imagemagick-lzw.pdf", "grayscale-image.pdf", "cmyk-image.pdf",
)  # fmt: skip
"""Of ``formats``, by their names: XBRL linkbases, which only refer to what others name, and pictures without a letter.
Each was looked at. Two more give no text, a logo and a diagram, but there are words in them."""


@dataclass(frozen=True, slots=True)
class Run:
    """One ``embedsvc index``. ``cpu``: seconds of it and its reading process; ``peak``: MB, of both together;
    ``private``: of these, at most so many at a time were not pages of files, which the system may take back."""

    code: int
    outcomes: list[dict[str, Any]]
    summary: dict[str, Any]
    wall: float
    cpu: float
    peak: float
    private: float


def index(paths: list[Path], data: Path, model: list[str]) -> Run:
    command = [sys.executable, "-m", "embedsvc", "index", *map(str, paths), "-c", NAME, "--json", *model]
    before, started, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), (0.0, 0.0)
    with tempfile.TemporaryFile("w+") as lines:
        environment = {**os.environ, "EMBEDSVC_RUNTIME": "onnx"}
        process = subprocess.Popen([*command, "--data-dir", str(data)], stdout=lines, env=environment)
        while process.poll() is None:
            peak = tuple(map(max, peak, tree_mb(process.pid)))
            time.sleep(0.02)
        wall = time.monotonic() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        lines.seek(0)
        parsed = [json.loads(line) for line in lines]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    outcomes = [line for line in parsed if "uri" in line]
    return Run(process.returncode, outcomes, parsed[-1].get("summary", {}) if parsed else {}, wall, cpu, *peak)


def tree_mb(pid: int) -> tuple[float, float]:
    """Resident memory of a process and of those that it started, and how much of it is not pages of files; shared
    pages count twice."""
    try:
        children = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children"))
        fields = dict(line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        own = [int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon")]
        rss, private = map(sum, zip(own, *(tree_mb(int(child)) for child in children.split()), strict=True))
        return rss, private
    except (OSError, KeyError):  # it has just ended
        return 0.0, 0.0


def formats(folder: Path, scratch: Path, model: list[str]) -> tuple[list[Figure], dict[str, Any]]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    run = index([folder], scratch / "formats", model)
    whole = [line for line in run.outcomes if "#" not in line["uri"]]
    counts = Counter((line["status"], kind(line)) for line in run.outcomes)
    told = {file_of(line) for line in run.outcomes}
    untyped = [line["uri"] for line in run.outcomes if line["status"] != "indexed" and not line["reason"]]
    readable = {file_of(line) for line in run.outcomes if kind(line) not in NOT_READABLE}
    gave = {file_of(line) for line in run.outcomes if line["passages"]}
    with_text = {uri for uri in readable if not any(fnmatch(uri.rpartition("/")[2], name) for name in WITHOUT_TEXT)}
    for (status, reason), count in sorted(counts.items()):
        print(f"  {status:<12} {reason:<14} {count}")
    for suffix, fates in sorted(by_suffix(run.outcomes).items()):
        print(f"  {suffix:<12} {fates.total():>3} files: {', '.join(f'{n} {fate}' for fate, n in fates.most_common())}")
    for uri in sorted(readable - gave):
        why = next(line["reason"] for line in run.outcomes if file_of(line) == uri)
        print(f"  no text: {uri.removeprefix(uri_of(folder))[:70]}  {(why or '')[:110]}")
    slowest = max(run.outcomes, key=lambda line: line["seconds"])
    print(f"  slowest: {slowest['uri'][-60:]}  {slowest['seconds']:.1f} s")
    timeouts = sum(reason == "timeout" for (_, reason), n in counts.items() for _ in range(n))
    figures = [
        Figure("formats: files", len(files), ""),
        at_most("formats: crashes of the main process", run.code not in (0, 1) or not run.summary, 0),
        at_most("formats: files that came to no outcome (hidden ones aside)", missing(files, folder, told), 0),
        at_most("formats: hangs (readers stopped at their time limit)", timeouts, 0),
        at_most("formats: not indexed, without a reason", len(untyped), 0),
        Figure("formats: neither unsupported nor locked", len(readable), ""),
        Figure("formats: of those, there is text in", len(with_text), ""),
        at_least("formats: of those, give text", 100 * len(gave & with_text) / max(1, len(with_text)), 97, "%"),
        Figure("formats: without text in them, yet give some", len(gave - with_text), ""),
        Figure("formats: longest that one file took", slowest["seconds"], "s"),
    ]
    return figures, {
        "formats": {f"{status} {reason}".strip(): count for (status, reason), count in sorted(counts.items())},
        "whole_files": len(whole),
    }


def file_of(line: dict[str, Any]) -> str:
    """The uri of the file that an outcome's document lay in: of a record, an attachment, a file of an archive."""
    return str(line["uri"]).partition("#")[0].partition("!/")[0]


def by_suffix(outcomes: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    """How many files of each suffix gave text, and what became of the others."""
    fates: dict[str, str] = {}
    for line in outcomes:
        fate = "text" if line["passages"] else kind(line) or line["status"]
        if fates.get(file_of(line)) != "text":
            fates[file_of(line)] = fate
    counts: dict[str, Counter[str]] = {}
    for uri, fate in fates.items():
        counts.setdefault(uri.rpartition(".")[2].lower(), Counter())[fate] += 1
    return counts


def kind(line: dict[str, Any]) -> str:
    """The typed reason of what was quarantined; of others none."""
    return line["reason"].partition(":")[0] if line["status"] == "quarantined" else ""


def missing(files: list[Path], folder: Path, told: set[str]) -> int:
    seen = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    return sum(uri_of(file) not in told for file in seen)


def uri_of(path: Path) -> str:
    """As documents are named: absolute, links not followed."""
    return Path(os.path.abspath(path)).as_uri()  # noqa: PTH100 (Path.absolute leaves "..", Path.resolve follows links)


def peps(folder: Path, scratch: Path, model: list[str], sample: int) -> tuple[list[Figure], dict[str, Any]]:
    one = scratch / "copies" / "0"
    shutil.copytree(folder, one)
    first = index([one], scratch / "data", model)
    again = index([one], scratch / "data", model)
    edited = max(one.rglob("*.rst"), key=lambda file: file.stat().st_size)
    before = passages(scratch / "data", edited)
    text = edited.read_text(encoding="utf-8")
    at = text.index(". ", len(text) // 2)
    edited.chmod(0o644)
    edited.write_text(f"{text[:at]} indeed{text[at:]}", encoding="utf-8")
    after_edit = index([one], scratch / "data", model)
    changed = sum(tokens for text, tokens in passages(scratch / "data", edited).items() if text not in before)

    for number in (1, 2, 3):
        shutil.copytree(folder, one.with_name(str(number)))
        for file in one.with_name(str(number)).rglob("*.rst"):
            file.chmod(0o644)
            file.write_text(f"Copy {number} of it.\n\n{file.read_text(encoding='utf-8')}", encoding="utf-8")
    quarter = one.with_name("quarter")
    for file in sorted(one.rglob("*.rst"))[::4]:
        (quarter / file.relative_to(one)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, quarter / file.relative_to(one))
    copies = [one.with_name(str(number)) for number in range(4)]
    ingested: dict[float, list[Path]] = {0.25: [quarter], **{count: copies[:count] for count in (1, 2, 4)}}
    runs = {count: index(paths, scratch / f"data-{count}", model) for count, paths in ingested.items()}

    def beside_index(count: float) -> float:
        return runs[count].peak - index_mb(scratch / f"data-{count}")

    wall, cpu = encoding(scratch / "data", sample)
    tokens = first.summary["encoded_tokens"]
    print(f"  {tokens:,} tokens; without encoding {first.wall:.1f} s, {first.cpu:.1f} s of CPU; encoding a million of")
    print(f"  tokens {1e6 * wall:.0f} s, {1e6 * cpu:.0f} s of CPU ({sample} passages, default model)")
    figures = [
        at_most("unchanged files again: time", again.wall, 2, "s"),
        at_most("unchanged files again: CPU time", again.cpu, 2, "s"),
        at_most("unchanged files again: tokens encoded", again.summary["encoded_tokens"], 0),
        Figure("one edited: tokens of the document", sum(before.values()), ""),
        at_most("one edited: tokens encoded", after_edit.summary["encoded_tokens"], changed),
        at_most("reading, tokenising, storing: share of CPU", 100 * first.cpu / (first.cpu + tokens * cpu), 10, "%"),
        at_most("the same, share of wall time", 100 * first.wall / (first.wall + tokens * wall), 10, "%"),
        *(at_most(f"memory, {count:g} x the folder: peak", run.peak, 1000, "MB") for count, run in runs.items()),
        Figure("memory: 4 x over 1 x", runs[4].peak / runs[1].peak, "x"),
        at_most("memory beside the vector index: 4 x over 1 x", beside_index(4) / beside_index(1), 1.1, "x"),
        *(Figure(f"not pages of files, {count:g} x: peak", run.private, "MB") for count, run in runs.items()),
    ]
    walls = {"first": first.wall, "again": again.wall, **{f"{count:g}x": run.wall for count, run in runs.items()}}
    return figures, {"tokens": tokens, "wall": walls, "passages": first.summary["passages"]}


def index_mb(data: Path) -> float:
    """Memory that the finished vector index takes in whoever searches, as the product tells it: that much has to be in
    memory when its largest segment is made."""
    command = [sys.executable, "-m", "embedsvc", "collections", "show", NAME, "--json", "--data-dir", str(data)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return float(told["index"]["bytes_per_vector"] * told["passages"] / 1e6)


def passages(data: Path, file: Path) -> dict[str, int]:
    """Tokens that are encoded for each of the document's passages, by their text: its own, and those of its title in
    front."""
    import lance

    from embedsvc.config import load_settings
    from embedsvc.context import context_of
    from embedsvc.encoding import load_encoder

    tokenizer = load_encoder(load_settings({"runtime": "onnx"})).tokenizer
    table = lance.dataset(str(data / NAME / "passages.lance")).to_table(
        columns=["title", "text", "tokens"], filter=f"uri = '{uri_of(file)}'"
    )
    encoded = {}
    for row in table.to_pylist():
        context = context_of(row["text"], uri=uri_of(file), title=row["title"], heading=None, shown="title")
        ids = tokenizer.encode(f"{context}\n", add_special_tokens=False).ids if context else []
        encoded[row["text"]] = row["tokens"] + len(ids)
    return encoded


def encoding(data: Path, sample: int) -> tuple[float, float]:
    """Wall and CPU seconds that the default model takes for a token of passages out of the collection."""
    import lance

    from embedsvc.config import load_settings
    from embedsvc.encoding import load_encoder

    texts = lance.dataset(str(data / NAME / "passages.lance")).to_table(columns=["text"])["text"].to_pylist()
    encoder = load_encoder(load_settings({"runtime": "onnx"}))
    ids = [
        encoder.tokenizer.encode(text, add_special_tokens=False).ids for text in random.Random(0).sample(texts, sample)
    ]
    encoder.encode(ids[:2], kind="passage")
    started, cpu = time.perf_counter(), time.process_time()
    encoder.encode(ids, kind="passage")
    tokens = sum(map(len, ids))
    return (time.perf_counter() - started) / tokens, (time.process_time() - cpu) / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peps", type=Path, default=Path("../shared/data/long/peps"), metavar="FOLDER")
    parser.add_argument("--formats", type=Path, default=Path("../shared/data/formats"), metavar="FOLDER")
    parser.add_argument("--sample", type=int, default=48, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    given = parser.parse_args()
    from tests.tiny_models import make_shallow

    figures: list[Figure] = []
    context: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = ["--model", str(make_shallow(Path(folder) / "model")), "--dtype", "fp32"]
        measures = {given.formats: lambda: formats(given.formats, Path(folder), model)}
        measures[given.peps] = lambda: peps(given.peps, Path(folder), model, given.sample)
        for data, measure in measures.items():
            if not data.is_dir():
                print(f"skipped: there is no {data}")
                continue
            found, more = measure()
            report(found, None)
            figures += found
            context |= more
    report(figures, given.json, **context)


if __name__ == "__main__":
    main()
