"""Tiny models of many families, built from their configs, and their own eager attention as the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tf
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

VOCABULARY = 99


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family; `traits` say what its attention has beside plain softmax."""

    name: str
    config_class: Callable[..., PreTrainedConfig]
    options: dict[str, Any]
    traits: frozenset[str] = frozenset()
    pairs: bool = False

    def config(self, layers: int | None = None) -> PreTrainedConfig:
        """layers: of each stack; None for the family's own few."""
        options = dict(self.options)
        if layers is not None:
            options |= {field: layers for field in DEPTHS if field in options}
            if "layer_types" in options:
                options["layer_types"] = [options["layer_types"][i % 2] for i in range(layers)]
        return self.config_class(**options)


DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")


BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GQA: dict[str, Any] = BASE | {"num_key_value_heads": 2}
WINDOW = {"sliding_window": 8}
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "init_std": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
T5: dict[str, Any] = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}


def _family(name: str, config_class: Any, options: dict[str, Any], *traits: str, pairs: bool = False) -> Family:
    return Family(name=name, config_class=config_class, options=options, traits=frozenset(traits), pairs=pairs)


FAMILIES: tuple[Family, ...] = (
    _family("llama", tf.LlamaConfig, GQA, "gqa"),
    _family("qwen2", tf.Qwen2Config, GQA, "gqa"),
    _family("qwen3", tf.Qwen3Config, GQA | {"head_dim": 8}, "gqa"),
    _family("mistral", tf.MistralConfig, GQA | WINDOW, "gqa", "sliding"),
    _family("gemma", tf.GemmaConfig, GQA | {"head_dim": 8}, "gqa"),
    _family(
        "gemma2",
        tf.Gemma2Config,
        GQA | WINDOW | {"head_dim": 8, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 1},
        "softcap",
        "sliding",
    ),
    _family(
        "gemma3",
        tf.Gemma3TextConfig,
        GQA | WINDOW | MIXED | {"head_dim": 8, "query_pre_attn_scalar": 1},
        "gqa",
        "sliding",
    ),
    _family(
        "gpt2",
        tf.GPT2Config,
        {
            "vocab_size": VOCABULARY,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 128,
            "initializer_range": 0.3,
            "scale_attn_by_inverse_layer_idx": True,
        },
        "learned_positions",
    ),
    _family("gpt_neox", tf.GPTNeoXConfig, BASE),
    _family("phi", tf.PhiConfig, GQA),
    _family("phi3", tf.Phi3Config, GQA | WINDOW, "gqa", "sliding"),
    _family(
        "gpt_oss",
        tf.GptOssConfig,
        GQA | WINDOW | MIXED | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
        "sinks",
        "sliding",
        "moe",
    ),
    _family("olmo2", tf.Olmo2Config, GQA, "gqa"),
    _family("cohere", tf.CohereConfig, GQA, "gqa"),
    _family("cohere2", tf.Cohere2Config, GQA | WINDOW | MIXED, "gqa", "sliding"),
    _family("mixtral", tf.MixtralConfig, GQA | {"num_local_experts": 4, "num_experts_per_tok": 2}, "gqa", "moe"),
    _family(
        "qwen3_moe",
        tf.Qwen3MoeConfig,
        GQA | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        "gqa",
        "moe",
    ),
    _family(
        "deepseek_v3",
        tf.DeepseekV3Config,
        BASE
        | {
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 12,
            "n_routed_experts": 8,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
        "mla",
        "moe",
    ),
    _family(
        "opt",
        tf.OPTConfig,
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 128,
            "init_std": 0.3,
        },
        "learned_positions",
    ),
    _family(
        "llama4",
        tf.Llama4TextConfig,
        GQA
        | {
            "head_dim": 8,
            "intermediate_size_mlp": 48,
            "attention_chunk_size": 8,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "layer_types": ["chunked_attention", "full_attention"],
        },
        "chunked",
        "moe",
    ),
    _family("granite", tf.GraniteConfig, GQA | {"attention_multiplier": 0.3}, "gqa"),
    _family("stablelm", tf.StableLmConfig, GQA, "gqa"),
    _family("starcoder2", tf.Starcoder2Config, GQA | WINDOW, "gqa", "sliding"),
    _family("smollm3", tf.SmolLM3Config, GQA, "gqa"),
    _family("glm", tf.GlmConfig, GQA | {"head_dim": 8}, "gqa"),
    _family("nemotron", tf.NemotronConfig, GQA | {"head_dim": 8}, "gqa"),
    _family("bert", tf.BertConfig, BASE, "learned_positions"),
    _family("roberta", tf.RobertaConfig, BASE | {"pad_token_id": 1}, "learned_positions"),
    _family("electra", tf.ElectraConfig, BASE | {"embedding_size": 16}, "learned_positions"),
    _family("albert", tf.AlbertConfig, BASE | {"embedding_size": 16}, "learned_positions"),
    _family(
        "distilbert",
        tf.DistilBertConfig,
        {
            "vocab_size": VOCABULARY,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 48,
            "max_position_embeddings": 128,
            "initializer_range": 0.3,
        },
        "learned_positions",
    ),
    _family(
        "modernbert",
        tf.ModernBertConfig,
        BASE | {"num_hidden_layers": 4, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
        "sliding",
    ),
    _family("bart", tf.BartConfig, BART, pairs=True),
    _family("mbart", tf.MBartConfig, BART, pairs=True),
    _family("marian", tf.MarianConfig, BART, pairs=True),
    _family("m2m_100", tf.M2M100Config, BART, pairs=True),
    _family("t5", tf.T5Config, T5, "relative_bias", pairs=True),
    _family("mt5", tf.MT5Config, T5, "relative_bias", pairs=True),
    _family("umt5", tf.UMT5Config, T5, "relative_bias", pairs=True),
)
BY_NAME = {family.name: family for family in FAMILIES}


def build_model(
    family: Family, *, attn_implementation: str = "eager", seed: int = 0, layers: int | None = None
) -> PreTrainedModel:
    """The base model in float32 with peaked attention: every parameter that starts at zero is made random too."""
    torch.manual_seed(seed)
    model = AutoModel.from_config(family.config(layers), attn_implementation=attn_implementation)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "relative_attention_bias" in name or "sinks" in name:
                parameter.normal_(0, 1.0)
            elif parameter.ndim > 1 and any(part in name for part in (".q.", ".k.")):  # T5 starts its queries small
                parameter.normal_(0, 0.2)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    return model.eval()


def documents(family: Family, *, seed: int = 0, lengths: tuple[int, ...] = (23, 5, 12)) -> list[Any]:
    """Random token ids, with repeats: (source, target) pairs for an encoder-decoder."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> list[int]:
        return torch.randint(5, 35, (length,), generator=generator).tolist()

    if family.pairs:
        return [(ids(length), ids(max(3, 20 - length // 2))) for length in lengths]
    return [ids(length) for length in lengths]


def eager_attention(model: PreTrainedModel, document: Any) -> dict[str, list[torch.Tensor]]:
    """kind -> weights (H, Q, K) float32 of each layer, from the model's own eager attention on one document alone."""
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            source, target = document
            out = model(
                input_ids=torch.tensor([source]),
                decoder_input_ids=torch.tensor([target]),
                output_attentions=True,
                use_cache=False,
            )
            found = {
                "encoder": out.encoder_attentions,
                "decoder": out.decoder_attentions,
                "cross": out.cross_attentions,
            }
        else:
            out = model(input_ids=torch.tensor([document]), output_attentions=True, use_cache=False)
            found = {"self": out.attentions}
    return {kind: [layer[0] for layer in layers] for kind, layers in found.items()}
