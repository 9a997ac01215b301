"""The xarray entry point: `xr.open_dataset(store, engine="attlas", document="doc-0")`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr
from xarray.backends import BackendEntrypoint

from attlas.errors import AttlasError
from attlas.storage.atlas import open_atlas
from attlas.storage.occupant import look
from attlas.storage.stores import open_store
from attlas.storage.tile import only_document

__all__ = ["AttlasBackend"]


class AttlasBackend(BackendEntrypoint):
    """Opens one document's page of an atlas."""

    description = "Open one document's attention from an attlas store"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "document", "storage_options")

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        document: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """document: its id, which may be left out where there is one alone. Raises InputError, DocumentMissingError."""
        atlas = open_atlas(filename_or_obj, storage_options=storage_options)
        if document is None:
            document = only_document(atlas)
        return _plain(atlas[document], drop_variables)

    supports_groups = True

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> dict[str, xr.Dataset]:
        """`/<document>` -> its page, for every document of a committed pack; what no node may be named for (a slash) is
        percent-encoded, and `document_id` among the attributes tells the name."""
        atlas = open_atlas(filename_or_obj, storage_options=storage_options)
        pages = {f"/{node_name(document)}": _plain(atlas[document], drop_variables) for document in atlas}
        return {"/": xr.Dataset(attrs={"model": atlas.model.get("name"), "keep": atlas.keep})} | pages

    def open_datatree(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> xr.DataTree:
        """A node for each document: `xr.open_datatree(store, engine="attlas")["doc-0"]`."""
        return xr.DataTree.from_dict(
            self.open_groups_as_dict(filename_or_obj, drop_variables=drop_variables, storage_options=storage_options)
        )

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """A local folder, or a zip file, that holds an atlas."""
        if not isinstance(filename_or_obj, str | Path) or not Path(str(filename_or_obj)).exists():
            return False
        try:
            return look(open_store(filename_or_obj)) in {"atlas", "begun", "damaged"}
        except (AttlasError, OSError, ValueError):
            return False


def node_name(document: str) -> str:
    """A document's name as a node's: as it is, but for what stands between nodes."""
    name = document.replace("%", "%25").replace("/", "%2F")
    return {"": "%", ".": "%2E", "..": "%2E%2E"}.get(name, name)


def _plain(page: xr.Dataset, without: str | Iterable[str] | None) -> xr.Dataset:
    found = xr.Dataset(page.data_vars, page.coords, page.attrs)
    return found if without is None else found.drop_vars(without, errors="ignore")
