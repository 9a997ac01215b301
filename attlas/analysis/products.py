"""Products of the attention of many layers with given columns, as a job: blocks of rows on threads, Ray or Dask.

Suffixes: H heads, R rows of a block, N rows, M keys, C columns of X, T targets: queries of A @ X, keys of A.T @ X.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.choosing import choose_document, token_coordinates
from attlas.engine.kernels import door
from attlas.engine.kernels.measure import TILE_BYTES
from attlas.jobs.blocks import Block, plan_blocks
from attlas.jobs.choices import parse_choices
from attlas.jobs.load import Source, load_problem, load_rows
from attlas.jobs.reduction import Execution, Job, run_job
from attlas.jobs.rows_job import factor_bytes, shard_tokens
from attlas.parse import parse_flag
from attlas.progress import Report
from attlas.storage import Atlas
from attlas.storage.operator import parse_columns
from attlas.storage.stores import Where

__all__ = ["products"]

Numbers = NDArray[Any]


def products(
    atlas: Atlas | Where,
    x: Any,
    document: str | None = None,
    *,
    transposed: bool = False,
    mean: bool = True,
    layers: Any = None,
    kind: str | None = None,
    scheduler: str = "threads",
    workers: int | None = None,
    progress: Report | None = None,
) -> xr.Dataset:
    """A @ X or A.T @ X of every layer of a document, each layer's rows in blocks that are tasks of their own.

    >>> position = np.arange(146.0)
    >>> found = attlas.analysis.products(atlas, position, mean=False, layers=[1])
    >>> found.product.dims, found.product.sel(layer=1, head=0, query=106).item()
    (('layer', 'head', 'query'), 48.996)

    x: (keys,) or (keys, columns), numbers; transposed: (queries,) or (queries, columns), and A.T @ X is given. mean: of
    the heads; else all of them. document: may be left out where the atlas holds one. layers: of the model, all by
    default. kind: of its kinds, the first by default. scheduler: "threads", "ray", or the address of a dask scheduler;
    workers: threads at work here, one a core by default; progress: told of every block.

    product(layer, [head,] query or key, [column]): in float32 where X is, else float64; the weights are float32.
    `Atlas.operator` gives the same of one layer. Memory: a block's factors a worker, X and the answer; transposed, an
    answer of its layer a block, too. The answer is not kept.
    Raises InputError, DocumentMissingError, TierError, ClusterError.
    """
    atlas, document, kind = choose_document(atlas, document, kind)
    transposed, mean = parse_flag(transposed, "transposed"), parse_flag(mean, "mean")
    execution = Execution(scheduler=scheduler, workers=workers, save=False, progress=progress)
    attention = atlas.attention(document, kind)  # refuses an atlas without factors
    corpus = parse_choices(atlas, {"kind": kind, "documents": document, "layers": layers}).corpus(atlas)
    source, target = ("query", "key") if transposed else ("key", "query")
    x_MC = parse_columns(x, source, attention.sizes[source], 0, document)
    product = Product(
        x_MC=x_MC if x_MC.ndim > 1 else x_MC[:, None], transposed=transposed, mean=mean, targets=attention.sizes[target]
    )
    heads = 1 if mean else len(corpus.heads)
    plan = plan_blocks(
        corpus, shard_tokens=shard_tokens(atlas, kind), factor_bytes=factor_bytes(atlas, kind),
        row_bytes=(heads * x_MC.itemsize * product.x_MC.shape[1], 0),
    )  # fmt: skip
    dims = ("layer", *(() if mean else ("head",)), target, *(("column",) if x_MC.ndim > 1 else ()))

    def describe(values: Sequence[Numbers]) -> xr.Dataset:
        found = np.stack(values)
        found = found if x_MC.ndim > 1 else found[..., 0]
        what = "sum over keys of weight times x" if target == "query" else "sum over queries of weight times x"
        attributes = {"long_name": "A.T x" if transposed else "A x", "units": "that of x", "definition": what}
        places = list(range(found.shape[dims.index(target)]))
        coordinates: dict[str, Any] = {"layer": list(corpus.layer_labels)}
        coordinates |= {} if mean else {"head": list(corpus.heads)}
        return xr.Dataset(
            {"product": (dims, found, attributes)},
            coordinates | token_coordinates(attention, target, at=places),
            {"document_id": document, "heads": "mean" if mean else "each"},
        )

    parameters = {"document": document, "kind": kind}  # under which nothing is ever kept
    job = Job(question="products", parameters=parameters, plan=plan, reduction=product, describe=describe)
    return run_job(atlas, job, execution)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Product:
    """The reduction of a block's rows to their part of the product. x_MC: by key, or by query if transposed."""

    x_MC: Numbers
    transposed: bool
    mean: bool
    targets: int

    def reduce(self, source: Source, block: Block) -> tuple[NDArray[np.int64], Numbers]:
        """Where the part goes, and the part."""
        rows = load_rows(source, block)
        problem, lse_HR = load_problem(source, block, rows)
        place_R = block.row_R - block.documents.query_start_D[0]
        low = rows.low - int(block.documents.key_start_D[0])
        key_M = np.arange(low, low + rows.keys)
        read, put = (place_R, key_M) if self.transposed else (key_M, place_R)
        multiply = door.apply_transposed if self.transposed else door.apply
        x = torch.from_numpy(self.x_MC[read])
        return put, multiply(problem, lse_HR, x, mean=self.mean, tile_bytes=TILE_BYTES).numpy()

    def join(self, parts: Sequence[tuple[NDArray[np.int64], Numbers]], source: Source, layer: int) -> Numbers:
        """A layer's product: rows side by side, or what the blocks give each key, added up."""
        shape = (*parts[0][1].shape[:-2], self.targets, self.x_MC.shape[1])
        out = np.zeros(shape, dtype=self.x_MC.dtype)
        for put, part in parts:
            out[..., put, :] += part
        return out
