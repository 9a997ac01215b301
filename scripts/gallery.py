"""Draws every picture of `attlas plot` for docs/gallery.md, on SmolLM2 over short and long texts.

python scripts/gallery.py MODEL [FOLDER]

MODEL: of SmolLM2-135M, a hub id or a folder. FOLDER: where pictures go, docs/gallery by default.
"""

from __future__ import annotations

import pydoc_data.topics
import sys
import tempfile
from pathlib import Path

from PIL import Image

import attlas
from attlas import plots
from attlas.plots.pictures import PICTURES

ROOT = Path(__file__).parents[1]
TOPICS = ("execmodel", "exceptions", "class", "function", "customization", "compound")
JACK, LONG, LONGER = 60, 2_000, 8_192

DRAWN: tuple[tuple[str, int, str, dict[str, object]], ...] = (
    ("map-short", JACK, "map", {"layer": 18, "head": 6}),
    ("map", LONG, "map", {"layer": 18, "head": 6}),
    ("map-long", LONGER, "map", {"layer": 18, "head": 6}),
    ("grid", LONG, "grid", {}),
    ("lines", JACK, "lines", {"layer": 18, "head": 6}),
    ("text", JACK, "text", {"layer": 18, "head": 6, "queries": "54"}),
    ("text-long", LONG, "text", {"layer": 11, "keys": "1000"}),
    ("graph", JACK, "graph", {"layer": 18, "head": 6, "threshold": 0.1}),
    ("heads", LONG, "heads", {}),
    ("layers", LONG, "layers", {}),
    ("causal", LONG, "causal", {}),
    ("film", JACK, "film", {"head": 6}),
)
"""File, tokens of the text, picture, what it is of. `space`, which has plotly in it, is 5 MB, and is left out."""


def main(model: str, folder: Path) -> None:
    text = "\n\n".join(pydoc_data.topics.topics[name] for name in TOPICS)
    texts = {JACK: (ROOT / "examples" / "jack.txt").read_text(encoding="utf-8"), LONG: text, LONGER: text}
    with tempfile.TemporaryDirectory() as place:
        atlases = {
            tokens: attlas.capture(
                model, {"jack" if tokens == JACK else "manual": one}, Path(place) / f"{tokens}.zarr", max_tokens=tokens
            )
            for tokens, one in texts.items()
        }
        for name, tokens, picture, wanted in DRAWN:
            path = folder / f"{name}{PICTURES[picture].endings[0]}"
            plots.draw(atlases[tokens], picture, path, **wanted)
            if path.suffix == ".png":
                shrink(path)
            print(path, f"{path.stat().st_size / 1e3:.0f} kB")


def shrink(path: Path) -> None:
    """A third of the bytes, in 256 colours, which is more than the figures have."""
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((1400, 1400))
        small.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs" / "gallery")
