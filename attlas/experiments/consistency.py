"""How much the attention weights of a head vary when the model is run again and again with dropout on.

Suffixes: D draws, L layers, H heads, N rows of a chunk, Q rows and K keys of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from attlas.engine.kernels import door, reference
from attlas.engine.kernels.measure import TILE_BYTES
from attlas.engine.listeners.keep import KeepingProblems, Kept
from attlas.engine.passage.documents import Document
from attlas.errors import InputError
from attlas.experiments.asked import Asked, ask_model
from attlas.experiments.heads import HeadChoice
from attlas.experiments.kept import Part
from attlas.experiments.question import Answering, Question, ask_each
from attlas.experiments.summary import Interval, summary
from attlas.parse import parse_bytes, parse_count, parse_share

__all__ = ["consistency"]

Floats = NDArray[np.float64]

MEMORY = 2**30
NAMES = ("attention_dropout", "dropout", "activation_dropout", "dropout_prob", "attn_dropout_prob")
"""Attributes of layers that are a probability of dropout."""


def consistency(
    model: Any,
    texts: Any,
    *,
    draws: int = 10,
    rate: float | None = None,
    layers: Any = None,
    heads: Any = None,
    memory: Any = MEMORY,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """How much each head's attention weights vary over dropout masks: the model runs in train mode, dropout on.

    >>> found = attlas.experiments.consistency("demo", "one two three, one two three.", draws=3, rate=0.1)
    >>> found.cv.dims, bool((found.correlation <= 1).all())
    (('document', 'layer', 'head'), True)

    model, texts, options: as of `run`. draws: how many times, of seeds `seed`, `seed` + 1 and so on. rate: every
    dropout probability of the model, while it runs; None for its own. layers, heads: the model's indices; None for all.
    memory: what q, k and log-sum-exp of all draws may take; for more, they are run again for each group of layers.

    Of each document and head (document, layer, head), over the cells that queries see, exactly: deviation, the mean of
    each weight's standard deviation over draws; cv, the coefficient of variation, the sum of a row's deviations by the
    sum of its means, mean over rows; correlation, of the weights of two draws over all cells, mean over pairs; and
    correlations (document, layer, head, draw, other_draw). With means and intervals over documents as of `run`. Memory:
    that, and a tile of every draw. Raises InputError where the model has no dropout and no rate is given.
    """
    draws = parse_count(draws, "draws", least=2)
    rate = None if rate is None else parse_share(rate, "rate")
    budget, interval = parse_bytes(memory, "memory"), Interval.of(confidence, seed)
    asked = ask_model(model, texts, options)
    if rate is None and not any(value for _, _, value in _places(asked.loaded.model)):
        raise InputError(
            f"{asked.loaded.identity.name} has no dropout, and every run of it is the same: give rate, such as 0.1"
        )
    choice = HeadChoice.of(asked, layers, heads)
    question = Consistency(choice=choice, draws=draws, rate=rate, memory=budget, seed=interval.seed)
    found = ask_each(question, asked)
    cells, every = ("layer", "head"), ("layer", "head", "draw", "other_draw")
    variables: dict[str, tuple[tuple[str, ...], str, str]] = {
        "deviation": (cells, "standard deviation of a weight over draws, mean over cells", "1"),
        "cv": (cells, "coefficient of variation of the weights, mean over rows", "1"),
        "correlation": (cells, "correlation of the weights of two draws, mean over pairs", "1"),
        "correlations": (every, "correlation of the weights of two draws", "1"),
    }
    number = list(range(draws))
    coords = {"layer": list(choice.layers), "head": list(choice.heads), "draw": number, "other_draw": number}
    told = {"question": "consistency", "draws": draws, "rate": "the model's own" if rate is None else rate}
    return summary(asked, found, variables, coords, interval, **told)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Consistency(Question):
    """memory: bytes of the draws' factors."""

    name: ClassVar[str] = "consistency"
    choice: HeadChoice
    draws: int
    rate: float | None
    memory: int
    seed: int

    def parts(self, asked: Asked, document: Document) -> int:
        return len(self.choice.layers)

    def answer(self, answering: Answering) -> Part:
        asked, runs = answering.asked, _Runs(self, answering)
        found = [
            answering.once(f"layer-{call.layer}", partial(runs.of, call.module)) for call in self.choice.calls(asked)
        ]
        return {name: np.stack([one[name] for one in found]) for name in found[0]}


