"""Questions of one document: a row, a tile, a head's whole map, cold and warm, from factors, maps and plain Zarr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.storage import LocalStore, WrapperStore

import attlas
from attlas.bench.limits import Limits, drop_caches
from attlas.bench.machine import find_machine
from attlas.bench.report import Limit, Report, Row
from attlas.bench.rounds import Timings, run_rounds
from attlas.bench.trial import Ids, Subject, Trial
from attlas.errors import DisagreementError, InputError
from attlas.storage import store_bytes
from attlas.storage.schema import map_group
from attlas.storage.zarr_shard_reader import KEPT_BYTES

__all__ = ["PLAIN", "Place", "Way", "bench_query", "check_equal", "ways_to"]

PLAIN = "plain zarr"
TILE = 64
CHUNK = 512
RELATIVE, ABSOLUTE = 1e-3, 1e-6
"""By how much float16 maps may differ from float32 weights: half a unit in the last place, and the smallest numbers."""
WARM_PLACES = 4
"""Warm places to a cold one: they are quick."""
TASKS = ("one row", "64 x 64 tile", "whole map")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Cells of one head. layer: the model's index; head: its place."""

    layer: int
    head: int
    queries: slice
    keys: slice


Ask = Callable[[Place], NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A store and how it is opened; the result answers places. layers: which it holds."""

    name: str
    folder: Path
    layers: tuple[int, ...]
    open: Callable[[Store], Ask]


def bench_query(trial: Trial, *, tokens: int | None) -> Report:
    """Rows: each way to each question, the file cache dropped and the store newly opened (cold), or not (warm).

    tokens: of the document, the first given by the user or a synthetic one; None: as long as it is. Maps and plain Zarr
    hold the first and the last layer alone, and all questions are of these. Raises DisagreementError where two ways
    give different numbers; no time is then taken.
    """
    subject = trial.load()
    document = subject.documents(trial, tokens)[0]
    ways = ways_to(trial, subject, document)
    limits = subject.limits(trial)
    queries, keys = _size(ways[0])
    if queries < TILE or keys < TILE:
        raise InputError(f"a document of {min(queries, keys)} tokens has no tile of {TILE} x {TILE}: take a longer one")
    rows: list[Row] = []
    for task in TASKS:
        places = _places(task, trial, subject, ways[-1].layers, queries, keys)
        trial.told(f"{task}: are all ways equal?")
        check_equal(ways, next(places))
        rows += _cold(trial, subject, limits, ways, task, places, keys)
        rows += _warm(trial, subject, limits, ways, task, places, keys)
    machine = find_machine(trial.folder)
    return Report(
        workload="query",
        model=trial.model,
        ratio=PLAIN,
        machine=machine,
        limits=limits,
        rows=tuple(rows),
        options={
            "tokens": keys, "rounds": trial.rounds, "dtype": limits.dtype, "device": limits.device, "seed": trial.seed,
            "synthetic": trial.texts is None, "layers": list(ways[-1].layers),
            "stored_bytes": {way.name: store_bytes(way.folder) for way in ways},
        },
        notes=(
            "cold: every file of the store dropped from the page cache, and the store opened anew, in the time",
            f"warm: an open atlas keeps the chunks of q and k that it read last, up to {KEPT_BYTES / 2**20:.0f} MiB; "
            "zarr reads what the page cache holds",
            f"factors hold all {len(ways[0].layers)} layers; maps and plain zarr {len(ways[-1].layers)}, which alone "
            "are asked for",
            *(("the folder lies in memory: cold is not cold here",) if machine.disk_is_memory else ()),
        ),
    )  # fmt: skip


def ways_to(trial: Trial, subject: Subject, document: Ids) -> list[Way]:
    """Make the three stores: factors of all layers; maps, and float16 weights in plain Zarr, of the first and last."""
    trial.told("capturing factors")
    factors = trial.folder / "factors.zarr"
    options: dict[str, Any] = {"ids": ["document"], "extrapolate": True}
    atlas = attlas.capture(subject.loaded.model, [document], factors, **options)
    kind = atlas.kinds[0]
    all_layers = atlas.layers(kind)
    layers = tuple(dict.fromkeys((all_layers[0], all_layers[-1])))
    trial.told(f"capturing maps of {len(layers)} layers")
    maps = trial.folder / "maps.zarr"
    attlas.capture(subject.loaded.model, [document], maps, keep="maps", layers=layers, **options)
    trial.told(f"writing plain zarr of {len(layers)} layers")
    plain = trial.folder / "plain.zarr"
    attention = atlas.attention("document", kind)
    for layer in layers:
        a_HQK = attention[all_layers.index(layer)].values.astype(np.float16)
        one = xr.Dataset({"attention": (("layer", "head", "query", "key"), a_HQK[None])}, {"layer": [layer]})
        chunks = {"attention": {"chunks": (1, 1, *(min(CHUNK, size) for size in a_HQK.shape[1:]))}}
        how: dict[str, Any] = {"encoding": chunks} if layer == layers[0] else {"append_dim": "layer"}
        one.to_zarr(plain, zarr_format=3, consolidated=False, **how)

    def from_factors(store: Store) -> Ask:
        opened = attlas.open_atlas(store).attention("document", kind)
        return lambda place: np.asarray(
            opened[all_layers.index(place.layer), place.head, place.queries, place.keys].values
        )

    def from_zarr(group: str | None) -> Callable[[Store], Ask]:
        def opened(store: Store) -> Ask:
            found = xr.open_zarr(store, group=group, chunks=None, consolidated=False)["attention"]
            return lambda place: np.asarray(
                found[layers.index(place.layer), place.head, place.queries, place.keys].values
            )

        return opened

    return [
        Way(name="factors", folder=factors, layers=all_layers, open=from_factors),
        Way(name="maps", folder=maps, layers=layers, open=from_zarr(map_group(kind, "document"))),
        Way(name=PLAIN, folder=plain, layers=layers, open=from_zarr(None)),
    ]


def check_equal(ways: Sequence[Way], place: Place) -> None:
    """Raise DisagreementError where two ways tell other weights than the first, beyond the rounding of float16."""
    first, *others = ((way.name, way.open(LocalStore(way.folder, read_only=True))(place)) for way in ways)
    for name, found in others:
        off = np.abs(found.astype(np.float64) - first[1]) - RELATIVE * np.abs(first[1].astype(np.float64))
        if found.shape != first[1].shape or float(off.max(initial=0.0)) > ABSOLUTE:
            raise DisagreementError(
                f"{name} and {first[0]} give different weights for layer {place.layer}, head {place.head}, queries "
                f"{place.queries.start}:{place.queries.stop}: no time is taken of ways that disagree; see attlas verify"
            )


def _size(way: Way) -> tuple[int, int]:
    """Queries and keys of the document."""
    atlas = attlas.open_atlas(way.folder)
    rows = atlas.rows(atlas.kinds[0], 0)
    return rows.queries, rows.keys


def _places(
    task: str, trial: Trial, subject: Subject, layers: Sequence[int], queries: int, keys: int
) -> Iterator[Place]:
    """Random places without end, seeded; a tile touches the diagonal or lies below it, where there are weights."""
    draw = np.random.default_rng([trial.seed, TASKS.index(task)])
    heads = subject.shape.layers[0].heads
    while True:
        layer, head = int(draw.choice(np.asarray(layers))), int(draw.integers(heads))
        if task == "one row":
            row = int(draw.integers(queries))
            yield Place(layer=layer, head=head, queries=slice(row, row + 1), keys=slice(0, keys))
        elif task == "whole map":
            yield Place(layer=layer, head=head, queries=slice(0, queries), keys=slice(0, keys))
        else:
            row = int(draw.integers(queries - TILE + 1))
            key = int(draw.integers(min(row, keys - TILE) + 1))
            yield Place(layer=layer, head=head, queries=slice(row, row + TILE), keys=slice(key, key + TILE))


def _cold(
    trial: Trial, subject: Subject, limits: Limits, ways: Sequence[Way], task: str, places: Iterator[Place], keys: int
) -> list[Row]:
    drawn = [next(places) for _ in range(trial.rounds + 1)]
    folders = {way.name: way.folder for way in ways}

    def asked(way: Way) -> Callable[[], None]:
        left = iter(drawn)

        def run() -> None:
            way.open(LocalStore(way.folder, read_only=True))(next(left))

        return run

    timings = run_rounds(
        {way.name: asked(way) for way in ways}, rounds=trial.rounds, before=lambda name: drop_caches(folders[name]),
        progress=lambda what: trial.told(f"{task}, cold: {what}"),
    )  # fmt: skip
    return [_row(way, timings, subject, limits, f"{task}, cold", drawn[-1], keys, cold=True) for way in ways]


def _warm(
    trial: Trial, subject: Subject, limits: Limits, ways: Sequence[Way], task: str, places: Iterator[Place], keys: int
) -> list[Row]:
    count = trial.rounds * (1 if task == "whole map" else WARM_PLACES)
    drawn = [next(places) for _ in range(count + 1)]

    def asked(way: Way) -> Callable[[], None]:
        ask, left = way.open(LocalStore(way.folder, read_only=True)), iter(drawn)

        def run() -> None:
            ask(next(left))

        return run

    timings = run_rounds(
        {way.name: asked(way) for way in ways}, rounds=count,
        progress=lambda what: trial.told(f"{task}, warm: {what}"),
    )  # fmt: skip
    return [_row(way, timings, subject, limits, f"{task}, warm", drawn[-1], keys, cold=False) for way in ways]


def _row(
    way: Way, timings: Timings, subject: Subject, limits: Limits, task: str, place: Place, keys: int, *, cold: bool
) -> Row:
    """place: a typical one, whose bytes are counted; of a cold question with those of opening."""
    counted = _CountingStore(LocalStore(way.folder, read_only=True))
    ask = way.open(counted)
    before = 0 if cold else counted.read
    cells = ask(place).size
    moved = counted.read - before
    assert limits.disk is not None
    bounds = [
        Limit(name="disk read", seconds=moved / limits.disk.read_cold)
        if cold
        else Limit(name="memory read", seconds=moved / limits.disk.read_warm)
    ]
    if way.name == "factors":
        bounds.append(Limit(name="q.k", seconds=2.0 * subject.features * cells / limits.qk_flops))
    return Row(
        contender=way.name,
        task=task,
        tokens=keys,
        times=timings.times(way.name),
        ratio=timings.ratio(way.name, PLAIN),
        moved_bytes=moved,
        limits=tuple(bounds),
    )


class _CountingStore(WrapperStore[Store]):
    """Counts the bytes that are read through it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.read = 0

    def _with_store(self, store: Store) -> _CountingStore:
        return self

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        value = await super().get(key, prototype, byte_range)
        self.read += 0 if value is None else len(value)
        return value
