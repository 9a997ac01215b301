"""Overviews: the codes are those of tiles computed from the weights; kept, found, fallen, gone on with, damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import attlas
from attlas.cli import main
from attlas.errors import InputError, TierError
from attlas.jobs import overviews
from attlas.jobs.overviews import store_overviews
from attlas.progress import Progress
from attlas.server.questions import weights
from attlas.server.session import Session
from attlas.storage import AtlasWriter
from attlas.storage.commits import Records
from attlas.storage.overview import find_overview
from tests.families import BY_NAME, build_model
from tests.server.asking import asked
from tests.storage.synthetic import synthetic

LENGTHS = (700, 1100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("overviews") / "a.zarr"
    made = synthetic(LENGTHS, seed=2, block=256, pack_tokens=1300, window=400)
    writer = AtlasWriter.create(place, made.spec("factors"))
    for pack in made.packs:
        made.write_pack(writer, pack)
    return place


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "a.zarr"))


def tiles(session: Session, document: str, levels: tuple[int, ...], **more: Any) -> dict[Any, Any]:
    return {
        (layer, head, level, pool): asked(
            session, "tile", document=document, layer=layer, head=head, level=level, pool=pool, **more
        )
        for layer in (0, 1) for head in (0, 3, "mean") for level in levels for pool in ("max", "mass")
    }  # fmt: skip


@pytest.mark.parametrize("small", [False, True])
def test_tiles_are_those_of_the_weights(store: Path, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the bands of rows and parts of keys: within a code, which float32 rounding may tip over."""
    if small:
        monkeypatch.setattr(overviews, "BAND_BYTES", 20_000)
        monkeypatch.setattr(overviews, "KEY_BYTES", 6_000)
    atlas = attlas.open_atlas(store)
    before = tiles(Session(atlas), "doc-1", (1, 2, 3))
    assert {data["source"] for data, _ in before.values()} == {"weights"}
    told = store_overviews(store, ["doc-1"])
    assert told["documents"] == {"doc-1": "stored"}
    session = Session(store)
    for key, (data, (tile,)) in tiles(session, "doc-1", (1, 2, 3)).items():
        wanted, (expected,) = before[key]
        assert data == wanted | {"source": "overview"}
        np.testing.assert_array_equal(tile == 0, expected == 0)
        assert np.abs(tile.astype(int) - expected).max() <= 1
        assert (tile != expected).mean() < 1e-3
    data, (exact,) = asked(session, "tile", document="doc-1", layer=0, head=0, level=3, format="f32")
    assert data["source"] == "weights"
    monkeypatch.setattr(weights, "MOST_CELLS", 1000)
    data, (told_by_codes,) = asked(session, "tile", document="doc-1", layer=0, head=0, level=3, format="f32")
    assert data["source"] == "overview"
    some = exact > 2e-5
    np.testing.assert_allclose(told_by_codes[some], exact[some], rtol=0.024)
    np.testing.assert_array_equal(np.isnan(told_by_codes), np.isnan(exact))


def test_thumbnails_are_of_all_rows(store: Path) -> None:
    store_overviews(store, ["doc-1"], side=256)
    session = Session(store)
    data, (small,) = asked(session, "thumbnails", document="doc-1", cells=32)
    assert data["sampled_rows"] is None
    assert (data["block_queries"], data["block_keys"], data["shape"]) == (40, 40, [2, 4, 28, 28])
    _, (tile,) = asked(session, "tile", document="doc-1", layer=1, head=2, level=3, format="u8")
    edges = np.arange(0, 138, 5)
    expected = np.maximum.reduceat(np.maximum.reduceat(tile, edges, axis=0), edges, axis=1)
    np.testing.assert_array_equal(small[1, 2], expected)


def test_cross_attention_and_sizes_that_differ() -> None:
    family = BY_NAME["t5"]
    rng = np.random.default_rng(0)
    pair = rng.integers(5, 90, 600).tolist(), rng.integers(5, 90, 40).tolist()
    atlas = attlas.capture(build_model(family), [pair], "memory://overview-pairs", overwrite=True)
    where = {"layer": 1, "head": 1, "level": 2}
    before = {kind: asked(Session(atlas), "tile", kind=kind, **where)[1][0] for kind in ("cross", "encoder")}
    assert store_overviews(atlas, "doc-0")["documents"] == {"doc-0": "stored"}
    assert find_overview(atlas, "doc-0", "decoder") is None
    session = Session(atlas)
    for kind, expected in before.items():
        data, (tile,) = asked(session, "tile", kind=kind, **where)
        assert data["source"] == "overview"
        assert np.abs(tile.astype(int) - expected).max() <= 1


