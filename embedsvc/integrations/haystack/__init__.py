"""Haystack: a document store, retrievers by words and by vectors, embedders of texts and of documents. All of them say
where the collections are in plain values (:class:`.places.Place`), so that pipelines can be written to YAML and read
again."""

from embedsvc.errors import MissingDependency

try:
    import haystack  # noqa: F401
except ImportError as error:
    raise MissingDependency(
        f"Haystack is not installed ({error}). Install it: pip install 'embedsvc[haystack]'."
    ) from None

from embedsvc.integrations.haystack.document_store import EmbedsvcDocumentStore
from embedsvc.integrations.haystack.embedders import EmbedsvcDocumentEmbedder, EmbedsvcTextEmbedder
from embedsvc.integrations.haystack.filters import condition_of
from embedsvc.integrations.haystack.retrievers import EmbedsvcEmbeddingRetriever, EmbedsvcRetriever

__all__ = [
    "EmbedsvcDocumentEmbedder",
    "EmbedsvcDocumentStore",
    "EmbedsvcEmbeddingRetriever",
    "EmbedsvcRetriever",
    "EmbedsvcTextEmbedder",
    "condition_of",
]
