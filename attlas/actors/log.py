"""Structured log lines: one JSON object a line, with the pack, replica and shard they are about."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

__all__ = ["LOGGER", "log_event"]

LOGGER = logging.getLogger("attlas.capture")


def log_event(
    event: str, *, pack: int | None = None, replica: int | None = None, shard: int | None = None, **more: Any
) -> None:
    """Log an event at level INFO. Fields that do not apply are null."""
    if LOGGER.isEnabledFor(logging.INFO):
        fields = {"time": round(time.time(), 3), "event": event, "pack": pack, "replica": replica, "shard": shard}
        LOGGER.info(json.dumps(fields | more, default=str))
