"""Quantities of layers as an xarray Dataset: each with its errors, its interval, its documents, and its definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from attlas.jobs.blocks import Plan
from attlas.jobs.layer import LayerValues
from attlas.jobs.quantity import Quantity

__all__ = ["described", "error_of", "head_coordinates", "interval", "label_quantities"]

Floats = NDArray[np.float64]


def label_quantities(
    plan: Plan,
    quantities: Sequence[Quantity],
    document_quantities: Sequence[Quantity],
    layers: Sequence[LayerValues],
    *,
    confidence: float,
    coords: dict[str, Any] | None = None,
) -> xr.Dataset:
    """x(layer, head, ...) of each quantity, and as document_x(document, layer, head, ...) of each document.

    Of a sample `x_error`, `x_low`, `x_high`; of several documents `x_document_error`. coords: of further dimensions.
    """
    variables: dict[str, Any] = {}
    for quantity in quantities:
        variables |= _of_all(plan, quantity, layers, confidence)
    if len(layers[0].documents.document_U) == len(plan.corpus.ids):
        for quantity in document_quantities:
            variables |= _of_documents(quantity, layers)
    document = ("document", np.array(plan.corpus.ids, dtype=object), {"long_name": "the document's name"})
    return xr.Dataset(variables, head_coordinates(plan) | {"document": document} | (coords or {}))


def head_coordinates(plan: Plan) -> dict[str, Any]:
    corpus = plan.corpus
    return {
        "layer": ("layer", list(corpus.layer_labels), {"long_name": "the model's layer index"}),
        "head": ("head", list(corpus.heads), {"long_name": "the model's head index"}),
    }


def described(definition: str, units: str) -> dict[str, str]:
    return {"long_name": definition, "units": units}


def error_of(name: str, units: str) -> dict[str, str]:
    return described(f"standard error of {name}, of the sample of rows", units)


def interval(value: Floats, reach: Floats, *, share: bool) -> tuple[Floats, Floats]:
    """Both ends of a confidence interval whose half width is `reach`, made on the logit of a share, else on the
    logarithm: what attention gives is above 0 and skewed, and where a sample's mean is low, so is its error."""
    inside = (value > 0) & (reach > 0) & ((value < 1) | (not share))
    safe = np.where(inside, value, 0.5)
    if share:
        middle, width = np.log(safe / (1 - safe)), reach / (safe * (1 - safe))
        ends = tuple(1 / (1 + np.exp(-(middle + sign * width))) for sign in (-1, 1))
    else:
        ends = tuple(np.exp(np.log(safe) + sign * reach / safe) for sign in (-1, 1))
    low, high = (np.where(inside, end, value + sign * reach) for end, sign in zip(ends, (-1, 1), strict=True))
    return low, high


def _of_all(plan: Plan, quantity: Quantity, layers: Sequence[LayerValues], confidence: float) -> dict[str, Any]:
    name, dims = quantity.name, ("layer", "head", *((quantity.dim,) if quantity.dim else ()))
    value = np.stack([layer.values[name] for layer in layers])
    attributes = described(quantity.definition, quantity.units)
    if quantity.bound:
        attributes["bound"] = quantity.bound
    variables: dict[str, Any] = {name: (dims, value, attributes)}
    if plan.sample is not None:
        error = np.stack([layer.errors[name] for layer in layers])
        freedom = np.stack([layer.degrees_of_freedom[name] for layer in layers])
        reach = stats.t.ppf((1 + confidence) / 2, freedom)
        variables[f"{name}_error"] = (dims, error, error_of(name, quantity.units))
        ends = interval(value, reach * error, share=quantity.units == "1")
        for end, limit in zip(("low", "high"), ends, strict=True):
            what = f"{end} end of the {confidence:.0%} confidence interval of {name}, for the rows of this atlas"
            variables[f"{name}_{end}"] = (dims, limit, described(what, quantity.units))
    if name in layers[0].document_errors:
        error = np.stack([layer.document_errors[name] for layer in layers])
        what = f"standard error of {name} over documents, as a sample of texts (jackknife)"
        variables[f"{name}_document_error"] = (dims, error, described(what, quantity.units))
    return variables


def _of_documents(quantity: Quantity, layers: Sequence[LayerValues]) -> dict[str, Any]:
    name, dims = quantity.name, ("document", "layer", "head", *((quantity.dim,) if quantity.dim else ()))
    variables: dict[str, Any] = {}
    for suffix, values in (("", "values"), ("_error", "errors")):
        parts = [getattr(layer.documents, values) for layer in layers]
        if all(name in part for part in parts):
            what = quantity.definition if not suffix else f"standard error of {name} of the document"
            value = np.stack([part[name] for part in parts], axis=1).astype(np.float32)
            variables[f"document_{name}{suffix}"] = (dims, value, described(what, quantity.units))
    return variables
