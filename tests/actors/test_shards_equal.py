"""1, 2, 3 and 5 shards: hidden states bit-identical to the whole model's, and an atlas equal in every array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import attlas
from attlas.engine.model.shard import find_stacks, meta_model
from attlas.engine.model.source import load_config
from attlas.errors import UnsupportedModelError
from tests.actors.pipeline import assert_atlases_equal, capture_in_shards
from tests.families import BY_NAME, FAMILIES, Family, build_model, documents

LAYERS = 6
QUICK = {
    "llama", "qwen3", "mistral", "gemma2", "gemma3", "gpt2", "gpt_neox", "phi3", "gpt_oss", "cohere2", "mixtral",
    "deepseek_v3", "opt", "llama4", "bert", "roberta", "electra", "distilbert", "modernbert", "bart", "m2m_100", "t5",
    "umt5",
}  # fmt: skip
CUT = [
    pytest.param(family, id=family.name, marks=() if family.name in QUICK else pytest.mark.slow)
    for family in FAMILIES
    if family.name != "albert"
]


def whole_states(folder: Path, inputs: list[Any]) -> list[torch.Tensor]:
    """The model's own forward pass under eager attention, document by document."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, attn_implementation="eager")
    found = []
    with torch.no_grad():
        for document in inputs:
            if model.config.is_encoder_decoder:
                source, target = document
                out = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target]))
            else:
                out = model(input_ids=torch.tensor([document]))
            found.append(out.last_hidden_state[0])
    return found


@pytest.mark.parametrize("family", CUT)
def test_families(family: Family, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build_model(family, layers=LAYERS).save_pretrained(folder)
    inputs, keep = documents(family), "statistics" if FAMILIES.index(family) % 2 else "factors"
    expected, layout = capture_in_shards(folder, inputs, tmp_path / "1.zarr", shards=1, keep=keep)
    for shards in (2, 3, 5):
        store = tmp_path / f"{shards}.zarr"
        found, _ = capture_in_shards(folder, inputs, store, shards=shards, keep=keep, layout=layout)
        assert attlas.verify(store).passed
        assert len(found) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert_atlases_equal(store, tmp_path / "1.zarr")
    whole = torch.cat(whole_states(folder, inputs))
    states = torch.cat([state[0] for state in expected])
    assert states.shape == whole.shape
    torch.testing.assert_close(states, whole, rtol=0, atol=2e-4)  # eager rounds elsewhere; a wrong mask is 0.1 and more


@pytest.mark.parametrize("shards", [2, 3])
def test_a_long_document_in_chunks(shards: int, tmp_path: Path) -> None:
    family, folder = BY_NAME["gemma3"], tmp_path / "model"
    build_model(family, layers=LAYERS).save_pretrained(folder)
    inputs = documents(family, lengths=(120, 7))
    stores = [tmp_path / "whole.zarr", tmp_path / "cut.zarr"]
    states = [
        capture_in_shards(folder, inputs, store, shards=count, keep="statistics", chunk_tokens=16)[0]
        for store, count in zip(stores, (1, shards), strict=True)
    ]
    assert len(states[0]) == 9  # 120 tokens in chunks of 16, and the short document by itself
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    assert_atlases_equal(stores[1], stores[0])


@pytest.mark.real
@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_real_models(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    inputs = ["The lamp went out twice before the boat came home.", "Paris is the capital of France. " * 8]
    expected, _ = capture_in_shards(folder, inputs, tmp_path / "1.zarr", shards=1, keep="factors")
    for shards in (2, 3, 5):
        found, _ = capture_in_shards(folder, inputs, tmp_path / f"{shards}.zarr", shards=shards, keep="factors")
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert_atlases_equal(tmp_path / f"{shards}.zarr", tmp_path / "1.zarr")


def test_a_family_that_cannot_be_cut_is_refused_by_name(tmp_path: Path) -> None:
    build_model(BY_NAME["albert"]).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"AlbertModel \(albert\) cannot be cut .* share .* weights"):
        find_stacks(meta_model(load_config(tmp_path)))
