"""Every head's ablation beside separate runs; by gradients beside finite differences; killed, it goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoModelForCausalLM

import attlas
from attlas import experiments
from attlas.engine.model.load import load_model
from attlas.engine.model.prefix import Prefix
from attlas.errors import InputError
from tests.families import BY_NAME, build_model

TEXTS = ["one two three, one two three; and one two three again.", "the cat sat on the mat, and the mat was red"]


def separately(model: Any, texts: Any, do: str, **options: Any) -> Any:
    """(document, layer, head): a run of the whole model for each head."""
    base = load_model(model).config
    return np.array([
        [
            experiments.run(model, texts, attlas.Edit(do=do, layer=layer, head=head), **options).loss_change.values
            for head in range(base.num_attention_heads)
        ]
        for layer in range(base.num_hidden_layers)
    ]).transpose(2, 0, 1)  # fmt: skip


@pytest.mark.parametrize("do", ["zero", "uniform"])
@pytest.mark.parametrize("chunk_tokens", [1024, 7])
def test_the_same_losses_as_separate_runs(do: str, chunk_tokens: int) -> None:
    found = experiments.ablate_heads("demo", TEXTS, do=do, chunk_tokens=chunk_tokens)
    assert found.attrs["begins"] == "within the model"
    expected = separately("demo", TEXTS, do)
    np.testing.assert_allclose(found.loss_change, expected, atol=2e-6)
    assert abs(expected).max() > 0.05
    np.testing.assert_allclose(found.loss_change_mean, expected.mean(axis=0), atol=2e-6)
    assert (found.loss_change_low <= found.loss_change_mean).all()
    assert (found.loss_change_high >= found.loss_change_mean).all()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_oss", "deepseek_v3", "phi3", "mixtral", "cohere"])
def test_of_any_family(family: str) -> None:
    config = build_model(BY_NAME[family]).config
    model = AutoModelForCausalLM.from_config(config).eval()
    found = experiments.ablate_heads(model, [list(range(1, 20))])
    head, layer = found.sizes["head"] - 1, int(found.layer[-1])
    one = experiments.run(model, [list(range(1, 20))], attlas.Edit(do="zero", layer=layer, head=head))
    assert found.loss_change.values[0, -1, head] == pytest.approx(one.loss_change.item(), abs=1e-6)


def test_a_pass_that_begins_within_the_model_is_the_pass_to_the_bit() -> None:
    whole: Any = load_model("demo", head=True).with_head
    prefix, ids = Prefix(whole.base_model), torch.arange(5, 25)[None]
    with torch.no_grad():
        with prefix.keeping(0):
            plain = whole(ids).logits
        for first in range(5):
            with prefix.begun(0, first):
                assert torch.equal(whole(ids).logits, plain)
        whole.base_model.layers[0].mlp.down_proj.weight.zero_()
        with prefix.begun(0, 1):
            assert torch.equal(whole(ids).logits, plain)  # the first layer is not run
        assert not torch.equal(whole(ids).logits, plain)


def test_first_order_is_the_slope_of_the_loss() -> None:
    """Beside a head's output scaled a little, up and down."""
    found = experiments.ablate_heads("demo", TEXTS, method="first_order", sample=16)
    step = 1e-2
    for layer, head in ((0, 0), (1, 3), (3, 2)):
        up, down = (
            experiments.run("demo", TEXTS, attlas.Edit(do="scale", factor=1 + size, layer=layer, head=head)).loss
            for size in (step, -step)
        )
        slope = (down - up).values / (2 * step)
        np.testing.assert_allclose(found.loss_change[:, layer, head], slope, atol=2e-3, rtol=2e-2)
    truth = experiments.ablate_heads("demo", TEXTS)
    np.testing.assert_allclose(found.exact_change.values, truth.loss_change.values.reshape(2, 16), atol=1e-6)
    expected = np.corrcoef(found.loss_change_mean.values.ravel(), truth.loss_change_mean.values.ravel())[0, 1]
    assert found.attrs["pearson"] == pytest.approx(expected, abs=1e-5)


def test_stopped_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at several parts; then only the rest is computed, and the numbers are the same."""
    whole = experiments.ablate_heads("demo", TEXTS)
    script = (
        "import sys, os; from attlas import experiments\n"
        "from attlas.progress import Progress\n"
        "def report(p):\n    if p.done >= 3: os._exit(9)\n"
        f"experiments.ablate_heads('demo', {TEXTS!r}, keep=sys.argv[1], progress=report)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 9
    parts = sorted(tmp_path.glob("*/*.npz"))
    assert len(parts) == 3
    parts[0].write_bytes(parts[0].read_bytes()[:100])
    done: list[int] = []
    with pytest.warns(UserWarning, match=r"layer-0.npz is damaged, and is computed again"):
        found = experiments.ablate_heads("demo", TEXTS, keep=tmp_path, progress=lambda p: done.append(p.done))
    xr.testing.assert_allclose(found, whole, atol=1e-7)
    assert done[-1] == 8
    monkeypatch.setattr("attlas.experiments.asked.Asked.loss", None)  # nothing is computed again
    xr.testing.assert_identical(
        experiments.ablate_heads("demo", TEXTS, keep=tmp_path).loss_change_mean, found.loss_change_mean
    )


def test_another_question_is_another_folder(tmp_path: Path) -> None:
    for options in ({}, {"do": "uniform"}, {"layers": 0}):
        experiments.ablate_heads("demo", TEXTS[0], keep=tmp_path, **options)
    experiments.ablate_heads("demo", TEXTS[1], keep=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_what_has_no_meaning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no layer 9"):
        experiments.ablate_heads("demo", TEXTS, layers=9)
    with pytest.raises(InputError, match="there is no head 4"):
        experiments.ablate_heads("demo", TEXTS, heads=4)
    with pytest.raises(InputError, match="do"):
        experiments.ablate_heads("demo", TEXTS, do="scale")
    with pytest.raises(InputError, match="there is no option 'tier'"):
        experiments.ablate_heads("demo", TEXTS, tier="maps")
