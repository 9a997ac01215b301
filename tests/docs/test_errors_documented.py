"""docs/errors.md has a section for every error that attlas raises, which says what it is besides and what to do."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import attlas
from attlas import errors
from attlas.errors import AttlasError

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, flags=re.M | re.S))
GPU_ALONE = "attlas.engine.kernels.cuda"


def all_errors() -> dict[str, type[AttlasError]]:
    """Every error class of the package, wherever it is defined."""
    for module in pkgutil.walk_packages(attlas.__path__, "attlas."):
        if module.name != GPU_ALONE:
            importlib.import_module(module.name)
    found: dict[str, type[AttlasError]] = {}
    waiting: list[type[AttlasError]] = [AttlasError]
    while waiting:
        error = waiting.pop()
        if error.__module__.startswith("attlas"):  # not those that tests define
            found[error.__name__] = error
        waiting += error.__subclasses__()
    return found


def test_every_error_has_a_section_and_no_other_has() -> None:
    assert set(SECTIONS) == set(all_errors())


def test_every_public_error_is_there() -> None:
    public = {name for name in errors.__all__ if inspect.isclass(getattr(errors, name))}
    assert public <= set(SECTIONS)


def test_a_section_names_the_builtin_and_the_remedy() -> None:
    for name, error in all_errors().items():
        section = SECTIONS[name]
        if error is AttlasError:
            continue
        besides = [base.__name__ for base in error.__bases__ if base is not AttlasError]
        for base in besides:
            assert f"`{base}`" in section, f"{name} is also a {base}"
        assert "Remedy: " in section, name
        assert (error.__doc__ or "").strip(), name
