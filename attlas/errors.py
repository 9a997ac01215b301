"""The errors attlas raises. Each says the cause and the remedy in one line, and is also the natural builtin."""

from __future__ import annotations

from typing import Any

from attlas.readable import one_line

__all__ = [
    "AttlasError",
    "ClusterError",
    "CorruptAtlasError",
    "DisagreementError",
    "GradientError",
    "DocumentMissingError",
    "InputError",
    "MissingAttentionError",
    "NoMemoryError",
    "NotFiniteError",
    "PacksFailedError",
    "QuestionCancelledError",
    "ServerBusyError",
    "StoreAccessError",
    "StoreBusyError",
    "StoreExistsError",
    "StoreFullError",
    "StoreMissingError",
    "TierError",
    "UnsupportedModelError",
    "first_line",
]


class AttlasError(Exception):
    """Base of every error that attlas raises on purpose. Its message is one line, and safe to print, whatever names,
    paths and other libraries' words it was made of."""

    def __init__(self, *told: Any) -> None:
        super().__init__(*(one_line(one) if isinstance(one, str) else one for one in told))


class InputError(AttlasError, ValueError):
    """A document, a selection or an option that cannot be used as given."""


class UnsupportedModelError(AttlasError, TypeError):
    """A model whose attention cannot be captured exactly; raised before any number is produced."""


class MissingAttentionError(AttlasError, RuntimeError):
    """Attention layers of the model did not call the capture, or called it in another order than the probe saw."""


class TooLittleMemoryError(InputError):
    """The memory allowed is less than the work takes with the smallest sizes: `least` bytes."""

    def __init__(self, message: str, *, least: int) -> None:
        super().__init__(message)
        self.least = least


class NoMemoryError(AttlasError, MemoryError):
    """The device ran out of memory with the smallest tile and chunk too."""


class ClusterError(AttlasError, ConnectionError):
    """No Ray cluster can be reached or started, or it has no place for the shards."""


class PacksFailedError(AttlasError, RuntimeError):
    """Some packs could not be captured; the others are committed, and the atlas records why these are not.

    some_committed: whether there are others, and so an atlas.
    """

    def __init__(self, message: str, *, some_committed: bool) -> None:
        super().__init__(message)
        self.some_committed = some_committed


class NotFiniteError(AttlasError, ArithmeticError):
    """NaN or Inf in q, k or a score; names document, layer, head and token."""


class StoreAccessError(AttlasError, OSError):
    """The place of a store cannot be reached, read or written; what lies there may be sound."""


class StoreFullError(StoreAccessError):
    """The place of a store has no room for what is left to be written; `errno` is the system's."""

    def __str__(self) -> str:
        return str(self.args[-1])  # OSError's own would begin with the number


class StoreExistsError(AttlasError, FileExistsError):
    """The store to be written holds something already."""


class StoreBusyError(AttlasError, BlockingIOError):
    """The store is written by another writer, or was taken over by one."""


class StoreMissingError(AttlasError, FileNotFoundError):
    """There is no atlas at the given place."""


class DocumentMissingError(AttlasError, KeyError):
    """A document that an atlas does not hold, or whose pack is not committed."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError's own would quote it


class CorruptAtlasError(AttlasError, OSError):
    """What lies in the store contradicts its own records."""


class QuestionCancelledError(AttlasError, InterruptedError):
    """A question to a server that its asker took back before it was answered."""


class ServerBusyError(AttlasError, BlockingIOError):
    """Too many costly questions wait to be answered already."""


class DisagreementError(AttlasError, ArithmeticError):
    """Two ways to the same numbers gave different ones, so that their times cannot be compared."""


class GradientError(AttlasError, ArithmeticError):
    """A gradient cannot be had: something on its way gives none, or the target does not depend on a layer."""


class TierError(AttlasError, AttributeError, KeyError):
    """The question needs a tier (statistics, factors, maps) that this atlas does not keep.

    What is not kept is no attribute and no key of a page: `hasattr(page, "attention")` is False, and
    `page.get("attention")` None.
    """

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError's own would quote it


def first_line(error: BaseException) -> str:
    """An error's message as far as it fits a line; its type where it has none.

    >>> from attlas.errors import first_line
    >>> first_line(ValueError("no such layer\\n  in any model")), first_line(ValueError())
    ('no such layer', 'ValueError')
    """
    lines = (line.strip() for line in str(error).splitlines())
    return one_line(next(filter(None, lines), type(error).__name__))
