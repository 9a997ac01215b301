"""Roles of heads: previous token, induction, sink and others, each with its definition and threshold, here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.jobs.blocks import Plan
from attlas.jobs.features import Sums, ratio
from attlas.jobs.labels import described, error_of
from attlas.jobs.layer import LayerValues
from attlas.jobs.quantity import Quantity
from attlas.jobs.questions import question
from attlas.jobs.reduction import Execution, Job
from attlas.jobs.survey import OFFERS, Offer, parse_survey, plan_survey, survey_atlas
from attlas.jobs.survey_rows import LOCAL, OFFSETS
from attlas.progress import Report
from attlas.storage import Atlas, parse_atlas
from attlas.storage.stores import Where

__all__ = ["ROLES", "Role", "head_roles", "leading_heads", "leading_role", "plan_head_roles", "summarise_roles"]

Floats = NDArray[np.float64]


def head_roles(
    atlas: Atlas | Where,
    *,
    scheduler: str = "threads",
    workers: int | None = None,
    save: bool = True,
    progress: Report | None = None,
    **choices: Any,
) -> xr.Dataset:
    """Scores of every head in every role: role_score(role, layer, head), with role_threshold and role_baseline.

    >>> roles = attlas.analysis.head_roles(atlas)
    >>> roles.role_score.sel(role="induction").max("head").values
    array([0.0418, 0.8732, 0.0463, 0.0592])

    The baseline is the score of attention spread evenly over the visible keys; `has_role` where the score reaches the
    threshold and twice the baseline. Choices and errors as `statistics`.
    """
    atlas = parse_atlas(atlas)
    execution = Execution(scheduler=scheduler, workers=workers, save=save, progress=progress)
    survey = survey_atlas(atlas, *parse_survey(atlas, choices), execution)
    names = [
        name
        for name in (
            "role_score", "role_error", "role_baseline", "role_rows", "role_threshold", "has_role", "role_definition",
            "fixed_offset",
        )
        if name in survey
    ]  # fmt: skip
    left_out = [role.name for role in ROLES if role.name not in survey["role"].values]
    attributes = {"question": "roles"} | ({"left_out": ", ".join(left_out)} if left_out else {})
    return survey[names].assign_attrs(attributes)


@question("head_roles")
def plan_head_roles(atlas: Atlas, **choices: Any) -> Job:
    """The job behind `head_roles`: one survey, which answers statistics too."""
    return plan_survey(atlas, *parse_survey(atlas, choices))


def leading_role(roles: xr.Dataset) -> NDArray[np.object_]:
    """(layer, head) names: the role in which a head passes its threshold by most; "" where it has none."""
    excess = np.where(roles.has_role.values, roles.role_score.values / roles.role_threshold.values[:, None, None], 0)
    names = np.array(roles["role"].values, dtype=object)
    return np.where(excess.max(axis=0) > 0, names[excess.argmax(axis=0)], "")


def leading_heads(scores: xr.DataArray, count: int) -> list[tuple[int, int, float]]:
    """(layer, head, score) of the largest scores (layer, head), by the model's indices; NaN is no score."""
    values, layers, heads = scores.values, scores["layer"].values, scores["head"].values
    flat = np.where(np.isnan(values), -1, values).ravel()
    order = np.argsort(-flat, kind="stable")[:count]
    places = [np.unravel_index(int(i), values.shape) for i in order if flat[i] >= 0]
    return [(int(layers[a]), int(heads[b]), float(values[a, b])) for a, b in places]


