"""Listeners compose: a toy edit and a toy gradient, made here alone, stand around the kernels and inside the recording;
their numbers are those of the same done by hand in the model's own eager attention."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

import attlas
from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.attention.interface import attending, own_attention
from attlas.engine.kernels.measure import Attended
from attlas.engine.model.load import load_model
from attlas.engine.model.probe import probe
from attlas.engine.model.shard import Shard
from attlas.engine.passage.documents import plan_packs
from attlas.engine.passage.passage import passages
from attlas.engine.passage.runner import ShardRunner
from attlas.engine.passage.tokenize import make_documents
from attlas.errors import InputError, UnsupportedModelError
from attlas.storage.tiers import TIERS
from tests.engine.memory_sink import MemorySink
from tests.families import BY_NAME, build_model, documents, eager_attention

GRADIENT_FAMILIES = ["llama", "mistral", "gemma2", "gpt_oss", "bert", "bart", "t5", "deepseek_v3"]


class ZeroHead(Listener):
    """Zeroes the output of one head, of one layer."""

    def __init__(self, module: nn.Module, head: int) -> None:
        self.module, self.head = module, head

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        if call.module is not self.module:
            return attended
        out_NHV = attended.out_NHV.clone()
        out_NHV[:, self.head] = 0
        return replace(attended, out_NHV=out_NHV)


class KeepGradient(Listener):
    """Keeps each call's values, and the gradient of its output once a backward pass has been there."""

    def __init__(self) -> None:
        self.v: list[torch.Tensor] = []
        self.output_gradient: dict[int, torch.Tensor] = {}

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        place = len(self.v)
        self.v.append(call.v_GMV.detach())

        def keep(gradient: torch.Tensor) -> None:
            self.output_gradient[place] = gradient

        attended.out_NHV.register_hook(keep)
        return attended


def one_passage(model: PreTrainedModel, inputs: list[Any]) -> tuple[ShardRunner, Any]:
    loaded = load_model(model)
    layout = probe(loaded.model)
    made = make_documents(inputs, loaded, position_offset=layout.position_offset)
    lengths = [{axis: len(tokens) for axis, tokens in document.tokens.items()} for document in made]
    (pack,) = plan_packs(lengths, pack_tokens=10_000, block=64)
    (part,) = passages(pack, made, pack_documents=False, chunk_tokens=None)
    return ShardRunner(Shard.whole(loaded.model), layout, recording=TIERS["factors"].recording()), part


def model_inputs(model: PreTrainedModel, document: Any) -> dict[str, Any]:
    if model.config.is_encoder_decoder:
        ids = {"input_ids": torch.tensor([document[0]]), "decoder_input_ids": torch.tensor([document[1]])}
    else:
        ids = {"input_ids": torch.tensor([document])}
    return {**ids, "use_cache": False}


