"""Captures that a server makes for its askers: a bounded queue, one at a time, each item with an outcome of its own.

A capture becomes an atlas that is served. An item that cannot be captured is told why, and does not stop the others.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attlas.errors import AttlasError, InputError, PacksFailedError, ServerBusyError, first_line
from attlas.parse import refuse
from attlas.progress import CaptureProgress

if TYPE_CHECKING:
    from attlas.engine.model.layout import ModelLayout
    from attlas.engine.model.load import LoadedModel
    from attlas.server.session import Session
    from attlas.storage import Atlas

__all__ = ["Captures", "Event", "Item", "Job"]

MOST_WAITING = 8
MOST_KEPT = 200
"""Jobs that are told of; the oldest that have ended are forgotten, their atlases are not."""
MOST_EVENTS = 2000
ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job; its number is its place in the job's events."""

    name: str
    data: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Item:
    """A text of a batch. given: what attlas.capture takes. state: waiting, captured, failed or cancelled."""

    id: str
    given: Any = None
    state: str = "waiting"
    error: dict[str, Any] | None = None

    @property
    def told(self) -> dict[str, Any]:
        return {"id": self.id, "state": self.state} | ({"error": self.error} if self.error else {})


@dataclass(slots=True, kw_only=True)
class Job:
    """A capture. state: waiting, running, done, failed (no item was captured) or cancelled. atlas: the name by which
    it is served, once it is."""

    id: str
    model: str
    keep: str
    items: list[Item]
    state: str = "waiting"
    atlas: str | None = None
    events: list[Event] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def told(self) -> dict[str, Any]:
        found = {"id": self.id, "model": self.model, "keep": self.keep, "state": self.state, "atlas": self.atlas}
        return found | {"items": [item.told for item in self.items], "events": f"/v1/captures/{self.id}/events"}

    def tell(self, name: str, data: dict[str, Any]) -> None:
        if len(self.events) < MOST_EVENTS or name != "progress":
            self.events.append(Event(name, data))


