"""What an answer of `statistics` says at a glance: each statistic over the heads, with the lowest and the highest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr

__all__ = ["Extreme", "StatisticSummary", "document_means", "head_values", "sampling_error", "summarise_statistics"]

ENDINGS = ("_error", "_low", "_high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extreme:
    """A head by the model's indices, and its value."""

    layer: int
    head: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticSummary:
    """title: the statistic's name, and the place of a further dimension. mean: over heads. error: mean over heads of
    the standard error, of the sample where rows were sampled, else over documents as a sample of texts; or None."""

    title: str
    units: str
    mean: float
    error: float | None
    lowest: Extreme
    highest: Extreme


def summarise_statistics(answer: xr.Dataset) -> list[StatisticSummary]:
    """One summary a statistic, in the order of the table; none of a statistic that no head has."""
    return [
        StatisticSummary(
            title=title, units=values.attrs["units"], mean=float(np.nanmean(values)), error=_mean_error(answer, values),
            lowest=_extreme(values, int(np.nanargmin(values))), highest=_extreme(values, int(np.nanargmax(values))),
        )
        for title, values in head_values(answer) if not np.isnan(values).all()
    ]  # fmt: skip


def head_values(answer: xr.Dataset, *, distances: bool = True) -> Iterator[tuple[str, xr.DataArray]]:
    """Title and values (layer, head) of every statistic, the places of a further dimension one by one.

    distances: whether those of weight_by_distance too, which are many.
    """
    for name, variable in answer.data_vars.items():
        if not {"layer", "head"} <= set(variable.dims) or "document" in variable.dims or str(name).endswith(ENDINGS):
            continue
        more = [str(dim) for dim in variable.dims if dim not in {"layer", "head"}]
        if not more:
            yield str(name), variable
        elif distances or more[0] != "distance":
            for place in range(variable.sizes[more[0]]):
                yield f"{name} {_label(answer, more[0], place)}", variable.isel({more[0]: place})


def sampling_error(answer: xr.Dataset, values: xr.DataArray) -> xr.DataArray | None:
    """Standard errors of what `head_values` gave, shaped as it is, where rows were sampled; else None."""
    return _error(answer, values, "_error")


def document_means(answer: xr.Dataset) -> Iterator[tuple[str, xr.DataArray, xr.DataArray | None]]:
    """Name, means (document) over heads of every statistic that is told of documents, and the means over heads of its
    standard error, where rows were sampled."""
    for name, variable in answer.data_vars.items():
        if variable.dims == ("document", "layer", "head") and not str(name).endswith("_error"):
            error = answer[f"{name}_error"].mean(("layer", "head")) if f"{name}_error" in answer else None
            yield str(name).removeprefix("document_"), variable.mean(("layer", "head"), keep_attrs=True), error


def _label(answer: xr.Dataset, dim: str, place: int) -> str:
    value = answer[dim].values[place]
    if dim == "threshold":
        return f"< {value:g}"
    if dim == "level":
        return f"{value:.0%}"
    stop = int(answer.distance_stop.values[place]) - 1
    return f"{value}" if stop == value else f"{value}-{stop}"


def _mean_error(answer: xr.Dataset, values: xr.DataArray) -> float | None:
    found = (_error(answer, values, ending) for ending in ("_error", "_document_error"))
    error = next((one for one in found if one is not None), None)
    return None if error is None else float(error.mean())


def _error(answer: xr.Dataset, values: xr.DataArray, ending: str) -> xr.DataArray | None:
    if f"{values.name}{ending}" not in answer:
        return None
    place = {dim: values[dim].item() for dim in ("threshold", "level", "distance") if dim in values.coords}
    return answer[f"{values.name}{ending}"].sel(place)


def _extreme(values: xr.DataArray, place: int) -> Extreme:
    layer, head = np.unravel_index(place, values.shape)
    return Extreme(
        layer=int(values["layer"].values[layer]), head=int(values["head"].values[head]),
        value=float(values.values[layer, head]),
    )  # fmt: skip
