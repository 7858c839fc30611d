"""From paths to Documents: :func:`discover` finds files, :meth:`FoundFile.load` reads the bytes of one,
:func:`read` turns bytes into Documents. An input that cannot be read is an item of the stream (:class:`Rejected`)
or a :class:`~embedsvc.errors.ReadError` of that one input: it never ends the batch.

The libraries behind the formats are imported when the first file of their format is read.
"""

from embedsvc.readers.discovery import FoundFile, absolute, discover, discover_again, path_or_url, reach
from embedsvc.readers.formats import read
from embedsvc.readers.ignoring import ALL, IGNORE_FILE, PathPatterns, check_patterns
from embedsvc.readers.items import FieldChoice, Rejected

__all__ = [
    "ALL",
    "IGNORE_FILE",
    "FieldChoice",
    "FoundFile",
    "PathPatterns",
    "Rejected",
    "absolute",
    "check_patterns",
    "discover",
    "discover_again",
    "path_or_url",
    "reach",
    "read",
]
