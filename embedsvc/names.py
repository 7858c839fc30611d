"""Names of collections."""

from __future__ import annotations

import re

from embedsvc.errors import UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a collection may be called."""


def check_name(name: str) -> str:
    """``name``, if a collection may be called that.

    Raises:
        UsageError: it may not.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a collection: use 1 to 64 letters, digits, '.', '_' or '-', "
            "the first one a letter or digit."
        )
    return name
