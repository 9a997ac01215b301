"""Answers as tables and files: CSV, JSON, Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from attlas.errors import InputError
from attlas.parse import parse_instance, parse_names, parse_output

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORMATS", "json_text", "plain_attributes", "to_frame", "write_table"]

FORMATS = (".csv", ".json", ".parquet")


def to_frame(dataset: xr.Dataset, dims: tuple[str, ...] = ("layer", "head")) -> pd.DataFrame:
    """One row for each place of `dims`, one column for each variable that has them all.

    >>> table = attlas.analysis.to_frame(attlas.analysis.statistics(atlas, names=["entropy"]))
    >>> table.shape[0], "entropy" in table.columns
    (16, True)

    A further dimension becomes columns `name[value]`, such as `sparsity[0.01]`. dims ("document", "layer", "head") give
    the documents' table, in which `document_` is left out of the names. Raises InputError where the answer lacks a dim.
    """
    dataset = parse_instance(dataset, "the table", xr.Dataset, "give an answer of attlas.analysis")
    dims = parse_names(dims, "dims")
    missing = [dim for dim in dims if dim not in dataset.dims]
    if missing:
        raise InputError(f"the answer has no {missing[0]}: it has {', '.join(map(str, dataset.dims))}")
    columns: dict[str, Any] = {}
    places = np.meshgrid(*(np.arange(dataset.sizes[dim]) for dim in dims), indexing="ij")
    for dim, place in zip(dims, places, strict=True):
        columns[dim] = dataset[dim].values[place.ravel()]
    for name, variable in dataset.data_vars.items():
        if not set(dims) <= set(variable.dims) or ("document" in variable.dims and "document" not in dims):
            continue
        more = [dim for dim in variable.dims if dim not in dims]
        values = variable.transpose(*dims, *more).values.reshape(len(places[0].ravel()), -1)
        title = str(name).removeprefix("document_") if "document" in dims else str(name)
        labels = [""] if not more else [f"[{label}]" for label in _labels(dataset, more)]
        for i, label in enumerate(labels):
            columns[f"{title}{label}"] = values[:, i]
    import pandas as pd

    return pd.DataFrame(columns)


def write_table(dataset: xr.Dataset, path: str | Path, dims: tuple[str, ...] = ("layer", "head")) -> None:
    """Write the table as CSV, JSON or Parquet, by the file's ending.

    >>> attlas.analysis.write_table(attlas.analysis.statistics(atlas), "heads.csv")

    path: .csv, .json or .parquet. dims: as `to_frame`. JSON has what the answer was made from and every column's
    definition beside the rows; Parquet has them in the metadata of its schema, under "attlas". Raises InputError.
    """
    path = parse_output(path, "path", FORMATS)
    frame = to_frame(dataset, dims)
    description = {"attributes": plain_attributes(dataset.attrs), "columns": _definitions(dataset)}
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".json":
        path.write_text(json_text(description, frame), encoding="utf-8")
    else:
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.Table.from_pandas(frame, preserve_index=False)
        metadata = (table.schema.metadata or {}) | {b"attlas": json.dumps(description, ensure_ascii=False).encode()}
        parquet.write_table(table.replace_schema_metadata(metadata), path)


def json_text(description: dict[str, Any], frame: pd.DataFrame) -> str:
    """`description`, and the table's rows under "rows", one a line; without a Python object for each number."""
    head = json.dumps(description, ensure_ascii=False)[:-1]
    rows = frame.to_json(orient="records", lines=True, double_precision=15).strip().replace("\n", ",\n")
    return f'{head}, "rows": [\n{rows}\n]}}'


def _labels(dataset: xr.Dataset, dims: list[Any]) -> list[str]:
    labels = [""]
    for dim in dims:
        values = dataset[dim].values if dim in dataset.coords else np.arange(dataset.sizes[dim])
        labels = [f"{one},{value}".strip(",") for one in labels for value in values]
    return labels


def _definitions(dataset: xr.Dataset) -> dict[str, Any]:
    return {str(name): plain_attributes(variable.attrs) for name, variable in dataset.data_vars.items()}


def plain_attributes(attributes: dict[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON has them."""
    return {str(k): v.item() if isinstance(v, np.generic) else v for k, v in attributes.items()}
