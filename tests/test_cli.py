from __future__ import annotations

import importlib.metadata
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedsvc.checks
import embedsvc.cli
from embedsvc import __version__
from embedsvc.cli.output import shown_uri
from embedsvc.cli.stdlib import stdlib_documents
from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.records import document_id
from tests.conftest import normal_user, skip_unless_root, write_tree
from tests.tiny_models import make_bert

Run = Callable[..., "Done"]


class Done:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """The command line in this process, from its arguments to its exit code."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["embedsvc", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            embedsvc.cli.main()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Done(left.value.code if isinstance(left.value.code, int) else 1, out, err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "embedsvc", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def refused(done: Done, code: int, *says: str) -> None:
    """It ended with ``code``, with nothing on stdout and one message on stderr."""
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("embedsvc: ")
    for piece in says:
        assert piece in done.err


# -- what every command prints ------------------------------------------------------------------------------------


def test_version_and_help(run: Run) -> None:
    assert run("--version").out.strip() == __version__
    for command in ("index", "search", "serve", "eval", "collections", "doctor", "demo"):
        assert command in run("--help").out
        assert run(command, "--help").code == 0


def test_index_reports_each_input_and_a_summary_as_json_lines(run: Run, tmp_path: Path) -> None:
    files = write_tree(tmp_path / "f", {"a.txt": "Rivers flow.", "b.md": "# B\n\nStones lie.", "empty.txt": ""})
    (files / "junk.txt").write_bytes(bytes(range(256)) * 9)
    done = run("index", files, "-c", "c", "--json", "--data-dir", tmp_path / "d")
    assert done.code == 1
    *lines, last = done.lines
    by_name = {line["uri"].rpartition("/")[2]: line for line in lines}
    assert {name: line["status"] for name, line in by_name.items()} == {
        "a.txt": "indexed", "b.md": "indexed", "empty.txt": "empty", "junk.txt": "quarantined",
    }  # fmt: skip
    for line in lines:
        assert {"uri", "status", "passages", "tokens", "seconds", "reason"} <= line.keys()
    assert by_name["a.txt"]["reason"] is None
    assert by_name["empty.txt"]["reason"]
    assert by_name["junk.txt"]["reason"].startswith("binary")
    summary = last["summary"]
    assert {key: summary[key] for key in ("collection", "inputs", "indexed", "empty", "quarantined", "passages")} == {
        "collection": "c", "inputs": 4, "indexed": 2, "empty": 1, "quarantined": 1, "passages": 2,
    }  # fmt: skip
    (files / "junk.txt").unlink()
    again = run("index", files, "-c", "c", "--json", "--data-dir", tmp_path / "d")
    assert again.code == 0
    assert [line["status"] for line in again.lines[:-1]].count("unchanged") == 2


def test_index_reads_standard_input(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def piped(data: bytes, *arguments: object) -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return run("index", *arguments, "-c", "c", "--json", "--data-dir", tmp_path / "d")

    first, summary = piped(b"# Rivers\n\nThey flow.", "-", "--name", "a b.md").lines
    assert (first["uri"], first["status"], summary["summary"]["indexed"]) == ("stdin:a%20b.md", "indexed", 1)
    assert piped(b"# Rivers\n\nThey flow.", "-", "--name", "a b.md").lines[0]["status"] == "unchanged"
    assert piped(b"<html><p>Stones lie.", "-").lines[0]["uri"] == "stdin:stdin"
    too_large = piped(b"x" * 1_000_001, "-", "--max-file-mb", 1)
    assert (too_large.code, too_large.lines[0]["reason"].partition(":")[0]) == (1, "too_large")
    refused(piped(b"", "-", tmp_path), 2, "alone")
    refused(piped(b"", "-", "--exact"), 2, "alone")


def test_index_tells_a_person_what_was_left_out_and_why(run: Run, tmp_path: Path) -> None:
    files = write_tree(tmp_path / "f", {"a.txt": "Rivers flow.", "empty.txt": "", "r.jsonl": '{"nothing": 1}\n'})
    done = run("index", files, "-c", "c", "--data-dir", tmp_path / "d")
    assert done.code == 1
    assert "empty.txt" in done.out
    assert "missing_field" in done.out
    assert "a.txt" not in done.out
    assert "now holds 1 passages" in done.out


def test_where_nobody_looks_on_progress_is_a_line_now_and_then(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedsvc import filling, ingest
    from embedsvc.cli import progress

    files = write_tree(tmp_path / "f", {"a.txt": "Rivers flow.", "b.txt": "Stones lie there."})
    assert run("index", files, "-c", "c", "--data-dir", tmp_path / "d").err == ""
    monkeypatch.setattr(progress, "TELL_SECONDS", 0.0)
    for module in (filling, ingest):
        monkeypatch.setattr(module, "TELL_SECONDS", 60)  # however long it takes to read and encode them
    lines = run("index", files, "-c", "e", "--data-dir", tmp_path / "d").err.splitlines()
    assert len(lines) == 2
    assert re.search(r"  100%  2 documents  2 passages  [\d,]+ tokens/s, about 0 min left$", lines[1])
    assert run("index", files, "-c", "e", "--json", "--data-dir", tmp_path / "d").err == ""


def test_documents_like_another_one_are_told_and_left_out_on_request(run: Run, tmp_path: Path) -> None:
    text = "Rivers flow, and stones lie where they are, whatever the season."
    files = write_tree(
        tmp_path / "f", {"a.txt": text, "b.txt": f"{text}\n", **{f"c{n:02}.txt": text for n in range(25)}}
    )
    done = run("index", files, "-c", "c", "--data-dir", tmp_path / "d")
    assert (done.code, done.err) == (0, "")
    assert "b.txt  is like" in done.out
    assert "a.txt (1.00)" in done.out
    assert "and 6 more" in done.out
    assert "26 of these are like another" in " ".join(done.out.split())
    *lines, last = run("index", files, "-c", "e", "--duplicates", "drop", "--json", "--data-dir", tmp_path / "d").lines
    uri = (files / "a.txt").as_uri()
    like = {"id": document_id(uri), "uri": uri, "similarity": 1.0}
    assert {line["uri"]: line["like"] for line in lines}[like["uri"]] is None
    assert [line["like"] for line in lines if line["status"] == "duplicate"] == [like] * 26
    assert {key: last["summary"][key] for key in ("indexed", "duplicate", "alike")} == {
        "indexed": 1, "duplicate": 26, "alike": 26,
    }  # fmt: skip
    refused(
        run("index", files, "-c", "c", "--duplicates", "merge", "--data-dir", tmp_path / "d"), 2, "report, drop, ignore"
    )


def test_exact_and_fields_and_limits_reach_the_ingest(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "d"
    files = write_tree(
        tmp_path / "f",
        {
            "a.txt": "Rivers flow.",
            "r.jsonl": '{"key": "k1", "head": "Title", "body": "no", "prose": "Stones lie.", "y": 1}\n',
        },
    )
    flags = ("--text-field", "prose", "--title-field", "head", "--id-field", "key", "--metadata-field", "y")
    assert run("index", files, "-c", "c", "--data-dir", data, *flags).code == 0
    [hit, *_] = run("search", "stones", "-c", "c", "--json", "--data-dir", data).json["hits"]
    assert hit["uri"].endswith("#k1")
    assert (hit["title"], hit["text"], hit["metadata"]) == ("Title", "Stones lie.", {"y": 1})
    (files / "a.txt").unlink()
    assert "removed" in run("index", files, "-c", "c", "--exact", "--data-dir", data, *flags).out
    (files / "big.txt").write_text("long " * 300_000)
    limited = run("index", files, "-c", "c", "--data-dir", data, "--max-file-mb", 1, "--json", *flags)
    assert [line["reason"][:9] for line in limited.lines[:-1] if line["status"] == "quarantined"] == ["too_large"]
    # An emptied folder may be brought in step, too.
    for file in files.iterdir():
        file.unlink()
    assert run("index", files, "-c", "c", "--exact", "--data-dir", data).code == 0
    assert run("collections", "show", "c", "--json", "--data-dir", data).json["passages"] == 0


def test_excludes_and_includes_reach_the_ingest(run: Run, tmp_path: Path) -> None:
    files = write_tree(
        tmp_path / "f", {"a.txt": "Rivers.", "b.log": "Stones.", "sub/c.txt": "Bones.", "d.md": "Trees."}
    )
    to_c = ("-c", "c", "--json", "--data-dir", tmp_path / "d")

    def statuses(*flags: str) -> dict[str, str]:
        done = run("index", files, *to_c, *flags)
        assert done.code == 0, done.err
        return {line["uri"].rpartition("/")[2]: line["status"] for line in done.lines[:-1]}

    assert statuses("--include", "*.txt", "--include", "*.log", "--exclude", "/sub") == {
        "a.txt": "indexed", "b.log": "indexed",
    }  # fmt: skip
    assert statuses("--exclude", "*.log", "--exclude", "/sub", "--exact") == {
        "a.txt": "unchanged", "b.log": "removed", "d.md": "indexed",
    }  # fmt: skip
    refused(run("index", files, *to_c, "--exclude", "*"), 2, "--exclude")


def test_an_exact_run_that_takes_nothing_does_not_empty_a_collection(run: Run, tmp_path: Path) -> None:
    files = write_tree(tmp_path / "f", {"a.txt": "Rivers.", "b.txt": "Stones."})
    to_c = ("-c", "c", "--data-dir", tmp_path / "d")
    assert run("index", files, *to_c).code == 0
    for how in ("--exact", "--watch"):
        refused(run("index", files, *to_c, how, "--include", "*.xyz"), 2, "2 of collection 'c'", "collections delete c")
    (files / ".embedsvcignore").write_text("*\n")
    refused(run("index", files, *to_c, "--exact"), 2, ".embedsvcignore")
    assert run("collections", "show", "c", "--json", "--data-dir", tmp_path / "d").json["passages"] == 2
    other = write_tree(tmp_path / "other", {"c.md": "Bones."})
    assert run("index", other, *to_c, "--exact", "--include", "*.xyz").code == 0, "nothing of it is stored"


@pytest.mark.parametrize("pattern", ["[", "a\\", "", "#a"])
def test_a_pattern_that_can_match_nothing_is_refused(run: Run, tmp_path: Path, pattern: str) -> None:
    files = write_tree(tmp_path / "f", {"a.txt": "Rivers."})
    refused(run("index", files, "-c", "c", "--exclude", pattern, "--data-dir", tmp_path / "d"), 2, repr(pattern))


def test_urls_of_files_are_paths_and_other_schemes_are_refused(run: Run, tmp_path: Path) -> None:
    files = write_tree(tmp_path / "f", {"a b.txt": "Rivers."})
    uri = (files / "a b.txt").as_uri()
    to_c = ("-c", "c", "--data-dir", tmp_path / "d")
    assert [line["uri"] for line in run("index", f"{uri}#page=2", *to_c, "--json").lines[:-1]] == [uri]
    refused(run("index", "ftp://x/y", *to_c), 2, "ftp:// is not fetched")
    refused(run("index", "file://host/y", *to_c), 2, "no file of this machine")


def test_a_renamed_file_is_not_told_as_a_copy(run: Run, tmp_path: Path) -> None:
    files = write_tree(tmp_path / "f", {"a.txt": "Rivers flow, and stones lie where they are, whatever the season."})
    to_c = ("-c", "c", "--data-dir", tmp_path / "d")
    run("index", files, *to_c)
    (files / "a.txt").rename(files / "b.txt")
    told = run("index", files, *to_c).out
    assert "a.txt (1.00), which is no longer there; --exact removes it" in told
    assert "--duplicates drop" not in told
    assert "removed" in run("index", files, *to_c, "--exact").out


def test_what_cannot_be_watched(run: Run, tmp_path: Path) -> None:
    refused(run("index", "https://e.example/", "-c", "c", "--watch", "--data-dir", tmp_path / "d"), 2, "watched")
    assert not (tmp_path / "d").exists()


def test_a_url_that_is_not_fetched_is_listed(run: Run, tmp_path: Path) -> None:
    command = ("index", "http://127.0.0.1:9/", "-c", "c", "--json", "--data-dir", tmp_path / "d")
    done = run(*command)
    assert done.code == 1
    assert done.lines[0]["reason"].startswith("private_address")
    done = run(
        "index", "http://127.0.0.1:9/", "-c", "c", "--json", "--data-dir", tmp_path / "d", "--allow-private-urls"
    )
    assert done.lines[0]["reason"].startswith("not_fetched")


def test_search_as_json(run: Run, library: Path, library_files: Path) -> None:
    done = run("search", "vitamin D and bones", "-c", "library", "-k", 2, "--json", "--data-dir", library)
    assert done.code == 0
    answer = done.json
    assert answer.keys() == {"query", "collection", "version", "mode", "took_ms", "answerable", "warnings", "hits"}
    assert (answer["query"], answer["collection"], answer["mode"]) == ("vitamin D and bones", "library", "hybrid")
    assert len(answer["hits"]) == 2
    hit = answer["hits"][0]
    assert hit.keys() == {
        "id", "document_id", "uri", "title", "text", "start", "end", "page", "heading", "score", "scores",
        "confidence", "metadata",
    }  # fmt: skip
    assert hit["uri"] == (library_files / "papers.jsonl").as_uri() + "#p1"
    assert hit["metadata"] == {"year": 2011}
    assert hit["scores"].keys() == {"dense", "lexical", "rerank"}
    assert hit["scores"]["rerank"] is None


def test_search_for_a_person(run: Run, library: Path, library_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(library_files)
    done = run("search", "largest planet", "-c", "library", "-k", 1, "--data-dir", library)
    assert done.code == 0
    assert "notes/astronomy.txt [0:" in done.out
    assert str(library_files) not in done.out
    assert "Jupiter is the largest planet." in done.out
    assert "1 hit in" in done.out
    told = run("search", "largest planet", "-c", "library", "-k", 1, "--explain", "--data-dir", library)
    assert "fuse 1 (" in told.out
    assert "candidates" in told.out
    weighted = run("search", "largest planet", "-c", "library", "--weight", 2, "--data-dir", library)
    refused(weighted, 2, "weight is 2")


def test_search_options_reach_the_search(run: Run, library: Path) -> None:
    flags = ("-c", "library", "--json", "--data-dir", library)
    lexical = run("search", "planets", "--mode", "lexical", *flags).json
    assert lexical["mode"] == "lexical"
    assert [hit["uri"].rpartition("/")[2] for hit in lexical["hits"]] == ["astronomy.txt"]
    for narrow in (["--narrow"], ["--narrow-tokens", 1]):
        narrowed = run("search", "planets", "--explain", *narrow, *flags).json
        assert "narrow" in [step["stage"] for step in narrowed["explain"]["stages"]]
    refused(run("search", "planets", "--narrow-tokens", 0, *flags), 2, "--narrow-tokens is 0 tokens")
    filtered = run("search", "health", "--filter", "metadata.year >= 2020", *flags).json
    assert [hit["metadata"] for hit in filtered["hits"]] == [{"year": 2020}]
    assert run("search", "planets", "--min-score", 1.1, *flags).json["hits"] == []
    for year in (2011, 2020):
        boost = f'{{"filter": "metadata.year = {year}", "factor": 100}}'
        chosen = run("search", "health", "--boost", boost, "--group-by", "document", "--diversity", 0.1, *flags).json
        assert chosen["hits"][0]["metadata"] == {"year": year}
    for wrong, said in (
        (("--boost", "{"), "--boost '{' is not JSON"),
        (("--boost", "3"), "--boost '3' is not a JSON object"),
        (("--boost", '{"factor": 2}'), "A boost is given factor;"),
        (("--per-group", 2), "--per-group is about groups: give --group-by too"),
        (("--no-merge", "--narrow"), "--no-merge lets them: ask for one of the two"),
        (("--no-merge", "--narrow-tokens", 40), "--narrow-tokens lets no two hits share text"),
        (("--duplicates", "some"), "duplicates is 'some'"),
        (("--group-by", "metadata.none"), "No passage of 'library' has a value in metadata.none"),
    ):
        refused(run("search", "planets", *wrong, "-c", "library", "--data-dir", library), 2, said)
    refused(run("search", "planet " * 600, *flags), 2, "or give --on-overflow split or truncate.")
    long = run("search", "planet " * 600, "--on-overflow", "truncate", *flags)
    assert long.json["tokens_cut"] == 90


def test_show_tells_how_many_vectors_the_passages_have(run: Run, tmp_path: Path) -> None:
    files = write_tree(tmp_path / "f", {"a.txt": "Rivers flow and stones lie still. " * 12, "b.txt": "Short."})
    at = ("-c", "c", "--data-dir", tmp_path / "d")
    assert (
        run("index", files, "--chunk-tokens", 128, "--finer-tokens", 48, "--chunk-context", "headings", *at).code == 0
    )
    shown = run("collections", "show", "c", "--json", "--data-dir", tmp_path / "d").json
    chunking = shown["chunking"]
    assert (chunking["window"], chunking["finer"], chunking["context"]) == (128, 48, "headings")
    assert (shown["passages"], shown["vectors"]) == (2, 1 + 3 + 1)
    assert len(run("search", "stones", "--json", *at).json["hits"]) == 2


def test_collections_list_show_and_delete(run: Run, library: Path) -> None:
    at = ("--data-dir", library)
    [listed] = run("collections", "list", "--json", *at).json["collections"]
    shown = run("collections", "show", "library", "--json", *at).json
    assert listed == shown
    assert shown.keys() == {"name", "documents", "passages", "version", "contract", "chunking", "index", "bytes"}
    assert (shown["name"], shown["documents"], shown["passages"]) == ("library", 5, 5)
    assert shown["contract"]["dimension"] == 384
    assert "canary_vectors" not in shown["contract"]
    assert (shown["chunking"]["window"], shown["chunking"]["overlap"]) == (512, 64)
    assert (shown["index"]["kind"], shown["index"]["recall@10"]) == ("flat", 1.0)
    assert shown["bytes"] > 5000
    assert "library" in run("collections", "list", *at).out
    assert "contract.dimension" in run("collections", "show", "library", *at).out
    assert run("collections", "delete", "library", "--yes", "--json", *at).json == {"deleted": "library"}
    assert run("collections", "list", "--json", *at).json == {"collections": []}
    assert "no collections" in run("collections", "list", *at).out


def test_delete_asks_first(library: Path) -> None:
    for answer, code, left in (("n\n", 1, True), ("", 1, True), ("y\n", 0, False)):
        with start("collections", "delete", "library", "--data-dir", library, stdin=subprocess.PIPE) as process:
            _, err = process.communicate(answer)
        assert (process.returncode, (library / "library").exists()) == (code, left), answer
        assert "for good?" in err


def test_export_and_import(run: Run, library: Path, tmp_path: Path) -> None:
    file = tmp_path / "carried.parquet"
    assert run("collections", "export", "library", file, "--json", "--data-dir", library).json["passages"] == 5
    done = run("collections", "import", file, "--json", "--data-dir", library)
    assert done.json == {"name": "carried", "passages": 5}
    assert run("collections", "import", file, "-c", "other", "--data-dir", library).code == 0
    for name in ("carried", "other"):
        [hit] = run("search", "largest planet", "-c", name, "-k", 1, "--json", "--data-dir", library).json["hits"]
        assert hit["uri"].endswith("astronomy.txt")
    refused(run("collections", "import", file, "--data-dir", library), 2, "exists already")
    file.write_bytes(file.read_bytes()[:-100])
    refused(run("collections", "import", file, "-c", "third", "--data-dir", library), 2, "Export the collection again")
    refused(run("collections", "export", "library", tmp_path / "no" / "x", "--data-dir", library), 2, "no folder")


def test_doctor(run: Run, library: Path) -> None:
    done = run("doctor", "library", "--json", "--data-dir", library)
    assert done.code == 0
    assert done.json["ok"] is True
    checks = {check["name"]: check for check in done.json["checks"]}
    assert {"encoder", "parity", "faiss", "library: store", "library: index recall@10"} <= checks.keys()
    assert all(check["ok"] and check["detail"] for check in checks.values())


def test_a_place_that_may_not_be_looked_at_is_the_machines_fault(run: Run, tmp_path: Path) -> None:
    skip_unless_root()
    command = ("eval", tmp_path / "beir", "--data-dir", "/")
    refused(run(*command), 2)  # and is imported
    with normal_user():
        refused(run(*command), 2, f"{tmp_path / 'beir'}: Permission denied")


def test_doctor_where_nothing_is_exported(run: Run, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the container's image, which has neither torch nor sentence-transformers."""
    found = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name in ("torch", "sentence-transformers"):
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    done = run("doctor", "--json", "--data-dir", library)
    assert done.code == 0, done
    details = {check["name"]: check["detail"] for check in done.json["checks"]}
    assert "torch not installed, sentence-transformers not installed, onnxruntime" in details["packages"]
    assert details["parity"].startswith("not looked at here")
    assert "pip install sentence-transformers" in details["parity"]


