"""Figures of what analyses found: each takes a Dataset and returns a matplotlib Figure; nothing is computed here.

May import everything below the command line. Needs no display: figures are drawn to files by `save`.
"""

from attlas.plots.bench import bench_figure
from attlas.plots.diversity import diversity_matrix, head_plane
from attlas.plots.heads import head_map, head_page, role_map
from attlas.plots.statistics import distance_decay, head_boxes, histograms, layer_means
from attlas.plots.style import save

__all__ = [
    "bench_figure",
    "distance_decay",
    "diversity_matrix",
    "head_boxes",
    "head_map",
    "head_page",
    "head_plane",
    "histograms",
    "layer_means",
    "role_map",
    "save",
]
