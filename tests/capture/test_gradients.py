"""Gradients of weights as views, against autograd through the model's own eager attention."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint as torch_checkpoint
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

import attlas
from attlas.engine.model import checkpoints
from attlas.errors import GradientError, InputError, TierError
from attlas.storage import sizes
from tests.families import BY_NAME, FAMILIES, build_model, documents

KINDS = {
    "self": "attentions",
    "encoder": "encoder_attentions",
    "decoder": "decoder_attentions",
    "cross": "cross_attentions",
}


def probe(output: Any) -> torch.Tensor:
    """A number that all last hidden states have a part in."""
    states = output.last_hidden_state[0]
    weights = torch.linspace(-1, 1, states.numel(), dtype=states.dtype).reshape(states.shape)
    return (states * weights.cos()).sum()


def by_autograd(model: PreTrainedModel, document: Any, target: Callable[[Any], torch.Tensor]) -> dict[str, Any]:
    """kind -> weights and their gradients (layer, head, query, key), of the model's own eager attention."""
    before = model.config._attn_implementation
    if not any("experts" in name for name, _ in model.named_modules()):  # products of experts know no float64
        model = model.double()
    model.set_attn_implementation("eager")
    try:
        if isinstance(document, tuple):
            given = {"input_ids": torch.tensor([document[0]]), "decoder_input_ids": torch.tensor([document[1]])}
        else:
            given = {"input_ids": torch.tensor([document])}
        out = model(**given, output_attentions=True, use_cache=False)
        value = target(out)
        found = {}
        for kind, field in KINDS.items():
            weights = getattr(out, field, None)
            if weights:
                gradients = torch.autograd.grad(value, weights, retain_graph=True)
                keys = weights[0].shape[-1]
                found[kind] = tuple(
                    np.stack([one[0].detach().numpy()[..., :keys] for one in some]) for some in (weights, gradients)
                )
        return found
    finally:
        model.float()
        model.set_attn_implementation(before)


def check(page: Any, expected: dict[str, Any], rtol: float = 1e-4) -> None:
    for kind, (a, gradient) in expected.items():
        prefix = "" if kind == "self" else f"{kind}_"
        seen = a > 0
        scale = np.abs(gradient).max()
        found = page[f"{prefix}attention_gradient"].values
        np.testing.assert_allclose(found[seen], gradient[seen], atol=rtol * scale, err_msg=kind)
        product = a * gradient
        np.testing.assert_allclose(
            page[f"{prefix}attention_x_gradient"].values, product, atol=rtol * np.abs(product).max(), err_msg=kind
        )
        score = a * (gradient - product.sum(-1, keepdims=True))
        np.testing.assert_allclose(
            page[f"{prefix}score_gradient"].values, score, atol=rtol * np.abs(score).max(), err_msg=kind
        )


@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_equal_to_autograd_through_eager_attention(name: str) -> None:
    family = BY_NAME[name]
    model = build_model(family)
    some = documents(family)[:2]
    atlas = attlas.capture(model, some, f"memory://gradients-{name}", gradients=probe, overwrite=True)
    for number, document in enumerate(some):
        check(atlas[f"doc-{number}"], by_autograd(model, document, probe))


RUN_AGAIN = ("llama", "gemma2", "gpt_oss", "bert", "albert", "t5", "bart", "deepseek_v3", "mixtral")


@pytest.mark.parametrize("name", RUN_AGAIN)
def test_layers_that_are_run_again_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = BY_NAME[name]
    model, some = build_model(family), documents(family)[:2]
    held = attlas.capture(model, some, "memory://held", gradients=probe, overwrite=True)
    again: list[Any] = []
    own = torch_checkpoint.checkpoint

    def counting(forward: Any, *given: Any, **more: Any) -> Any:
        again.append(forward)
        return own(forward, *given, **more)

    monkeypatch.setattr(checkpoints, "checkpoint", counting)
    monkeypatch.setattr(sizes, "ACTIVATION_BYTES", 0)
    made = attlas.capture(model, some, "memory://again", gradients=probe, overwrite=True)
    for document in held:
        for variable in held[document]:
            np.testing.assert_array_equal(held[document][variable], made[document][variable], err_msg=str(variable))
    assert len(again) >= 2
    assert not any("forward" in vars(module) for module in model.modules())


