"""One writer an atlas: a small file that says who writes it. Whoever finds another name in it stops.

It lies where no Zarr reader looks, is written when an atlas is made or gone on with, is looked at before each pack and
each commit, and is taken away with the last commit, or when its writer ends.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
import weakref
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.core.sync import sync

from attlas.errors import StoreBusyError
from attlas.storage.occupant import json_buffer, read_json

__all__ = ["LEASE", "Lease", "refuse_if_busy"]

LEASE = "packs/commit/lease.json"
SILENCE = 3600.0
"""Seconds without a sign of life after which a writer on another machine, where nobody can look, is taken for dead."""
SIGN_OF_LIFE = 60.0
"""How often a writer says that it lives, at most."""
LOOKED = 5.0
"""Seconds for which a writer that has looked need not look again before a write; before a commit it always does."""

_LIVING: weakref.WeakValueDictionary[str, Lease] = weakref.WeakValueDictionary()
"""The leases that this process holds, by writer."""


class Lease:
    """The right to write an atlas, of one writer. name: the atlas's, for messages."""

    def __init__(self, store: Store, identity: str, *, name: str) -> None:
        self.store, self.identity, self.name = store, identity, name
        self.writer = uuid.uuid4().hex
        self._said = self._looked = 0.0

    def take(self) -> None:
        """Become the writer, in the place of one that has died or ended.

        Raises StoreBusyError where another is writing.
        """
        refuse_if_busy(self.store, self.name)
        sync(self.store.delete(LEASE))
        sync(self.store.set_if_not_exists(LEASE, json_buffer(self._sign())))
        self._said = time.monotonic()
        self.check()
        _LIVING[self.writer] = self

    def check(self) -> None:
        """Raise StoreBusyError unless this is still the writer."""
        if not self.held:
            raise StoreBusyError(
                f"{self.name} was replaced, removed or gone on with by another writer meanwhile: this one stops, and "
                "commits nothing more"
            )
        self._looked = time.monotonic()

    def check_at_times(self) -> None:
        """As `check`, where the last one is a while ago: what goes on after a long pause finds out before it writes."""
        if time.monotonic() - self._looked > LOOKED:
            self.check()

    def renew(self) -> None:
        """As `check`; and say now and then that this writer lives."""
        self.check()
        if time.monotonic() - self._said > SIGN_OF_LIFE:
            sync(self.store.set(LEASE, json_buffer(self._sign())))
            self._said = time.monotonic()

    @property
    def held(self) -> bool:
        """Whether this is the writer."""
        told = read_json(self.store, LEASE)
        return isinstance(told, dict) and (told.get("writer"), told.get("identity")) == (self.writer, self.identity)

    @property
    def another_holds(self) -> bool:
        """Whether the store is somebody else's to write."""
        told = read_json(self.store, LEASE)
        return isinstance(told, dict) and told.get("writer") != self.writer

    def give_up(self) -> None:
        """Write no more, also where the store can no longer be told."""
        _LIVING.pop(self.writer, None)

    def release(self) -> None:
        """Take the file away, where it is this writer's."""
        self.give_up()
        if self.held:
            sync(self.store.delete(LEASE))

    def _sign(self) -> dict[str, Any]:
        pid = os.getpid()
        return {
            "identity": self.identity, "writer": self.writer, "host": _here(), "pid": pid, "started": _started(pid),
            "time": time.time(),
        }  # fmt: skip


def refuse_if_busy(store: Store, name: str) -> None:
    """Raise StoreBusyError where a living writer holds the atlas; one that cannot be read holds nothing."""
    told = read_json(store, LEASE)
    if not isinstance(told, dict) or not {"host", "pid", "started", "time", "writer"} <= told.keys():
        return
    host, pid = told["host"], told["pid"]
    if host != _here():
        silent = time.time() - (float(told["time"]) if isinstance(told["time"], int | float) else 0.0)
        if silent < SILENCE:
            raise StoreBusyError(
                f"{name} is being written by process {pid} on {str(host).partition(' ')[0]}, heard of {silent:.0f} s "
                f"ago: wait for it, or, where it has died, remove {LEASE} from the store"
            )
    elif pid == os.getpid():
        if told["writer"] in _LIVING:
            raise StoreBusyError(f"{name} is being written by this very process: wait for it, or end that capture")
    elif isinstance(pid, int) and _started(pid) is not None and _started(pid) == told["started"]:
        raise StoreBusyError(f"{name} is being written by process {pid} of this machine: wait for it, or stop it first")


def _here() -> str:
    """Where a process number means the same process: the host, and the container on it."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """What tells a living process from an older one of the same number; None where it has ended."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return _without_proc(pid)
    return None if told[0] in "ZX" else f"{boot} {told[19]}"


def _without_proc(pid: int) -> str | None:
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""
