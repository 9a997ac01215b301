"""What a group's consolidated metadata hold, looked up in memory: zarr's lookup goes through its event loop."""

from __future__ import annotations

from typing import Any

import zarr
from zarr.core.group import GroupMetadata
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

__all__ = ["array_at", "holds"]

Metadata = ArrayV2Metadata | ArrayV3Metadata | GroupMetadata


def holds(root: zarr.Group, path: str) -> bool:
    """Whether a group has an array or a group at a path."""
    if root.metadata.consolidated_metadata is None:
        return path in root
    return _metadata(root, path) is not None


def array_at(root: zarr.Group, path: str) -> zarr.Array[Any]:
    """The array at a path; raises KeyError where none is there."""
    if root.metadata.consolidated_metadata is None:
        found = root[path]
        assert isinstance(found, zarr.Array)
        return found
    metadata = _metadata(root, path)
    if metadata is None or isinstance(metadata, GroupMetadata):
        raise KeyError(path)
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=root.store_path / path))


def _metadata(root: zarr.Group, path: str) -> Metadata | None:
    found: Metadata | None = root.metadata
    for part in path.split("/"):
        if not isinstance(found, GroupMetadata) or found.consolidated_metadata is None:
            return None
        found = found.consolidated_metadata.metadata.get(part)
    return found
