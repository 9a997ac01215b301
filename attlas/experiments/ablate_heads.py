"""What each head is worth to the model: the loss without it, of every head in turn, or to first order by gradients.

Suffixes: L layers, H heads of a layer, N tokens, V value features, S heads of a sample.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.edit.edit import Edit
from attlas.engine.kernels.measure import Attended
from attlas.engine.listeners.edit import Editing
from attlas.engine.model.layout import LayerLayout
from attlas.engine.passage.documents import Document
from attlas.engine.passage.passage import Passage
from attlas.engine.passage.selection import parse_selection
from attlas.errors import InputError
from attlas.experiments.asked import CHUNK_TOKENS, Asked, ask_model
from attlas.experiments.interval import bootstrap
from attlas.experiments.kept import Kept
from attlas.parse import parse_callback, parse_choice, parse_count, parse_folder, parse_seed, parse_share
from attlas.progress import Progress, Report

__all__ = ["ablate_heads"]

Floats = NDArray[np.float64]

DOING = ("zero", "uniform")
METHODS = ("exact", "first_order")
EXACT = "http://arxiv.org/abs/1905.10650 (Michel et al. 2019, section 3.2)"
FIRST_ORDER = "http://arxiv.org/abs/1905.10650 (Michel et al. 2019, equation 2), signed"


def ablate_heads(
    model: Any,
    texts: Any,
    *,
    layers: Any = None,
    heads: Any = None,
    do: str = "zero",
    method: str = "exact",
    sample: int = 20,
    chunk_tokens: int = CHUNK_TOKENS,
    confidence: float = 0.95,
    seed: int = 0,
    keep: Any = None,
    progress: Report | None = None,
    **options: Any,
) -> xr.Dataset:
    """Change of the next-token loss of a causal model where one head is ablated, for every head (Michel et al. 2019).

    >>> found = attlas.experiments.ablate_heads("demo", "one two three, one two three.", layers=1)
    >>> found.loss_change.dims, found.sizes["head"]
    (('document', 'layer', 'head'), 4)

    model, texts, and options ids, tokenizer, dtype, device, revision, max_tokens, extrapolate: as of `attlas.capture`.
    layers, heads: the model's indices, such as "0:4"; None for all. do: "zero", the head's output becomes 0; "uniform",
    it attends evenly to what it sees. method: "exact" runs the layers from the ablated one on once for each head, those
    below once for all, where nothing else than hidden states goes between layers; "first_order" takes the derivative
    of the loss along the ablation, of all heads in one pass forward and back, and sets it beside the exact change of
    `sample` heads drawn by `seed` (0: of none). chunk_tokens: query tokens of a pass, of "exact". keep: a folder in
    which finished parts are kept, where the same question goes on and is found again. progress: called with
    `attlas.progress.Progress`.

    loss_change (document, layer, head): ablated less unedited mean next-token cross-entropy, nats. loss_unedited,
    tokens (document). mean, low, high (layer, head): over documents, with an interval by a bootstrap of whole
    documents, NaN of one. With "first_order" also exact_change (document, sampled), sampled_layer and sampled_head
    (sampled), and attrs pearson, spearman: correlations of both over the sample, of means over documents. attrs:
    begins, "within the model" where layers below were not run again. Raises InputError, UnsupportedModelError where
    gradients cannot flow.
    """
    do, method = parse_choice(do, "do", DOING), parse_choice(method, "method", METHODS)
    sample, chunk_tokens = parse_count(sample, "sample", least=0), parse_count(chunk_tokens, "chunk_tokens")
    confidence, seed = parse_share(confidence, "confidence"), parse_seed(seed)
    folder = None if keep is None else parse_folder(keep, "keep")
    report = parse_callback(progress, "progress")
    layer_choice = None if layers is None else parse_selection(layers, "layers", random=False)
    head_choice = None if heads is None else parse_selection(heads, "heads", random=False)
    asked = ask_model(model, texts, options)
    labels = [call.layer for call in asked.layout.calls]
    chosen = labels if layer_choice is None else list(layer_choice.choose(labels, "layer"))
    calls = tuple(call for call in asked.layout.calls if call.layer in chosen)
    count = calls[0].heads
    if any(call.heads != count for call in calls):
        raise InputError("layers differ in their number of heads: choose those of one number with layers")
    picked = list(range(count)) if head_choice is None else list(head_choice.choose(range(count), "head"))
    question = {"do": do, "method": method, "chunk_tokens": chunk_tokens, "layers": chosen, "heads": picked}
    kept = Kept(folder, "ablate_heads", question, asked)
    ablation = _Ablation(asked, kept, do, calls, picked, chunk_tokens, _Counting(report))
    if method == "exact":
        return _dataset(ablation, ablation.exact(), confidence, seed, EXACT)
    return _dataset(ablation, ablation.first_order(), confidence, seed, FIRST_ORDER, sample)


class _Counting:
    """Tells the progress."""

    def __init__(self, report: Report | None) -> None:
        self.report, self.done, self.total, self.begun = report, 0, 0, time.monotonic()

    def __call__(self, more: int) -> None:
        self.done += more
        if self.report is not None:
            seconds = time.monotonic() - self.begun
            self.report(Progress(what="ablation", done=self.done, total=self.total, seconds=seconds))


@dataclass(frozen=True, slots=True, eq=False)
class _Ablation:
    """One question, ready to be run."""

    asked: Asked
    kept: Kept
    do: str
    calls: tuple[LayerLayout, ...]
    heads: Sequence[int]
    chunk_tokens: int
    counting: _Counting

    def exact(self) -> list[dict[str, Any]]:
        self.counting.total = len(self.asked.documents) * len(self.calls) * len(self.heads)
        self.counting(0)
        found = []
        for document, part in self.asked.passages(self.chunk_tokens):
            plain = _Unedited(self.asked, document, part)
            change_LH = np.empty((len(self.calls), len(self.heads)))
            for place, call in enumerate(self.calls):

                def losses(call: LayerLayout = call, plain: _Unedited = plain) -> dict[str, Any]:
                    return {"losses": [plain.without(self.do, call, head) for head in self.heads], "plain": plain.loss}

                one = self.kept.once(document.id, f"layer-{call.layer}", losses)
                change_LH[place] = one["losses"] - one["plain"]
                unedited = float(one["plain"])
                self.counting(len(self.heads))
            found.append({"change": change_LH, "loss_unedited": unedited, "within": plain.prefix is not None})
        return found

    def first_order(self) -> list[dict[str, Any]]:
        self.counting.total = len(self.asked.documents)
        self.counting(0)
        found = []
        for document, part in self.asked.passages(None):
            one = self.kept.once(document.id, "first-order", partial(self._slope, document, part))
            found.append({"change": one["change"], "loss_unedited": float(one["loss"]), "within": False})
            self.counting(1)
        return found

    def _slope(self, document: Document, part: Passage) -> dict[str, Any]:
        edits = [Edit(do=self.do, layer=call.layer) for call in self.calls]
        gated = _Gated(self.asked.editing(edits, document))
        ids_T = torch.from_numpy(document.tokens["text"].ids.astype(np.int64))
        logits_NW = self.asked.logits_with_gradient(part, [gated])
        loss = torch.nn.functional.cross_entropy(logits_NW[:-1].float(), ids_T[1:].to(logits_NW.device))
        gates = [gated.gates[call.module] for call in self.calls]
        slopes = torch.autograd.grad(loss, gates)
        return {"change": torch.stack(slopes)[:, self.heads].double().cpu().numpy(), "loss": loss.item()}

    def sampled(self, count: int, seed: int) -> tuple[NDArray[np.int64], Floats]:
        """Places in (layers, heads), flat, and the exact change of each document for them."""
        all_of = len(self.calls) * len(self.heads)
        flat_S = np.sort(np.random.default_rng(seed).choice(all_of, min(count, all_of), replace=False))
        change = []
        for document, part in self.asked.passages(self.chunk_tokens):
            plain = _Unedited(self.asked, document, part)

            def losses(plain: _Unedited = plain) -> dict[str, Any]:
                places = [divmod(int(at), len(self.heads)) for at in flat_S]
                of = [plain.without(self.do, self.calls[row], self.heads[column]) for row, column in places]
                return {"losses": of, "plain": plain.loss}

            one = self.kept.once(document.id, f"sample-{len(flat_S)}-{seed}", losses)
            change.append(one["losses"] - one["plain"])
        return flat_S, np.stack(change)


class _Unedited:
    """A document's run as it is, made when it is first asked for, and runs that differ from it in one head."""

    def __init__(self, asked: Asked, document: Document, part: Passage) -> None:
        self.asked, self.document, self.part = asked, document, part
        self.prefix = asked.prefix()
        self._loss: float | None = None

    @property
    def loss(self) -> float:
        if self._loss is None:
            logits = self.asked.logits(self.part, [], prefix=self.prefix)
            self._loss = self.asked.loss(self.document, self.part, logits)
        return self._loss

    def without(self, do: str, call: LayerLayout, head: int) -> float:
        assert self.loss is not None  # the layers below are kept
        editing = self.asked.editing([Edit(do=do, layer=call.layer, head=head)], self.document)
        begin = None if self.prefix is None else self.prefix.begin_of(call.module)
        prefix = None if begin is None else self.prefix
        logits = self.asked.logits(self.part, [editing], prefix=prefix, begin=begin)
        return self.asked.loss(self.document, self.part, logits)


