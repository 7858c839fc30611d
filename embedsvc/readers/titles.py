"""Titles that programs write into a file's properties."""

from __future__ import annotations

import re

_MADE_UP = re.compile(
    r"(?:untitled|unknown|document|title|presentation|slide|powerpoint presentation|word document)?[\s\d_-]*\Z"
    r"|.*\.(?:docx?|dvi|tex|indd|pdf|qxd|fm|ps|rtf|odt|xlsx?|pptx?)\Z",
    re.IGNORECASE,
)


def meaningful(title: str) -> str:
    """``title`` on one line, or "" where it is a file name or a placeholder such as "Microsoft Word - a.doc"."""
    title = " ".join(title.replace("\x00", "").split())
    return "" if _MADE_UP.match(title) else title
