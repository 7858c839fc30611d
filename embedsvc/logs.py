"""Where log lines go. Set up by the program that runs, never by a module that is imported."""

from __future__ import annotations

import logging
import sys


def set_up_logging(level: str) -> None:
    """Log lines go to stderr, so that stdout carries results only. Does nothing where it is set up already."""
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    for chatty in ("faiss", "mcp"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
