"""Atlases of random factors, written through AtlasWriter, and their dense weights by brute force in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.score_rule import PositionBias, ScoreRule
from attlas.engine.kernels.measure import Measure
from attlas.engine.kernels.problem import Problem, TokenFacts
from attlas.engine.kernels.reference import row_statistics
from attlas.engine.kernels.row_statistics import statistic_names
from attlas.engine.listeners.sink import LayerRows
from attlas.engine.model.layout import KindLayout
from attlas.engine.passage.documents import Document, Pack, Tokens, plan_packs
from attlas.storage import AtlasSpec, AtlasWriter
from attlas.storage.tiers import DEFAULT_TIER, TIERS

FEATURES = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Synthetic:
    """Factors of every document: q[i] (L, H, N, D), k[i] (L, G, N, D) float32, intervals (N,)."""

    documents: tuple[Document, ...]
    kind: KindLayout
    packs: tuple[Pack, ...]
    block: int
    q: tuple[NDArray[Any], ...]
    k: tuple[NDArray[Any], ...]
    window: int | None

    def interval(self, length: int) -> tuple[NDArray[Any], NDArray[Any]]:
        rows = np.arange(length)
        start = np.zeros_like(rows) if self.window is None else np.maximum(rows - self.window + 1, 0)
        return start, rows + 1

    def dense(self, document: int) -> NDArray[np.float64]:
        """(L, H, N, N) float64 by the definition of softmax."""
        q, k = self.q[document].astype(np.float64), self.k[document].astype(np.float64)
        length = q.shape[2]
        start, stop = self.interval(length)
        keys = np.arange(length)
        seen = (keys >= start[:, None]) & (keys < stop[:, None])
        out = np.zeros((q.shape[0], q.shape[1], length, length))
        for layer, rule in enumerate(self.kind.rules):
            for head in range(q.shape[1]):
                group = head // (q.shape[1] // k.shape[1])
                s = rule.scaling * q[layer, head] @ k[layer, group].T
                if rule.softcap is not None:
                    s = rule.softcap * np.tanh(s / rule.softcap)
                if rule.bias is not None:
                    place = np.clip(keys - keys[:, None] - rule.bias.first_offset, 0, rule.bias.table_HR.shape[1] - 1)
                    s = s + rule.bias.table_HR[head][place]
                e = np.where(seen, np.exp(s), 0)
                sink = 0.0 if rule.sink_H is None else np.exp(float(rule.sink_H[head]))
                out[layer, head] = e / (e.sum(1, keepdims=True) + sink)
        return out

    def spec(self, keep: str) -> AtlasSpec:
        return AtlasSpec(
            kinds=(self.kind,), documents=self.documents, packs=self.packs, block=self.block, keep=keep,
            model={"name": "synthetic", "model_class": "None"},
        )  # fmt: skip

    def write_pack(
        self, writer: AtlasWriter, pack: Pack, *, keep: str = DEFAULT_TIER, step: int = 37, seconds: float = 0.5
    ) -> None:
        """Hand the pack over layer by layer, `step` rows at a time, and commit it as one that took `seconds`."""
        with writer.pack(pack) as sink:
            for layer_index, layer in enumerate(self.kind.layers):
                for document, begin in zip(pack.documents, pack.document_start["text"], strict=True):
                    for block in self._blocks(document, layer_index, layer, begin, keep, step):
                        sink.write(block)
            writer.commit(pack, seconds=seconds, attempt=1, size=sink.flush())

    def _blocks(self, document: int, index: int, layer: int, begin: int, keep: str, step: int) -> Sequence[LayerRows]:
        q, k = (torch.from_numpy(x[document][index]) for x in (self.q, self.k))
        length = q.shape[1]
        start, stop = self.interval(length)
        ids = self.documents[document].tokens["text"].ids.astype(np.int64)
        tokens = TokenFacts(
            first_N=np.zeros(length, dtype=np.int64), own_N=np.arange(length), ids_N=ids, ids_M=ids,
            special_M=self.documents[document].tokens["text"].special,
        )  # fmt: skip
        tier = TIERS[keep]
        names = statistic_names(same_axis=True, sinks=self.kind.has_sinks) if tier.statistics else ()
        problem = Problem(
            q_HND=q, k_GMD=k, rule=self.kind.rules[index], start_N=start, stop_N=stop, tokens=tokens
        )  # fmt: skip
        rows = row_statistics(problem, Measure(names=names, histogram=tier.statistics, head_gram=tier.statistics))
        every = {
            "q": q, "k": k, "log_sum_exp": rows.lse_HN, "key_start": torch.from_numpy(start.astype(np.int32)),
            "key_stop": torch.from_numpy(stop.astype(np.int32)),
        }  # fmt: skip
        blocks = []
        for row in range(0, length, step):
            part = slice(row, min(row + step, length))
            blocks.append(
                LayerRows(
                    kind="self", layer=layer, query_start=begin + row, key_start=begin + row,
                    factors={
                        name: every[name][..., part, :] if name in "qk" else every[name][..., part]
                        for name in tier.factors
                    },
                    statistics={name: value[:, part] for name, value in rows.statistics.items()},
                    histogram_HB=rows.histogram_HB if row == 0 else None,
                    head_gram_HH=rows.head_gram_HH if row == 0 else None,
                )
            )  # fmt: skip
        return blocks


def synthetic(
    lengths: Sequence[int] = (50, 7, 90, 31),
    *,
    seed: int = 0,
    layers: tuple[int, ...] = (0, 1),
    heads: int = 4,
    kv_heads: int = 2,
    block: int = 64,
    pack_tokens: int = 96,
    window: int | None = None,
    rule: str = "plain",
    q_size: float = 2.0,
) -> Synthetic:
    rng = np.random.default_rng(seed)
    documents = tuple(_document(rng, i, length) for i, length in enumerate(lengths))
    table = rng.normal(size=(heads, 9)).astype(np.float32)
    rules = {
        "plain": ScoreRule(scaling=0.5),
        "softcap": ScoreRule(scaling=0.5, softcap=2.0),
        "sinks": ScoreRule(scaling=0.5, sink_H=rng.normal(size=heads).astype(np.float32)),
        "bias": ScoreRule(
            scaling=0.5,
            bias=PositionBias(table_HR=table, first_offset=-8, saturates_left=True, saturates_right=True),
        ),
    }
    kind = KindLayout(
        kind="self", layers=layers, heads=tuple(range(heads)), kv_heads=tuple(range(kv_heads)), group=heads // kv_heads,
        features=FEATURES, value_features=FEATURES, dtype="float32",
        rules=(rules[rule],) * len(layers),
    )  # fmt: skip
    return Synthetic(
        documents=documents,
        kind=kind,
        packs=plan_packs([{"text": n} for n in lengths], pack_tokens=pack_tokens, block=block),
        block=block,
        q=tuple(rng.normal(size=(len(layers), heads, n, FEATURES)).astype(np.float32) * q_size for n in lengths),
        k=tuple(rng.normal(size=(len(layers), kv_heads, n, FEATURES)).astype(np.float32) for n in lengths),
        window=window,
    )


def _document(rng: np.random.Generator, number: int, length: int) -> Document:
    ids = rng.integers(0, 9, length).astype(np.int32)
    word = np.arange(length, dtype=np.int32)  # words of two characters, a space between
    tokens = Tokens(
        ids=ids,
        text=tuple(f"t{i}" for i in ids),
        char_start=3 * word,
        char_end=3 * word + 2,
        special=ids == 0,
        word=word,
    )
    return Document(id=f"doc-{number}", tokens={"text": tokens})