def test_what_measures_is_told_where_it_is_missing(
    run: Run, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("embedsvc.evaluate", "embedsvc.cli.evaluating"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(embedsvc.cli, "evaluating", raising=False)
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    for command in (("eval", "-c"), ("collections", "migrate", "--dtype", "fp32", "--qrels", tmp_path)):
        refused(run(*command, "library", "--data-dir", library), 2, "pip install ir-measures")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: table.drop(["document_id", "text"]), "lacks the column(s) document_id, text"),
        (lambda table: table.append_column("extra", [[1] * len(table)]), "has the column(s) extra"),
        (lambda table: _with(table, "metadata", ["{no json"] * len(table)), "metadata in it are no JSON"),
        (lambda table: _with(table, "start", ["x"] * len(table)), "is damaged"),
        (lambda table: _with(table, "metadata", [1] * len(table)), "is damaged"),
        (lambda table: _with(table, "vector", [[math.nan] * 384] * len(table)), "no finite number"),
    ],
)
def test_an_export_that_was_changed_is_not_imported(
    run: Run, library: Path, tmp_path: Path, change: Callable[[pa.Table], pa.Table], says: str
) -> None:
    file, data = tmp_path / "c.parquet", tmp_path / "other"
    assert run("collections", "export", "library", file, "--data-dir", library).code == 0
    pq.write_table(change(pq.read_table(file)), file)
    refused(run("collections", "import", file, "-c", "copy", "--data-dir", data), 2, says)
    assert not list(data.glob("**/*.lance"))


