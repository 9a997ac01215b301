"""The runner with a sink in memory: chunks, packs and map tiles, without any store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attlas.engine.listeners import record as record_module
from attlas.engine.model.load import load_model
from attlas.engine.model.probe import probe
from attlas.engine.model.shard import Shard
from attlas.engine.passage.documents import plan_packs
from attlas.engine.passage.passage import passages
from attlas.engine.passage.runner import ShardRunner
from attlas.engine.passage.tokenize import make_documents
from attlas.errors import MissingAttentionError
from attlas.storage.tiers import TIERS
from tests.engine.memory_sink import MemorySink
from tests.families import BY_NAME, build_model, documents, eager_attention


def captured(
    name: str, *, keep: str, chunk_tokens: int | None = None, pack: bool = True
) -> tuple[Any, MemorySink, Any]:
    loaded = load_model(build_model(BY_NAME[name]))
    inputs = documents(BY_NAME[name], lengths=(23, 5, 37))
    made = make_documents(inputs, loaded)
    (whole,) = plan_packs([{"text": d.length("text")} for d in made], pack_tokens=1000, block=64)
    layout, sink = probe(loaded.model), MemorySink()
    shard = ShardRunner(Shard.whole(loaded.model), layout, recording=TIERS[keep].recording())
    hidden = [
        shard.run(part, sink, finish=True)
        for part in passages(whole, made, pack_documents=pack, chunk_tokens=chunk_tokens)
    ]
    return inputs, sink, hidden


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "llama4", "bert", "modernbert", "roberta"])
def test_packed_rows_equal_rows_alone(name: str) -> None:
    _, packed, _ = captured(name, keep="statistics")
    _, alone, _ = captured(name, keep="statistics", pack=False)
    for layer in (0, 1):
        one, other = packed.layer("self", layer), alone.layer("self", layer)
        torch.testing.assert_close(one.factors["log_sum_exp"], other.factors["log_sum_exp"], atol=2e-5, rtol=1e-5)
        np.testing.assert_array_equal(one.factors["key_start"], other.factors["key_start"])
        np.testing.assert_array_equal(one.factors["key_stop"], other.factors["key_stop"])
        for statistic in ("entropy", "mean_distance", "induction_weight"):
            torch.testing.assert_close(one.statistics[statistic], other.statistics[statistic], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.head_gram_HH, other.head_gram_HH, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gemma3", "gpt_oss", "llama4", "gpt2"])
@pytest.mark.parametrize("chunk", [1, 10, 64])
def test_chunks_give_the_rows_and_hidden_states_of_one_pass(name: str, chunk: int) -> None:
    _, whole, (hidden,) = captured(name, keep="factors")
    _, cut, (*_, last) = captured(name, keep="factors", chunk_tokens=chunk)
    for layer in (0, 1):
        one, other = whole.layer("self", layer), cut.layer("self", layer)
        torch.testing.assert_close(other.factors["log_sum_exp"], one.factors["log_sum_exp"], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(other.factors["k"], one.factors["k"], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(last, hidden[-len(last) :], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk", [None, 11])
def test_map_tiles_cover_every_row_once(chunk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "MAP_ROWS", 8)
    inputs, sink, _ = captured("mistral", keep="maps", chunk_tokens=chunk)
    model = build_model(BY_NAME["mistral"])
    for number, document in enumerate(inputs):
        eager = eager_attention(model, document)["self"]
        for layer in (0, 1):
            dense = sink.dense_map("self", layer, number, len(document), len(document))
            torch.testing.assert_close(dense, eager[layer], atol=1e-5, rtol=0)


def test_layers_that_stop_calling_are_noticed() -> None:
    loaded = load_model(build_model(BY_NAME["llama"]))
    made = make_documents([[5, 6, 7]], loaded)
    (pack,) = plan_packs([{"text": 3}], pack_tokens=10, block=64)
    layout = probe(loaded.model)
    loaded.model.layers = torch.nn.ModuleList([loaded.model.get_submodule("layers.0")])
    (part,) = passages(pack, made, pack_documents=False, chunk_tokens=None)
    with pytest.raises(MissingAttentionError, match="1 of 2 attention layers did not call"):
        ShardRunner(Shard.whole(loaded.model), layout, recording=TIERS["factors"].recording()).run(part, MemorySink())
