"""attlas verify: what lies in the store, held against what its records say."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from attlas.parse import parse_callback, parse_count, parse_seed
from attlas.storage import schema
from attlas.storage.atlas import Atlas, open_atlas
from attlas.storage.commits import COMMITTED, Records
from attlas.storage.damage import committed_packs, damage_of, dims_of, pack_range
from attlas.storage.factors import Factor
from attlas.storage.lazy import DocumentRows, LazyAttention
from attlas.storage.stores import Where
from attlas.storage.strays import find_strays
from attlas.storage.zarr_shard_reader import ZarrShardReaders

__all__ = ["Check", "VerifyReport", "verify"]

ROW_SUM_TOLERANCE = 1e-5
ROUNDING = 8 * 2.0**-24
"""And for each unit of score in sum_d |q_d k_d|: float32 rounds scores of some tens or hundreds by more than 1e-5."""
MOST_PROBLEMS = 20
WORKING_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: what was looked at, how much of it, and what was found wrong (at most MOST_PROBLEMS lines).

    notes: what is worth knowing and not wrong, such as rows of a pack that was never committed.
    """

    name: str
    examined: str
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """seed: with which rows were drawn."""

    checks: tuple[Check, ...]
    seed: int

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(problem for check in self.checks for problem in check.problems)