def test_gone_on_with_where_it_was_stopped(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished one is not read; the next makes what is missing, and says how far it was."""
    made = overviews.overview_of_layer
    layers: list[int] = []

    def counted(atlas: Any, rows: Any, layer: int, levels: Any) -> Any:
        if layers == [0]:
            layers.append(-1)
            raise KeyboardInterrupt
        layers.append(layer)
        return made(atlas, rows, layer, levels)

    monkeypatch.setattr(overviews, "overview_of_layer", counted)
    with pytest.raises(KeyboardInterrupt):
        store_overviews(store, ["doc-0"])
    atlas = attlas.open_atlas(store)
    assert find_overview(atlas, "doc-0", "self") is None
    states: list[Progress] = []
    store_overviews(store, ["doc-0"], progress=states.append)
    assert layers == [0, -1, 1]
    assert [(one.done, one.total, one.before) for one in states] == [(2, 2, 1)]
    assert find_overview(atlas, "doc-0", "self") is not None
    assert store_overviews(store, ["doc-0"])["documents"] == {"doc-0": "there already"}
    assert store_overviews(store)["documents"] == dict.fromkeys(("doc-0", "doc-1"), "short: nothing to store")


def test_it_falls_with_the_pack_it_was_made_of(store: Path) -> None:
    """Captured again, the document has none; the next one takes away what was left of the old."""
    store_overviews(store, ["doc-0", "doc-1"])
    old = {path.name for path in (store / "overview").glob("self-*")}
    assert len(old) == 4
    made = synthetic(LENGTHS, seed=2, block=256, pack_tokens=1300, window=400)
    keep = shutil.copytree(store / "overview", store.parent / "kept")
    writer = AtlasWriter.create(store, made.spec("factors"), overwrite=True)
    for pack in made.packs:
        made.write_pack(writer, pack)
    shutil.copytree(keep, store / "overview", dirs_exist_ok=True)
    atlas = attlas.open_atlas(store)
    assert find_overview(atlas, "doc-0", "self") is None
    store_overviews(store, ["doc-0"])
    new = {path.name for path in (store / "overview").glob("self-*")}
    assert len(new & old) == 2
    assert len(new) == 4
    assert attlas.verify(store).passed
    assert not any(check.notes for check in attlas.verify(store).checks)


def test_it_falls_with_the_record_of_its_own_pack_alone(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_overviews(store, ["doc-0", "doc-1"])
    atlas = attlas.open_atlas(store)
    first, second = (int(atlas.column("documents/pack")[i]) for i in (0, 1))
    assert first != second
    digest = Records.digest

    def changed(records: Records, packs: Any) -> str:
        return digest(records, packs) + (" again" if packs[first] else "")

    monkeypatch.setattr(Records, "digest", changed)
    assert find_overview(atlas, "doc-0", "self") is None
    assert find_overview(atlas, "doc-1", "self") is not None


def test_a_damaged_one_is_left_out(store: Path) -> None:
    store_overviews(store, ["doc-0"])
    name, place = sorted(path for path in (store / "overview").iterdir() if path.is_dir())
    shard = next(path for path in (place / "max" / "1").rglob("*") if path.is_file() and path.name != "zarr.json")
    shard.write_bytes(bytes(len(shard.read_bytes())))
    with pytest.warns(UserWarning, match="is damaged, and left out: make it again with attlas overview"):
        data, _ = asked(Session(store), "tile", document="doc-0", layer=0, head=0, level=1)
    assert data["source"] == "weights"
    told = json.loads((name / "zarr.json").read_text())
    told["attributes"]["levels"] = [1]
    (name / "zarr.json").write_text(json.dumps(told))
    assert find_overview(attlas.open_atlas(store), "doc-0", "self") is None


def test_errors(store: Path) -> None:
    with pytest.raises(InputError, match="side is 10"):
        store_overviews(store, side=10)
    statistics = store.parent / "statistics.zarr"
    made = synthetic((50,))
    writer = AtlasWriter.create(statistics, made.spec("statistics"))
    for pack in made.packs:
        made.write_pack(writer, pack, keep="statistics")
    with pytest.raises(TierError, match='keep="factors"'):
        store_overviews(statistics)


def test_command(store: Path) -> None:
    told = CliRunner().invoke(main, ["overview", str(store), "--document", "doc-0", "--side", "512"])
    assert told.exit_code == 0, told.output
    assert "doc-0  stored" in told.stdout
    assert "the atlas's overviews take" in told.stdout
    told = CliRunner().invoke(main, ["overview", str(store), "--document", "doc-0", "--side", "512", "--json"])
    assert json.loads(told.stdout)["documents"] == {"doc-0": "there already"}
    assert json.loads(told.stdout)["bytes"] > 1000
    refused = CliRunner().invoke(main, ["overview", str(store), "--document", "doc-9"])
    assert refused.exit_code == 1
    assert "has no document 'doc-9'" in refused.stderr


def test_the_command_keeps_which_heads_have_a_role(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(main, ["overview", str(store), "--document", "doc-1"]).exit_code == 0
    expected, _ = asked(Session(store), "heads", document="doc-1")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("attlas.jobs.reduction.run_groups", never)
    assert asked(Session(store), "heads", document="doc-1")[0] == expected
    with pytest.raises(AssertionError, match="computed again"):
        Session(store).answer("heads", {"document": "doc-0"})