def eager_with_head_zeroed(model: PreTrainedModel, document: Any, module: nn.Module, width: int, head: int) -> Any:
    """Eager attention, the head's part of what the output projection is given set to zero."""

    def zero(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        context = inputs[0].clone()
        context[..., head * width : (head + 1) * width] = 0
        return (context, *inputs[1:])

    handle = module.get_submodule("o_proj").register_forward_pre_hook(zero)
    try:
        with torch.no_grad():
            return model(**model_inputs(model, document), output_attentions=True)
    finally:
        handle.remove()


def test_an_edit_inside_of_the_recording_is_in_the_output_and_in_the_layers_behind_it() -> None:
    model, (document,) = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"], lengths=(23,))
    module = model.get_submodule("layers.0.self_attn")
    expected = eager_with_head_zeroed(model, document, module, 8, 2)
    runner, part = one_passage(model, [document])
    sink = MemorySink()
    hidden = runner.run(part, sink, finish=True, listeners=(ZeroHead(module, 2),))
    assert hidden is not None
    torch.testing.assert_close(hidden, expected.last_hidden_state[0], atol=1e-4, rtol=0)
    unedited = eager_attention(model, document)["self"]
    for layer, own in ((0, unedited[0]), (1, expected.attentions[1][0])):
        rows = sink.layer("self", layer)
        q_HND, k_GMD, lse_HN = (rows.factors[name] for name in ("q", "k", "log_sum_exp"))
        score = torch.einsum("hqd,hkd->hqk", q_HND, k_GMD.repeat_interleave(2, 0)) * 8**-0.5
        a = torch.exp(score - lse_HN[:, :, None]).tril()
        torch.testing.assert_close(a, own, atol=1e-5, rtol=0)
    assert (expected.attentions[1][0] - unedited[1]).abs().max() > 1e-2, "the edit changes the layer behind it"


def gradients_by_eager(model: PreTrainedModel, document: Any, weight: torch.Tensor) -> list[torch.Tensor]:
    """dL/dA (H, Q, K) of every attention call in order, by autograd through the model's own eager attention."""
    kept: list[torch.Tensor] = []
    original = torch.nn.functional.dropout

    def keep(weights: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if weights.ndim == 4 and kwargs.get("p", args[0] if args else None) == 0.0 and weights.requires_grad:
            weights.retain_grad()
            kept.append(weights)
        return original(weights, *args, **kwargs)

    torch.nn.functional.dropout = keep  # type: ignore[assignment]
    try:
        loss = (model(**model_inputs(model, document)).last_hidden_state * weight).sum()
        loss.backward()
    finally:
        torch.nn.functional.dropout = original
    found = [one.grad[0] for one in kept if one.grad is not None]
    model.zero_grad()
    return found


@pytest.mark.parametrize("name", GRADIENT_FAMILIES)
def test_the_output_gradient_and_the_values_give_the_gradient_of_every_weight(name: str) -> None:
    """dL/dA = dO . v, against autograd through eager attention; also where a caller is in inference mode."""
    model, (document,) = build_model(BY_NAME[name]), documents(BY_NAME[name], lengths=(23,))
    runner, part = one_passage(model, [document])
    length = len(document[1]) if BY_NAME[name].pairs else len(document)
    weight = torch.randn(1, length, model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    model.set_attn_implementation("eager")
    expected = gradients_by_eager(model, document, weight)
    sink, gradient = MemorySink(), KeepGradient()
    with torch.inference_mode():
        hidden = runner.run(part, sink, finish=True, listeners=(gradient,), grad=True)
    assert hidden is not None
    (hidden * weight[0]).sum().backward()
    assert len(expected) == len(gradient.v) == len(gradient.output_gradient) == len(runner.layout.calls)
    for place, (v_GMV, dense_HQK) in enumerate(zip(gradient.v, expected, strict=True)):
        output_gradient_NHV = gradient.output_gradient[place]
        v_HMV = v_GMV.repeat_interleave(output_gradient_NHV.shape[1] // len(v_GMV), 0)
        found_HQK = torch.einsum("qhv,hkv->hqk", output_gradient_NHV, v_HMV)
        assert dense_HQK.abs().max() > 0
        error = (found_HQK - dense_HQK[..., : found_HQK.shape[2]]).abs().max() / dense_HQK.abs().max()
        assert error <= 1e-4, f"call {place}: {error:.1e}"
    assert {(rows.kind, rows.layer) for rows in sink.blocks} == {(c.kind, c.layer) for c in runner.layout.calls}


@pytest.mark.parametrize("name", GRADIENT_FAMILIES)
def test_the_weights_of_the_model_get_their_gradients_too(name: str) -> None:
    model, (document,) = build_model(BY_NAME[name]), documents(BY_NAME[name], lengths=(23,))
    length = len(document[1]) if BY_NAME[name].pairs else len(document)
    weight = torch.randn(length, model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    (model(**model_inputs(model, document)).last_hidden_state * weight).sum().backward()
    own = {key: x.grad.clone() for key, x in model.named_parameters() if x.grad is not None}
    model.zero_grad()
    with attending(model, grad=True):
        (model(**model_inputs(model, document)).last_hidden_state * weight).sum().backward()
    # a sink logit and a table of positions are constants of the score rule
    own = {key: x for key, x in own.items() if not key.endswith((".sinks", "relative_attention_bias.weight"))}
    assert own
    least = 1e-3 * max(float(x.norm()) for x in own.values())  # a key bias has none but rounding
    for key, expected in own.items():
        found = model.get_parameter(key).grad
        assert found is not None, key
        error = float((found - expected).norm()) / max(float(expected.norm()), least)
        assert error <= 1e-4, f"{key}: {error:.1e}"


def test_a_document_in_pieces_has_no_gradients_and_says_so() -> None:
    model, inputs = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"], lengths=(23,))
    runner, part = one_passage(model, inputs)
    cut = replace(part, chunks=((0, 12), (12, 23)))
    with pytest.raises(InputError, match="2 chunks: raise chunk_tokens"):
        runner.run(cut, MemorySink(), finish=True, grad=True)


class Uniform(Listener):
    """Computes by itself: every weight of a row alike."""

    def compute(self, call: AttentionCall) -> Attended:
        problem = call.problem()
        v_HMV = call.v_GMV.repeat_interleave(call.q_HND.shape[0] // len(call.v_GMV), 0)
        intervals = zip(problem.start_N.tolist(), problem.stop_N.tolist(), strict=True)
        rows = [v_HMV[:, start:stop].mean(1) for start, stop in intervals]
        return Attended(out_NHV=torch.stack(rows), rows=None)  # type: ignore[arg-type]


def uniform_attention(
    module: nn.Module, query: Any, key: Any, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    repeated = value.repeat_interleave(module.num_key_value_groups, 1)  # type: ignore[arg-type]
    mean = repeated.cumsum(2) / torch.arange(1, value.shape[2] + 1)[:, None]
    return mean.transpose(1, 2).contiguous(), None


def test_a_listener_that_computes_takes_the_place_of_the_kernels_and_two_are_refused() -> None:
    model, (document,) = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"], lengths=(23,))
    with attending(model, Uniform()):
        found = model(**model_inputs(model, document)).last_hidden_state
    AttentionInterface.register("uniform-by-hand", uniform_attention)
    model.set_attn_implementation("uniform-by-hand")
    with torch.no_grad():
        expected = model(**model_inputs(model, document)).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with (
        pytest.raises(InputError, match="2 listeners want to be the one that computes"),
        attending(model, Uniform(), Uniform()),
    ):
        pass


class Order(Listener):
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    def before(self, call: AttentionCall) -> AttentionCall:
        self.seen.append(f"before {self.name}")
        return call

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        self.seen.append(f"after {self.name}")
        return attended


def test_listeners_are_nested_as_given() -> None:
    model, seen = build_model(BY_NAME["llama"], layers=1), list[str]()
    with attending(model, Order("a", seen), Order("b", seen)):
        model(input_ids=torch.arange(5, 15)[None])
    assert seen == ["before a", "before b", "after b", "after a"]


def test_dropout_is_off_but_where_it_is_asked_for() -> None:
    """Outputs under dropout vary from run to run, and their mean is the output without it."""
    torch.manual_seed(0)
    model = build_model(replace(BY_NAME["llama"], options=BY_NAME["llama"].options | {"attention_dropout": 0.3}))
    ids = torch.tensor([documents(BY_NAME["llama"], lengths=(23,))[0]])
    outputs: list[torch.Tensor] = []

    class Keep(Listener):
        def after(self, call: AttentionCall, attended: Attended) -> Attended:
            if call.module is model.get_submodule("layers.0.self_attn"):
                outputs.append(attended.out_NHV)
            return attended

    with attending(model.train(), Keep()):
        model(input_ids=ids)
    with attending(model, Keep(), train=True):
        for _ in range(300):
            model(input_ids=ids)
    plain, first, second = outputs[:3]
    assert not torch.equal(first, second)
    many = torch.stack(outputs[1:])
    spread = many.std(0) / len(many) ** 0.5
    assert ((many.mean(0) - plain).abs() <= 6 * spread + 1e-5).all()
    # the first token sees itself alone: a head's output is all of it or nothing
    share = (many[:, 0].abs().sum(-1) == 0).float().mean()
    assert abs(float(share) - 0.3) < 0.05
    with pytest.raises(UnsupportedModelError, match="not both"), attending(model, grad=True, train=True):
        model(input_ids=ids)


def test_settings_come_back_whatever_happens() -> None:
    model = build_model(BY_NAME["bart"], attn_implementation="sdpa").train()
    model.get_submodule("encoder.layers.0").eval()
    model.get_submodule("decoder").config._attn_implementation_internal = "sdpa"

    def settings() -> Any:
        return (
            model.config._attn_implementation,
            [module.training for module in model.modules()],
            torch.is_inference_mode_enabled(),
            torch.is_grad_enabled(),
        )

    before = settings()
    with pytest.raises(KeyError, match="stop"), attending(model):
        raise KeyError("stop")
    assert settings() == before
    with own_attention(model):
        assert model.config._attn_implementation == "eager"
    assert settings() == before

    def refuses(implementation: str) -> None:
        model.config._attn_implementation_internal = implementation
        raise ValueError("cannot be set")

    model.set_attn_implementation = refuses
    with pytest.raises(ValueError, match="cannot be set"), attending(model):
        pass
    del model.set_attn_implementation
    assert settings() == before


def test_one_model_object_in_two_threads() -> None:
    """20 times: both right, and the model usable after."""
    model = build_model(BY_NAME["t5"], attn_implementation="sdpa")
    model.set_attn_implementation("eager")
    inputs = [documents(BY_NAME["t5"], seed=seed, lengths=(23, 9)) for seed in (1, 2)]
    expected = [eager_attention(model, one[0]) for one in inputs]
    wrong: list[str] = []

    def run(turn: int, which: int) -> None:
        try:
            page = attlas.capture(model, inputs[which], f"memory://threads-{which}", overwrite=True)["doc-0"]
            for kind, layers in expected[which].items():
                found = page[f"{kind}_attention"].values
                np.testing.assert_allclose(found, torch.stack(layers).numpy(), atol=1e-5, rtol=0)
        except Exception as error:
            wrong.append(f"turn {turn}, thread {which}: {error!r}")

    for turn in range(20):
        threads = [threading.Thread(target=run, args=(turn, which)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert model.config._attn_implementation == "eager"
    for kind, layers in eager_attention(model, inputs[0][0]).items():
        for own, again in zip(expected[0][kind], layers, strict=True):
            torch.testing.assert_close(own, again, atol=0, rtol=0)
