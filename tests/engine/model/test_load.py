"""Loading with the language-model head: the logits are the model's own, and the captured base is the part under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from transformers import AutoModel, PreTrainedModel

from attlas.engine.attention.interface import attending, own_attention
from attlas.engine.model.load import load_model
from attlas.errors import InputError
from tests.families import BY_NAME, build_model, documents

HEADS: dict[str, Any] = {
    "llama": tf.LlamaForCausalLM,
    "gpt_oss": tf.GptOssForCausalLM,
    "gemma2": tf.Gemma2ForCausalLM,
    "mistral": tf.MistralForCausalLM,
    "bert": tf.BertForMaskedLM,
    "bart": tf.BartForConditionalGeneration,
    "t5": tf.T5ForConditionalGeneration,
}
LOGITS = 1e-4


def with_head(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = HEADS[name](BY_NAME[name].config())
    return model.eval()


def logits(model: PreTrainedModel, document: Any) -> torch.Tensor:
    if model.config.is_encoder_decoder:
        ids = {"input_ids": torch.tensor([document[0]]), "decoder_input_ids": torch.tensor([document[1]])}
    else:
        ids = {"input_ids": torch.tensor([document])}
    found: torch.Tensor = model(**ids, use_cache=False).logits
    return found


@pytest.mark.parametrize("name", HEADS)
def test_logits_through_the_capture_point_are_eager_ones(name: str, tmp_path: Path) -> None:
    """Of a folder loaded with its head, and of a model object that has one; the base is inside, not a copy."""
    original, (document,) = with_head(name), documents(BY_NAME[name], lengths=(23,))
    original.save_pretrained(tmp_path)
    with own_attention(original):
        expected = logits(original, document)
    assert expected.std() > 0
    for source in (tmp_path, original):
        loaded = load_model(source, head=True)
        whole = loaded.with_head
        assert type(whole) is type(original)
        assert any(module is loaded.model for module in whole.modules())
        with attending(whole):
            found = logits(whole, document)
        torch.testing.assert_close(found, expected, atol=LOGITS, rtol=0)


def test_the_demo_has_its_head() -> None:
    loaded, plain = load_model("demo", head=True), load_model("demo")
    assert plain.with_head is None
    assert plain.identity == loaded.identity
    whole = loaded.with_head
    assert whole is not None
    assert loaded.tokenizer is not None
    ids = loaded.tokenizer("one two three, one two", return_tensors="pt").input_ids
    with own_attention(whole):
        expected = whole(input_ids=ids, use_cache=False).logits
    with attending(whole):
        found = whole(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(found, expected, atol=LOGITS, rtol=0)
    assert expected.shape == (1, ids.shape[1], loaded.config.vocab_size)


def test_the_default_keeps_no_head() -> None:
    """No more weights than the base's, of a folder as of an object."""
    model = with_head("llama")
    assert load_model(model).with_head is None
    assert load_model(model).model is model.base_model


@pytest.mark.parametrize("family", ["llama", "bert", "electra"])
def test_a_model_without_a_head_is_refused_where_one_is_asked_for(family: str, tmp_path: Path) -> None:
    model = build_model(BY_NAME[family])
    with pytest.raises(InputError, match="no language-model head"):
        load_model(model, head=True)
    AutoModel.from_config(BY_NAME[family].config()).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="lacks weights"):
        load_model(tmp_path, head=True)
