"""Processes of their own that kill themselves at a step, as a power cut would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any


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


def killed(code: str, *arguments: object) -> tuple[bool, str]:
    """Whether a process that runs ``code`` was killed, else came to its end; and what it printed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0, done.stdout
