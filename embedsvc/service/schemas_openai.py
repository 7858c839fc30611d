"""Bodies of requests to the vector-store routes, as OpenAI has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from embedsvc.service.schemas import _Request

Attribute = Annotated[str, Field(max_length=512)] | bool | int | float
Attributes = Annotated[dict[Annotated[str, Field(min_length=1, max_length=64)], Attribute], Field(max_length=16)]
Told = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
_MAX_FILES = 2000


class AutoChunking(_Request):
    type: Literal["auto"]


class ChunkSizes(_Request):
    max_chunk_size_tokens: int = Field(ge=100, le=4096, description="Tokens of a passage, at most.")
    chunk_overlap_tokens: int = Field(ge=0, description="That neighbours share: at most half of the former.")

    @model_validator(mode="after")
    def _fits(self) -> ChunkSizes:
        if 2 * self.chunk_overlap_tokens > self.max_chunk_size_tokens:
            raise ValueError("chunk_overlap_tokens exceeds half of max_chunk_size_tokens")
        return self


class StaticChunking(_Request):
    type: Literal["static"]
    static: ChunkSizes


Chunking = Annotated[AutoChunking | StaticChunking, Field(discriminator="type")]


class VectorStoreRequest(_Request):
    name: str | None = Field(None, max_length=256, description="Where a collection may be called that, it is.")
    description: str | None = Field(None, max_length=512)
    metadata: Told | None = Field(None, description="Up to 16 texts of your own.")
    file_ids: list[str] = Field(default_factory=list, max_length=_MAX_FILES, description="Files to put in at once.")
    chunking_strategy: Chunking | None = None
    expires_after: None = Field(None, description="Collections do not expire: only null is taken.")


class VectorStoreUpdate(_Request):
    name: str | None = Field(None, max_length=256)
    metadata: Told | None = None
    expires_after: None = Field(None, description="Only null is taken.")


class AttachRequest(_Request):
    file_id: str
    attributes: Attributes | None = Field(None, description="Kept as metadata of the file's documents.")
    chunking_strategy: Chunking | None = None


class AttributesRequest(_Request):
    attributes: Attributes | None = Field(description="In the place of those there were.")


class BatchRequest(_Request):
    """Either ``file_ids``, to all of which the other fields apply, or ``files``, each with its own."""

    file_ids: list[str] | None = Field(None, min_length=1, max_length=_MAX_FILES)
    files: list[AttachRequest] | None = Field(None, min_length=1, max_length=_MAX_FILES)
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None

    @model_validator(mode="after")
    def _one_of(self) -> BatchRequest:
        if (self.file_ids is None) == (self.files is None):
            raise ValueError("send either file_ids or files")
        return self

    def entries(self) -> list[AttachRequest]:
        """What is asked for, file by file."""
        return self.files or [
            AttachRequest(file_id=id, attributes=self.attributes, chunking_strategy=self.chunking_strategy)
            for id in self.file_ids or ()
        ]


class RankingOptions(_Request):
    ranker: str = Field(
        "auto",
        description="`auto`, `none` or OpenAI's `default-…`: the search's own order. Or a served cross-encoder.",
    )
    score_threshold: float = Field(0.0, ge=0, le=1, description="Results with a lower score are left out.")


class VectorStoreSearchRequest(_Request):
    query: str | Annotated[list[str], Field(min_length=1, max_length=100)] = Field(
        description="One or several; of several the best results together."
    )
    filters: dict[str, Any] | None = Field(
        None,
        description="`{type: eq|ne|gt|gte|lt|lte|in|nin, key, value}` over attributes, or `{type: and|or, filters}`.",
        examples=[{"type": "eq", "key": "team", "value": "support"}],
    )
    max_num_results: int = Field(10, ge=1, le=50)
    ranking_options: RankingOptions | None = None
    rewrite_query: Literal[False] = Field(False, description="There is no language model here that could do it.")
