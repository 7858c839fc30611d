"""What the docs show in a shell, run in one as it stands there: on a collection called NAME, with a folder BEIR_DIR and
a model below ~/models. Tests unpack the lines of each section, so a line more or less fails; ``test_snippets`` knows
whether a section is in any."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import embedsvc
from embedsvc.config import Settings
from tests.conftest import write_tree
from tests.data_readers import make_pdf
from tests.server import until
from tests.shell import ROOT, Shell, forks, shell
from tests.snippets import commands, snippets
from tests.test_evaluate import write_folder
from tests.test_web import Site, html, sitemap
from tests.tiny_models import make_bert

STATINS = "The side effects of statins are muscle pain and, rarely, diabetes."
FILES = {
    "papers/aspirin.txt": "Aspirin thins the blood.\n",
    "notes/today.md": "# Today\n\nBuy bread.\n",
    "notes/run.log": "started\n",
    "docs/power.md": "# Power\n\nHow do I restart the service? After a power failure the administrator restarts it.\n",
    "docs/copy.md": "# Power\n\nHow do I restart the service? After a power failure the administrator restarts it.\n",
}
TOPICS = [
    "vitamin",
    "power",
    "restart",
    "service",
    "query",
    "passage",
    "failure",
    "copper",
    "garden",
    "planet",
    "bread",
]


def without_options(line: str) -> str:
    """A line without what it has in brackets."""
    return re.sub(r" *\[[^]]*\]", "", line)


def with_options(line: str) -> str:
    return re.sub(r"\[([^]]*)\]", r"\1", line)


# -- README.md ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with forks(tmp_path_factory.mktemp("forks")) as started:
        yield started


@pytest.fixture(scope="module")
def first_page(tmp_path_factory: pytest.TempPathFactory, address: str) -> Shell:
    """The home of a new user, with the default model."""
    home = tmp_path_factory.mktemp("first-page")
    write_tree(home, FILES)
    (home / "papers" / "statins-2023.pdf").write_bytes(make_pdf([STATINS], title="Statins"))
    (home / ".venv").symlink_to(sys.prefix)
    exported = str(Settings().cache)  # of real models, which are slow to export
    return shell(home, address, EMBEDSVC_CACHE_DIR=exported, EMBEDSVC_PORT="0")


def test_the_commands_of_readmes_first_page_do_what_it_says(first_page: Shell) -> None:
    lines = commands("README.md", "Your documents")
    activate, papers, notes, pages, search, filtered, serve, curl = lines
    indexes = first_page.folder / "indexes"

    assert Path(first_page.says(f"{activate} && echo $VIRTUAL_ENV").strip()).samefile(sys.prefix)
    first_page.says(papers)
    with first_page.running(notes) as watching:
        until(lambda: (indexes / "notes" / "passages.lance").is_dir())
        watching.send_signal(signal.SIGINT)
    assert json.loads(first_page.says("embedsvc collections show notes --json"))["documents"] <= 1, "*.log is left out"

    site = Site()
    site.pages = {"/sitemap.xml": sitemap(f"{site.url}/bread"), "/bread": html(b"<p>Bread needs flour.</p>")}
    here = pages.replace("https://docs.example.org", site.url)
    assert here != pages
    first_page.says(f"{here} --allow-private-urls")
    site.close()
    assert f"{site.url}/bread" in first_page.says("embedsvc search flour -c docs --json")

    assert "muscle pain" in first_page.says(search)
    found = json.loads(first_page.says(filtered))
    assert [hit["title"] for hit in found["hits"]] == ["Statins"]
    with first_page.running(f"{serve} 2> log") as serving:
        log = first_page.folder / "log"
        (address,) = until(lambda: re.findall(r"listening on http://(\S+),", log.read_text()) if log.exists() else "")
        asked = curl.replace("localhost:8080", address)
        assert asked != curl
        answer = json.loads(first_page.says(asked))
        serving.send_signal(signal.SIGTERM)
    assert answer["hits"][0]["title"] == "Statins"


# -- the shell itself --------------------------------------------------------------------------------------------------


def test_who_reads_late_still_tells_process_and_exit_code_apart(tmp_path: Path, address: str) -> None:
    asked = json.dumps([["--version"], str(tmp_path), dict(os.environ)]).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line, (tmp_path / "said").open("w") as said:
        line.connect(address)
        socket.send_fds(line, [asked], [said.fileno()] * 3)
        number = int(line.recv(16, socket.MSG_PEEK))
        until(lambda: not Path(f"/proc/{number}").exists())
        assert [int(line.recv(16)), int(line.recv(16))] == [number, 0]
    assert (tmp_path / "said").read_text().split()[-1] == embedsvc.__version__


def test_what_is_started_here_does_not_outlive_it() -> None:
    lives = "from tests.shell import end_with_parent; end_with_parent(); print(flush=True); input()"
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {lives!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", starts], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"\n"
        parent.kill()
        assert parent.stdout.read() == b"", "it ends with its last writer"


# -- the other pages ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, address: str) -> Shell:
    """A home with tiny models, and what the pages call NAME, BEIR_DIR, scifact, QUESTIONS.csv, docs/old.pdf."""
    home = tmp_path_factory.mktemp("docs")
    write_tree(home, FILES)
    (home / "docs" / "old.pdf").write_bytes(make_pdf([STATINS], title="Statins"))
    corpus: list[dict[str, object]] = [
        {"_id": topic, "title": topic, "text": f"the {topic} passage, why and how"} for topic in TOPICS
    ]
    asked = [(f"{how}-{topic}", f"{how} {topic}", topic) for topic in TOPICS for how in ("how", "why")]
    queries: list[dict[str, object]] = [{"_id": id, "text": text} for id, text, _ in asked]
    judged: list[tuple[str, str, object]] = [(id, topic, 1) for id, _, topic in asked]
    for name in ("BEIR_DIR", "scifact"):
        write_folder(home / name, corpus, queries, judged)
    with (home / "QUESTIONS.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "document"), *((text, topic) for _, text, topic in asked)])
    for seed, name in enumerate(("first", "bge-small-en")):
        make_bert(home / "models" / name, positions=300, seed=seed)
    own = {"EMBEDSVC_MODEL": str(home / "models" / "first"), "EMBEDSVC_CACHE_DIR": str(home / "cache")}
    made = shell(home, address, EMBEDSVC_DTYPE="fp32", EMBEDSVC_THREADS="2", **own)
    made.says("embedsvc index docs BEIR_DIR/corpus.jsonl -c NAME")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("EMBEDSVC_CACHE_DIR", str(home / "cache"))
        embedsvc.open("NAME", data_dir=home / "indexes").add([{"id": "faq-1", "text": "Refunds take a week."}])
    (home / "indexes").rename(home / "prepared")
    return made


@pytest.fixture
def home(prepared: Shell) -> Shell:
    """With the collection NAME as it was."""
    indexes = prepared.folder / "indexes"
    shutil.rmtree(indexes, ignore_errors=True)
    shutil.copytree(prepared.folder / "prepared", indexes)
    return prepared


def shown(home: Shell, options: str = "") -> dict[str, Any]:
    told: dict[str, Any] = json.loads(home.says(f"embedsvc collections show NAME --json {options}"))
    return told


def test_a_model_is_measured_packed_and_unpacked(home: Shell) -> None:
    add, pack, unpack = commands("docs/models.md", "Models")
    assert "chosen" in home.says(add)
    home.says(pack)
    models = home.folder / "models"
    (models / "bge-small-en").rename(models / "elsewhere")
    assert "--model bge-small-en" in home.says(unpack)
    home.says("embedsvc index papers -c there --model bge-small-en")
    (models / "elsewhere").rename(models / "bge-small-en")


def test_the_vector_index_is_planned_and_shown(home: Shell) -> None:
    plan, show = commands("docs/indexes.md", "The vector index")
    assert "hnsw8" in home.says(without_options(plan))
    assert "ivfpq4" in home.says(with_options(plan))
    assert "flat" in home.says(show)


def test_a_collection_is_kept_in_order(home: Shell) -> None:
    page = "docs/operations.md"
    for line in commands(page, "Verify"):
        home.says(line)

    snapshot, snapshots, restore, forget = commands(page, "Snapshots")
    home.says(snapshot)
    documents = shown(home)["documents"]
    (delete,) = commands(page, "Delete documents")
    home.says(delete)
    assert shown(home)["documents"] == documents - 2
    for line in (without_options(snapshots), with_options(snapshots)):
        assert "before-import" in home.says(line)
    home.says(restore)
    assert shown(home)["documents"] == documents
    home.says(forget)
    assert "before-import" not in home.says(without_options(snapshots))

    (duplicates,) = commands(page, "Duplicates")
    assert "docs/power.md" in home.says(without_options(duplicates))
    home.says(with_options(duplicates))
    documents -= 1
    assert shown(home)["documents"] == documents

    export, back, copy = commands(page, "Backup")
    home.says(export)
    (written,) = home.folder.glob("NAME-*.parquet")
    dated, times = re.subn(r"NAME-[\d-]+\.parquet", written.name, back)
    assert times == 1
    (home.folder / "backup").mkdir()
    home.says(copy.replace("/backup/", f"{home.folder}/backup/"))
    home.says("embedsvc collections delete NAME --yes")
    home.says(dated)
    for data_dir in ("indexes", "backup"):
        assert shown(home, f"--data-dir {data_dir}")["documents"] == documents
    (compact,) = commands(page, "Compact")
    home.says(compact)


def test_a_damaged_collection_is_repaired(home: Shell) -> None:
    repair, anew, earlier = commands("docs/operations.md", "Repair")
    assert "nothing was to be mended" in home.says(repair)
    assert "built the vector index anew" in home.says(anew)
    documents = shown(home)["documents"]
    home.says("embedsvc index papers -c NAME")
    versions = home.folder / "indexes/NAME/passages.lance/_versions"
    torn = max(versions.glob("*.manifest"), key=lambda file: file.stat().st_mtime_ns)
    torn.write_bytes(torn.read_bytes()[:20])
    done = home.run(repair)
    assert done.returncode == 3
    (readable,) = re.findall(r"--to-version (\d+)", done.stderr)
    home.says(earlier.replace("41", readable))
    assert shown(home)["documents"] >= documents
    assert_what_lies_there_is_on_the_page(home.folder / "indexes")


def assert_what_lies_there_is_on_the_page(indexes: Path) -> None:
    (block,) = snippets("docs/operations.md", "files")
    named = re.findall(r"\.?NAME(?:[\w./-]|<[\w ]+>)*|(?<=indexes/)\.\w+", block.text)
    patterns = [
        re.escape(name.rstrip("/")).replace(r"<32\ hex>", "[0-9a-f]{32}").replace("<time>", r"[\w:.-]+")
        for name in named
    ]
    there = [str(path.relative_to(indexes)) for path in (*indexes.iterdir(), *(indexes / "NAME").iterdir())]
    assert len(there) > 4
    for path in set(there) - {"NAME"}:
        assert any(re.fullmatch(pattern, path) for pattern in patterns), (path, named)


def test_a_collection_moves_to_another_model(home: Shell) -> None:
    prepare, switch, rollback, finish, abandon, narrower = commands("docs/operations.md", "Migration to another model")
    before = shown(home)["contract"]["model"]
    for line in (prepare, abandon, prepare, switch):
        home.says(line)
    after = shown(home)["contract"]["model"]
    assert after != before
    home.says(rollback)
    assert shown(home)["contract"]["model"] == before
    home.says(rollback)
    home.says(finish)
    assert shown(home)["contract"]["model"] == after
    assert "ndcg@10_new" in home.says(narrower)


def test_a_fusion_is_chosen(home: Shell) -> None:
    (tune,) = commands("docs/search.md", "Fusion")
    for line in (without_options(tune), with_options(tune)):
        assert "ndcg@10" in home.says(line).lower()


ARGUMENTS = {
    "embedsvc collections": {
        "list": "",
        "show": "NAME",
        "export": "NAME NAME.parquet",
        "import": "NAME.parquet -c again",
        "delete": "again --yes",
        "verify": "NAME",
        "repair": "NAME",
        "compact": "NAME",
        "duplicates": "NAME",
        "snapshot": "NAME --label now",
        "restore": "NAME --label now",
        "migrate": "NAME --model ~/models/bge-small-en --prepare",
    },
    "embedsvc models": {
        "add": "~/models/bge-small-en --runtime onnx --dtype fp32",
        "list": "",
        "show": "~/models/bge-small-en",
        "pack": "~/models/bge-small-en again.pack",
        "unpack": "again.pack",
        "remove": "~/models/bge-small-en",
    },
}
"""What commands are given whose names alone stand in a table, in an order in which they work."""


def test_the_commands_of_tables_work(home: Shell) -> None:
    told = [
        each.text
        for page in ("README.md", "docs/search.md", "docs/openai.md")
        for each in snippets(page, "table")
        if each.program == "embedsvc" and each.text != "embedsvc mcp"
    ]
    named: dict[str, set[str]] = {group: set() for group in ARGUMENTS}
    for line in told:
        if found := re.fullmatch(r"(embedsvc \w+) (\w+(?: \| \w+)+)", line):
            named[found[1]] |= set(found[2].split(" | "))
            continue
        line = line.replace("NAME PATH", "NAME docs/old.pdf").replace("--label …", '--label rest="all else"')
        line = line.replace("index …", "index papers").replace("search …", 'search "restart the service" -c NAME')
        line = line.replace("COMMAND", "search")
        for each in sorted({without_options(line), with_options(line)}):
            home.says(each)
    for group, arguments in ARGUMENTS.items():
        assert named[group] == arguments.keys()
        for verb, given in arguments.items():
            home.says(f"{group} {verb} {given}")


def test_the_bytes_of_a_text_are_looked_for(home: Shell) -> None:
    (look,) = commands("docs/operations.md", "At 3 a.m.", "table")
    grep = look.replace("WORD", "administrator")
    home.says(grep)
    home.says("embedsvc documents delete NAME docs/power.md docs/copy.md")
    home.says("embedsvc collections compact NAME")
    assert home.run(grep).returncode == 1
