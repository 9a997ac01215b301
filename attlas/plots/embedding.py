"""Figure of heads as points: near ones attend alike; colour and shape tell what they do."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from attlas.errors import InputError
from attlas.plots.given import parse_answer
from attlas.plots.style import INK, OKABE, PALE, apart, heading, new_figure, styled

__all__ = ["embedding"]

SHAPES = "osD^vP*X<>hdp"
TOLD = 70
"""Labels at the most."""


def embedding(answer: xr.Dataset) -> Figure:
    """Heads as points by `embed_heads`, coloured by what they do, beside how far the picture can be trusted.

    >>> figure = attlas.plots.embedding(attlas.analysis.embed_heads(atlas))
    >>> len(figure.axes)
    1

    answer: of `attlas.analysis.embed_heads` with dimensions=2. Heads of no role are grey; labels are layer.head, of as
    many as have room, those with a role first. Raises InputError for another answer, and for three dimensions.
    """
    answer = parse_answer(answer, "embed_heads", "position", "role")
    place = answer.position.values
    if place.shape[1] != 2:
        raise InputError(f"the figure is flat, and these points have {place.shape[1]} dimensions: take dimensions=2")
    roles, told = answer.role.values.astype(str), answer.attrs
    names = sorted({role for role in roles if role}, key=lambda role: -(roles == role).sum())
    with styled():
        figure = new_figure(8.2, 6.4)
        panel = figure.subplots()
        none = place[roles == ""]
        panel.scatter(none[:, 0], none[:, 1], s=22, color=PALE, alpha=0.55, linewidths=0, label=f"none ({len(none)})")
        for i, role in enumerate(names):
            some = place[roles == role]
            panel.scatter(
                some[:, 0], some[:, 1], s=42, color=OKABE[i % len(OKABE)], marker=SHAPES[i % len(SHAPES)],
                edgecolors="white", linewidths=0.6, label=f"{role.replace('_', ' ')} ({len(some)})", zorder=3,
            )  # fmt: skip
        panel.set_aspect("equal", adjustable="datalim")
        far = -np.hypot(*(place - place.mean(axis=0)).T)
        order = np.lexsort((far, roles == ""))
        for i in apart(place, order.tolist(), most=TOLD):
            text = f"{answer.member_layer.values[i]}.{answer.member_head.values[i]}"
            panel.annotate(text, place[i], xytext=(4, 3), textcoords="offset points", fontsize=6.5, color=INK)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[["left", "bottom"]].set_visible(False)
        panel.set_xlabel(_trust(told), loc="left")
        panel.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), title="leading role")
        model = str(told.get("model", "")).rpartition("/")[2]
        heading(
            figure, f"{len(place)} heads as points: near ones attend alike",
            f"{model}, {told['method']} of {_short(str(answer.distance.attrs['long_name']))}",
        )  # fmt: skip
    return figure


def _short(text: str) -> str:
    return text if len(text) <= 90 else text[:89] + "…"


def _trust(told: dict[str, object]) -> str:
    text = f"trustworthiness {told['trustworthiness']:.2f} of {told['neighbours']} neighbours"
    if np.isfinite(float(str(told["role_p"]))):
        text += (
            f"; heads of one role lie {told['role_ratio']:.2f} times as far apart as any two (permutation p = "
            f"{told['role_p']:.2g})"
        )
    if told["method"] in {"tsne", "umap"}:
        text += "\nwith this method neither distances between groups nor sizes of groups mean anything"
    return text
