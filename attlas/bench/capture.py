"""The capture's tiers against the model's plain forward pass: time, peak memory and disk, at several lengths."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

import attlas
from attlas.bench.isolated import Peak, measure_peaks
from attlas.bench.limits import Limits
from attlas.bench.machine import find_machine
from attlas.bench.report import Limit, Report, Row
from attlas.bench.rounds import Contender, Timings, run_rounds
from attlas.bench.trial import Ids, Subject, Trial, plain_forward, sides
from attlas.engine.model.load import load_model
from attlas.storage import Atlas, store_bytes
from attlas.storage.tiers import TIERS

__all__ = ["FORWARD", "bench_capture", "visible_cells"]

FORWARD = "forward"
"""The contender all tiers are held to: the model's own forward pass, without a capture."""


def bench_capture(
    trial: Trial, *, tokens: Sequence[int | None], keeps: Sequence[str], most_maps: int, chunk_tokens: int | None = None
) -> Report:
    """Rows: the plain forward pass and each tier of `keeps`, at each length of `tokens`.

    tokens: None for the user's documents as they are. most_maps: maps of longer documents are left out, and the row
    says so. Seconds are the capture's own, from a pack's begin to its commit: loading and probing are left out.
    """
    subject = trial.load()
    sizes = [  # what is wrong with the documents is told before any time is spent
        _Size(documents=subject.documents(trial, count), most_maps=most_maps)
        for count in sorted(tokens, key=lambda count: count or 0)
    ]
    limits = subject.limits(trial)
    measured = [_time_one(trial, subject, size, keeps, chunk_tokens) for size in sizes]
    peaks = _peaks(trial, sizes, keeps, chunk_tokens) if trial.peak else {}
    rows: list[Row] = []
    for i, (size, found) in enumerate(zip(sizes, measured, strict=True)):
        for name in (FORWARD, *keeps):
            rows.append(_row(name, size, found, peaks.get((name, i)), subject, limits))
    beyond = dict.fromkeys(remark for size in sizes if (remark := subject.beyond(size.documents)))
    return Report(
        workload="capture",
        model=trial.model,
        ratio=FORWARD,
        machine=find_machine(trial.folder),
        limits=limits,
        rows=tuple(rows),
        options={
            "tokens": list(tokens), "keep": list(keeps), "rounds": trial.rounds, "dtype": limits.dtype,
            "device": limits.device, "chunk_tokens": chunk_tokens, "most_maps": most_maps,
            "documents": len(sizes[0].documents), "synthetic": trial.texts is None, "seed": trial.seed,
        },
        notes=(
            "seconds from a pack's begin to its commit; loading, probing and creating the store are left out",
            *(f"some documents go {remark}: fine for time, not for meaning" for remark in beyond),
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Size:
    documents: list[Ids]
    most_maps: int

    @property
    def total(self) -> int:
        return sum(len(side) for document in self.documents for side in sides(document))

    @property
    def longest(self) -> int:
        return max(len(side) for document in self.documents for side in sides(document))

    def takes(self, name: str) -> bool:
        return name not in TIERS or not TIERS[name].maps or self.longest <= self.most_maps


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Measured:
    """stored: tier -> bytes on disk. cells: that hold a weight, in all maps together; 0 where no tier was captured."""

    timings: Timings
    stored: Mapping[str, int]
    cells: int


def _time_one(trial: Trial, subject: Subject, size: _Size, keeps: Sequence[str], chunk_tokens: int | None) -> _Measured:
    stored: dict[str, int] = {}
    cells = [0]

    def tier(keep: str) -> Contender:
        def run() -> float:
            place = Path(tempfile.mkdtemp(dir=trial.folder))
            try:
                atlas = attlas.capture(
                    subject.loaded.model, size.documents, place / "atlas.zarr", keep=keep, extrapolate=True,
                    chunk_tokens=chunk_tokens,
                )  # fmt: skip
                if keep not in stored:
                    stored[keep] = store_bytes(place / "atlas.zarr")
                    cells[0] = visible_cells(atlas)
                return float(atlas.packs["seconds"].sum())
            finally:
                shutil.rmtree(place)

        return run

    contenders: dict[str, Contender] = {FORWARD: lambda: plain_forward(subject.loaded.model, size.documents)}
    contenders |= {keep: tier(keep) for keep in keeps if size.takes(keep)}
    timings = run_rounds(
        contenders, rounds=trial.rounds, progress=lambda what: trial.told(f"{size.total:,} tokens: {what}")
    )
    return _Measured(timings=timings, stored=stored, cells=cells[0])


def _peaks(
    trial: Trial, sizes: Sequence[_Size], keeps: Sequence[str], chunk_tokens: int | None
) -> dict[tuple[str, int], Peak]:
    """(contender, place of the size) -> its peak; a process for each contender, which takes all sizes in order."""
    found: dict[tuple[str, int], Peak] = {}
    for name in (FORWARD, *keeps):
        places = [i for i, size in enumerate(sizes) if size.takes(name)]
        if places:
            trial.told(f"{name}: peak memory")
            documents = [sizes[i].documents for i in places]
            peaks = measure_peaks(
                prepare, trial.model, trial.dtype, trial.device, documents, name, chunk_tokens, str(trial.folder)
            )
            found |= {(name, i): peak for i, peak in zip(places, peaks, strict=True)}
    return found


def _row(name: str, size: _Size, measured: _Measured, peak: Peak | None, subject: Subject, limits: Limits) -> Row:
    if not size.takes(name):
        note = f"left out: maps of {size.longest:,} tokens are beyond --most-maps {size.most_maps}"
        return Row(contender=name, task="capture", tokens=size.total, note=note)
    times, stored = measured.timings.times(name), measured.stored.get(name)
    ratio = measured.timings.ratio(name, FORWARD)
    flops = 2.0 * subject.features * measured.cells
    bounds = [Limit(name="q.k", seconds=flops / limits.qk_flops)] if flops else []
    if name == FORWARD:
        bounds.append(Limit(name="matmul", seconds=subject.weight_flops(size.total) / limits.matmul_flops))
    else:
        bounds.append(Limit(name="forward pass", seconds=times.median / ratio))
    if stored is not None and limits.disk is not None:
        bounds.append(Limit(name="disk write", seconds=stored / limits.disk.write))
    return Row(
        contender=name,
        task="capture",
        tokens=size.total,
        times=times,
        ratio=ratio,
        rate=size.total / times.median,
        rate_unit="tokens/s",
        peak_bytes=None if peak is None else peak.above,
        device_bytes=peak.device if peak is not None and peak.device else None,
        stored_bytes=stored,
        moved_bytes=stored,
        limits=tuple(bounds),
    )


def visible_cells(atlas: Atlas) -> int:
    """Cells of all maps that hold a weight: the keys in each row's interval, over rows, heads, layers and documents."""
    count = 0
    for kind in atlas.kinds:
        for index in range(len(atlas)):
            rows = atlas.rows(kind, index)
            for layer in range(len(rows.layers)):
                start_Q, stop_Q = rows.intervals(layer, np.arange(rows.queries))
                count += int((stop_Q - start_Q).sum()) * rows.heads
    return count


def prepare(
    model: str, dtype: str, device: str, sizes: list[list[Ids]], name: str, chunk_tokens: int | None, folder: str
) -> list[Callable[[], None]]:
    """In a fresh process: load the model and warm up on a few tokens; returns a run for each of `sizes`."""
    loaded = load_model(model, dtype=dtype, device=device)

    def run(documents: list[Ids]) -> None:
        if name == FORWARD:
            plain_forward(loaded.model, documents)
            return
        with tempfile.TemporaryDirectory(dir=folder) as place:
            attlas.capture(
                loaded.model, documents, Path(place) / "atlas.zarr", keep=name, extrapolate=True,
                chunk_tokens=chunk_tokens,
            )  # fmt: skip

    run([_short(sizes[0][0])])
    return [partial(run, documents) for documents in sizes]


def _short(document: Ids) -> Ids:
    return tuple(side[:16] for side in document) if isinstance(document, tuple) else document[:16]
