"""Which HTTP status an error of attlas is, for every host that has one. Light."""

from __future__ import annotations

from attlas.errors import (
    AttlasError,
    CorruptAtlasError,
    DocumentMissingError,
    InputError,
    NoMemoryError,
    QuestionCancelledError,
    ServerBusyError,
    StoreAccessError,
    StoreBusyError,
    StoreExistsError,
    StoreMissingError,
    TierError,
    UnsupportedModelError,
)

__all__ = ["STATUSES", "status_of"]

STATUSES: dict[type[AttlasError], int] = {
    InputError: 422,
    UnsupportedModelError: 422,
    DocumentMissingError: 404,
    StoreMissingError: 404,
    TierError: 409,
    StoreBusyError: 409,
    StoreExistsError: 409,
    ServerBusyError: 429,
    QuestionCancelledError: 499,
    CorruptAtlasError: 500,
    StoreAccessError: 503,
    NoMemoryError: 507,
}
"""An error, and those derived from it -> the status; 500 for any other."""


def status_of(error: AttlasError) -> int:
    """
    >>> from attlas.errors import TierError
    >>> status_of(TierError("no weights"))
    409
    """
    return next((STATUSES[one] for one in type(error).__mro__ if one in STATUSES), 500)
