"""attlas verify: what lies in the store, held against what its records say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from attlas.engine.statistics import statistic_names
from attlas.storage import schema
from attlas.storage.lazy import DocumentRows, LazyAttention
from attlas.storage.reader import Atlas, open_atlas
from attlas.storage.stores import Where

__all__ = ["Check", "VerifyReport", "verify"]

ROW_SUM_TOLERANCE = 1e-5
MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: what was looked at, how much of it, and what was found wrong (at most MOST_PROBLEMS lines)."""

    name: str
    examined: str
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    checks: tuple[Check, ...]

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
    seed: int = 0,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> VerifyReport:
    """Check an atlas: arrays, commit records, checksums, finite values, key intervals, row sums, maps.

    Every chunk of every committed pack is read and its checksum compared; row sums and maps are checked on
    `sample_rows` seeded rows of each kind and layer. Raises StoreMissingError where there is no atlas.
    """
    atlas = open_atlas(where, storage_options=storage_options)
    checks = []
    for name, check in (
        ("arrays", _arrays),
        ("commit records", _commits),
        ("checksums", _checksums),
        ("values", _values),
        ("row sums", _row_sums),
        ("maps", _maps),
    ):
        if name == "maps" and atlas.keep != "maps":
            continue
        if progress is not None:
            progress(name)
        checks.append(check(atlas, np.random.default_rng(seed), sample_rows))
        if name == "arrays" and not checks[-1].passed:
            break  # the other checks would only say the same again, array by array
    return VerifyReport(checks=tuple(checks))


def _expected(atlas: Atlas) -> dict[str, dict[str, tuple[str, ...]]]:
    """kind -> array -> dims, as the schema has them for the atlas's tier."""
    wanted: dict[str, dict[str, tuple[str, ...]]] = {}
    for kind in atlas.kinds:
        rows = atlas.attrs["kinds"][kind]
        query, key = schema.token_dim(rows["query_axis"]), schema.token_dim(rows["key_axis"])
        arrays: dict[str, tuple[str, ...]] = {
            "log_sum_exp": ("layer", "head", query),
            "key_start": ("layer", query),
            "key_stop": ("layer", query),
        }
        if atlas.keep == "statistics":
            sinks = any(rule["sink_logit"] for rule in atlas.attrs["score_rules"][kind].values())
            for name in statistic_names(same_axis=query == key, sinks=sinks):
                arrays[f"statistics/{name}"] = ("layer", "head", query)
        else:
            arrays |= {"q": ("layer", "head", query, "feature"), "k": ("layer", "kv_head", key, "feature")}
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
            found = array.metadata.dimension_names  # type: ignore[union-attr]
            if tuple(found or ()) != dims:
                problems.append(f"{kind}/{name} has dims {found}, the schema says {dims}")
            sizes = {"layer": len(atlas.layers(kind)), **_token_sizes(atlas)}
            problems += [
                f"{kind}/{name} has {size} along {dim}, expected {sizes[dim]}"
                for dim, size in zip(dims, array.shape, strict=False)
                if dim in sizes and size != sizes[dim]
            ]
    return _check("arrays", f"{count} arrays against schema {schema.VERSION}", problems)


