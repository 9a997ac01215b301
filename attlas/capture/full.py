"""A store without room for the rest of a capture: how much is missing, what is kept, and how to go on."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zarr.abc.store import Store
from zarr.storage import LocalStore

from attlas.engine.model.shape import ModelShape
from attlas.engine.passage.documents import Pack
from attlas.errors import StoreFullError
from attlas.readable import human_bytes
from attlas.storage import AtlasSpec
from attlas.storage.disk import tier_bytes
from attlas.storage.stores import store_name

__all__ = ["telling_when_full"]

FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def telling_when_full(
    store: Store, spec: AtlasSpec, shape: ModelShape, *, pending: Callable[[], Sequence[Pack]]
) -> Iterator[None]:
    """Raises StoreFullError in place of the system's error. pending: the packs that are not committed, when asked."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        left = pending()
        need = sum(_bytes_of(spec, shape, index) for pack in left for index in pack.documents)
        name, free = (store_name(store.root), _free(store.root)) if isinstance(store, LocalStore) else (str(store), "")
        kept = f"{len(spec.packs) - len(left):,} of {len(spec.packs):,} packs are committed and kept"
        raise StoreFullError(
            error.errno,
            f"{name}: no space is left; what is still to be written takes at most {human_bytes(need)}{free}, and {kept}"
            " -- make room, and go on with --resume",
        ) from error


def _bytes_of(spec: AtlasSpec, shape: ModelShape, index: int) -> int:
    """The most that one document takes, all layers and rows counted."""
    tokens = sum(map(len, spec.documents[index].tokens.values()))
    return tier_bytes(shape, tokens=tokens)[spec.keep]


def _free(folder: Path) -> str:
    standing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    return f" where {human_bytes(shutil.disk_usage(standing).free)} are free"
