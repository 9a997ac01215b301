"""Questions asked of the running model, one a file: what changes when attention is edited, and what does not.

May import what lies below: engine, storage, capture, jobs, analysis. Loaded when asked for.
"""

from attlas.engine.edit.edit import Edit, parse_edits
from attlas.experiments.ablate_heads import ablate_heads
from attlas.experiments.explain import explain_edits
from attlas.experiments.run import run

__all__ = ["Edit", "ablate_heads", "explain_edits", "parse_edits", "run"]
