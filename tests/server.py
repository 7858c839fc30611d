"""A real server in a process of its own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

DEADLINE = 60.0

_SERVE = """
import json, os, sys
from embedsvc.config import load_settings
from embedsvc.service import serve
from embedsvc.logs import set_up_logging
set_up_logging("info")
serve(load_settings(json.loads(sys.argv[1])))
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


@dataclass
class Server:
    process: subprocess.Popen[str]
    http: httpx.Client
    url: str
    log: list[str]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


@contextmanager
def server(data_dir: Path, **flags: object) -> Iterator[Server]:
    flags = {"host": "127.0.0.1", "port": 0, "runtime": "onnx", "data_dir": str(data_dir), **flags}
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, json.dumps(flags)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr
    log: list[str] = []
    found = None
    for line in process.stderr:
        log.append(line)
        if found := re.search(r"listening on (http://\S+),", line):
            break
    assert found, "".join(log)
    reading = threading.Thread(target=log.extend, args=(process.stderr,))
    reading.start()
    try:
        with httpx.Client(base_url=found[1], timeout=DEADLINE) as client:
            until(lambda: client.get("/readyz").status_code == 200)
            yield Server(process, client, found[1], log)
    finally:
        process.kill()
        process.wait()
        reading.join()
        assert process.stdout
        process.stdout.close()
        process.stderr.close()


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE
    while not (value := holds()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
    return value
