"""What the probe learns, and what is refused before any number is produced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from transformers import AutoModel
from transformers.models.llama import modeling_llama

from attlas.engine.attention.position_bias import bias_table, lazy_position_bias
from attlas.engine.model.probe import probe
from attlas.engine.model.support import check_supported
from attlas.errors import MissingAttentionError, UnsupportedModelError
from tests.families import BASE, BY_NAME, FAMILIES, GQA, VOCABULARY, build_model


def layout(name: str) -> Any:
    return probe(build_model(BY_NAME[name]))


def test_score_rules_are_learnt() -> None:
    gemma = layout("gemma2").calls[0].rule
    assert gemma.softcap == 5.0
    assert gemma.scaling == 1.0
    assert [call.rule.scaling for call in layout("gpt2").calls] == [8**-0.5, 8**-0.5 / 2]
    model = build_model(BY_NAME["gpt_oss"])
    sinks = probe(model).calls[1].rule.sink_H
    np.testing.assert_array_equal(sinks, model.get_parameter("layers.1.self_attn.sinks").detach().numpy())
    deepseek = layout("deepseek_v3").calls[0]
    assert (deepseek.features, deepseek.value_features) == (16, 12)


def test_layers_are_numbered_as_the_model_numbers_them() -> None:
    assert [call.layer for call in layout("albert").calls] == [0, 1]  # one module, fired twice
    calls = layout("t5").calls
    assert [(c.kind, c.layer) for c in calls] == [
        ("encoder", 0), ("encoder", 1), ("decoder", 0), ("cross", 0), ("decoder", 1), ("cross", 1),
    ]  # fmt: skip
    assert calls[2].module == "decoder.block.0.layer.0.SelfAttention"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_can_be_packed_and_chunked(family: Any) -> None:
    found = probe(build_model(family))
    decoder = not family.pairs and family.name not in {
        "bert", "roberta", "electra", "albert", "distilbert", "modernbert",
    }  # fmt: skip
    assert found.chunkable == decoder
    assert found.packable == (not family.pairs)
    if not family.pairs:
        assert found.position_offset == (2 if family.name == "roberta" else 0)


@pytest.mark.parametrize(
    "config",
    [
        tf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
        tf.MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4),
        tf.DebertaV2Config(**BASE),
        tf.GPTJConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, rotary_dim=4),
        tf.XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=48),
    ],
    ids=lambda config: config.model_type,
)
def test_families_with_attention_of_their_own_are_refused(config: Any) -> None:
    model = AutoModel.from_config(config)
    with pytest.raises(UnsupportedModelError, match=rf"\({config.model_type}\).*attention interface"):
        check_supported(model)


def test_a_model_that_takes_no_text_is_refused() -> None:
    config = tf.WhisperConfig(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, pad_token_id=0,
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="takes input_features, not text"):
        check_supported(AutoModel.from_config(config))


def test_layers_that_carry_state_keep_documents_from_being_packed() -> None:
    """LFM2's convolutions would run one document's end into the next one's beginning."""
    config = tf.Lfm2Config(**GQA, layer_types=["conv", "full_attention"])
    torch.manual_seed(0)
    found = probe(AutoModel.from_config(config).eval())
    assert [call.layer for call in found.calls] == [1]
    assert found.position_offset is None
    assert not found.packable
    assert not found.chunkable


def test_a_layer_that_does_not_fire_is_noticed() -> None:
    model = build_model(BY_NAME["llama"])
    model.extra = type(model.get_submodule("layers.0.self_attn"))(model.config, layer_idx=2)
    with pytest.raises(MissingAttentionError, match=r"1 of 3 attention layers took no part.*extra"):
        probe(model)


def test_attention_that_does_more_than_the_rule_says_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose eager attention has a term that the call does not show: the comparison finds it."""
    original = modeling_llama.eager_attention_forward

    def with_secret_term(module: Any, query: Any, key: Any, value: Any, mask: Any, *args: Any, **kwargs: Any) -> Any:
        return original(module, query * 1.5, key, value, mask, *args, **kwargs)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", with_secret_term)
    with pytest.raises(UnsupportedModelError, match="does not reproduce"):
        probe(build_model(BY_NAME["llama"]))


def test_an_unknown_argument_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    attention: Any = modeling_llama.LlamaAttention.forward

    def with_argument(self: Any, *args: Any, **kwargs: Any) -> Any:
        return attention(self, *args, **kwargs, indices=torch.zeros(1))

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", with_argument)
    monkeypatch.setattr("attlas.engine.model.probe.interface_modules", lambda model: {})
    with pytest.raises(UnsupportedModelError, match="indices"):
        probe(build_model(BY_NAME["llama"]), compare=False)


@pytest.mark.parametrize("name", ["t5", "mt5", "umt5"])
def test_the_bias_table_equals_the_models_own_bias(name: str) -> None:
    model = build_model(BY_NAME[name])
    modules = [m for m in model.modules() if getattr(m, "has_relative_attention_bias", False)]
    assert modules
    for module in modules:
        table = bias_table(module)
        assert table.table_HR.shape[1] < 300  # T5 saturates at 128 tokens
        positions = np.arange(400)
        own = module.compute_bias(400, 400)[0].detach().numpy()  # type: ignore[operator]
        place = np.clip(positions - positions[:, None] - table.first_offset, 0, table.table_HR.shape[1] - 1)
        np.testing.assert_array_equal(table.table_HR[:, place], own)


def test_no_bias_of_n_by_n_is_ever_built() -> None:
    model = build_model(BY_NAME["t5"])
    with lazy_position_bias(model):
        for module in model.modules():
            if hasattr(module, "compute_bias"):
                assert not isinstance(module.compute_bias(10**9, 10**9), torch.Tensor)  # type: ignore[operator]