def loss_of(ids: list[int]) -> Callable[[Any], torch.Tensor]:
    return lambda output: torch.nn.functional.cross_entropy(output.logits[0, :-1].float(), torch.tensor(ids[1:]))


def likeliest(output: Any) -> torch.Tensor:
    found: torch.Tensor = output.logits[0, -1].float().log_softmax(0).max()
    return found


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mistral", "deepseek_v3"])
@pytest.mark.parametrize("target", ["loss", "next_token"])
def test_targets_of_a_causal_model_and_packed_documents(name: str, target: str) -> None:
    """Documents go through the model together, and each has its own target's gradient."""
    model = AutoModelForCausalLM.from_config(build_model(BY_NAME[name]).config).eval()
    some = documents(BY_NAME[name])
    atlas = attlas.capture(model, some, f"memory://targets-{name}", gradients=target, overwrite=True)
    assert atlas.attrs["options"]["gradients"]["name"] == target
    assert len(atlas.packs["pack"]) == 1
    for number, ids in enumerate(some):
        function = loss_of(ids) if target == "loss" else likeliest
        check(atlas[f"doc-{number}"], by_autograd(model, ids, function))
    assert attlas.verify("memory://targets-" + name).passed


def test_a_token_against_another_at_a_place() -> None:
    model = AutoModelForCausalLM.from_config(build_model(BY_NAME["llama"]).config).eval()
    (ids,) = documents(BY_NAME["llama"])[:1]
    given = {"token": 7, "against": 9, "position": 11}
    atlas = attlas.capture(model, [ids], "memory://token", gradients=given, overwrite=True)
    check(atlas["doc-0"], by_autograd(model, ids, lambda output: output.logits[0, 11, 7] - output.logits[0, 11, 9]))
    behind = atlas["doc-0"].attention_gradient.isel(query=slice(12, None))
    assert float(abs(behind).max()) == 0  # what comes later has no part in it


def test_the_loss_of_a_decoder_reaches_its_encoder() -> None:
    from transformers import AutoModelForSeq2SeqLM

    for name in ("bart", "t5"):
        model = AutoModelForSeq2SeqLM.from_config(build_model(BY_NAME[name]).config).eval()
        ((source, target),) = documents(BY_NAME[name])[:1]
        atlas = attlas.capture(model, [(source, target)], f"memory://seq-{name}", gradients="loss", overwrite=True)
        check(atlas["doc-0"], by_autograd(model, (source, target), loss_of(target)))
        assert float(abs(atlas["doc-0"].encoder_attention_gradient).max()) > 0


def test_the_score_of_a_class(tmp_path: Path) -> None:
    config = build_model(BY_NAME["bert"]).config
    config.num_labels = 3
    model = AutoModelForSequenceClassification.from_config(config).eval()
    (ids,) = documents(BY_NAME["bert"])[:1]
    expected = by_autograd(model, ids, lambda output: output.logits[0, 2])
    model.save_pretrained(tmp_path / "classes")
    for given in (model, tmp_path / "classes"):
        atlas = attlas.capture(given, [ids], "memory://label", gradients={"label": 2}, overwrite=True)
        check(atlas["doc-0"], expected)
    with pytest.raises(InputError, match="at most 2"):
        attlas.capture(model, [ids], "memory://label", gradients={"label": 3}, overwrite=True)
    with pytest.raises(InputError, match="demo tells no classes apart"):
        attlas.capture("demo", "a text", "memory://label", gradients={"label": 0}, overwrite=True)


@pytest.mark.parametrize("name", ["llama", "mistral", "bert"])
def test_the_gradient_of_a_key_that_is_not_seen_is_nothing(name: str) -> None:
    model, (document, *_) = build_model(BY_NAME[name]), documents(BY_NAME[name])
    atlas = attlas.capture(model, [document], "memory://unseen", gradients=probe, overwrite=True)
    found = atlas["doc-0"].attention_gradient.values
    for place, layer in enumerate(atlas.layers("self")):
        intervals = atlas.key_intervals("doc-0", layer)
        keys = np.arange(found.shape[-1])
        start, stop = intervals.key_start.values[:, None], intervals.key_stop.values[:, None]
        seen = (keys >= start) & (keys < stop)
        assert (found[place][:, ~seen] == 0).all()
        assert (found[place][:, seen] != 0).all()


