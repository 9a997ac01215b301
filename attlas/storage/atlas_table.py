"""An atlas as a small table of HTML, for notebooks. Reads small columns alone, and needs no torch."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attlas.readable import escaped
from attlas.storage.commits import COMMITTED
from attlas.storage.schema import axis_prefix

if TYPE_CHECKING:
    from attlas.storage.atlas import Atlas

__all__ = ["atlas_table"]

SHOWN = 5
"""Documents that are named."""
STYLE = "text-align: left; font-variant-numeric: tabular-nums"


def atlas_table(atlas: Atlas) -> str:
    """Model, tier, documents and tokens, and for each kind its layers and heads, as HTML; names are text in it.

    >>> "4 layers x 4 heads" in atlas_table(atlas)
    True
    """
    table = atlas.documents
    committed = table["state"].values == COMMITTED
    sizes = {axis: table[f"{axis_prefix(axis)}row_size"].values[committed] for axis in atlas.axes}
    tokens = ", ".join(
        f"{int(size.sum()):,} {'' if axis == 'text' else f'{axis} '}tokens, the longest {int(size.max(initial=0)):,}"
        for axis, size in sizes.items()
    )
    names = list(atlas)
    some = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
    model = atlas.model
    rows = [
        ("model", f"{model.get('name')} ({model.get('model_class')})"),
        ("keeps", f"{atlas.keep}: {', '.join(atlas.tier.factors)}"),
        ("documents", f"{len(names):,} of {len(committed):,} committed: {some}" if names else "none committed"),
        ("tokens", tokens),
        *(
            (f"{kind} attention", f"{len(atlas.layers(kind))} layers x {len(atlas.column(f'{kind}/head'))} heads")
            for kind in atlas.kinds
        ),
    ]
    return _table(f"attlas.Atlas {atlas.name}", rows)


def _table(caption: str, rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f'<tr><th style="{STYLE}">{_text(a)}</th><td style="{STYLE}">{_text(b)}</td></tr>' for a, b in rows)
    return f'<table><caption style="{STYLE}"><code>{_text(caption)}</code></caption><tbody>{cells}</tbody></table>'


def _text(told: str) -> str:
    return html.escape(escaped(told))
