"""Adversarial attention: other weights, as far as can be from the model's own, under which it says the same.

Suffixes: L layers and h heads that are changed, H query heads, N rows, M keys, V value features, W words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.kernels import reference
from attlas.engine.kernels.measure import Attended
from attlas.experiments.asked import ask_model
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
"""Of Adam, in nats a step; and the standard deviation of the change of scores that it begins with."""
PATIENCE = 5
"""Steps outside of the limit."""
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

    def _search(self, answering: Answering) -> Part:
        walk = _Walk(answering, self.choice, self.seed)
        for _ in range(self.steps):
            walk.step(self.limit)
        return walk.best | {"weights": walk.own_LhM.numpy()}


class _Walk:
    """A search by gradients from a random beginning, that goes back to the best it has found when it strays.

    best: the farthest weights within the limit so far; the model's own where none were."""

    def __init__(self, answering: Answering, choice: HeadChoice, seed: int) -> None:
        self.asked, self.part = answering.asked, answering.asked.passage(answering.document, whole=True)
        self.modules = [call.module for call in choice.calls(self.asked)]
        heads, generator = np.array(choice.heads), torch.Generator().manual_seed(seed)
        size = len(self.modules), len(heads), len(answering.document.tokens["text"])
        self.shift_LhM = torch.zeros(size)
        self.shifted = _Shifted(heads, self.modules)
        self.plain_W = self._prediction().detach()
        self.own_LhM = self._weights().detach()
        self.shift_LhM = torch.empty(size).normal_(0, BEGIN, generator=generator)
        self.best: dict[str, Any] = {
            "weights_js": np.zeros(size[:2]), "total_variation": 0.0, "kl": 0.0, "found_weights": self.own_LhM.numpy()
        }  # fmt: skip
        self.best_LhM: torch.Tensor | None = None
        self.strayed = 0
        self._begin(self.shift_LhM, RATE)

    def step(self, limit: float) -> None:
        log_W = self._prediction()
        moved = (log_W.exp() - self.plain_W.exp()).abs().sum() / 2
        js_Lh = _js(self._weights(), self.own_LhM)
        inside = moved.item() <= limit
        self.strayed = 0 if inside else self.strayed + 1
        if inside and (self.best_LhM is None or js_Lh.mean().item() > self.best["weights_js"].mean()):
            kl = (self.plain_W.exp() * (self.plain_W - log_W)).sum().item()
            self.best_LhM = self.shift_LhM.detach().clone()
            self.best = {
                "weights_js": js_Lh.detach().double().numpy(), "total_variation": moved.item(), "kl": max(kl, 0.0),
                "found_weights": self._weights().detach().numpy(),
            }  # fmt: skip
        if self.best_LhM is None:
            self._begin(self.shift_LhM.detach() / 2, self.rate)
        elif self.strayed > PATIENCE:
            self._begin(self.best_LhM, self.rate / 2)
        else:
            loss = PRICE * (moved - limit).clamp_min(0) - js_Lh.mean()
            (self.shift_LhM.grad,) = torch.autograd.grad(loss, [self.shift_LhM])
            self.optimiser.step()

    def _begin(self, shift_LhM: torch.Tensor, rate: float) -> None:
        self.strayed, self.rate = 0, rate
        self.shift_LhM = shift_LhM.clone().requires_grad_()
        self.optimiser = torch.optim.Adam([self.shift_LhM], lr=rate)

    def _prediction(self) -> torch.Tensor:
        """(W,): log-probabilities behind the last token, float32."""
        self.shifted.shifts = dict(zip(self.modules, self.shift_LhM, strict=True))
        logits_NW = self.asked.logits_with_gradient(self.part, [self.shifted], last_only=True)
        return logits_NW[-1].float().log_softmax(0).cpu()

    def _weights(self) -> torch.Tensor:
        """(L, h, M) of the last pass."""
        return torch.stack([self.shifted.weights[module] for module in self.modules])


class _Shifted(Listener):
    """Changes the scores of the last row. shifts: module -> what is added to them, (h, keys). weights: the same of the
    last pass."""

    def __init__(self, heads: Indices, modules: Sequence[str]) -> None:
        self.heads = heads
        self.shifts: dict[str, torch.Tensor] = dict.fromkeys(modules, torch.empty(0))
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
            lse_h = torch.logaddexp(lse_h, torch.from_numpy(np.ascontiguousarray(problem.rule.sink_H)).to(lse_h))
        a_hM = (s_hM - lse_h[:, None]).exp()
        self.weights[module] = a_hM.cpu()
        v_hMV = call.v_GMV[torch.from_numpy(heads // (call.q_HND.shape[0] // len(call.v_GMV)))]
        out_NHV = attended.out_NHV.clone()
        out_NHV[row, torch.from_numpy(heads)] = (a_hM[:, None] @ v_hMV.float())[:, 0].to(out_NHV.dtype)
        return replace(attended, out_NHV=out_NHV)


def _js(a_LhM: torch.Tensor, own_LhM: torch.Tensor) -> torch.Tensor:
    """(L, h): nats. Rows with a sink sum to less than 1; they are taken to 1."""
    p, q = (x / x.sum(2, keepdim=True) for x in (a_LhM, own_LhM))
    middle = (p + q) / 2
    tiny = torch.finfo(torch.float32).tiny
    of_p, of_q = (x * (x.clamp_min(tiny).log() - middle.clamp_min(tiny).log()) for x in (p, q))
    js_Lh: torch.Tensor = ((of_p + of_q).sum(2) / 2).clamp(0, math.log(2))
    return js_Lh
