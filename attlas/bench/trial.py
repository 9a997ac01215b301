"""What every workload is given: a model, documents (synthetic ones by default), repetitions, a folder to write in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from attlas.bench.limits import Limits, measure_limits
from attlas.engine.model.load import LoadedModel, load_model
from attlas.engine.model.positions import ends_of_positions, position_limit
from attlas.engine.model.probe import layout_of
from attlas.engine.model.shape import ModelShape, shape_of
from attlas.engine.passage.input import Texts
from attlas.engine.passage.tokenize import make_documents
from attlas.errors import InputError

__all__ = ["Ids", "Subject", "Trial", "plain_forward", "sides"]

Ids = Any
"""A document as a capture takes it: a list of token ids, or a (source, target) pair of lists."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """rounds: repetitions that count. folder: scratch, on the disk in question. told: hears what is run next.

    texts: documents by the user, None for synthetic ones, random ids drawn by `seed`. peak: measure memory too.
    """

    model: str
    folder: Path
    texts: Texts | None = None
    dtype: str = "auto"
    device: str = "auto"
    rounds: int = 5
    seed: int = 0
    peak: bool = True
    told: Callable[[str], None] = lambda _what: None

    def load(self) -> Subject:
        """The model, and what of it the workloads need; raises as a capture does."""
        self.told("loading the model")
        loaded = load_model(self.model, dtype=self.dtype, device=self.device)
        return Subject(
            loaded=loaded,
            shape=shape_of(loaded.model, dtype=str(loaded.model.dtype).removeprefix("torch.")),
            trained=position_limit(loaded.config, layout_of(loaded).position_offset),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A loaded model. trained: the positions it was trained for; None where they have no end."""

    loaded: LoadedModel
    shape: ModelShape
    trained: int | None

    @property
    def device(self) -> str:
        return str(self.loaded.model.device)

    @property
    def features(self) -> int:
        """The head size of q and k, of the widest layer."""
        return max(layer.features for layer in self.shape.layers)

    def limits(self, trial: Trial, *, disk: bool = True) -> Limits:
        trial.told("measuring the machine's limits")
        return measure_limits(
            features=self.features, dtype=self.loaded.model.dtype, device=self.device,
            folder=trial.folder if disk else None,
        )  # fmt: skip

    def documents(self, trial: Trial, tokens: int | None) -> list[Ids]:
        """One synthetic document of `tokens`, or the user's, each cut there; None leaves them whole.

        Raises InputError where no document is as long, or the model's positions end before.
        """
        if trial.texts is None:
            assert tokens is not None
            found = [self.synthetic(tokens, seed=trial.seed)]
        else:
            made = make_documents(trial.texts, self.loaded, max_tokens=tokens, extrapolate=True)
            longest = max(sum(map(len, d.tokens.values())) for d in made)
            if tokens is not None and longest < tokens:
                raise InputError(
                    f"--tokens {tokens}, and the longest document given has {longest} tokens: give a longer text, or "
                    f"--tokens of at most {longest}"
                )
            found = [_ids(document) for document in made]
        self._check_positions(found)
        return found

    def synthetic(self, tokens: int, *, seed: int) -> Ids:
        """Random ids of the vocabulary, its ends left out, where special tokens lie; of a pair each side gets half."""
        if tokens < 2:
            raise InputError(f"--tokens {tokens} is too short to be timed: give 2 or more")
        vocabulary = int(self.loaded.config.get_text_config().vocab_size)
        edge = min(10, vocabulary // 4)
        draw = np.random.default_rng(seed)
        ids: list[int] = draw.integers(edge, vocabulary - edge, tokens).tolist()
        return (ids[: tokens // 2], ids[tokens // 2 :]) if self.loaded.is_encoder_decoder else ids

    def beyond(self, documents: Sequence[Ids]) -> str:
        """A remark where documents are longer than the positions the model was trained for, else nothing."""
        longest = max(len(side) for document in documents for side in sides(document))
        return f"beyond the {self.trained:,} trained positions" if self.trained and longest > self.trained else ""

    def weight_flops(self, tokens: int) -> float:
        """Of a forward pass's matrix products with weights: 2 a weight and token, embeddings left out."""
        embedding = self.loaded.model.get_input_embeddings()
        looked_up = sum(p.numel() for p in embedding.parameters()) if embedding is not None else 0
        return 2.0 * (self.shape.parameters - looked_up) * tokens

    def _check_positions(self, documents: Sequence[Ids]) -> None:
        if self.trained is None or not self.beyond(documents):
            return
        end = ends_of_positions(self.loaded.model, self.trained)
        if end is not None:
            raise InputError(
                f"the model's positions end at {self.trained:,} and cannot be extrapolated: {end}; give --tokens of at "
                f"most {self.trained}"
            )


def plain_forward(model: PreTrainedModel, documents: Sequence[Ids]) -> None:
    """The plain forward pass, document by document, with the attention the model has by itself (SDPA)."""
    device = model.device
    with torch.inference_mode():
        for document in documents:
            tensors = [torch.tensor([side], device=device) for side in sides(document)]
            names = ("input_ids", "decoder_input_ids")[: len(tensors)]
            model(**dict(zip(names, tensors, strict=True)), use_cache=False)
    if device.type == "cuda":
        torch.cuda.synchronize()


def sides(document: Ids) -> tuple[list[int], ...]:
    """The texts of a document: one, or source and target."""
    return document if isinstance(document, tuple) else (document,)


def _ids(document: Any) -> Ids:
    found = tuple(tokens.ids.tolist() for tokens in document.tokens.values())
    return found if len(found) > 1 else found[0]