def test_the_order_of_columns_in_an_export_is_nobodys_business(run: Run, library: Path, tmp_path: Path) -> None:
    file, data = tmp_path / "c.parquet", tmp_path / "other"
    assert run("collections", "export", "library", file, "--data-dir", library).code == 0
    table = pq.read_table(file)
    pq.write_table(table.select(table.column_names[::-1]), file)
    assert run("collections", "import", file, "-c", "copy", "--data-dir", data).code == 0


def _with(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, [values])


def test_doctor_finds_a_damaged_collection(run: Run, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedsvc.checks, "check_environment", lambda settings: iter(()))  # seconds, tested above
    damage_store(library)
    done = run("doctor", "library", "--data-dir", library)
    assert done.code == 3
    assert "FAILED" in done.out
    assert run("doctor", "library", "--json", "--data-dir", library).json["ok"] is False


# -- bad input ----------------------------------------------------------------------------------------------------


def damage_store(library: Path) -> None:
    for manifest in (library / "library" / "passages.lance").rglob("*.manifest"):
        manifest.write_bytes(b"junk")


def test_usage_errors_are_2(run: Run) -> None:
    assert run("search").code == 2
    assert run("search", "x", "-c", "c", "-k", "many").code == 2
    assert run("nonsense").code == 2
    assert run("index", "--nonsense").code == 2


