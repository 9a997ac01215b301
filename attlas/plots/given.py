"""What a figure is given, checked: an answer of the analysis that it is a figure of."""

from __future__ import annotations

import xarray as xr

from attlas.errors import InputError
from attlas.parse import shown

__all__ = ["parse_answer", "parse_head_values", "parse_weights"]


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


def parse_weights(value: object, dims: tuple[str, ...] = ("query", "key")) -> xr.DataArray:
    """Weights of these dimensions, in this order, such as `page.attention.sel(layer=1, head=0)`; none is empty."""
    wanted = f"weights ({', '.join(dims)})"
    if not isinstance(value, xr.DataArray) or value.dtype.kind not in "fiub":
        raise InputError(f"the figure is of {wanted}, and this is {shown(value)}")
    prefixes = {str(dim).rpartition("_")[0] for dim in value.dims if str(dim).rpartition("_")[2] in dims} - {""}
    if len(prefixes) == 1:  # `encoder_query` and its `encoder_query_token`
        begins = f"{prefixes.pop()}_"
        names = [str(name) for name in (*value.dims, *value.coords) if str(name).startswith(begins)]
        value = value.drop_vars([name.removeprefix(begins) for name in names], errors="ignore")
        value = value.rename({name: name.removeprefix(begins) for name in names})
    if set(value.dims) != set(dims) or 0 in value.shape:
        have = ", ".join(f"{dim} {size}" for dim, size in value.sizes.items())
        raise InputError(f"the figure is of {wanted}, and this has {have or 'no dimension'}: choose with .sel or .isel")
    return value.transpose(*dims)
