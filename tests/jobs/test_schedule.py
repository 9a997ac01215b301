"""The same numbers on threads, on Ray and on dask.distributed; progress on each; errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import LocalCluster

import attlas
from attlas import analysis
from attlas.actors.cluster import joined_cluster
from attlas.errors import ClusterError, CorruptAtlasError, InputError
from attlas.progress import Progress
from attlas.storage import AtlasWriter
from tests.storage.synthetic import synthetic

ROWS = 24


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> attlas.Atlas:
    where = tmp_path_factory.mktemp("schedule") / "atlas.zarr"
    made = synthetic((150, 7, 90, 200), seed=11)
    writer = AtlasWriter.create(where, made.spec("factors"))
    for pack in made.packs:
        made.write_pack(writer, pack)
    return attlas.open_atlas(where)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, protocol="tcp") as running:
        yield running.scheduler_address


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    """One private Ray cluster, which every job here joins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        with joined_cluster(None, cpus=2):
            yield


@pytest.mark.parametrize("sample", [None, 80])
def test_every_scheduler_gives_the_same(atlas: attlas.Atlas, cluster: str, sample: int | None) -> None:
    told: dict[str, list[Progress]] = {}
    found: dict[str, tuple[xr.Dataset, xr.Dataset]] = {}
    for scheduler in ("threads", "ray", cluster):
        moves = told.setdefault(scheduler, [])
        options: dict[str, Any] = {"scheduler": scheduler, "sample": sample, "save": False, "pair_rows": ROWS}
        diversity = analysis.head_diversity(atlas, progress=moves.append, **options)
        options.pop("pair_rows")
        found[scheduler] = analysis.statistics(atlas, **options), diversity
    for scheduler, answers in found.items():
        first, last = told[scheduler][0], told[scheduler][-1]
        assert first.done == 0
        assert last.done == last.total > 0
        assert [now.done for now in told[scheduler]] != [0]
        assert {now.what for now in told[scheduler]} == {"block"}
        for answer, expected in zip(answers, found["threads"], strict=True):
            assert set(answer.data_vars) == set(expected.data_vars)
            for name, variable in expected.data_vars.items():
                if variable.dtype.kind == "f" and name not in {"plane", "merges"}:
                    np.testing.assert_allclose(answer[name], variable, rtol=1e-6, atol=1e-9, err_msg=str(name))


def test_an_atlas_in_memory_stays_in_its_process(cluster: str) -> None:
    made = synthetic((20,), seed=1)
    writer = AtlasWriter.create("memory://schedule", made.spec("factors"), overwrite=True)
    made.write_pack(writer, made.packs[0])
    with pytest.raises(InputError, match="--scheduler threads"):
        analysis.statistics(attlas.open_atlas("memory://schedule"), scheduler=cluster)


def test_what_cannot_be_reached_is_told(atlas: attlas.Atlas) -> None:
    with pytest.raises(InputError, match="threads, ray"):
        analysis.statistics(atlas, scheduler="cloud", save=False)
    with pytest.raises(ClusterError, match="cannot reach a dask scheduler"):
        analysis.statistics(atlas, scheduler="tcp://127.0.0.1:9", save=False)


def test_a_damaged_shard_is_told_on_every_scheduler(tmp_path: Path, cluster: str) -> None:
    made = synthetic((60, 20), seed=1)
    writer = AtlasWriter.create(tmp_path / "a.zarr", made.spec("factors"))
    for pack in made.packs:
        made.write_pack(writer, pack)
    shard = next(path for path in (tmp_path / "a.zarr/self/q/c").rglob("*") if path.is_file())
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(bytes(data))
    for scheduler in ("threads", "ray", cluster):
        with pytest.raises(CorruptAtlasError, match=r"self/q/.* is damaged"):
            analysis.statistics(attlas.open_atlas(tmp_path / "a.zarr"), scheduler=scheduler, save=False)
