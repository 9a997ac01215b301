"""Wrong arguments at the public doors: an attlas error of one line, never a raw TypeError from somewhere inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attlas
from attlas import analysis, plots
from attlas.errors import AttlasError, DocumentMissingError
from attlas.storage import Atlas
from attlas.storage.tile import choose_tile

OBJECT: Any = object()
ANYTHING: tuple[Any, ...] = (
    True,
    7,
    -1,
    2.5,
    np.nan,
    b"x",
    "",
    [],
    [None],
    {},
    {"a": 1},
    OBJECT,
    np.zeros((2, 2)),
)
NO_WHOLE: tuple[Any, ...] = (None, True, -1, 2.5, np.nan, b"x", "", "x", [], {}, OBJECT, np.zeros((2, 2)))
NO_NAMES: tuple[Any, ...] = (True, 7, 2.5, b"x", "nonsense", [None], {}, OBJECT, np.zeros((2, 2)))
STORE = "memory://doors"
Door = tuple[str, Callable[[Any], object], tuple[Any, ...]]
"""What is called with one argument, and values it refuses."""


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return attlas.capture("demo", ["one two three, one two three", "and two"], STORE, ids=["a", "b"])


@pytest.fixture(scope="module")
def answers(atlas: Atlas) -> dict[str, Any]:
    return {
        "statistics": attlas.analysis.statistics(atlas, save=False),
        "head_roles": attlas.analysis.head_roles(atlas, save=False),
        "head_diversity": attlas.analysis.head_diversity(atlas, save=False),
    }


def refuses(call: Callable[[], object]) -> str:
    """The message with which a call is refused; fails where it is not, or not as attlas refuses."""
    with pytest.raises(AttlasError) as caught:
        call()
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def storage_doors(atlas: Atlas) -> Iterator[Door]:
    yield "open_atlas", attlas.open_atlas, (None, *ANYTHING)
    yield "verify", attlas.verify, (None, *ANYTHING)
    options: tuple[Any, ...] = (True, 7, 2.5, b"x", [None], {1: 2}, OBJECT, np.zeros((2, 2)), "key=value")
    yield "open_atlas storage_options", lambda v: attlas.open_atlas(STORE, storage_options=v), options
    yield "verify sample_rows", lambda v: attlas.verify(STORE, sample_rows=v), (0, *NO_WHOLE)
    yield "verify seed", lambda v: attlas.verify(STORE, seed=v), tuple(v for v in NO_WHOLE if v is not None)
    yield "verify progress", lambda v: attlas.verify(STORE, progress=v), (True, 7, 2.5, "x", [], {}, OBJECT)
    yield "atlas[]", lambda v: atlas[v], (None, *ANYTHING)
    no_index: tuple[Any, ...] = (None, True, 2.5, np.nan, b"x", "", "0", [], [0], {}, OBJECT, np.zeros((2, 2)))
    yield "tile layer", lambda v: choose_tile(atlas, document="a", layer=v, head=0), no_index
    yield "tile head", lambda v: choose_tile(atlas, document="a", layer=0, head=v), no_index
    no_places: tuple[Any, ...] = (True, 99, 2.5, np.nan, b"x", "", "random:3", [], {}, OBJECT, np.zeros(2), slice("a"))
    yield "tile queries", lambda v: choose_tile(atlas, document="a", layer=0, head=0, queries=v), no_places
    yield "tile keys", lambda v: choose_tile(atlas, document="a", layer=0, head=0, keys=v), no_places
    yield "tile kind", lambda v: choose_tile(atlas, document="a", layer=0, head=0, kind=v), (7, [], {}, OBJECT)


def assert_all_refused(doors: Iterator[Door]) -> None:
    for name, call, bad in doors:
        for value in bad:
            try:
                refuses(partial(call, value))
            except BaseException as error:
                raise AssertionError(f"{name}({value!r})") from error


def test_storage_doors(atlas: Atlas) -> None:
    assert_all_refused(storage_doors(atlas))


def analysis_doors(atlas: Atlas, answers: dict[str, Any], folder: Path) -> Iterator[Door]:
    for function in (
        analysis.statistics, analysis.head_roles, analysis.head_diversity, analysis.explain, analysis.sink_metric,
        analysis.saved_results,
    ):  # fmt: skip
        yield function.__name__, function, (None, "nonsense", *ANYTHING)
    no_list: tuple[Any, ...] = (True, 7, -1, 2.5, np.nan, b"x", "", "c", [], [None], {}, OBJECT, np.zeros((2, 2)))
    no_layers = (*no_list[:2], *no_list[3:])  # -1 is the last layer
    for name, bad in {
        "kind": ("cross", *ANYTHING), "documents": no_list,
        "layers": ([9], 9, "9", "last:0", *no_layers), "names": (["none"], *NO_NAMES),
        "sample": (3, *(one for one in NO_WHOLE if one is not None)), "seed": NO_WHOLE, "scheduler": (None, *ANYTHING),
        "confidence": (None, 0, 1, "0.9", *(one for one in ANYTHING)), "thresholds": ([0], [2], *no_list),
        "levels": ([0], [1], *no_list), "workers": (0, *(one for one in NO_WHOLE if one is not None)),
        "save": (None, 7, "yes", OBJECT), "progress": (True, 7, "x", [], OBJECT), "nonsense": (1,),
    }.items():  # fmt: skip

        def ask(value: Any, function: Callable[..., Any] = analysis.statistics, name: str = name) -> object:
            return function(atlas, **{name: value})

        yield f"statistics {name}", ask, bad
        if name not in {"names", "scheduler", "save", "progress"}:
            yield f"explain {name}", partial(ask, function=analysis.explain), bad
    yield "explain question", lambda v: analysis.explain(atlas, v), (None, "nonsense", *ANYTHING)
    yield "head_diversity pair_rows", lambda v: analysis.head_diversity(atlas, pair_rows=v), (0, *NO_WHOLE)
    yield "sink_metric epsilon", lambda v: analysis.sink_metric(atlas, epsilon=v), (None, 0, 1, *ANYTHING)
    yield "sink_metric tokens", lambda v: analysis.sink_metric(atlas, tokens=v), (0, *NO_WHOLE)
    yield "probe_heads", analysis.probe_heads, (None, "nonsense", *ANYTHING)
    yield "probe_heads length", lambda v: analysis.probe_heads("demo", length=v), (0, 1, *NO_WHOLE)
    yield "probe_heads count", lambda v: analysis.probe_heads("demo", count=v), (0, *NO_WHOLE)
    yield (
        "probe_heads seed",
        lambda v: analysis.probe_heads("demo", seed=v),
        tuple(v for v in NO_WHOLE if v is not None),
    )
    statistics = answers["statistics"]
    yield "to_frame", analysis.to_frame, (None, "nonsense", *ANYTHING)
    yield "to_frame dims", lambda v: analysis.to_frame(statistics, v), (None, ("nonsense",), *NO_NAMES)
    yield "write_table", lambda v: analysis.write_table(v, folder / "a.csv"), (None, *ANYTHING)
    yield "write_table path", lambda v: analysis.write_table(statistics, v), (None, folder / "a.gif", *ANYTHING)


def test_analysis_doors(atlas: Atlas, answers: dict[str, Any], tmp_path: Path) -> None:
    assert_all_refused(analysis_doors(atlas, answers, tmp_path))
    assert not list(tmp_path.iterdir())
    assert analysis.saved_results(atlas) == {}


def test_a_missing_document_is_a_key_error_with_a_readable_message(atlas: Atlas) -> None:
    with pytest.raises(KeyError) as caught:
        atlas["c"]
    assert isinstance(caught.value, DocumentMissingError)
    assert str(caught.value) == "memory://doors has no document 'c': it holds a, b"
    assert "c" not in atlas
    assert atlas.get("c") is None


def plot_doors(answers: dict[str, Any], folder: Path) -> Iterator[Door]:
    of: dict[Any, str] = {
        plots.layer_means: "statistics", plots.histograms: "statistics", plots.head_boxes: "statistics",
        plots.distance_decay: "statistics", plots.role_map: "head_roles", plots.diversity_matrix: "head_diversity",
        plots.head_plane: "head_diversity", plots.head_map: "", plots.bench_figure: "",
    }  # fmt: skip
    for function, own in of.items():
        several = function in (plots.layer_means, plots.histograms)  # draw any answer with numbers a head
        others = () if several else tuple(answer for name, answer in answers.items() if name != own)
        yield function.__name__, function, (None, "nonsense", *ANYTHING, *others)
    statistics, roles, diversity = (answers[name] for name in ("statistics", "head_roles", "head_diversity"))
    yield "head_page roles", lambda v: plots.head_page(v, diversity), (None, 7, diversity, statistics)
    yield "head_page diversity", lambda v: plots.head_page(roles, v), (None, 7, roles, statistics)
    yield "layer_means names", lambda v: plots.layer_means(statistics, v), (["nonsense"], *NO_NAMES)
    yield "histograms names", lambda v: plots.histograms(statistics, v), (["nonsense"], *NO_NAMES)
    yield "head_boxes name", lambda v: plots.head_boxes(statistics, v), (None, *ANYTHING)
    no_layer: tuple[Any, ...] = (True, -1, 9, 2.5, b"x", "", "0", [], {}, OBJECT, np.zeros((2, 2)))
    yield "head_boxes layer", lambda v: plots.head_boxes(statistics, layer=v), no_layer
    figure = plots.head_map(statistics.entropy)
    yield "save path", lambda v: plots.save(figure, v), (None, folder / "a.gif", *ANYTHING)
    yield "save figure", lambda v: plots.save(v, folder / "a.png"), (None, *ANYTHING)


def test_plot_doors(answers: dict[str, Any], tmp_path: Path) -> None:
    assert_all_refused(plot_doors(answers, tmp_path))
    assert not list(tmp_path.iterdir())