def _token_sizes(atlas: Atlas) -> dict[str, int]:
    block = int(atlas.attrs["block"])
    sizes = {}
    for axis in atlas.axes:
        stop = int(np.max(atlas.packs[f"{schema.axis_prefix(axis)}token_stop"].values))
        sizes[schema.token_dim(axis)] = -(-stop // block) * block
    return sizes


def _commits(atlas: Atlas, _rng: np.random.Generator, _sample: int) -> Check:
    """Each committed pack has a file for every shard that holds one of its tokens."""
    problems, shards = [], 0
    for pack in _committed(atlas):
        for kind, arrays in _expected(atlas).items():
            for name, dims in arrays.items():
                array = atlas.root[f"{kind}/{name}"]
                assert isinstance(array, zarr.Array)
                for key in _shard_keys(atlas, array, dims, pack):
                    shards += 1
                    if not sync(atlas.root.store.exists(f"{array.path}/{key}")):
                        problems.append(f"pack {pack} is committed, but {array.path}/{key} is not on disk")
    states = atlas.packs["state"].values
    pending = int((states == schema.PENDING).sum())
    told = f"{shards:,} shards of {len(_committed(atlas))} committed packs" + (
        f", {pending} pending" if pending else ""
    )
    return _check("commit records", told, problems)


def _shard_keys(atlas: Atlas, array: zarr.Array[Any], dims: tuple[str, ...], pack: int) -> list[str]:
    """Chunk keys of the files that a pack's tokens lie in, over all layers."""
    token_place = next(i for i, dim in enumerate(dims) if dim.endswith("token"))
    start, stop = _pack_range(atlas, dims[token_place], pack)
    size = (array.shards or array.chunks)[token_place]
    keys = []
    for layer in range(array.shape[0]):
        for block in range(start // size, -(-stop // size)):
            place = [0] * array.ndim
            place[0], place[token_place] = layer, block
            keys.append("c/" + "/".join(map(str, place)))
    return keys


def _pack_range(atlas: Atlas, dim: str, pack: int) -> tuple[int, int]:
    prefix = dim.removesuffix("token")
    return tuple(int(atlas.packs[f"{prefix}{name}"].values[pack]) for name in ("token_start", "token_stop"))  # type: ignore[return-value]


def _checksums(atlas: Atlas, _rng: np.random.Generator, _sample: int) -> Check:
    """Decode every chunk: zarr compares its crc32c while it does."""
    problems, read = [], 0
    for path, array in _all_arrays(atlas.root):
        step = (array.shards or array.chunks)[0]
        for begin in range(0, array.shape[0], step):
            for part in _token_parts(array):
                try:
                    read += np.asarray(array[(slice(begin, begin + step), *part)]).nbytes
                except (ValueError, RuntimeError, OSError) as error:
                    problems.append(f"{path}, from {begin}: {str(error).splitlines()[0]}")
    return _check("checksums", f"{read / 2**20:,.1f} MiB decoded", problems)


def _token_parts(array: zarr.Array[Any]) -> list[tuple[Any, ...]]:
    """Cut an array's remaining axes along the third, by whole shards, so that a read stays small."""
    if array.ndim < 3:
        return [()]
    size = (array.shards or array.chunks)[2]
    return [(slice(None), slice(begin, begin + size)) for begin in range(0, array.shape[2], size)]


def _all_arrays(group: zarr.Group) -> list[tuple[str, zarr.Array[Any]]]:
    found = [(array.path, array) for _, array in sorted(group.arrays())]
    for _, child in sorted(group.groups()):
        found += _all_arrays(child)
    return found


def _values(atlas: Atlas, _rng: np.random.Generator, _sample: int) -> Check:
    """q, k, log-sum-exp and statistics are finite, and key intervals lie in their documents."""
    problems, rows_seen = [], 0
    for document, kind, rows in _pages(atlas):
        for layer, index in enumerate(rows.layers):
            where = f"document {document!r}, {kind} layer {index}"
            for name, dims in _expected(atlas)[kind].items():
                array = rows.array(name)
                at_keys = name == "k"
                start, size = (rows.key_start, rows.keys) if at_keys else (rows.query_start, rows.queries)
                token_place = next(i for i, dim in enumerate(dims) if dim.endswith("token"))
                place: list[Any] = [layer] + [slice(None)] * (array.ndim - 1)
                place[token_place] = slice(start, start + size)
                try:
                    values = np.asarray(array[tuple(place)])
                except (ValueError, RuntimeError, OSError):
                    continue  # unreadable chunks are the checksums' to report
                if not _all_finite(values, array):
                    problems.append(f"{where}: {name} has values that are not finite")
                if name in {"key_start", "key_stop"} and (values.min() < 0 or values.max() > rows.keys):
                    problems.append(f"{where}: {name} points outside the document's {rows.keys} keys")
            rows_seen += rows.queries * rows.heads
    return _check("values", f"{rows_seen:,} rows", problems)


def _all_finite(values: NDArray[Any], array: zarr.Array[Any]) -> bool:
    if array.attrs.get("attlas_dtype") == "bfloat16":  # all exponent bits set: Inf or NaN
        return not bool(((values & 0x7F80) == 0x7F80).any())
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _row_sums(atlas: Atlas, rng: np.random.Generator, sample: int) -> Check:
    """Sampled rows of weights sum to 1, or to 1 less the sink logit's share."""
    if atlas.keep == "statistics":
        return _check("row sums", "statistics keep no factors to sum", [])
    problems, seen = [], 0
    for document, kind, rows, layer, queries in _samples(atlas, rng, sample):
        attention = LazyAttention(rows)
        heads = np.arange(rows.heads)
        try:
            a_HQK = attention.compute([np.array([layer]), heads, queries, np.arange(rows.keys)])[0]
        except (ValueError, RuntimeError, OSError) as error:
            problems.append(f"document {document!r}, {kind} layer {rows.layers[layer]}: {str(error).splitlines()[0]}")
            continue
        expected = np.ones((rows.heads, len(queries)))
        sinks = rows.rule(layer).sink_H
        if sinks is not None:
            expected -= np.exp(sinks[:, None] - rows.lse(layer, heads, queries).numpy())
        error_HQ = np.abs(a_HQK.sum(2, dtype=np.float64) - expected)
        seen += error_HQ.size
        if not error_HQ.max() <= ROW_SUM_TOLERANCE:
            head, row = np.unravel_index(np.nanargmax(error_HQ), error_HQ.shape)
            problems.append(
                f"document {document!r}, {kind} layer {rows.layers[layer]}, head {head}, query {queries[row]}: "
                f"the row sum is off by {error_HQ[head, row]:.1e}"
            )
    return _check("row sums", f"{seen:,} sampled rows within {ROW_SUM_TOLERANCE:.0e}", problems)


def _maps(atlas: Atlas, rng: np.random.Generator, sample: int) -> Check:
    """Sampled rows of the materialised maps equal the weights computed from the factors, up to their dtype."""
    tolerance = 1e-6 if atlas.attrs["map_dtype"] == "float32" else 5e-4
    problems, seen = [], 0
    for document, kind, rows, layer, queries in _samples(atlas, rng, sample):
        stored = atlas.root[f"{schema.map_group(kind, document)}/attention"]
        assert isinstance(stored, zarr.Array)
        try:
            a_HQK = np.asarray(stored.oindex[layer, :, np.sort(queries)], dtype=np.float32)
            exact = LazyAttention(rows).compute(
                [np.array([layer]), np.arange(rows.heads), np.sort(queries), np.arange(rows.keys)]
            )[0]
        except (ValueError, RuntimeError, OSError) as error:
            problems.append(f"document {document!r}, {kind} layer {rows.layers[layer]}: {str(error).splitlines()[0]}")
            continue
        seen += a_HQK.shape[0] * a_HQK.shape[1]
        off = float(np.abs(a_HQK - exact).max())
        if not off <= tolerance:
            problems.append(
                f"document {document!r}, {kind} layer {rows.layers[layer]}: the map is off its factors by {off:.1e}"
            )
    return _check("maps", f"{seen:,} sampled rows against the factors", problems)


def _samples(
    atlas: Atlas, rng: np.random.Generator, sample: int
) -> list[tuple[str, str, DocumentRows, int, NDArray[np.int64]]]:
    """For each kind and layer, rows of one random document."""
    pages = _pages(atlas)
    chosen = []
    for kind in atlas.kinds:
        mine = [page for page in pages if page[1] == kind]
        for layer in range(len(atlas.layers(kind)) if mine else 0):
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


def _committed(atlas: Atlas) -> list[int]:
    return [int(i) for i in np.flatnonzero(atlas.packs["state"].values == schema.COMMITTED)]


def _check(name: str, examined: str, problems: list[str]) -> Check:
    more = len(problems) - MOST_PROBLEMS
    if more > 0:
        problems = [*problems[:MOST_PROBLEMS], f"and {more} more"]
    return Check(name=name, examined=examined, problems=tuple(problems))
