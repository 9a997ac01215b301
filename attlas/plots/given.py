"""What a figure is given, checked: an answer of the analysis that it is a figure of."""

from __future__ import annotations

import xarray as xr

from attlas.errors import InputError
from attlas.parse import shown

__all__ = ["parse_answer", "parse_head_values"]


def parse_answer(value: object, function: str, *variables: str) -> xr.Dataset:
    """An answer of `attlas.analysis.<function>`, with these variables; raises InputError for anything else."""
    if not isinstance(value, xr.Dataset):
        raise InputError(f"the figure is of attlas.analysis.{function}(atlas), and this is {shown(value)}")
    missing = next((name for name in variables if name not in value), None)
    if missing is not None:
        kind = value.attrs.get("question", "another question")
        raise InputError(
            f"the figure is of attlas.analysis.{function}(atlas), and this answer ({kind}) has no {missing}"
        )
    return value


def parse_head_values(value: object) -> xr.DataArray:
    """Numbers (layer, head), such as `statistics(atlas).entropy`."""
    if not isinstance(value, xr.DataArray) or value.dims != ("layer", "head") or value.dtype.kind not in "fiub":
        kind = f"a DataArray {value.dims} of {value.dtype}" if isinstance(value, xr.DataArray) else shown(value)
        raise InputError(f"the map is of one number a head (layer, head), and this is {kind}: give found.entropy, say")
    return value
