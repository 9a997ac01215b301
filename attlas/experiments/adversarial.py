"""Adversarial attention: other weights, as far as can be from the model's own, under which it says the same.

Suffixes: H query heads, h those that are changed, N rows, M keys, V value features, W words of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.kernels import reference
from attlas.engine.kernels.measure import Attended
from attlas.experiments.asked import Asked, ask_model
from attlas.experiments.heads import HeadChoice
from attlas.experiments.kept import Part
from attlas.experiments.question import Answering, Question, ask_each
from attlas.experiments.summary import Interval, summary
from attlas.parse import parse_count, parse_fraction, parse_seed

__all__ = ["adversarial"]

Indices = NDArray[np.int64]

PRICE = 5.0
"""Of a total variation beyond the limit, in nats of the weights' distance. Of what was tried, it finds the farthest:
the paper's 500 drives the search out of the limit and back."""
RATE, BEGIN = 0.3, 1.0
"""Of Adam; and the standard deviation of the change of scores that it begins with."""
SOURCE = "https://arxiv.org/abs/1902.10186 (Jain and Wallace 2019, section 4.2.2)"


def adversarial(
    model: Any,
    texts: Any,
    *,
    layers: Any = None,
    heads: Any = None,
    limit: float = 0.01,
    steps: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """Weights of the last query that are far from the model's own and leave its next prediction as it is.

    >>> found = attlas.experiments.adversarial("demo", "one two three, one two three.", layers=1, steps=20)
    >>> bool((found.total_variation <= 0.01).all()), bool((found.weights_js >= 0).all())
    (True, True)

    model, texts, options: as of `run`. layers, heads: of which the last token's rows of weights are changed, all at
    once; None for all. limit: how far the prediction behind the last token may move, as total variation, 0 to 1. steps:
    of the search by gradients, which begins at random by `seed`; of what it passes, the farthest weights within the
    limit are taken. A distance that is found is a lower bound of what there is.

    weights_js (document, layer, head): Jensen-Shannon divergence of the found weights from the model's own, nats, at
    most ln 2 = 0.69. total_variation, kl (document): how far the prediction moved. With means and intervals over
    documents as of `run`. Of one document also weights and found_weights (layer, head, key): the last row of the
    model's own weights, and of those found. Memory: a forward and backward pass. Raises InputError,
    UnsupportedModelError where gradients cannot flow.
    """
    limit, steps = parse_fraction(limit, "limit"), parse_count(steps, "steps")
    interval = Interval.of(confidence, seed)
    asked = ask_model(model, texts, options)
    choice = HeadChoice.of(asked, layers, heads)
    question = Adversarial(choice=choice, limit=limit, steps=steps, seed=parse_seed(seed))
    found = ask_each(question, asked)
    variables: dict[str, tuple[tuple[str, ...], str, str]] = {
        "weights_js": (("layer", "head"), "Jensen-Shannon divergence of the weights from the model's own", "nat"),
        "total_variation": ((), "total variation distance of the prediction behind the last token", "1"),
        "kl": ((), "divergence of that prediction", "nat"),
    }  # fmt: skip
    coords = {"layer": list(choice.layers), "head": list(choice.heads)}
    made = summary(
        asked, found, variables, coords, interval, question="adversarial", limit=limit, steps=steps, source=SOURCE
    )  # fmt: skip
    if len(found) > 1:
        return made
    rows = ("layer", "head", "key")
    return made.assign(
        weights=(rows, found[0]["weights"], {"long_name": "the model's own weights of the last query", "units": "1"}),
        found_weights=(rows, found[0]["found_weights"], {"long_name": "weights found", "units": "1"}),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adversarial(Question):
    """The search in each document."""

    name: ClassVar[str] = "adversarial"
    choice: HeadChoice
    limit: float
    steps: int
    seed: int

    def answer(self, answering: Answering) -> Part:
        return answering.once("search", lambda: self._search(answering))

    def _search(self, answering: Answering) -> dict[str, Any]:
        asked, part = answering.asked, answering.asked.passage(answering.document, whole=True)
        keys, heads = len(answering.document.tokens["text"]), np.array(self.choice.heads)
        modules = [call.module for call in self.choice.calls(asked)]
        shifted = _Shifted(heads, {module: torch.zeros(len(heads), keys) for module in modules})
        plain_W = _prediction(asked, part, shifted)
        own = {module: a_hM.detach() for module, a_hM in shifted.weights.items()}
        generator = torch.Generator().manual_seed(self.seed)
        shifts = [torch.empty(len(heads), keys).normal_(0, BEGIN, generator=generator) for _ in modules]
        for shift in shifts:
            shift.requires_grad_()
        shifted.shifts = dict(zip(modules, shifts, strict=True))
        optimiser = torch.optim.Adam(shifts, lr=RATE)
        own_LhM = torch.stack(list(own.values())).numpy()
        best: dict[str, Any] = {
            "weights_js": np.zeros((len(modules), len(heads))), "total_variation": 0.0, "kl": 0.0,
            "found_weights": own_LhM,
        }  # fmt: skip
        plain_W = plain_W.detach()
        for _ in range(self.steps):
            log_W = _prediction(asked, part, shifted)
            moved = (log_W.exp() - plain_W.exp()).abs().sum() / 2
            js_Lh = torch.stack([_js(shifted.weights[module], own[module]) for module in modules])
            if moved.item() <= self.limit and js_Lh.mean().item() > best["weights_js"].mean():
                kl = (plain_W.exp() * (plain_W - log_W)).sum().item()
                best = {
                    "weights_js": js_Lh.detach().double().numpy(), "total_variation": moved.item(), "kl": max(kl, 0.0),
                    "found_weights": torch.stack([shifted.weights[module].detach() for module in modules]).numpy(),
                }  # fmt: skip
            loss = PRICE * (moved - self.limit).clamp_min(0) - js_Lh.mean()
            for shift, gradient in zip(shifts, torch.autograd.grad(loss, shifts), strict=True):
                shift.grad = gradient
            optimiser.step()
        return best | {"weights": own_LhM}


class _Shifted(Listener):
    """Changes the scores of the last row. shifts: module -> what is added to them, (h, keys). weights: the same of the
    last pass."""

    def __init__(self, heads: Indices, shifts: Mapping[str, torch.Tensor]) -> None:
        self.heads, self.shifts = heads, dict(shifts)
        self.weights: dict[str, torch.Tensor] = {}

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        assert call.chunk is not None
        module = call.chunk.layout.module
        if module not in self.shifts:
            return attended
        row, heads = call.q_HND.shape[1] - 1, self.heads
        problem = call.problem().of(heads, np.array([row]))
        s_hM = reference.scores(problem)[0][:, 0] + self.shifts[module].to(call.q_HND.device)
        lse_h = torch.logsumexp(s_hM, dim=1)
        if problem.rule.sink_H is not None:
            lse_h = torch.logaddexp(lse_h, torch.from_numpy(np.ascontiguousarray(problem.rule.sink_H)))
        a_hM = (s_hM - lse_h[:, None]).exp()
        self.weights[module] = a_hM.cpu()
        v_hMV = call.v_GMV[torch.from_numpy(heads // (call.q_HND.shape[0] // len(call.v_GMV)))]
        out_NHV = attended.out_NHV.clone()
        out_NHV[row, torch.from_numpy(heads)] = (a_hM[:, None] @ v_hMV.float())[:, 0].to(out_NHV.dtype)
        return replace(attended, out_NHV=out_NHV)


def _prediction(asked: Asked, part: Any, shifted: _Shifted) -> torch.Tensor:
    """(W,): log-probabilities behind the last token, float32."""
    return asked.logits_with_gradient(part, [shifted], last_only=True)[-1].float().log_softmax(0).cpu()


def _js(a_hM: torch.Tensor, own_hM: torch.Tensor) -> torch.Tensor:
    """(h,): nats. Rows with a sink sum to less than 1; they are taken to 1."""
    p, q = (x / x.sum(1, keepdim=True) for x in (a_hM, own_hM))
    middle = (p + q) / 2
    tiny = torch.finfo(torch.float32).tiny
    of_p, of_q = (x * (x.clamp_min(tiny).log() - middle.clamp_min(tiny).log()) for x in (p, q))
    js_h: torch.Tensor = ((of_p + of_q).sum(1) / 2).clamp(0, math.log(2))
    return js_h
