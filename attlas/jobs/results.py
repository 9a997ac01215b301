"""Answers kept in the atlas they were asked of, under `analysis/`: found again when the same question comes."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
import zarr

import attlas
from attlas.storage import Atlas

__all__ = ["REVISION", "find_result", "keep_result", "saved_results"]

REVISION = 1
"""Counted up whenever an answer to the same question would come out differently."""


def find_result(atlas: Atlas, name: str, parameters: Mapping[str, Any]) -> xr.Dataset | None:
    """The kept answer to this very question of the atlas as it is now; None where there is none."""
    path = _path(atlas, name, parameters)
    try:
        group = zarr.open_group(atlas.root.store, path=path, mode="r", zarr_format=3, use_consolidated=False)
    except (FileNotFoundError, KeyError):
        return None
    if not group.attrs.get("complete"):  # its writer was stopped
        return None
    found = xr.open_zarr(atlas.root.store, group=path, consolidated=False, zarr_format=3, chunks=None).load()
    return found.assign_attrs(reused="yes")


def keep_result(atlas: Atlas, name: str, parameters: Mapping[str, Any], result: xr.Dataset) -> xr.Dataset:
    """Write an answer into the atlas, with what made it among its attributes; returns it with these.

    Where the store cannot be written the answer is returned all the same, with a warning, and `kept` says why.
    """
    path = _path(atlas, name, parameters)
    result = result.assign_attrs(
        parameters=json.dumps(dict(parameters), sort_keys=True),
        attlas_version=attlas.__version__,
        revision=REVISION,
        made=datetime.now(UTC).isoformat(timespec="microseconds"),
    )
    try:
        store = atlas.root.store
        store = store.with_read_only(False) if store.read_only else store
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr announces that strings may yet change their specification
            _writable(result).to_zarr(
                store, group=path, mode="w", zarr_format=3, consolidated=False, write_empty_chunks=True
            )
        group = zarr.open_group(store, path=path, mode="r+", zarr_format=3, use_consolidated=False)
        group.attrs["complete"] = True
    except (OSError, PermissionError, ValueError) as error:
        reason = " ".join(str(error).split())
        warnings.warn(f"the answer is not kept in {atlas.name}: {reason}", stacklevel=2)
        return result.assign_attrs(kept=f"no: {reason}")
    return result.assign_attrs(kept=path)


def saved_results(atlas: Atlas) -> dict[str, dict[str, Any]]:
    """path -> parameters of every answer that the atlas keeps, in the order in which they were made."""
    try:
        group = zarr.open_group(atlas.root.store, path="analysis", mode="r", zarr_format=3, use_consolidated=False)
    except (FileNotFoundError, KeyError):
        return {}
    found = {}
    for path, member in group.groups():
        if member.attrs.get("complete"):
            found[f"analysis/{path}"] = {
                name: member.attrs[name] for name in ("question", "parameters", "made") if name in member.attrs
            }
    return dict(sorted(found.items(), key=lambda one: str(one[1].get("made", ""))))


def _path(atlas: Atlas, name: str, parameters: Mapping[str, Any]) -> str:
    """Where an answer lies: by question, code and atlas, including which packs are committed."""
    asked = json.dumps(
        {
            "parameters": dict(parameters),
            "version": attlas.__version__,
            "revision": REVISION,
            "created": atlas.attrs["created"],
            "documents": hashlib.sha256("\0".join(atlas).encode()).hexdigest(),
        },
        sort_keys=True,
    )
    return f"analysis/{name}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}"


def _writable(result: xr.Dataset) -> xr.Dataset:
    """Text as objects, which Zarr keeps at any length; booleans as they are."""
    texts = {
        name: variable.astype(object) for name, variable in result.variables.items() if variable.dtype.kind in "UT"
    }
    coords = {name: (v.dims, np.asarray(v.values), v.attrs) for name, v in texts.items()}
    return result.assign_coords({n: v for n, v in coords.items() if n in result.coords}).assign(
        {n: v for n, v in coords.items() if n not in result.coords}
    )
