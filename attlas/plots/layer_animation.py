"""One map after another, a frame a layer, as GIF or MP4."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.animation import FFMpegWriter, FuncAnimation, PillowWriter

from attlas.errors import InputError
from attlas.parse import parse_choice, parse_output, refuse
from attlas.plots.given import parse_weights
from attlas.plots.heatmap import colours, draw_map, scale_of
from attlas.plots.style import styled

__all__ = ["layer_animation"]

WRITERS = {".gif": PillowWriter, ".mp4": FFMpegWriter}
FASTEST = 30.0
DOTS = 100


def layer_animation(
    weights: xr.DataArray, path: str | Path, *, seconds: float = 0.5, scale: str | None = None
) -> FuncAnimation:
    """Write a film of the maps of all layers, one after the other, on one scale of colours.

    >>> film = attlas.plots.layer_animation(attlas.analysis.overview(atlas, layer=None, cells=73), "layers.gif")

    weights: (layer, query, key), of `attlas.analysis.overview` with layer=None. path: of the file, .gif, or .mp4 where
    ffmpeg is installed. seconds: each layer is shown. scale: as of `heatmap`. Raises InputError for other endings and
    times, and for .mp4 without ffmpeg.
    """
    given = parse_weights(weights, ("layer", "query", "key"))
    file = parse_output(path, "path", tuple(WRITERS))
    if file.suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise InputError(f"{file}: .mp4 needs the program ffmpeg, which is not installed: write a .gif")
    if not isinstance(seconds, int | float) or not 1 / FASTEST <= seconds <= 60:
        raise refuse(seconds, "seconds", f"give from {1 / FASTEST:.2f} to 60 a layer")
    keys = int(given.attrs.get("keys", given.sizes["key"]))
    scale = scale_of(given, keys) if scale is None else parse_choice(scale, "scale", ("linear", "log"))
    norm, palette = colours(given.values, scale)
    with styled():
        figure, image, name = draw_map(_frame(given, 0), norm, palette, scale)
        name(_frame(given, 0))
        figure.canvas.draw()
        figure.set_layout_engine("none")  # found once; doing it for every frame takes a second each

        def show(place: int) -> list[Any]:
            frame = _frame(given, place)
            image.set_data(np.asarray(frame.values))
            name(frame)
            return [image]

        film = FuncAnimation(figure, show, frames=given.sizes["layer"], interval=1000 * seconds, blit=False)
        film.save(file, writer=WRITERS[file.suffix](fps=1 / seconds), dpi=DOTS)
    return film


def _frame(given: xr.DataArray, place: int) -> xr.DataArray:
    return given.isel(layer=place, drop=True).assign_attrs(given.attrs, layer=int(given["layer"].values[place]))
