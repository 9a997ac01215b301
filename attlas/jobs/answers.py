"""The answers that an atlas keeps, as values ready for JSON."""

from __future__ import annotations

import json
from typing import Any

from attlas.jobs.results import saved_results
from attlas.storage import Atlas

__all__ = ["kept_answers"]


def kept_answers(atlas: Atlas) -> list[dict[str, Any]]:
    """path, name, made and parameters of each kept answer, the newest last."""
    return [
        {
            "path": path,
            "name": kept["question"],
            "made": kept["made"],
            "parameters": json.loads(kept["parameters"]),
        }
        for path, kept in saved_results(atlas).items()
    ]
