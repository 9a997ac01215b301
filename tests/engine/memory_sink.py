"""A sink in memory: keeps every block and tile, and puts them together as dense arrays for comparison."""

from __future__ import annotations

import torch

from attlas.engine.listeners.sink import LayerRows, MapTile


class MemorySink:
    """Implements `attlas.engine.listeners.sink.Sink`."""

    def __init__(self) -> None:
        self.blocks: list[LayerRows] = []
        self.tiles: list[MapTile] = []

    def write(self, rows: LayerRows) -> None:
        self.blocks.append(rows)

    def write_map(self, tile: MapTile) -> None:
        self.tiles.append(tile)

    def layer(self, kind: str, layer: int) -> LayerRows:
        """All blocks of one layer, joined along their rows; keys are joined only where each block brought its own."""
        blocks = [b for b in self.blocks if (b.kind, b.layer) == (kind, layer)]
        assert blocks, f"no block of {kind} layer {layer}"
        own_keys = kind != "cross"
        return LayerRows(
            kind=kind,
            layer=layer,
            query_start=blocks[0].query_start,
            key_start=blocks[0].key_start,
            factors={
                name: torch.cat(
                    [b.factors[name] for b in blocks if name in b.factors][: None if own_keys or name != "k" else 1],
                    min(1, blocks[0].factors[name].ndim - 1),
                )
                for name in blocks[0].factors
            },
            statistics={name: torch.cat([b.statistics[name] for b in blocks], 1) for name in blocks[0].statistics},
            histogram_HB=_total([b.histogram_HB for b in blocks]),
            head_gram_HH=_total([b.head_gram_HH for b in blocks]),
        )

    def dense_map(self, kind: str, layer: int, document: int, queries: int, keys: int) -> torch.Tensor:
        """The materialised weights of one document, (H, queries, keys); NaN where two tiles overlap."""
        tiles = [t for t in self.tiles if (t.kind, t.layer, t.document) == (kind, layer, document)]
        a_HQK = torch.zeros(tiles[0].a_HQK.shape[0], queries, keys)
        seen = torch.zeros(queries, keys, dtype=torch.bool)
        for tile in tiles:
            rows = slice(tile.query_start, tile.query_start + tile.a_HQK.shape[1])
            columns = slice(tile.key_start, tile.key_start + tile.a_HQK.shape[2])
            a_HQK[:, rows, columns] = torch.where(seen[rows, columns], torch.nan, tile.a_HQK)
            seen[rows, columns] = True
        return a_HQK


def _total(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    return None if parts[0] is None else torch.stack([part for part in parts if part is not None]).sum(0)
