"""Who does the work, and in which environment: the plain forward pass, three tiers of attlas, and its peers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONTENDERS", "REFERENCE", "Contender"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """worker: a file of workers/. how: what the worker is told. writes: what it leaves behind, in plain words.

    maps: whether it writes the dense float16 maps that correctness is judged by.
    """

    name: str
    environment: str
    worker: str
    how: str
    writes: str
    maps: bool = True


CONTENDERS = (
    Contender(
        name="forward",
        environment="eager",
        worker="forward.py",
        how="-",
        writes="nothing: the plain forward pass under SDPA",
        maps=False,
    ),
    Contender(
        name="attlas statistics",
        environment="attlas",
        worker="attlas_capture.py",
        how="statistics",
        writes="the row statistics of every head",
        maps=False,
    ),
    Contender(
        name="attlas factors",
        environment="attlas",
        worker="attlas_capture.py",
        how="factors",
        writes="q, k and log-sum-exp, from which the maps' every cell is computed when asked for",
        maps=False,
    ),
    Contender(
        name="attlas maps",
        environment="attlas",
        worker="attlas_capture.py",
        how="maps",
        writes="dense float16 maps, and the factors too",
    ),
    Contender(
        name="HF eager",
        environment="eager",
        worker="hf_eager.py",
        how="whole",
        writes="dense float16 maps, from output_attentions=True",
    ),
    Contender(
        name="HF eager, hooked",
        environment="eager",
        worker="hf_eager.py",
        how="hooked",
        writes="dense float16 maps, each layer's written by a hook and dropped",
    ),
    Contender(
        name="TransformerLens",
        environment="transformer-lens",
        worker="lens.py",
        how="-",
        writes="dense float16 maps, from run_with_cache",
    ),
    Contender(
        name="nnsight",
        environment="nnsight",
        worker="nnsight_trace.py",
        how="-",
        writes="dense float16 maps, saved in one trace",
    ),
)

REFERENCE = Contender(
    name="reference",
    environment="eager",
    worker="hf_eager.py",
    how="reference",
    writes="eager attention's float32 maps, by which all others are judged",
)
