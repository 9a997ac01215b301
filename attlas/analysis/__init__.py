"""Questions asked of an atlas, as Dask jobs over the store: statistics, head roles, head diversity.

May import the engine and storage, and joins a Ray cluster through actors; nothing of plots or the command line.
"""

from attlas.analysis.ask import Explanation, explain, head_diversity, head_roles, statistics
from attlas.analysis.probe import probe_heads, sink_metric
from attlas.analysis.tables import to_frame, write_table
from attlas.jobs.results import saved_results

__all__ = [
    "Explanation",
    "explain",
    "head_diversity",
    "head_roles",
    "probe_heads",
    "saved_results",
    "sink_metric",
    "statistics",
    "to_frame",
    "write_table",
]
