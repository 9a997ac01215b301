"""The store alone: factors written and read back whole, by attlas, by zarr's own arrays, and as one raw file."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from attlas.bench.limits import Limits, drop_caches, synced
from attlas.bench.machine import find_machine
from attlas.bench.report import Limit, Report, Row
from attlas.bench.rounds import Timings, run_rounds
from attlas.bench.trial import Subject, Trial
from attlas.capture.plan import CapturePlan, plan_capture
from attlas.engine.listeners.sink import LayerRows
from attlas.engine.passage.rows import Rows
from attlas.errors import DisagreementError, InputError, first_line
from attlas.storage import AtlasSpec, AtlasWriter, open_atlas
from attlas.storage.factors import FACTORS
from attlas.storage.pack_writer import to_stored
from attlas.storage.stores import open_store

__all__ = ["RAW", "bench_store"]

RAW, OURS, ZARR = "raw bytes", "attlas", "zarr"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Factors:
    """Random q (L, H, N, D), k (L, G, N, D), in the model's dtype, lse (L, H, N) float32, as a capture would hand over.

    options: fsspec's, for a URL.
    """

    plan: CapturePlan
    model: Mapping[str, Any]
    q: torch.Tensor
    k: torch.Tensor
    lse: torch.Tensor
    where: str
    options: Mapping[str, Any] | None

    @property
    def spec(self) -> AtlasSpec:
        plan = self.plan
        return AtlasSpec(
            kinds=plan.kinds, documents=plan.documents, packs=plan.packs, block=plan.sizes.block, keep="factors",
            model=self.model,
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Bytes of q, k and lse."""
        return sum(x.numel() * x.element_size() for x in (self.q, self.k, self.lse))

    @property
    def is_local(self) -> bool:
        return "://" not in self.where

    def place(self, contender: str) -> str:
        return f"{self.where}/{contender.replace(' ', '-')}"


def bench_store(
    trial: Trial, *, tokens: int, store: str | None = None, storage_options: Mapping[str, Any] | None = None
) -> Report:
    """Rows: writing and reading the factors of a document of `tokens` tokens, by each contender.

    store: an fsspec URL, or a folder, under which they are written, in a folder of their own, and removed again; None:
    the scratch folder. In a folder, writing ends when the disk has it all (fsync), and is read cold. Raises
    DisagreementError where a contender reads something else than was written, InputError where nothing can be written.
    """
    subject = trial.load()
    if subject.loaded.is_encoder_decoder:
        raise InputError("attlas bench store takes a model with one kind of attention, and this is an encoder-decoder")
    factors = _make(trial, subject, tokens, store, storage_options)
    limits = subject.limits(trial)
    writers: dict[str, Callable[[], float | None]] = {
        OURS: partial(_write_ours, factors), ZARR: partial(_write_zarr, factors), RAW: partial(_write_raw, factors),
    }  # fmt: skip
    readers: dict[str, Callable[[], float | None]] = {
        OURS: partial(_read_ours, factors), ZARR: partial(_read_zarr, factors), RAW: partial(_read_raw, factors),
    }  # fmt: skip
    _try_to_write(factors)
    try:
        written = run_rounds(
            writers,
            rounds=trial.rounds,
            before=partial(_clear, factors),
            progress=partial(_tell, trial, "write"),
        )
        trial.told("is what was written read back?")
        _check(factors)
        read = run_rounds(
            readers,
            rounds=trial.rounds,
            before=partial(_forget, factors),
            progress=partial(_tell, trial, "read"),
        )
    finally:
        _clear_all(factors)
    rows = _rows("write", writers, written, factors, limits) + _rows("read", readers, read, factors, limits)
    return Report(
        workload="store",
        model=trial.model,
        ratio=RAW,
        machine=find_machine(trial.folder),
        limits=limits,
        rows=tuple(rows),
        options={
            "tokens": tokens, "rounds": trial.rounds, "dtype": limits.dtype, "seed": trial.seed,
            "store": None if store is None else store.partition("?")[0], "bytes": factors.size,
            "block": factors.plan.sizes.block,
        },
        notes=(
            "write: until the disk has it (fsync); read: dropped from the page cache before"
            if factors.is_local
            else "a URL: raw bytes are one object, put and got as the same storage layer does it",
            "zarr: its own array writer and reader, with the same shards, chunks and codecs as attlas",
        ),
    )  # fmt: skip


