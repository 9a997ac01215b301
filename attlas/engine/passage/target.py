"""What is differentiated: one number of each document, made of the model's output.

Suffixes: T tokens of a passage, D those of one document, W words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from attlas.engine.model.load import LoadedModel
from attlas.engine.passage.passage import AxisTokens, Passage
from attlas.engine.passage.token import parse_token
from attlas.errors import InputError
from attlas.parse import parse_count, refuse

__all__ = ["Target", "head_of", "parse_target"]

NAMES = ("loss", "next_token")
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

    def scalar(self, output: Any, passage: Passage) -> torch.Tensor:
        """The sum over the documents of a passage. Raises InputError where it cannot be differentiated."""
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
        axis = passage.axes["target"] if "target" in passage.axes else passage.axes["text"]
        logits_TW = output.logits[0]
        parts = [
            self._of(logits_TW[begin:end], torch.from_numpy(axis.ids_T[begin:end]).to(logits_TW.device))
            for begin, end in _documents(axis)
        ]
        return torch.stack(parts).sum()

    def _of(self, logits_DW: torch.Tensor, ids_D: torch.Tensor) -> torch.Tensor:
        if self.name == "loss":
            if len(ids_D) < 2:
                raise InputError("a document of one token has no next token, and so no loss: leave it out")
            return torch.nn.functional.cross_entropy(logits_DW[:-1].float(), ids_D[1:])
        place = len(ids_D) - 1 if self.position is None else self.position
        if place >= len(ids_D):
            raise InputError(f"position is {place}, and a document has {len(ids_D)} tokens: give one that all have")
        log_W = logits_DW[place].float().log_softmax(0)
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


def _documents(axis: AxisTokens) -> list[tuple[int, int]]:
    """Where each document of a passage lies on an axis."""
    begins = np.flatnonzero(axis.position_T == 0).tolist()
    return list(zip(begins, [*begins[1:], len(axis)], strict=True))
