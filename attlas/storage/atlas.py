"""Reading an atlas: a mapping from document ids to pages, which are lazy xarray Datasets."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from xarray.core import indexing

from attlas.arguments import found
from attlas.engine.kernels.row_statistics import STATISTICS, statistic_names
from attlas.engine.model.layout import KINDS
from attlas.errors import DocumentMissingError, TierError
from attlas.storage import schema
from attlas.storage.stores import Where, open_root, read_arrays, store_name
from attlas.storage.tiers import DEFAULT_TIER, TIERS, Tier

if TYPE_CHECKING:  # loaded when weights are asked for: what an atlas holds can be told without torch
    from attlas.storage.lazy import DocumentRows, LazyArray
    from attlas.storage.zarr_shard_reader import ShardReaders

__all__ = ["Atlas", "Page", "open_atlas"]

PREFERRED_QUERIES, PREFERRED_KEYS = 512, 2048


def open_atlas(where: Where, *, storage_options: Mapping[str, Any] | None = None) -> Atlas:
    """Open an atlas for reading; see `Atlas`. Raises StoreMissingError where there is none."""
    return Atlas(open_root(where, storage_options=storage_options), store_name(where))


class Page(xr.Dataset):
    """One document's attention. A Dataset whose missing variables say which tier would have them."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        self._explain(name)
        return super().__getattr__(name)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            self._explain(key)
        return super().__getitem__(key)

    def _explain(self, name: str) -> None:
        """Raise TierError where `name` is attention that this atlas's tier does not keep."""
        if not name.endswith("attention") or name.startswith("_"):
            return
        attributes = object.__getattribute__(self, "attrs")
        if name in attributes.get("attention_names", ()) and not TIERS[attributes["keep"]].weights:
            raise TierError(
                f"{name} of {attributes['document_id']!r} is not kept: this atlas holds {attributes['keep']} alone; "
                f'capture it again with keep="{DEFAULT_TIER}"'
            )


