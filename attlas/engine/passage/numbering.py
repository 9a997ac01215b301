"""How a model numbers the positions of a row that is padded on the left, learnt by running it."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from attlas.engine.model.positions import ends_of_positions, position_limit
from attlas.errors import InputError

__all__ = ["positions_behind_padding"]

TOKENS, PADS = 6, 3
_LEARNT: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def positions_behind_padding(model: PreTrainedModel, padding: int, position_offset: int | None, name: str) -> int:
    """What the model's own number of the first token is beyond its first, behind `padding` pads that a mask hides.

    A model that looks at offsets between tokens alone (rotary, ALiBi, relative) is not concerned: 0. One with a table
    of positions may count the pads (BERT, GPT-2) or not (RoBERTa, OPT). Raises InputError where the model cannot be
    asked: on the meta device, as the driver of a cluster holds it, or where it takes no position ids.
    """
    limit = position_limit(model.config, position_offset)
    if limit is None or ends_of_positions(model, limit) is None:
        return 0
    if position_offset is None or model.device.type == "meta":
        raise InputError(
            f"document {name!r} is padded on the left, which may move its positions: pad on the right"
            + ("" if position_offset is None else ", or give position_ids=")
        )
    if model not in _LEARNT:
        _LEARNT[model] = _counts_pads(model, position_offset)
    return padding if _LEARNT[model] else 0


def _counts_pads(model: PreTrainedModel, position_offset: int) -> bool:
    """Whether a row behind pads comes out as one whose positions begin behind them, rather than at the first."""
    config = model.config.get_text_config()
    pad = int(config.pad_token_id or 0)
    ids = torch.tensor([[i for i in range(10, 10 + 2 * TOKENS) if i != pad][:TOKENS]], device=model.device)
    ids = ids.clamp(max=int(config.vocab_size) - 1)
    pads = torch.full((1, PADS), pad, device=model.device)
    positions = torch.arange(TOKENS, device=model.device)[None] + position_offset

    def run(**inputs: Any) -> torch.Tensor:
        output = model(**inputs, use_cache=False)
        states = getattr(output, "last_hidden_state", None)
        return (output.logits if states is None else states)[:, -TOKENS:].float()

    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            mask = torch.cat([torch.zeros_like(pads), torch.ones_like(ids)], dim=1)
            padded = run(input_ids=torch.cat([pads, ids], dim=1), attention_mask=mask)
            plain, moved = (
                run(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions + step)
                for step in (0, PADS)
            )
    finally:
        model.train(training)
    return bool((padded - moved).norm() < (padded - plain).norm())
