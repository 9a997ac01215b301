"""A tile chosen by document, kind, layer, head, queries and keys holds the page's own weights and labels."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pytest
import torch

import attlas
from attlas.errors import CorruptAtlasError, InputError, TierError
from attlas.storage import Atlas
from attlas.storage.lazy import DocumentRows
from attlas.storage.tile import choose_tile, tile_csv, tile_json
from tests.families import BY_NAME, build_model

TEXT = "one two three, one two three; and one two three again."


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return attlas.capture("demo", [TEXT, "hello"], "memory://tile", ids=["counting", "greeting"])


def test_a_tile_is_the_pages_own(atlas: Atlas) -> None:
    tile = choose_tile(atlas, document="counting", layer=-2, head=-1, queries=slice(10, 14), keys=slice(None, None, 2))
    page = atlas["counting"]
    expected = page.attention.sel(layer=2, head=3).isel(query=slice(10, 14), key=slice(None, None, 2))
    np.testing.assert_array_equal(tile.values, expected.values)
    assert tile.dims == ("query", "key")
    assert (tile.attrs["document_id"], tile.attrs["kind"]) == ("counting", "self")
    assert (tile.attrs["layer"], tile.attrs["head"]) == (2, 3)
    told = json.loads(json.dumps(tile_json(tile)))
    assert told["query"] == [10, 11, 12, 13]
    assert told["key_token"] == [str(token) for token in page.key_token.values[::2]]
    np.testing.assert_array_equal(np.array(told["weight"], dtype=np.float32), tile.values)
    rows = list(csv.DictReader(io.StringIO(tile_csv(tile))))
    assert [(int(row["query"]), int(row["key"])) for row in rows] == [
        (i, j) for i in told["query"] for j in told["key"]
    ]
    np.testing.assert_array_equal(np.array([row["weight"] for row in rows], dtype=np.float32), tile.values.ravel())


def test_every_kind_has_the_same_dims() -> None:
    pairs = [([5, 6, 7, 8], [9, 10, 11])]
    atlas = attlas.capture(build_model(BY_NAME["t5"]), pairs, "memory://tile-t5")
    page = atlas["doc-0"]
    for kind, shape in (("encoder", (4, 4)), ("decoder", (3, 3)), ("cross", (3, 4))):
        tile = choose_tile(atlas, kind=kind, layer=1, head=0)
        assert tile.shape == shape
        assert tile.dims == ("query", "key")
        expected = page[f"{kind}_attention"].sel({f"{kind}_layer": 1, f"{kind}_head": 0})
        np.testing.assert_array_equal(tile.values, expected.values)
        assert tile_json(tile)["key_token"] == [str(token) for token in page[f"{kind}_key_token"].values]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"layer": 9}, "there is no layer 9: the atlas has 0 to 3"),
        ({"head": -5}, "there is no head -5: the atlas has 0 to 3"),
        ({"document": None}, "holds 2 documents: name one of them (counting, greeting)"),
        ({"kind": "cross"}, "has no cross attention: it has self"),
        ({"queries": slice(500, None)}, "no query is in 500:: the document has 0 to 54"),
    ],
)
def test_what_does_not_exist_is_named(atlas: Atlas, chosen: dict[str, object], message: str) -> None:
    choice: dict[str, object] = {"document": "counting", "layer": 0, "head": 0} | chosen
    with pytest.raises(InputError) as caught:
        choose_tile(atlas, **choice)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_tier_without_weights_says_so() -> None:
    atlas = attlas.capture("demo", TEXT, "memory://tile-statistics", keep="statistics")
    with pytest.raises(TierError, match="holds statistics alone"):
        choose_tile(atlas, layer=0, head=0)


def test_a_weight_that_is_no_number_is_an_error_about_the_atlas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose log-sum-exp is NaN under a digest that matches: as another program may have written them."""
    read = DocumentRows.factors

    def spoiled(self: DocumentRows, *places: Any) -> list[torch.Tensor]:
        q_HQD, lse_HQ, k_GKD = read(self, *places)
        return [q_HQD, torch.full_like(lse_HQ, torch.nan), k_GKD]

    opened = attlas.capture("demo", [TEXT], "memory://spoiled", ids=["counting"])
    monkeypatch.setattr(DocumentRows, "factors", spoiled)
    with pytest.raises(CorruptAtlasError, match=r"counting.*layer 0, head 0: a weight is NaN"):
        choose_tile(opened, layer=0, head=0)