def verify(
    where: Where,
    *,
    sample_rows: int = 64,
    seed: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> VerifyReport:
    """Check an atlas: arrays, commit records, checksums, finite values, key intervals, row sums, maps.

    >>> attlas.verify("demo.zarr").passed
    True

    Every chunk of every committed pack is read and its checksum compared; row sums and maps are checked on
    `sample_rows` rows of each kind, layer and committed pack, of one of its documents. seed: by which these are drawn;
    None for another each time, which the report tells. Memory: a shard, or WORKING_BYTES of weights. Raises
    StoreMissingError where there is no atlas, InputError.
    """
    sample_rows = parse_count(sample_rows, "sample_rows")
    seed = secrets.randbelow(2**32) if seed is None else parse_seed(seed)
    parse_callback(progress, "progress")
    atlas = open_atlas(where, storage_options=storage_options)
    checks = []
    for name, check in (
        ("arrays", _arrays),
        ("commit records", _commits),
        ("checksums", _checksums),
        ("values", _values),
        ("row sums", _row_sums),
        *((("maps", _maps),) if atlas.tier.maps else ()),
    ):
        if progress is not None:
            progress(name)
        checks.append(check(atlas, np.random.default_rng(seed), sample_rows))
        if name == "arrays" and not checks[-1].passed:
            break  # the other checks would only say the same again, array by array
    return VerifyReport(checks=tuple(checks), seed=seed)


def _expected(atlas: Atlas) -> dict[str, dict[str, tuple[str, ...]]]:
    """kind -> array -> dims, as the schema has them for the atlas's tier."""
    wanted: dict[str, dict[str, tuple[str, ...]]] = {}
    for kind in atlas.kinds:
        rows = atlas.attrs["kinds"][kind]
        axes = {"query_axis": rows["query_axis"], "key_axis": rows["key_axis"]}
        arrays = {factor.name: schema.factor_dims(factor, **axes) for factor in atlas.tier.kept}
        if atlas.tier.statistics:
            for name in rows["statistics"]:  # of the day it was captured; others may have come since
                arrays[f"statistics/{name}"] = ("layer", "head", schema.token_dim(rows["query_axis"]))
        wanted[kind] = arrays
    return wanted


def _arrays(atlas: Atlas, _rng: np.random.Generator, _sample: int) -> Check:
    problems, count = [], 0
    for kind, arrays in _expected(atlas).items():
        for name, dims in arrays.items():
            count += 1
            array = atlas.root.get(f"{kind}/{name}")
            if not isinstance(array, zarr.Array):
                problems.append(f"{kind}/{name} is missing")
                continue
            found = dims_of(array)
            if found != dims:
                problems.append(f"{kind}/{name} has dims {found}, the schema says {dims}")
            wanted = _dtype(atlas, name, array)
            if str(array.dtype) != wanted:
                problems.append(f"{kind}/{name} is {array.dtype}, the schema says {wanted}")
            sizes = {"layer": len(atlas.layers(kind)), **_token_sizes(atlas)}
            problems += [
                f"{kind}/{name} has {size} along {dim}, expected {sizes[dim]}"
                for dim, size in zip(dims, array.shape, strict=False)
                if dim in sizes and size != sizes[dim]
            ]
    problems += _own_metadata(atlas)
    return _check("arrays", f"{count} arrays against schema {schema.VERSION}", problems)


def _own_metadata(atlas: Atlas) -> Iterator[str]:
    """Arrays and groups whose own zarr.json says something else than the consolidated metadata, or is lost."""
    consolidated = atlas.root.metadata.consolidated_metadata
    for path, wanted in ({} if consolidated is None else consolidated.flattened_metadata).items():
        buffer = sync(atlas.root.store.get(f"{path}/zarr.json", default_buffer_prototype()))
        try:
            same = buffer is not None and _same_metadata(json.loads(buffer.to_bytes()), wanted)
        except ValueError:
            same = False
        if not same:
            yield f"{path}/zarr.json is lost, or differs from the consolidated metadata: tools without these misread it"


def _same_metadata(own: Any, wanted: Any) -> bool:
    told = json.loads(wanted.to_buffer_dict(default_buffer_prototype())["zarr.json"].to_bytes())
    ignored = {"consolidated_metadata"}
    return isinstance(own, dict) and {k: v for k, v in own.items() if k not in ignored} == {
        k: v for k, v in told.items() if k not in ignored
    }


def _dtype(atlas: Atlas, name: str, array: zarr.Array[Any]) -> str:
    factor = _factor(atlas, name)
    if factor is None:
        return "float32"
    return factor.dtype or schema.stored_dtype(str(array.attrs.get("attlas_dtype")))


def _factor(atlas: Atlas, name: str) -> Factor | None:
    """The factor that an array holds; None for a row statistic."""
    return next((factor for factor in atlas.tier.kept if factor.name == name), None)


def _token_sizes(atlas: Atlas) -> dict[str, int]:
    block = int(atlas.attrs["block"])
    sizes = {}
    for axis in atlas.row_axes:
        stop = int(np.max(atlas.packs[f"{schema.axis_prefix(axis)}token_stop"].values))
        sizes[schema.token_dim(axis)] = -(-stop // block) * block
    return sizes


def _commits(atlas: Atlas, _rng: np.random.Generator, _sample: int) -> Check:
    """Each committed pack has its own record, and a file for every shard that holds one of its tokens."""
    problems, notes, shards = [*Records(atlas.root).damaged(committed_packs(atlas)).values()], [], 0
    notes += find_strays(atlas.root).notes()
    states = atlas.packs["state"].values
    for pack, state in enumerate(states):
        stray = 0
        for kind, arrays in _expected(atlas).items():
            for name, dims in arrays.items():
                array = atlas.root[f"{kind}/{name}"]
                assert isinstance(array, zarr.Array)
                for key in _shard_keys(atlas, array, dims, pack):
                    there = sync(atlas.root.store.exists(f"{array.path}/{key}"))
                    if state != COMMITTED:
                        stray += there
                        continue
                    shards += 1
                    if not there:
                        problems.append(f"pack {pack} is committed, but {array.path}/{key} is not on disk")
        if stray:
            notes.append(
                f"pack {pack} is not committed, and {stray} of its shards are on disk: --resume writes it anew"
            )
    pending = int((states != COMMITTED).sum())
    told = f"{shards:,} shards of {len(states) - pending} committed packs" + (f", {pending} pending" if pending else "")
    return _check("commit records", told, problems, notes)


def _shard_keys(atlas: Atlas, array: zarr.Array[Any], dims: tuple[str, ...], pack: int) -> list[str]:
    """Chunk keys of the files that a pack's tokens lie in, of all layers."""
    token_place = next(i for i, dim in enumerate(dims) if dim.endswith("token"))
    start, stop = pack_range(atlas, dims[token_place], pack)
    shard = array.shards or array.chunks
    size = shard[token_place]
    keys = []
    for layers in range(-(-array.shape[0] // shard[0])):
        for block in range(start // size, -(-stop // size)):
            place = [0] * array.ndim
            place[0], place[token_place] = layers, block
            keys.append("c/" + "/".join(map(str, place)))
    return keys


def _checksums(atlas: Atlas, _rng: np.random.Generator, _sample: int) -> Check:
    """Read every chunk of what is committed: Zarr shards against their seals, columns against their digests."""
    read = 0
    problems: list[str] = []
    readers = ZarrShardReaders(atlas.root)
    for _path, array in _all_arrays(atlas.root):
        size, wrong = damage_of(atlas, array, readers)
        read, problems = read + size, problems + wrong
    return _check("checksums", f"{read / 2**20:,.1f} MiB decoded", problems)


def _all_arrays(group: zarr.Group) -> list[tuple[str, zarr.Array[Any]]]:
    found = [(array.path, array) for _, array in sorted(group.arrays())]
    for _, child in sorted(group.groups()):
        found += _all_arrays(child)
    return found


def _values(atlas: Atlas, _rng: np.random.Generator, _sample: int) -> Check:
    """Factors and statistics are finite, and key intervals lie in their documents."""
    problems, rows_seen = [], 0
    for pack in committed_packs(atlas):
        for kind, arrays in _expected(atlas).items():
            layers = atlas.layers(kind)
            for layer, (name, dims) in itertools.product(range(len(layers)), arrays.items()):
                array = atlas.root[f"{kind}/{name}"]
                assert isinstance(array, zarr.Array)
                place = next(i for i, dim in enumerate(dims) if dim.endswith("token"))
                step = (array.shards or array.chunks)[place]
                begin, end = pack_range(atlas, dims[place], pack)
                for start in range(begin, end, step):
                    region: list[Any] = [layer] + [slice(None)] * (array.ndim - 1)
                    region[place] = slice(start, min(start + step, end))
                    try:
                        values = np.asarray(array[tuple(region)])
                    except (ValueError, RuntimeError, OSError):
                        continue  # unreadable chunks are the checksums' to report
                    if name == "log_sum_exp":
                        rows_seen += values.size
                    for document, what in _wrong(atlas, kind, name, values, start, place - 1):
                        problems.append(f"document {document!r}, {kind} layer {layers[layer]}: {name} {what}")
    return _check("values", f"{rows_seen:,} rows", list(dict.fromkeys(problems)))


def _wrong(
    atlas: Atlas, kind: str, name: str, values: NDArray[Any], start: int, place: int
) -> Iterator[tuple[str, str]]:
    """(document, what is wrong) for a stretch of one layer's array, whose token axis is at `place`."""
    layout = atlas.attrs["kinds"][kind]
    factor = _factor(atlas, name)
    axis = "query" if factor is None else factor.axis
    table, prefix = atlas.documents, schema.axis_prefix(layout[f"{axis}_axis"])
    tokens = np.arange(start, start + values.shape[place])
    if factor is not None and factor.range == "key":
        owner = _owners(table[f"{prefix}token_start"].values, tokens)
        keys = table[f"{schema.axis_prefix(layout['key_axis'])}row_size"].values[owner]
        bad = (values < 0) | (values > keys)
        for document in np.unique(owner[bad]):
            size = int(table[f"{schema.axis_prefix(layout['key_axis'])}row_size"].values[document])
            yield str(table["document_id"].values[document]), f"points outside the document's {size} keys"
        return
    unsound = _not_finite(values, atlas.root[f"{kind}/{name}"].attrs)
    if unsound.any():
        at_token = np.asarray(unsound.any(axis=tuple(i for i in range(values.ndim) if i != place)))
        for document in np.unique(_owners(table[f"{prefix}token_start"].values, tokens[at_token])):
            yield str(table["document_id"].values[document]), "has values that are not finite"


def _owners(token_start: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """The document that each token belongs to."""
    order = np.argsort(token_start, kind="stable")
    found: NDArray[np.int64] = order[np.searchsorted(token_start[order], tokens, side="right") - 1]
    return found


def _not_finite(values: NDArray[Any], attributes: Mapping[str, Any]) -> NDArray[np.bool_]:
    if attributes.get("attlas_dtype") == "bfloat16":  # all exponent bits set: Inf or NaN
        return (values & 0x7F80) == 0x7F80
    return ~np.isfinite(values)


def _weights(
    rows: DocumentRows, layer: int, queries: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """(heads, a_HQK) of whole rows of weights, as many heads at a time as WORKING_BYTES holds."""
    attention = LazyAttention(rows)
    step = max(1, WORKING_BYTES // (4 * len(queries) * rows.keys))
    for begin in range(0, rows.heads, step):
        heads = np.arange(begin, min(begin + step, rows.heads))
        yield heads, attention.compute([np.array([layer]), heads, queries, np.arange(rows.keys)])[0]


def _row_sums(atlas: Atlas, rng: np.random.Generator, sample: int) -> Check:
    """Sampled rows of weights sum to 1, or to 1 less the sink logit's share.

    Within ROW_SUM_TOLERANCE, or, where a row is off by more, within what float32 rounds scores of its size by.
    """
    if not atlas.tier.weights:
        return _check("row sums", f"{atlas.keep} keep no factors to sum", [])
    problems, notes, seen = [], [], 0
    for document, kind, rows, layer, queries in _samples(atlas, rng, sample):
        where = f"document {document!r}, {kind} layer {rows.layers[layer]}"
        try:
            for heads, a_HQK in _weights(rows, layer, queries):
                expected = np.ones((len(heads), len(queries)))
                sinks = rows.rule(layer).sink_H
                if sinks is not None:
                    lse_HQ = rows.q_and_lse(layer, heads, queries)[1].numpy()
                    expected -= np.exp(sinks[heads][:, None] - lse_HQ)
                error_HQ = np.abs(a_HQK.sum(2, dtype=np.float64) - expected)
                seen += error_HQ.size
                if error_HQ.max() <= ROW_SUM_TOLERANCE:
                    continue
                excess_HQ = error_HQ - ROUNDING * _score_size(rows, layer, heads, queries, a_HQK)
                head, row = np.unravel_index(int(np.argmax(np.nan_to_num(excess_HQ, nan=np.inf))), error_HQ.shape)
                told = (
                    f"{where}, head {heads[head]}, query {queries[row]}: "
                    f"the row sum is off by {error_HQ[head, row]:.1e}"
                )
                if excess_HQ.max() <= ROW_SUM_TOLERANCE:
                    notes.append(f"{told}, which is float32's rounding of scores as large as this row's")
                else:
                    problems.append(told)
        except (ValueError, RuntimeError, OSError) as error:
            problems.append(f"{where}: {str(error).splitlines()[0]}")
    return _check("row sums", f"{seen:,} sampled rows within {ROW_SUM_TOLERANCE:.0e}", problems, notes)


def _score_size(
    rows: DocumentRows, layer: int, heads: NDArray[np.int64], queries: NDArray[np.int64], a_HQK: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The size of what is added up to a score, |scaling| sum_d |q_d k_d|, as each row's weights weigh it, (H, Q)."""
    q_HQD, _, k_GKD = (
        part.double().abs().numpy() for part in rows.factors(layer, heads, queries, np.arange(rows.keys))
    )
    k_HKD = np.repeat(k_GKD, len(heads) // len(k_GKD), axis=0)
    size_HQ: NDArray[np.float64] = ((a_HQK @ k_HKD) * q_HQD).sum(2) * abs(rows.rule(layer).scaling)
    return size_HQ


def _maps(atlas: Atlas, rng: np.random.Generator, sample: int) -> Check:
    """Sampled rows of the materialised maps equal the weights computed from the factors, up to their dtype."""
    tolerance = 1e-6 if atlas.attrs["map_dtype"] == "float32" else 5e-4
    problems, seen = [], 0
    for document, kind, rows, layer, queries in _samples(atlas, rng, sample):
        where = f"document {document!r}, {kind} layer {rows.layers[layer]}"
        path = f"{schema.map_group(kind, document)}/attention"
        stored = atlas.root.get(path)
        if not isinstance(stored, zarr.Array):
            problems.append(f"{where}: {path} is missing")
            continue
        queries = np.sort(queries)
        try:
            for heads, exact in _weights(rows, layer, queries):
                kept = np.asarray(stored.oindex[layer, slice(int(heads[0]), int(heads[-1]) + 1), queries])
                seen += exact.shape[0] * exact.shape[1]
                off = float(np.abs(kept.astype(np.float32) - exact).max())
                if not off <= tolerance:
                    problems.append(f"{where}: the map is off its factors by {off:.1e}")
        except (ValueError, RuntimeError, OSError) as error:
            problems.append(f"{where}: {str(error).splitlines()[0]}")
    return _check("maps", f"{seen:,} sampled rows against the factors", problems)


def _samples(
    atlas: Atlas, rng: np.random.Generator, sample: int
) -> list[tuple[str, str, DocumentRows, int, NDArray[np.int64]]]:
    """For each kind, layer and committed pack, rows of one random document."""
    pack_of = dict(zip(atlas.documents["document_id"].values, atlas.documents["pack"].values, strict=True))
    pages: dict[tuple[str, int], list[tuple[str, str, DocumentRows]]] = {}
    for page in _pages(atlas):
        pages.setdefault((page[1], int(pack_of[page[0]])), []).append(page)
    chosen = []
    for (kind, _pack), mine in sorted(pages.items()):
        for layer in range(len(atlas.layers(kind))):
            document, _, rows = mine[rng.integers(len(mine))]
            queries = rng.choice(rows.queries, min(sample, rows.queries), replace=False)
            chosen.append((document, kind, rows, layer, queries.astype(np.int64)))
    return chosen


def _pages(atlas: Atlas) -> list[tuple[str, str, DocumentRows]]:
    ids = [str(i) for i in atlas.documents["document_id"].values]
    committed = set(atlas)
    return [
        (document, kind, atlas.rows(kind, index))
        for index, document in enumerate(ids)
        if document in committed
        for kind in atlas.kinds
    ]


def _check(name: str, examined: str, problems: list[str], notes: list[str] | None = None) -> Check:
    return Check(name=name, examined=examined, problems=_first(problems), notes=_first(notes or []))


def _first(lines: list[str]) -> tuple[str, ...]:
    more = len(lines) - MOST_PROBLEMS
    return (*lines[:MOST_PROBLEMS], f"and {more} more") if more > 0 else tuple(lines)
