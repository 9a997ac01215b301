"""Plans from the configuration alone, for models of any size."""

from __future__ import annotations

import pytest
import transformers as tf

from attlas.engine.model.probe import probe
from attlas.engine.model.shape import model_shape, tier_bytes
from attlas.errors import InputError, UnsupportedModelError
from tests.families import FAMILIES, Family, build_model


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_shape_without_weights_equals_the_probes(family: Family) -> None:
    shape = model_shape(family.config())
    calls = probe(build_model(family), compare=False).calls
    found = sorted((layer.heads, layer.kv_heads, layer.features) for layer in shape.layers)
    expected = sorted((call.heads, call.kv_heads, call.features) for call in calls)
    if family.name == "albert":  # one module serves every layer
        expected = expected[:1]
    assert found == expected


def test_a_llama_of_8b_at_128k_tokens() -> None:
    config = tf.LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, dtype="bfloat16",
    )  # fmt: skip
    disk = tier_bytes(model_shape(config), tokens=131_072)
    factors = 32 * 131_072 * ((32 + 8) * 128 * 2 + 32 * 4 + 8)
    assert disk["factors"] == factors
    assert disk["maps"] == factors + 32 * 32 * 131_072**2 * 2


def test_refusals() -> None:
    with pytest.raises(UnsupportedModelError, match="bloom"):
        model_shape(tf.BloomConfig(hidden_size=32, n_layer=1, n_head=4))
    with pytest.raises(InputError, match="give 1 or more"):
        tier_bytes(model_shape(tf.GPT2Config(n_layer=1)), tokens=0)
