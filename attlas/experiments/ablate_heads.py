"""What each head is worth to the model: the loss without it, of every head in turn, or to first order by gradients.

Suffixes: L layers, H heads of a layer, N tokens, V value features, S heads of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.edit.edit import Edit
from attlas.engine.kernels.measure import Attended
from attlas.engine.listeners.edit import Editing
from attlas.engine.passage.documents import Document
from attlas.experiments.asked import Asked, ask_model, token_ids
from attlas.experiments.heads import HeadChoice
from attlas.experiments.kept import Part
from attlas.experiments.mean_outputs import fill_means
from attlas.experiments.question import Answering, Question, ask_each
from attlas.experiments.summary import Interval, summary
from attlas.experiments.unedited import Unedited
from attlas.parse import parse_choice, parse_count

__all__ = ["ablate_heads"]

DOING = ("zero", "uniform", "mean")
METHODS = ("exact", "first_order")
SOURCES = {
    "exact": "http://arxiv.org/abs/1905.10650 (Michel et al. 2019, section 3.2)",
    "first_order": "http://arxiv.org/abs/1905.10650 (Michel et al. 2019, equation 2), signed",
}


def ablate_heads(
    model: Any,
    texts: Any,
    *,
    layers: Any = None,
    heads: Any = None,
    do: str = "zero",
    reference: Any = None,
    method: str = "exact",
    sample: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """Change of the next-token loss of a causal model where one head is ablated, for every head (Michel et al. 2019).

    >>> found = attlas.experiments.ablate_heads("demo", "one two three, one two three.", layers=1)
    >>> found.loss_change.dims, found.sizes["head"]
    (('document', 'layer', 'head'), 4)

    model, texts, options: as of `run`. layers, heads: the model's indices, such as "0:4"; None for all. do: "zero", the
    head's output becomes 0; "uniform", it attends evenly to what it sees; "mean", its output becomes its mean over all
    tokens of `reference`, texts, or None for `texts`. method: "exact" runs the layers from the
    ablated one on once for each head, those below once for all, where nothing else than hidden states goes between
    layers; "first_order" takes the derivative of the loss along the ablation, of all heads in one pass forward and
    back, and sets it beside the exact change of `sample` heads drawn by `seed` (0: of none).

    loss_change (document, layer, head): ablated less unedited mean next-token cross-entropy, nats, with its mean and
    interval over documents as of `run`; loss_unedited (document). With "first_order" also exact_change (document,
    sampled), sampled_layer and sampled_head (sampled), and attrs pearson, spearman: correlations of both over the
    sample, of means over documents. attrs begins: "within the model" where layers below were not run again. Raises
    InputError, UnsupportedModelError where gradients cannot flow.
    """
    do, method = parse_choice(do, "do", DOING), parse_choice(method, "method", METHODS)
    sample, interval = parse_count(sample, "sample", least=0), Interval.of(confidence, seed)
    asked = ask_model(model, texts, options)
    choice = HeadChoice.of(asked, layers, heads)
    coords: dict[str, Any] = {"layer": list(choice.layers), "head": list(choice.heads)}
    variables: dict[str, tuple[tuple[str, ...], str, str]] = {
        "loss_change": (("layer", "head"), "ablated less unedited next-token cross-entropy", "nat"),
        "loss_unedited": ((), "next-token cross-entropy", "nat"),
    }
    told: dict[str, Any] = {"question": "ablate_heads", "do": do, "method": method, "source": SOURCES[method]}
    one = Edit(do=do, layer=list(choice.layers), head=list(choice.heads))
    (whole,) = fill_means(asked, (one,), reference, options)
    if method == "exact":
        exact = Exact(choice=choice, edit=whole)
        return summary(asked, ask_each(exact, asked), variables, coords, interval, begins=exact.begins(asked), **told)
    every = [(layer, head) for layer in choice.layers for head in choice.heads]
    drawn_S = np.random.default_rng(interval.seed).choice(len(every), min(sample, len(every)), replace=False)
    of = tuple(every[place] for place in np.sort(drawn_S))
    first = FirstOrder(choice=choice, edit=whole, sample=of)
    found = ask_each(first, asked)
    if of:
        variables["exact_change"] = ("sampled",), "exact change of the sample", "nat"
        coords |= {
            "sampled_layer": ("sampled", [layer for layer, _ in of]),
            "sampled_head": ("sampled", [head for _, head in of]),
        }
        told |= _agreement(found, np.sort(drawn_S))
    return summary(asked, found, variables, coords, interval, begins="at the first layer", **told)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exact(Question):
    """The loss without each head, layer by layer. edit: of all of them."""

    name: ClassVar[str] = "ablate_heads"
    choice: HeadChoice
    edit: Edit

    def parts(self, asked: Asked, document: Document) -> int:
        return len(self.choice.layers)

    def begins(self, asked: Asked) -> str:
        return "at the first layer" if asked.prefix() is None else "within the model"

    def answer(self, answering: Answering) -> Part:
        plain = Unedited(answering.asked, answering.document)
        found = [answering.once(f"layer-{layer}", partial(self._layer, plain, layer)) for layer in self.choice.layers]
        change = np.stack([one["losses"] - one["plain"] for one in found])
        return {"loss_change": change, "loss_unedited": found[0]["plain"]}

    def _layer(self, plain: Unedited, layer: int) -> dict[str, Any]:
        losses = [plain.loss_with([self.choice.part(self.edit, layer, head)]) for head in self.choice.heads]
        return {"losses": losses, "plain": plain.loss}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FirstOrder(Question):
    """The slope of the loss towards each ablation. sample: (layer, head) of which the exact change is found too."""

    name: ClassVar[str] = "ablate_heads_first_order"
    choice: HeadChoice
    edit: Edit
    sample: tuple[tuple[int, int], ...]

    def parts(self, asked: Asked, document: Document) -> int:
        return 2

    def answer(self, answering: Answering) -> Part:
        asked, document = answering.asked, answering.document
        slope = answering.once("slope", lambda: self._slope(asked, document))
        truth = answering.once("sample", lambda: self._exact(asked, document))
        return {**slope, **truth}

    def _slope(self, asked: Asked, document: Document) -> dict[str, Any]:
        gated = _Gated(asked.editing([self.edit], document))
        logits_NW = asked.logits_with_gradient(asked.passage(document, whole=True), [gated])
        at_N = torch.from_numpy(np.flatnonzero(asked.counted(document)[1:]))
        next_N = token_ids(document)[at_N + 1].to(logits_NW.device)
        loss = torch.nn.functional.cross_entropy(logits_NW[at_N].float(), next_N)
        slopes = torch.autograd.grad(loss, [gated.gates[call.module] for call in self.choice.calls(asked)])
        change_LH = torch.stack(slopes)[:, list(self.choice.heads)].double().cpu().numpy()
        return {"loss_change": change_LH, "loss_unedited": loss.item()}

    def _exact(self, asked: Asked, document: Document) -> dict[str, Any]:
        plain = Unedited(asked, document)
        losses = [plain.loss_with([self.choice.part(self.edit, layer, head)]) for layer, head in self.sample]
        return {"exact_change": np.array(losses) - plain.loss if losses else np.empty(0)}


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


def _agreement(found: list[Part], drawn_S: NDArray[np.int64]) -> dict[str, float]:
    """Correlations of the slopes with the truth, of means over documents; NaN of fewer than three heads."""
    mine_S = np.mean([one["loss_change"].ravel()[drawn_S] for one in found], axis=0)
    truth_S = np.mean([one["exact_change"] for one in found], axis=0)
    if len(drawn_S) < 3:
        return {"pearson": float("nan"), "spearman": float("nan")}
    pearson, spearman = pearsonr(mine_S, truth_S).statistic, spearmanr(mine_S, truth_S).statistic
    return {"pearson": float(pearson), "spearman": float(spearman)}
