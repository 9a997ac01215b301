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
        found = atlas[document]
        page = xr.Dataset(found.data_vars, found.coords, found.attrs)
        return page if drop_variables is None else page.drop_vars(drop_variables, errors="ignore")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """A local folder that holds an atlas."""
        if not isinstance(filename_or_obj, str | Path) or not Path(str(filename_or_obj)).is_dir():
            return False
        try:
            return look(open_store(filename_or_obj)) in {"atlas", "begun", "damaged"}
        except (AttlasError, OSError, ValueError):
            return False
