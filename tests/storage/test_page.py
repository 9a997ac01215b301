"""One document's attention with plain dims, whatever the kind, against the model's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import attlas
from attlas.errors import InputError, TierError
from tests.families import BY_NAME, build_model, documents, eager_attention

DIMS = ("layer", "head", "query", "key")
COLUMNS = ("token", "token_id")


def test_every_kind_has_plain_dims_and_the_models_own_weights() -> None:
    family = BY_NAME["t5"]
    model, inputs = build_model(family), documents(family)
    atlas = attlas.capture(model, inputs, "memory://plain-dims", overwrite=True)
    for i, document in enumerate(atlas):
        eager = eager_attention(model, inputs[i])
        for kind in atlas.kinds:
            found, page = atlas.attention(document, kind), atlas[document]
            assert found.dims == DIMS
            assert set(found.coords) == {*DIMS, *(f"{dim}_{name}" for dim in ("query", "key") for name in COLUMNS)}
            np.testing.assert_allclose(found.values, eager[kind], atol=1e-5, rtol=0)
            np.testing.assert_array_equal(found.values, page[f"{kind}_attention"].values)
            for name, coordinate in found.coords.items():
                np.testing.assert_array_equal(coordinate.values, page[f"{kind}_{name}"].values)
            assert found.attrs["document_id"] == document
            assert found.attrs["kind"] == kind
    with pytest.raises(InputError, match="no self attention: it has encoder, decoder, cross"):
        atlas.attention("doc-0")


def test_it_is_lazy_chosen_rows_keep_their_places_and_refusals_name_the_remedy() -> None:
    family = BY_NAME["llama"]
    model, inputs = build_model(family), documents(family)
    whole = attlas.capture(model, inputs, "memory://plain-whole", overwrite=True)
    some = attlas.capture(model, inputs, "memory://plain-some", queries="stride:3", heads=[2], overwrite=True)
    found = some.attention("doc-0")
    assert not found.variable._in_memory
    xr.testing.assert_allclose(
        found.load(), whole.attention("doc-0").sel(head=[2]).sel(query=found["query"].values), atol=1e-6
    )
    assert found["query"].values.tolist() == list(range(0, len(inputs[0]), 3))
    with pytest.raises(KeyError, match="did you mean 'doc-1'"):
        whole.attention("doc-11")
    poor = attlas.capture(model, inputs, "memory://plain-poor", keep="statistics", overwrite=True)
    with pytest.raises(TierError, match="holds statistics alone; capture it again with keep="):
        poor.attention("doc-0")


def test_what_a_tier_lacks_is_no_attribute_and_no_key_and_a_page_is_written_as_netcdf(tmp_path: Path) -> None:
    texts = ["the cat sat.", "a dog"]
    page = attlas.capture("demo", texts, "memory://page-poor", keep="statistics", overwrite=True)["doc-0"]
    assert not hasattr(page, "attention")
    assert page.get("attention") is None
    for ask in (lambda: page.attention, lambda: page["attention"]):
        with pytest.raises(TierError, match=r"^attention of 'doc-0' is not kept"):
            ask()
    whole = attlas.capture("demo", texts, "memory://page-whole", overwrite=True)["doc-0"]
    assert hasattr(whole, "attention")
    whole.to_netcdf(tmp_path / "page.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "page.nc", engine="scipy") as again:
        np.testing.assert_array_equal(again.attention.values, whole.attention.values)
        assert again.query_token.values.tolist() == whole.query_token.values.tolist()


def test_what_a_text_alone_has_is_not_there_where_no_document_is_a_text() -> None:
    model, inputs = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"])
    page = attlas.capture(model, inputs, "memory://plain-ids", overwrite=True)["doc-0"]
    assert not {"query_char_start", "query_char_end", "query_word"} & set(page.coords)
