"""Every experiment of several parts, stopped behind each of them: the same question goes on and ends in the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr

from attlas import experiments
from attlas.progress import Progress

TEXTS = ["one two three, one two", "the cat sat on the mat"]
OTHERS = ["one six three, one two", "the dog sat on the mat"]
ANSWERS = [("a", "b"), ("c", "d")]
ASKED: dict[str, Callable[..., xr.Dataset]] = {
    "perturbation": lambda **more: experiments.perturbation("demo", TEXTS, sizes=[0.1, 1.0], draws=2, **more),
    "remove_largest": lambda **more: experiments.remove_largest("demo", TEXTS, shares=[0.1, 0.5], draws=2, **more),
    "patching": lambda **more: experiments.patching("demo", TEXTS, OTHERS, ANSWERS, each="layer", layers="0:2", **more),
    "ablate_edges": lambda **more: experiments.ablate_edges("demo", TEXTS, keys=0, queries="5:", layers="0:2", **more),
    "consistency": lambda **more: experiments.consistency("demo", TEXTS, draws=2, rate=0.1, layers="0:2", **more),
    "counterfactual": lambda **more: experiments.counterfactual("demo", TEXTS, OTHERS, layers=1, **more),
    "replace_tokens": lambda **more: experiments.replace_tokens("demo", TEXTS, by="random", draws=1, **more),
    "paraphrases": lambda **more: experiments.paraphrases("demo", TEXTS, [[one] for one in OTHERS], cells=4, **more),
    "faithfulness": lambda **more: experiments.faithfulness(
        "demo", TEXTS, methods=["attention", "chefer"], shares=[0.3], draws=1, **more
    ),
    "integrated": lambda **more: experiments.integrated("demo", TEXTS[0], steps=2, layers="0:2", **more),
}


class Stop(Exception):
    """As a key that is pressed."""


@pytest.mark.parametrize("name", ASKED)
def test_it_goes_on(name: str, tmp_path: Path) -> None:
    ask, whole = ASKED[name], ASKED[name]()
    done: list[int] = []
    while True:
        before = len(list(tmp_path.glob("*/*.npz")))

        def stopping(state: Progress, before: int = before) -> None:
            done.append(state.done)
            if state.done == before + 1 < state.total:
                raise Stop

        try:
            found = ask(keep=tmp_path, progress=stopping)
        except Stop:
            assert len(list(tmp_path.glob("*/*.npz"))) == before + 1
            continue
        break
    xr.testing.assert_identical(found, whole)
    assert max(done) == len(list(tmp_path.glob("*/*.npz"))) > 1
