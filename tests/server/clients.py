"""An app over two small atlases, asked without a network, and the same behind a real server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

__all__ = ["HOST", "TOKEN", "listening"]

TOKEN = "s3cret-of-the-team"
HOST = "http://localhost"


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The URL of an app for as long as uvicorn serves it."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [made]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{made.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
