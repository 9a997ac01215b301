"""Fixtures that cost something to make: the real models and an S3 server on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("COLUMNS", None)  # xdist sets it, and tables would be as narrow as it says
if not Path("/dev/nvidia0").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported, which torch may do at any time

from tests import real_models


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Models of random weights are the same whatever ran before."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def minilm() -> Path:
    return real_models.minilm_folder()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    return real_models.smollm2_folder()


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    return real_models.smollm2_gguf()


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """A running S3-compatible server; `storage_options` are fsspec's."""

    endpoint: str
    bucket: str
    storage_options: dict[str, Any]

    @property
    def flat_options(self) -> dict[str, str]:
        """The same as a command line gives them."""
        return {"key": "test", "secret": "test", "endpoint_url": self.endpoint}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """moto's server in a process of its own, on a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _wait_for(endpoint, process)
        options = {"key": "test", "secret": "test", "client_kwargs": {"endpoint_url": endpoint}}
        import s3fs

        s3fs.S3FileSystem(**options).mkdir("attlas-tests")
        yield S3Server(endpoint=endpoint, bucket="attlas-tests", storage_options=options)
    finally:
        process.kill()
        process.wait()


def _wait_for(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "the S3 server ended at once"
        try:
            urllib.request.urlopen(endpoint, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the S3 server did not answer within 30 s")
