"""Processes to be killed. They are forked from one that has imported everything, and so are at work at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

_PRELOADED = [
    "embedsvc.cli.commands",
    "embedsvc.cli.indexing",
    "embedsvc.search",
    "onnxruntime",
    "faiss",
    # Whose functions are called.
    "tests.test_crash",
    "tests.test_maintenance",
    "tests.test_migrate",
]


def start(target: Callable[..., object], *arguments: object, log: Path) -> ForkServerProcess:
    """A process that calls ``target``, a function at the top of its module; what it prints goes to ``log``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    log.touch()
    process = context.Process(target=_logged, args=(target, arguments, str(log)))
    process.start()
    return process


def _logged(target: Callable[..., object], arguments: tuple[object, ...], log: str) -> None:
    file = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    target(*arguments)


def was_killed(target: Callable[..., object], *arguments: object, log: Path) -> bool:
    """Whether the process that calls ``target`` ended by SIGKILL; else it came to its end."""
    process = start(target, *arguments, log=log)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), log.read_text()
    return process.exitcode != 0


def kill_at(step: int, *functions: tuple[Any, str]) -> None:
    """Kills this process at the ``step``-th call, from 0, of any of the ``functions``: the owner of each, and its
    name there."""
    left = step

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return work(*arguments, **options)

        return wrapped

    for owner, name in functions:
        setattr(owner, name, counted(getattr(owner, name)))
