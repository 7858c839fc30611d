"""embedsvc: semantic search over your documents, with exact citations."""

__version__ = "0.1.0"
