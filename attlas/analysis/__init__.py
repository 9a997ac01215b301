"""Questions asked of an atlas, one a file. Each answers with an xarray Dataset, whose variables say what they are.

| question | function |
|---|---|
| how spread out, far-reaching, sparse is a head? its entropy? | `statistics` |
| what does a head do: previous token, induction, sink ...? | `head_roles` |
| how alike are heads, and which form groups? | `head_diversity` |
| heads as points on a plane, near where they are alike | `embed_heads` |
| which heads of a model copy, on repeated random tokens? | `probe_heads` |
| how many heads are attention sinks (Gu et al. 2024)? | `sink_metric` |
| what would a question read, and is its answer kept? | `explain`, `saved_results` |
| what a causal model's layers look at, and how far back | `causal_report` |
| where do two documents, layers, heads or models differ? | `compare` |
| a whole map, or every head's, small enough to look at | `overview`, `thumbnails`, `shrink` |
| attention as a graph of tokens, and who is central in it? | `graph`, `graph_of`, `centrality`, `write_graph` |
| who is central, every weight an edge, at any length | `pagerank` |
| how much could flow from a token through the layers (Abnar and Zuidema 2020)? | `flow` |
| A @ X or A.T @ X of all layers, on threads, Ray or Dask | `products` |
| how far is each state made of each token, through layers (Abnar and Zuidema 2020)? | `rollout` |
| how much is each token, word, sentence attended to? | `received` |
| how much does each token count for what the model said (of an atlas with gradients)? | `relevance` |
| the answer as a table or a file | `to_frame`, `write_table` |

May import the job machine and what is below it; nothing of plots or the command line.
"""

from attlas.analysis.causal_report import causal_report
from attlas.analysis.centrality import centrality
from attlas.analysis.compare import compare
from attlas.analysis.embedding import embed_heads
from attlas.analysis.flow import flow
from attlas.analysis.graph import graph, graph_of, write_graph
from attlas.analysis.head_diversity import head_diversity
from attlas.analysis.head_probe import probe_heads
from attlas.analysis.head_roles import head_roles
from attlas.analysis.overview import overview, shrink, thumbnails
from attlas.analysis.pagerank import pagerank
from attlas.analysis.products import products
from attlas.analysis.received import received
from attlas.analysis.relevance import relevance
from attlas.analysis.rollout import rollout
from attlas.analysis.sink_metric import sink_metric
from attlas.analysis.statistics import statistics
from attlas.analysis.tables import to_frame, write_table
from attlas.jobs.questions import explain
from attlas.jobs.reduction import Explanation
from attlas.jobs.results import saved_results

__all__ = [
    "Explanation",
    "causal_report",
    "centrality",
    "compare",
    "embed_heads",
    "explain",
    "flow",
    "graph",
    "graph_of",
    "head_diversity",
    "head_roles",
    "overview",
    "pagerank",
    "probe_heads",
    "products",
    "received",
    "relevance",
    "rollout",
    "saved_results",
    "shrink",
    "sink_metric",
    "statistics",
    "thumbnails",
    "to_frame",
    "write_graph",
    "write_table",
]
