"""Reading an atlas: a mapping from document ids to pages, which are lazy xarray Datasets."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store

from attlas.engine.model.layout import KINDS
from attlas.engine.passage.selection import describe_indices
from attlas.errors import DocumentMissingError, InputError
from attlas.parse import is_integer, refuse, shown
from attlas.storage import schema
from attlas.storage.commits import COMMITTED, FAILED, Records, read_states
from attlas.storage.digests import read_columns
from attlas.storage.fields import field_name
from attlas.storage.stores import Where, open_root, store_name
from attlas.storage.tiers import TIERS, Tier

if TYPE_CHECKING:  # loaded when weights are asked for: what an atlas holds can be told without torch
    from attlas.storage.lazy import DocumentRows
    from attlas.storage.operator import AttentionOperator
    from attlas.storage.zarr_shard_reader import ZarrShardReaders

__all__ = ["Atlas", "open_atlas", "parse_atlas"]


def open_atlas(where: Where, *, storage_options: Mapping[str, Any] | None = None) -> Atlas:
    """Open an atlas for reading; see `Atlas`.

    >>> list(attlas.open_atlas("demo.zarr"))
    ['demo']

    where: a folder, a URL such as s3://bucket/name.zarr, "memory://name", or a zarr store. storage_options: fsspec's,
    for a URL. Raises StoreMissingError where there is no atlas, CorruptAtlasError where it contradicts itself.
    """
    return Atlas(open_root(where, storage_options=storage_options), store_name(where))


def parse_atlas(given: Atlas | Where) -> Atlas:
    """An atlas, or where one lies, which is then opened; raises InputError, StoreMissingError."""
    if isinstance(given, Atlas):
        return given
    if not isinstance(given, str | Path | Store) or given == "":
        raise refuse(given, "atlas", "give what attlas.open_atlas returns, or where an atlas lies")
    return open_atlas(given)


class Atlas(Mapping[str, xr.Dataset]):
    """The captured attention of one model over documents: a mapping from document id to page, in the user's order.

    >>> atlas = attlas.open_atlas("demo.zarr")
    >>> page = atlas["demo"]
    >>> page.attention.sel(layer=1, head=0).isel(query=106, key=[48, 49]).values
    array([3.06e-05, 9.97e-01], dtype=float32)

    A page has `attention(layer, head, query, key)`, `log_sum_exp` and every row statistic `(layer, head, query)`,
    float32, with `query_token`, `query_token_id`, `query_char_start`, `query_char_end` and `query_word` beside, and the
    same of `key`. An encoder-decoder's page has `encoder_attention`,
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
        self._columns = read_columns(root, dict.fromkeys(paths, ...))
        self._ids: list[str] = [str(i) for i in self.column("documents/document_id")]
        self._index = {document: i for i, document in enumerate(self._ids)}
        self._pack = self.column("documents/pack")
        self.states = read_states(root, self.column("packs/state"))
        """The state of each pack when the atlas was opened: 0 pending, 1 committed, 2 failed."""
        self._committed = self.states == COMMITTED

    @cached_property
    def _readers(self) -> ZarrShardReaders:
        from attlas.storage.zarr_shard_reader import KeptChunks, ZarrShardReaders

        return ZarrShardReaders(self.root, KeptChunks())

    @cached_property
    def bulk_readers(self) -> ZarrShardReaders:
        """Readers that keep no chunk, for what goes over all rows once; opened once for as long as the atlas is."""
        from attlas.storage.zarr_shard_reader import ZarrShardReaders

        return ZarrShardReaders(self.root)

    @property
    def identity(self) -> str:
        """What tells this atlas from any other, an older one at the same place too."""
        return str(self.attrs["identity"])

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
        if not isinstance(path, str) or not all(part.strip(".") for part in path.split("/")):
            raise refuse(path, "path", "give the path of an array of the store, such as self/layer")
        if path not in self._columns:
            self._columns |= read_columns(self.root, {path: ...})
        return self._columns[path]

    @cached_property
    def documents(self) -> xr.Dataset:
        """One row a document, committed or not: id, sizes, pack, truncated_from, state."""
        table = _table(self.root, "documents", "document")
        return table.assign(state=("document", self.states[self._pack]))

    @cached_property
    def packs(self) -> xr.Dataset:
        """The commit records: state (0 pending, 1 committed, 2 failed), attempt, seconds, bytes, token ranges."""
        records = Records(self.root).table()
        table = _table(self.root, "packs", "pack", without=("commit", "failure", "digests", *records))
        attributes = {name: dict(self.root[f"packs/{name}"].attrs) for name in records}
        return table.assign({name: ("pack", values, attributes[name]) for name, values in records.items()})

    @cached_property
    def committed_records(self) -> str:
        """A digest of the records of the packs that were committed when the atlas was opened, whose rows it reads."""
        return Records(self.root).digest(self._committed)

    def layers(self, kind: str) -> tuple[int, ...]:
        return tuple(int(i) for i in self.column(f"{self.parse_kind(kind)}/layer"))

    def __iter__(self) -> Iterator[str]:
        return (document for i, document in enumerate(self._ids) if self._committed[self._pack[i]])

    def __len__(self) -> int:
        return int(self._committed[self._pack].sum())

    def __getitem__(self, document: str) -> xr.Dataset:
        from attlas.storage.page import make_page

        return make_page(self, document, self.committed_index(document))

    def attention(self, document: str, kind: str = "self") -> xr.DataArray:
        """The weights of one document, (layer, head, query, key) float32, whatever the kind; lazy.

        >>> atlas.attention("demo").sel(layer=1, head=0).isel(query=106, key=[48, 49]).values
        array([3.06e-05, 9.97e-01], dtype=float32)

        kind: `self`, or an encoder-decoder's `encoder`, `decoder` or `cross`. layer, head: the model's indices. query,
        key: places in the document, with `query_token`, `query_token_id`, `key_token`, `key_token_id` beside.
        Raises DocumentMissingError where the document is not there or not committed, InputError where the kind is not,
        TierError where the tier keeps no weights.
        """
        from attlas.storage.page import make_attention

        return make_attention(self, document, self.committed_index(document), self.parse_kind(kind))

    def parse_kind(self, kind: str | None) -> str:
        """One of the kinds, the first for None; raises InputError."""
        kind = self.kinds[0] if kind is None else kind
        if not isinstance(kind, str) or kind not in self.kinds:
            named = kind if isinstance(kind, str) else shown(kind)
            raise InputError(f"{self.name} has no {named} attention: it has {', '.join(self.kinds)}")
        return kind

    def operator(self, document: str, layer: int, kind: str = "self") -> AttentionOperator:
        """One layer's attention of one document as a linear map: A @ X and A.T @ X at any length, never forming A.

        >>> operator = atlas.operator("demo", layer=1)
        >>> received = operator.apply_transposed(np.ones(146), head="mean")
        >>> received.shape, received.sum().item()
        ((146,), 146.00)

        layer: the model's index. kind: as `attention`; errors too. See `attlas.storage.AttentionOperator`.
        """
        from attlas.storage.operator import make_operator

        return make_operator(self, document, self.committed_index(document), self.parse_kind(kind), layer)

    def key_intervals(self, document: str, layer: int, kind: str = "self") -> xr.Dataset:
        """The keys that each query of a document may see in a layer: from key_start to before key_stop (query).

        >>> atlas.key_intervals("demo", layer=1).sel(query=106).key_stop.item()
        107

        layer: the model's index. A causal model's query sees up to itself; what is masked within an interval is so by
        its score. Raises DocumentMissingError, and InputError where the kind or the layer is not there.
        """
        kind = self.parse_kind(kind)
        layers = self.layers(kind)
        if not is_integer(layer) or layer not in layers:
            raise InputError(f"there is no layer {shown(layer)}: the atlas has {describe_indices(layers)}")
        rows = self.rows(kind, self.committed_index(document))
        start, stop = rows.intervals(layers.index(layer), np.arange(rows.queries))
        attributes = {"units": "token"}
        return xr.Dataset(
            {"key_start": ("query", start, attributes), "key_stop": ("query", stop, attributes)},
            {"query": rows.position_Q},
        )

    def view(self, document: str | None = None, **shown: Any) -> Any:
        """The page of `attlas view` in a notebook; see `attlas.view`, whose options and errors it has.

        >>> atlas.view(layer=1, head=0).head
        0
        """
        import attlas  # whose names say who draws it: this floor knows nobody above

        return attlas.view(self, document, **shown)

    def committed_index(self, document: str) -> int:
        """The number of a committed document, by which `places` and `tokens` know it; raises DocumentMissingError."""
        if not isinstance(document, str) or document not in self._index:
            near = difflib.get_close_matches(document, self._ids, n=1) if isinstance(document, str) else []
            hint = f"did you mean {near[0]!r}?" if near else f"it holds {_some(self._ids)}"
            named = repr(document) if isinstance(document, str) else shown(document)
            raise DocumentMissingError(f"{self.name} has no document {named}: {hint}")
        index = self._index[document]
        pack = self._pack[index]
        if not self._committed[pack]:
            failed = self.states[pack] == FAILED
            why = f"which failed ({self.packs['error'].values[pack]})" if failed else "which is not committed"
            raise DocumentMissingError(
                f"document {document!r} is in pack {pack}, {why}: finish the capture with --resume"
            )
        return index

    def __repr__(self) -> str:
        model = self.model
        lines = [f"<attlas.Atlas {self.name}>", f"model      {model.get('name')} ({model.get('model_class')})"]
        lines.append(f"tier       {self.keep}")
        lines.append(f"documents  {len(self)} of {len(self._ids)} committed: {_some(self._ids)}")
        for kind in self.kinds:
            heads = len(self.column(f"{kind}/head"))
            lines.append(f"{kind:<10} {len(self.layers(kind))} layers x {heads} heads")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """What a notebook shows: model, tier, documents, and each kind's layers, heads and longest document."""
        from attlas.storage.atlas_table import atlas_table

        return atlas_table(self)

    def _place(self, axis: str, index: int) -> tuple[int, int]:
        """Where a document's places on an axis begin, and how many they are."""
        prefix = schema.axis_prefix(axis)
        start, count = (self.column(f"documents/{prefix}{name}")[index] for name in ("token_start", "row_size"))
        return int(start), int(count)

    def places(self, axis: str, index: int) -> slice:
        """A document's range on an axis."""
        start, count = self._place(axis, index)
        return slice(start, start + count)

    def tokens(self, index: int, axes: Sequence[str] | None = None) -> dict[str, dict[str, NDArray[Any]]]:
        """axis -> token, token_id and special of one document, all read at once. axes: None for all."""
        names, axes = ("token", "token_id", "special"), self.row_axes if axes is None else axes
        parts: dict[str, slice] = {}
        for axis in axes:
            own = self.places(axis, index)
            parts |= {f"tokens/{axis}/{name}": own for name in names}
        columns = read_columns(self.root, parts)
        return {axis: {name: columns[f"tokens/{axis}/{name}"] for name in names} for axis in axes}

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
            path = f"tokens/{query_axis}/position"
            position_Q = read_columns(self.root, {path: slice(start, start + count)})[path].astype(np.int64)
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


def _table(root: zarr.Group, path: str, dim: str, without: Sequence[str] = ()) -> xr.Dataset:
    group = root[path]
    assert isinstance(group, zarr.Group)
    arrays = {name: array for name, array in sorted(group.arrays()) if name not in without}
    values = read_columns(root, {f"{path}/{name}": ... for name in arrays})
    return xr.Dataset({field_name(a): (dim, values[f"{path}/{name}"], dict(a.attrs)) for name, a in arrays.items()})


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