def test_some_layers_heads_and_rows() -> None:
    model = AutoModelForCausalLM.from_config(build_model(BY_NAME["llama"]).config).eval()
    (ids,) = documents(BY_NAME["llama"])[:1]
    options: dict[str, Any] = {"layers": 1, "heads": [1, 3], "queries": "last:4", "gradients": "next_token"}
    atlas = attlas.capture(model, [ids], "memory://some", overwrite=True, **options)
    a, gradient = by_autograd(model, ids, likeliest)["self"]
    check(atlas["doc-0"], {"self": (a[1:, [1, 3], -4:], gradient[1:, [1, 3], -4:])})
    some = atlas["doc-0"].attention_gradient.isel(key=[2, 9, 5], query=[3, 0], head=1, layer=0)
    np.testing.assert_allclose(some, gradient[1, 3, -4:][[3, 0]][:, [2, 9, 5]], atol=1e-6)


def test_a_model_is_left_as_it_was() -> None:
    model = AutoModelForCausalLM.from_config(build_model(BY_NAME["llama"]).config).eval()
    frozen = model.get_input_embeddings().weight
    frozen.requires_grad_(False)
    with torch.inference_mode():
        attlas.capture(model, [[5, 6, 7]], "memory://left", gradients="loss", overwrite=True)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not frozen.requires_grad
    assert all(parameter.requires_grad for parameter in model.parameters() if parameter is not frozen)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradients": "losses"}, 'gradients is \'losses\': give "loss", "next_token"'),
        ({"gradients": {"against": 3}}, "give token too"),
        ({"gradients": {"token": 1, "label": 2}}, "gradients is"),
        ({"gradients": "loss", "keep": "maps"}, "leave keep out"),
        ({"gradients": "loss", "shards": 2}, "gradients are captured in one process"),
        ({"gradients": "loss", "chunk_tokens": 8}, "leave chunk_tokens out"),
        ({"gradients": "loss", "offload": "1GB"}, "leave offload out"),
        ({"gradients": {"token": 1, "position": 500}}, "position is 500, and document 'doc-0' has 7 tokens"),
        ({"gradients": lambda output: output.logits}, "this one made a tensor"),
        ({"gradients": lambda output: 3.0}, "this one made float"),
        ({"keep": "gradients"}, "keep is 'gradients'"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        attlas.capture("demo", "a text", tmp_path / "a.zarr", **options)
    assert not (tmp_path / "a.zarr").exists()


def test_a_gradient_that_does_not_come_back_is_an_error(tmp_path: Path) -> None:
    model = build_model(BY_NAME["llama"])
    with pytest.raises(GradientError, match="no gradient came back to self layer 0, and to 1 more"):
        attlas.capture(
            model, [[5, 6, 7]], tmp_path / "a.zarr", gradients=lambda _: torch.ones((), requires_grad=True) * 2
        )
    assert not (tmp_path / "a.zarr").exists()


def test_what_some_documents_lack_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="document 'doc-1' has 1 tokens: a document of one token has no next token"):
        attlas.capture("demo", [[5, 6, 7], [5]], tmp_path / "a.zarr", gradients="loss")
    assert not (tmp_path / "a.zarr").exists()


def test_a_function_is_not_gone_on_with(tmp_path: Path) -> None:
    model = build_model(BY_NAME["llama"])
    attlas.capture(model, [[5, 6, 7]], tmp_path / "a.zarr", gradients=probe)
    with pytest.raises(InputError, match="two functions cannot be compared"):
        attlas.capture(model, [[5, 6, 7]], tmp_path / "a.zarr", gradients=lambda _: None, resume=True)


def test_an_atlas_without_gradients_says_so(tmp_path: Path) -> None:
    page = attlas.capture("demo", "a text", tmp_path / "a.zarr")["doc-0"]
    assert not hasattr(page, "score_gradient")
    with pytest.raises(TierError, match="captured without gradients; capture it again with gradients="):
        _ = page.attention_gradient


@pytest.mark.slow
@pytest.mark.real
def test_all_layers_of_a_real_model(smollm2: Any) -> None:
    text = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    atlas = attlas.capture(str(smollm2), text, "memory://smol", gradients="loss", max_tokens=512, overwrite=True)
    page = atlas["doc-0"]
    ids = page.key_token_id.values.tolist()
    assert len(ids) == 512
    model = AutoModelForCausalLM.from_pretrained(str(smollm2), dtype=torch.float32)
    check(page, by_autograd(model, ids, loss_of(ids)), rtol=1e-4)
