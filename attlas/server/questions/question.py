"""What a question is: its name, its arguments by keyword, and the answer it gets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from attlas.errors import InputError
from attlas.registry import Registry

if TYPE_CHECKING:
    from attlas.server.session import Session

__all__ = ["OPS", "Answer", "Asked", "Op", "op"]


@dataclass(frozen=True, slots=True)
class Answer:
    """data: ready for JSON. buffers: arrays, as little-endian bytes in the order of C."""

    data: dict[str, Any]
    buffers: Sequence[NDArray[Any]] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """Of whom it is asked; wanted: whether the answer still is."""

    session: Session
    wanted: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Op:
    """A question by its name. arguments: the names it takes."""

    name: str
    function: Callable[..., Answer]
    arguments: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", tuple(inspect.signature(self.function).parameters)[1:])

    def __call__(self, asked: Asked, arguments: Mapping[str, Any]) -> Answer:
        """Raises InputError where it takes no argument of a name, and what the answer raises."""
        for name in arguments:
            if name not in self.arguments:
                raise InputError(f"{self.name} takes no {name!r}: it takes {', '.join(self.arguments) or 'nothing'}")
        return self.function(asked, **arguments)


OPS: Registry[Op] = Registry("op")


def op(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Make a function the answer to the question of its name."""
    OPS.add(Op(function.__name__, function))
    return function
