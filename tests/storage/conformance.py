"""The conformance class that every kind of store is run through."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import xarray as xr

from attlas.errors import StoreBusyError, StoreExistsError, StoreMissingError, TierError
from attlas.storage import AtlasWriter, open_atlas, store_bytes, verify
from attlas.storage.stores import open_store
from tests.storage.synthetic import synthetic

__all__ = ["Place", "StoreConformance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    where: Any
    options: dict[str, Any] | None = None


class StoreConformance:
    """What must hold on any store. A subclass has the fixture `place`, where nothing lies yet."""

    def test_factors_round_trip(self, place: Place) -> None:
        made = synthetic()
        writer = AtlasWriter.create(place.where, made.spec("factors"), storage_options=place.options)
        for pack in made.packs:
            made.write_pack(writer, pack)
        atlas = open_atlas(place.where, storage_options=place.options)
        assert list(atlas) == ["doc-0", "doc-1", "doc-2", "doc-3"]
        for i in range(4):
            np.testing.assert_allclose(atlas[f"doc-{i}"].attention.values, made.dense(i), atol=2e-6)
        report = verify(place.where, storage_options=place.options)
        assert report.passed, report.problems
        assert store_bytes(place.where, storage_options=place.options) > 10_000

    def test_a_pack_shows_only_once_it_is_committed(self, place: Place) -> None:
        made = synthetic()
        assert len(made.packs) == 3
        writer = AtlasWriter.create(place.where, made.spec("factors"), storage_options=place.options)
        made.write_pack(writer, made.packs[1])
        atlas = open_atlas(place.where, storage_options=place.options)
        assert list(atlas) == ["doc-2"]
        with pytest.raises(KeyError, match="not committed"):
            atlas["doc-0"]
        with pytest.raises(StoreBusyError, match="by this very process"):
            AtlasWriter.reopen(place.where, made.spec("factors"), storage_options=place.options)
        with pytest.raises(StoreBusyError, match="by this very process"):
            AtlasWriter.create(place.where, made.spec("factors"), storage_options=place.options, overwrite=True)
        writer.close()
        again = AtlasWriter.reopen(place.where, made.spec("factors"), storage_options=place.options)
        assert [pack.index for pack in again.pending_packs()] == [0, 2]
        for pack in again.pending_packs():
            made.write_pack(again, pack)
        assert len(open_atlas(place.where, storage_options=place.options)) == 4
        assert verify(place.where, storage_options=place.options).passed

    def test_a_store_that_exists_is_refused_then_replaced(self, place: Place) -> None:
        made = synthetic()
        AtlasWriter.create(place.where, made.spec("factors"), storage_options=place.options)
        with pytest.raises(StoreExistsError, match="--overwrite"):
            AtlasWriter.create(place.where, made.spec("factors"), storage_options=place.options)
        writer = AtlasWriter.create(place.where, made.spec("statistics"), storage_options=place.options, overwrite=True)
        assert open_atlas(place.where, storage_options=place.options).keep == "statistics"
        writer.discard_if_empty()
        with pytest.raises(StoreMissingError):
            open_atlas(place.where, storage_options=place.options)

    def test_statistics_tier(self, place: Place) -> None:
        made = synthetic(rule="sinks", window=9)
        writer = AtlasWriter.create(place.where, made.spec("statistics"), storage_options=place.options)
        for pack in made.packs:
            made.write_pack(writer, pack, keep="statistics")
        atlas = open_atlas(place.where, storage_options=place.options)
        for i in range(4):
            a = made.dense(i)
            page = atlas[f"doc-{i}"]
            entropy = -(a * np.log(np.where(a > 0, a, 1))).sum(-1)
            np.testing.assert_allclose(page.entropy.values, entropy, atol=1e-5)
            np.testing.assert_allclose(page.sink_residual.values, 1 - a.sum(-1), atol=1e-5)
            with pytest.raises(TierError, match='keep="factors"'):
                page.attention  # noqa: B018
        gram = np.asarray(atlas.root["self/statistics/head_gram"][...])  # type: ignore[index]
        expected = [
            sum(np.einsum("lhqk,lgqk->lhg", made.dense(i), made.dense(i)) for i in pack.documents)
            for pack in made.packs
        ]
        np.testing.assert_allclose(gram, expected, rtol=1e-5)
        assert verify(place.where, storage_options=place.options).passed

    def test_several_askers_of_one_atlas(self, place: Place) -> None:
        made = synthetic(lengths=(90, 70))
        writer = AtlasWriter.create(place.where, made.spec("factors"), storage_options=place.options)
        for pack in made.packs:
            made.write_pack(writer, pack)
        atlas, dense = open_atlas(place.where, storage_options=place.options), [made.dense(i) for i in range(2)]

        def ask(seed: int) -> float:
            rng, worst = np.random.default_rng(seed), 0.0
            for _ in range(6):
                document, layer, head = (int(rng.integers(n)) for n in (2, 2, 4))
                rows, keys = (np.sort(rng.choice(70, 20, replace=False)) for _ in range(2))
                page = atlas[f"doc-{document}"]
                found = page.attention.isel(layer=layer, head=head, query=rows, key=keys).values
                expected = dense[document][layer, head][np.ix_(rows, keys)]
                a = dense[document][layer, head][rows]
                entropy = -(a * np.log(np.where(a > 0, a, 1))).sum(-1)
                worst = max(worst, float(np.abs(found - expected).max()))
                worst = max(worst, float(np.abs(page.entropy.isel(layer=layer, head=head, query=rows) - entropy).max()))
            return worst

        with ThreadPoolExecutor(6) as pool:
            assert max(pool.map(ask, range(12))) < 1e-5

    def test_a_reader_beside_a_writer_sees_whole_packs_alone(self, place: Place) -> None:
        made = synthetic(lengths=(60, 30, 64, 50, 64, 20))
        writer = AtlasWriter.create(place.where, made.spec("factors"), storage_options=place.options)

        def write() -> None:
            for pack in made.packs:
                made.write_pack(writer, pack)

        seen = 0
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            while True:
                done = writing.done()
                atlas = open_atlas(place.where, storage_options=place.options)
                assert len(atlas) >= seen
                seen = len(atlas)
                for document in list(atlas)[-2:]:
                    number = int(document.removeprefix("doc-"))
                    np.testing.assert_allclose(atlas[document].attention.values, made.dense(number), atol=2e-6)
                if done:
                    break
            writing.result()
        assert seen == 6

    def test_commits_at_once_lose_none(self, place: Place) -> None:
        """Many commits at once, by several threads: none is written over, and what is told of each is its own."""
        made = synthetic(lengths=(10,) * 24, pack_tokens=10)
        spec = made.spec("factors")
        writer = AtlasWriter.create(place.where, spec, storage_options=place.options)

        def commit(number: int) -> None:
            pack = made.packs[number]
            if number == 5:
                writer.fail(pack, attempt=3, error="NotFiniteError: q is nan")
            else:
                writer.commit(pack, seconds=number / 2, attempt=number + 1, size=1000 + number)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(commit, range(24)))
        atlas = open_atlas(place.where, storage_options=place.options)
        expected = [2 if i == 5 else 1 for i in range(24)]
        assert atlas.packs["state"].values.tolist() == expected
        assert atlas.documents["state"].values.tolist() == expected
        assert atlas.packs["bytes"].values.tolist() == [0 if i == 5 else 1000 + i for i in range(24)]
        assert atlas.packs["attempt"].values.tolist() == [3 if i == 5 else i + 1 for i in range(24)]
        with pytest.raises(KeyError, match=r"which failed \(NotFiniteError: q is nan"):
            atlas["doc-5"]
        writer.close()
        again = AtlasWriter.reopen(place.where, spec, storage_options=place.options)
        assert [pack.index for pack in again.pending_packs()] == [5]
        again.commit(made.packs[5], seconds=0.0, attempt=4, size=7)
        atlas = open_atlas(place.where, storage_options=place.options)
        assert (atlas.states == 1).all()
        stored = xr.open_zarr(
            open_store(place.where, storage_options=place.options), group="packs", consolidated=False, chunks=None
        )
        assert stored["state"].values.tolist() == [1] * 24
        assert stored["seconds"].values.tolist() == [0.0 if i == 5 else i / 2 for i in range(24)]
        assert stored["error"].values.tolist() == [""] * 24