def _tell(trial: Trial, task: str, what: str) -> None:
    trial.told(f"{task}: {what}")


def _make(
    trial: Trial, subject: Subject, tokens: int, store: str | None, options: Mapping[str, Any] | None
) -> _Factors:
    trial.told("making random factors")
    plan = plan_capture(subject.loaded, [subject.synthetic(tokens, seed=trial.seed)], rows=Rows(extrapolate=True))
    (kind,) = plan.kinds
    torch.manual_seed(trial.seed)
    dtype, layers = getattr(torch, kind.dtype), len(kind.layers)
    return _Factors(
        plan=plan,
        model=asdict(subject.loaded.identity) | {"position_offset": plan.layout.position_offset},
        q=torch.randn(layers, len(kind.heads), tokens, kind.features).to(dtype),
        k=torch.randn(layers, len(kind.kv_heads), tokens, kind.features).to(dtype),
        lse=torch.randn(layers, len(kind.heads), tokens),
        where=f"{(store or str(trial.folder)).rstrip('/')}/attlas-bench-{secrets.token_hex(4)}",
        options=options,
    )


def _clear(factors: _Factors, contender: str) -> None:
    _remove(_open(factors, contender))


def _open(factors: _Factors, contender: str) -> Store:
    return open_store(factors.place(contender), storage_options=factors.options)


def _try_to_write(factors: _Factors) -> None:
    """Raise InputError, before any time is taken, where the place takes no file."""
    store = _open(factors, RAW)
    try:
        sync(store.set("try", default_buffer_prototype().buffer.from_bytes(b"try")))
    except Exception as error:  # whatever the filesystem of a URL raises
        raise InputError(
            f"cannot write under {factors.where.rpartition('/')[0]}: {first_line(error)}; give --store a folder or a "
            "URL that can be written to"
        ) from error
    _clear(factors, RAW)


def _clear_all(factors: _Factors) -> None:
    _remove(open_store(factors.where, storage_options=factors.options))


def _remove(store: Store) -> None:
    """Everything in a store that this benchmark made, the folder itself included."""
    sync(store.delete_dir(""))
    if isinstance(store, LocalStore):
        shutil.rmtree(store.root, ignore_errors=True)


def _forget(factors: _Factors, contender: str) -> None:
    if factors.is_local:
        drop_caches(Path(factors.place(contender)))


def _write_ours(factors: _Factors) -> None:
    """Layer by layer, as a forward pass hands them over, through the capture's own sink."""
    writer = AtlasWriter.create(factors.place(OURS), factors.spec, storage_options=factors.options)
    (kind,), (pack,) = factors.plan.kinds, factors.plan.packs
    stop = torch.arange(1, factors.q.shape[2] + 1, dtype=torch.int32)
    with writer.pack(pack) as sink:
        for i, layer in enumerate(kind.layers):
            sink.write(
                LayerRows(
                    kind=kind.kind, layer=layer, query_start=0, key_start=0,
                    factors={
                        "q": factors.q[i], "k": factors.k[i], "log_sum_exp": factors.lse[i], "key_start": stop * 0,
                        "key_stop": stop,
                    },
                )
            )  # fmt: skip
        writer.commit(pack, seconds=0.0, attempt=1, size=sink.flush())
    _finish(factors, OURS)


def _write_zarr(factors: _Factors) -> None:
    """The same arrays, filled by assignment, in whole shards."""
    root = AtlasWriter.create(factors.place(ZARR), factors.spec, storage_options=factors.options).root
    for name, values in _named(factors).items():
        array = _array(root, factors, name)
        span = (array.shards or array.chunks)[0]
        for layer in range(0, array.shape[0], span):
            part = values[layer : layer + span]
            array[layer : layer + span, :, : part.shape[2]] = part
    _finish(factors, ZARR)


