"""Statistics of every head from factors, exact and sampled, against numpy over materialised float16 maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

import attlas
from attlas import analysis
from attlas.bench.capture import visible_cells
from attlas.bench.dense import dense_maps, distance_edges
from attlas.bench.limits import Limits
from attlas.bench.machine import find_machine
from attlas.bench.report import Limit, Report, Row
from attlas.bench.rounds import Contender, Timings, run_rounds
from attlas.bench.trial import Ids, Subject, Trial
from attlas.errors import DisagreementError, InputError
from attlas.jobs.corpus import find_corpus
from attlas.storage import Atlas
from attlas.storage.schema import map_group

__all__ = ["DENSE", "bench_statistics", "check_equal"]

EXACT, SAMPLED, DENSE = "exact", "sampled", "numpy on maps"
RELATIVE = 0.01
"""By how much means over rows may differ: float16 forgets weights below 6e-8, of which long rows have many."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Stored:
    """factors: of all layers. maps: of `map_layers` alone; None where they are left out. cells: all that hold a weight.

    rows: query rows of a head, as many as tokens.
    """

    factors: Atlas
    maps: Atlas | None
    map_layers: tuple[int, ...]
    rows: int
    cells: int


def bench_statistics(trial: Trial, *, tokens: Sequence[int | None], sample: float, most_maps: int) -> Report:
    """Rows: the exact answer over all layers, one from a share `sample` of the query rows, and numpy's over maps.

    Maps are those of the first and the last layer; of documents longer than `most_maps` they are left out, and the row
    says so. Rates are query rows of one head that the answer is about, a second, so that they compare. Raises
    DisagreementError where numpy and the exact answer differ.
    """
    subject = trial.load()
    if subject.loaded.is_encoder_decoder or not subject.shape.chunkable:
        raise InputError("attlas bench stats compares causal attention of one text: give a decoder-only model")
    sizes = [subject.documents(trial, count)[:1] for count in sorted(tokens, key=lambda count: count or 0)]
    limits = subject.limits(trial)
    rows: list[Row] = []
    depth = heads = 0
    for i, documents in enumerate(sizes):
        stored = _store(trial, subject, documents, most_maps, i)
        depth, heads = len(stored.factors.layers("self")), len(stored.factors.column("self/head"))
        timings, share = _time(trial, stored, sample)
        rows += _rows(stored, timings, share, limits, subject.features, heads, most_maps)
    return Report(
        workload="stats",
        model=trial.model,
        ratio=DENSE,
        machine=find_machine(trial.folder),
        limits=limits,
        rows=tuple(rows),
        options={
            "tokens": list(tokens), "sample": sample, "rounds": trial.rounds, "dtype": limits.dtype,
            "seed": trial.seed, "most_maps": most_maps, "synthetic": trial.texts is None,
        },
        notes=(
            f"{EXACT} and {SAMPLED}: all {depth} layers x {heads} heads; {DENSE}: the first and the last layer; rates "
            "and ratios are per query row of one head that the answer is about",
            "nothing is kept in the atlas: every repetition computes anew",
        ),
    )  # fmt: skip


def _store(trial: Trial, subject: Subject, documents: list[Ids], most_maps: int, number: int) -> _Stored:
    trial.told(f"capturing factors of {len(documents[0]):,} tokens")
    options: dict[str, Any] = {"ids": ["document"], "extrapolate": True}
    factors = attlas.capture(
        subject.loaded.model, documents, trial.folder / f"factors-{number}.zarr", **options
    )  # fmt: skip
    all_layers = factors.layers("self")
    map_layers, maps = tuple(dict.fromkeys((all_layers[0], all_layers[-1]))), None
    if len(documents[0]) <= most_maps:
        trial.told(f"capturing maps of {len(documents[0]):,} tokens")
        maps = attlas.capture(
            subject.loaded.model, documents, trial.folder / f"maps-{number}.zarr", keep="maps", layers=map_layers,
            **options,
        )  # fmt: skip
    return _Stored(
        factors=factors, maps=maps, map_layers=map_layers, rows=len(documents[0]), cells=visible_cells(factors)
    )


