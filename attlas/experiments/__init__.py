"""Questions asked of the running model, one a file: what changes when attention is edited, and what does not.

May import what lies below: engine, storage, capture, jobs, analysis. Loaded when asked for.
"""

from attlas.engine.edit.edit import Edit, parse_edits
from attlas.experiments.ablate_edges import ablate_edges
from attlas.experiments.ablate_heads import ablate_heads
from attlas.experiments.adversarial import adversarial
from attlas.experiments.consistency import consistency
from attlas.experiments.counterfactual import counterfactual
from attlas.experiments.explain import explain_edits
from attlas.experiments.faithfulness import faithfulness
from attlas.experiments.integrated import integrated
from attlas.experiments.mean_outputs import mean_outputs
from attlas.experiments.paraphrases import paraphrases
from attlas.experiments.patching import patching
from attlas.experiments.perturbation import perturbation
from attlas.experiments.remove_largest import remove_largest
from attlas.experiments.replace_tokens import replace_tokens
from attlas.experiments.run import run

__all__ = [
    "Edit",
    "ablate_edges",
    "ablate_heads",
    "adversarial",
    "consistency",
    "counterfactual",
    "explain_edits",
    "faithfulness",
    "integrated",
    "mean_outputs",
    "paraphrases",
    "parse_edits",
    "patching",
    "perturbation",
    "remove_largest",
    "replace_tokens",
    "run",
]
