"""Every public function with every wrong value: only attlas errors of one line leave, and nothing is left behind."""

from __future__ import annotations

import inspect
import random
import shutil
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attlas
from attlas import analysis
from attlas.errors import AttlasError, InputError
from tests.fuzz.doors import CALLBACKS, INNER, SLOW, Door, public_doors, public_names
from tests.fuzz.values import VALUES

SECONDS, LONGEST = 20, 2100
QUICK = 300
"""Of some 18,000 inputs, how many are tried each time; another choice of the same for every seed."""


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> list[Door]:
    texts = ["one two three, one two three. " * 4, "four and two, and no more of them. " * 4]
    atlas = attlas.capture("demo", texts, "memory://fuzz", ids=["a", "b"])
    answers = {
        name: getattr(analysis, name)(atlas, save=False) for name in ("statistics", "head_roles", "head_diversity")
    }
    return list(public_doors(atlas, answers, tmp_path_factory.mktemp("doors")))


def inputs(doors: list[Door]) -> list[tuple[Door, str, str]]:
    return [
        (door, field, name)
        for door in doors for field in door.fields for name in VALUES
        if (field, name) not in SLOW and not (field in CALLBACKS and name in {"function", "class"})
    ]  # fmt: skip


def test_every_public_name_is_a_door(doors: list[Door]) -> None:
    """A function that is added is tried by being there; what is not tried is named, and there."""
    names = {name.removeprefix("attlas.").removeprefix("analysis."): value for name, value in public_names()}
    names = {name.removeprefix("storage.").removeprefix("experiments."): value for name, value in names.items()}
    tried = {door.name for door in doors} | {door.name.partition(".")[0] for door in doors}
    assert set(names) - tried == INNER
    for door in doors:
        if door.name in names and not inspect.isclass(names[door.name]):
            assert set(inspect.signature(names[door.name]).parameters) - {"choices", "options", "wanted"} <= set(
                door.fields
            )


def test_every_door_opens_to_what_is_meant(doors: list[Door]) -> None:
    """The good values are good: what follows is not refused for another reason."""
    for door in doors:
        if door.name not in {"plots.bench_figure", *(one.name for one in doors if one.name.startswith("parse_"))}:
            door.call(**door.good)
            _cleared(door)


def test_some_wrong_values(doors: list[Door], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    every = inputs(doors)
    wrong = tracebacks(random.Random(2).sample(every, QUICK))
    assert not wrong, "\n".join(wrong)
    assert not set(tmp_path.iterdir()) - accepted_stores(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_wrong_values(doors: list[Door], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    every = inputs(doors)
    assert len(every) > 15_000
    wrong = tracebacks(every)
    assert not wrong, "\n".join(wrong)
    assert not set(tmp_path.iterdir()) - accepted_stores(tmp_path)


def accepted_stores(folder: Path) -> set[Path]:
    """What has a whole atlas in it: a strange name for a store, and no wrong one."""
    found = set()
    for path in folder.iterdir():
        roots = sorted(path.rglob("zarr.json"), key=lambda one: len(one.parts))
        found |= {path} if roots and attlas.verify(roots[0].parent).passed else set()
    return found


def tracebacks(tried: list[tuple[Door, str, str]]) -> list[str]:
    found = []
    for door, field, name in tried:
        told = outcome(door, field, name)
        if told:
            found.append(f"{door.name}({field}={name}): {told}")
    return found


def outcome(door: Door, field: str, name: str) -> str:
    """What is wrong with how a door takes a value; "" for nothing."""
    given: Any = VALUES[name]()
    try:
        with warnings.catch_warnings(), _not_for_ever():
            warnings.simplefilter("ignore")
            door.call(**{**door.good, field: given})
    except AttlasError as error:
        message = str(error)
        fine = message and len(message) <= LONGEST and message.isprintable()
        left = door.made is not None and door.made.exists()
        return "" if fine and not left else f"left {door.made} behind" if left else f"says {message[:200]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        _cleared(door)
    return ""


@contextmanager
def _not_for_ever() -> Iterator[None]:
    def late(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"{SECONDS} seconds have gone by")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _cleared(door: Door) -> None:
    if door.made is not None and door.made.is_dir():
        shutil.rmtree(door.made)
    elif door.made is not None:
        door.made.unlink(missing_ok=True)


NO_TEXTS = [
    name for name, make in VALUES.items()
    if name not in {
        "word", "escape", "newlines", "dots", "root", "device", "long", "digits", "range of digits", "superscript",
        "arabic digit", "percent", "nan in words", "URL", "nowhere", "markup", "bidi", "NUL",  # are texts
        "array of text", "list of lists", "generator",  # two texts, two lists of token ids, token ids
    }
]  # fmt: skip


@pytest.mark.parametrize("name", NO_TEXTS)
def test_nothing_is_captured_that_is_no_text(name: str, tmp_path: Path) -> None:
    given = VALUES[name]()
    with pytest.raises(InputError):
        attlas.capture("demo", given, tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


LAYERS: list[tuple[Any, list[int]]] = [
    (1, [1]), ("1", [1]), ("0,2:4", [0, 2, 3]), ([0, -1], [0, 3]), (slice(1, 3), [1, 2]), (range(2), [0, 1]),
    (np.array([0, 1]), [0, 1]), (np.int8(-1), [3]), ((0, slice(2, None)), [0, 2, 3]), ("last:2", [2, 3]),
    ({3, 1}, [1, 3]),
    ("0:99999999999", [0, 1, 2, 3]), (slice(2, 10**12), [2, 3]),
]  # fmt: skip


@pytest.mark.parametrize(("given", "layers"), LAYERS, ids=[f"{i}" for i in range(len(LAYERS))])
def test_one_grammar_of_choices(given: Any, layers: list[int]) -> None:
    """Layers of a capture and of an analysis, from Python, as on a command line."""
    captured = attlas.capture("demo", "one two three", "memory://chosen", layers=given, overwrite=True)
    assert list(captured.layers("self")) == layers
    whole = attlas.capture("demo", "one two three", "memory://whole", overwrite=True)
    plan = analysis.explain(whole, layers=given)
    assert plan.layers == len(layers)


def test_an_analysis_takes_a_path_a_name_and_a_share(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    atlas = attlas.capture("demo", ["one two three, one two three", "and two"], store, ids=["a", "b"])
    by_path = analysis.statistics(str(store), names="entropy", documents="a", save=False)
    by_atlas = analysis.statistics(atlas, names=["entropy"], documents=["a"], save=False)
    assert by_path.equals(by_atlas)
    assert analysis.explain(store, sample="50%").rows == round(analysis.explain(store).of_rows / 2)
    assert analysis.explain(store, sample="8").rows == 8
    assert analysis.head_roles(store, save=False).equals(analysis.head_roles(atlas, save=False))
    with pytest.raises(InputError, match="a share such as 5%"):
        analysis.statistics(store, sample="500%")