class _Runs:
    """The draws' factors, of as many layers at a time as memory allows; run when a layer is asked for."""

    def __init__(self, question: Consistency, answering: Answering) -> None:
        self.question, self.asked, self.document = question, answering.asked, answering.document
        self.calls = question.choice.calls(self.asked)
        self.kept: list[KeepingProblems] = []

    def of(self, module: str) -> dict[str, Any]:
        if not self.kept or module not in self.kept[0].modules:
            self._run([call.module for call in self.calls].index(module))
        per_draw = [[kept for _, kept in one.chunks(module)] for one in self.kept]
        return _variation(list(zip(*per_draw, strict=True)))

    def _run(self, first: int) -> None:
        question, model = self.question, self.asked.loaded.model
        call, tokens = self.calls[first], len(self.document.tokens["text"])
        each = question.draws * tokens * ((call.heads + call.kv_heads) * call.features + call.heads) * 4
        some = [call.module for call in self.calls[first : first + max(1, question.memory // each)]]
        self.kept = []
        with _dropout(model, question.rate), torch.random.fork_rng():
            for draw in range(question.draws):
                torch.manual_seed(question.seed + draw)
                keeping = KeepingProblems(some, np.array(question.choice.heads))
                part = self.asked.passage(self.document)
                for _ in self.asked.logits(part, [keeping], last_only=True, train=True):
                    pass
                self.kept.append(keeping)


def _variation(chunks: Sequence[tuple[Kept, ...]]) -> dict[str, Any]:
    """Of one layer, chunk by chunk of every draw: what `consistency` says of its heads."""
    draws, heads = len(chunks[0]), chunks[0][0][0].heads
    gram_HDD, sum_HD = torch.zeros(heads, draws, draws).double(), torch.zeros(heads, draws).double()
    deviation_H, cv_H, cells, rows = torch.zeros(heads).double(), torch.zeros(heads).double(), 0, 0
    for chunk in chunks:
        problem = chunk[0][0]
        cells += int((problem.stop_N - problem.start_N).sum())
        rows += problem.rows
        for begin, end, low, high in reference.plan_rows(
            problem.start_N, problem.stop_N, heads * 4 * (2 * draws + 2), TILE_BYTES
        ):
            at, key_K = slice(begin, end), np.arange(low, high)
            a_DHQK = torch.stack([
                door.weights(one.tile(at, slice(low, high)), lse_HN[:, at], key_M=key_K) for one, lse_HN in chunk
            ]).cpu()  # fmt: skip
            flat_HDC = a_DHQK.transpose(0, 1).flatten(2).double()
            gram_HDD += flat_HDC @ flat_HDC.transpose(1, 2)
            sum_HD += flat_HDC.sum(2)
            deviation_HQ = a_DHQK.double().std(0).sum(2)
            deviation_H += deviation_HQ.sum(1)
            cv_H += (deviation_HQ / a_DHQK.double().mean(0).sum(2)).sum(1)
    covariance_HDD = gram_HDD / cells - sum_HD[:, :, None] * sum_HD[:, None, :] / cells**2
    scale_HD = covariance_HDD.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    correlations_HDD = (covariance_HDD / (scale_HD[:, :, None] * scale_HD[:, None, :])).clamp(-1, 1)
    pairs = torch.triu_indices(draws, draws, 1)
    return {
        "deviation": (deviation_H / cells).numpy(), "cv": (cv_H / rows).numpy(),
        "correlation": correlations_HDD[:, pairs[0], pairs[1]].mean(1).numpy(),
        "correlations": correlations_HDD.numpy(),
    }  # fmt: skip


def _places(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, float]]:
    """Where a model has a probability of dropout."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            yield module, "p", float(module.p)
        for name in NAMES:
            value = vars(module).get(name)
            if isinstance(value, float):
                yield module, name, value


@contextmanager
def _dropout(model: torch.nn.Module, rate: float | None) -> Iterator[None]:
    """Inside, every probability of dropout is this one; None for the model's own."""
    before = list(_places(model))
    try:
        if rate is not None:
            for module, name, _ in before:
                setattr(module, name, rate)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