def _write_raw(factors: _Factors) -> None:
    for name, values in _named(factors).items():
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        if factors.is_local:
            path = Path(factors.place(RAW))
            path.mkdir(parents=True, exist_ok=True)
            raw.tofile(path / name)
        else:
            store = _open(factors, RAW)
            sync(store.set(name, default_buffer_prototype().buffer.from_array_like(raw)))
    _finish(factors, RAW)


def _finish(factors: _Factors, contender: str) -> None:
    if factors.is_local:
        synced(Path(factors.place(contender)))


def _read_ours(factors: _Factors) -> None:
    for _ in _ours(factors):
        pass


def _ours(factors: _Factors) -> Iterator[list[NDArray[Any]]]:
    """q and k of one layer after the other, through the rows that queries read by."""
    atlas = open_atlas(factors.place(OURS), storage_options=factors.options)
    (kind,), rows = factors.plan.kinds, atlas.rows(atlas.kinds[0], 0)
    tokens, layers = np.arange(rows.queries), range(len(rows.layers))
    query, key = (None, rows.query_start + tokens), (None, rows.key_start + tokens)
    for layer in layers:
        q, k, _ = rows.read(layer, q=query, k=key, log_sum_exp=query)
        yield [to_stored(part, FACTORS[name], kind) for name, part in (("q", q), ("k", k))]


def _read_zarr(factors: _Factors) -> None:
    root = zarr.open_group(_open(factors, ZARR), mode="r")
    for name in _named(factors):
        array = _array(root, factors, name)
        span = (array.shards or array.chunks)[0]
        for layer in range(0, array.shape[0], span):
            np.asarray(array[layer : layer + span])


def _read_raw(factors: _Factors) -> None:
    for name in _named(factors):
        if factors.is_local:
            np.fromfile(Path(factors.place(RAW)) / name, dtype=np.uint8)
        else:
            store = _open(factors, RAW)
            sync(store.get(name, default_buffer_prototype()))


def _check(factors: _Factors) -> None:
    """Raise DisagreementError where attlas or zarr does not read what was written."""
    root = zarr.open_group(_open(factors, ZARR), mode="r")
    tokens, named = factors.q.shape[2], _named(factors)
    for layer, ours in enumerate(_ours(factors)):
        for name, found in zip(("q", "k"), ours, strict=True):
            theirs = np.asarray(_array(root, factors, name)[layer])[:, :tokens]
            if not (np.array_equal(found, named[name][layer]) and np.array_equal(theirs, named[name][layer])):
                raise DisagreementError(
                    f"{name} is not read back as it was written: no time is taken; see attlas verify"
                )


def _array(root: zarr.Group, factors: _Factors, name: str) -> zarr.Array[Any]:
    array = root[f"{factors.plan.kinds[0].kind}/{name}"]
    assert isinstance(array, zarr.Array)
    return array


def _named(factors: _Factors) -> dict[str, NDArray[Any]]:
    """The arrays as the store holds them."""
    (kind,) = factors.plan.kinds
    every = {"q": factors.q, "k": factors.k, "log_sum_exp": factors.lse}
    return {name: to_stored(x, FACTORS[name], kind) for name, x in every.items()}


def _rows(task: str, contenders: Mapping[str, Any], timings: Timings, factors: _Factors, limits: Limits) -> list[Row]:
    """In a folder the disk's bandwidth is the limit, at a URL what the raw bytes take there."""
    assert limits.disk is not None
    speed = limits.disk.write if task == "write" else limits.disk.read_cold
    rows = []
    for name in contenders:
        times, ratio = timings.times(name), timings.ratio(name, RAW)
        bound = Limit(name=f"disk {task}", seconds=factors.size / speed)
        if not factors.is_local:
            bound = Limit(name=RAW, seconds=times.median / ratio)
        rows.append(
            Row(
                contender=name, task=task, tokens=factors.q.shape[2], times=times, ratio=ratio,
                rate=factors.size / times.median, rate_unit="bytes/s", moved_bytes=factors.size, limits=(bound,),
            )
        )  # fmt: skip
    return rows
