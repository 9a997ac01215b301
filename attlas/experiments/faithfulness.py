"""Do the tokens that an explanation ranks first matter? They are taken out, or left alone, and the model asked again.

Suffixes: T tokens of a document, R those that may be taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from attlas.analysis.relevance import relevance
from attlas.analysis.rollout import rollout
from attlas.capture.run import capture
from attlas.engine.passage.documents import Document
from attlas.errors import InputError
from attlas.experiments.asked import Asked, ask_model, ask_texts, refuse_predicted, token_ids
from attlas.experiments.kept import Part
from attlas.experiments.question import Answering, Question, ask_each
from attlas.experiments.replacement import parse_replacement
from attlas.experiments.summary import Interval, summary
from attlas.parse import parse_choice, parse_count, parse_names, parse_numbers, refuse
from attlas.storage import Atlas

__all__ = ["EXPLANATIONS", "faithfulness"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

BY = ("delete", "mask", "token")
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
SOURCE = "https://arxiv.org/abs/1911.03429 (DeYoung et al. 2020, section 4)"


def _attention(atlas: Atlas, document: str) -> Any:
    return atlas.attention(document).isel(query=-1).mean(("layer", "head")).values


def _rolled(atlas: Atlas, document: str) -> Any:
    return rollout(atlas, document, queries=-1, save=False).rollout.values[0]


def _relevant(method: str, atlas: Atlas, document: str) -> Any:
    found = relevance(atlas, document, method=method, save=False).relevance
    return found.values[0] if method == "chefer" else found.sum(("layer", "head")).values


EXPLANATIONS: dict[str, Callable[[Atlas, str], Any]] = {
    "attention": _attention,
    "rollout": _rolled,
    **{method: partial(_relevant, method) for method in ("attention_x_gradient", "value_norm", "chefer")},
}
"""How much each token (T,) counts for the prediction behind the last one, of an atlas with its gradients."""


def faithfulness(
    model: Any,
    texts: Any,
    *,
    methods: Any = None,
    by: str = "delete",
    token: Any = None,
    shares: Sequence[float] = SHARES,
    draws: int = 5,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """Whether the tokens that an explanation ranks first are those that the prediction behind the last token needs.

    >>> found = attlas.experiments.faithfulness("demo", "one two three, one two three, one two", draws=2)
    >>> found.comprehensiveness.dims, found.explanation.values.tolist()[-1]
    (('document', 'explanation'), 'random')

    model, texts, options: as of `run`. methods: of EXPLANATIONS, all by default: "attention" (the last row, mean over
    layers and heads), "rollout", "attention_x_gradient", "value_norm" and "chefer", each of the log-probability of the
    likeliest next token. Beside them always "random", the mean over `draws` orders of `seed`. by: "delete", "mask" or
    "token", as of `replace_tokens`: what becomes of a token that is taken out. shares: of the tokens that may be taken
    out, which are all but special ones and the last; at least one is, and never all.

    Of each document and method, DeYoung et al. 2020: comprehensiveness, the mean over shares of how much the
    probability of the likeliest token falls without the tokens ranked first (much is good); sufficiency, the same of
    the text with these alone (little is good). without, only (document, explanation, share): the probabilities;
    probability (document): as it is; of one document also score (method, place), with its tokens. With means and
    intervals over documents as of `run`, and attrs says: the result in a sentence. A text without some tokens is not
    one that the model was trained on: what is measured is need in that sense. Memory: activations of a document. Raises
    InputError where a document has no two tokens to take out.
    """
    by, draws = parse_choice(by, "by", BY), parse_count(draws, "draws")
    chosen = tuple(EXPLANATIONS) if methods is None else parse_names(methods, "methods")
    for one in chosen:
        if one not in EXPLANATIONS:
            raise refuse(one, "methods", f"choose of {', '.join(EXPLANATIONS)}")
    parts = parse_numbers(shares, "shares", high=1)
    interval = Interval.of(confidence, seed)
    asked = ask_model(model, texts, options)
    refuse_predicted(asked, "faithfulness is of the one behind the last token")
    given = parse_replacement(by, token, asked)
    for document in asked.documents:
        _removable(document, given)
    question = Faithfulness(methods=chosen, given=given, shares=tuple(parts), draws=draws, seed=interval.seed)
    found = ask_each(question, asked)
    curve, of_method = ("explanation", "share"), ("explanation",)
    variables: dict[str, tuple[tuple[str, ...], str, str]] = {
        "comprehensiveness": (of_method, "fall of the probability without the first tokens, mean over shares", "1"),
        "sufficiency": (of_method, "fall of the probability with the first tokens alone, mean over shares", "1"),
        "without": (curve, "probability of the likeliest token without the first tokens", "1"),
        "only": (curve, "probability of the likeliest token with the first tokens alone", "1"),
        "probability": ((), "probability of the likeliest token", "1"),
    }
    coords = {"explanation": [*chosen, "random"], "share": list(parts)}
    told = summary(
        asked, found, variables, coords, interval, question="faithfulness", by=by, draws=draws, source=SOURCE
    )  # fmt: skip
    if len(found) == 1:
        told = told.assign(_scores(found[0]["score"], asked.documents[0], chosen))
    return told.assign_attrs(says=_says(told))


def _scores(score_ET: Floats, document: Document, methods: Sequence[str]) -> xr.Dataset:
    """Of one document, what each explanation says of each token."""
    attrs = {"long_name": "how much the token counts, in the explanation's own units", "units": "1"}
    tokens = np.array([str(one) for one in document.tokens["text"].text])
    return xr.Dataset(
        {"score": (("method", "place"), score_ET, attrs)},
        {"method": list(methods), "place": np.arange(len(tokens)), "token": ("place", tokens)},
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Faithfulness(Question):
    """given: the id of what is put in, or "delete"."""

    name: ClassVar[str] = "faithfulness"
    methods: tuple[str, ...]
    given: int | str
    shares: tuple[float, ...]
    draws: int
    seed: int

    def parts(self, asked: Asked, document: Document) -> int:
        return len(self.methods) + 1

    def answer(self, answering: Answering) -> Part:
        run = _Runs(self, answering.asked, answering.document)
        found = [answering.once(method, partial(run.of, method)) for method in (*self.methods, "random")]
        without, only = (np.stack([one[name] for one in found]) for name in ("without", "only"))
        probability = found[0]["probability"]
        return {
            "score": np.stack([one["score"] for one in found[:-1]]),
            "without": without, "only": only, "probability": probability,
            "comprehensiveness": (probability - without).mean(axis=1),
            "sufficiency": (probability - only).mean(axis=1),
        }  # fmt: skip


class _Runs:
    """One document, its explanations, and its runs without some tokens."""

    def __init__(self, question: Faithfulness, asked: Asked, document: Document) -> None:
        self.question, self.asked, self.document = question, asked, document
        self.ids = token_ids(document).tolist()
        self.places = _removable(document, question.given)
        self._atlas: Atlas | None = None
        self._own: tuple[int, float] | None = None

    def of(self, method: str) -> dict[str, Any]:
        score_T = np.zeros(0)
        if method == "random":
            orders = [
                np.random.default_rng((self.question.seed, draw)).permutation(self.places)
                for draw in range(self.question.draws)
            ]
        else:
            score_T = np.asarray(EXPLANATIONS[method](self.atlas, self.document.id))
            orders = [self.places[np.argsort(-score_T[self.places], kind="stable")]]
        counts = [min(len(self.places) - 1, max(1, round(share * len(self.places)))) for share in self.question.shares]
        without = [[self._probability(set(order[:count])) for count in counts] for order in orders]
        only = [[self._probability(set(order[count:])) for count in counts] for order in orders]
        return {
            "without": np.mean(without, axis=0), "only": np.mean(only, axis=0), "probability": self.own[1],
            "score": score_T,
        }  # fmt: skip

    @property
    def atlas(self) -> Atlas:
        """The document with the gradients of its prediction, in memory."""
        if self._atlas is None:
            loaded = self.asked.loaded
            self._atlas = capture(
                loaded.with_head, [self.ids], MemoryStore(), ids=[self.document.id], gradients="next_token",
                tokenizer=loaded.tokenizer, extrapolate=True,
            )  # fmt: skip
        return self._atlas

    @property
    def own(self) -> tuple[int, float]:
        """The likeliest token behind the last, and its probability."""
        if self._own is None:
            p_W = self._prediction(self.document)
            self._own = int(p_W.argmax()), float(p_W.max())
        return self._own

    def _probability(self, removed: set[int]) -> float:
        given = self.question.given
        if given == "delete":
            ids = [one for place, one in enumerate(self.ids) if place not in removed]
        else:
            ids = [int(given) if place in removed else one for place, one in enumerate(self.ids)]
        (changed,) = ask_texts(self.asked, [ids], extrapolate=True).documents
        return float(self._prediction(changed)[self.own[0]])

    def _prediction(self, document: Document) -> torch.Tensor:
        *_, last_NW = self.asked.logits(self.asked.passage(document), [], last_only=True)
        return last_NW[-1].double().softmax(0)


def _removable(document: Document, given: int | str) -> Indices:
    """The places that may be taken out. Raises InputError where there are none."""
    tokens = document.tokens["text"]
    free_T = ~tokens.special & (tokens.ids != (given if isinstance(given, int) else -1))
    free_T[-1] = False
    places: Indices = np.flatnonzero(free_T)
    if len(places) < 2:
        raise InputError(
            f"document {document.id!r} has no two tokens before its last that can be taken out: leave it out"
        )
    return places


def _says(found: xr.Dataset) -> str:
    """One plain sentence on what was found, and what not."""
    mean = found.comprehensiveness_mean
    best = str(found.explanation.values[int(mean.values.argmax())])
    random = mean.sel(explanation="random").item()
    count = found.sizes["document"]
    if best == "random":
        return f"over {count} document(s) no method finds tokens that matter more than random ones"
    return (
        f"over {count} document(s) the tokens that {best} ranks first matter most: without them the probability falls "
        f"by {mean.max().item():.3f}, without random ones by {random:.3f}; that they are all that matters is not shown"
    )
