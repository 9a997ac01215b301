"""Cuts are optimal among all cuts, plans for models too large to load are right, what does not fit is refused."""

from __future__ import annotations

import json
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attlas.actors.plan import Devices, LayerCost, cut_layers, fit, parse_devices, plan_cluster
from attlas.engine.model.shard import Stack, meta_model
from attlas.engine.model.source import load_config
from attlas.errors import InputError
from tests.families import BY_NAME, build_model

GB = 10**9
LLAMA_70B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
    "dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
MAVERICK: dict[str, Any] = {
    "model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
    "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 202048, "max_position_embeddings": 1048576, "num_local_experts": 128, "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 2, "attention_chunk_size": 8192, "dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip

costs = st.lists(
    st.builds(LayerCost, weight_bytes=st.integers(1, 50), work=st.floats(1, 50)), min_size=1, max_size=9
)  # fmt: skip


def largest_share(layers: list[LayerCost], cuts: tuple[int, ...], embedding: int) -> float:
    """The definition: the costliest shard, by its part of all bytes or of all work."""
    all_bytes, all_work = sum(c.weight_bytes for c in layers) + embedding, sum(c.work for c in layers)
    return max(
        max(
            (sum(c.weight_bytes for c in layers[a:b]) + (embedding if a == 0 else 0)) / all_bytes,
            sum(c.work for c in layers[a:b]) / all_work,
        )
        for a, b in pairwise(cuts)
    )


@given(costs, st.integers(1, 9), st.integers(0, 40))
def test_a_cut_is_as_even_as_any(layers: list[LayerCost], shards: int, embedding: int) -> None:
    shards = min(shards, len(layers))
    stacks = (Stack(name="layers", layers=len(layers), side="text"),)
    plan = cut_layers(layers, stacks, shards, outside=(embedding, 7), step=1)
    assert plan.cuts[0] == 0
    assert plan.cuts[-1] == len(layers)
    assert plan.shards == shards
    assert all(a < b for a, b in pairwise(plan.cuts))
    best = min(
        largest_share(layers, (0, *inner, len(layers)), embedding)
        for inner in combinations(range(1, len(layers)), shards - 1)
    )
    assert largest_share(layers, plan.cuts, embedding) == pytest.approx(best)
    held = sum(c.weight_bytes for c in layers) + embedding + 7 * shards
    assert sum(plan.weight_bytes) == held


def test_cuts_lie_on_one_span_where_that_costs_little() -> None:
    layers = [LayerCost(weight_bytes=10, work=10.0)] * 48
    stacks = (Stack(name="layers", layers=48, side="text"),)
    assert cut_layers(layers, stacks, 8, outside=(0, 0)).cuts == tuple(range(0, 49, 6))
    assert all(cut % 12 == 0 for cut in cut_layers(layers, stacks, 3, outside=(0, 0), step=12).cuts)
    with pytest.raises(InputError, match="at most 4 shards"):
        cut_layers(layers, stacks, 5, outside=(0, 0), step=12)


def stored(folder: Path, config: dict[str, Any]) -> Any:
    (folder / "config.json").write_text(json.dumps(config))
    return meta_model(load_config(folder))


def test_llama_70b_on_eight_devices(tmp_path: Path) -> None:
    model = stored(tmp_path, LLAMA_70B)
    plan = plan_cluster(
        model, devices=Devices(count=8, memory=80 * GB), shards=None, dtype="auto", keep="factors", tokens=131_072
    )
    # by hand: a layer has 2 d^2 + 2 d d_kv + 3 d f weights and two norms, and the embedding v d
    layer = 2 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192)
    table = 2 * 128256 * 8192
    spans = plan.shards.spans()
    assert (plan.shards.shards, plan.replicas, plan.used) == (3, 2, 6)
    expected = [layer * (b - a) + (table if a == 0 else 0) for a, b in spans]
    assert plan.shards.weight_bytes == pytest.approx(expected, rel=1e-3)
    assert all(parts.total <= 80 * GB for parts in plan.memory)
    # keys and values of every layer over the document, bfloat16
    assert plan.memory[0].keys_values == (spans[0][1] - spans[0][0]) * 2 * 8 * 128 * 131_072 * 2
    with pytest.raises(InputError, match=r"2 shards, .* of 24.0 GB on each of 2 devices .* --offload"):
        plan_cluster(
            model, devices=Devices(count=2, memory=24 * GB), shards=None, dtype="auto", keep="factors", tokens=131_072
        )


def test_a_mixture_of_experts_of_400_billion(tmp_path: Path) -> None:
    model = stored(tmp_path, MAVERICK)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(400e9, rel=0.01)
    with pytest.raises(InputError, match=r"8 shards, .* of 80.0 GB on each of 8 devices \(799.4 GB weights in all\)"):
        plan_cluster(
            model, devices=Devices(count=8, memory=80 * GB), shards=None, dtype="auto", keep="factors", tokens=8192
        )
    plan = plan_cluster(
        model, devices=Devices(count=16, memory=80 * GB), shards=None, dtype="auto", keep="factors", tokens=131_072
    )
    assert (plan.shards.shards, plan.replicas) == (12, 1)
    assert max(parts.total for parts in plan.memory) <= 80 * GB
    assert sum(plan.shards.weight_bytes) == pytest.approx(799.4 * GB, rel=0.01)


def test_an_encoder_decoder_is_cut_over_both_stacks() -> None:
    plan = plan_cluster(
        build_model(BY_NAME["t5"], layers=6), devices=None, shards=3, dtype="float32", keep="factors", tokens=100
    )
    assert plan.shards.cuts[0] == 0
    assert plan.shards.cuts[-1] == 12
    assert len(plan.memory) == 3


def test_more_shards_than_devices() -> None:
    layers = [LayerCost(weight_bytes=GB, work=1.0)] * 4
    stacks = (Stack(name="layers", layers=4, side="text"),)
    with pytest.raises(InputError, match="4 shards need as many devices, and there are 2"):
        fit(layers, stacks, Devices(count=2, memory=80 * GB), outside=(0, 0), working=lambda _plan: 0, shards=4)


@pytest.mark.parametrize("text", ["80GB", "x80GB", "0x80GB", "8x", "eight x 80GB"])
def test_devices_are_described_in_one_way(text: str) -> None:
    assert parse_devices("8x80GB") == Devices(count=8, memory=80 * GB)
    with pytest.raises(InputError):
        parse_devices(text)
