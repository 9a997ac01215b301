"""What an atlas holds, as values ready for JSON: model, tier, kinds, score rules, documents, packs and their failures.

Reads small columns alone, and needs neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zarr

from attlas.storage.commits import COMMITTED, FAILED, PENDING
from attlas.storage.schema import axis_prefix
from attlas.storage.stores import store_bytes

if TYPE_CHECKING:
    from attlas.storage.atlas import Atlas

__all__ = ["describe_atlas", "failed_packs"]

STATES = {PENDING: "pending", COMMITTED: "committed", FAILED: "failed"}


def describe_atlas(atlas: Atlas) -> dict[str, Any]:
    """store, schema, model, keep, factors, created, options, bytes, packs by state, failed, kinds, documents.

    >>> describe_atlas(atlas)["packs"]
    {'pending': 0, 'committed': 1, 'failed': 0}
    """
    states = atlas.packs["state"].values
    return {
        "store": atlas.name,
        "schema": atlas.attrs["attlas_version"],
        "model": atlas.model,
        "keep": atlas.keep,
        "factors": list(atlas.tier.factors),
        "created": atlas.attrs["created"],
        "options": atlas.attrs["options"],
        "bytes": store_bytes(atlas.root.store),
        "packs": {name: int((states == state).sum()) for state, name in STATES.items()},
        "failed": failed_packs(atlas),
        "kinds": {kind: _describe_kind(atlas, kind) for kind in atlas.kinds},
        "documents": _describe_documents(atlas),
    }


def failed_packs(atlas: Atlas) -> list[dict[str, Any]]:
    """The packs that are recorded as failed, with their documents and why."""
    table, packs = atlas.documents, atlas.packs
    names, pack_of = table["document_id"].values, table["pack"].values
    return [
        {
            "pack": int(pack),
            "documents": [str(name) for name in names[pack_of == pack]],
            "error": str(packs["error"].values[pack]),
        }
        for pack in (packs["state"].values == FAILED).nonzero()[0]
    ]


def _describe_kind(atlas: Atlas, kind: str) -> dict[str, Any]:
    rules = list(atlas.attrs["score_rules"][kind].values())
    found = atlas.root.get(f"{kind}/q")
    q = found if isinstance(found, zarr.Array) else None
    return {
        "layers": list(atlas.layers(kind)),
        "heads": [int(head) for head in atlas.column(f"{kind}/head")],
        "kv_heads": len(atlas.column(f"{kind}/kv_head")),
        "features": int(q.shape[-1]) if q is not None else None,
        "dtype": q.attrs["attlas_dtype"] if q is not None else None,
        "statistics": list(atlas.attrs["kinds"][kind]["statistics"]),
        "scaling": sorted({float(rule["scaling"]) for rule in rules}),
        "softcap": sorted({float(rule["softcap"]) for rule in rules if rule["softcap"]}),
        "sink_logit": any(rule["sink_logit"] for rule in rules),
        "position_bias": any(rule["position_bias"] for rule in rules),
    }


def _describe_documents(atlas: Atlas) -> list[dict[str, Any]]:
    table = atlas.documents
    columns = {
        name: {axis: table[f"{axis_prefix(axis)}{column}"].values for axis in atlas.axes}
        for name, column in (("tokens", "row_size"), ("truncated_from", "truncated_from"))
    }
    return [
        {
            "id": str(document),
            **{name: {axis: int(values[i]) for axis, values in of.items()} for name, of in columns.items()},
            "state": STATES[int(state)],
        }
        for i, (document, state) in enumerate(zip(table["document_id"].values, table["state"].values, strict=True))
    ]
