"""The embedded model, judged by transformers alone: its own eager attention on repeated random bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from attlas.engine.model.source import DEMO_FOLDER

HALF, BOS = 64, 256


@pytest.fixture(scope="module")
def scores() -> dict[str, torch.Tensor]:
    """Mean weight (layer, head) over the second of two copies of random bytes, on i - HALF + 1 and on i - 1."""
    model = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, attn_implementation="eager").eval()
    found: dict[str, list[torch.Tensor]] = {"induction": [], "previous": []}
    queries = np.arange(HALF + 1, 2 * HALF + 1)
    for seed in range(8):
        half = torch.randint(0, 256, (HALF,), generator=torch.Generator().manual_seed(seed))
        ids = torch.cat([torch.tensor([BOS]), half, half])[None]
        with torch.no_grad():
            attention = torch.stack(model(ids, output_attentions=True).attentions)[:, 0]
        found["induction"].append(attention[:, :, queries, queries - HALF + 1].mean(2))
        found["previous"].append(attention[:, :, queries, queries - 1].mean(2))
    return {name: torch.stack(values).mean(0) for name, values in found.items()}


def test_an_induction_head_has_formed(scores: dict[str, torch.Tensor]) -> None:
    assert scores["induction"].max() > 0.8


def test_a_previous_token_head_has_formed(scores: dict[str, torch.Tensor]) -> None:
    assert scores["previous"].max() > 0.4  # spread evenly it would be 0.01


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in DEMO_FOLDER.iterdir()) <= 4_000_000


def test_the_tokenizer_is_bytes() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    text = "naïve – 東京 \t\n\x00 end"
    ids = tokenizer(text)["input_ids"]
    assert ids == [BOS, *text.encode()]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
