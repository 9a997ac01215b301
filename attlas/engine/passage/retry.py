"""What becomes of a pack that breaks, in one process or on a cluster: run it again, with less, or give it up.

A value and pure functions; the loop that runs packs is the caller's.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

import torch

from attlas.engine.passage.headroom import Headroom
from attlas.errors import AttlasError, ClusterError, NoMemoryError, StoreBusyError, first_line

__all__ = ["LOSSES", "TRIES", "Trial", "after_error", "after_loss", "describe_error"]

TRIES = 3
"""How often a pack may break by its own fault where it is not certain to do so again."""
LOSSES = 5
"""How often a pack may go down with its workers before it is held to be what kills them."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""What is wrong with the machine and not with a pack: no other pack would fare better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A pack's next run. room: the sizes to run with. attempt: its number, from 1. errors, losses: so far, by its own
    fault and with its workers."""

    room: Headroom
    attempt: int = 1
    errors: int = 0
    losses: int = 0


def after_error(trial: Trial, error: Exception, *, name: str) -> Trial | Exception:
    """The next run, or the error that the pack is given up with; raises `error` where the whole run must end.

    Out of memory: again with less, as long as there is less. An AttlasError is the same every time: given up. A full or
    read-only disk ends the run, and so does another writer. Anything else may pass: again, TRIES times. name: the
    pack's, for messages.
    """
    if isinstance(error, torch.OutOfMemoryError):
        less = trial.room.less()
        return _no_memory(trial.room, name) if less is None else replace(trial, room=less, attempt=trial.attempt + 1)
    if isinstance(error, StoreBusyError) or (isinstance(error, OSError) and error.errno in FULL):
        raise error
    if isinstance(error, AttlasError) or trial.errors + 1 >= TRIES:
        return error
    return replace(trial, attempt=trial.attempt + 1, errors=trial.errors + 1)


def after_loss(trial: Trial, cause: Exception) -> Trial | Exception:
    """The next run of a pack whose workers died, or the error that it is given up with after LOSSES of them."""
    losses = trial.losses + 1
    if losses >= LOSSES:
        return ClusterError(f"its workers died {losses} times, at last with: {first_line(cause)}")
    return replace(trial, attempt=trial.attempt + 1, losses=losses)


def describe_error(error: Exception) -> str:
    """An error as an atlas records it: one line."""
    return f"{type(error).__name__}: {first_line(error)}"


def _no_memory(room: Headroom, name: str) -> NoMemoryError:
    chunk = "the pack in one pass" if room.chunk_tokens is None else f"{room.chunk_tokens} tokens a pass"
    return NoMemoryError(
        f"the device has no memory for {name}, with a tile of {room.tile_bytes // 2**20} MiB and {chunk} too -- "
        "use a larger device, --dtype bfloat16, or smaller packs by --memory"
    )
