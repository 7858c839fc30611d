"""LlamaIndex: a retriever, a vector store, an embedding; each over a collection or library of the Python API, in this
process or of a service.

Asynchronous methods that search or embed await what ``async_collection`` (``async_library``) names, the same one of
``open_async`` or ``connect_async``; without it, and all others, they work on a thread.
"""

from embedsvc.errors import MissingDependency

try:
    import llama_index.core  # noqa: F401
except ImportError as error:
    raise MissingDependency(
        f"LlamaIndex is not installed ({error}). Install it: pip install 'embedsvc[llama-index]'."
    ) from None

from embedsvc.integrations.llama_index.embedding import EmbedsvcEmbedding
from embedsvc.integrations.llama_index.filters import condition_of
from embedsvc.integrations.llama_index.retriever import EmbedsvcRetriever
from embedsvc.integrations.llama_index.vector_store import EmbedsvcVectorStore

__all__ = ["EmbedsvcEmbedding", "EmbedsvcRetriever", "EmbedsvcVectorStore", "condition_of"]
