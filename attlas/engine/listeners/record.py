"""The listener that records: sends the kept layers' factors, statistics and maps to a sink.

Suffixes: H query heads, G kv heads, N the rows of one chunk, R the kept ones, M keys so far, D features; Q and K the
rows and keys of one tile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.kernels import door
from attlas.engine.kernels.measure import TILE_BYTES, Attended, Measure
from attlas.engine.kernels.row_statistics import statistic_names
from attlas.engine.listeners.finite import check_finite
from attlas.engine.listeners.recording import AttendedRows, Recording
from attlas.engine.listeners.sink import LayerRows, MapTile, Sink
from attlas.engine.model.layout import KindLayout
from attlas.engine.passage.chunk_rows import ChunkRows
from attlas.engine.passage.passage import AxisTokens

__all__ = ["Record"]

MAP_ROWS = 512

Indices = NDArray[np.int64]


class Record(Listener):
    """Records what the model asks and is answered where it stands: an edit behind it is in the output alone.

    recording: what is taken. kinds: by name, the layers and heads to keep. document_ids: number -> id, for messages.
    tile_bytes: the most that a score tile takes. The calls must be placed in a passage.
    Raises NotFiniteError naming document, layer, head and token; what the sink then holds must not be committed.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        recording: Recording,
        kinds: Mapping[str, KindLayout],
        document_ids: Callable[[int], str] = str,
        tile_bytes: int = TILE_BYTES,
    ) -> None:
        self.sink, self.recording, self.kinds, self.document_ids = sink, recording, kinds, document_ids
        self.tile_bytes = tile_bytes

    @torch.no_grad()  # what looks on has no part in a backward pass
    def before(self, call: AttentionCall) -> AttentionCall:
        rows = _chunk(call)
        _Where(self.document_ids, rows).check_factors(call.q_HND, call.k_GMD)
        return replace(call, measure=self._measure(self._kept(rows), rows))

    @torch.no_grad()
    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        rows = _chunk(call)
        kind = self._kept(rows)
        _Where(self.document_ids, rows).check_rows(attended.rows.lse_HN, call.measure)
        if kind is not None:
            self.sink.write(self._layer_rows(call, kind, rows, attended))
            if self.recording.maps and len(rows.ordinal_R):
                self._write_maps(call, kind, rows, attended)
        return attended

    def _kept(self, rows: ChunkRows) -> KindLayout | None:
        """The kind of a layer that is kept."""
        kind = self.kinds.get(rows.layout.kind)
        return kind if kind is not None and rows.layout.layer in kind.layers else None

    def _measure(self, kind: KindLayout | None, rows: ChunkRows) -> Measure:
        if kind is None:
            return Measure(tile_bytes=self.tile_bytes)
        statistics = self.recording.statistics
        return Measure(
            names=statistic_names(same_axis=kind.same_axis, sinks=kind.has_sinks) if statistics else (),
            histogram=statistics,
            head_gram=statistics,
            heads=None if len(kind.heads) == rows.layout.heads else np.array(kind.heads),
            rows=rows.chosen_R,
            tile_bytes=self.tile_bytes,
        )

    def _layer_rows(self, call: AttentionCall, kind: KindLayout, rows: ChunkRows, attended: Attended) -> LayerRows:
        measured, first_R = attended.rows, rows.kept(rows.tokens.first_N)
        source = AttendedRows(
            call=call,
            attended=attended,
            heads=kind.heads,
            kv_heads=kind.kv_heads,
            chosen_R=rows.chosen_R,
            own_keys=rows.own_keys,
            start_R=torch.from_numpy((rows.kept(rows.start_N) - first_R).astype(np.int32)),
            stop_R=torch.from_numpy((rows.kept(rows.stop_N) - first_R).astype(np.int32)),
        )
        takes = {**(self.recording.queries if len(first_R) else {}), **self.recording.keys}
        return LayerRows(
            kind=kind.kind,
            layer=rows.layout.layer,
            query_start=rows.row_start,
            key_start=rows.key_axis.token_start + rows.own_keys.start,
            factors={name: _host(take(source)) for name, take in takes.items()},
            statistics={name: _host(value) for name, value in measured.statistics.items()},
            histogram_HB=None if measured.histogram_HB is None else _host(measured.histogram_HB),
            head_gram_HH=None if measured.head_gram_HH is None else _host(measured.head_gram_HH),
        )

    def _write_maps(self, call: AttentionCall, kind: KindLayout, rows: ChunkRows, attended: Attended) -> None:
        """Materialise the kept rows tile by tile; a tile lies within one document and starts on a multiple of
        MAP_ROWS of its rows."""
        heads = None if len(kind.heads) == rows.layout.heads else np.array(kind.heads)
        kept = call.problem().of(heads, rows.chosen_R)
        document_R, first_R = rows.kept(rows.query_axis.document_T[rows.rows]), kept.tokens.first_N
        edges = np.flatnonzero((rows.ordinal_R % MAP_ROWS == 0) | (np.diff(document_R, prepend=-1) != 0))
        for begin, end in zip(edges, [*edges[1:], kept.rows], strict=True):
            tile, first = slice(int(begin), int(end)), int(first_R[begin])
            low, high = int(kept.start_N[tile].min()) - first, int(kept.stop_N[tile].max()) - first
            for key in range(low // MAP_ROWS * MAP_ROWS, high, MAP_ROWS):
                keys = slice(first + key, first + min(key + MAP_ROWS, high))
                a_HQK = door.weights(
                    kept.tile(tile, keys), attended.rows.lse_HN[:, tile], key_M=np.arange(keys.start, keys.stop)
                )  # fmt: skip
                self.sink.write_map(
                    MapTile(
                        kind=kind.kind,
                        layer=rows.layout.layer,
                        document=int(document_R[begin]),
                        query_start=int(rows.ordinal_R[begin]),
                        key_start=key,
                        a_HQK=_host(a_HQK),
                    )
                )


@dataclass(frozen=True, slots=True, eq=False)
class _Where:
    """Where a chunk's rows and keys lie, for the message of an error."""

    document_ids: Callable[[int], str]
    chunk: ChunkRows

    def check_factors(self, q_HND: torch.Tensor, k_GMD: torch.Tensor) -> None:
        chunk = self.chunk
        key_place = np.arange(chunk.own_keys.start, chunk.own_keys.stop)
        row_place = np.arange(chunk.rows.start, chunk.rows.stop)
        self._check("q", q_HND, chunk.query_axis, row_place, None, "head")
        self._check("k", k_GMD[:, chunk.own_keys], chunk.key_axis, key_place, None, "kv head")

    def check_rows(self, lse_HN: torch.Tensor, measure: Measure) -> None:
        row_place = self.chunk.kept(np.arange(self.chunk.rows.start, self.chunk.rows.stop))
        self._check("the score", lse_HN[:, :, None], self.chunk.query_axis, row_place, measure.heads, "head")

    def _check(
        self, what: str, x_HND: torch.Tensor, axis: AxisTokens, place_N: Indices, heads: Indices | None, head_word: str
    ) -> None:
        layout = self.chunk.layout
        check_finite(
            x_HND,
            lambda head, row, value: (
                f"{what} is {value} in document {self.document_ids(int(axis.document_T[place_N[row]]))!r}, "
                f"{layout.kind} layer {layout.layer}, {head_word} {head if heads is None else heads[head]}, "
                f"token {int(axis.position_T[place_N[row]])}: the weights, or {layout.dtype} arithmetic, "
                "overflow there; nothing of this pack is kept -- check the model, or try --dtype float32"
            ),
        )


def _chunk(call: AttentionCall) -> ChunkRows:
    assert call.chunk is not None, "what is recorded lies in a passage"
    return call.chunk


def _picked(x_HND: torch.Tensor, heads: tuple[int, ...], rows: Indices | None) -> torch.Tensor:
    """Some heads and rows; x itself where that is all of them."""
    if len(heads) != x_HND.shape[0]:
        x_HND = x_HND[list(heads)]
    return x_HND if rows is None else x_HND[:, rows]


def _host(x: torch.Tensor) -> torch.Tensor:
    return x.detach().cpu()
