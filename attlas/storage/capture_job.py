"""What a model that is ready is asked for: the packs to run, of which documents, and the atlas that takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attlas.engine.passage.documents import Document, Pack
from attlas.engine.passage.target import Target
from attlas.progress import CaptureProgress
from attlas.storage.stores import Where
from attlas.storage.writer import AtlasWriter

__all__ = ["CaptureJob"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureJob:
    """packs: all of the atlas, those that are committed too; their documents are numbers of `documents`. where,
    storage_options: the writer's store, for processes that open it themselves. pack_documents: documents go through the
    model together. chunk_tokens: the most query tokens in a forward pass, None where no bound is needed. target: what
    gradients are of; None for none. checkpoints: each layer is run again on their way back.
    """

    packs: Sequence[Pack]
    documents: Sequence[Document]
    writer: AtlasWriter
    where: Where
    storage_options: Mapping[str, Any] | None
    pack_documents: bool
    chunk_tokens: int | None
    target: Target | None
    checkpoints: bool
    progress: Callable[[CaptureProgress], None] | None
