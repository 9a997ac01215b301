"""What all figures share: fonts, colours, sizes that follow what is shown, axes whose labels can be read."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attlas.parse import FIGURE_ENDINGS, parse_instance, parse_output

__all__ = [
    "DIVERGING",
    "INK",
    "MASKED",
    "NARROWEST",
    "OKABE",
    "PALE",
    "SEQUENTIAL",
    "apart",
    "grid_of",
    "heading",
    "label_axis",
    "model_title",
    "new_figure",
    "readable",
    "save",
    "styled",
    "subject",
    "title",
    "what",
]

INK, PALE, SEQUENTIAL = "#22303c", "#8a97a3", "viridis"
DIVERGING, MASKED = "PuOr", "#e4e7ea"
OKABE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
"""Colours that all eyes tell apart (Okabe and Ito 2008)."""
GENERIC = re.compile(r"(model|models|final|best|latest|output|weights|hf|checkpoint|checkpoint[-_]?\d+)", re.IGNORECASE)
"""Names of folders that many models have."""
DOTS = 150
NARROWEST = 5.2
"""Inches that a title needs."""
LETTERS = 12
"""Letters of a title in an inch."""

STYLE: dict[str, Any] = {
    "font.size": 9, "font.family": "sans-serif", "axes.edgecolor": PALE, "axes.labelcolor": INK,
    "axes.titlecolor": INK, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "xtick.color": INK, "ytick.color": INK,
    "axes.grid": False, "figure.facecolor": "white", "svg.fonttype": "none", "text.parse_math": False,
}  # fmt: skip


@contextmanager
def styled() -> Iterator[None]:
    """Figures made within have our style; matplotlib's own settings stay as they are."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches, on no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: str | Path) -> None:
    """Write a figure to a file: .png, .pdf or .svg, by its ending; one in space to .html, which opens offline.

    >>> figure = attlas.plots.head_map(attlas.analysis.statistics(atlas).entropy)
    >>> attlas.plots.save(figure, "entropy.png")

    figure: what a function of attlas.plots returned. path: of the file. Raises InputError at any other ending.
    """
    if hasattr(figure, "write_html"):  # plotly's, which need not be installed
        figure.write_html(parse_output(path, "path", (".html",)), include_plotlyjs=True)
        return
    figure = parse_instance(figure, "figure", Figure, "give what a function of attlas.plots returned")
    path = parse_output(path, "path", FIGURE_ENDINGS)
    with styled():
        figure.savefig(path, dpi=DOTS)


def label_axis(axis: Any, labels: Sequence[Any] | NDArray[Any], *, room: int) -> None:
    """Ticks at 0, 1, 2, ... with these labels, thinned out so that at most `room` stand beside one another."""
    step = max(1, int(np.ceil(len(labels) / max(room, 1))))
    places = list(range(0, len(labels), step))
    axis.set_ticks(places, [readable(str(labels[i])) for i in places])


def readable(text: str, width: int = 18) -> str:
    """A token or name on one line: blanks made visible, long ones cut."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥")
    shown = "".join(letter if letter.isprintable() else "·" for letter in shown) or "·"
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def grid_of(count: int, *, most: int = 4) -> tuple[int, int]:
    """Rows and columns for `count` panels."""
    columns = min(count, most)
    return -(-count // columns), columns


def title(figure: Figure, dataset: Any, what: str, *, rows: str | None = None) -> None:
    """What is shown, of which model and how much text."""
    attributes = dataset.attrs
    model = model_title(str(attributes.get("model") or ""))
    if rows is None and attributes.get("exact") == "yes":
        rows = f"all {attributes['rows']:,} query rows"
    elif rows is None:
        rows = f"{attributes.get('rows_used', 0):,} of {attributes.get('rows', 0):,} query rows, sampled"
    count = attributes.get("documents", 1)
    asked = f"{attributes.get('kind', 'self')} attention, {count:,} document{'s'[: count != 1]}, {rows}"
    heading(figure, what, f"{model}, {asked}" if model else asked)


def subject(weights: Any, *more: str | None) -> str:
    """Which model and document some weights are of, and what else is told, in one line."""
    attributes = weights.attrs
    model = model_title(str(attributes.get("model") or ""))
    kind = attributes.get("kind")
    parts = [model, attributes.get("document_id"), f"{kind} attention" if kind else None]
    named = [readable(str(part), 60) for part in parts if part]
    return ", ".join([*named, *(part for part in more if part)])


def model_title(name: str) -> str:
    """A model's name, or of its folder the part that tells it from others: `model` and `checkpoint-500` say nothing
    without the folder they lie in, and a folder of the hub's cache holds the name two floors up."""
    parts = Path(name).parts
    hub = next((part for part in reversed(parts) if part.startswith("models--")), None)
    if hub is not None:
        return hub.removeprefix("models--").replace("--", "/")
    if len(parts) > 1 and GENERIC.fullmatch(parts[-1]):
        return "/".join(part for part in parts[-2:] if part != "/")
    return Path(name).name


def heading(figure: Figure, what: str, where: str) -> Any:
    """A title: what is shown, and of what; lines are broken where the figure ends."""
    wide = int(figure.get_size_inches()[0] * LETTERS)
    lines = [part for line in (what, where) for part in textwrap.wrap(line, wide)]
    return figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10, color=INK)


def what(weights: Any) -> str:
    """Which layer and head some weights are of; their own title where they have one."""
    attributes = weights.attrs
    if "title" in attributes:
        return str(attributes["title"])
    layer = attributes.get("layer", weights.coords["layer"].values if "layer" in weights.coords else None)
    head = attributes.get("head", weights.coords["head"].values if "head" in weights.coords else None)
    if layer is None or np.ndim(layer):
        return str(attributes.get("long_name", "Attention"))
    return f"Layer {layer}, " + ("mean over heads" if head in (None, "mean") else f"head {head}")


def apart(place: NDArray[np.float64], order: Sequence[int], *, most: int) -> list[int]:
    """Of many points on a plane, those whose labels, to the right and above, lie over no other label and no other
    point, chosen in this order."""
    wide, high = np.ptp(place, axis=0) * (0.06, 0.024)
    taken: list[int] = []
    for i in order:
        right, above = (np.delete(place, i, axis=0) - place[i]).T
        over = (right > 0) & (right < wide) & (above > -high / 2) & (above < 1.5 * high)
        if not over.any() and all((np.abs(place[i] - place[j]) > (wide, high)).any() for j in taken):
            taken.append(int(i))
        if len(taken) == most:
            break
    return taken
