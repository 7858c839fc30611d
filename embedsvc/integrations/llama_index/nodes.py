"""Nodes to documents, and hits to nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, TextNode
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from embedsvc.api.options import NewDocument
from embedsvc.integrations.citing import citation, unit_scores
from embedsvc.integrations.storing import new_document
from embedsvc.records import WholeText, is_own_uri
from embedsvc.search.hits import Answer, Hit

_READERS = {"file_path": "source", "file_name": "title"}
"""What LlamaIndex's readers call what a document is cited by."""
_NOT_READ = ("start_index", "end_index", "document_id", "passage_id", "confidence")
"""Of a citation, what tells a language model nothing; nor does a title or source that there is not."""
_WHOLE = "_node_content"
"""Where LlamaIndex keeps all of a node but its text among the metadata."""


def document_of(node: BaseNode) -> NewDocument:
    """The node with all that is needed to give it back; what it is cited by is its ``source`` or ``file_path``, its
    ``title`` or ``file_name``."""
    own = node.metadata
    cited = {known: own[theirs] for theirs, known in _READERS.items() if theirs in own} | own
    document = new_document(node.node_id, node.get_content(MetadataMode.NONE), cited)
    document["metadata"] = node_to_metadata_dict(node, remove_text=True)
    return document


def node_of(document: WholeText) -> BaseNode:
    """The node that was stored, or one of a document that came otherwise."""
    return _node(document.id, document.text, document.metadata)


def _node(id: str, text: str, metadata: Mapping[str, Any]) -> BaseNode:
    if _WHOLE in metadata:
        return metadata_dict_to_node(dict(metadata), text)
    return TextNode(id_=id, text=text, metadata=dict(metadata))


def cited_node(hit: Hit, id: str) -> BaseNode:
    """The hit as a node, with its citation in the metadata."""
    node = _node(id, hit.text, hit.metadata)
    node.metadata = {**node.metadata, **citation(hit)}
    unread = [*_NOT_READ, *([] if hit.title else ["title"]), *(["source"] if is_own_uri(hit.uri) else [])]
    node.excluded_llm_metadata_keys = [*node.excluded_llm_metadata_keys, *unread]
    node.excluded_embed_metadata_keys = [*node.excluded_embed_metadata_keys, *unread]
    return node


def scored_nodes(answer: Answer) -> list[NodeWithScore]:
    """The hits as nodes of their passages' ids."""
    nodes = []
    for hit, score in zip(answer.hits, unit_scores(answer), strict=True):
        node = cited_node(hit, hit.id)
        node.id_ = hit.id
        nodes.append(NodeWithScore(node=node, score=score))
    return nodes