class _Gated(Listener):
    """Goes from each head's output towards the edited one by a gate of 0, whose gradient is the slope of that way."""

    def __init__(self, editing: Editing) -> None:
        self.editing = editing
        self.gates: dict[str, torch.Tensor] = {}

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        assert call.chunk is not None
        module = call.chunk.layout.module
        if module not in self.editing.plans:
            return attended
        out_NHV = attended.out_NHV
        with torch.no_grad():
            edited_NHV = self.editing.after(call, replace(attended, out_NHV=out_NHV.detach())).out_NHV
        gate_H = torch.zeros(out_NHV.shape[1], device=out_NHV.device, requires_grad=True)
        self.gates[module] = gate_H
        along_NHV = gate_H.to(out_NHV.dtype)[None, :, None] * (edited_NHV - out_NHV.detach())
        return replace(attended, out_NHV=out_NHV + along_NHV)


def _dataset(
    ablation: _Ablation, found: Sequence[dict[str, Any]], confidence: float, seed: int, source: str, sample: int = 0
) -> xr.Dataset:
    asked, heads = ablation.asked, list(ablation.heads)
    change = np.stack([one["change"] for one in found])
    low, high = bootstrap(change, confidence, seed)
    cells, nat = ("layer", "head"), {"units": "nat"}
    variables: dict[str, Any] = {
        "loss_change": (("document", *cells), change, nat | {"long_name": "ablated less unedited cross-entropy"}),
        "mean": (cells, change.mean(axis=0), nat | {"long_name": "mean change over documents"}),
        "low": (cells, low, nat | {"long_name": "low end of the interval of the mean"}),
        "high": (cells, high, nat | {"long_name": "high end of the interval of the mean"}),
        "loss_unedited": (
            "document", [one["loss_unedited"] for one in found], nat | {"long_name": "next-token cross-entropy"}
        ),
        "tokens": (
            "document", [len(one.tokens["text"]) - 1 for one in asked.documents],
            {"long_name": "predicted tokens", "units": "1"},
        ),
    }  # fmt: skip
    attributes: dict[str, Any] = {
        "question": "ablate_heads", "model": asked.loaded.identity.name, "do": ablation.do, "source": source,
        "method": "first_order" if source == FIRST_ORDER else "exact", "confidence": confidence, "seed": seed,
        "begins": "within the model" if found[0]["within"] else "at the first layer",
    }  # fmt: skip
    if sample:
        flat_S, exact = ablation.sampled(sample, seed)
        label = np.array([call.layer for call in ablation.calls])
        variables |= {
            "exact_change": (("document", "sampled"), exact, nat | {"long_name": "exact change of the sample"}),
            "sampled_layer": ("sampled", label[flat_S // len(heads)]),
            "sampled_head": ("sampled", np.array(heads)[flat_S % len(heads)]),
        }
        mine, truth = change.mean(axis=0).ravel()[flat_S], exact.mean(axis=0)
        several = len(flat_S) > 2
        attributes |= {
            "pearson": float(pearsonr(mine, truth).statistic) if several else float("nan"),
            "spearman": float(spearmanr(mine, truth).statistic) if several else float("nan"),
        }
    coords = {
        "document": [document.id for document in asked.documents],
        "layer": [call.layer for call in ablation.calls], "head": heads,
    }  # fmt: skip
    return xr.Dataset(variables, coords, attributes)