def _time(trial: Trial, stored: _Stored, sample: float) -> tuple[Timings, float]:
    """Times, and the share of the rows that the sample took in the end."""
    corpus = find_corpus(stored.factors)
    ids = stored.factors.column("tokens/text/token_id")[: corpus.rows]
    marks = np.isin(ids, corpus.separators)
    edges = distance_edges(corpus.rows)
    few = max(4, round(sample * corpus.rows))
    answers: dict[str, Any] = {}

    def exact() -> None:
        answers[EXACT] = analysis.statistics(stored.factors, save=False)

    def sampled() -> None:
        answers[SAMPLED] = analysis.statistics(stored.factors, sample=few, seed=trial.seed, save=False)

    def dense() -> None:
        assert stored.maps is not None
        maps: Any = stored.maps.root[f"{map_group('self', 'document')}/attention"]
        answers[DENSE] = dense_maps(maps, ids, marks, edges)

    contenders: dict[str, Contender] = {EXACT: exact, SAMPLED: sampled}
    if stored.maps is not None:
        contenders[DENSE] = dense
        exact()
        dense()
        check_equal(answers[EXACT], answers[DENSE], stored.map_layers, corpus.rows)
    timings = run_rounds(
        contenders, rounds=trial.rounds, progress=lambda what: trial.told(f"{corpus.rows:,} tokens: {what}")
    )
    return timings, float(answers[SAMPLED].attrs["rows_used"]) / corpus.rows


def check_equal(exact: xr.Dataset, dense: dict[str, Any], layers: Sequence[int], rows: int) -> None:
    """Raise DisagreementError where means over the rows of a head differ by more than what float16 loses."""
    own = exact.sel(layer=list(layers))
    for name, key in (("entropy", "entropy"), ("row_max", "maximum"), ("mean_distance", "distance")):
        expected, found = own[name].values, dense[key] / rows
        worst = float((np.abs(found - expected) / np.maximum(np.abs(expected), 1e-3)).max())
        if worst > RELATIVE:
            raise DisagreementError(
                f"{name} by numpy over maps and from factors differ by {worst:.1%}: no time is taken of what disagrees"
            )


def _rows(
    stored: _Stored, timings: Timings, share: float, limits: Limits, features: int, heads: int, most_maps: int
) -> list[Row]:
    assert limits.disk is not None
    depth = len(stored.factors.layers("self"))
    layers = {EXACT: depth, SAMPLED: depth, DENSE: len(stored.map_layers)}
    told_of = {name: count * stored.rows * heads for name, count in layers.items()}
    flops = 2.0 * features * stored.cells
    bounds = {
        EXACT: Limit(name="q.k", seconds=flops / limits.qk_flops),
        SAMPLED: Limit(name="q.k", seconds=share * flops / limits.qk_flops),
    }
    dense_bytes = stored.rows**2 * heads * len(stored.map_layers)  # float16, half of it above the diagonal
    bounds[DENSE] = Limit(name="memory read", seconds=dense_bytes / limits.disk.read_warm)
    base = DENSE if stored.maps is not None else None
    rows = []
    for name in (EXACT, SAMPLED, DENSE):
        if name not in timings.seconds:
            note = f"left out: maps of {stored.rows:,} tokens are beyond --most-maps {most_maps}"
            rows.append(Row(contender=name, task="statistics", tokens=stored.rows, note=note))
            continue
        times = timings.times(name)
        ratio = None if base is None else timings.ratio(name, base) * told_of[base] / told_of[name]
        rows.append(
            Row(
                contender=name, task="statistics", tokens=stored.rows, times=times, ratio=ratio,
                rate=told_of[name] / times.median, rate_unit="rows/s", limits=(bounds[name],),
                note=f"{share:.1%} of the rows" if name == SAMPLED else "",
            )
        )  # fmt: skip
    return rows
