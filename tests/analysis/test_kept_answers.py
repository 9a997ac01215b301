"""Analyses of one document keep their answers in the atlas, and find them there; of what is refused nothing is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import attlas
from attlas import analysis
from attlas.errors import InputError
from tests.families import BY_NAME, build_model, documents

ASKED: dict[str, Callable[..., xr.Dataset]] = {
    "rollout": lambda atlas, **more: analysis.rollout(atlas, queries=-1, **more),
    "received": lambda atlas, **more: analysis.received(atlas, by="word", **more),
    "pagerank": lambda atlas, **more: analysis.pagerank(atlas, layer=1, **more),
    "flow": lambda atlas, **more: analysis.flow(atlas, queries=[6], keys=[0, 3], **more),
    "causal_report": lambda atlas, **more: analysis.causal_report(atlas, rows=4, **more),
    "embedding": lambda atlas, **more: analysis.embed_heads(atlas, method="mds", **more),
}


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> attlas.Atlas:
    return attlas.capture("demo", ["the cat sat on the mat"], tmp_path_factory.mktemp("kept") / "a")


@pytest.mark.parametrize("question", list(ASKED))
def test_an_answer_is_found_the_next_time(atlas: attlas.Atlas, question: str) -> None:
    ask = ASKED[question]
    unkept = ask(atlas, save=False)
    assert question not in {kept["question"] for kept in analysis.saved_results(atlas).values()}
    first, again = ask(atlas), ask(atlas)
    assert (first.attrs.get("reused"), again.attrs["reused"]) == (None, "yes")
    xr.testing.assert_equal(unkept.drop_attrs(), again.drop_attrs())
    for name, variable in unkept.variables.items():
        assert variable.dtype.kind == again.variables[name].dtype.kind, name
    for name, value in unkept.attrs.items():
        assert again.attrs[name] == (pytest.approx(value, nan_ok=True) if isinstance(value, float) else value)


def test_other_options_are_another_answer(atlas: attlas.Atlas) -> None:
    one: Any = analysis.pagerank(atlas, layer=0)
    for options in ({"layer": 1}, {"layer": 0, "head": 1}, {"layer": 0, "damping": 0.5}):
        assert not analysis.pagerank(atlas, **options).pagerank.equals(one.pagerank)


def test_an_encoder_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    family = BY_NAME["bert"]
    atlas = attlas.capture(build_model(family), documents(family, lengths=(9,)), tmp_path / "a")
    with pytest.raises(InputError, match=r"^self attention is not causal: [\d,]+ rows see keys behind themselves"):
        analysis.causal_report(atlas)
    assert analysis.saved_results(atlas) == {}
