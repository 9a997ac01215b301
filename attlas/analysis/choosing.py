"""What analyses of one document choose, of which tokens it is, and how the axes of their answers are labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from attlas.engine.passage.selection import parse_selection
from attlas.jobs.corpus import Corpus
from attlas.jobs.reduction import Execution
from attlas.jobs.survey import parse_survey
from attlas.storage import Atlas, parse_atlas
from attlas.storage.stores import Where
from attlas.storage.tile import only_document

__all__ = ["choose_document", "choose_labels", "chosen_rows", "token_coordinates"]


def choose_document(atlas: Atlas | Where, document: str | None, kind: str | None) -> tuple[Atlas, str, str]:
    """An atlas or the one at a place, its document and kind of attention: the only and the first, unless told."""
    atlas = parse_atlas(atlas)
    return atlas, only_document(atlas) if document is None else document, atlas.parse_kind(kind)


def choose_labels(given: Any, name: str, have: Sequence[int], of: str) -> list[int]:
    """Those of the labels that a choice names, all where it is None; raises InputError where there is none."""
    return list(have if given is None else parse_selection(given, name, random=False).choose(have, name, of))


def chosen_rows(atlas: Atlas, given: dict[str, Any]) -> tuple[Corpus, dict[str, Any]]:
    """The rows that keywords of `statistics` choose, and what an answer about them depends on; how the job is carried
    out is left out. Raises InputError."""
    carried = Execution.__dataclass_fields__
    choices, options = parse_survey(atlas, {name: value for name, value in given.items() if name not in carried})
    corpus = choices.corpus(atlas)
    return corpus, choices.parameters(corpus) | options.parameters()


def token_coordinates(
    attention: xr.DataArray, source: str, *, at: Sequence[int] | None = None, dim: str | None = None
) -> dict[str, xr.Variable]:
    """The place, the token and its id of an axis, `query` or `key`, of `Atlas.attention`.

    at: of these places alone. dim: what the axis is called in the answer, as in the atlas unless told.
    """
    dim = source if dim is None else dim
    chosen = slice(None) if at is None else np.asarray(at)
    names = [name for name in ("", "_token", "_token_id") if f"{source}{name}" in attention.coords]
    variables = {f"{dim}{name}": attention[f"{source}{name}"].variable for name in names}
    return {name: xr.Variable(dim, v.values[chosen], v.attrs) for name, v in variables.items()}
