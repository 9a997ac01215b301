"""What a damaged file says of its size is held against what is known before any memory is taken for it."""

from __future__ import annotations

import contextlib
import json
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from numcodecs import Blosc

from attlas.errors import CorruptAtlasError
from attlas.storage import AtlasWriter, open_atlas, verify
from attlas.storage.digests import with_digest
from tests.storage.synthetic import synthetic

ROOM = 600 * 2**20
"""Bytes of address space beyond what the process has: far less than what the damaged files ask for."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    made = synthetic()
    writer = AtlasWriter.create(tmp_path / "a.zarr", made.spec("factors"))
    for pack in made.packs:
        made.write_pack(writer, pack)
    return tmp_path / "a.zarr"


def with_checksum(content: bytes) -> bytes:
    return content + google_crc32c.value(content).to_bytes(4, "little")


def refused(store: Path, match: str, ask: Any) -> None:
    """The question is an error, soon, and with little memory; verify ends too, and finds it."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages + ROOM, before[1]))
    begin = time.monotonic()
    try:
        with pytest.raises(CorruptAtlasError, match=match):
            ask(open_atlas(store))
        with contextlib.suppress(CorruptAtlasError):
            assert not verify(store).passed
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.monotonic() - begin < 20


def test_a_chunk_that_would_decompress_to_gigabytes(store: Path) -> None:
    compressed = Blosc(cname="zstd", clevel=9).encode(np.zeros(2**31 - 2**20, dtype=np.uint8))
    assert len(compressed) < 2**21
    (store / "tokens/text/token_id/c/0").write_bytes(with_checksum(compressed))
    refused(store, "tokens/text/token_id cannot be read .* bytes are told", lambda atlas: atlas["doc-0"])
    (store / "tokens/text/token_id/c/0").write_bytes(b"")
    refused(store, "checksum", lambda atlas: atlas["doc-0"])


def test_texts_that_would_decompress_to_gigabytes(store: Path) -> None:
    compressed = Blosc(cname="zstd", clevel=9).encode(np.zeros(2**31 - 2**20, dtype=np.uint8))
    (store / "documents/document_id/c/0").write_bytes(with_checksum(compressed))
    refused(store, "documents/document_id cannot be read", list)


def test_texts_that_tell_of_billions(store: Path) -> None:
    content = struct.pack("<I", 3_200_000_000) + b"\x01\0\0\0x" * 4_000
    compressed = Blosc(cname="zstd", clevel=1).encode(content)
    (store / "tokens/text/token/c/0").write_bytes(with_checksum(compressed))
    refused(store, "another number of texts", lambda atlas: atlas["doc-0"])
    (store / "packs/commit/c/1").write_bytes(with_checksum(content))
    (store / "packs/state/c/0").unlink()
    (store / "tokens/text/token/c/0").unlink()
    refused(store, "packs/commit cannot be read|is damaged", lambda atlas: atlas.packs)


@pytest.mark.parametrize("chunk", [4, 10**9])
@pytest.mark.parametrize("path", ["self/layer", "documents/document_id", "packs/state", "tokens/text/token_id"])
def test_an_array_that_is_declared_a_billion_long(store: Path, path: str, chunk: int) -> None:
    """By metadata whose digest is right, as a program would write them that computes wrongly."""
    root = json.loads((store / "zarr.json").read_text())
    told = root["consolidated_metadata"]["metadata"][path]
    told["shape"] = [10**9]
    told["chunk_grid"]["configuration"]["chunk_shape"] = [chunk]
    (store / "zarr.json").write_text(json.dumps(with_digest(root)))
    refused(store, "1,000,000,000", list)


def test_more_packs_than_documents(store: Path) -> None:
    root = json.loads((store / "zarr.json").read_text())
    for told in root["consolidated_metadata"]["metadata"].values():
        if "pack" in (told.get("dimension_names") or ()):
            told["shape"][told["dimension_names"].index("pack")] = 10**9
            told["chunk_grid"]["configuration"]["chunk_shape"][0] = 4
    (store / "zarr.json").write_text(json.dumps(with_digest(root)))
    refused(store, "1,000,000,000 packs, and documents/.* of 4 documents", list)


def test_info_of_a_damaged_store_ends_at_once(store: Path) -> None:
    root = json.loads((store / "zarr.json").read_text())
    root["consolidated_metadata"]["metadata"]["self/layer"]["shape"] = [10**9]
    (store / "zarr.json").write_text(json.dumps(with_digest(root)))
    ended = subprocess.run(
        [sys.executable, "-c", "from attlas.cli import main; main()", "info", str(store)], capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "1,000,000,000 along layer" in " ".join(ended.stderr.split())
