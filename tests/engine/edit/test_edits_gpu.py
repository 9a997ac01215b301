"""Edits on a GPU, beside the same on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import attlas
from attlas.engine.edit.edit import Edit
from attlas.experiments.asked import ask_model
from tests.engine.edit.test_edits import EDITS, OTHERS
from tests.families import BY_NAME, build_model

pytestmark = pytest.mark.gpu

WHOLE: dict[str, dict[str, Any]] = {name: asked for name, (asked, _) in EDITS.items()} | OTHERS
IDS = [list(range(3, 33))]


def logits_of(model: Any, device: str, edits: list[Edit]) -> torch.Tensor:
    asked = ask_model(model, IDS, {"device": device})
    document = asked.documents[0]
    part = asked.passage(document)
    return torch.cat(list(asked.logits(part, [asked.editing(edits, document)] if edits else []))).float().cpu()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "gpt2"])
def test_edits_are_those_of_the_cpu(family: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(build_model(BY_NAME[family]).config).eval().save_pretrained(tmp_path)
    plain = logits_of(str(tmp_path), "cpu", [])
    torch.testing.assert_close(logits_of(str(tmp_path), "cuda", []), plain, atol=2e-4, rtol=1e-3)
    for name, asked in WHOLE.items():
        edits = [attlas.Edit(**asked)]
        here, there = (logits_of(str(tmp_path), device, edits) for device in ("cpu", "cuda"))
        torch.testing.assert_close(there, here, atol=5e-4, rtol=1e-3, msg=name)
        assert (here - plain).abs().max() > 1e-4, name
