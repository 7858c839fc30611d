"""A shell as the docs mean it: a home folder, a data folder, ``embedsvc`` on the path, no network.

The command is this checkout's own ``embedsvc.cli.main``, in a process of its own for each line. Those processes are
forked from one that has imported all of it, torch too, for importing takes longer than all that most commands do."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parent.parent

# What stands on the path. It hands arguments, folder, environment and its own standard streams to the process that
# forks; it passes a Ctrl-C on, and ends as the command did. Its process id and its exit code come in packets:
# from a stream, whoever reads late would take both for one number.
_CLIENT = """#!{python} -SIE
import array, json, os, signal, socket, sys
line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
line.connect({address!r})
message = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
streams = array.array("i", [0, 1, 2])
line.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
number = int(line.recv(16))
for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, lambda which, frame: os.kill(number, which))
sys.exit(int(line.recv(16)))
"""
_MOST = 1 << 18
"""Bytes of arguments and environment in one packet: more than the kernel takes (``net.core.wmem_default``)."""
_PATIENCE = 300.0
"""Seconds after which a command hangs: the slowest takes 20."""

# Not by -m: a command would call itself by the name of that module.
_FORKS = "import sys; from tests.shell import _serve; _serve(sys.argv[1])"


@dataclass(frozen=True)
class Shell:
    folder: Path
    """The home, and where commands run."""
    environment: dict[str, str]

    def run(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", "-c", command],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_PATIENCE,
        )

    def says(self, command: str, **environment: str) -> str:
        """What a command prints that must do."""
        done = self.run(command, **environment)
        assert done.returncode == 0, f"{command}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, command: str) -> Iterator[subprocess.Popen[str]]:
        """A command that goes on; it must end by itself once the block is through."""
        with subprocess.Popen(
            ["/bin/bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment, text=True
        ) as process:
            yield process

    def put(self, name: str, program: str) -> None:
        """Puts a program on the path, before what else is called so."""
        file = self.folder / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(program, encoding="utf-8")
        file.chmod(0o755)


@contextmanager
def forks(folder: Path) -> Iterator[str]:
    """The process that forks, and the address where it is asked to, in ``folder``."""
    address = str(folder / "forks")
    forking = subprocess.Popen([sys.executable, "-c", _FORKS, address], cwd=ROOT, stdout=subprocess.PIPE)
    assert forking.stdout
    with forking, forking.stdout:
        try:
            assert forking.stdout.readline(), "it did not start"
            yield address
        finally:
            forking.kill()


def shell(folder: Path, address: str, **environment: str) -> Shell:
    """A shell whose home is ``folder`` and whose commands are forked at ``address``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EMBEDSVC_")}
    path = os.pathsep.join((str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
    own = {"HOME": str(folder), "PATH": path, "EMBEDSVC_RUNTIME": "onnx", "NO_COLOR": "1", "COLUMNS": "200"}
    made = Shell(folder, kept | own | environment)
    made.put("embedsvc", _CLIENT.format(python=sys.executable, address=address))
    return made


def end_with_parent() -> None:
    """Has the kernel kill this process when the one that started it ends, however that happens."""
    death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)


def _serve(address: str) -> None:
    end_with_parent()
    _import_all()
    gc.freeze()  # else each command goes through all that was imported, and copies its pages
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    door.bind(address)
    door.listen()
    print("ready", flush=True)
    while True:
        line, _ = door.accept()
        message, streams, _, _ = socket.recv_fds(line, _MOST, 3)
        if number := os.fork():
            for stream in streams:
                os.close(stream)
            line.send(b"%d" % number)
            threading.Thread(target=_reaped, args=(number, line), daemon=True).start()
        else:
            door.close()
            _run(message, streams)


def _import_all() -> None:
    import faiss  # noqa: F401
    import onnxruntime  # noqa: F401
    import pytest
    import sentence_transformers  # noqa: F401

    import embedsvc.checks
    import embedsvc.cli.commands
    import embedsvc.cli.indexing
    import embedsvc.search  # noqa: F401
    from tests.conftest import torch_in_process

    torch_in_process(pytest.MonkeyPatch())


def _reaped(number: int, line: socket.socket) -> None:
    _, status = os.waitpid(number, 0)
    with line:
        line.send(b"%d" % (os.waitstatus_to_exitcode(status) % 256))


def _run(message: bytes, streams: list[int]) -> None:
    import json

    from embedsvc.cli import main

    end_with_parent()
    for at, stream in enumerate(streams):
        os.dup2(stream, at)
    arguments, folder, environment = json.loads(message)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["embedsvc", *arguments]
    try:
        main()
    except SystemExit as leaving:
        _leave(leaving)


def _leave(leaving: SystemExit) -> NoReturn:
    """Ends as an interpreter does, but for taking apart all modules: half a second for what was imported here."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(leaving.code if isinstance(leaving.code, int) else bool(leaving.code))
