"""What an atlas's arrays say of their sizes, held against each other before anything is read by them."""

from __future__ import annotations

from typing import Any

import zarr

from attlas.errors import CorruptAtlasError

__all__ = ["check_declared_sizes"]

EVERYWHERE = frozenset({"document", "pack"})
"""Dimensions of one size in the whole atlas; all others have one within their group, or within their kind."""


def check_declared_sizes(root: zarr.Group) -> None:
    """Raise CorruptAtlasError where two arrays tell different sizes of one dimension, other layers than there are score
    rules of, or more packs than documents."""
    consolidated, rules = root.metadata.consolidated_metadata, root.attrs.get("score_rules", {})
    sizes: dict[tuple[str, str], tuple[int, str]] = {}
    for kind, layers in rules.items() if isinstance(rules, dict) else ():
        sizes[kind, "layer"] = len(layers), "the score rules"
    for path, told in ({} if consolidated is None else consolidated.flattened_metadata).items():
        metadata: Any = told
        for dim, size in zip(
            getattr(metadata, "dimension_names", None) or (), getattr(metadata, "shape", ()), strict=False
        ):
            scope = path.rpartition("/")[0] if "/maps/" in path else path.partition("/")[0]
            place = (
                "" if dim in EVERYWHERE or (dim.endswith(("token", "query")) and "/maps/" not in path) else scope,
                dim,
            )
            known, by = sizes.setdefault(place, (size, path))
            if size != known:
                raise _damaged(f"{path} tells of {size:,} along {dim}, and {by} of {known:,}")
    (packs, path), (documents, by) = (sizes.get(("", dim), (0, "nothing")) for dim in ("pack", "document"))
    if packs > documents:  # a pack has one document at least
        raise _damaged(f"{path} tells of {packs:,} packs, and {by} of {documents:,} documents")


def _damaged(told: str) -> CorruptAtlasError:
    return CorruptAtlasError(
        f"{told}: the metadata in zarr.json are damaged; put the file back from a copy, or make the atlas again with "
        "--overwrite"
    )