def test_a_missing_path(run: Run, tmp_path: Path) -> None:
    done = run("index", tmp_path / "nowhere", "-c", "c", "--data-dir", tmp_path / "d")
    refused(done, 2, f"{tmp_path}/nowhere does not exist", f"{tmp_path} is there")
    assert not (tmp_path / "d").exists()


def test_an_empty_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("index", tmp_path / "empty", "-c", "c", "--data-dir", tmp_path / "d")
    refused(done, 2, "no file to index", f"{tmp_path}/empty")
    assert not (tmp_path / "d").exists()


def test_files_that_cannot_be_read_are_listed_and_the_rest_is_searchable(run: Run, tmp_path: Path) -> None:
    files = write_tree(tmp_path / "f", {"good.txt": "Penguins swim.", "zero.txt": ""})
    (files / "junk.dat").write_bytes(bytes(range(256)) * 40)
    (files / "loop").symlink_to(files)
    (files / "self.txt").symlink_to(files / "self.txt")
    (files / "locked.pdf").write_bytes(b"%PDF-1.4\n%broken")
    (files / "broken.docx").write_bytes(b"PK\x03\x04")
    done = run("index", files, "-c", "c", "--json", "--data-dir", tmp_path / "d")
    assert done.code == 1
    status = {line["uri"].rpartition("/")[2]: line["status"] for line in done.lines[:-1]}
    assert status.pop("good.txt") == "indexed"
    assert status.pop("zero.txt") == "empty"
    assert status == dict.fromkeys(("junk.dat", "loop", "self.txt", "locked.pdf", "broken.docx"), "quarantined")
    found = run("search", "penguins", "-c", "c", "--json", "--data-dir", tmp_path / "d").json
    assert [hit["text"] for hit in found["hits"]] == ["Penguins swim."]


