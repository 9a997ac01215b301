"""Means of the heads' outputs, beside a hook before o_proj; and mean ablation by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import attlas
from attlas import experiments
from attlas.engine.model.load import load_model
from attlas.errors import InputError

CORPUS = [[3, 9, 14, 9, 4, 17, 4], list(range(40, 60))]
IDS = [3, 9, 14, 9, 4, 17, 4, 8, 2, 2, 30, 12]


def test_means_and_ablation_by_them() -> None:
    whole: Any = load_model("demo", head=True).with_head
    seen: list[Any] = []
    projection = whole.model.layers[1].self_attn.o_proj
    handle = projection.register_forward_pre_hook(lambda _, given: seen.append(given[0][0].unflatten(1, (4, -1))))
    with torch.no_grad():
        for ids in CORPUS:
            whole(torch.tensor([ids]))
    handle.remove()
    mean = torch.cat(seen).double().mean(0)
    edit = experiments.mean_outputs("demo", CORPUS, layers="0:2", heads="2,3")
    np.testing.assert_allclose(edit.values[1, :, 0], mean[2:], atol=1e-6)

    def put(_: Any, given: Any) -> Any:
        x = given[0].clone().unflatten(2, (4, -1))
        x[:, :, 3] = mean[3].float()
        return (x.flatten(2),)

    handle = projection.register_forward_pre_hook(put)
    with torch.no_grad():
        logits = whole(torch.tensor([IDS])).logits[0].double().log_softmax(1)
    handle.remove()
    loss = -logits[:-1].gather(1, torch.tensor(IDS[1:])[:, None]).mean().item()
    asked = attlas.Edit(do="mean", layer=1, head=3)
    assert experiments.run("demo", [IDS], asked, reference=CORPUS).loss.item() == pytest.approx(loss, abs=1e-5)
    every = experiments.ablate_heads("demo", [IDS], do="mean", reference=CORPUS, layers=1)
    assert (every.loss_change + every.loss_unedited).values[0, 0, 3] == pytest.approx(loss, abs=1e-5)
    own = experiments.run("demo", [IDS], asked)
    assert own.loss.item() != pytest.approx(loss, abs=1e-4)


def test_without_values_the_engine_says_where_they_come_from() -> None:
    with pytest.raises(InputError, match="an edit that does mean needs values"):
        experiments.explain_edits("demo", attlas.Edit(do="mean", layer=1))
    with pytest.raises(InputError, match="give \\(layers, heads, 1, features\\)"):
        attlas.Edit(do="mean", values=np.ones((1, 1, 2, 3)))
