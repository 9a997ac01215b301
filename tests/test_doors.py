"""Wrong arguments at the public doors: an attlas error of one line, never a raw TypeError from somewhere inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attlas
from attlas import plots
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
NO_WHOLE: tuple[Any, ...] = (None, True, -1, 2.5, np.nan, b"x", "", "7", [], {}, OBJECT, np.zeros((2, 2)))
NO_NAMES: tuple[Any, ...] = (True, 7, 2.5, b"x", "entropy", [None], {}, OBJECT, np.zeros((2, 2)))
STORE = "memory://doors"


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


def storage_doors(atlas: Atlas) -> Iterator[tuple[str, Callable[[Any], object], tuple[Any, ...]]]:
    yield "open_atlas", attlas.open_atlas, (None, *ANYTHING)
    yield "verify", attlas.verify, (None, *ANYTHING)
    options: tuple[Any, ...] = (True, 7, 2.5, b"x", [None], {1: 2}, OBJECT, np.zeros((2, 2)), "key=value")
    yield "open_atlas storage_options", lambda v: attlas.open_atlas(STORE, storage_options=v), options
    yield "verify sample_rows", lambda v: attlas.verify(STORE, sample_rows=v), (0, *NO_WHOLE)
    yield "verify seed", lambda v: attlas.verify(STORE, seed=v), NO_WHOLE
    yield "verify progress", lambda v: attlas.verify(STORE, progress=v), (True, 7, 2.5, "x", [], {}, OBJECT)
    yield "atlas[]", lambda v: atlas[v], (None, *ANYTHING)
    no_index: tuple[Any, ...] = (None, True, 2.5, np.nan, b"x", "", "0", [], [0], {}, OBJECT, np.zeros((2, 2)))
    yield "tile layer", lambda v: choose_tile(atlas, document="a", layer=v, head=0), no_index
    yield "tile head", lambda v: choose_tile(atlas, document="a", layer=0, head=v), no_index
    yield "tile queries", lambda v: choose_tile(atlas, document="a", layer=0, head=0, queries=v), no_index
    yield "tile keys", lambda v: choose_tile(atlas, document="a", layer=0, head=0, keys=v), (slice("a"), *no_index)
    yield "tile kind", lambda v: choose_tile(atlas, document="a", layer=0, head=0, kind=v), (7, [], {}, OBJECT)


def test_storage_doors(atlas: Atlas) -> None:
    for name, call, bad in storage_doors(atlas):
        for value in bad:
            try:
                refuses(lambda call=call, value=value: call(value))  # type: ignore[misc]
            except BaseException as error:
                raise AssertionError(f"{name}({value!r})") from error


def test_a_missing_document_is_a_key_error_with_a_readable_message(atlas: Atlas) -> None:
    with pytest.raises(KeyError) as caught:
        atlas["c"]
    assert isinstance(caught.value, DocumentMissingError)
    assert str(caught.value) == "memory://doors has no document 'c': it holds a, b"
    assert "c" not in atlas
    assert atlas.get("c") is None


def plot_doors(answers: dict[str, Any], folder: Path) -> Iterator[tuple[str, Callable[[Any], object], tuple[Any, ...]]]:
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
    for name, call, bad in plot_doors(answers, tmp_path):
        for value in bad:
            try:
                refuses(lambda call=call, value=value: call(value))  # type: ignore[misc]
            except BaseException as error:
                raise AssertionError(f"{name}({value!r})") from error
    assert not list(tmp_path.iterdir())
