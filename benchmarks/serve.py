"""Strangers' requests at once: /v1/embeddings under 32 clients, against Infinity; and queries beside a bulk job.

    python benchmarks/serve.py [--infinity BIN] [--data FOLDER] [--seconds 6] [--rounds 3] [--clients 32] [--json FILE]

Every client keeps one connection, sends one SciFact query, waits for its vector, and sends the next. The clients are
one process on the same cores. Servers take turns, and while one is asked the other is idle. ``--infinity`` names the
``infinity_emb`` of an environment of its own; it serves the same model with its torch engine, as it does by default.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import httpx
from common import arguments, documents, free_port, open_or_make, queries, running, served
from figures import Figure, at_least, at_most, percentile, ratio, report, resident_mb

from embedsvc.config import load_settings
from embedsvc.encoding import resolve_model

MODEL = "all-MiniLM-L6-v2"


def main() -> None:
    if sys.argv[1:2] == ["--ask"]:
        print(json.dumps(asyncio.run(ask(**json.load(sys.stdin)))))
        return
    given = arguments(__doc__, collections=True, texts=("infinity",), seconds=6, rounds=3, clients=32, passages=10_000)
    texts = queries(given.data)
    figures: list[Figure] = []
    with contextlib.ExitStack() as stack:
        data_dir = given.collections or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        open_or_make(data_dir, given.data, 5183)
        client, pid = stack.enter_context(served(data_dir))
        servers = {"embedsvc": str(client.base_url)}
        if given.infinity:
            servers["infinity"] = stack.enter_context(infinity(given.infinity))
        answered: dict[str, list[float]] = {name: [] for name in servers}
        many: dict[str, list[float]] = {name: [] for name in servers}
        one: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(given.rounds):
            for name, url in servers.items():
                clients(url, texts, 4, 0.5)
                times = clients(url, texts, given.clients, given.seconds)
                answered[name].append(len(times) / given.seconds)
                many[name] += times
                one[name] += clients(url, texts, 1, given.seconds / 2)
        for name in servers:
            own = name == "embedsvc"
            figures.append(
                Figure(f"{name}: requests/s, {given.clients} clients", statistics.median(answered[name]), "1/s")
            )
            p99, p50 = percentile(many[name], 0.99) * 1000, statistics.median(one[name]) * 1000
            what = f"{name}: p99, {given.clients} clients"
            figures.append(at_most(what, p99, 150, "ms") if own else Figure(what, p99, "ms"))
            what = f"{name}: p50, one client"
            figures.append(at_most(what, p50, 5, "ms") if own else Figure(what, p50, "ms"))
        if given.infinity:
            figures.append(
                at_least("requests/s over Infinity's", ratio(answered["embedsvc"], answered["infinity"]), 2.5, "x")
            )
        figures.append(Figure("embedsvc: server memory", resident_mb(pid), "MB"))
        figures += beside_a_job(client, given.data, texts, given.passages)
    report(figures, given.json, clients=given.clients, seconds=given.seconds, rounds=given.rounds)


def clients(url: str, texts: list[str], count: int, seconds: float) -> list[float]:
    """Seconds of every answer that ``count`` clients got in so many seconds. They are a process of their own."""
    task = json.dumps({"url": url, "texts": texts, "count": count, "seconds": seconds})
    command = [sys.executable, __file__, "--ask"]
    done = subprocess.run(command, input=task, capture_output=True, text=True, check=True)
    times: list[float] = json.loads(done.stdout)
    return times


async def ask(url: str, texts: list[str], count: int, seconds: float) -> list[float]:
    """The clients: HTTP by hand over asyncio, so that they take as little as can be of the cores."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for at in range(number, 1_000_000, count):
            body = json.dumps({"model": MODEL, "input": texts[at % len(texts)]}).encode()
            started = time.perf_counter()
            if started > end:
                break
            writer.write(
                b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
            times.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*map(one, range(count)))
    return times


@contextlib.contextmanager
def infinity(binary: str):  # type: ignore[no-untyped-def]
    port = free_port()
    settings = load_settings()
    command = [binary, "v2", "--model-id", str(resolve_model(MODEL, settings.cache).folder), "--port", str(port)]
    command += ["--served-model-name", MODEL, "--device", "cpu", "--engine", "torch", "--url-prefix", "/v1"]
    command += ["--no-bettertransformer"]  # needs an optimum that its own transformers does not go with; SDPA instead
    url = f"http://127.0.0.1:{port}"
    with running(command, url, "/health"):
        yield url


def beside_a_job(client: httpx.Client, data: Path, texts: list[str], passages: int) -> list[Figure]:
    """Single queries while a job of so many passages runs: embedded, and searched for in another collection."""
    found = [document.text for document in documents(data)]
    sent = [{"id": str(at), "text": f"{at} {found[at % len(found)]}"} for at in range(passages)]
    job = client.post("/v1/collections/bulk/documents", json={"documents": sent}).raise_for_status().json()["job"]
    times: dict[str, list[float]] = {"embedded": [], "searched for": []}
    for at in range(10**9):
        if client.get(f"/v1/jobs/{job}").json()["status"] not in ("queued", "waiting", "running") or at > 3000:
            break
        text = texts[at % len(texts)]
        asked = (
            ("embedded", "/v1/embeddings", {"model": MODEL, "input": text}),
            ("searched for", "/v1/collections/scifact/search", {"query": text}),
        )
        for name, path, body in asked:
            started = time.perf_counter()
            client.post(path, json=body).raise_for_status()
            times[name].append((time.perf_counter() - started) * 1000)
            time.sleep(0.02)
    client.delete("/v1/collections/bulk")
    figures = []
    for name, each in times.items():
        figures.append(Figure(f"a query beside a bulk job, {name}: p50 of {len(each)}", statistics.median(each), "ms"))
        figures.append(at_most(f"a query beside a bulk job, {name}: p99", percentile(each, 0.99), 60, "ms"))
    return figures


if __name__ == "__main__":
    main()