class Atlas(Mapping[str, xr.Dataset]):
    """The captured attention of one model over documents: a mapping from document id to page, in the user's order.

    >>> atlas = attlas.open_atlas("demo.zarr")
    >>> page = atlas["demo"]
    >>> page.attention.sel(layer=1, head=0).isel(query=106, key=[48, 49]).values
    array([3.06e-05, 9.97e-01], dtype=float32)

    A page has `attention(layer, head, query, key)`, `log_sum_exp` and every row statistic `(layer, head, query)`,
    float32, with `query_token` and `key_token` beside. An encoder-decoder's page has `encoder_attention`,
    `decoder_attention` and `cross_attention`, with dims and statistics prefixed by the kind. Nothing is read or
    computed before it is asked for. Only documents of committed packs are in the mapping.
    """

    def __init__(self, root: zarr.Group, name: str) -> None:
        self.root, self.name = root, name
        self.attrs: dict[str, Any] = dict(root.attrs)
        paths = ["documents/document_id", "documents/pack", "packs/state"]
        paths += [f"{kind}/{name}" for kind in self.kinds for name in ("layer", "head", "kv_head")]
        paths += [
            f"documents/{schema.axis_prefix(axis)}{name}"
            for axis in self.row_axes
            for name in ("token_start", "row_size")
        ]
        self._columns = read_arrays(root, dict.fromkeys(paths, ...))
        self._ids: list[str] = [str(i) for i in self.column("documents/document_id")]
        self._index = {document: i for i, document in enumerate(self._ids)}
        self._pack = self.column("documents/pack")
        self._committed = self.column("packs/state") == schema.COMMITTED

    @cached_property
    def _readers(self) -> ShardReaders:
        from attlas.storage.zarr_shard_reader import KeptChunks, ShardReaders

        return ShardReaders(self.root, KeptChunks())

    @property
    def keep(self) -> str:
        return str(self.attrs["keep"])

    @property
    def tier(self) -> Tier:
        """Raises InputError where this attlas does not know the tier."""
        return TIERS[self.keep]

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.attrs["kinds"])

    @property
    def axes(self) -> tuple[str, ...]:
        return schema.axes_of(self.kinds)

    @property
    def row_axes(self) -> tuple[str, ...]:
        """Every axis on which rows of an array lie: the token axes, and those of chosen query rows."""
        kinds = self.attrs["kinds"].values()
        return tuple(dict.fromkeys(kind[name] for kind in kinds for name in ("key_axis", "query_axis")))

    @property
    def model(self) -> dict[str, Any]:
        return dict(self.attrs["model"])

    def column(self, path: str) -> NDArray[Any]:
        """A small array of the store by its path, such as "self/layer", read once for as long as the atlas is open."""
        if path not in self._columns:
            self._columns[path] = np.asarray(self.root[path][...])  # type: ignore[index]
        return self._columns[path]

    @cached_property
    def documents(self) -> xr.Dataset:
        """One row a document, committed or not: id, sizes, pack, truncated_from, state."""
        table = _table(self.root, "documents", "document")
        return table.assign(state=("document", self.column("packs/state")[self._pack]))

    @cached_property
    def packs(self) -> xr.Dataset:
        """The commit records: state (0 pending, 1 committed, 2 failed), attempt, seconds, bytes, token ranges."""
        return _table(self.root, "packs", "pack")

    def layers(self, kind: str) -> tuple[int, ...]:
        return tuple(int(i) for i in self.column(f"{kind}/layer"))

    def __iter__(self) -> Iterator[str]:
        return (document for i, document in enumerate(self._ids) if self._committed[self._pack[i]])

    def __len__(self) -> int:
        return int(self._committed[self._pack].sum())

    def __getitem__(self, document: str) -> xr.Dataset:
        if not isinstance(document, str) or document not in self._index:
            near = difflib.get_close_matches(str(document), self._ids, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it holds {_some(self._ids)}"
            named = repr(document) if isinstance(document, str) else found(document)
            raise DocumentMissingError(f"{self.name} has no document {named}: {hint}")
        index = self._index[document]
        pack = self._pack[index]
        if not self._committed[pack]:
            failed = self.column("packs/state")[pack] == schema.FAILED
            why = f"which failed ({self.column('packs/error')[pack]})" if failed else "which is not committed"
            raise DocumentMissingError(
                f"document {document!r} is in pack {pack}, {why}: finish the capture with --resume"
            )
        return _page(self, document, index)

    def __repr__(self) -> str:
        model = self.model
        lines = [f"<attlas.Atlas {self.name}>", f"model      {model.get('name')} ({model.get('model_class')})"]
        lines.append(f"tier       {self.keep}")
        lines.append(f"documents  {len(self)} of {len(self._ids)} committed: {_some(self._ids)}")
        for kind in self.kinds:
            heads = len(self.column(f"{kind}/head"))
            lines.append(f"{kind:<10} {len(self.layers(kind))} layers x {heads} heads")
        return "\n".join(lines)

    def _place(self, axis: str, index: int) -> tuple[int, int]:
        """Where a document's places on an axis begin, and how many they are."""
        prefix = schema.axis_prefix(axis)
        start, count = (self.column(f"documents/{prefix}{name}")[index] for name in ("token_start", "row_size"))
        return int(start), int(count)

    def tokens(self, index: int) -> dict[str, dict[str, NDArray[Any]]]:
        """axis -> token, token_id and special of one document, all read at once."""
        names = ("token", "token_id", "special")
        parts: dict[str, slice] = {}
        for axis in self.row_axes:
            start, count = self._place(axis, index)
            parts |= {f"tokens/{axis}/{name}": slice(start, start + count) for name in names}
        found = read_arrays(self.root, parts)
        return {axis: {name: found[f"tokens/{axis}/{name}"] for name in names} for axis in self.row_axes}

    def rows(self, kind: str, index: int) -> DocumentRows:
        """Where one document's rows of one kind lie in the store."""
        from attlas.storage.lazy import DocumentRows

        query_axis, key_axis = (self.attrs["kinds"][kind][name] for name in ("query_axis", "key_axis"))
        place = {}
        for axis in {query_axis, key_axis}:
            place[axis] = self._place(axis, index)
        start, count = place[query_axis]
        if query_axis in KINDS[kind]:
            position_Q = np.arange(count)
        else:
            position_Q = np.asarray(self.root[f"tokens/{query_axis}/position"][start : start + count], dtype=np.int64)  # type: ignore[index]
        kv_heads = self.column(f"{kind}/head") // int(self.attrs["kinds"][kind]["heads_per_kv_head"])
        return DocumentRows(
            readers=self._readers,
            kind=kind,
            query_start=start,
            key_start=place[key_axis][0],
            queries=count,
            keys=place[key_axis][1],
            position_Q=position_Q,
            layers=self.layers(kind),
            kv_place_H=np.searchsorted(self.column(f"{kind}/kv_head"), kv_heads),
            same_axis=KINDS[kind][0] == KINDS[kind][1],
        )


def _page(atlas: Atlas, document: str, index: int) -> Page:
    from attlas.storage.lazy import LazyAttention, LazyRows

    variables: dict[str, xr.Variable] = {}
    coordinates: dict[str, xr.Variable] = {}
    of_axis = atlas.tokens(index)
    for kind in atlas.kinds:
        rows = atlas.rows(kind, index)
        prefix = "" if kind == "self" else f"{kind}_"
        layer, head, query, key = (f"{prefix}{dim}" for dim in ("layer", "head", "query", "key"))
        told = atlas.attrs["kinds"][kind]
        tokens = {query: of_axis[told["query_axis"]], key: of_axis[told["key_axis"]]}
        places = {query: rows.position_Q, key: np.arange(rows.keys)}
        coordinates[layer] = xr.Variable(layer, list(rows.layers), {"long_name": "the model's layer index"})
        coordinates[head] = xr.Variable(head, atlas.column(f"{kind}/head"), {"long_name": "head index"})
        for dim, columns in tokens.items():
            coordinates[dim] = xr.Variable(dim, places[dim], {"long_name": "place in the document", "units": "token"})
            coordinates[f"{dim}_token"] = xr.Variable(dim, columns["token"], {"long_name": "the token as text"})
            coordinates[f"{dim}_token_id"] = xr.Variable(dim, columns["token_id"], {"long_name": "vocabulary index"})
        if atlas.tier.weights:
            variables[f"{prefix}attention"] = _variable(
                (layer, head, query, key), LazyAttention(rows), "attention weight", "1"
            )
        variables[f"{prefix}log_sum_exp"] = _variable(
            (layer, head, query), LazyRows(rows, "log_sum_exp"), "log-sum-exp of the row's scores", "nat"
        )
        for name, array in _statistics(atlas, rows, tokens[query], tokens[key]):
            known = STATISTICS[name]
            variables[f"{prefix}{name}"] = _variable((layer, head, query), array, known.definition, known.units)
    attributes = {
        "document_id": document,
        "model": atlas.model.get("name"),
        "keep": atlas.keep,
        "attention_names": ["attention" if kind == "self" else f"{kind}_attention" for kind in atlas.kinds],
    }
    return Page(variables, coordinates, attributes)


def _statistics(
    atlas: Atlas, rows: DocumentRows, query_tokens: dict[str, Any], key_tokens: dict[str, Any]
) -> Iterator[tuple[str, LazyArray]]:
    """Each row statistic as a lazy array: stored where the tier stores it, computed from the factors elsewhere."""
    from attlas.storage.lazy import LazyRows, LazyStatistic, StatisticRows

    rules = atlas.attrs["score_rules"][rows.kind]
    names = statistic_names(same_axis=rows.same_axis, sinks=any(rule["sink_logit"] for rule in rules.values()))
    if atlas.tier.statistics:
        for name in names:
            yield name, LazyRows(rows, f"statistics/{name}")
        return
    source = StatisticRows(
        rows,
        names,
        query_tokens["token_id"].astype(np.int64),
        key_tokens["token_id"].astype(np.int64),
        key_tokens["special"],
    )
    for name in names:
        yield name, LazyStatistic(source, name)


def _variable(dims: tuple[str, ...], array: LazyArray, long_name: str, units: str) -> xr.Variable:
    preferred = dict(
        zip(dims, (1, 1, PREFERRED_QUERIES, PREFERRED_KEYS), strict=False)
        if len(dims) == 4
        else zip(dims, (1, *array.shape[1:]), strict=True)
    )
    return xr.Variable(
        dims,
        indexing.LazilyIndexedArray(array),
        {"long_name": long_name, "units": units},
        encoding={"preferred_chunks": preferred},
    )


def _table(root: zarr.Group, path: str, dim: str) -> xr.Dataset:
    group = root[path]
    assert isinstance(group, zarr.Group)
    return xr.Dataset(
        {name: (dim, np.asarray(array[...]), dict(array.attrs)) for name, array in sorted(group.arrays())}
    )


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
