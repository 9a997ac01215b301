"""Loss, divergence and answers of an edited model, against the model's own eager attention edited by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoModelForCausalLM

import attlas
from attlas import experiments
from attlas.analysis.head_probe import repeated_documents
from attlas.engine.model.load import LoadedModel, load_model
from attlas.errors import InputError
from tests.engine.edit.eager import edited_eagerly
from tests.families import BY_NAME, build_model

TEXTS = ["one two three, one two three; and one two three again.", "the cat sat on the mat, and the mat was red"]


def ids_of(loaded: LoadedModel, text: str) -> list[int]:
    assert loaded.tokenizer is not None
    ids: list[int] = loaded.tokenizer(text)["input_ids"]
    return ids


def by_hand(whole: Any, ids: list[int], change: Any) -> Any:
    """Log-probabilities (T, W) in float64."""
    with edited_eagerly(whole, change), torch.no_grad():
        return whole(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(1)


def test_loss_and_divergence_are_those_by_hand() -> None:
    demo = load_model("demo", head=True)
    edit = attlas.Edit(do="zero", layer=1, head=[0, 2])
    for chunk_tokens in (1024, 7):
        found = experiments.run("demo", TEXTS, edit, ids=["a", "b"], chunk_tokens=chunk_tokens)
        for number, text in enumerate(TEXTS):
            ids = ids_of(demo, text)

            def zero(layer: int, a: Any) -> Any:
                out = a.copy()
                out[[0, 2]] *= layer != 1
                return out

            q, p = (by_hand(demo.with_head, ids, change) for change in (zero, lambda _, a: a))
            target = torch.tensor(ids[1:])[:, None]
            document = found.isel(document=number)
            loss, plain = (-x[:-1].gather(1, target).mean().item() for x in (q, p))
            assert document.loss.item() == pytest.approx(loss, abs=1e-5)
            assert document.loss_unedited.item() == pytest.approx(plain, abs=1e-5)
            assert document.loss_change.item() == pytest.approx(loss - plain, abs=2e-5)
            kl = (p.exp() * (p - q)).sum(1)[:-1].mean().item()
            assert document.kl.item() == pytest.approx(kl, abs=1e-5)
            last = (p[-1].exp() * (p[-1] - q[-1])).sum().item()
            assert document.kl_last.item() == pytest.approx(last, abs=1e-5)
            same = (q.argmax(1) == p.argmax(1))[:-1].double().mean().item()
            assert document.agreement.item() == pytest.approx(same)
            assert document.tokens.item() == len(ids) - 1
        assert found.loss_change_mean.item() == pytest.approx(found.loss_change.values.mean())
        assert found.loss_change_low <= found.loss_change_mean <= found.loss_change_high


def test_answers_are_logits_behind_the_last_token() -> None:
    demo = load_model("demo", head=True)
    ids = ids_of(demo, TEXTS[0])
    found = experiments.run("demo", TEXTS[0], attlas.Edit(do="uniform", layer=0), answers=[(5, 9)])
    with torch.no_grad():
        assert demo.with_head is not None
        logits = demo.with_head(torch.tensor([ids])).logits[0, -1]
    assert found.logit_difference_unedited.item() == pytest.approx((logits[5] - logits[9]).item(), abs=1e-4)
    assert abs(found.logit_difference.item() - found.logit_difference_unedited.item()) > 1e-3


def test_no_edit_changes_nothing() -> None:
    found = experiments.run("demo", TEXTS, [])
    assert (found.kl.values.tolist(), found.loss_change.values.tolist()) == ([0, 0], [0, 0])
    assert found.agreement.values.tolist() == [1, 1]


def test_only_predictions_that_count_are_counted() -> None:
    demo, edit = load_model("demo", head=True), attlas.Edit(do="zero", layer=1)
    ids = ids_of(demo, TEXTS[0])
    found = experiments.run("demo", TEXTS[0], edit, predicted="last:3")
    with torch.no_grad():
        assert demo.with_head is not None
        p = demo.with_head(torch.tensor([ids])).logits[0].double().log_softmax(1)
    expected = -p[-4:-1].gather(1, torch.tensor(ids[-3:])[:, None]).mean().item()
    assert found.loss_unedited.item() == pytest.approx(expected, abs=1e-5)
    assert found.tokens.item() == 3
    with pytest.raises(InputError, match="no prediction of document 'doc-0' counts"):
        experiments.run("demo", TEXTS[0], edit, predicted=0)


def test_documents_of_an_atlas(tmp_path: Path) -> None:
    attlas.capture("demo", TEXTS, tmp_path / "a.zarr", ids=["a", "b"])
    edit = attlas.Edit(do="zero", layer=1)
    found = experiments.run("demo", attlas.open_atlas(tmp_path / "a.zarr"), edit)
    assert found.document.values.tolist() == ["a", "b"]
    np.testing.assert_array_equal(found.loss, experiments.run("demo", TEXTS, edit).loss)
    other = AutoModelForCausalLM.from_config(build_model(BY_NAME["llama"]).config)
    with pytest.raises(InputError, match="the atlas is of demo, weights 8d8fe21fdc52"):
        experiments.run(other, attlas.open_atlas(tmp_path / "a.zarr"), edit)


@pytest.mark.slow
def test_spread_over_a_cluster(tmp_path: Path) -> None:
    edit, done = attlas.Edit(do="zero", layer=1, head=0), []
    here = experiments.run("demo", TEXTS, edit)
    there = experiments.run(
        "demo", TEXTS, edit, address="local", keep=tmp_path, progress=lambda p: done.append((p.done, p.total))
    )
    xr.testing.assert_identical(here, there)
    assert done == [(0, 2), (1, 2), (2, 2)]
    assert len(list(tmp_path.glob("*/*.npz"))) == 2
    with pytest.raises(InputError, match="there is no token 50"):
        experiments.run("demo", TEXTS, attlas.Edit(do="zero", query=50), address="local")


def test_knocking_out_the_induction_heads_destroys_copying() -> None:
    """The loss of the second copy of random tokens, without the heads that attlas names and without as many others."""
    probed = attlas.analysis.probe_heads("demo").induction
    layer = int(np.unravel_index(probed.values.argmax(), probed.shape)[0])
    assert (probed.values[layer] > 0.3).all()
    repeated = [one.tolist() for one in repeated_documents(256, length=50, count=3)]
    lost = [
        experiments.run("demo", repeated, attlas.Edit(do="zero", layer=one), predicted="50:") for one in (layer, 2, 3)
    ]
    named, *others = (one.loss_change_mean.item() for one in lost)
    assert lost[0].loss_unedited_mean < 1
    assert named > 4
    assert max(others) < named / 4


@pytest.mark.slow
@pytest.mark.real
def test_as_much_weight_from_the_sink_as_from_elsewhere(smollm2: Any) -> None:
    """Of the heads that lay more than half on the first token: what the rest has taken from it costs next to nothing,
    and that rest itself a lot."""
    text = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    texts = [text[begin : begin + 2000] for begin in (0, 2000)]
    atlas = attlas.capture(str(smollm2), texts, "memory://sink", overwrite=True, max_tokens=256)
    first = attlas.analysis.statistics(atlas, save=False).first_weight
    sinks = [(layer, head, first[layer, head].item()) for layer, head in np.argwhere(first.values > 0.5)]
    assert len(sinks) > 20
    from_sink = [
        attlas.Edit(do="scale", layer=int(layer), head=int(head), key="first", factor=1 - (1 - share) / share)
        for layer, head, share in sinks
    ]
    rest = [attlas.Edit(do="zero", layer=int(layer), head=int(head), key="not_first") for layer, head, _ in sinks]
    given: dict[str, Any] = {"max_tokens": 256, "predicted": "16:"}
    little, much = (experiments.run(str(smollm2), texts, edits, **given) for edits in (from_sink, rest))
    assert abs(little.loss_change_mean) < 0.08
    assert much.loss_change_mean > 0.3


def test_what_cannot_be_run_is_refused() -> None:
    edit = attlas.Edit(do="zero", layer=9)
    with pytest.raises(InputError, match="there is no layer 9: the model has 0 to 3"):
        experiments.run("demo", TEXTS, edit)
    with pytest.raises(InputError, match="there is no token 50: document 'b' has 0 to"):
        experiments.run("demo", TEXTS, attlas.Edit(do="zero", query=50), ids=["a", "b"])
    with pytest.raises(InputError, match="answers are 1 pairs for 2 documents: give one a document"):
        experiments.run("demo", TEXTS, [], answers=[(1, 2)])
    with pytest.raises(InputError, match="there is no option 'tier'"):
        experiments.run("demo", TEXTS, [], tier="maps")
    with pytest.raises(InputError, match="has one token"):
        experiments.run("demo", [[5]], [])


@pytest.mark.real
def test_of_a_real_model(smollm2: Any) -> None:
    whole = AutoModelForCausalLM.from_pretrained(str(smollm2), dtype=torch.float32)
    edit = attlas.Edit(do="knock_out", layer=5, head=3, key="first")
    found = experiments.run(str(smollm2), TEXTS[1], edit)
    ids = ids_of(load_model(str(smollm2)), TEXTS[1])

    def change(layer: int, a: Any) -> Any:
        if layer != 5:
            return a
        out = a.copy()
        out[3, :, 0] = 0
        total = out[3].sum(axis=1, keepdims=True)
        out[3] = np.divide(out[3], total, out=np.zeros_like(out[3]), where=total > 0)
        return out

    q = by_hand(whole, ids, change)
    loss = -q[:-1].gather(1, torch.tensor(ids[1:])[:, None]).mean().item()
    assert found.loss.item() == pytest.approx(loss, abs=1e-4)
    assert abs(found.loss_change.item()) > 1e-4


def test_the_caller_keeps_its_mode() -> None:
    experiments.run("demo", TEXTS, attlas.Edit(do="zero", layer=1), ids=["a", "b"], chunk_tokens=7)
    assert not torch.is_inference_mode_enabled()
