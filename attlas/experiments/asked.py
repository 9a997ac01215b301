"""A model with its head, ready to be run over documents with edits and without: what experiments have in common.

Suffixes: T tokens of a document, N those of a chunk, W words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attlas.engine.attention.call import Listener
from attlas.engine.edit.edit import Edit
from attlas.engine.listeners.edit import Editing
from attlas.engine.model.layout import ModelLayout
from attlas.engine.model.load import LoadedModel, load_model
from attlas.engine.model.probe import layout_of
from attlas.engine.model.shard import Shard, State
from attlas.engine.model.source import ModelSource
from attlas.engine.passage.documents import Document, plan_packs
from attlas.engine.passage.passage import Passage, passages
from attlas.engine.passage.runner import ShardRunner
from attlas.engine.passage.tokenize import make_documents
from attlas.errors import InputError
from attlas.parse import parse_count, parse_flag
from attlas.storage.tiers import TIERS

__all__ = ["CHUNK_TOKENS", "Asked", "ask_model"]

CHUNK_TOKENS = 1024
"""Query tokens of a forward pass: logits of all words are held for so many."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A causal language model and documents for it."""

    loaded: LoadedModel
    layout: ModelLayout
    documents: tuple[Document, ...]

    def editing(self, edits: Sequence[Edit], document: Document) -> Editing:
        """The listener that makes edits in a passage of this document alone."""
        tokenizer = self.loaded.tokenizer

        def texts(ids: Sequence[int]) -> list[str]:
            assert tokenizer is not None
            return [str(tokenizer.decode([one])) for one in ids]

        return Editing(
            edits, self.layout, text=None if tokenizer is None else texts,
            document_ids=lambda _: document.id,
        )  # fmt: skip

    def passages(self, chunk_tokens: int | None) -> Iterator[tuple[Document, Passage]]:
        """Each document alone; one longer than a chunk in several, where the model can be."""
        chunk_tokens = chunk_tokens if self.layout.chunkable else None
        for number, document in enumerate(self.documents):
            lengths = [{axis: len(tokens) for axis, tokens in document.tokens.items()}]
            (pack,) = plan_packs(lengths, pack_tokens=1, block=64)
            (part,) = passages(pack, [document], pack_documents=False, chunk_tokens=chunk_tokens)
            yield self.documents[number], part

    def logits(self, part: Passage, listeners: Sequence[Listener]) -> Iterator[torch.Tensor]:
        """(N, W) of each chunk, in order."""
        runner = ShardRunner(_WithHead(self.loaded), self.layout, recording=TIERS["factors"].recording())
        opened = runner.open(part, None, finish=True, listeners=listeners)
        for number in range(len(part.chunks)):
            with torch.inference_mode():  # left before the next asker's turn: a mode is of the thread
                logits_NW = opened.step(number).logits[0]
            yield logits_NW


class _WithHead(Shard):
    """The whole model, its head too, as one shard."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded.model, (), 0, 0)
        self._whole = loaded.with_head

    def forward(self, inputs: Mapping[str, Any], state: State | None = None) -> Any:
        assert self._whole is not None
        return self._whole(
            **{
                name: value.to(self.device) if isinstance(value, torch.Tensor) else value
                for name, value in inputs.items()
            }
        )


def ask_model(
    model: Any,
    texts: Any,
    *,
    ids: Sequence[str] | None = None,
    tokenizer: Any = None,
    dtype: Any = "auto",
    device: Any = "auto",
    revision: str | None = None,
    max_tokens: int | None = None,
    extrapolate: bool = False,
) -> Asked:
    """Load a model with its head, and tokenise the texts for it; see `attlas.capture` for the arguments.

    Raises InputError where the model predicts no next token, UnsupportedModelError.
    """
    source = ModelSource.of(model, tokenizer=tokenizer, dtype=dtype, device=device, revision=revision)
    max_tokens = None if max_tokens is None else parse_count(max_tokens, "max_tokens")
    extrapolate = parse_flag(extrapolate, "extrapolate")
    loaded = load_model(
        source.model, tokenizer=source.tokenizer, dtype=source.dtype, device=source.device, revision=source.revision,
        head=True,
    )  # fmt: skip
    layout = layout_of(loaded)
    if loaded.is_encoder_decoder or not all(call.causal for call in layout.calls):
        raise InputError(
            f"{loaded.identity.name} does not predict the next token from those before: experiments are of causal "
            "language models"
        )
    documents = make_documents(
        texts, loaded, ids=ids, max_tokens=max_tokens, position_offset=layout.position_offset, extrapolate=extrapolate
    )
    return Asked(loaded=loaded, layout=layout, documents=tuple(documents))