@pytest.mark.parametrize(
    "command",
    [("search", "x", "-c", "libary"), ("collections", "show", "libary"), ("collections", "delete", "libary", "--yes"),
     ("collections", "export", "libary", "x.parquet")],
    ids=["search", "show", "delete", "export"],
)  # fmt: skip
def test_an_unknown_collection_brings_the_nearest_name(run: Run, library: Path, command: tuple[str, ...]) -> None:
    refused(run(*command, "--data-dir", library), 2, "no collection 'libary'", "Did you mean 'library'?")


@pytest.mark.parametrize(
    ("query", "flags", "says"),
    [
        ("x", ("-k", "0"), "k is 0"),
        ("x", ("-k", "5000"), "1 to 1000"),
        ("  ", (), "query is empty"),
        ("x", ("--mode", "fuzzy"), "'fuzzy'"),
        ("x", ("--filter", "yaer > 3"), "unknown field 'yaer'"),
        ("x", ("--filter", "metadata.year >"), "something is missing"),
        ("x", ("--filter", "tokens", "--mode", "lexical"), "Bad filter"),
        ("x", ("--on-overflow", "guess"), "error, split, truncate"),
        ("x", ("--min-score", "nan"), "--min-score is not a number"),
        ("planet " * 600, (), "600 tokens"),
    ],
)
def test_bad_searches(run: Run, library: Path, query: str, flags: tuple[str, ...], says: str) -> None:
    for json_flag in ((), ("--json",)):
        refused(run("search", query, "-c", "library", *flags, *json_flag, "--data-dir", library), 2, says)


def test_a_query_that_is_not_utf8_is_asked_all_the_same(run: Run, library: Path) -> None:
    done = run("search", "planets \udcff and stars", "-c", "library", "--json", "--data-dir", library)
    assert done.code == 0
    assert done.json["hits"]


def test_output_that_cannot_be_written(library: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "embedsvc", "collections", "list", "--data-dir", str(library)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "embedsvc: The output cannot be written: No space left on device.\n"


def test_what_is_indexed_does_not_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "\x1b[31mred.md").write_text("# \x1b[32mTitle\n\nSome \x1b[2Jtext about stones.")
    (tmp_path / "t" / "bad\x1b[31m.pdf").write_text("junk")
    report = run("index", tmp_path / "t", "-c", "x", "--data-dir", tmp_path / "d")
    found = run("search", "stones", "-c", "x", "--data-dir", tmp_path / "d")
    assert "red.md" in found.out
    assert "\x1b" not in report.out + found.out