def summarise_roles(roles: xr.Dataset, count: int) -> dict[str, dict[str, Any]]:
    """role -> its definition, threshold, baseline of each layer, how many heads have it, and `count` leading heads."""
    return {
        str(name): {
            "definition": str(roles.role_definition.values[i]),
            "threshold": float(roles.role_threshold[i]),
            "baseline": [None if np.isnan(value) else float(value) for value in roles.role_baseline.values[i]],
            "heads": int(roles.has_role.values[i].sum()),
            "leading": [
                {"layer": layer, "head": head, "score": score}
                for layer, head, score in leading_heads(roles.role_score[i], count)
            ],
        }
        for i, name in enumerate(roles["role"].values)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One role. score, baseline: sums -> (U, H) and (U, 1), in [0, 1]; rows: how many rows they are means over.

    A head has the role where its score reaches the threshold and twice the baseline, which is the same score for
    attention spread evenly over the visible keys.
    """

    name: str
    definition: str
    threshold: float
    needs: tuple[str, ...]
    score: Callable[[Sums], Floats]
    baseline: Callable[[Sums], Floats]
    rows: Callable[[Sums], Floats]
    same_axis: bool = True

    def quantities(self) -> tuple[Quantity, ...]:
        """What the survey computes of it."""
        return tuple(
            Quantity(
                name=f"{what}.{self.name}", definition=self.definition, units="1", needs=self.needs,
                compute=getattr(self, what), same_axis=self.same_axis, errors=what == "score", of_documents=False,
            )
            for what in ("score", "baseline", "rows")
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Mean of a weight over the rows of a role, (U, H)."""

    role: str

    def __call__(self, sums: Sums) -> Floats:
        return ratio(sums.head(f"role_{self.role}"), sums.plain(f"{self.role}_rows"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The same of evenly spread attention, (U, 1)."""

    role: str

    def __call__(self, sums: Sums) -> Floats:
        return ratio(sums.plain(f"{self.role}_uniform"), sums.plain(f"{self.role}_rows"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A plain feature as it is, (U, 1)."""

    name: str

    def __call__(self, sums: Sums) -> Floats:
        return sums.plain(self.name)


def _role(name: str, definition: str, threshold: float, *, same_axis: bool = True) -> Role:
    return Role(
        name=name, definition=definition, threshold=threshold, needs=(f"role_{name}",), same_axis=same_axis,
        score=Score(role=name), baseline=Baseline(role=name), rows=Rows(name=f"{name}_rows"),
    )  # fmt: skip


FAR = np.array([abs(offset) > 1 for offset in OFFSETS])
ANY = np.ones(len(OFFSETS), dtype=np.bool_)
NEXT = OFFSETS.index(1)
LEAST_SHARE = 0.25
"""Offsets that fewer of the rows can see are no fixed offset of a head."""


def _offset_means(sums: Sums, weight: Floats) -> Floats:
    """(U, H, offsets): mean weight at each offset over the rows that see it; NaN at offsets few rows see."""
    rows = sums.plain("offset_rows")
    seen = (rows >= LEAST_SHARE * sums.plain("choices")[..., None]) & (rows > 0)
    return np.where(seen, ratio(weight, rows), np.nan)


def _largest(values: Floats, allowed: NDArray[np.bool_]) -> Floats:
    some = (allowed & ~np.isnan(values)).any(axis=-1)
    largest = np.where(allowed & ~np.isnan(values), values, -1).max(axis=-1)
    return np.where(some, largest, np.nan)


def _offset_score(sums: Sums) -> Floats:
    return _largest(_offset_means(sums, sums.head("offset")), FAR)


def _offset_baseline(sums: Sums) -> Floats:
    return _largest(_offset_means(sums, sums.plain("offset_uniform")), FAR)


def _fixed_offset(sums: Sums) -> Floats:
    """(U, H): the fixed offset with the largest score."""
    score = _offset_means(sums, sums.head("offset"))
    place = np.argmax(np.where(FAR & ~np.isnan(score), score, -1), axis=-1)
    return np.array(OFFSETS, dtype=np.float64)[place]


def _next_score(sums: Sums) -> Floats:
    return ratio(sums.head("offset")[..., NEXT], sums.plain("offset_rows")[..., NEXT])


def _next_baseline(sums: Sums) -> Floats:
    return ratio(sums.plain("offset_uniform")[..., NEXT], sums.plain("offset_rows")[..., NEXT])


def _next_rows(sums: Sums) -> Floats:
    return sums.plain("offset_rows")[..., NEXT]


def _positional_score(sums: Sums) -> Floats:
    return _largest(ratio(sums.head("argmax_offset"), sums.plain("choices")[..., None]), ANY)


def _positional_baseline(sums: Sums) -> Floats:
    return ratio(sums.plain("positional_uniform"), sums.plain("choices"))


ROLES: tuple[Role, ...] = (
    _role("previous", "mean weight on the token before the query", 0.5),
    Role(
        name="next", definition="mean weight on the token after the query", threshold=0.5, needs=("offset",),
        score=_next_score, baseline=_next_baseline, rows=_next_rows,
    ),
    _role("self", "mean weight on the query's own position", 0.5),
    _role(
        "sink", "mean weight on the document's first token, of later queries (Xiao et al. 2023)", 0.5, same_axis=False
    ),
    _role(
        "separator",
        "mean weight on punctuation, line ends and special tokens, where one is visible (Clark et al. 2019)", 0.5,
        same_axis=False,
    ),
    Role(
        name="offset", definition=f"mean weight at the best fixed offset of 2 to {OFFSETS[-1]} tokens", threshold=0.5,
        needs=("offset",), score=_offset_score, baseline=_offset_baseline, rows=Rows(name="choices"),
    ),
    _role("local", f"mean weight on keys at most {LOCAL} tokens away", 0.7),
    _role("duplicate", "mean weight on earlier copies of the query's token, of queries that see one", 0.3),
    _role(
        "induction",
        "mean weight on tokens that follow an earlier copy of the query's token, of queries that see one "
        "(prefix matching, Olsson et al. 2022)", 0.3,
    ),
    Role(
        name="positional",
        definition="share of queries whose largest weight is at one and the same offset (Voita et al. 2019)",
        threshold=0.9, needs=("argmax_offset",), score=_positional_score, baseline=_positional_baseline,
        rows=Rows(name="choices"),
    ),
)  # fmt: skip

FIXED_OFFSET = Quantity(
    name="fixed_offset", definition="fixed offset, key - query, with the largest mean weight", units="token",
    needs=("offset",), compute=_fixed_offset, same_axis=True, errors=False, of_documents=False,
)  # fmt: skip


def _label(plan: Plan, layers: Sequence[LayerValues]) -> dict[str, Any]:
    """The roles that some row has, as variables (role, layer, head)."""
    rows = [role for role in ROLES if any(layer.values.get(f"rows.{role.name}", np.zeros(1)).any() for layer in layers)]
    heads = len(plan.corpus.heads)

    def stacked(values: str, what: str, width: int) -> Floats:
        of_roles = [
            [np.broadcast_to(getattr(layer, values)[f"{what}.{role.name}"], width) for layer in layers] for role in rows
        ]
        return np.array(of_roles, dtype=np.float64)

    score, baseline = stacked("values", "score", heads), stacked("values", "baseline", 1)[..., 0]
    threshold = np.array([role.threshold for role in rows])
    has_role = (score >= threshold[:, None, None]) & (score >= 2 * baseline[..., None])
    square = ("role", "layer", "head")
    variables: dict[str, Any] = {
        "role": (("role",), np.array([role.name for role in rows], dtype=object)),
        "role_score": (square, score, described("score of the head in the role", "1")),
        "role_baseline": (
            ("role", "layer"), baseline,
            described("score of attention spread evenly over the visible keys", "1"),
        ),
        "role_rows": (
            ("role", "layer"), stacked("values", "rows", 1)[..., 0],
            described("query rows that the score is a mean over", "1"),
        ),
        "role_threshold": (("role",), threshold, described("least score of a head with the role", "1")),
        "has_role": (square, has_role, {"long_name": "the score reaches the threshold, and twice the baseline"}),
        "role_definition": (("role",), np.array([role.definition for role in rows], dtype=object)),
    }  # fmt: skip
    if plan.sample is not None:
        variables["role_error"] = (square, stacked("errors", "score", heads), error_of("role_score", "1"))
    if "fixed_offset" in layers[0].values:
        offset = np.stack([layer.values["fixed_offset"] for layer in layers]).astype(np.int64)
        variables["fixed_offset"] = (
            ("layer", "head"), offset, described(FIXED_OFFSET.definition, FIXED_OFFSET.units)
        )  # fmt: skip
    return variables


OFFERS["head_roles"] = Offer(
    parts=(*(quantity for role in ROLES for quantity in role.quantities()), FIXED_OFFSET), label=_label
)
