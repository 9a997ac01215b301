"""Figures of what analyses found: each takes a Dataset and returns a matplotlib Figure; nothing is computed here.

May import everything below the command line. Needs no display: figures are drawn to files by `save`.
"""

from attlas.plots.bench import bench_figure
from attlas.plots.causal_report import causal_report
from attlas.plots.coloured_text import coloured_text
from attlas.plots.diversity import diversity_matrix, head_plane
from attlas.plots.embedding import embedding
from attlas.plots.experiment import experiment
from attlas.plots.graph_drawing import graph_drawing
from attlas.plots.head_grid import head_grid
from attlas.plots.heads import head_map, head_page, role_map
from attlas.plots.heatmap import heatmap
from attlas.plots.layer_animation import layer_animation
from attlas.plots.layers_in_space import layers_in_space
from attlas.plots.lines import lines
from attlas.plots.pictures import draw
from attlas.plots.statistics import distance_decay, head_boxes, histograms, layer_means
from attlas.plots.style import save

__all__ = [
    "bench_figure",
    "causal_report",
    "coloured_text",
    "distance_decay",
    "diversity_matrix",
    "draw",
    "embedding",
    "experiment",
    "graph_drawing",
    "head_boxes",
    "head_grid",
    "head_map",
    "head_page",
    "head_plane",
    "heatmap",
    "histograms",
    "layer_animation",
    "layer_means",
    "layers_in_space",
    "lines",
    "role_map",
    "save",
]