@pytest.mark.parametrize("command", [("collections", "list"), ("search", "x", "-c", "x"), ("index", ".", "-c", "x")])
def test_a_data_directory_that_is_a_file(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("x")
    refused(run(*command, "--data-dir", tmp_path / "file"), 2, "is a file, not a folder")


@pytest.mark.parametrize("how", ["altered", "gone"])
@pytest.mark.parametrize("command", [("search", "planets"), ("export",), ("doctor",)])
def test_damaged_data_files_are_said_to_be_damaged(
    run: Run, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, command: tuple[str, ...]
) -> None:
    for folder in ("data", "_indices"):
        for file in (library / "library" / "passages.lance" / folder).rglob("*.lance"):
            file.unlink() if how == "gone" else file.write_bytes(bytes(255 - b for b in file.read_bytes()))
    if command == ("export",):
        done = run("collections", "export", "library", tmp_path / "x.parquet", "--data-dir", library)
    elif command == ("doctor",):
        monkeypatch.setattr(embedsvc.checks, "check_environment", lambda settings: iter(()))  # seconds, tested above
        done = run("doctor", "library", "--data-dir", library)
    else:
        done = run(*command, "-c", "library", "--data-dir", library)
    assert done.code == 3
    assert "cannot be read as a collection" in done.out + done.err


def test_a_bad_filter_points_at_the_spot(run: Run, library: Path) -> None:
    done = run("search", "x", "-c", "library", "--filter", "tokens > 1 AND yaer > 3", "--data-dir", library)
    lines = done.err.splitlines()
    assert lines[-2][lines[-1].index("^") :].startswith("yaer")


def test_a_bad_collection_name(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    for name in ("../up", ".hidden", "two words"):
        refused(
            run("index", tmp_path / "a.txt", "-c", name, "--data-dir", tmp_path / "d"), 2, "cannot name a collection"
        )
        refused(run("search", "x", "-c", name, "--data-dir", tmp_path / "d"), 2, "cannot name a collection")
    assert not (tmp_path / "d").exists()


def test_another_model_than_the_collection_has(run: Run, library: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    folder = make_bert(tmp_path / "model")
    own = ("--model", folder, "--runtime", "torch", "--dtype", "fp32")
    done = run("index", tmp_path / "a.txt", "-c", "library", *own, "--data-dir", library)
    refused(done, 3, "is not the one that made the collection's vectors")
    done = run("index", tmp_path / "a.txt", "-c", "library", "--dtype", "fp32", "--data-dir", library)
    refused(done, 3, "dtype", "--dtype int8")
    refused(run("index", tmp_path / "a.txt", "-c", "library", "--overlap", 9, "--data-dir", library), 2, "overlap 64")
    done = run("index", tmp_path / "a.txt", "-c", "library", "--finer-tokens", 32, "--data-dir", library)
    refused(done, 2, "finer_tokens 0, not 32")


def test_a_model_that_is_not_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    done = run("index", tmp_path / "a.txt", "-c", "c", "--model", tmp_path / "none", "--data-dir", tmp_path / "d")
    refused(done, 2, str(tmp_path / "none"))
    assert not (tmp_path / "d").exists()


def test_a_data_directory_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    refused(run("index", tmp_path / "a.txt", "-c", "c", "--data-dir", tmp_path / "a.txt" / "d"), 2, "a.txt/d")


@pytest.fixture
def read_only(library: Path) -> Iterator[Path]:
    """The data directory on a file system that is mounted read-only: root, too, may not write there."""
    mount = subprocess.run(["mount", "--bind", library, library], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("may not mount here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", library], check=True)
        yield library
    finally:
        subprocess.run(["umount", "-l", library], check=True)


def test_a_read_only_data_directory_is_searched_but_not_written(run: Run, read_only: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    for name in ("library", "new"):
        done = run("index", tmp_path / "a.txt", "-c", name, "--data-dir", read_only)
        refused(done, 2, "cannot be written", "--data-dir")
    refused(run("collections", "delete", "library", "--yes", "--data-dir", read_only), 2, str(read_only))
    [hit] = run("search", "largest planet", "-c", "library", "-k", 1, "--json", "--data-dir", read_only).json["hits"]
    assert hit["uri"].endswith("astronomy.txt")


def test_a_damaged_index_is_built_again_with_a_warning(library: Path) -> None:
    indexed = {**os.environ, "EMBEDSVC_EXACT_PASSAGES": "0"}
    search = ("search", "largest planet", "-c", "library", "-k", 1, "--json", "--data-dir", library)
    with start(*search, env=indexed) as process:
        process.communicate()
    (vectors,) = (library / "library" / "faiss").rglob("vectors.npy")
    vectors.write_bytes(vectors.read_bytes()[:-7])
    with start(*search, env=indexed) as process:
        out, err = process.communicate()
    assert process.returncode == 0
    assert json.loads(out)["hits"][0]["uri"].endswith("astronomy.txt")
    assert "built again" in err
    assert "WARNING" in err
    assert "Traceback" not in err


def test_a_damaged_store_is_3(run: Run, library: Path) -> None:
    damage_store(library)
    refused(run("search", "x", "-c", "library", "--data-dir", library), 3, "cannot be read as a collection")
    refused(run("collections", "show", "library", "--data-dir", library), 3, "collections repair library")


def test_a_damaged_collection_does_not_hide_the_others(run: Run, library: Path, tmp_path: Path) -> None:
    run("collections", "export", "library", tmp_path / "copy.parquet", "--data-dir", library)
    run("collections", "import", tmp_path / "copy.parquet", "--data-dir", library)
    damage_store(library)
    done = run("collections", "list", "--json", "--data-dir", library)
    assert done.code == 3
    copy, damaged = done.json["collections"]
    assert (copy["name"], copy["passages"]) == ("copy", 5)
    assert damaged["name"] == "library"
    assert "cannot be read" in damaged["error"]
    assert "copy" in run("collections", "list", "--data-dir", library).out


def test_a_bad_setting_names_where_it_stands(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSVC_THREADS", "many")
    refused(run("collections", "list"), 2, "EMBEDSVC_THREADS", "'many'")


def test_eval_of_what_is_no_beir_folder(run: Run, tmp_path: Path) -> None:
    refused(run("eval", tmp_path), 2, str(tmp_path))


# -- stopped, and nobody listening --------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_index_says_so_and_is_consistent(tmp_path: Path, number: int, code: int) -> None:
    files = write_tree(tmp_path / "f", {f"{at:03}.txt": f"File {at} speaks of rivers. " * 25 for at in range(40)})
    data = tmp_path / "d"
    arguments = ("index", files, "-c", "c", "--json", "--data-dir", data)
    with start(*arguments, env={**os.environ, "EMBEDSVC_COMMIT_TOKENS": "500"}) as process:
        assert process.stdout
        assert process.stderr
        told = [process.stdout.readline()]
        process.send_signal(number)
        told += process.stdout.read().splitlines()
        err = process.stderr.read()
        process.wait()
    assert process.returncode == code
    assert "Stopped" in err
    assert "Traceback" not in err
    uris = {json.loads(line)["uri"] for line in told}
    assert 0 < len(uris) < 40
    snapshot = Collection.open("c", Settings(data_dir=data)).snapshot()
    assert uris <= {document.uri for document in snapshot.store.documents()}
    assert len(snapshot.index) == snapshot.store.count()
    assert list(data.rglob("*.tmp")) == []
    with start(*arguments) as again:
        out, _ = again.communicate()
    assert json.loads(out.splitlines()[-1])["summary"]["unchanged"] >= len(uris)
    assert Collection.open("c", Settings(data_dir=data)).snapshot().store.count_documents() == 40


@pytest.mark.parametrize(
    "command",
    [("search", "x", "-c", "library"), ("search", "x", "-c", "library", "--json"), ("collections", "list")],
)
def test_a_reader_that_left_is_no_traceback(library: Path, command: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "embedsvc", *command, "--data-dir", str(library)],
            stdout=pipe, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 1


# -- parts --------------------------------------------------------------------------------------------------------


def test_uris_are_shown_as_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_uri((tmp_path / "a b ü.txt").as_uri()) == "a b ü.txt"
    assert shown_uri((tmp_path / "r.jsonl").as_uri() + "#x%20y") == "r.jsonl#x y"
    assert shown_uri("file:///elsewhere/a.txt") == "/elsewhere/a.txt"
    assert shown_uri("pydoc:json") == "pydoc:json"


def test_the_standard_library_gives_documents_for_the_demo() -> None:
    documents = {document.id: document for document in stdlib_documents()}
    assert len(documents) > 500
    assert sum(len(document.text) for document in documents.values()) > 1_000_000
    for document in documents.values():
        assert document.uri == f"pydoc:{document.id}"
        assert document.text.startswith(document.title)
        starts = [heading.start for heading in document.headings]
        assert starts == sorted(starts)
        for heading in document.headings:
            assert document.text[heading.start :].startswith(heading.title)
    decoder = documents["json.decoder"]
    assert decoder.heading_at(decoder.text.index("Return the Python representation")) == (
        "json.decoder > class JSONDecoder(object) > decode(self, s, _w=WHITESPACE.match)"
    )
    assert "math" in documents  # compiled in, asked at run time
    assert not any(id.startswith(("test.", "idlelib")) for id in documents)


def test_a_collection_whose_data_are_torn_hides_no_others_either(run: Run, library: Path, tmp_path: Path) -> None:
    run("collections", "export", "library", tmp_path / "torn.parquet", "--data-dir", library)
    run("collections", "import", tmp_path / "torn.parquet", "--data-dir", library)
    for file in (library / "torn" / "passages.lance" / "data").iterdir():
        os.truncate(file, 100)
    done = run("collections", "list", "--json", "--data-dir", library)
    assert done.code == 3
    whole, torn = done.json["collections"]
    assert (whole["name"], whole["passages"]) == ("library", 5)
    assert "cannot be read as a collection" in torn["error"]
    refused(run("collections", "show", "torn", "--data-dir", library), 3, "cannot be read as a collection")


def test_a_password_in_a_url_is_neither_taken_nor_told(run: Run, tmp_path: Path) -> None:
    done = run("index", "http://user:sekrit@127.0.0.1/x", "-c", "c", "--data-dir", tmp_path)
    refused(done, 2, "http://…@127.0.0.1", "not taken")
    assert "sekrit" not in done.out + done.err


# -- index plan ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passages", "memory", "kind"), [("5k", 100, "flat"), ("1M", 1000, "hnsw8"), ("10,000,000", 2000, "ivfpq4")]
)
def test_the_plan_of_an_index(run: Run, passages: str, memory: int, kind: str) -> None:
    told = run("index", "plan", "--passages", passages, "--memory-mb", memory, "--json").json
    assert told["kind"] == kind
    assert 0 < told["memory_mb"] <= memory == told["memory_allowed_mb"]
    assert "kind" in run("index", "plan", f"--passages={passages}").out


def test_a_plan_that_fits_nothing_is_that_of_the_service_and_says_what_would(run: Run) -> None:
    for passages, memory, least in (("10M", 50, "77 MB"), ("20000", 1, "28 MB")):
        told = run("index", "plan", "--passages", passages, "--memory-mb", memory, "--json").json
        assert (told["kind"], told["memory_allowed_mb"]) == ("disk-ivfrq", memory)
        assert least in told["note"]
    assert "index_memory_mb" in run("index", "plan", "--passages", "20000", "--memory-mb", 1).out


def test_a_plan_tells_what_is_searched_exactly_in_spite_of_what_was_asked(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = run("index", "plan", "--passages", "8192", "--memory-mb", 1, "--json").json
    assert (told["kind"], told["memory_mb"]) == ("flat", 12.6)
    assert "exact_passages" in told["note"]
    monkeypatch.setenv("EMBEDSVC_TARGET_RECALL", "1.0")
    told = run("index", "plan", "--passages", "1e9", "--json").json
    assert (told["kind"], told["passages"]) == ("flat", 1_000_000_000)
    assert "target_recall" in told["note"]


def test_a_number_of_passages_that_is_none_is_refused(run: Run) -> None:
    refused(run("index", "plan", "--passages", "many"), 2, "'many' is not a number", "250k")
    refused(run("index", "plan", "--passages", "1.2.3M"), 2, "not a number")


def test_what_is_called_plan_is_indexed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan").write_text("The plan is to have no plan.")
    assert run("index", "plan", "-c", "c", "--data-dir", tmp_path / "data").code == 0
    assert run("collections", "show", "c", "--data-dir", tmp_path / "data", "--json").json["documents"] == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("search", "x", "--weight", 1.5), "weight is 1.5"),
        (("search", "x", "--weight", 0.5, "--mode", "dense"), "fusion is of mode hybrid, not dense"),
        (("search", "x", "--fusion", "rrf", "--normalisation", "max"), "rrf fuses ranks"),
        (("search", "x", "--depth", 50, "--mode", "lexical"), "fusion is of mode hybrid, not lexical"),
        (("search", "x", "--depth", 0), "--depth is 0"),
        (("search", "x", "--normalisation", "most"), "'most'; choose max, minmax, zscore"),
        (("search", "x", "--rerank", "no-such-model"), "no-such-model"),
        (("search", "x", "-k", 0), "embedsvc: -k is 0"),
        (("search", "x", "--per-group", 0, "--group-by", "document"), "--per-group is 0"),
        (("search", "x", "--group-by", "min_score"), "--group-by is 'min_score'"),
        (("search", "x", "--filter", "min_score > 1"), "unknown field 'min_score'"),
        (("search", "x", "--filter", "set min_score here"), "set min_score here"),
        (("search", "x", "--boost", '{"field": "on_overflow", "half_life_days": 1, "weight": 1}'), "field is 'on_over"),
        (("search", "x", "--min-confidence", 0.5, "--mode", "lexical"), "--min-confidence needs a query text"),
        (("search", "x", "--narrow", "--group-by", "document"), "--group-by is not together with --narrow"),
        (("search", "x", "--rerank-depth", 20), "give --rerank too"),
        (("search", "x", "--order", "document"), "--order is a context's: give --expand or --context too"),
        (("search", "x", "--expand", "chapter"), "--expand is 'chapter'"),
        (("search", "?", "--min-confidence", 2), "--min-confidence is 2"),
        (("search", "x", "--context", 10**9), "embedsvc: --context is 1,000,000,000; ask for 1 to 200,000"),
        (("eval", "-k", 0), "k is 0; choose cut-offs from 1"),
        (("eval", "-k", -5), "k is -5; choose cut-offs from 1"),
        (("eval", "--calibrate"), "--calibrate is fitted to questions"),
        (("eval", "--passages"), "--passages is about a new collection"),
        (("eval", "--rerank", "m"), "give --tune NAME too"),
        (("eval", "--save"), "--save keeps what --tune NAME finds"),
        (("eval", "--model", "m"), "--model is about a new collection; that of --collection"),
        (("eval", "--language", "german"), "--language is about a new collection"),
        (("eval", "--max-tokens", 64), "--max-tokens is about a new collection"),
        (("eval", "--finer-tokens", 0), "--finer-tokens is about a new collection"),
        (("eval", "questions.csv", "--sentences", 9), "--sentences takes sentences out of a collection"),
    ],
)
def test_options_that_are_wrong_or_contradict_each_other(
    run: Run, library: Path, options: tuple[Any, ...], says: str
) -> None:
    refused(run(*options, "-c", "library", "--data-dir", library), 2, says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--chunk-tokens", 64), "--chunk-tokens is about documents that are cut into passages: give --passages"),
        (("--overlap", 8), "give --passages"),
        (("--finer-tokens", 0), "give --passages"),
        (("--chunk-context", "none"), "give --passages"),
        (("--passages", "--max-tokens", 64), "--max-tokens is about whole documents"),
        (("--sentences", 9), "--sentences takes sentences out of a collection"),
        (("--tune", "library", "--model", "m"), "--model is about a new collection, --tune NAME"),
        (("--tune", "library", "--passages"), "--passages is about a new collection, --tune NAME"),
        (("--tune", "library", "--chunk-tokens", 64), "--chunk-tokens is about a new collection, --tune NAME"),
        (("--tune", "library", "--sentences", 9), "--sentences takes sentences"),
    ],
)
def test_what_a_measurement_would_not_look_at_is_refused(
    run: Run, tmp_path: Path, options: tuple[Any, ...], says: str
) -> None:
    refused(run("eval", tmp_path, *options, "--data-dir", tmp_path), 2, says)


@pytest.mark.parametrize("option", [("-c", "library"), ("--mode", "dense"), ("--calibrate",), ("--gate", "ndcg@10>=1")])
def test_tuning_is_not_measuring(run: Run, library: Path, tmp_path: Path, option: tuple[str, ...]) -> None:
    done = run("eval", tmp_path, "--tune", "library", *option, "--data-dir", library)
    refused(done, 2, "do one after the other")
