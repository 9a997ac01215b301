"""A factor is one entry: a toy factor and a tier that keeps it, registered here alone, go all the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner

import attlas
from attlas.cli import main
from attlas.engine.listeners.sink import LayerRows
from attlas.engine.model.load import load_model
from attlas.engine.model.shape import shape_of
from attlas.errors import InputError, MissingAttentionError
from attlas.storage import AtlasWriter
from attlas.storage.disk import tier_bytes
from attlas.storage.factors import FACTORS, Factor
from attlas.storage.pack_writer import PackWriter
from attlas.storage.sizes import plan_sizes
from attlas.storage.tiers import TIERS, Tier
from tests.storage.synthetic import synthetic

NORM = Factor(
    name="query_norm", axis="query", heads="head", width=None, dtype="float32", fill=np.nan,
    long_name="length of the query", units="1", take=lambda rows: rows.rows_of(rows.call.q_HND).float().norm(dim=-1),
)  # fmt: skip
TOY = Tier(
    name="toy", factors=("q", "k", "v", "log_sum_exp", "key_start", "key_stop", "query_norm"), description="and values"
)
TEXTS = ["The quick brown fox jumps over the lazy dog. " * 5, "Once upon a time"]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with FACTORS.having(NORM), TIERS.having(TOY):
        yield


def test_it_is_stored_equal_to_the_models_values(tmp_path: Path) -> None:
    """The model's own projections are the oracle; rotary turns a query and leaves its length."""
    model = load_model("demo").model
    inputs = [list(range(5, 90)), list(range(7, 30))]
    atlas = attlas.capture(
        model, inputs, tmp_path / "a.zarr", keep="toy", heads=[1, 3], queries="stride:3", chunk_tokens=32
    )
    v, norm = (np.asarray(atlas.root[f"self/{name}"][...]) for name in ("v", "query_norm"))  # type: ignore[index]
    dims = zarr.open_group(tmp_path / "a.zarr")["self/v"].metadata.dimension_names  # type: ignore[union-attr]
    assert dims == ("layer", "kv_head", "token", "value_feature")
    group = int(atlas.attrs["kinds"]["self"]["heads_per_kv_head"])
    kept, table = sorted({head // group for head in (1, 3)}), atlas.documents
    for document, ids in enumerate(inputs):
        start, row = (int(table[f"{axis}token_start"][document]) for axis in ("", "query_"))
        rows = int(table["query_row_size"][document])
        for layer, (q_HND, v_GMV) in enumerate(projections(model, ids)):
            np.testing.assert_allclose(v[layer][:, start : start + len(ids)], v_GMV[kept], atol=1e-5)
            expected = np.linalg.norm(q_HND[[1, 3], ::3], axis=-1)
            np.testing.assert_allclose(norm[layer][:, row : row + rows], expected, rtol=1e-5)
    assert attlas.verify(tmp_path / "a.zarr").problems == ()


def projections(model: Any, ids: list[int]) -> list[list[Any]]:
    """Of each layer, what its query and value projections give, (heads, tokens, features) float64."""
    found: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _args, out, name=name: found.__setitem__(name, out))
        for name, module in model.named_modules()
        if name.endswith(("q_proj", "v_proj"))
    ]
    with torch.inference_mode():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    size = model.config.head_dim
    return [
        [found[f"layers.{i}.self_attn.{x}_proj"][0].unflatten(1, (-1, size)).transpose(0, 1).double() for x in "qv"]
        for i in range(model.config.num_hidden_layers)
    ]


def test_a_row_that_is_not_handed_over_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    write = PackWriter.write

    def without_last_row(self: PackWriter, rows: LayerRows) -> None:
        write(self, replace(rows, factors={**rows.factors, "v": rows.factors["v"][:, :-1]}))

    def without_any(self: PackWriter, rows: LayerRows) -> None:
        write(self, replace(rows, factors={name: x for name, x in rows.factors.items() if name != "query_norm"}))

    for spoilt, match in ((without_last_row, "self/v of layer 0 has"), (without_any, r"no rows of .*\(query_norm\)")):
        monkeypatch.setattr(PackWriter, "write", spoilt)
        with pytest.raises(MissingAttentionError, match=match):
            attlas.capture("demo", TEXTS[1], "memory://toy-row", keep="toy", overwrite=True)


def test_a_flipped_byte_and_a_value_that_is_not_finite_are_found(tmp_path: Path) -> None:
    attlas.capture("demo", TEXTS, tmp_path / "a.zarr", keep="toy")
    assert attlas.verify(tmp_path / "a.zarr").problems == ()
    shutil.copytree(tmp_path / "a.zarr", tmp_path / "b.zarr")
    file = next(path for path in (tmp_path / "a.zarr/self/v/c").rglob("*") if path.is_file())
    raw = bytearray(file.read_bytes())
    raw[100] ^= 1
    file.write_bytes(raw)
    assert any("self/v" in problem for problem in attlas.verify(tmp_path / "a.zarr").problems)
    array: Any = zarr.open_group(tmp_path / "b.zarr", mode="r+")["self/v"]
    array[1, 0, 3, 0] = np.nan
    assert any("layer 1: v has values that are not finite" in p for p in attlas.verify(tmp_path / "b.zarr").problems)
    shutil.rmtree(tmp_path / "b.zarr/self/query_norm/c")
    assert any("self/query_norm/c" in p for p in attlas.verify(tmp_path / "b.zarr").problems)


def test_disk_and_memory_grow_by_its_bytes() -> None:
    shape = shape_of(load_model("demo").model)
    tokens = 40_000
    disk = tier_bytes(shape, tokens=tokens)
    more = sum(layer.kv_heads * layer.value_features * 4 + layer.heads * 4 for layer in shape.layers) * tokens
    assert disk["toy"] - disk["factors"] == more > 0
    plain, toy = (
        plan_sizes(shape, tier=TIERS[name], longest=tokens, total=tokens, chunkable=True) for name in ("factors", "toy")
    )
    assert toy.memory.gathered > plain.memory.gathered


def test_it_is_listed_by_plan_and_info(tmp_path: Path) -> None:
    attlas.capture("demo", TEXTS[1], tmp_path / "a.zarr", keep="toy")
    runner = CliRunner()
    shown = runner.invoke(main, ["plan", "demo", "--tokens", "100"]).output
    assert "toy" in shown
    assert "and values" in shown
    shown = runner.invoke(main, ["info", str(tmp_path / "a.zarr")]).output
    assert "toy" in shown
    assert "v, query_norm" not in shown  # in the store's order
    assert "q, k, v, log_sum_exp, key_start, key_stop, query_norm" in shown


def test_an_unknown_tier_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"keep is 'all': choose one of statistics, factors, maps, toy"):
        attlas.capture("demo", TEXTS, "memory://no-tier", keep="all")
    with pytest.raises(InputError, match="no tier 'all'"):
        AtlasWriter.create("memory://no-tier", synthetic().spec("all"))
