"""A model with its head, ready to be run over documents with edits and without: what experiments have in common.

Suffixes: T tokens of a document, N those of a chunk, W words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from attlas.engine.attention.call import Listener
from attlas.engine.edit.edit import Edit
from attlas.engine.listeners.edit import Editing
from attlas.engine.model.layout import ModelLayout
from attlas.engine.model.load import LoadedModel, load_model
from attlas.engine.model.prefix import Prefix
from attlas.engine.model.probe import layout_of
from attlas.engine.model.shard import Shard, State
from attlas.engine.model.source import ModelSource
from attlas.engine.passage.documents import Document, plan_packs
from attlas.engine.passage.passage import Passage, passages
from attlas.engine.passage.runner import ShardRunner
from attlas.engine.passage.tokenize import make_documents
from attlas.errors import InputError, UnsupportedModelError
from attlas.parse import parse_count, parse_flag, shown
from attlas.storage.tiers import TIERS

__all__ = ["CHUNK_TOKENS", "OPTIONS", "ROWS", "Asked", "ask_model"]

OPTIONS = ("ids", "tokenizer", "dtype", "device", "revision", "max_tokens", "extrapolate")
"""Of `attlas.capture`, what every experiment takes."""
ROWS = 128
"""Whose distributions over all words are held as float32 at a time."""

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

    def logits(
        self, part: Passage, listeners: Sequence[Listener], *, prefix: Prefix | None = None, begin: int | None = None
    ) -> Iterator[torch.Tensor]:
        """(N, W) of each chunk, in order.

        prefix: what keeps the pass, or, with `begin`, what is given for all layers below that place of its stack.
        """
        layout = self.layout
        if prefix is not None and begin is not None:
            calls = tuple(call for call in layout.calls if prefix.begin_of(call.module) >= begin)
            layout = replace(layout, calls=calls)
        shard = _WithHead(self.loaded)
        runner = ShardRunner(shard, layout, recording=TIERS["factors"].recording())
        opened = runner.open(part, None, finish=True, listeners=listeners)
        for number in range(len(part.chunks)):
            if prefix is not None:
                shard.within = prefix.keeping(number) if begin is None else prefix.begun(number, begin)
            with torch.inference_mode():  # left before the next asker's turn: a mode is of the thread
                logits_NW = opened.step(number).logits[0]
            yield logits_NW

    def logits_with_gradient(self, part: Passage, listeners: Sequence[Listener]) -> torch.Tensor:
        """(T, W) of a document in one pass, through which gradients flow."""
        runner = ShardRunner(_WithHead(self.loaded), self.layout, recording=TIERS["factors"].recording())
        logits_TW: torch.Tensor = runner.open(part, None, finish=True, listeners=listeners, grad=True).step(0).logits[0]
        return logits_TW

    def prefix(self) -> Prefix | None:
        """What keeps a pass for others to begin in the middle of; None where more than hidden states goes between."""
        try:
            return Prefix(self.loaded.model)
        except UnsupportedModelError:
            return None

    def loss(self, document: Document, part: Passage, logits: Iterable[torch.Tensor]) -> float:
        """The mean next-token cross-entropy of a document, in nats, of the logits of its chunks."""
        ids_T, total = torch.from_numpy(document.tokens["text"].ids.astype(np.int64)), 0.0
        for logits_NW, (begin, end) in zip(logits, part.chunks, strict=True):
            next_N = ids_T[begin + 1 : end + 1].to(logits_NW.device)
            for first in range(0, len(next_N), ROWS):
                at = slice(first, min(first + ROWS, len(next_N)))
                each = torch.nn.functional.cross_entropy(logits_NW[at].float(), next_N[at], reduction="none")
                total += each.double().sum().item()
        return total / (len(ids_T) - 1)


class _WithHead(Shard):
    """The whole model, its head too, as one shard. within: of the next forward pass, while the model is this thread's
    alone."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded.model, (), 0, 0)
        self._whole = loaded.with_head
        self.within: AbstractContextManager[None] = nullcontext()

    def forward(self, inputs: Mapping[str, Any], state: State | None = None) -> Any:
        assert self._whole is not None
        given = {k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
        with self.within:
            return self._whole(**given)


def ask_model(model: Any, texts: Any, options: Mapping[str, Any]) -> Asked:
    """Load a model with its head, and tokenise the texts for it. options: of OPTIONS, as of `attlas.capture`.

    Raises InputError where the model predicts no next token, or of a document no token, UnsupportedModelError.
    """
    unknown = next((name for name in options if name not in OPTIONS), None)
    if unknown is not None:
        raise InputError(
            f"there is no option {shown(unknown)} of an experiment: choose of {', '.join(sorted(OPTIONS))}"
        )
    return _ask(model, texts, **options)


def _ask(
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
    short = next((document.id for document in documents if len(document.tokens["text"]) < 2), None)
    if short is not None:
        raise InputError(f"document {short!r} has one token, and so no next token is predicted: leave it out")
    return Asked(loaded=loaded, layout=layout, documents=tuple(documents))
