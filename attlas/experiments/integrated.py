"""Gradients integrated along attention that is scaled from nothing to what it is (Hao et al. 2021).

Suffixes: H heads, N queries, M keys, V value features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from attlas.capture.run import capture
from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.kernels.measure import Attended
from attlas.engine.listeners.recording import OUTPUT_GRADIENT, Recording
from attlas.engine.listeners.sink import LayerRows, MapTile
from attlas.engine.model.head import WithHead
from attlas.engine.passage.documents import Document
from attlas.engine.passage.gradient import run_with_gradient
from attlas.engine.passage.runner import ShardRunner
from attlas.engine.passage.target import Target, parse_target
from attlas.errors import InputError
from attlas.experiments.asked import Asked, ask_model, refuse_predicted, token_ids
from attlas.experiments.heads import HeadChoice
from attlas.experiments.kept import Part
from attlas.experiments.question import Answering, Question, ask_each
from attlas.parse import parse_count
from attlas.storage import Atlas

__all__ = ["integrated"]

Floats = NDArray[np.float64]

SOURCE = "https://arxiv.org/abs/2004.11207 (Hao et al. 2021, equation 2)"


def integrated(
    model: Any, text: Any, *, target: Any = "next_token", steps: int = 20, layers: Any = None, **options: Any
) -> xr.Dataset:
    """How much each key counts for a target, by gradients integrated over the attention of a layer scaled from 0 to 1.

    >>> found = attlas.experiments.integrated("demo", "one two three, one two three, one", layers=1)
    >>> found.relevance.dims, bool(found.completeness_error.item() < 0.1)
    (('layer', 'head', 'key'), True)

    model, options: as of `run`. text: one document. target: as `gradients` of `attlas.capture`, but for functions and
    labels; the likeliest next token is that of the model as it is. steps: of the midpoint rule; each costs a pass
    forward and back. layers: the model's indices; None for all.

    One layer at a time, all its weights are scaled by alpha: A times the mean over alpha of the gradient with respect
    to the scaled weight. relevance (layer, head, key): summed over queries; head_importance (layer, head): over all.
    change (layer): how far the target moves from attention of nothing to what it is, which the sum of relevance is to
    be; completeness_error (layer): by how much it is not, as a share of the change. A large error means that the target
    jumps or bends along the way, as it does where a mixture of experts routes: then relevance is not to be believed.
    Memory: activations of the document. Raises InputError, GradientError.
    """
    steps = parse_count(steps, "steps")
    asked = ask_model(model, text if isinstance(text, Atlas) else [text], options)
    refuse_predicted(asked, "integrated is of its target")
    if len(asked.documents) != 1:
        raise InputError(f"integrated is of one document, and {len(asked.documents)} are given: give one text")
    parse_target(target, asked.loaded, causal=True).check(asked.documents)
    if callable(target) or (isinstance(target, Mapping) and "label" in target):
        raise InputError('integrated is of a loss or of tokens: give "loss", "next_token", or a mapping with token')
    choice = HeadChoice.of(asked, layers, None)
    (found,) = ask_each(Integrated(choice=choice, target=target, steps=steps), asked)
    (document,) = asked.documents
    tokens = np.array([str(one) for one in document.tokens["text"].text])
    about = {
        "relevance": (("layer", "head", "key"), "integrated gradient of the weights, summed over queries"),
        "head_importance": (("layer", "head"), "integrated gradient of the weights, summed"),
        "change": (("layer",), "change of the target from no attention of the layer to its own"),
        "completeness_error": (("layer",), "share of the change that the sum of relevance misses"),
    }
    return xr.Dataset(
        {
            name: (dims, found[name], {"long_name": words, "units": "1" if name.endswith("error") else "target"})
            for name, (dims, words) in about.items()
        },
        {
            "layer": list(choice.layers), "head": list(choice.heads), "key": np.arange(len(tokens)),
            "key_token": ("key", tokens),
        },
        {
            "question": "integrated", "model": asked.loaded.identity.name, "document_id": document.id, "steps": steps,
            "target": str(target), "source": SOURCE,
            "shows": "contributions along one path of a layer's attention; completeness_error: how far they add up",
        },
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Integrated(Question):
    """target: as it was given."""

    name: ClassVar[str] = "integrated"
    choice: HeadChoice
    target: Any
    steps: int

    def parts(self, asked: Asked, document: Document) -> int:
        return len(self.choice.layers)

    def answer(self, answering: Answering) -> Part:
        runs = _Runs(self, answering.asked, answering.document)
        found = [answering.once(f"layer-{layer}", partial(runs.of, layer)) for layer in self.choice.layers]
        return {name: np.stack([one[name] for one in found]) for name in found[0]}


class _Runs:
    def __init__(self, question: Integrated, asked: Asked, document: Document) -> None:
        self.question, self.asked, self.document = question, asked, document
        self._atlas: Atlas | None = None

    @cached_property
    def target(self) -> Target:
        """Of the token that is likeliest in the run as it is, and not of another wherever another is ahead."""
        target = parse_target(self.question.target, self.asked.loaded, causal=True)
        if target.name != "next_token" or target.token is not None:
            return target
        part = self.asked.passage(self.document, whole=True)
        (place,) = target.rows(part) or (-1,)
        (logits_TW,) = self.asked.logits(part, [])
        return replace(target, token=int(logits_TW[place].argmax()))

    @property
    def atlas(self) -> Atlas:
        """The document as it is, with the values of all layers, in memory."""
        if self._atlas is None:
            loaded = self.asked.loaded
            self._atlas = capture(
                loaded.with_head, [token_ids(self.document).tolist()], MemoryStore(), ids=[self.document.id],
                gradients=self.question.target, tokenizer=loaded.tokenizer, extrapolate=True,
            )  # fmt: skip
        return self._atlas

    def of(self, layer: int) -> dict[str, Any]:
        steps = self.question.steps
        mean_HNV, own, none = np.zeros(0), self._run(layer, 1.0)[1], self._run(layer, 0.0)[1]
        for step in range(steps):
            gradient_HNV, _ = self._run(layer, (step + 0.5) / steps)
            mean_HNV = mean_HNV + gradient_HNV / steps if mean_HNV.size else gradient_HNV / steps
        operator = self.atlas.operator(self.document.id, layer)
        rows = operator.rows
        v_HMV = rows.values_of(rows.layers.index(layer), np.arange(rows.heads), np.arange(rows.keys)).double().numpy()
        relevance_HM = np.einsum("hmv,hmv->hm", operator.apply_transposed(mean_HNV), v_HMV)
        change = own - none
        missed = abs(relevance_HM.sum() - change)
        return {
            "relevance": relevance_HM, "head_importance": relevance_HM.sum(axis=1), "change": change,
            "completeness_error": missed / abs(change) if change else np.inf,
        }  # fmt: skip

    def _run(self, layer: int, alpha: float) -> tuple[Floats, float]:
        """The gradient of the layer's scaled output (H, N, V), and the target's value."""
        (call,) = [call for call in self.asked.layout.calls if call.layer == layer]
        (kind,) = self.asked.layout.kinds()
        taking = _Taking()
        runner = ShardRunner(
            WithHead(self.asked.loaded),
            self.asked.layout,
            recording=Recording(),
            kinds=[replace(kind, layers=(layer,))],
        )
        part = self.asked.passage(self.document, whole=True)
        value = run_with_gradient(runner, part, taking, self.target, listeners=[_Scaled(call.module, alpha)])
        assert taking.gradient_HNV is not None
        return taking.gradient_HNV.double().numpy(), value


class _Scaled(Listener):
    """One layer's output, and so all its weights, times a number."""

    def __init__(self, module: str, alpha: float) -> None:
        self.module, self.alpha = module, alpha

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        assert call.chunk is not None
        if call.chunk.layout.module != self.module:
            return attended
        return replace(attended, out_NHV=attended.out_NHV * self.alpha)


class _Taking:
    """A sink that holds one layer's output gradient."""

    def __init__(self) -> None:
        self.gradient_HNV: torch.Tensor | None = None

    def write(self, rows: LayerRows) -> None:
        if OUTPUT_GRADIENT in rows.factors:
            self.gradient_HNV = rows.factors[OUTPUT_GRADIENT].clone()

    def write_map(self, tile: MapTile) -> None:
        raise AssertionError("no maps are recorded")
