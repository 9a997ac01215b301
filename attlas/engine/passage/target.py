"""What is differentiated: one number of each document, made of the model's output.

Suffixes: T tokens of a passage, D those of one document, W words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from attlas.engine.model.load import LoadedModel
from attlas.engine.passage.documents import Document
from attlas.engine.passage.passage import AxisTokens, Passage
from attlas.engine.passage.token import parse_token
from attlas.errors import InputError
from attlas.parse import parse_count, refuse

__all__ = ["Target", "head_of", "parse_target"]

NAMES = ("loss", "next_token")
ROWS = 256
"""Of logits, whose softmax is held at a time."""
FORMS = (
    'give "loss", "next_token", {"token": " Paris", "against": " Rome", "position": 7}, {"label": 1}, or a function of '
    "the model's output"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """name: "loss", the mean next-token cross-entropy; "next_token", the log-probability of a token behind another;
    "label", the score of a class; "function", what a function makes of the model's output.

    token: None for the likeliest. against: a token whose log-probability is taken off. position: behind which token of
    the document; None for the last.
    """

    name: str
    token: int | None = None
    against: int | None = None
    position: int | None = None
    label: int | None = None
    function: Callable[[Any], Any] | None = None

    @property
    def alone(self) -> bool:
        """Whether documents must go through the model one by one."""
        return self.function is not None or self.label is not None

    def to_json(self) -> Any:
        if self.function is not None:
            return {"name": self.name, "function": getattr(self.function, "__qualname__", repr(self.function))}
        every = {name: getattr(self, name) for name in ("name", "label", "token", "against", "position")}
        return {name: value for name, value in every.items() if value is not None}

    def check(self, documents: Sequence[Document]) -> None:
        """Raise InputError where a document is too short to have it."""
        if self.name == "loss":
            least, remedy = 2, "a document of one token has no next token, and so no loss: leave it out"
        elif self.position is not None:
            least, remedy = self.position + 1, "give one that all have"
        else:
            return
        for document in documents:
            tokens = document.tokens["target" if "target" in document.tokens else "text"]
            if len(tokens) < least:
                what = "" if self.position is None else f"position is {self.position}, and "
                raise InputError(f"{what}document {document.id!r} has {len(tokens)} tokens: {remedy}")

    def rows(self, passage: Passage) -> list[int] | None:
        """The tokens of a passage whose logits are needed; None for all, or for other output."""
        if self.name != "next_token":
            return None
        return [self._place(begin, end) for begin, end in _documents(_predicted(passage))]

    def scalar(self, output: Any, passage: Passage, *, rows: Sequence[int] | None = None) -> torch.Tensor:
        """The sum over the documents of a passage. rows: the tokens that logits were made of; None for all. Raises
        InputError where it cannot be differentiated."""
        if self.function is not None:
            made = self.function(output)
            if not isinstance(made, torch.Tensor) or made.numel() != 1 or not made.requires_grad:
                what = type(made).__name__ if not isinstance(made, torch.Tensor) else f"a tensor {tuple(made.shape)}"
                held = "" if not isinstance(made, torch.Tensor) or made.requires_grad else " without a gradient"
                raise InputError(
                    f"gradients are of what a function makes of the model's output, and this one made {what}{held}: "
                    "return one number, such as output.logits[0, -1, 42]"
                )
            return made.reshape(())
        if self.label is not None:
            scores: torch.Tensor = output.logits
            return scores[0, self.label]
        axis, logits_TW = _predicted(passage), output.logits[0]
        documents = _documents(axis)
        if self.name == "loss":
            return _loss(logits_TW, axis, documents)
        places = [self._place(begin, end) for begin, end in documents] if rows is None else range(len(rows))
        return torch.stack([self._of(logits_TW[place]) for place in places]).sum()

    def _place(self, begin: int, end: int) -> int:
        return end - 1 if self.position is None else begin + self.position

    def _of(self, logits_W: torch.Tensor) -> torch.Tensor:
        log_W = logits_W.float().log_softmax(0)
        value = log_W[int(log_W.argmax()) if self.token is None else self.token]
        return value if self.against is None else value - log_W[self.against]


def head_of(given: Any) -> bool | str:
    """With which head a model is loaded for it, as of `load_model`."""
    if given is None:
        return False
    return "any" if callable(given) or (isinstance(given, Mapping) and "label" in given) else True


def parse_target(given: Any, loaded: LoadedModel, *, causal: bool) -> Target:
    """Read what gradients are of. causal: whether every layer is, or the model has a decoder that is. Raises
    InputError, also where the model gives no such output."""
    if callable(given):
        return Target(name="function", function=given)
    if isinstance(given, Mapping) and "label" in given:
        return _parse_label(given, loaded)
    if not causal:
        raise InputError(
            f"{loaded.identity.name} does not predict the next token from those before, so gradients are of what a "
            "function makes of its output: give one, such as lambda output: output.logits[0, 3, 42]"
        )
    if isinstance(given, str) and given in NAMES:
        return Target(name=given)
    if not isinstance(given, Mapping) or not given or set(given) - {"token", "against", "position"}:
        raise refuse(given, "gradients", FORMS)
    tokens = {
        name: parse_token(given[name], loaded, f"gradients' {name}")
        for name in ("token", "against") if given.get(name) is not None
    }  # fmt: skip
    if "against" in tokens and "token" not in tokens:
        raise refuse(dict(given), "gradients", "give token too")
    place = given.get("position")
    return Target(
        name="next_token", position=None if place is None else parse_count(place, "gradients' position", least=0),
        token=tokens.get("token"), against=tokens.get("against"),
    )  # fmt: skip


def _parse_label(given: Mapping[str, Any], loaded: LoadedModel) -> Target:
    if set(given) != {"label"}:
        raise refuse(dict(given), "gradients", FORMS)
    labels = getattr(loaded.config, "num_labels", 0)
    if not type(loaded.with_head).__name__.endswith("ForSequenceClassification"):
        raise InputError(f"{loaded.identity.name} tells no classes apart, and so has no label: give another target")
    return Target(name="label", label=parse_count(given["label"], "gradients' label", least=0, most=labels - 1))


def _predicted(passage: Passage) -> AxisTokens:
    """The tokens that the model predicts."""
    return passage.axes["target"] if "target" in passage.axes else passage.axes["text"]


def _loss(logits_TW: torch.Tensor, axis: AxisTokens, documents: Sequence[tuple[int, int]]) -> torch.Tensor:
    """The sum over documents of the mean next-token cross-entropy."""
    next_T, weight_T = np.zeros(len(axis), dtype=np.int64), np.zeros(len(axis), dtype=np.float32)
    for begin, end in documents:
        next_T[begin : end - 1], weight_T[begin : end - 1] = axis.ids_T[begin + 1 : end], 1 / (end - begin - 1)
    given = (torch.from_numpy(x).to(logits_TW.device) for x in (next_T, weight_T))
    found: torch.Tensor = _CrossEntropy.apply(logits_TW, *given)
    return found


class _CrossEntropy(torch.autograd.Function):
    """A weighted sum of cross-entropies, some rows at a time: beside the logits there is only their gradient."""

    @staticmethod
    def forward(ctx: Any, logits_TW: torch.Tensor, next_T: torch.Tensor, weight_T: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(logits_TW, next_T, weight_T)
        total = logits_TW.new_zeros((), dtype=torch.float32)
        for begin in range(0, len(next_T), ROWS):
            at = slice(begin, begin + ROWS)
            each = torch.nn.functional.cross_entropy(logits_TW[at].float(), next_T[at], reduction="none")
            total += (each * weight_T[at]).sum()
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        logits_TW, next_T, weight_T = ctx.saved_tensors
        made_TW = torch.empty_like(logits_TW)
        for begin in range(0, len(next_T), ROWS):
            at = slice(begin, begin + ROWS)
            p_QW = logits_TW[at].float().softmax(1)
            p_QW[torch.arange(len(p_QW), device=p_QW.device), next_T[at]] -= 1
            made_TW[at] = p_QW.mul_((weight_T[at] * grad)[:, None])
        return made_TW, None, None


def _documents(axis: AxisTokens) -> list[tuple[int, int]]:
    """Where each document of a passage lies on an axis."""
    begins = np.flatnonzero(axis.position_T == 0).tolist()
    return list(zip(begins, [*begins[1:], len(axis)], strict=True))
