"""What an atlas will take on disk, told beforehand."""

from __future__ import annotations

import pytest
import transformers as tf

from attlas.engine.model.shape import model_shape
from attlas.errors import InputError
from attlas.storage.disk import tier_bytes


def test_a_llama_of_8b_at_128k_tokens() -> None:
    config = tf.LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, dtype="bfloat16",
    )  # fmt: skip
    disk = tier_bytes(model_shape(config), tokens=131_072)
    factors = 32 * 131_072 * ((32 + 8) * 128 * 2 + 32 * 4 + 8)
    assert disk["factors"] == factors
    assert disk["maps"] == factors + 32 * 32 * 131_072**2 * 2


def test_nothing_to_plan_for_is_refused() -> None:
    with pytest.raises(InputError, match="give 1 or more"):
        tier_bytes(model_shape(tf.GPT2Config(n_layer=1)), tokens=0)
