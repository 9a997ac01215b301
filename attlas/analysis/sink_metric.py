"""The sink metric of Gu et al. 2024: how many heads give the first token most of their weight."""

from __future__ import annotations

import numpy as np
import xarray as xr

from attlas.analysis.statistics import statistics
from attlas.errors import InputError
from attlas.jobs.corpus import find_corpus
from attlas.parse import parse_count, parse_share
from attlas.storage import Atlas, parse_atlas
from attlas.storage.stores import Where

__all__ = ["EPSILON", "sink_metric"]

EPSILON, SINK_TOKENS = 0.3, 64


def sink_metric(atlas: Atlas | Where, *, epsilon: float = EPSILON, tokens: int = SINK_TOKENS) -> xr.Dataset:
    """The sink metric of Gu et al. 2024 (arXiv 2410.10781): the share of heads, over all layers, whose mean weight on
    the first token is more than `epsilon`, averaged over documents; each document by its first `tokens` tokens.

    >>> attlas.analysis.sink_metric(atlas, epsilon=0.05).sink.values
    array([0.625])

    sink(document): of each document. sink_of_layer(layer): of each layer, averaged over documents.
    first(layer, head): the mean weight itself. Raises InputError, also where a document is shorter.
    """
    epsilon, tokens = parse_share(epsilon, "epsilon"), parse_count(tokens, "tokens")
    atlas = parse_atlas(atlas)
    corpus = find_corpus(atlas)
    short = next((i for i, rows in enumerate(corpus.queries_D) if rows < tokens), None)
    if short is not None or corpus.chosen:
        rows = f"has {corpus.queries_D[short or 0]} query rows"
        raise InputError(f"document {corpus.ids[short or 0]!r} {rows}, and the metric is of the first {tokens}")
    if (corpus.queries_D == tokens).all():  # one job over all documents
        shares = statistics(atlas, names=["first_weight"], save=False)
        means = shares["first_weight" if len(corpus.ids) == 1 else "document_first_weight"].values
        means = means[None] if means.ndim == 2 else means
    else:
        first = (atlas[name].first_weight.isel(query=slice(0, tokens)) for name in corpus.ids)
        means = np.array([one.mean("query").values for one in first])
    above = means > epsilon
    return xr.Dataset(
        {
            "sink": ("document", above.mean(axis=(1, 2)), {"long_name": "share of heads above epsilon", "units": "1"}),
            "sink_of_layer": ("layer", above.mean(axis=(0, 2)), {"units": "1"}),
            "first": (("layer", "head"), means.mean(axis=0), {"long_name": "mean weight on the first token"}),
        },
        {"document": list(corpus.ids), "layer": list(corpus.layer_labels), "head": list(corpus.heads)},
        {"question": "sink metric", "epsilon": epsilon, "tokens": tokens},
    )
