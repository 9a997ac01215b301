"""The public doors of Python, read off the package: every public function, method and option value, with the values
that it is well called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import attlas
import attlas.storage
from attlas import analysis, experiments, parse, plots
from attlas.actors.layout import Layout
from attlas.engine.model.source import ModelSource
from attlas.engine.passage.budget import Budget
from attlas.engine.passage.rows import Rows
from attlas.engine.passage.selection import parse_selection
from attlas.experiments.asked import OPTIONS
from attlas.jobs.choices import Choices
from attlas.jobs.survey import SurveyOptions
from attlas.plots.pictures import Wanted
from attlas.storage import AttentionOperator
from attlas.storage.tile import choose_tile

__all__ = ["CALLBACKS", "INNER", "SLOW", "Door", "public_doors", "public_names"]

EXPERIMENTS = {
    name for name in experiments.__all__ if "options" in inspect.signature(getattr(experiments, name)).parameters
}  # fmt: skip
MODULES = (attlas, analysis, experiments, plots, attlas.storage)
OPTION_VALUES = (ModelSource, Rows, Budget, Layout)
INNER = {
    "AtlasSpec", "AtlasWriter", "Check", "PackWriter", "VerifyReport", "stored_spans", "Explanation", "store_bytes",
}  # fmt: skip
"""Values of ours that are public to be read, and what a capture writes with: no person's value reaches them."""
INNER_METHODS = {"places", "tokens", "rows"}
"""Of an atlas, what takes a document's number: for the rooms above, not for people."""
DRAWN = {"role_map": "head_roles", "diversity_matrix": "head_diversity", "head_plane": "head_diversity"}
"""Pictures of another question than `statistics`."""
BESIDE = {
    "flow": ("document",),
    "graph": ("document", "top"),
    "overview": ("document",),
    "pagerank": ("document",),
    "products": ("document",),
    "received": ("document",),
    "rollout": ("document",),
    "thumbnails": ("document",),
    "graph_of": ("top",),
    "draw": ("document", "layer"),
    "adversarial": ("layers", "steps"),
    "consistency": ("draws", "layers", "rate"),
    "integrated": ("layers", "steps"),
    "faithfulness": ("draws", "methods", "shares"),
    "paraphrases": ("cells",),
    "replace_tokens": ("places",),
}
"""Options without which a call is refused, where an atlas has two documents."""
WRITTEN = {
    "save": "a.png",
    "write_table": "a.csv",
    "write_graph": "a.graphml",
    "layer_animation": "a.gif",
    "draw": "a.png",
}
CALLBACKS = {"progress"}
"""Called with a value of ours: what a function of the user's raises is the user's."""
SLOW = {("shards", "none"), ("shards", "auto"), ("queries", "none"), ("queries", "slice")}
"""Meant, and slow: as few shards as fit the cluster, which starts; the flow from every token to every other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A function, the keywords it is well called with, and those that a person may give. made: what a call that is
    refused may not leave behind."""

    name: str
    call: Callable[..., object]
    good: Mapping[str, Any]
    fields: tuple[str, ...]
    made: Path | None = None


def public_names() -> list[tuple[str, Callable[..., object]]]:
    """Every name that a public module offers, modules and values left out."""
    return [
        (f"{module.__name__}.{name}", getattr(module, name))
        for module in MODULES for name in module.__all__ if callable(getattr(module, name))
    ]  # fmt: skip


