"""A tile chosen as people choose it: one kind, layer and head of a document, some of its queries and keys; as values.

What a command prints, a page draws or a server sends is made of this.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from attlas.engine.passage.selection import describe_indices, parse_selection
from attlas.errors import CorruptAtlasError, InputError
from attlas.parse import is_integer, refuse

if TYPE_CHECKING:
    from attlas.storage.atlas import Atlas
    from attlas.storage.stores import Where

__all__ = ["choose_tile", "chosen_places", "existing_label", "only_document", "tile_csv", "tile_json"]


def choose_tile(
    atlas: Atlas | Where,
    *,
    layer: int,
    head: int,
    document: str | None = None,
    kind: str | None = None,
    queries: Any = None,
    keys: Any = None,
) -> xr.DataArray:
    """Weights (query, key) of one head, float32, loaded; with query_token and key_token.

    >>> choose_tile(atlas, layer=1, head=0, queries=slice(106, 107), keys=slice(48, 50)).values
    array([[3.06e-05, 9.97e-01]], dtype=float32)

    layer, head: the model's indices; a negative one counts from the end of those captured. document: may be left out
    where the atlas holds one alone. kind: of the kinds, the first by default. queries, keys: positions in the document,
    as `parse_selection` reads them: 7, slice(10, 20), "last:16"; None for all that are kept. Raises InputError where
    something chosen does not exist, DocumentMissingError, TierError where the atlas keeps no weights,
    CorruptAtlasError where a weight is no number.
    """
    from attlas.storage.atlas import parse_atlas  # loads zarr

    atlas = parse_atlas(atlas)
    kind = atlas.parse_kind(kind)
    document = only_document(atlas) if document is None else document
    attention = atlas.attention(document, kind)
    layer, head = (existing_label(attention, dim, index) for dim, index in (("layer", layer), ("head", head)))
    tile = attention.sel(layer=layer, head=head)
    places = {
        dim: chosen_places(tile, dim, given) for dim, given in (("query", queries), ("key", keys)) if given is not None
    }
    tile = tile.isel(places)
    tile = tile.load().assign_attrs(document_id=document, kind=kind, layer=layer, head=head)
    if not np.isfinite(tile.values).all():
        raise CorruptAtlasError(
            f"{atlas.name}, {document!r}, {kind} layer {layer}, head {head}: a weight is NaN, which no capture writes: "
            "look with attlas verify, and capture it again"
        )
    return tile


def only_document(atlas: Atlas) -> str:
    """The id of the one document that an atlas holds; raises InputError where it holds none or several."""
    if len(atlas) != 1:
        ids = list(atlas)
        some = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
        raise InputError(f"{atlas.name} holds {len(ids)} documents" + (f": name one of them ({some})" if ids else ""))
    return next(iter(atlas))


def tile_json(tile: xr.DataArray) -> dict[str, Any]:
    """A tile of `choose_tile` ready for JSON: what it is of, its labels, and weight[query][key]."""
    return {
        **{name: tile.attrs[name] for name in ("kind", "layer", "head")},
        "document": tile.attrs["document_id"],
        **{dim: [int(place) for place in tile[dim].values] for dim in ("query", "key")},
        **{f"{dim}_token": [str(token) for token in tile[f"{dim}_token"].values] for dim in ("query", "key")},
        "weight": [[float(weight) for weight in row] for row in tile.values],
    }


def tile_csv(tile: xr.DataArray) -> str:
    """A tile of `choose_tile` as CSV, a line for each cell; weights with the digits that make them again."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query", "query_token", "key", "key_token", "weight"])
    keys, key_tokens = tile["key"].values, tile["key_token"].values
    for query, token, row in zip(tile["query"].values, tile["query_token"].values, tile.values, strict=True):
        for key, key_token, weight in zip(keys, key_tokens, row, strict=True):
            writer.writerow([query, token, key, key_token, repr(float(weight))])
    return text.getvalue()


def chosen_places(tile: xr.DataArray, dim: str, given: Any) -> slice | list[int]:
    """Where the chosen positions lie among those kept; a slice where they lie side by side."""
    have: list[int] = tile[dim].values.tolist()
    chosen = set(parse_selection(given, dim, random=False).choose(have, dim, "the document"))
    places = [place for place, label in enumerate(have) if label in chosen]
    together = places[-1] - places[0] == len(places) - 1
    return slice(places[0], places[-1] + 1) if together else places


def existing_label(attention: xr.DataArray, dim: str, index: int) -> int:
    """The label of a layer or head; a negative one counts from the end of those captured."""
    have = [int(label) for label in attention[dim].values]
    if not is_integer(index):
        raise refuse(index, dim, f"the atlas has {describe_indices(have)}")
    if index in have:
        return int(index)
    if -len(have) <= index < 0:
        return have[index]
    raise InputError(f"there is no {dim} {index}: the atlas has {describe_indices(have)}")
