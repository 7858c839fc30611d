"""LangChain: a retriever that cites, a vector store, embeddings; each over a collection or library of the Python API,
in this process or of a service.

Asynchronous methods await what ``async_collection`` (``async_library``) names, the same one of ``open_async`` or
``connect_async``; without it they ask on a thread.
"""

from embedsvc.errors import MissingDependency

try:
    import langchain_core  # noqa: F401
except ImportError as error:
    raise MissingDependency(
        f"LangChain is not installed ({error}). Install it: pip install 'embedsvc[langchain]'."
    ) from None

from embedsvc.integrations.langchain.embeddings import EmbedsvcEmbeddings
from embedsvc.integrations.langchain.filters import condition_of
from embedsvc.integrations.langchain.retriever import EmbedsvcRetriever
from embedsvc.integrations.langchain.vector_store import EmbedsvcVectorStore

__all__ = ["EmbedsvcEmbeddings", "EmbedsvcRetriever", "EmbedsvcVectorStore", "condition_of"]