def public_doors(atlas: attlas.Atlas, answers: Mapping[str, Any], folder: Path) -> Iterator[Door]:
    """answers: question -> its answer about the atlas. folder: where a door may write."""
    figure = plots.head_map(answers["statistics"].entropy)
    weights = atlas["a"].attention.isel(layer=0, head=0)
    graph = analysis.graph_of(weights, top=2)
    graded = attlas.capture("demo", "a text", "memory://fuzz-graded", ids=["a"], gradients="loss", overwrite=True)
    good: dict[str, Any] = {
        "atlas": atlas, "model": "demo", "texts": "a text", "where": atlas.name, "document": "a",
        "question": "statistics",
        "answer": answers["statistics"], "roles": answers["head_roles"], "diversity": answers["head_diversity"],
        "values": answers["statistics"].entropy, "report": None, "figure": figure, "dataset": answers["statistics"],
        "layer": 0, "head": 0, "given": "0", "field": "layers", "kind": "self", "path": folder / "a",
        "store": folder / "never.zarr", "key": "a", "axis": "text", "name": "entropy",
        "graph": graph, "x": np.ones(weights.sizes["key"]), "weights": weights, "made": graph, "top": 2,
        "do": "zero", "edits": attlas.Edit(do="zero", layer=1),
        "others": "b text", "answers": [(1, 2)], "queries": "1:", "keys": 0, "layers": 1, "steps": 2,
        "draws": 2, "rate": 0.1, "places": "1:3",
        "found": experiments.ablate_heads("demo", "a text", layers=1),
    }  # fmt: skip
    span = weights.isel(query=slice(20, 30), key=slice(10, 20))
    layers = analysis.overview(atlas, "a", layer=None, cells=20)
    drawn: dict[str, dict[str, Any]] = {
        "coloured_text": {"values": weights.isel(query=20)}, "lines": {"weights": span},
        "causal_report": {"answer": analysis.causal_report(atlas, save=False)},
        "compare": {"one": weights, "other": weights},
        "embedding": {"answer": analysis.embed_heads(atlas, save=False)},
        "relevance": {"atlas": graded},
        "faithfulness": {"methods": "attention", "shares": [0.5]},
        "integrated": {"text": "a text", "target": "loss"},
        "paraphrases": {"others": [["b text"]], "cells": 3},
        "head_grid": {"thumbnails": analysis.thumbnails(atlas, "a")},
        "layer_animation": {"weights": layers}, "draw": {"picture": "map"},
        "layers_in_space": {"weights": analysis.overview(atlas, "a", layer=None)},
    }  # fmt: skip
    seen: set[object] = set()
    for name, function in public_names():
        short = name.rpartition(".")[2]
        if short in INNER or function in seen:
            continue
        seen.add(function)
        if function is attlas.Edit:
            yield _door("Edit", function, good)
        elif inspect.isclass(function):
            if function is AttentionOperator:
                for method in ("apply", "apply_transposed", "row_sums"):
                    yield _door(f"{short}.{method}", getattr(atlas.operator("a", 0), method), good)
                continue
            for method in public_methods(function):
                yield _door(f"{short}.{method}", getattr(atlas, method), good | {"path": "self/layer"})
        else:
            own = good | {"answer": answers[DRAWN.get(short, "statistics")]} | drawn.get(short, {})
            if short in WRITTEN:
                own["path"] = folder / WRITTEN[short]
            made = folder / "never.zarr" if short == "capture" else own["path"]
            named = f"plots.{short}" if name.startswith(plots.__name__) else short
            yield _door(named, function, own, made=made, beside=BESIDE.get(short, ()))
    for value in OPTION_VALUES:
        yield _door(f"{value.__name__}.of", value.of, good)
    yield _door("parse_selection", parse_selection, good, only=("given",))
    yield _door("choose_tile", choose_tile, good, beside=("document",))
    for name in parse.__all__:
        if name.startswith("parse_"):
            own = {
                "field": "option",
                "choices": ("a", "b"),
                "kind": str,
                "remedy": "give a text",
                "given": None,
                "rows": lambda: 100,
            }
            yield _door(name, getattr(parse, name), own, only=("given",))


def public_methods(of: type) -> list[str]:
    """Methods that a person calls with a value of theirs; of a mapping the two that its own class does not have."""
    named = [name for name, value in vars(of).items() if inspect.isfunction(value) and not name.startswith("_")]
    methods = [
        one for one in named if one not in INNER_METHODS and len(inspect.signature(getattr(of, one)).parameters) > 1
    ]
    return [*methods, "__getitem__", "__contains__", "get"]


def _door(
    name: str,
    call: Callable[..., object],
    good: Mapping[str, Any],
    *,
    made: Path | None = None,
    only: tuple[str, ...] = (),
    beside: tuple[str, ...] = (),
) -> Door:
    """only: the fields that a person gives, all where empty. beside: options that this call needs."""
    fields: list[str] = []
    needed = {one: good[one] for one in beside}
    for parameter in inspect.signature(call).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            fields += _further(name)
            continue
        fields.append(parameter.name)
        if parameter.default is parameter.empty:
            assert parameter.name in good, f"{name} needs {parameter.name}: say in {__name__} what it is well given"
            needed[parameter.name] = good[parameter.name]
    return Door(name=name, call=_by_name(call), good=needed, fields=only or tuple(fields), made=made)


def _further(name: str) -> list[str]:
    """The names of `**choices` and `**options`."""
    if name == "Atlas.view":
        return [one for one in inspect.signature(attlas.view).parameters if one not in {"atlas", "document"}]
    if name in EXPERIMENTS:
        return list(OPTIONS)
    if name == "probe_heads":
        known = inspect.signature(attlas.capture).parameters
        return [one for one in known if one not in {"model", "texts", "store", "ids", "seed"}]
    if name == "plots.draw":
        return list(Wanted.__dataclass_fields__)
    return [*Choices.__dataclass_fields__, *SurveyOptions.__dataclass_fields__]


def _by_name(call: Callable[..., object]) -> Callable[..., object]:
    """By names, and what may be given by its place alone by its place."""
    positional = [
        one.name for one in inspect.signature(call).parameters.values()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) and one.default is one.empty
    ]  # fmt: skip

    def named(**given: Any) -> object:
        places = [given.pop(name) for name in positional]
        return call(*places, **given)

    return named
