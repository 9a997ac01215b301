"""attlas plot, graph, embed, compare: what they print is what the analysis found; every picture is a file."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from click.testing import CliRunner, Result

import attlas
from attlas import analysis, plots
from attlas.cli import main
from attlas.errors import InputError
from attlas.plots import pictures
from attlas.plots.pictures import PICTURES
from attlas.storage import AtlasWriter
from tests.storage.synthetic import synthetic


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "a.zarr"
    made = synthetic((70,), layers=(0, 1, 2), heads=3, kv_heads=1, seed=2)
    writer = AtlasWriter.create(path, made.spec("factors"))
    for pack in made.packs:
        made.write_pack(writer, pack)
    return str(path)


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == status, result.output
    return result


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_drawn(store: str, name: str, tmp_path: Path) -> None:
    picture = PICTURES[name]
    path = tmp_path / f"{name}{picture.endings[0]}"
    layer = ("--layer", "1") if "layer" in picture.takes else ()
    told = run("plot", name, store, *layer, "-o", str(path)).output
    assert path.stat().st_size > 4_000
    assert path.name in told.replace("\n", "")


def test_pictures_take_what_they_say() -> None:
    told = run("plot", "--help").output
    assert all(f"  {name} " in told for name in PICTURES)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("plot",), 2, "say which picture: choose of map, grid"),
        (("plot", "cake", "STORE"), 2, "there is no picture 'cake'"),
        (("plot", "map"), 2, "attlas plot map STORE"),
        (("plot", "map", "STORE"), 1, "say of which layer: the atlas has 0 to 2"),
        (("plot", "grid", "STORE", "--layer", "1"), 1, "takes no layer"),
        (("plot", "map", "STORE", "--layer", "9"), 1, "no layer 9"),
        (("plot", "text", "STORE", "--layer", "0", "--query", "3:5"), 1, "of one query, and 2 are chosen"),
        (("plot", "map", "STORE", "--layer", "0", "-o", "map.gif"), 1, ".png"),
        (("plot", "film", "STORE", "-o", "missing/film.gif"), 2, "there is no folder missing"),
        (("graph", "STORE", "--layer", "0", "--top", "1", "--mass", "0.5"), 1, "give one of"),
        (("graph", "STORE", "--layer", "0", "-o", "graph.txt"), 1, ".graphml"),
        (("compare", "STORE"), 2, "both sides are the same"),
        (("compare", "STORE", "--head", "0", "--other-head", "1", "--figure", "a.png"), 2, "of one head"),
        (("embed", "STORE", "--by", "statistics", "--pair-rows", "9"), 1, "pair_rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_told(
    store: str, arguments: tuple[str, ...], status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = run(*(store if one == "STORE" else one for one in arguments), status=status).output
    assert message in " ".join(told.split())
    assert not list(tmp_path.iterdir())


def test_graph_prints_and_writes_what_the_analysis_found(store: str, tmp_path: Path) -> None:
    made = analysis.graph(attlas.open_atlas(store), layer=1, head=2, top=2)
    told = json.loads(run("graph", store, "--layer", "1", "--head", "2", "--top", "2", "--json").output)
    assert {(a, b): weight for a, b, weight in told["edges"]} == pytest.approx(
        {(a, b): weight for a, b, weight in made.edges(data="weight")}
    )
    found = analysis.centrality(made)
    assert [one["pagerank"] for one in told["tokens"]] == pytest.approx(found.pagerank.values.tolist())
    lines = run(
        "graph", store, "--layer", "1", "--head", "2", "--top", "2", "--tokens", "4", "-o", str(tmp_path / "g.graphml")
    ).output.splitlines()
    first = lines[-4].split()
    assert int(first[0]) == int(found.received.argmax())
    assert nx.read_graphml(tmp_path / "g.graphml").number_of_edges() == made.number_of_edges()


def test_embed_prints_every_head_once(store: str, tmp_path: Path) -> None:
    told = json.loads(run("embed", store, "--pair-rows", "8", "--json", "-o", str(tmp_path / "heads.csv")).output)
    found = analysis.embed_heads(attlas.open_atlas(store), pair_rows=8)
    np.testing.assert_allclose([one["position"] for one in told["heads"]], found.position.values, atol=1e-12)
    header = (tmp_path / "heads.csv").read_text().splitlines()[0]
    assert {"member_layer", "member_head", "role"} <= set(header.split(","))
    assert told["trustworthiness"] == pytest.approx(found.attrs["trustworthiness"])
    assert len((tmp_path / "heads.csv").read_text().splitlines()) == 1 + 9
    assert "trustworthiness" in run("embed", store, "--pair-rows", "8").output


def test_compare_prints_the_largest_changes(store: str) -> None:
    atlas = attlas.open_atlas(store)
    every = atlas.attention("doc-0")
    found = analysis.compare(every.sel(layer=0), every.sel(layer=2), top=5)
    told = json.loads(run("compare", store, "--layer", "0", "--other-layer", "2", "--top", "5", "--json").output)
    assert [one["change"] for one in told["changes"]] == pytest.approx(found.change.values.tolist())
    assert told["distance"] == pytest.approx(found.distance.values)
    shown = run("compare", store, "--layer", "0", "--other-layer", "2", "--top", "5").output
    assert f"{float(found.change[0]):+.3f}" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_draw_refuses_what_a_picture_does_not_take(store: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose one of map"):
        plots.draw(store, "cake", tmp_path / "a.png")
    with pytest.raises(InputError, match="takes no layer"):
        plots.draw(store, "grid", tmp_path / "a.png", layer=1)


def test_a_file_that_cannot_be_written_is_refused_before_the_work(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(*_: object, **_more: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(analysis, "overview", reads)
    with pytest.raises(InputError, match=r"\.png"):
        plots.draw(store, "map", "map.gif", layer=0)


def test_what_is_too_large_is_refused_before_it_is_read(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MOST_CELLS", 100)
    with pytest.raises(InputError, match="70 queries x 2 keys are too many"):
        plots.draw(store, "lines", tmp_path / "a.png", layer=0, queries=":", keys=":2")