class Captures:
    """models: that may be run. folder: where the atlases are made. most_waiting: jobs that wait at a time.

    One thread runs them, begun with the first; `close` ends it.
    """

    def __init__(
        self, models: Sequence[str], folder: Path, session: Callable[[], Session], *, most_waiting: int = MOST_WAITING
    ) -> None:
        self.models, self.folder, self.most_waiting = tuple(models), folder, most_waiting
        self._session = session
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._loaded: tuple[str, LoadedModel, ModelLayout] | None = None

    def submit(self, model: str, texts: Sequence[Any], *, keep: str = "factors") -> Job:
        """Put a batch into the queue. Raises InputError where the model is not one of those that may be run or there
        are no texts, ServerBusyError where the queue is full."""
        if model not in self.models:
            raise refuse(model, "model", f"choose one of {', '.join(self.models)}")
        if not texts:
            raise refuse(texts, "texts", "give one text or more")
        job = Job(id=f"capture-{secrets.token_hex(6)}", model=model, keep=keep, items=_items(texts))
        with self._changed:
            if len(self._waiting) >= self.most_waiting:
                raise ServerBusyError(f"{len(self._waiting)} captures wait already: ask again when one has ended")
            self._jobs[job.id] = job
            for old in [one for one in self._jobs.values() if one.ended][: max(0, len(self._jobs) - MOST_KEPT)]:
                del self._jobs[old.id]
            job.tell("state", {"state": "waiting"})
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="attlas captures", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def job(self, name: str) -> Job | None:
        return self._jobs.get(name)

    def cancel(self, job: Job) -> bool:
        """Take a job out of the queue; whether it had not yet begun."""
        with self._changed:
            if job not in self._waiting:
                return job.state == "cancelled"
            self._waiting.remove(job)
            for item in job.items:
                item.state = "cancelled" if item.state == "waiting" else item.state
            self._end(job, "cancelled")
        return True

    def close(self) -> None:
        """End the thread, after the pack at work."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                job = self._waiting.popleft()
                job.state = "running"
                job.tell("state", {"state": "running"})
            try:
                self._run(job)
            except Exception as error:  # whatever a model does, the next job is run
                self._fail_rest(job, error)
            self._end(job, "done" if any(item.state == "captured" for item in job.items) else "failed")

    def _run(self, job: Job) -> None:
        """Capture the items that can be planned, all into one atlas."""
        import attlas
        from attlas.capture.plan import plan_capture

        loaded, layout = self._load(job.model)
        good = []
        for item in job.items:
            if item.state != "waiting":
                continue
            try:
                plan_capture(loaded, [item.given], layout=layout, ids=[item.id], keep=job.keep)
                good.append(item)
            except AttlasError as error:
                _fail(job, item, error)
        if not good:
            return
        where = self.folder / f"{job.id}.zarr"
        try:
            atlas = attlas.capture(
                loaded.model, [item.given for item in good], where, ids=[item.id for item in good], keep=job.keep,
                tokenizer=loaded.tokenizer, progress=lambda state: self._progress(job, state),
            )  # fmt: skip
        except PacksFailedError as error:
            if not error.some_committed:
                raise
            atlas = attlas.open_atlas(where)
        self._serve(job, atlas, good)

    def _serve(self, job: Job, atlas: Atlas, items: Sequence[Item]) -> None:
        for item in items:
            if item.id in atlas:
                item.state = "captured"
                job.tell("item", item.told)
                continue
            pack = int(atlas.documents["pack"].values[list(atlas.documents["document_id"].values).index(item.id)])
            _fail(job, item, PacksFailedError(str(atlas.packs["error"].values[pack]), some_committed=True))
        session = self._session()
        session.atlases = {**session.atlases, job.id: atlas}  # never changed while another thread goes over it
        job.atlas = job.id

    def _load(self, model: str) -> tuple[LoadedModel, ModelLayout]:
        """The model, kept until another is asked for."""
        from attlas.engine.model.load import load_model
        from attlas.engine.model.probe import layout_of

        if self._loaded is None or self._loaded[0] != model:
            self._loaded = None
            loaded = load_model(model)
            loaded.model.name_or_path = loaded.identity.name
            self._loaded = model, loaded, layout_of(loaded)
        return self._loaded[1:]

    def _progress(self, job: Job, state: CaptureProgress) -> None:
        if self._closed:
            raise InputError("the server is stopped: start it, and ask again")
        left = state.seconds_left
        job.tell(
            "progress",
            {
                "done": state.done, "total": state.total, "tokens": state.tokens, "tokens_done": state.tokens_done,
                "layers": state.layers, "layers_done": state.layers_done, "bytes": state.bytes,
                "seconds": round(state.seconds, 3), "seconds_left": None if left is None else round(left, 3),
            },
        )  # fmt: skip

    def _fail_rest(self, job: Job, error: Exception) -> None:
        for item in job.items:
            if item.state == "waiting":
                _fail(job, item, error)

    def _end(self, job: Job, state: str) -> None:
        job.state = state
        job.tell("end", {"state": state, "atlas": job.atlas})


def _fail(job: Job, item: Item, error: Exception) -> None:
    item.state = "failed"
    item.error = {"type": type(error).__name__, "message": first_line(error)}
    job.tell("item", item.told)


def _items(texts: Sequence[Any]) -> list[Item]:
    """A text, {"id", "text"} or {"id", "source", "target"} each; what is none of these has failed from the start."""
    items: list[Item] = []
    taken: set[str] = set()
    for number, given in enumerate(texts):
        fields = given if isinstance(given, dict) else {"text": given}
        name = fields.get("id", f"text-{number}")
        known = {key: value for key, value in fields.items() if key != "id"}
        item = Item(id=name if isinstance(name, str) else f"text-{number}")
        if not (isinstance(name, str) and name and set(known) in ({"text"}, {"source", "target"})) or not all(
            isinstance(value, str) and value.strip() for value in known.values()
        ):
            wrong = refuse(given, f"texts[{number}]", 'give a text, {"id", "text"} or {"id", "source", "target"}')
            item.state, item.error = "failed", {"type": "InputError", "message": str(wrong)}
        elif name in taken:
            item.state = "failed"
            item.error = {"type": "InputError", "message": f"the id {name!r} is given twice: choose others"}
        else:
            item.given = known["text"] if "text" in known else (known["source"], known["target"])
        taken.add(item.id)
        items.append(item)
    return items
