"""Running the application: the address, the worker processes, the end."""

from __future__ import annotations

import atexit
import errno
import faulthandler
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn
from uvicorn.supervisors import Multiprocess

from embedsvc.config import Settings
from embedsvc.errors import Conflict, UsageError
from embedsvc.service.access import is_this_machine
from embedsvc.service.app import DRAIN_SECONDS, create_app
from embedsvc.service.data_folder import make_data_folder
from embedsvc.vectors.background import leave

log = logging.getLogger("embedsvc.service")


def serve(settings: Settings) -> None:
    """Answers over HTTP until SIGINT or SIGTERM; then finishes the requests in flight and a running job's commit.

    Raises:
        Conflict: the port is in use. UsageError: host or port cannot be listened on, or there are no workers.
        StorageFailure: the data directory cannot be made.
    """
    if settings.workers < 1:
        raise UsageError(f"workers is {settings.workers}; there must be at least 1.")
    faulthandler.enable()  # a file of an index that is cut short while it is mapped ends the process: say where
    with _listening(settings.host, settings.port) as listener, _quiet_end():
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        log.info(
            "listening on http://%s:%d, for browsers too; API documentation at /docs", host, listener.getsockname()[1]
        )
        if not settings.api_keys and not is_this_machine(listener.getsockname()[0]):
            log.warning("whoever reaches this address may ask, write and delete: set EMBEDSVC_API_KEYS")
        if not settings.api_keys and "EMBEDSVC_API_KEY" in os.environ:
            log.warning(
                "EMBEDSVC_API_KEY is what clients send; the keys that the service asks for are EMBEDSVC_API_KEYS"
            )
        if settings.workers == 1:
            uvicorn.Server(_config(create_app(settings))).run([listener])
        else:
            make_data_folder(settings.data_dir)
            _put_into_environment(settings)
            config = _config("embedsvc.service.app:app_from_environment", workers=settings.workers)
            Multiprocess(config, [listener]).run()


def _config(app: object, workers: int = 1) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        factory=isinstance(app, str),
        workers=workers,
        log_config=None,
        access_log=False,  # one line per request is the middleware's
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_worker_healthcheck=60,  # a worker that is loading a model may be slow to answer
    )


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to the address, so that what is wrong with it comes out before anything is started."""
    if not 0 <= port <= 65535:
        raise UsageError(f"port is {port}; it must lie between 0 and 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"host {host!r} is not an address of this machine: {error}.") from None
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(2048)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Conflict(
                    f"Port {port} on {host} is in use. Stop what listens there, or choose another with --port."
                ) from None
            raise UsageError(f"{host}, port {port} cannot be listened on: {error.strerror or error}.") from None
        listener.set_inheritable(True)
        yield listener


@contextmanager
def _quiet_end() -> Iterator[None]:
    """uvicorn raises the signal again that it was stopped by; here that is a return, not a death."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    log.info("stopped")
    # The model may be still loading, for instance. What has to be kept is on the disk by now.
    atexit.register(leave, 0)


def _put_into_environment(settings: Settings) -> None:
    """For the worker processes, whose settings come from there. The cores are shared out among them."""
    if not settings.threads:
        settings = replace(settings, threads=max(1, settings.encoder_threads // settings.workers))
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value is not None:
            text = value.absolute() if isinstance(value, Path) else value
            os.environ[f"EMBEDSVC_{field.name.upper()}"] = str(text)
