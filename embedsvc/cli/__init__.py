"""The command line. Nothing heavier than typer is imported before a command runs: ``--help`` must be quick."""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from embedsvc.errors import ContractMismatch, DamagedCollection, EmbedsvcError

_SOME_FAILED, _USAGE, _DAMAGED = 1, 2, 3


class Stopped(BaseException):
    """SIGINT or SIGTERM came. Not a KeyboardInterrupt, which typer would turn into an exit of its own."""


def main() -> NoReturn:
    """Runs the command and leaves with its exit code, also where work in the background has to be given up for that."""
    try:
        _run()
    except SystemExit as leaving:
        if (background := sys.modules.get("embedsvc.vectors.background")) is not None:  # else there is no such work
            background.will_leave(leaving.code)
        raise


def _run() -> NoReturn:
    """The one place where errors become exit codes."""
    from embedsvc.cli.commands import app

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app(standalone_mode=True)
    except (ContractMismatch, DamagedCollection) as error:
        _leave(_DAMAGED, error)
    except EmbedsvcError as error:
        _leave(_USAGE, error)
    except Stopped as error:
        _leave(128 + error.args[0], "Stopped. What was reported is committed; run the same command again to go on.")
    except BrokenPipeError:
        # The reader of our output (head, less) has left: nothing to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_SOME_FAILED) from None
    except PermissionError as error:
        if error.filename is None:
            raise
        _leave(_USAGE, f"{error.filename}: {error.strerror}. Check its permissions and those of the folders above it.")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO) or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(_SOME_FAILED, f"The output cannot be written: {error.strerror}.")
    raise SystemExit(0)


def _leave(code: int, message: object) -> NoReturn:
    print(f"embedsvc: {message}", file=sys.stderr)
    raise SystemExit(code)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)
