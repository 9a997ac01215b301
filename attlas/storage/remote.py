"""A store behind a URL, as fsspec reaches it: what goes wrong there is said in one line, with place, cause and remedy.

A server that ignores Range sends whole files for the parts that are asked of them: the parts are then cut out here.
"""

from __future__ import annotations

import sys
import warnings
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fsspec.core import split_protocol
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, WrapperStore

from attlas.errors import AttlasError, InputError, StoreAccessError, first_line
from attlas.parse import shown

__all__ = ["RemoteStore"]

SERVED = {"http", "https"}
"""What is read and never written."""
PACKAGES = {"s3": "attlas[s3]", "s3a": "attlas[s3]"}
"""Protocol -> what to install, where fsspec does not name it as we do."""
DRIVERS = {
    "aiohttp": ("ClientError",),
    "azure.core.exceptions": ("AzureError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "paramiko": ("SSHException",),
    "requests": ("RequestException",),
}
"""Module of a driver -> the bases of what it raises that is no OSError."""
WHOLE_BYTES = 256 * 2**20
"""Files that came whole are kept up to so much: their next part is asked for soon."""


class RemoteStore(WrapperStore[FsspecStore]):
    """place: the URL, for messages. Raises StoreAccessError where the place cannot be reached, read or written."""

    def __init__(self, store: FsspecStore, *, place: str) -> None:
        super().__init__(store)
        self.place = place
        self._ignores_range = False
        self._whole: OrderedDict[str, bytes] = OrderedDict()

    @classmethod
    def at(cls, place: str, options: Mapping[str, Any]) -> RemoteStore:
        """Raises InputError where the protocol is unknown, its package missing, or an option not one of its own."""
        protocol = (split_protocol(place)[0] or "").partition("::")[0]
        # cached listings would show what another process, or this one, has changed since
        chosen = {"use_listings_cache": False, **options}
        try:
            store = FsspecStore.from_url(place, storage_options=chosen, read_only=protocol in SERVED)
        except ImportError as error:
            package = PACKAGES.get(protocol) or _named_package(error)
            raise InputError(f"{place} needs a package that is not installed: pip install {package}") from error
        except ValueError as error:
            raise InputError(
                f"cannot open {place} ({first_line(error)}): give a folder, s3://bucket/name, https://... or memory://name"
            ) from error
        except TypeError as error:
            raise _unknown_option(place, options, error) from error
        except _reaching_errors() as error:
            raise _told(place, error) from error
        return cls(store, place=place)

    def __getstate__(self) -> dict[str, Any]:
        return {"_store": self._store, "place": self.place}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_store"], place=state["place"])  # type: ignore[misc]

    def _with_store(self, store: FsspecStore) -> RemoteStore:
        return RemoteStore(store, place=self.place)

    def with_read_only(self, read_only: bool = False) -> RemoteStore:
        if not read_only and (split_protocol(self.place)[0] in SERVED):
            raise InputError(f"{self.place} is read-only: a server of files takes none")
        return super().with_read_only(read_only)

    def __str__(self) -> str:
        return self.place

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except AttlasError:
            raise
        except TypeError as error:  # drivers are handed their options with the first request
            if "keyword argument" not in str(error):
                raise
            raise _unknown_option(self.place, self._store.fs.storage_options, error) from error
        except _reaching_errors() as error:
            raise _told(self.place, error) from error

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if byte_range is None:
            with self._telling():
                return await super().get(key, prototype)
        if key in self._whole:
            self._whole.move_to_end(key)
            return prototype.buffer.from_bytes(_part(self._whole[key], byte_range))
        # an offset tells no size by which a whole file is known for one
        asked = None if self._ignores_range or isinstance(byte_range, OffsetByteRequest) else byte_range
        with self._telling():
            found = await super().get(key, prototype, asked)
        if found is None or (asked is not None and len(found) <= _wanted(asked)):
            return found
        whole = found.to_bytes()
        if asked is not None:
            self._note_whole()
        self._keep_whole(key, whole)
        return prototype.buffer.from_bytes(_part(whole, byte_range))

    def _note_whole(self) -> None:
        self._ignores_range = True
        warnings.warn(
            f"{self.place}: this server ignores Range, so whole files are read: slow where they are large; one that "
            "obeys it, or a copy of the atlas here, is quicker",
            stacklevel=2,
        )

    def _keep_whole(self, key: str, whole: bytes) -> None:
        self._whole[key] = whole
        while len(self._whole) > 1 and sum(map(len, self._whole.values())) > WHOLE_BYTES:
            self._whole.popitem(last=False)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        with self._telling():
            return await super().exists(key)

    async def is_empty(self, prefix: str) -> bool:
        with self._telling():
            return await super().is_empty(prefix)

    async def getsize(self, key: str) -> int:
        with self._telling():
            return await self._store.getsize(key)

    async def set(self, key: str, value: Buffer) -> None:
        with self._telling():
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        with self._telling():
            await super().set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        with self._telling():
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        with self._telling():
            await super().delete_dir(prefix)

    async def clear(self) -> None:
        with self._telling():
            await super().clear()

    async def list(self) -> AsyncIterator[str]:
        with self._telling():
            async for name in super().list():
                yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        with self._telling():
            async for name in super().list_prefix(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        with self._telling():
            async for name in super().list_dir(prefix):
                yield name


def _wanted(part: ByteRequest) -> int:
    if isinstance(part, RangeByteRequest):
        return part.end - part.start
    assert isinstance(part, SuffixByteRequest)
    return part.suffix


def _part(whole: bytes, part: ByteRequest) -> bytes:
    if isinstance(part, RangeByteRequest):
        return whole[part.start : part.end]
    return whole[-part.suffix :] if isinstance(part, SuffixByteRequest) else whole[part.offset :]


def _reaching_errors() -> tuple[type[Exception], ...]:
    """OSError, and what the drivers that are loaded raise besides."""
    loaded = {module: sys.modules[module] for module in DRIVERS if module in sys.modules}
    return (OSError, *(getattr(found, name) for module, found in loaded.items() for name in DRIVERS[module]))


def _named_package(error: ImportError) -> str:
    """The package that fsspec says to install, such as gcsfs."""
    words = str(error).replace('"', " ").replace("'", " ").split()
    lowered = [word.lower() for word in words]
    return words[lowered.index("install") + 1].strip(".,;") if "install" in lowered[:-1] else str(error.name or error)


def _unknown_option(place: str, options: Mapping[str, Any], error: TypeError) -> InputError:
    given = shown(sorted(set(options) - {"asynchronous", "use_listings_cache"}))
    return InputError(f"cannot open {place} with the storage options {given}: {first_line(error)}")


def _told(place: str, error: Exception) -> StoreAccessError:
    """What went wrong at a place: cause and remedy."""
    cause, names = first_line(error), {base.__name__ for base in type(error).__mro__}
    if "Credentials" in type(error).__name__ or "credentials" in cause.lower():
        return StoreAccessError(
            f"{place}: no credentials were found ({cause}): give storage options such as key=... and secret=..., set "
            "the environment's, or anon=true for a public place"
        )
    if isinstance(error, PermissionError):
        return StoreAccessError(f"{place}: access is denied ({cause}): check the credentials and what they allow")
    if isinstance(error, FileNotFoundError):
        return StoreAccessError(f"{place}: {cause}: make the bucket or folder first, or check its name")
    if "ClientResponseError" in names:
        return StoreAccessError(
            f"{place}: the server answered {getattr(error, 'status', '')} {getattr(error, 'message', cause)}: check "
            "the address, and ask again"
        )
    return StoreAccessError(f"{place} cannot be reached ({cause}): check the address, and that its server answers")
