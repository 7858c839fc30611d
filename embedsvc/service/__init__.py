"""The REST face. :func:`create_app` makes the application, :func:`serve` runs it until it is told to stop."""

from __future__ import annotations

from embedsvc.service.app import create_app
from embedsvc.service.server import serve

__all__ = ["create_app", "serve"]
