"""The environment of the CPU image, without a container engine: made by the script that the Dockerfile runs, then
served from as the image does: another user, nothing writable but the data and /tmp, no network but the loopback.

python benchmarks/container.py [--image FOLDER] [--json FILE]

Linux, as root (mount and network namespaces). ``--image``: what container/build made, instead of making it now.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent))

from figures import Figure, at_most, report

ROOT = Path(__file__).parent.parent
USER = 10001
STARTS = 3
_NEW_MOUNTS, _NEW_NETWORK = 0x20000, 0x40000000
_UP = 0x1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="embedsvc-image-") as scratch:
        Path(scratch).chmod(0o755)
        image = given.image or made(Path(scratch))
        data = Path(scratch) / "data"
        data.mkdir()
        os.chown(data, USER, USER)
        confine(image)
        try:
            report(figures(image, data), given.json)
        finally:
            subprocess.run(["umount", image], check=True)


def made(scratch: Path) -> Path:
    subprocess.run([ROOT / "container" / "build", scratch / "image", scratch / "work"], check=True)
    return scratch / "image"


def confine(image: Path) -> None:
    """This process and those it starts: no network but the loopback, and ``image`` read-only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS | _NEW_NETWORK):
        sys.exit(f"skipped: no namespaces of its own ({os.strerror(ctypes.get_errno())}); run it as root")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        fcntl.ioctl(probe, 0x8914, struct.pack("16sh14x", b"lo", _UP))  # SIOCSIFFLAGS
    for options in (["--make-rprivate", "/"], ["--bind", image, image], ["-o", "remount,bind,ro", image]):
        subprocess.run(["mount", *options], check=True)


def figures(image: Path, data: Path) -> list[Figure]:
    size = sum(file.stat().st_size for file in image.rglob("*") if file.is_file() and not file.is_symlink())
    told = subprocess.run([image / "bin" / "python", "-c", "import torch"], capture_output=True, text=True, check=False)
    if "No module named 'torch'" not in told.stderr:
        sys.exit("torch can be imported from the image")
    if not others_may_run(image / "bin" / "python"):
        print("served as this user: the interpreter is not for others to run")
    starts = []
    for _ in range(STARTS):
        with served(image, data) as (http, seconds, _process):
            starts.append(seconds)
    with served(image, data) as (http, _, process):
        ready = resident(process)
        ingest(http)
        times = [ask(http) for _ in range(50)]
        greet_as_agent(http)
        after = resident(process)
    return [
        at_most("environment with the model (files)", size / 1e6, 700, "MB"),
        at_most("start to ready", statistics.median(starts), 3, "s"),
        at_most("memory when ready", ready, 400, "MB"),
        Figure("memory after indexing the docs and 50 searches", after, "MB"),
        Figure("search over HTTP, p50", statistics.median(times) * 1000, "ms"),
    ]


@contextmanager
def served(image: Path, data: Path) -> Iterator[tuple[httpx.Client, float, subprocess.Popen[bytes]]]:
    """The service as the image's entry point starts it, and the seconds until it was ready."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "EMBEDSVC_DATA_DIR": str(data),
        "EMBEDSVC_CACHE_DIR": str(image / "models"),
        "EMBEDSVC_RUNTIME": "onnx",
        "EMBEDSVC_LOG_LEVEL": "warning",
        "EMBEDSVC_PORT": "8080",
    }
    other = {"user": USER, "group": USER, "extra_groups": []} if others_may_run(image / "bin" / "python") else {}
    started = time.perf_counter()
    process = subprocess.Popen([image / "bin" / "embedsvc", "serve"], cwd=data, env=environment, **other)
    try:
        with httpx.Client(base_url="http://127.0.0.1:8080", timeout=60) as http:
            while True:
                if process.poll() is not None:
                    sys.exit(f"the service ended with {process.returncode}")
                try:
                    if http.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.01)
            yield http, time.perf_counter() - started, process
    finally:
        process.terminate()
        process.wait(60)


def others_may_run(python: Path) -> bool:
    """Whether another user reaches the interpreter; one below /root it does not."""
    probe = [python, "-c", ""]
    try:
        return subprocess.run(probe, user=USER, group=USER, extra_groups=[], check=False).returncode == 0
    except PermissionError:
        return False


def ingest(http: httpx.Client) -> None:
    files = [("files", (path.name, path.read_bytes())) for path in sorted((ROOT / "docs").glob("*.md"))]
    job = http.post("/v1/collections/docs/documents", files=files).raise_for_status().json()
    while (state := http.get(f"/v1/jobs/{job['job']}").json())["status"] in ("queued", "waiting", "running"):
        time.sleep(0.1)
    if state["status"] != "done":
        sys.exit(f"the job ended as {state['status']}: {state}")


def ask(http: httpx.Client) -> float:
    started = time.perf_counter()
    answer = http.post("/v1/collections/docs/search", json={"query": "how much memory does an index take?"})
    if not answer.raise_for_status().json()["hits"]:
        sys.exit("a search found nothing")
    return time.perf_counter() - started


def greet_as_agent(http: httpx.Client) -> None:
    """MCP needs packages that nothing else does."""
    who = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": who}
    answer = http.post("/mcp", json=hello, headers={"accept": "application/json, text/event-stream"})
    if answer.status_code != 200 or "result" not in answer.json():
        sys.exit(f"MCP answers with {answer.status_code}: {answer.text}")


def resident(process: subprocess.Popen[bytes]) -> float:
    """Megabytes of memory that the process holds, of its own and of files that it mapped."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1000


if __name__ == "__main__":
    main()
