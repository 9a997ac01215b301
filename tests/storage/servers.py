"""Servers of files on the loopback interface, as people have them: with Range, without, and failing."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["Failing", "Ranged", "Rangeless", "serving"]


class Rangeless(SimpleHTTPRequestHandler):
    """As `python -m http.server`: a part is answered with the whole file."""

    def log_message(self, format: str, *args: object) -> None:
        pass


class Ranged(Rangeless):
    """Obeys Range for one part."""

    def do_GET(self) -> None:
        path, part = (
            Path(self.translate_path(self.path)),
            re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers["Range"] or ""),
        )
        if part is None or not path.is_file():
            super().do_GET()
            return
        whole = path.read_bytes()
        begin = int(part[1]) if part[1] else max(0, len(whole) - int(part[2]))
        end = min(int(part[2]), len(whole) - 1) if part[1] and part[2] else len(whole) - 1
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {begin}-{end}/{len(whole)}")
        self.send_header("Content-Length", str(end + 1 - begin))
        self.end_headers()
        self.wfile.write(whole[begin : end + 1])


class Failing(Rangeless):
    """Answers for metadata, and has a fault of its own where rows are asked for."""

    def do_GET(self) -> None:
        if "/c/" in self.path and "/q/" in self.path:
            self.send_error(503)
        else:
            super().do_GET()


@contextmanager
def serving(folder: Path, handler: type[Rangeless]) -> Iterator[str]:
    """The URL of a folder for as long as it is served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
