"""What a model says with its attention edited, beside what it says without.

Suffixes: N tokens of a chunk, W words of the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from attlas.engine.edit.edit import Edit, parse_edits
from attlas.engine.passage.documents import Document
from attlas.engine.passage.passage import Passage
from attlas.errors import InputError
from attlas.experiments.asked import CHUNK_TOKENS, ROWS, Asked, ask_model
from attlas.experiments.interval import bootstrap
from attlas.parse import parse_count, parse_seed, parse_share, refuse

__all__ = ["run"]

Floats = NDArray[np.float64]


def run(
    model: Any,
    texts: Any,
    edits: Any,
    *,
    answers: Sequence[tuple[Any, Any]] | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """Loss and predictions of a causal model with edited attention, beside the unedited run of the same texts.

    >>> text = "one two three, one two three; and one two three again."
    >>> found = attlas.experiments.run("demo", text, attlas.Edit(do="zero", layer=1, head=0))
    >>> found.kl.item() > 0, found.agreement.item() < 1
    (True, True)

    model, texts, and options ids, tokenizer, dtype, device, revision, max_tokens, extrapolate: as of `attlas.capture`.
    edits: `attlas.Edit` values, made in their order. answers: of each document a pair of tokens, the right and the
    wrong, as text of one token or as token id, whose logits behind the last token are compared. chunk_tokens: query
    tokens of a forward pass, whose logits are held.

    Of each document: loss and loss_unedited, the mean next-token cross-entropy in nats; loss_change; kl, the mean over
    positions of the divergence of the edited from the unedited prediction, in nats; agreement, the share of positions
    with the same most likely token; tokens predicted; logit_difference and logit_difference_unedited with `answers`.
    attrs: for each of these the mean over documents and its interval `..._low`, `..._high`, by a bootstrap of whole
    documents (`seed`), NaN of one document. Raises InputError where an edit is of nothing, UnsupportedModelError.
    """
    asked_edits = parse_edits(edits)
    chunk_tokens = parse_count(chunk_tokens, "chunk_tokens")
    confidence, seed = parse_share(confidence, "confidence"), parse_seed(seed)
    asked = ask_model(model, texts, options)
    pairs = _parse_answers(answers, asked)
    found = [
        _document(asked, document, part, asked_edits, pairs[number] if pairs else None)
        for number, (document, part) in enumerate(asked.passages(chunk_tokens))
    ]
    return _dataset(asked, found, asked_edits, confidence, seed, with_answers=bool(pairs))


@dataclass(slots=True)
class _Tally:
    """Sums over a document's positions."""

    loss: float = 0.0
    loss_unedited: float = 0.0
    kl: float = 0.0
    same: int = 0
    predicted: int = 0
    logit_difference: float = float("nan")
    logit_difference_unedited: float = float("nan")
    answer: tuple[int, int] | None = field(default=None)

    def add(self, edited_NW: torch.Tensor, plain_NW: torch.Tensor, next_N: torch.Tensor) -> None:
        for begin in range(0, len(next_N), ROWS):
            at = slice(begin, begin + ROWS)
            q, p = (x[at].float().log_softmax(1) for x in (edited_NW, plain_NW))
            target = next_N[at, None]
            self.loss -= q.gather(1, target).double().sum().item()
            self.loss_unedited -= p.gather(1, target).double().sum().item()
            self.kl += (p.exp() * (p - q)).sum(1).double().sum().item()
            self.same += int((q.argmax(1) == p.argmax(1)).sum())
        self.predicted += len(next_N)


def _document(
    asked: Asked, document: Document, part: Passage, edits: Sequence[Edit], answer: tuple[int, int] | None
) -> _Tally:
    """Both runs side by side, chunk by chunk."""
    ids_T, tally = torch.from_numpy(document.tokens["text"].ids.astype(np.int64)), _Tally(answer=answer)
    both = zip(asked.logits(part, [asked.editing(edits, document)]), asked.logits(part, []), part.chunks, strict=True)
    for edited_NW, plain_NW, (begin, end) in both:
        next_N = ids_T[begin + 1 : end + 1].to(edited_NW.device)
        tally.add(edited_NW[: len(next_N)], plain_NW[: len(next_N)], next_N)
        if answer is not None and end == len(ids_T):
            right, wrong = answer
            tally.logit_difference = float(edited_NW[-1, right] - edited_NW[-1, wrong])
            tally.logit_difference_unedited = float(plain_NW[-1, right] - plain_NW[-1, wrong])
    return tally


def _dataset(
    asked: Asked, found: Sequence[_Tally], edits: Sequence[Edit], confidence: float, seed: int, *, with_answers: bool
) -> xr.Dataset:
    tokens = np.array([one.predicted for one in found])
    of: dict[str, tuple[Floats, str, str]] = {
        "loss": (np.array([one.loss for one in found]) / tokens, "next-token cross-entropy, edited", "nat"),
        "loss_unedited": (np.array([one.loss_unedited for one in found]) / tokens, "next-token cross-entropy", "nat"),
        "kl": (np.array([one.kl for one in found]) / tokens, "divergence of the edited prediction", "nat"),
        "agreement": (np.array([one.same for one in found]) / tokens, "positions with the same likeliest token", "1"),
    }
    of["loss_change"] = of["loss"][0] - of["loss_unedited"][0], "edited less unedited cross-entropy", "nat"
    if with_answers:
        for name in ("logit_difference", "logit_difference_unedited"):
            of[name] = np.array([getattr(one, name) for one in found]), "logit of the right less the wrong answer", "1"
    attributes: dict[str, Any] = {}
    for name, (values, _, _) in of.items():
        low, high = bootstrap(values, confidence, seed)
        attributes |= {name: float(values.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}
    return xr.Dataset(
        {
            name: ("document", values, {"long_name": long_name, "units": units})
            for name, (values, long_name, units) in of.items()
        }
        | {"tokens": ("document", tokens, {"long_name": "predicted tokens", "units": "1"})},
        {"document": [document.id for document in asked.documents]},
        {
            "question": "run", "model": asked.loaded.identity.name, "confidence": confidence, "seed": seed,
            "edits": json.dumps([str(edit) for edit in edits]), **attributes,
        },
    )  # fmt: skip


def _parse_answers(given: Any, asked: Asked) -> list[tuple[int, int]]:
    if given is None:
        return []
    if not isinstance(given, list | tuple) or not all(isinstance(one, list | tuple) and len(one) == 2 for one in given):
        raise refuse(given, "answers", "give a list of pairs, the right and the wrong token of each document")
    pairs = list(given)
    if len(pairs) != len(asked.documents):
        raise InputError(f"answers are {len(pairs)} pairs for {len(asked.documents)} documents: give one a document")
    return [(_word(right, asked), _word(wrong, asked)) for right, wrong in pairs]


def _word(given: Any, asked: Asked) -> int:
    """The id of an answer of one token."""
    vocabulary = int(asked.loaded.config.get_text_config().vocab_size)
    if isinstance(given, str):
        if asked.loaded.tokenizer is None:
            raise InputError(f"the answer {given!r} cannot be looked up without a tokenizer: give its token id")
        ids = asked.loaded.tokenizer(given, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise InputError(
                f"the answer {given!r} is {len(ids)} tokens, and a logit is of one: give one, such as ' Paris'"
            )
        return int(ids[0])
    return parse_count(given, "an answer", least=0, most=vocabulary - 1)
