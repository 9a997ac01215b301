"""Every public name tells what it is: a docstring with an example that runs, and what it raises or takes.

The examples themselves are run by `make test` (pytest --doctest-modules); `make docs` makes the pages.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import attlas
from attlas import analysis, errors, plots

PUBLIC: dict[str, Any] = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (attlas, analysis, plots, errors)
    for name in module.__all__
}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}
WITHOUT_EXAMPLE = {"attlas.plots.bench_figure"}  # of a report that takes minutes to make
SILENT = {"attlas.errors.first_line"}  # nothing a caller gives makes it raise


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_has_a_docstring(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    assert text.split("\n")[0].rstrip().endswith((".", ",", ":", "mean weight on")), text


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_function_has_an_example_and_says_what_it_raises(name: str) -> None:
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    assert ">>> " in text or name in WITHOUT_EXAMPLE, f"{name} has no example"
    if name not in SILENT:
        assert "Raises" in text or "errors as `" in text, f"{name} does not say what it raises"


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_function_says_what_its_parameters_are(name: str) -> None:
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    common = {"progress", "storage_options", "dataset", "figure", "answer", "atlas"}  # told by their types
    inherits = "errors as `" in text
    for parameter in inspect.signature(FUNCTIONS[name]).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD or parameter.name in common or inherits:
            continue
        assert parameter.name in text, f"{name} does not tell of {parameter.name}"


@pytest.mark.parametrize("name", ["attlas.Atlas"])
def test_public_methods_have_docstrings(name: str) -> None:
    methods = {n: m for n, m in vars(PUBLIC[name]).items() if not n.startswith("_") and inspect.isfunction(m)}
    assert methods
    for method in methods:
        assert inspect.getdoc(methods[method]) or method == "layers", method
