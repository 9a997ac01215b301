"""Every question by its name, so that whatever lists, plans or explains questions needs to know none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attlas.jobs.reduction import Execution, Explanation, Job, explain_job
from attlas.parse import parse_choice
from attlas.storage import Atlas, parse_atlas
from attlas.storage.stores import Where

__all__ = ["QUESTIONS", "explain", "question"]

Planner = Callable[..., Job]

QUESTIONS: dict[str, Planner] = {}
"""name -> the function (atlas, **choices) that decides its job; filled by the analyses when they are imported."""


def question(name: str) -> Callable[[Planner], Planner]:
    """Mark the function that decides a question's job."""

    def mark(planner: Planner) -> Planner:
        QUESTIONS[name] = planner
        return planner

    return mark


def explain(
    atlas: Atlas | Where,
    question: str = "statistics",
    *,
    workers: int | None = None,
    scheduler: str = "threads",
    **choices: Any,
) -> Explanation:
    """What a question would do with the same choices, before it runs; reads small columns alone.

    >>> plan = attlas.analysis.explain(atlas, "statistics", sample=60)
    >>> plan.source, plan.layers, plan.heads, plan.of_rows
    ('factors', 4, 4, 146)

    question: its name. workers, scheduler, choices: as of the question's function.
    Raises InputError where there is no such question or choice.
    """
    atlas = parse_atlas(atlas)
    execution = Execution(scheduler=scheduler, workers=workers)
    planner = QUESTIONS[parse_choice(question, "question", tuple(QUESTIONS))]
    return explain_job(atlas, planner(atlas, **choices), scheduler=execution.scheduler, workers=execution.workers)
