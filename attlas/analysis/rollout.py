"""Attention rollout (Abnar and Zuidema 2020): the product of the layers, rows or columns of it at any length.

Suffixes: N tokens, S tokens of the source, C columns: tokens asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.choosing import choose_document, choose_labels, token_coordinates
from attlas.engine.kernels.discard import Discard
from attlas.errors import InputError
from attlas.jobs.results import answer_once
from attlas.parse import parse_flag, parse_fraction, refuse
from attlas.storage import Atlas
from attlas.storage.operator import AttentionOperator
from attlas.storage.stores import Where

__all__ = ["MOST_CELLS", "rollout"]

Floats = NDArray[np.float64]

MOST_CELLS = 2**24
"""Cells of an answer, 128 MB: all of a document of 4,096 tokens, or 512 rows of one of 32,768."""
COLUMN_BYTES = 32 * 2**20
"""Rows or columns that go through the layers together, whose every pass costs one over all factors."""


def rollout(
    atlas: Atlas | Where,
    document: str | None = None,
    *,
    queries: Any = None,
    keys: Any = None,
    layers: Any = None,
    residual: float = 0.5,
    discard: float = 0.0,
    threshold: float = 0.0,
    kind: str | None = None,
    save: bool = True,
) -> xr.Dataset:
    """Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928): how much of a query comes from each key.

    >>> found = attlas.analysis.rollout(atlas, queries=-1)
    >>> found.rollout.dims, found.rollout.shape, round(float(found.rollout.sum()), 6)
    (('query', 'key'), (1, 146), 1.0)

    document: may be left out where the atlas holds one. kind: of its kinds, the first by default. queries, keys:
    positions, as `parse_selection` reads them. Rows are x.T A from the last layer down, columns A x from the first up,
    whichever are fewer, so that a few of them take a pass over the factors and no N x N; all of both up to MOST_CELLS.
    layers: a run of those in the atlas, all by default. residual: share of the residual connection. discard: share of
    the weights that a row sees, the smallest, that are dropped; threshold: weights below it are dropped too; never a
    row's largest.

    rollout(query, key), float64: a row of the product over layers, the last on the left, of
    (1 - residual) A + residual I, A the mean over heads and every row scaled to sum 1, as after a sink logit.
    Of "cross" the query is of the target and the key of the source: each layer of the decoder first mixes the target by
    its self attention and then takes (1 - residual) of the source, as rolled out through the whole encoder; a row's sum
    is what comes from the source, and the rest stays with the target. save: keep the answer in the atlas, where it is
    found the next time.
    Rollout follows weights alone, not what values carry, and grows flat with depth: it is no proof of influence.
    Raises InputError where the document has chosen query rows alone, or too much is asked for; DocumentMissingError,
    TierError.
    """
    atlas, document, kind = choose_document(atlas, document, kind)
    residual, save = parse_fraction(residual, "residual"), parse_flag(save, "save")
    dropped = _parse_discard(discard, threshold)
    attention = atlas.attention(document, kind)
    chosen = _choose_layers(layers, attention["layer"].values.tolist())
    stack = _stack(atlas, document, kind, chosen, residual, dropped)
    rows, columns = attention.sizes["query"], attention.sizes["key"]
    query_C, key_C = (
        choose_labels(one, name, range(size), "the document")
        for one, name, size in ((queries, "queries", rows), (keys, "keys", columns))
    )
    _check_size(min(len(query_C) * columns, len(key_C) * rows), document, rows, columns)
    parameters = {
        "document": document, "kind": kind, "layers": chosen, "residual": residual, "discard": dropped.share,
        "threshold": dropped.threshold, "queries": _told(query_C, rows), "keys": _told(key_C, columns),
    }  # fmt: skip
    definition = "product over layers of (1 - residual) A + residual I, A the mean over heads, rows scaled to sum 1"

    def answer() -> xr.Dataset:
        if len(query_C) * columns <= len(key_C) * rows:
            values = np.concatenate([stack.rows(part)[:, key_C] for part in _parts(query_C, rows + columns)])
        else:
            values = np.concatenate([stack.columns(part)[query_C] for part in _parts(key_C, rows + columns)], axis=1)
        told = {"long_name": "attention rollout", "units": "1", "definition": definition}
        return xr.Dataset(
            {"rollout": (("query", "key"), values, told)},
            {**token_coordinates(attention, "query", at=query_C), **token_coordinates(attention, "key", at=key_C)},
            {
                "question": "rollout", "document_id": document, "kind": kind, "layers": chosen, "residual": residual,
                "discard": dropped.share, "threshold": dropped.threshold, "model": str(atlas.model.get("name")),
                "source": "Abnar and Zuidema 2020",
            },
        )  # fmt: skip

    return answer_once(atlas, "rollout", parameters, answer, save=save)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mix:
    """One layer's (1 - residual) A + residual I over tokens of one text, or the two apart of cross attention.

    sums_N: row sums of A, less than 1 beside a sink logit.
    """

    operator: AttentionOperator
    residual: float
    discard: Discard | None
    sums_N: Floats

    @property
    def scale_N1(self) -> Floats:
        return 1 / ((1 - self.residual) * self.sums_N + self.residual)[:, None]

    def given(self, x_NC: Floats) -> Floats:
        """(1 - residual) A x, by rows scaled so that these and the residual's share sum to 1."""
        return (1 - self.residual) * self.scale_N1 * self.operator.apply(x_NC, "mean", discard=self.discard)

    def taken(self, x_NC: Floats) -> Floats:
        """Its transpose."""
        scaled = (1 - self.residual) * self.scale_N1 * x_NC
        return self.operator.apply_transposed(scaled, "mean", discard=self.discard)

    def kept(self, x_NC: Floats) -> Floats:
        """The residual's share, which is diagonal, and so its own transpose."""
        return self.residual * self.scale_N1 * x_NC


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Layers of one text, the first below."""

    mixes: tuple[Mix, ...]

    def down(self, x_NC: Floats) -> Floats:
        """The transpose of the product, times x."""
        for mix in reversed(self.mixes):
            x_NC = mix.taken(x_NC) + mix.kept(x_NC)
        return x_NC

    def up(self, x_NC: Floats) -> Floats:
        """The product times x."""
        for mix in self.mixes:
            x_NC = mix.given(x_NC) + mix.kept(x_NC)
        return x_NC

    def rows(self, query_C: Sequence[int]) -> Floats:
        """(C, N)."""
        return self.down(_units(query_C, self.mixes[-1].operator.shape[0])).T

    def columns(self, key_C: Sequence[int]) -> Floats:
        """(N, C)."""
        return self.up(_units(key_C, self.mixes[0].operator.shape[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossStack:
    """A decoder's layers, each a mix of the target's tokens and then of the source's, which the encoder has mixed."""

    encoder: Stack
    decoder: tuple[Mix, ...]
    cross: tuple[Mix, ...]

    def rows(self, query_C: Sequence[int]) -> Floats:
        """(C, S)."""
        x_NC = _units(query_C, self.cross[0].operator.shape[0])
        source_SC = np.zeros((self.cross[0].operator.shape[1], x_NC.shape[1]))
        for own, across in zip(reversed(self.decoder), reversed(self.cross), strict=True):
            source_SC += across.taken(x_NC)
            x_NC = across.kept(x_NC)
            x_NC = own.taken(x_NC) + own.kept(x_NC)
        return self.encoder.down(source_SC).T

    def columns(self, key_C: Sequence[int]) -> Floats:
        """(N, C)."""
        queries, keys = self.cross[0].operator.shape
        source_SC, x_NC = self.encoder.up(_units(key_C, keys)), np.zeros((queries, len(key_C)))
        for own, across in zip(self.decoder, self.cross, strict=True):
            x_NC = own.given(x_NC) + own.kept(x_NC)
            x_NC = across.given(source_SC) + across.kept(x_NC)
        return x_NC


