"""A Dataset of what was found in each document, with the mean over documents and its interval beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from attlas.experiments.asked import Asked
from attlas.experiments.interval import bootstrap
from attlas.experiments.kept import Part
from attlas.parse import parse_seed, parse_share

__all__ = ["Interval", "summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Of a mean over documents, by a bootstrap that draws whole documents by `seed`."""

    confidence: float
    seed: int

    @classmethod
    def of(cls, confidence: Any, seed: Any) -> Interval:
        return cls(confidence=parse_share(confidence, "confidence"), seed=parse_seed(seed))


def summary(
    asked: Asked,
    found: Sequence[Part],
    variables: Mapping[str, tuple[Sequence[str], str, str]],
    coords: Mapping[str, Any],
    interval: Interval,
    **attributes: Any,
) -> xr.Dataset:
    """variables: name in each part -> its dims, what it says and its units.

    The Dataset holds each variable (document, *dims), and `..._mean`, `..._low` and `..._high` (*dims): the mean over
    documents with the ends of its interval, NaN of one document.
    """
    made: dict[str, Any] = {}
    for name, (dims, long_name, units) in variables.items():
        values = np.stack([np.asarray(one[name]) for one in found])
        attrs = {"long_name": long_name, "units": units}
        made[name] = ("document", *dims), values, attrs
        if values.dtype.kind != "f":
            continue
        low, high = bootstrap(values, interval.confidence, interval.seed)
        made |= {
            f"{name}_mean": (tuple(dims), values.mean(axis=0), attrs | {"long_name": f"mean of: {long_name}"}),
            f"{name}_low": (tuple(dims), low, attrs | {"long_name": f"low end of the mean of: {long_name}"}),
            f"{name}_high": (tuple(dims), high, attrs | {"long_name": f"high end of the mean of: {long_name}"}),
        }
    told = {
        "model": asked.loaded.identity.name, "confidence": interval.confidence, "seed": interval.seed,
        "predicted": _predicted(asked),
    }  # fmt: skip
    ids = [document.id for document in asked.documents]
    return xr.Dataset(made, {"document": ids, **coords}, told | attributes)


def _predicted(asked: Asked) -> str:
    """Whose predictions count."""
    if asked.classes:
        return "the class of each document"
    predicted = asked.running.predicted
    return "every token but the first" if predicted is None else str(predicted.to_json())
