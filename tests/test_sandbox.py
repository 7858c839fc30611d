"""Hostile files: readers that misbehave stand in for them. They live in the program that a test has started in the
place of the worker's own; nothing in the product knows of them."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import embedsvc.readers.sandbox as sandbox_module
from embedsvc.checks import check_sandbox
from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.errors import (
    DamagedFile,
    LockedFile,
    ReaderCrashed,
    ReaderOutOfMemory,
    ReadError,
    ReaderTimeout,
    UnsupportedFormat,
    UsageError,
)
from embedsvc.ingest import Outcome, ingest_items, ingest_paths
from embedsvc.readers import FieldChoice, Rejected, read
from embedsvc.readers.frames import Malformed, document_from
from embedsvc.readers.items import Limits
from embedsvc.readers.sandbox import Sandbox, described
from embedsvc.records import Chunking, Document, Source, document_id, make_document
from tests.conftest import write_tree
from tests.data_office import make_ole
from tests.data_readers import make_docx, make_pdf
from tests.fakes import FakeEncoder

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")

MISBEHAVIOUR = '''
import ctypes, os, signal, socket, struct, subprocess, sys, time
from embedsvc.errors import *
from embedsvc.readers import formats, worker
from embedsvc.readers.items import Rejected
from embedsvc.records import Heading, make_document

def raw(data):
    """Writes to the parent's pipe what no worker of ours would."""
    for number in os.listdir("/proc/self/fd"):
        target = os.readlink(f"/proc/self/fd/{number}") if os.path.lexists(f"/proc/self/fd/{number}") else ""
        if target.startswith("pipe:") and int(number) > 2:
            try:
                os.write(int(number), data)
            except OSError:
                pass

def tried(action):
    try:
        return f"done: {action()}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"

def misbehave(source, fields):
    code = source.data.decode()
    if code.startswith("="):
        yield make_document(source.uri, tried(lambda: eval(code[1:])), hash=source.hash)
        return
    space = {"source": source, **globals()}
    exec("def act():\\n    " + code.replace("\\n", "\\n    ") + "\\n    yield from ()", space)
    yield from space["act"]()

