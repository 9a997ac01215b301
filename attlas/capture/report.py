"""What a capture did, as values ready for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from attlas.memory import peak_memory
from attlas.progress import CaptureProgress
from attlas.storage import Atlas, store_bytes
from attlas.storage.commits import COMMITTED
from attlas.storage.description import failed_packs
from attlas.storage.schema import axis_prefix

__all__ = ["report_capture"]


def report_capture(atlas: Atlas, *, seconds: float, last: CaptureProgress | None) -> dict[str, Any]:
    """seconds: of this run, loading included. last: its final progress; None where it had nothing to do."""
    table = atlas.documents
    committed = table["state"].values == COMMITTED
    running = max(last.seconds, 1e-9) if last else 1e-9
    return {
        "store": atlas.name,
        "model": atlas.model["name"],
        "keep": atlas.keep,
        "documents": len(atlas),
        "tokens": sum(int(table[f"{axis_prefix(axis)}row_size"].values[committed].sum()) for axis in atlas.axes),
        "kinds": {
            kind: {"layers": len(atlas.layers(kind)), "heads": len(atlas.column(f"{kind}/head"))}
            for kind in atlas.kinds
        },
        "truncated": _truncated(atlas),
        "bytes": store_bytes(atlas.root.store),
        "packs": last.total if last else len(atlas.packs["pack"]),
        "packs_committed": last.done if last else len(atlas.packs["pack"]),
        "failed": failed_packs(atlas),
        "retries": last.retries if last else 0,
        "lost_pipelines": last.losses if last else 0,
        "seconds": round(seconds, 3),
        "capture_seconds": round(last.seconds if last else 0.0, 3),
        "tokens_per_second": round(last.tokens_now / running, 1) if last else 0.0,
        "bytes_per_second": round(last.bytes / running) if last else 0,
        "peak_memory_bytes": peak_memory(),
        "shards": [asdict(share) for share in last.shards] if last else [],
    }


def _truncated(atlas: Atlas) -> list[str]:
    """The documents that were cut."""
    table = atlas.documents
    cut = sum(table[f"{axis_prefix(axis)}truncated_from"].values > 0 for axis in atlas.axes)
    return [str(name) for name in table["document_id"].values[cut > 0]]
