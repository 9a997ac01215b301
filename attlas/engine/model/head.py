"""A whole model with the head that gives its logits, as a shard."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from attlas.engine.model.load import LoadedModel
from attlas.engine.model.shard import Shard, State

__all__ = ["WithHead", "vocabulary_of"]


class WithHead(Shard):
    """The whole model, its head too, as one shard. within: of the next forward pass, while the model is this thread's
    alone. last_only: logits of the last token alone, where the model can leave the others out. rows: the
    tokens that logits are made of; None for all."""

    def __init__(self, loaded: LoadedModel, *, last_only: bool = False) -> None:
        super().__init__(loaded.model, (), 0, 0)
        assert loaded.with_head is not None
        self.whole_model = loaded.with_head
        parameters = inspect.signature(self.whole_model.forward).parameters
        self._keeps = "logits_to_keep" in parameters
        self.more: dict[str, Any] = {"logits_to_keep": 1} if last_only and self._keeps else {}
        self.rows: list[int] | None = None
        self.within: AbstractContextManager[None] = nullcontext()

    def keep_rows(self, rows: list[int] | None) -> None:
        """Make logits of these tokens alone, where the model can; None for all. `rows` says what is made."""
        self.rows = rows if self._keeps else None
        self.more = {} if self.rows is None else {"logits_to_keep": torch.tensor(self.rows, device=self.device)}

    def forward(self, inputs: Mapping[str, Any], state: State | None = None) -> Any:
        given = {k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
        with self.within:
            return self.whole_model(**given, **self.more)


def vocabulary_of(loaded: LoadedModel) -> int:
    return int(loaded.config.get_text_config().vocab_size)
