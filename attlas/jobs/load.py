"""Reading a block's rows from the store in whichever process the task runs.

Suffixes: H heads, G kv heads, R rows, M keys, D features.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels.problem import Problem, TokenFacts
from attlas.errors import CorruptAtlasError
from attlas.jobs.blocks import Block
from attlas.storage import Atlas
from attlas.storage.digests import read_columns, read_root
from attlas.storage.schema import rule_from_store
from attlas.storage.zarr_shard_reader import ZarrShardReaders

__all__ = ["BlockRows", "Source", "load_problem", "load_rows", "source_of"]

Indices = NDArray[np.int64]

KEPT = 8
"""Atlases that a process of other machines' jobs keeps open."""

_KEPT: dict[tuple[str, str], Source] = {}
_LOCK = threading.Lock()


@dataclass(slots=True, kw_only=True, eq=False)
class Source:
    """An atlas as tasks carry it: where it lies, and which it is, so that no process reads another one.

    Its arrays are the atlas's, opened once and closed with it; in another process, to which it is pickled, they stay
    open for the tasks that come after.
    """

    store: Any
    identity: str
    _readers: ZarrShardReaders | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _kept_source, (self.store, self.identity)

    @property
    def readers(self) -> ZarrShardReaders:
        """Of the atlas's arrays of rows."""
        with _LOCK:
            if self._readers is None:
                root = read_root(self.store)
                if root is None or root.attrs.get("identity") != self.identity:
                    raise CorruptAtlasError(
                        "the atlas was replaced or deleted since it was opened: open it again, and ask again"
                    )
                self._readers = ZarrShardReaders(root)
            return self._readers

    @property
    def root(self) -> zarr.Group:
        return self.readers.root

    def rule(self, kind: str, label: int, layer: int) -> ScoreRule:
        return rule_from_store(self.root, kind, label, layer)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockRows:
    """A block's rows, keys counted from the block's lowest.

    document_R: number of each row's document within the block. position_R: its place in the document. first_R: the key
    that is its document's first, which may be negative.
    """

    document_R: Indices
    position_R: Indices
    start_R: Indices
    stop_R: Indices
    first_R: Indices
    tokens: TokenFacts
    separator_M: NDArray[np.bool_]
    low: int
    keys: int


def _kept_source(store: Any, identity: str) -> Source:
    """The source as this process has it, or a new one."""
    key = (repr(store), identity)
    with _LOCK:
        source = _KEPT.pop(key, None) or Source(store=store, identity=identity)
        _KEPT[key] = source
        while len(_KEPT) > KEPT:
            del _KEPT[next(iter(_KEPT))]
        return source


def source_of(atlas: Atlas) -> Source:
    """The atlas for tasks; a local folder by its whole path, since other processes stand elsewhere."""
    store = atlas.root.store
    if isinstance(store, LocalStore):
        store = LocalStore(Path(store.root).resolve(), read_only=True)
    return Source(store=store, identity=atlas.identity, _readers=atlas.bulk_readers)


def load_rows(source: Source, block: Block) -> BlockRows:
    """Positions, key intervals and token facts of a block's rows."""
    documents, row_R = block.documents, block.row_R
    document_R = block.document_R
    low_row, high_row = int(row_R[0]), int(row_R[-1]) + 1
    if documents.chosen:
        path = f"tokens/{documents.query_axis}/position"
        place = read_columns(source.root, {path: slice(low_row, high_row)})[path]
        position_R = place[row_R - low_row].astype(np.int64)
    else:
        position_R = row_R - documents.query_start_D[document_R]
    paths = [f"{documents.kind}/{name}" for name in ("key_start", "key_stop")]
    intervals = source.readers.read(block.layer, dict.fromkeys(paths, (None, row_R)))
    start_R, stop_R = (part.numpy().astype(np.int64) for part in intervals)
    key_start_R = documents.key_start_D[document_R]
    low = max(int((key_start_R + start_R).min()) - 1, int(documents.key_start_D[0]))
    high = int((key_start_R + stop_R).max())
    paths = [f"tokens/{documents.key_axis}/{name}" for name in ("token_id", "special")]
    ids_M, special_M = read_columns(source.root, dict.fromkeys(paths, slice(low, high))).values()
    ids_M = ids_M.astype(np.int64)
    own_R = key_start_R + position_R - low if documents.same_axis else None
    ids_R = np.full(len(row_R), -1, dtype=np.int64)
    if own_R is not None:
        inside_R = (own_R >= 0) & (own_R < len(ids_M))
        ids_R[inside_R] = ids_M[own_R[inside_R]]
        if not inside_R.all():  # a query whose own position no row here sees
            every = read_columns(source.root, {paths[0]: ...})[paths[0]]
            ids_R[~inside_R] = every[(own_R + low)[~inside_R]]
    tokens = TokenFacts(first_N=key_start_R - low, own_N=own_R, ids_N=ids_R, ids_M=ids_M, special_M=special_M)
    return BlockRows(
        document_R=document_R, position_R=position_R, start_R=key_start_R + start_R - low,
        stop_R=key_start_R + stop_R - low, first_R=tokens.first_N, tokens=tokens,
        separator_M=np.isin(ids_M, documents.separators), low=low, keys=high - low,
    )  # fmt: skip


def load_problem(source: Source, block: Block, rows: BlockRows) -> tuple[Problem, torch.Tensor]:
    """A block's rows as a problem, and their log-sum-exp (H, R)."""
    kind, place = block.documents.kind, block.documents.kv_place_H
    every, keys = (None, block.row_R), (None, np.arange(rows.low, rows.low + rows.keys))
    q_HRD, lse_HR, k_GMD = source.readers.read(
        block.layer, {f"{kind}/q": every, f"{kind}/log_sum_exp": every, f"{kind}/k": keys}
    )
    used, counts = np.unique(place, return_counts=True)
    if len(set(counts.tolist())) > 1 or len(used) != k_GMD.shape[0]:
        k_GMD = k_GMD[torch.from_numpy(place)]  # chosen heads that share kv heads unequally
    problem = Problem(
        q_HND=q_HRD, k_GMD=k_GMD, rule=source.rule(kind, block.label, block.layer), start_N=rows.start_R,
        stop_N=rows.stop_R, tokens=rows.tokens,
    )  # fmt: skip
    return problem, lse_HR