import types
module = types.ModuleType("embedsvc.readers.misbehaving")
module.read_misbehaving = misbehave
sys.modules[module.__name__] = module
formats._BY_SUFFIX[".bad"] = "misbehaving"
worker.main()
'''
COMMAND = (sys.executable, "-c", MISBEHAVIOUR)
BOX = Limits(memory_mb=600, timeout_s=5)
FIELDS = FieldChoice()


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(BOX, COMMAND) as sandbox:
        yield sandbox


def bad(code: str, name: str = "x.bad") -> Source:
    return Source(f"file:///{name}", name, code.encode())


def good(text: str = "words") -> Source:
    return Source("file:///good.txt", "good.txt", text.encode())


def given_by(sandbox: Sandbox, source: Source) -> tuple[list[Document | Rejected], ReadError | None]:
    items: list[Document | Rejected] = []
    try:
        for item in sandbox.read(source, FIELDS):
            items.append(item)  # noqa: PERF402 (what came before the error counts)
    except ReadError as error:
        return items, error
    return items, None


def said(sandbox: Sandbox, expression: str) -> str:
    """What came of an expression that the worker evaluated while it read a file."""
    [document] = sandbox.read(bad(f"={expression}"), FIELDS)
    assert isinstance(document, Document)
    return document.text


def pid_of(sandbox: Sandbox) -> int:
    return sandbox._ready()._process.pid


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true: Any, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(true())


# -- the same as without -----------------------------------------------------------------------------------------------


SURROGATE = Source("file:///caf\udce9 \ud83d\ude00", "caf\udce9.jsonl", b'{"text": "a \\ud800 b"}\nno JSON\n{"x": 1}\n')
SOURCES = [
    good(),
    good(""),
    Source("file:///a.md", "a.md", "# Über\n\ntext\n\n## Zwei \U0001f600\n\nmehr".encode()),
    Source("file:///a.pdf", "a.pdf", make_pdf(["first page", "second page"], title="T")),
    Source("file:///a.docx", "a.docx", make_docx("<w:p><w:r><w:t>words</w:t></w:r></w:p>")),
    Source("file:///a.html", "a.html", b"<title>T</title><h1>H</h1><p>words"),
    Source("file:///a.csv", "a.csv", b"text,year,when\nred,1999,\nblue,007,1.5\ngreen\n"),
    Source("file:///a.jsonl", "a.jsonl", b'{"text": "a", "n": NaN, "deep": {"k": [1, null, "\\u00e9"]}}\nbad\n'),
    Source("file:///long.txt", "long.txt", ("é" * 1_048_575 + "\U0001f600x" + "y" * 2_000_000).encode()),
    Source("file:///latin.txt", "latin.txt", ("Das M\u00e4dchen h\u00f6rt Gr\u00fc\u00dfe. " * 30).encode("latin-1")),
    Source("file:///a.zip", "a.zip", b"PK\x03\x04"),
    Source("file:///broken.pdf", "broken.pdf", b"%PDF-1.4 nothing"),
    SURROGATE,
]


def outcome_of(reader: Any, source: Source, fields: FieldChoice = FIELDS) -> list[Any]:
    """Documents as they are, errors by class and message."""
    found: list[Any] = []
    try:
        for item in reader(source, fields):
            rejected = isinstance(item, Rejected)
            found.append((item.uri, type(item.error), str(item.error)) if rejected else item)
    except ReadError as error:
        found.append((type(error), str(error), error.reason))
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: ascii(source.name))
def test_documents_are_the_same_inside_and_outside(box: Sandbox, source: Source) -> None:
    assert outcome_of(box.read, source) == outcome_of(read, source)


TEXT = st.text(st.characters(codec="utf-8"), max_size=50)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda some: st.lists(some, max_size=3) | st.dictionaries(TEXT, some, max_size=3),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(st.sampled_from(["text", "id", "title", "other", ""]) | TEXT, JSON), max_size=5)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        RECORDS.map(lambda records: "\n".join(map(json.dumps, records)).encode()),
        st.binary(max_size=200),
        TEXT.map(str.encode),
    ),
    st.sampled_from(["txt", "md", "rst", "html", "jsonl", "csv", "pdf", "docx", "", "zip"]),
    st.text(max_size=8),  # lone surrogates among them
    st.sampled_from([FIELDS, FieldChoice(("text", "other"), "title", "id", ("other",)), FieldChoice(metadata=())]),
)
def test_any_file_gives_the_same_inside_and_outside(
    box: Sandbox, data: bytes, suffix: str, name: str, fields: FieldChoice
) -> None:
    source = Source(f"file:///{name}.{suffix}", f"f{name}.{suffix}", data)
    assert outcome_of(box.read, source, fields) == outcome_of(read, source, fields)


def test_errors_keep_their_class_and_others_cost_their_file_only(box: Sandbox) -> None:
    for kind in (LockedFile, DamagedFile, UnsupportedFormat):
        items, error = given_by(box, bad(f"raise {kind.__name__}('what happened: \\ud800')\nyield"))
        assert (items, type(error), str(error)) == ([], kind, "what happened: \ud800")
    _, error = given_by(box, bad("class Own(DamagedFile): pass\nraise Own('of a class of its reader')\nyield"))
    assert (type(error), str(error)) == (DamagedFile, "of a class of its reader")
    _, error = given_by(box, bad("raise MissingDependency('install it')"))
    assert (type(error), str(error)) == (ReadError, "install it")


def test_a_bomb_is_too_large_whatever_it_is_packed_as(box: Sandbox) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.txt", bytes(11_000_000))
    document = make_docx(f"<w:p>{' ' * 111_000_000}</w:p>")
    for name, data in {"bomb.zip": buffer.getvalue(), "bomb.docx": document}.items():
        items, error = given_by(box, Source(f"file:///{name}", name, data))
        reasons = [item.error.reason for item in items if isinstance(item, Rejected)]
        assert (reasons or [error and error.reason]) == ["too_large"]


def test_one_process_reads_many_files_and_a_grown_one_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(BOX, COMMAND) as box:
        first = pid_of(box)
        for number in range(20):
            assert said(box, f"{number}") == f"done: {number}"
        assert pid_of(box) == first
        assert said(box, "len(globals().setdefault('leak', bytearray(200_000_000)))") == "done: 200000000"
        second = pid_of(box)
        assert second != first
        assert not is_there(first)
        monkeypatch.setattr(sandbox_module, "_FILES", 1)
        said(box, "1")
        assert pid_of(box) != second


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("ctypes.string_at(0)", ReaderCrashed, "signal SIGSEGV"),
        ("os.abort()", ReaderCrashed, "signal SIGABRT"),
        ("os._exit(3)", ReaderCrashed, "exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", ReaderCrashed, "signal SIGKILL"),
        ("bytearray(3_000_000_000)", ReaderOutOfMemory, "reader_memory_mb"),
        ("try: bytearray(3_000_000_000)\nexcept MemoryError: raise ImportError", ReaderOutOfMemory, "reader_memory_mb"),
        ("raise ImportError('x.so: failed to map segment from shared object')", ReaderOutOfMemory, "reader_memory_mb"),
        ("x = bytearray(500_000_000)\ntime.sleep(1)\nos.abort()", ReaderOutOfMemory, "reader_memory_mb"),
        ("os.write(2, b'terminate called after std::bad_alloc')\nos.abort()", ReaderOutOfMemory, "reader_memory_mb"),
        ("x = []\nwhile True: x.append(bytearray(1_000_000))", ReaderOutOfMemory, "more than 600 MB"),
        ("os.close(1); raw(b'garbage ' * 10)", ReaderCrashed, "no answer"),
        ("raw(struct.pack('>IQ', 10, 0) + b'garbage!!!')", ReaderCrashed, "no JSON"),
        ("raw(struct.pack('>IQ', 2, 0) + b'[]')", ReaderCrashed, "list in the place of dict"),
        ("raw(struct.pack('>IQ', 2**31, 0))", ReaderCrashed, "a message of 2147483648 bytes"),
        ("raw(struct.pack('>IQ', 0, 2**63))", ReaderOutOfMemory, "more than 600 MB"),
        ("raw(worker.pack({'kind': 'document', 'parts': 1}, b'x'))", ReaderCrashed, "NoneType in the place"),
        ("raw(worker.pack({'kind': 'document', 'parts': -1}, b'x'))", ReaderCrashed, "without parts"),
        ("raw(worker.pack({'kind': 'document', 'parts': 2}, b'x'))\nos._exit(0)", ReaderCrashed, "exit code 0"),
        (
            "raw(worker.pack({'kind': 'end', 'class': 'ReaderCrashed', 'message': 'file:///x.bad: no'}))",
            ReaderCrashed,
            "no",
        ),
        ("raw(worker.pack({'kind': 'pickle'}))", ReaderCrashed, "no known kind"),
    ],
)
def test_what_a_file_does_to_the_process_is_told(box: Sandbox, code: str, kind: type[ReadError], says: str) -> None:
    items, error = given_by(box, bad(code))
    assert items == []
    assert type(error) is kind
    assert str(error).startswith("file:///x.bad: ")
    assert says in str(error)
    assert outcome_of(box.read, good()) == outcome_of(read, good())


def test_an_endless_loop_is_ended() -> None:
    with Sandbox(Limits(600, 1), COMMAND) as box:
        for code in ("while True: pass", "time.sleep(60)", "raw(struct.pack('>IQ', 100, 0))\ntime.sleep(60)"):
            box.held()  # starting is not reading
            started = time.monotonic()
            items, error = given_by(box, bad(code))
            assert time.monotonic() - started < 8
            assert (items, type(error)) == ([], ReaderTimeout)
            assert "longer than 1 s" in str(error)
            assert "reader_timeout_s" in str(error)


ENDLESS_PDF = (
    "c-qZU?M~Y;6s@#>-ZM<P6RX;yHHq`tiqe9BGDKNf8zu&05L&kjq)v$4iS8Mu{n-=jiS}cA0`?%xagvhp0MqUdTlT#^=iK94Dj#ll"
    ">sT>R`P&!D!g*|rNDX22(3=v}Zllsa3PQ)><rQ*3gJf^Dkh&F8PAF%f>*97G#AHQ{LQ#Lt1D_HGSi2XI6oM3g5RQpYOClqWqM(^3"
    "-9<z|-SW5>gj1BE(#1@5V=s!x7}Ty8FoGWVuvQ@SW5xkvaRch{yA!cHx-Hf-@h;8jDNoN!4u+JzMA8dL+l2A-)=bbI0IVW_lOA4^"
    "TXAUQ{l&r<K(aE2V|>ZtK;p#%3!Fj*^GI<9Bn2e6G5I9vFJVm><@10*)l|SG@yw?l_d{A+`l1V>#-nx~6aA+hma?h0(AnKHO&|iw"
    "ct9e$i~Z==lXNh}Y$c;O7a&Fx75=#A<uDE^-~Ima6XAkZF=gLHh*u_3_x&*w3QfR5L)Kz8j=Cndv)oo>6hOqB-ly?2AL69CFq-DF"
    "+FgtpkBPT7tH^vH^MEKI9(#U3VhK6)KNHX~QU_ruIs&aUK<XZygvp~CWn`56vf?cNITmg=mn<A?$lI}GJGRs>idh(<sNYrJtQ_97"
    "U%8dl>2<q&-gq%wzuw<GuWo*L{&Bc>bhY7hDi@V{&z-FJ7xs0NoQ_@wU1d~v&EdMT+mE#7(JGs_g5zD~Kv_N5)%}~!^lgn?oeaal"
    "&im?d-5TLu3&$Orc09|?(9!_gvJ49*kY8vvhOd9w0M#%`j7(jSACg&P+DYS#dojO_$pjfq2cvR%r{6_?09>(C3;"
)
"""Found by fuzzing, packed: in its page tree PDFium looks without end for the page that a bookmark leads to. It cannot
be told to stop."""


def test_a_pdf_in_which_pdfium_finds_no_end_is_ended() -> None:
    data = zlib.decompress(base64.b85decode(ENDLESS_PDF))
    with Sandbox(Limits(600, 1), COMMAND) as box:
        box.held()
        _, error = given_by(box, Source("file:///x.pdf", "x.pdf", data))
        assert isinstance(error, ReaderTimeout)
        assert outcome_of(box.read, good()) == outcome_of(read, good())


@linux
def test_processor_time_is_limited_too() -> None:
    with Sandbox(Limits(600, 1), COMMAND) as box:
        worker = box._ready()
        # The wall clock is stopped, so it is the kernel that ends it.
        worker._limits = Limits(600, 0)
        items, error = given_by(box, bad("while True: pass"))
    assert (items, type(error)) == ([], ReaderTimeout)


RECOGNISES = "raw(worker.pack({'kind': 'recognising'}))\n"


def test_recognising_text_has_time_of_its_own_but_once() -> None:
    source = bad(RECOGNISES + "time.sleep(3)\nyield make_document(source.uri, 'x')")
    with Sandbox(Limits(600, 2, ocr_timeout_s=60), COMMAND) as box:
        assert len(given_by(box, source)[0]) == 1
    endless = bad(f"while True:\n    {RECOGNISES}    time.sleep(0.1)\n")
    with Sandbox(Limits(600, 1, ocr_timeout_s=1), COMMAND) as box:
        _, error = given_by(box, endless)
        assert isinstance(error, ReaderTimeout)
        assert "ocr_timeout_s" in str(error)
    with Sandbox(Limits(600, 1, ocr_languages=None), COMMAND) as box:
        _, error = given_by(box, endless)
        assert isinstance(error, ReaderTimeout)
        assert "reader_timeout_s" in str(error)


def test_a_slow_caller_costs_no_time_and_is_waited_for() -> None:
    with Sandbox(Limits(600, 1), COMMAND) as box:
        box.held()
        many = "for n in range(400): yield make_document(f'{source.uri}#{n}', 'x' * 20_000)"
        texts = box.read(bad(many), FIELDS)
        next(texts)
        time.sleep(1.5)
        assert Path(f"/proc/{pid(box)}/stat").read_text().split()[2] == "S", "it waits for us, not ahead of all bounds"
        assert len(list(texts)) == 399


def pid(box: Sandbox) -> int:
    assert box._worker is not None
    return box._worker._process.pid


def test_what_came_before_a_crash_stands(box: Sandbox) -> None:
    code = "yield make_document(source.uri + '#1', 'red')\nyield make_document(source.uri + '#2', 'blue')\n"
    items, error = given_by(box, bad(code + "ctypes.string_at(0)"))
    assert [item.text for item in items if isinstance(item, Document)] == ["red", "blue"]
    assert type(error) is ReaderCrashed


def test_a_file_does_not_pay_for_those_before() -> None:
    with Sandbox(BOX, COMMAND) as box:
        said(box, "sys.modules.setdefault('trap', 1)")
        before = pid_of(box)
        # It ends the process only where others were read before.
        assert said(box, "os._exit(1) if 'trap' in sys.modules else 'fine'") == "done: fine"
        assert pid_of(box) != before


def test_a_worker_killed_from_outside_is_replaced() -> None:
    with Sandbox(BOX, COMMAND) as box:
        assert said(box, "0") == "done: 0"
        os.kill(pid_of(box), signal.SIGKILL)
        assert said(box, "1") == "done: 1"  # between two files nobody notices
        timer = threading.Timer(0.5, lambda: os.kill(pid_of_busy(box), signal.SIGKILL))
        timer.start()
        items, error = given_by(box, bad("yield make_document(source.uri, 'x')\ntime.sleep(60)"))
        timer.join()
        assert len(items) == 1
        assert type(error) is ReaderCrashed
        assert "SIGKILL" in str(error)
        assert said(box, "2") == "done: 2"


def pid_of_busy(box: Sandbox) -> int:
    return pid(box)


# -- what it may not do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    [
        "socket.create_connection(('127.0.0.1', 9))",
        "socket.socket()",
        "socket.getaddrinfo('example.org', 80)",
        "open('/tmp/embedsvc-outside', 'w')",
        "open('/tmp/embedsvc-outside', 'r+b')",
        "os.open('/tmp/embedsvc-outside', os.O_CREAT | os.O_WRONLY)",
        "os.mkdir('/tmp/embedsvc-outside')",
        "os.symlink('x', '/tmp/embedsvc-outside')",
        "os.remove(FILE)",
        "os.rename(FILE, FILE + '2')",
        "os.rename(FILE, os.path.join(os.getcwd(), 'x'))",
        "os.truncate(FILE, 0)",
        "os.fork()",
        "os.system('true')",
        "os.execv('/bin/true', ['true'])",
        "os.kill(PARENT, 0)",
        "os.kill(-1, 0)",
    ],
)
def test_python_code_is_refused(box: Sandbox, tmp_path: Path, expression: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    expression = expression.replace("FILE", repr(str(file))).replace("PARENT", str(os.getpid()))
    assert said(box, expression).startswith("PermissionError: ")
    assert file.read_text() == "mine"
    assert not Path("/tmp/embedsvc-outside").exists()


LIBC = "ctypes.CDLL(None, use_errno=True)"


@linux
@pytest.mark.parametrize(
    ("call", "needs"),
    [
        ("open(FILE, 2)", "files"),
        ("open(FILE, 0)", "files"),
        ("unlink(FILE)", "files"),
        ("rename(FILE, OTHER)", "files"),
        ("mkdir(OTHER, 511)", "files"),
        ("kill(PARENT, 0)", "files"),
        ("open(b'/etc/shadow', 0)", "files"),
        ("open(b'/proc/PARENT/environ', 0)", "files"),
        ("mount(b'none', b'/proc', b'tmpfs', 0, None)", ""),
        (
            "connect(SOCKET, struct.pack('<H', 2) + struct.pack('>H', PORT) + bytes([127, 0, 0, 1]) + bytes(8), 16)",
            "network",
        ),
    ],
)
def test_native_code_is_refused_by_the_kernel(box: Sandbox, tmp_path: Path, call: str, needs: str) -> None:
    """No audit hook sees these calls."""
    if needs and "by the kernel" not in box.held().get(needs, ""):
        pytest.skip(f"this kernel holds no {needs}")
    import socket

    file = tmp_path / "file"
    file.write_text("mine")
    with socket.create_server(("127.0.0.1", 0)) as server:
        call = call.replace("FILE", f"{os.fsencode(file)!r}").replace("OTHER", f"{os.fsencode(tmp_path / 'o')!r}")
        call = call.replace("PARENT", str(os.getpid())).replace("PORT", str(server.getsockname()[1]))
        call = call.replace("SOCKET", f"{LIBC}.socket(2, 1, 0)")
        assert said(box, f"{LIBC}.{call}") == "done: -1"
    assert file.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == [file]


def test_its_own_folder_is_writable_and_emptied(box: Sandbox) -> None:
    assert said(box, "open('mine', 'w').write('abc')") == "done: 3"
    assert said(box, "os.listdir('.')") == "done: []"
    assert said(box, "[os.mkdir('d'), os.symlink('/etc', 'd/link'), os.path.realpath('.') == os.environ['HOME']][2]")
    assert said(box, "os.listdir(os.environ['TMPDIR'])") == "done: []"
    folder = said(box, "os.getcwd()").removeprefix("done: ")
    assert Path(folder).is_dir()


def test_a_converter_can_be_started_in_its_folder(box: Sandbox) -> None:
    run = "subprocess.run(['sh', '-c', 'cat > out; cat out'], input=b'abc', capture_output=True, timeout=20).stdout"
    assert said(box, run) == "done: b'abc'"


@linux
def test_a_converter_is_held_as_well(box: Sandbox, tmp_path: Path) -> None:
    if "by the kernel" not in box.held()["files"]:
        pytest.skip("this kernel has no Landlock")
    target = tmp_path / "made"
    said(box, f"subprocess.run(['sh', '-c', 'echo x > {target}'])")
    assert not target.exists()


def test_the_environment_is_bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "https_proxy", "AWS_SECRET_ACCESS_KEY", "EMBEDSVC_API_KEY"):
        monkeypatch.setenv(name, "secret")
    with Sandbox(BOX, COMMAND) as box:
        names = said(box, "sorted(os.environ)")
    assert "PATH" in names
    assert not any(name in names for name in ("PROXY", "proxy", "SECRET", "EMBEDSVC"))


def test_what_is_printed_goes_to_the_debug_log(box: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "embedsvc")
    code = "print('out', flush=True); print('err', file=sys.stderr, flush=True); os.write(1, b'low\\n')\n"
    items, error = given_by(box, bad(code + "yield make_document(source.uri, 'x')"))
    assert len(items) == 1
    assert error is None
    lines = [record.message for record in caplog.records if record.levelno == logging.DEBUG]
    assert {"worker: out", "worker: err", "worker: low"} <= set(lines)
    assert said(box, "sys.stdin.read()") == "done: "


def test_a_flood_of_prints_stops_nothing(box: Sandbox) -> None:
    assert said(box, "[print('x' * 1000, file=sys.stderr) for _ in range(20_000)] and 1") == "done: 1"


def test_our_own_warnings_are_in_our_log(box: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    _, error = given_by(box, bad("raise RecursionError('too deep')"))
    assert type(error) is DamagedFile
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "file:///x.bad: its reader failed" in record.message
    assert "RecursionError: too deep" in record.message


@linux
def test_no_process_survives(box: Sandbox) -> None:
    # Native forks, which the audit hook does not see. Few: root's are not counted by the kernel.
    code = f"for _ in range(300):\n    if {LIBC}.fork() == 0:\n        time.sleep(600)\nos._exit(5)"
    session = pid_of(box)
    given_by(box, bad(code))
    assert wait_until(lambda: not any(of_session(session)))


@linux
def test_a_converter_with_a_group_of_its_own_does_not_survive(box: Sandbox) -> None:
    session = pid_of(box)
    given_by(box, bad("subprocess.Popen(['sleep', '600'], process_group=0)\nos._exit(5)"))
    assert wait_until(lambda: not any(of_session(session)))


def test_a_converter_that_hangs_is_ended_and_the_process_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "soffice"
    program.write_text("#!/bin/sh\nsleep 600 &\nsleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    change = "from embedsvc.readers import legacy\nlegacy._SECONDS = 0.5\n"
    command = MISBEHAVIOUR.replace("worker.main()", f"{change}worker.main()")
    old = Source("file:///a.doc", "a.doc", make_ole({"WordDocument": bytes(64)}))
    with Sandbox(BOX, (sys.executable, "-c", command)) as box:
        _, error = given_by(box, old)
        assert type(error) is DamagedFile
        assert "within" in str(error)
        assert said(box, "1") == "done: 1"
        if sys.platform == "linux":
            assert wait_until(lambda: len(list(of_session(pid_of(box)))) == 1)


def of_session(session: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, its = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(its) == session and state != "Z":
                yield int(entry.name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"uri": "file:///other.txt"}, "another input"),
        ({"uri": "file:///a.txtx"}, "another input"),
        ({"id": "0" * 20}, "not of its uri"),
        ({"title": "\ud800"}, "surrogate"),
        ({"title": None}, "NoneType"),
        ({"hash": 1}, "int"),
        ({"page_starts": [99]}, "outside"),
        ({"page_starts": [True]}, "outside"),
        ({"headings": [[0, 1]]}, "three parts"),
        ({"headings": [[-1, 1, "x"]]}, "outside"),
        ({"headings": [[0, "1", "x"]]}, "level"),
        ({"metadata": []}, "list"),
        ({"metadata": {"k": ["\udfff"]}}, "surrogate"),
        ({"notes": "x"}, "str"),
    ],
)
def test_a_document_that_cannot_be_is_refused(change: dict[str, Any], says: str) -> None:
    source = Source("file:///a.txt", "a.txt", b"")
    about = {
        "id": document_id(source.uri), "uri": source.uri, "title": "T", "hash": "h", "page_starts": [0, 3],
        "headings": [[0, 1, "H"]], "metadata": {"k": 1}, "notes": ["n"],
    }  # fmt: skip
    assert document_from(about, "text", source).metadata == {"k": 1}
    if "uri" in change:
        change = change | {"id": document_id(change["uri"])}
    with pytest.raises(Malformed, match=says):
        document_from(about | change, "text", source)


# -- beginning and end -------------------------------------------------------------------------------------------------


def test_a_reading_that_is_left_early_ends_the_process() -> None:
    with Sandbox(BOX, COMMAND) as box:
        texts = box.read(bad("while True: yield make_document(f'{source.uri}#{time.time()}', 'x')"), FIELDS)
        next(texts)
        process = pid(box)
        texts.close()  # type: ignore[attr-defined]
        assert not Path(f"/proc/{process}").exists(), "not even a zombie"
        assert said(box, "1") == "done: 1"
        last = pid(box)
        folder = Path(said(box, "os.getcwd()").removeprefix("done: "))
    assert not Path(f"/proc/{last}").exists()
    assert not folder.exists()
    with pytest.raises(RuntimeError, match="closed"):
        next(box.read(good(), FIELDS))


def test_another_thread_ends_a_reading_at_once() -> None:
    box = Sandbox(Limits(600, 60), COMMAND)
    box.held()
    threading.Timer(0.3, box.close).start()
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="closed"):
        list(box.read(bad("time.sleep(60)"), FIELDS))
    assert time.monotonic() - started < 5


def test_a_worker_that_does_not_start_ends_the_run_with_its_last_words() -> None:
    with Sandbox(BOX, (sys.executable, "-c", "raise SystemExit('it is broken')")) as box:
        for _ in range(2):
            with pytest.raises(UsageError, match=r"does not start \(exit code 1: it is broken\).*reader_memory_mb"):
                list(box.read(good(), FIELDS))


def test_with_too_little_memory_for_anything_the_setting_is_named() -> None:
    large = Source("file:///large.txt", "large.txt", b"words " * 500_000)  # a small one fits what Python has spare
    with Sandbox(Limits(memory_mb=10)) as box, pytest.raises((UsageError, ReaderOutOfMemory), match="reader_memory_mb"):
        list(box.read(large, FIELDS))


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_the_process_ends_with_its_parent_and_without_a_word(
    end: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import sys\nfrom embedsvc.readers.items import FieldChoice, Limits\n"
        "from embedsvc.readers.sandbox import Sandbox\n"
        "from embedsvc.records import Source\n"
        f"box = Sandbox(Limits(600, 60), (sys.executable, '-c', {MISBEHAVIOUR!r}))\n"
        "box.held()\n"
        "try:\n"
        "    with box:\n"
        "        print(box._worker._process.pid, flush=True)\n"
        "        list(box.read(Source('file:///x.bad', 'x.bad', b'while True: pass'), FieldChoice()))\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,  # a terminal of its own, as it were
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    time.sleep(0.3)
    os.killpg(parent.pid, end)
    _, errors = parent.communicate(timeout=20)
    assert parent.returncode == (130 if end == signal.SIGINT else -signal.SIGKILL)
    assert errors == ""
    assert wait_until(lambda: not is_there(child))
    # A killed one's folder goes with the next that starts, which leaves alone those of the living.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "embedsvc-reading-file").touch()
    with Sandbox(BOX, COMMAND) as box, Sandbox(BOX, COMMAND) as other:
        assert said(box, "os.getcwd()") != said(other, "os.getcwd()")
        assert len([entry for entry in tmp_path.iterdir() if entry.is_dir()]) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["embedsvc-reading-file"]


@linux
def test_it_works_where_namespaces_and_landlock_are_refused() -> None:
    program = MISBEHAVIOUR.replace(
        "worker.main()", "from embedsvc.readers import confinement\nconfinement._unshare = lambda: False\nworker.main()"
    )
    with Sandbox(BOX, (sys.executable, "-c", program)) as box:
        assert "own" not in box.held()["network"]
        assert said(box, "socket.socket()").startswith("PermissionError: ")
        assert said(box, "1") == "done: 1"
    program = program.replace("worker.main()", "confinement._give_up_files = lambda folder: False\nworker.main()")
    with Sandbox(BOX, (sys.executable, "-c", program)) as box:
        assert box.held()["network"] == "in Python code only"
        assert "processes without a limit" in described(box.held())
        assert said(box, "open('/tmp/embedsvc-outside', 'w')").startswith("PermissionError: ")
        assert said(box, "open('x', 'w').write('1')") == "done: 1"


@linux
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("namespaces", [True, False])
def test_it_works_for_a_normal_user(namespaces: bool) -> None:
    # Imported before, for a normal user may not read the files of a Python that lies in root's home.
    change = (
        "import resource, encodings.ascii\nfrom embedsvc.readers import confinement, decoding, plain\n"
        "os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n"
        "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"  # dumpable, as after exec
    )
    if not namespaces:
        change += "confinement._unshare = lambda: False\n"
    program = MISBEHAVIOUR.replace("worker.main()", f"{change}worker.main()")
    with Sandbox(BOX, (sys.executable, "-c", program)) as box:
        held = box.held()
        assert said(box, "os.getuid(), socket.socket()").startswith("PermissionError: ")
        assert outcome_of(box.read, good()) == outcome_of(read, good())
        assert ("processes" in held) is ("own" in held["network"])
        assert namespaces or "own" not in held["network"]
        if "processes" in held:
            session = pid(box)
            forks = f"[({LIBC}.fork() or time.sleep(600)) for _ in range(200)].count(-1)"
            assert int(said(box, forks).removeprefix("done: ")) > 50
            box.close()
            assert wait_until(lambda: not any(of_session(session)))


def test_doctor_tells_what_the_sandbox_can_do(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    check = check_sandbox(here)
    assert check.ok
    assert all(name in check.detail for name in ("memory 2000 MB", "network", "files", "processes"))
    monkeypatch.setattr(sandbox_module, "_COMMAND", (sys.executable, "-c", "raise SystemExit(9)"))
    check = check_sandbox(here)
    assert not check.ok
    assert "exit code 9" in check.detail


def test_what_a_machine_cannot_do_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "embedsvc")
    sandbox_module._tell_once.cache_clear()
    for _ in range(2):
        sandbox_module._tell_once((("files", "in Python code only"), ("network", "by the kernel")))
    [record] = caplog.records
    assert "weaker here (memory, files)" in record.message
    sandbox_module._tell_once.cache_clear()


# -- in the way in -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "_COMMAND", COMMAND)


def ingested(collection: Collection, fake: FakeEncoder, *paths: Path) -> dict[str, Outcome]:
    outcomes = ingest_paths(collection, fake, paths, fields=FIELDS, max_file_mb=1)  # type: ignore[arg-type]
    return {outcome.uri.rpartition("/")[2]: outcome for outcome in outcomes}


@pytest.mark.usefixtures("hostile")
def test_a_file_that_kills_the_reader_costs_itself_only(here: Settings, fake: FakeEncoder, tmp_path: Path) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    records = "for n in '12': yield make_document(f'{source.uri}#{n}', 'red')\n"
    tree = write_tree(tmp_path / "t", {"a.txt": "red", "b.bad": records, "c.txt": "blue"})
    assert {outcome.status for outcome in ingested(collection, fake, tree).values()} == {"indexed"}
    write_tree(tree, {"b.bad": records.replace("12", "1").replace("red", "green") + "ctypes.string_at(0)"})
    outcomes = ingested(collection, fake, tree)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "a.txt": "unchanged",
        "b.bad": "quarantined",
        "b.bad#1": "replaced",
        "c.txt": "unchanged",
    }
    assert (outcomes["b.bad"].reason or "").startswith("crashed: ")
    store = collection.snapshot().store
    texts = {document.uri.rpartition("/")[2]: store.document_passages(document.id)[0] for document in store.documents()}
    # The first record came whole before the crash. What the second is nobody knows: it stays as it was.
    assert texts == {"a.txt": "red", "b.bad#1": "green", "b.bad#2": "red", "c.txt": "blue"}


@pytest.mark.usefixtures("hostile")
def test_uploads_are_read_in_the_sandbox(here: Settings, fake: FakeEncoder) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    items = [Source("x.bad", "x.bad", b"os._exit(1)"), Source("y.txt", "y.txt", b"red")]
    outcomes = list(ingest_items(collection, fake, items, FIELDS))  # type: ignore[arg-type]
    assert {outcome.uri: outcome.status for outcome in outcomes} == {"x.bad": "quarantined", "y.txt": "indexed"}


@pytest.mark.usefixtures("hostile")
def test_a_run_that_is_left_while_a_file_is_read_ends_at_once(here: Settings, fake: FakeEncoder) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    items = [Source("a.zip", "a.zip", b"x"), Source("x.bad", "x.bad", b"time.sleep(100)")]
    outcomes = ingest_items(collection, fake, items, FIELDS)  # type: ignore[arg-type]
    assert next(outcomes).status == "quarantined"
    started = time.monotonic()
    outcomes.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "reader"]


def test_ready_made_documents_start_no_process(
    here: Settings, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module.subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    [outcome] = ingest_items(collection, fake, [make_document("a", "red")], FIELDS)  # type: ignore[arg-type]
    assert outcome.status == "indexed"
