"""A model with its head, ready to be run over documents with edits and without: what experiments have in common.

Suffixes: T tokens of a document, N those of a chunk, W words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.call import Listener
from attlas.engine.edit.edit import Edit
from attlas.engine.edit.places import Places, parse_places
from attlas.engine.listeners.edit import Editing
from attlas.engine.model.head import WithHead
from attlas.engine.model.layout import ModelLayout
from attlas.engine.model.load import LoadedModel, load_model, no_head
from attlas.engine.model.prefix import Prefix
from attlas.engine.model.probe import layout_of
from attlas.engine.model.source import ModelSource
from attlas.engine.passage.documents import Document, plan_packs
from attlas.engine.passage.passage import Passage, passages
from attlas.engine.passage.runner import ShardRunner
from attlas.engine.passage.tokenize import make_documents
from attlas.errors import InputError, UnsupportedModelError
from attlas.parse import parse_callback, parse_count, parse_flag, parse_folder, parse_word, shown
from attlas.progress import Report
from attlas.storage.atlas import Atlas
from attlas.storage.tiers import TIERS

__all__ = [
    "CHUNK_TOKENS",
    "OPTIONS",
    "ROWS",
    "Asked",
    "Running",
    "ask_documents",
    "ask_model",
    "ask_texts",
    "refuse_predicted",
    "token_ids",
]

SOURCE = ("tokenizer", "dtype", "device", "revision")
INPUT = ("ids", "max_tokens", "extrapolate")
RUNNING = ("chunk_tokens", "predicted", "keep", "progress", "address")
OPTIONS = (*SOURCE, *INPUT, *RUNNING)
"""What every experiment takes beside its own parameters."""
ROWS = 128
"""Whose distributions over all words are held as float32 at a time."""

CHUNK_TOKENS = 1024
"""Query tokens of a forward pass: logits of all words are held for so many."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Running:
    """How an experiment is run.

    chunk_tokens: query tokens of a forward pass. predicted: the tokens whose predictions count; None for all but the
    first. keep: a folder for finished parts. progress: who is told. address: of a Ray cluster, or "local" for a private
    one, over which documents are spread; None for this process.
    """

    chunk_tokens: int = CHUNK_TOKENS
    predicted: Places | None = None
    keep: Path | None = None
    progress: Report | None = None
    address: str | None = None

    @classmethod
    def of(
        cls, *, chunk_tokens: Any = CHUNK_TOKENS, predicted: Any = None, keep: Any = None, progress: Any = None,
        address: Any = None,
    ) -> Running:  # fmt: skip
        """Read each as given; raises InputError."""
        return cls(
            chunk_tokens=parse_count(chunk_tokens, "chunk_tokens"),
            predicted=parse_places(predicted, "predicted"),
            keep=None if keep is None else parse_folder(keep, "keep"),
            progress=parse_callback(progress, "progress"),
            address=None if address is None else parse_word(address, "address", "give auto, local, or host:port"),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A causal language model, or one that tells classes of documents apart, and documents for it. source: what loads
    the model again elsewhere."""

    loaded: LoadedModel
    layout: ModelLayout
    documents: tuple[Document, ...]
    running: Running = field(default_factory=Running)
    source: ModelSource

    @property
    def classes(self) -> bool:
        """Whether a document's class is what is predicted, and no next tokens."""
        return _tells_classes(self.loaded)

    @property
    def layers(self) -> list[int]:
        return [call.layer for call in self.layout.calls]

    def texts(self, ids: Sequence[int]) -> list[str]:
        """What each token reads as."""
        assert self.loaded.tokenizer is not None
        return [str(self.loaded.tokenizer.decode([one])) for one in ids]

    def counted(self, document: Document) -> Flags:
        """(T,): whether the prediction of each token counts; never of the first. Raises InputError where of none."""
        tokens = document.tokens["text"]
        inside_T = np.ones(len(tokens), dtype=bool)
        if self.running.predicted is not None:
            texts = None if self.loaded.tokenizer is None else self.texts
            ids_T = tokens.ids.astype(np.int64)
            inside_T = self.running.predicted.within(document.id, ids_T, tokens.special, texts)
        inside_T[0] = False
        if not inside_T.any():
            raise InputError(
                f"no prediction of document {document.id!r} counts: predicted must name a token behind the first"
            )
        return inside_T

    def editing(self, edits: Sequence[Edit], document: Document) -> Editing:
        """The listener that makes edits in a passage of this document alone."""
        return Editing(
            edits, self.layout, text=None if self.loaded.tokenizer is None else self.texts,
            document_ids=lambda _: document.id, output_only=True,
        )  # fmt: skip

    def passage(self, document: Document, *, whole: bool = False) -> Passage:
        """A document alone; one longer than a chunk in several, where the model can be, unless it is to be whole."""
        whole = whole or self.classes
        chunk_tokens = self.running.chunk_tokens if self.layout.chunkable and not whole else None
        lengths = [{axis: len(tokens) for axis, tokens in document.tokens.items()}]
        (pack,) = plan_packs(lengths, pack_tokens=1, block=64)
        (part,) = passages(pack, [document], pack_documents=False, chunk_tokens=chunk_tokens)
        return part

    def logits(
        self,
        part: Passage,
        listeners: Sequence[Listener],
        *,
        prefix: Prefix | None = None,
        begin: int | None = None,
        last_only: bool = False,
        train: bool = False,
    ) -> Iterator[torch.Tensor]:
        """(N, W) of each chunk, in order; of classes (1, classes) of a document.

        prefix: what keeps the pass, or, with `begin`, what is given for all layers below that place of its stack.
        last_only: of a chunk's last token alone (1, W), where the model can leave the others out. train: dropout is on.
        """
        layout = self.layout
        if prefix is not None and begin is not None:
            calls = tuple(call for call in layout.calls if prefix.begin_of(call.module) >= begin)
            layout = replace(layout, calls=calls)
        shard = WithHead(self.loaded, last_only=last_only)
        runner = ShardRunner(shard, layout, recording=TIERS["factors"].recording())
        opened = runner.open(part, None, finish=True, listeners=listeners, train=train)
        for number in range(len(part.chunks)):
            if prefix is not None:
                shard.within = prefix.keeping(number) if begin is None else prefix.begun(number, begin)
            with torch.inference_mode():  # left before the next asker's turn: a mode is of the thread
                logits = opened.step(number).logits
            logits_NW = logits if self.classes else logits[0]
            yield logits_NW

    def logits_with_gradient(
        self, part: Passage, listeners: Sequence[Listener], *, last_only: bool = False
    ) -> torch.Tensor:
        """(T, W) of a document in one pass, through which gradients flow; last_only: as of `logits`."""
        shard = WithHead(self.loaded, last_only=last_only)
        runner = ShardRunner(shard, self.layout, recording=TIERS["factors"].recording())
        logits_TW: torch.Tensor = runner.open(part, None, finish=True, listeners=listeners, grad=True).step(0).logits[0]
        return logits_TW

    def prefix(self) -> Prefix | None:
        """What keeps a pass for others to begin in the middle of; None where more than hidden states goes between."""
        try:
            return Prefix(self.loaded.model)
        except UnsupportedModelError:
            return None

    def loss(self, document: Document, part: Passage, logits: Iterable[torch.Tensor]) -> float:
        """The mean next-token cross-entropy of the predictions that count, in nats, of the logits of the chunks."""
        ids_T, counted_T, total = token_ids(document), self.counted(document), 0.0
        for logits_NW, (begin, end) in zip(logits, part.chunks, strict=True):
            at_N = torch.from_numpy(np.flatnonzero(counted_T[begin + 1 : end + 1]))
            next_N = ids_T[at_N + begin + 1].to(logits_NW.device)
            for first in range(0, len(at_N), ROWS):
                at = slice(first, first + ROWS)
                each = torch.nn.functional.cross_entropy(logits_NW[at_N[at]].float(), next_N[at], reduction="none")
                total += each.double().sum().item()
        return total / int(counted_T.sum())


def token_ids(document: Document) -> torch.Tensor:
    """(T,), int64."""
    return torch.from_numpy(document.tokens["text"].ids.astype(np.int64))


def ask_model(model: Any, texts: Any, options: Mapping[str, Any], *, classes: bool = False) -> Asked:
    """Load a model with its head, and tokenise the texts for it. options: of OPTIONS. classes: whether it may be one
    that tells classes of documents apart.

    texts: as of `attlas.capture`, or an `attlas.Atlas` of the same model, whose documents are taken. Raises InputError
    where the model predicts no next token, or of a document no token, UnsupportedModelError.
    """
    unknown = next((name for name in options if name not in OPTIONS), None)
    if unknown is not None:
        raise InputError(
            f"there is no option {shown(unknown)} of an experiment: choose of {', '.join(sorted(OPTIONS))}"
        )
    running = Running.of(**{name: options[name] for name in RUNNING if name in options})
    source = ModelSource.of(model, **{name: options[name] for name in SOURCE if name in options})
    given = {name: options[name] for name in INPUT if name in options}
    asked = ask_documents(source, (), running, classes=classes)
    if asked.classes:
        refuse_predicted(asked, "this model predicts the class of a document")
    return ask_texts(asked, texts, **given)


def ask_texts(
    asked: Asked,
    texts: Any,
    *,
    ids: Sequence[str] | None = None,
    max_tokens: int | None = None,
    extrapolate: bool = False,
) -> Asked:
    """The same model, asked of other texts."""
    max_tokens = None if max_tokens is None else parse_count(max_tokens, "max_tokens")
    extrapolate = parse_flag(extrapolate, "extrapolate")
    if isinstance(texts, Atlas):
        texts, ids = _documents_of(texts, asked.loaded, ids)
    documents = make_documents(
        texts, asked.loaded, ids=ids, max_tokens=max_tokens, position_offset=asked.layout.position_offset,
        extrapolate=extrapolate,
    )  # fmt: skip
    short = next((document.id for document in documents if len(document.tokens["text"]) < 2), None)
    if short is not None and not asked.classes:
        raise InputError(f"document {short!r} has one token, and so no next token is predicted: leave it out")
    return replace(asked, documents=tuple(documents))


def ask_documents(
    source: ModelSource, documents: Sequence[Document], running: Running, *, classes: bool = True
) -> Asked:
    """A model with its head, loaded, and documents that are tokenised."""
    loaded, layout = _load(source, classes)
    return Asked(loaded=loaded, layout=layout, documents=tuple(documents), running=running, source=source)


def refuse_predicted(asked: Asked, what: str) -> None:
    """Raise InputError where predictions to count were chosen for what counts none."""
    if asked.running.predicted is not None:
        raise InputError(f"predicted chooses the tokens whose predictions count, and {what}: leave it out")


def _tells_classes(loaded: LoadedModel) -> bool:
    return type(loaded.with_head).__name__.endswith("ForSequenceClassification")


def _load(source: ModelSource, classes: bool) -> tuple[LoadedModel, ModelLayout]:
    loaded = load_model(
        source.model, tokenizer=source.tokenizer, dtype=source.dtype, device=source.device, revision=source.revision,
        head="any",
    )  # fmt: skip
    if _tells_classes(loaded):
        if not classes:
            raise InputError(
                f"{loaded.identity.name} tells classes of documents apart, and this experiment is of next tokens: ask "
                "run, perturbation or remove_largest"
            )
        return loaded, layout_of(loaded)
    if loaded.with_head is None or loaded.with_head.get_output_embeddings() is None:
        raise no_head(loaded.identity.name, type(loaded.with_head).__name__)
    layout = layout_of(loaded)
    if loaded.is_encoder_decoder or not all(call.causal for call in layout.calls):
        raise InputError(
            f"{loaded.identity.name} does not predict the next token from those before: experiments are of causal "
            "language models"
        )
    return loaded, layout


def _documents_of(atlas: Atlas, loaded: LoadedModel, ids: Any) -> tuple[list[list[int]], list[str]]:
    """The token ids of an atlas's documents, and their names. Raises InputError of another model's atlas."""
    own, identity = atlas.model, loaded.identity
    if (own["name"], own["weights"]) != (identity.name, identity.weights):
        raise InputError(
            f"the atlas is of {own['name']}, weights {str(own['weights'])[:12]}, and the experiment of "
            f"{identity.name}, weights {str(identity.weights)[:12]}: give the same model"
        )
    if ids is not None:
        raise InputError("documents of an atlas have their names: leave ids out")
    names = list(atlas)
    return [atlas.tokens(atlas.committed_index(name))["text"]["token_id"].tolist() for name in names], names