def _stack(
    atlas: Atlas, document: str, kind: str, layers: Sequence[int], residual: float, dropped: Discard
) -> Stack | CrossStack:
    discard = dropped if dropped.anything else None

    def mixes(kind: str, layers: Sequence[int]) -> tuple[Mix, ...]:
        made = []
        for layer in layers:
            operator = atlas.operator(document, layer, kind)
            if len(operator.queries) != operator.shape[1] and kind != "cross":
                raise InputError(
                    f"rollout goes through every token of a layer, and {document!r} has {len(operator.queries)} query "
                    f"rows of {operator.shape[1]}: capture it without queries"
                )
            made.append(Mix(operator=operator, residual=residual, discard=discard, sums_N=operator.row_sums("mean")))
        return tuple(made)

    if kind != "cross":
        return Stack(mixes=mixes(kind, layers))
    missing = [layer for layer in layers if layer not in atlas.layers("decoder")]
    if missing:
        raise InputError(f"the atlas has cross attention of layer {missing[0]}, and no self attention of it")
    encoder = Stack(mixes=mixes("encoder", atlas.layers("encoder")))
    return CrossStack(encoder=encoder, decoder=mixes("decoder", layers), cross=mixes("cross", layers))


def _choose_layers(given: Any, have: list[int]) -> list[int]:
    chosen = choose_labels(given, "layers", have, "the atlas")
    first = have.index(chosen[0])
    if have[first : first + len(chosen)] != chosen:
        raise refuse(
            str(given), "layers", "rollout goes through layers one after the other: give a run of them, as 4:8"
        )
    return chosen


def _parse_discard(discard: Any, threshold: Any) -> Discard:
    share, threshold = parse_fraction(discard, "discard"), parse_fraction(threshold, "threshold")
    if share == 1:
        raise refuse(discard, "discard", "something must be left: give a share below 1, such as 0.9")
    return Discard(share=share, threshold=threshold)


def _check_size(cells: int, document: str, rows: int, columns: int) -> None:
    if cells > MOST_CELLS:
        raise InputError(
            f"the rollout of {document!r} over {rows:,} queries and {columns:,} keys takes {cells * 8 / 1e9:.1f} GB: "
            f"give up to {MOST_CELLS // columns:,} queries, such as queries=-1, or {MOST_CELLS // rows:,} keys"
        )


def _units(places: Sequence[int], size: int) -> Floats:
    """(size, C): a one in each column."""
    x_NC = np.zeros((size, len(places)))
    x_NC[np.asarray(places), np.arange(len(places))] = 1
    return x_NC


def _parts(places: list[int], size: int) -> list[list[int]]:
    most = max(1, COLUMN_BYTES // (8 * size))
    return [places[begin : begin + most] for begin in range(0, len(places), most)]


def _told(places: list[int], size: int) -> list[int] | None:
    """None for all."""
    return None if len(places) == size else places
