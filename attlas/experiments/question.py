"""A question asked of every document alike, and the loop that asks it: in this process, or spread over a Ray cluster.

A new experiment is a file with a question of its own and the function that makes a Dataset of its answers.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar

from attlas.engine.edit.edit import Edit
from attlas.engine.model.source import ModelSource
from attlas.engine.passage.documents import Document
from attlas.errors import ClusterError, first_line
from attlas.experiments.asked import Asked, Running, ask_documents
from attlas.experiments.kept import Kept, Part
from attlas.progress import Progress

__all__ = ["Answering", "Question", "ask_each"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question(ABC):
    """What is asked of a document: a value, by which its answers are found again, and that can be sent to workers."""

    name: ClassVar[str]

    def parts(self, asked: Asked, document: Document) -> int:
        """Of how many parts, each kept when it is done, the answer of a document is."""
        return 1

    @abstractmethod
    def answer(self, answering: Answering) -> Part:
        """Arrays that say all of one document."""

    def told(self) -> dict[str, Any]:
        """Its parameters, as JSON can say them."""
        return {field.name: _told(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answering:
    """One document that a question is asked of. asked: the model. part_done: called after each part."""

    asked: Asked
    document: Document
    kept: Kept
    part_done: Callable[[], None]

    def once(self, part: str, compute: Callable[[], Mapping[str, Any]]) -> Part:
        """A part as it was kept, or else computed."""
        found = self.kept.once(self.document.id, part, compute)
        self.part_done()
        return found


def ask_each(question: Question, asked: Asked) -> list[Part]:
    """The answer of every document, in order. Raises ClusterError, or what the question raises."""
    counting = _Counting(asked, question)
    kept = Kept(asked.running.keep, question.name, question.told(), asked)
    if asked.running.address is not None:
        return _on_ray(question, asked, counting)
    return [_answer(question, asked, document, kept, counting.one_more) for document in asked.documents]


def _answer(question: Question, asked: Asked, document: Document, kept: Kept, part_done: Callable[[], None]) -> Part:
    return question.answer(Answering(asked=asked, document=document, kept=kept, part_done=part_done))


class _Counting:
    """Tells the progress, of all documents' parts."""

    def __init__(self, asked: Asked, question: Question) -> None:
        self.report, self.begun, self.done = asked.running.progress, time.monotonic(), 0
        self.parts = [question.parts(asked, document) for document in asked.documents]
        self.tell()

    def tell(self) -> None:
        if self.report is not None:
            seconds = time.monotonic() - self.begun
            self.report(Progress(what="part", done=self.done, total=sum(self.parts), seconds=seconds))

    def one_more(self) -> None:
        self.done += 1
        self.tell()


def _on_ray(question: Question, asked: Asked, counting: _Counting) -> list[Part]:
    """Each worker loads the model once, and is given the next document whenever it is done with one."""
    import ray  # heavy, and needed here alone

    from attlas.actors.cluster import joined_cluster

    address = asked.running.address
    running = replace(asked.running, progress=None, address=None)
    found: dict[int, Part] = {}
    with joined_cluster(None if address == "local" else address, cpus=2) as facts:
        on_gpus = asked.source.device in ("auto", "cuda") and facts.gpus >= 1
        count = max(1, min(len(asked.documents), int(facts.gpus if on_gpus else facts.nodes)))
        options: dict[str, Any] = {"num_gpus": 1} if on_gpus else {"num_cpus": 1}
        arguments = ray.put((asked.source, asked.documents, running, question))
        workers: list[Any] = [ray.remote(**options)(_Worker).remote(arguments) for _ in range(count)]
        left, at_work = list(range(len(asked.documents))), {}
        for worker in workers:
            number = left.pop(0)
            at_work[worker.answer.remote(number)] = (worker, number)
        try:
            while at_work:
                (done, *_), _ = ray.wait(list(at_work))
                worker, number = at_work.pop(done)
                found[number] = ray.get(done)
                counting.done += counting.parts[number]
                counting.tell()
                if left:
                    number = left.pop(0)
                    at_work[worker.answer.remote(number)] = (worker, number)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from error
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"a worker of the experiment was lost: {first_line(error)} -- give --keep, and the same command goes on"
            ) from error
    return [found[number] for number in sorted(found)]


class _Worker:
    def __init__(self, given: tuple[ModelSource, Sequence[Document], Running, Question]) -> None:
        source, documents, running, self.question = given
        self.asked = ask_documents(source, documents, running)
        self.kept = Kept(running.keep, self.question.name, self.question.told(), self.asked)

    def answer(self, number: int) -> Part:
        return _answer(self.question, self.asked, self.asked.documents[number], self.kept, lambda: None)


def _told(value: Any) -> Any:
    if isinstance(value, Edit):
        return value.to_json()
    if isinstance(value, Document):
        return {axis: tokens.ids.tolist() for axis, tokens in value.tokens.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _told(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _told(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_told(one) for one in value]
    return value
