"""A registry: entries by name, in the order in which they came. Light."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from attlas.errors import InputError

__all__ = ["Registry"]


class Named(Protocol):
    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=Named)


class Registry(Generic[Entry]):
    """Entries by name; iterates over the entries. what: the word for one, for errors."""

    def __init__(self, what: str, *entries: Entry) -> None:
        self.what = what
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            self.add(entry)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def __getitem__(self, name: str) -> Entry:
        """Raises InputError, which names what there is."""
        if name not in self:
            raise InputError(f"there is no {self.what} {name!r}: choose one of {', '.join(self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def add(self, entry: Entry) -> None:
        """Raises InputError where the name is taken."""
        if entry.name in self._entries:
            raise InputError(f"there is a {self.what} {entry.name!r} already: name this one differently")
        self._entries[entry.name] = entry

    @contextmanager
    def having(self, *entries: Entry) -> Iterator[None]:
        """Inside, the registry has these entries too."""
        before = dict(self._entries)
        try:
            for entry in entries:
                self.add(entry)
            yield
        finally:
            self._entries = before
