"""The atlas on disk: every group, array, dimension, attribute, chunk and shard, in one place. See docs/store.md.

An array is described by a value, `ArraySpec`; `kind_arrays` and its neighbours say which an atlas has. But for the
commit records (`attlas.storage.commits`), nothing else in attlas knows a path or a chunk shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import zarr

from attlas.engine.attention.score_rule import PositionBias, ScoreRule
from attlas.engine.kernels.histogram import HISTOGRAM_BINS, histogram_edges
from attlas.engine.kernels.row_statistics import STATISTICS, statistic_names
from attlas.engine.model.layout import FACTOR_TOKENS, KINDS, KindLayout
from attlas.engine.passage.documents import ROW_AXES, Document, Pack
from attlas.errors import CorruptAtlasError, UnsupportedModelError
from attlas.storage.array_spec import ArraySpec, column
from attlas.storage.digests import read_columns
from attlas.storage.factors import Factor
from attlas.storage.fields import field_arrays
from attlas.storage.tiers import Tier

__all__ = [
    "VERSION",
    "axis_length",
    "axis_prefix",
    "axes_of",
    "document_arrays",
    "factor_dims",
    "inner_tokens",
    "kind_arrays",
    "map_arrays",
    "map_group",
    "pack_arrays",
    "rule_from_store",
    "rules_to_attributes",
    "token_arrays",
    "stored_dtype",
    "token_dim",
]

VERSION = "attlas-0.2"
STORED_DTYPES = {"float32": "float32", "float16": "float16", "bfloat16": "uint16"}
FACTOR_CHUNK, ROW_CHUNK = 256, 4096
"""Tokens in an inner chunk, which is one head: of q and k, and of what is one number a row."""
MAP_SHARD, MAP_CHUNK = 2048, 512
LONGEST_NAME = 200


def token_dim(axis: str) -> str:
    """The dimension of a token axis: `token`, `source_token` or `target_token`."""
    return f"{axis_prefix(axis)}token"


def axis_prefix(axis: str) -> str:
    return "" if axis == "text" else f"{axis}_"


def axis_length(packs: Sequence[Pack], axis: str, block: int) -> int:
    """Length of a token axis: to the end of the last pack's last block."""
    return -(-packs[-1].token_stop[axis] // block) * block


def inner_tokens(block: int, most: int) -> int:
    """Tokens in an inner chunk: the block where it has at most `most`, else a power of two that divides it."""
    if block <= most:
        return block
    return next(size for size in (2**i for i in range(most.bit_length() - 1, -1, -1)) if block % size == 0)


def stored_dtype(dtype: str) -> str:
    """The dtype in which the store holds q and k of a model's dtype; raises UnsupportedModelError where it has none."""
    if dtype not in STORED_DTYPES:
        raise UnsupportedModelError(
            f"q and k are {dtype}, and an atlas holds {', '.join(STORED_DTYPES)}: load the model with --dtype float32"
        )
    return STORED_DTYPES[dtype]


def map_group(kind: str, document_id: str) -> str:
    """Where a document's maps lie; an id never becomes a path unescaped, and no two ids share a path.

    Percent-encoded, dots too: a name is then never "..", nor a file of zarr's own such as "zarr.json". The names that
    zarr reserves ("__x"), no name at all, and names longer than a file name may be are made safe besides.
    """
    name = quote(document_id, safe="").replace(".", "%2E")
    if name.startswith("__"):
        name = f"%5F{name[1:]}"
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 33]}%{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return f"{kind}/maps/{name or '%'}"


def document_arrays(documents: Sequence[Document], packs: Sequence[Pack]) -> Iterator[ArraySpec]:
    count = len(documents)
    yield column("documents/document_id", "document", "str", [d.id for d in documents], "the document's name")
    pack_of = np.zeros(count, dtype=np.int32)
    for pack in packs:
        pack_of[list(pack.documents)] = pack.index
    yield column("documents/pack", "document", "int32", pack_of, "the pack that holds the document")
    for axis in packs[0].token_start:
        prefix = axis_prefix(axis)
        start = np.zeros(count, dtype=np.int64)
        for pack in packs:
            start[list(pack.documents)] = pack.document_start[axis]
        sizes = [d.length(axis) for d in documents]
        dim = token_dim(axis)
        yield column(
            f"documents/{prefix}row_size", "document", "int64", sizes, f"places of the document on {dim}",
            units="token",
        )  # fmt: skip
        yield column(
            f"documents/{prefix}token_start", "document", "int64", start, f"place of its first token on {dim}",
            units="token",
        )  # fmt: skip
        if axis in ROW_AXES.values():
            continue
        cut = [d.tokens[axis].truncated_from or 0 for d in documents]
        yield column(
            f"documents/{prefix}truncated_from", "document", "int64", cut,
            "tokens before the document was cut, 0 where it is whole", units="token",
        )  # fmt: skip
        first = [d.tokens[axis].first_position for d in documents]
        if any(first):
            yield column(
                f"documents/{prefix}first_position", "document", "int64", first,
                "what the model's number of the first token is beyond its own first", units="token",
            )  # fmt: skip
    yield from field_arrays(documents, packs[0].token_start)


def token_arrays(documents: Sequence[Document], packs: Sequence[Pack], axis: str, block: int) -> Iterator[ArraySpec]:
    """The tokens of one axis, at the places the packs give them; places no document owns hold -1, "" and False."""
    length = axis_length(packs, axis, block)
    ids, position, char_start, char_end, word, types = (np.full(length, -1, dtype=np.int32) for _ in range(6))
    text = np.full(length, "", dtype=object)
    special = np.zeros(length, dtype=np.bool_)
    for pack in packs:
        for number, start in zip(pack.documents, pack.document_start[axis], strict=True):
            tokens = documents[number].tokens[axis]
            place = slice(start, start + len(tokens))
            ids[place], char_start[place], char_end[place] = tokens.ids, tokens.char_start, tokens.char_end
            text[place], special[place], position[place] = tokens.text, tokens.special, tokens.positions
            word[place] = -1 if tokens.word is None else tokens.word
            types[place] = -1 if tokens.type is None else tokens.type
    path, dim = f"tokens/{axis}", token_dim(axis)
    yield column(f"{path}/token_id", dim, "int32", ids, "vocabulary index", fill=-1)
    yield column(f"{path}/token", dim, "str", text, "the token as text")
    yield column(f"{path}/position", dim, "int32", position, "place in the document", units="token", fill=-1)
    if (char_start >= 0).any():  # some document is a text
        yield column(f"{path}/char_start", dim, "int32", char_start, "first character in the input text", fill=-1)
        yield column(f"{path}/char_end", dim, "int32", char_end, "character after the last", fill=-1)
    if (word >= 0).any():
        yield column(f"{path}/word", dim, "int32", word, "word of the document, -1 where it belongs to none", fill=-1)
    yield column(f"{path}/special", dim, "bool", special, "whether the tokenizer calls it special", fill=False)
    if (types >= 0).any():
        yield column(f"{path}/token_type", dim, "int32", types, "token type (segment) given to the model", fill=-1)


def pack_arrays(packs: Sequence[Pack]) -> Iterator[ArraySpec]:
    """Where each pack's tokens lie; the commit records are beside, see `attlas.storage.commits`."""
    for axis in packs[0].token_start:
        prefix = axis_prefix(axis)
        starts, stops = [p.token_start[axis] for p in packs], [p.token_stop[axis] for p in packs]
        yield column(f"packs/{prefix}token_start", "pack", "int64", starts, "first token", units="token")
        yield column(f"packs/{prefix}token_stop", "pack", "int64", stops, "token after the last", units="token")


def kind_arrays(kind: KindLayout, packs: Sequence[Pack], block: int, tier: Tier) -> Iterator[ArraySpec]:
    """Coordinates, factors and statistics of one kind.

    A Zarr shard, and a write, is up to FACTOR_TOKENS of q or k, all heads, of one layer or, where there would be many,
    of several; of what is small, one number a row, it is a block of all layers that one worker writes: a corpus of
    short documents makes few files.
    """
    path = kind.kind
    yield column(f"{path}/layer", "layer", "int32", kind.layers, "the model's layer index")
    yield column(f"{path}/head", "head", "int32", kind.heads, "the model's head index")
    yield column(f"{path}/kv_head", "kv_head", "int32", kind.kv_heads, "the model's key-value head index")
    for factor in tier.kept:
        yield _factor_array(kind, factor, packs, block)
    yield from _rule_arrays(kind)
    if tier.statistics:
        yield from _statistic_arrays(kind, packs, axis_length(packs, kind.query_axis, block), block)


def factor_dims(factor: Factor, *, query_axis: str, key_axis: str) -> tuple[str, ...]:
    """The dimensions of a factor's array in a kind with these axes."""
    heads = () if factor.heads is None else (factor.heads,)
    width = () if factor.width is None else (factor.width.dim,)
    return ("layer", *heads, token_dim(key_axis if factor.axis == "key" else query_axis), *width)


def _factor_array(kind: KindLayout, factor: Factor, packs: Sequence[Pack], block: int) -> ArraySpec:
    """A factor of one kind; what is wide has shorter Zarr shards, of fewer layers, than one number a row."""
    length = axis_length(packs, kind.key_axis if factor.axis == "key" else kind.query_axis, block)
    heads = {None: (), "head": (len(kind.heads),), "kv_head": (len(kind.kv_heads),)}[factor.heads]
    width = () if factor.width is None else (factor.width.size(kind),)
    span, tokens, inner = kind.span, block, inner_tokens(block, ROW_CHUNK)
    if factor.width is not None:
        tokens = min(block, FACTOR_TOKENS)
        span, inner = kind.factor_span, inner_tokens(tokens, FACTOR_CHUNK)
    dtype, encoding = factor.dtype, {}
    if dtype is None:
        dtype, encoding = stored_dtype(kind.dtype), {"attlas_dtype": kind.dtype}
    return ArraySpec(
        path=f"{kind.kind}/{factor.name}",
        dims=factor_dims(factor, query_axis=kind.query_axis, key_axis=kind.key_axis),
        shape=(len(kind.layers), *heads, length, *width),
        dtype=dtype,
        shards=(span, *heads, tokens, *width),
        chunks=(1, *[1] * len(heads), inner, *width),
        fill=factor.fill,
        attributes={"long_name": factor.long_name, "units": factor.units} | encoding,
    )


def map_arrays(kind: KindLayout, document: Document, map_dtype: str) -> Iterator[ArraySpec]:
    """The materialised weights of one document; tiles that hold nothing are never written."""
    queries, keys = document.length(kind.query_axis), document.length(kind.key_axis)
    path = map_group(kind.kind, document.id)
    shard = tuple(min(MAP_SHARD, -(-size // MAP_CHUNK) * MAP_CHUNK) for size in (queries, keys))
    yield ArraySpec(
        path=f"{path}/attention",
        dims=("layer", "head", "query", "key"),
        shape=(len(kind.layers), len(kind.heads), queries, keys),
        dtype=map_dtype,
        shards=(1, 1, *shard),
        chunks=(1, 1, MAP_CHUNK, MAP_CHUNK),
        packed=True,
        attributes={
            "long_name": "attention weight",
            "units": "1",
            "document_id": document.id,
            "coordinates": "query_token key_token",
        },
    )
    yield column(f"{path}/layer", "layer", "int32", kind.layers, "the model's layer index")
    yield column(f"{path}/head", "head", "int32", kind.heads, "the model's head index")
    for dim, axis in (("query", kind.query_axis), ("key", kind.key_axis)):
        tokens = document.tokens[axis]
        yield column(f"{path}/{dim}", dim, "int32", tokens.positions, "place in the document", units="token")
        yield column(f"{path}/{dim}_token", dim, "str", tokens.text, "the token as text")


def rules_to_attributes(kinds: Sequence[KindLayout]) -> dict[str, dict[str, dict[str, Any]]]:
    """The `score_rules` attribute: kind -> layer -> scaling, softcap, and which arrays the rule has beside."""
    return {
        kind.kind: {
            str(layer): {
                "scaling": rule.scaling,
                "softcap": rule.softcap,
                "sink_logit": rule.sink_H is not None,
                "position_bias": None
                if rule.bias is None
                else {
                    "first_offset": rule.bias.first_offset,
                    "offsets": rule.bias.table_HR.shape[1],
                    "saturates_left": rule.bias.saturates_left,
                    "saturates_right": rule.bias.saturates_right,
                },
            }
            for layer, rule in zip(kind.layers, kind.rules, strict=True)
        }
        for kind in kinds
    }


def rule_from_store(root: zarr.Group, kind: str, layer: int, index: int) -> ScoreRule:
    """Read back the score rule of one layer; `index` is its place on the layer dimension."""
    rules: Any = root.attrs["score_rules"]
    try:
        told = rules[kind][str(layer)]
    except KeyError as error:
        raise CorruptAtlasError(f"the atlas has no score rule for {kind} layer {layer}") from error
    bias = told["position_bias"]
    if bias is not None:
        own = {f"{kind}/offset": ..., f"{kind}/position_bias": slice(index, index + 1)}
        offset, tables = read_columns(root, own).values()
        begin = int(np.searchsorted(offset, bias["first_offset"]))
        table = np.ascontiguousarray(tables[0, :, begin : begin + bias["offsets"]])
        bias = PositionBias(
            table_HR=table,
            first_offset=bias["first_offset"],
            saturates_left=bias["saturates_left"],
            saturates_right=bias["saturates_right"],
        )
    path = f"{kind}/sink_logit"
    sinks = read_columns(root, {path: ...})[path][index] if told["sink_logit"] else None
    return ScoreRule(scaling=told["scaling"], softcap=told["softcap"], bias=bias, sink_H=sinks)


def _rule_arrays(kind: KindLayout) -> Iterator[ArraySpec]:
    """Sink logits and position biases, NaN in layers that have none."""
    layers, heads = len(kind.layers), len(kind.heads)
    if kind.has_sinks:
        sinks = np.full((layers, heads), np.nan, dtype=np.float32)
        for i, rule in enumerate(kind.rules):
            if rule.sink_H is not None:
                sinks[i] = rule.sink_H
        yield ArraySpec(
            path=f"{kind.kind}/sink_logit", dims=("layer", "head"), shape=sinks.shape, dtype="float32",
            chunks=sinks.shape, fill=np.nan, data=sinks,
            attributes={"long_name": "logit that takes part in the softmax and is dropped after it", "units": "nat"},
        )  # fmt: skip
    biases = [rule.bias for rule in kind.rules if rule.bias is not None]
    if biases:
        first, last = min(b.first_offset for b in biases), max(b.last_offset for b in biases)
        table = np.full((layers, heads, last - first + 1), np.nan, dtype=np.float32)
        for i, rule in enumerate(kind.rules):
            if rule.bias is not None:
                begin = rule.bias.first_offset - first
                table[i, :, begin : begin + rule.bias.table_HR.shape[1]] = rule.bias.table_HR
        offsets = range(first, last + 1)
        yield column(f"{kind.kind}/offset", "offset", "int32", offsets, "key position - query position", units="token")
        yield ArraySpec(
            path=f"{kind.kind}/position_bias", dims=("layer", "head", "offset"), shape=table.shape, dtype="float32",
            chunks=(1, *table.shape[1:]), fill=np.nan, data=table,
            attributes={"long_name": "bias added to the score", "units": "nat"},
        )  # fmt: skip


def _statistic_arrays(kind: KindLayout, packs: Sequence[Pack], queries: int, block: int) -> Iterator[ArraySpec]:
    layers, heads, path = len(kind.layers), len(kind.heads), f"{kind.kind}/statistics"
    for name in statistic_names(same_axis=kind.same_axis, sinks=kind.has_sinks):
        yield _rows(kind, f"statistics/{name}", queries, block, STATISTICS[name].definition, STATISTICS[name].units)
    edges = histogram_edges()
    yield column(f"{path}/bin", "bin", "float64", edges[:-1], "left edge of the bin", right_edges=edges[1:].tolist())
    yield column(f"{path}/head_other", "head_other", "int32", kind.heads, "the model's head index")
    yield ArraySpec(
        path=f"{path}/histogram", dims=("pack", "layer", "head", "bin"), dtype="int64",
        shape=(len(packs), layers, heads, HISTOGRAM_BINS), shards=(1, kind.span, heads, HISTOGRAM_BINS),
        chunks=(1, 1, heads, HISTOGRAM_BINS), fill=-1,
        attributes={"long_name": "number of visible weights in the bin", "units": "1"},
    )  # fmt: skip
    yield ArraySpec(
        path=f"{path}/head_gram", dims=("pack", "layer", "head", "head_other"), dtype="float64",
        shape=(len(packs), layers, heads, heads), shards=(1, kind.span, heads, heads), chunks=(1, 1, heads, heads),
        fill=np.nan,
        attributes={"long_name": "sum over cells of the product of two heads' weights", "units": "1"},
    )  # fmt: skip


def _rows(kind: KindLayout, name: str, queries: int, block: int, long_name: str, units: str) -> ArraySpec:
    return ArraySpec(
        path=f"{kind.kind}/{name}",
        dims=("layer", "head", token_dim(kind.query_axis)),
        shape=(len(kind.layers), len(kind.heads), queries),
        dtype="float32",
        shards=(kind.span, len(kind.heads), block),
        chunks=(1, 1, inner_tokens(block, ROW_CHUNK)),
        fill=np.nan,
        attributes={"long_name": long_name, "units": units},
    )


def axes_of(kinds: Iterable[str]) -> tuple[str, ...]:
    """The token axes that kinds of attention need."""
    return tuple(dict.fromkeys(axis for kind in kinds for axis in KINDS[kind]))
