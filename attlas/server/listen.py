"""A server from its start to its end: a port taken, the page served at once, the session made meanwhile, an end in
peace."""

from __future__ import annotations

import ctypes
import getpass
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from attlas.errors import InputError
from attlas.server.auth import LOOPBACK

if TYPE_CHECKING:
    from fastapi import FastAPI

    from attlas.server.session import Session
    from attlas.storage import Atlas

__all__ = ["PORT", "address", "bind", "listen", "named", "names_of", "open_session", "spare_memory", "tunnel"]

PORT = 8765
TRIED = 20
"""Ports beyond the first that are looked at where another will do."""
ANY = ("", "0.0.0.0", "::")
PEACE = 2
"""Seconds that answers under way, such as events that are followed, are waited for at the end."""
KEPT = 60
"""Seconds that an idle connection is kept for the next question."""
LOADING = 10.0
M_ARENA_MAX, ARENAS = -8, 2
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, LARGE = -3, -1, 2**20


def bind(host: str, port: int | None) -> socket.socket:
    """A socket that listens at a port, or at PORT or one of the next where that is None.

    Raises InputError where the port is taken or may not be had, or there is no such host.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports = [port] if port is not None else [*range(PORT, PORT + TRIED), 0]
    for tried in ports:
        # the protocol is named, for asyncio sends small answers at once on such sockets alone
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, tried))
            made.listen(128)
        except OSError as error:
            made.close()
            if port is None and tried != ports[-1] and not isinstance(error, socket.gaierror):
                continue
            raise _unbound(host, tried, error) from error
        return made
    raise AssertionError("the last port is any that is free")


def _unbound(host: str, port: int, error: OSError) -> InputError:
    if isinstance(error, socket.gaierror):
        return InputError(f"there is no host {host!r} here: leave --host out, or give an address of this machine")
    if isinstance(error, PermissionError):
        return InputError(f"port {port} may not be taken ({error.strerror}): choose one above 1023 with --port")
    return InputError(f"port {port} of {host} is taken ({error.strerror}): choose another with --port")


def address(made: socket.socket, token: str | None) -> str:
    """What is opened in a browser."""
    host, port = made.getsockname()[:2]
    host = LOOPBACK[1] if host in ANY else f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}/" + (f"?token={token}" if token else "")


def tunnel(made: socket.socket) -> str:
    """What is run on another machine to reach this one's loopback."""
    port = made.getsockname()[1]
    return f"ssh -L {port}:localhost:{port} {_user()}{socket.gethostname()}"


def _user() -> str:
    try:
        return f"{getpass.getuser()}@"
    except (KeyError, OSError):  # a user without a name, as in a container
        return ""


def names_of(made: socket.socket, host: str) -> list[str]:
    """Names by which a server may be called besides loopback: its address, and of all addresses this machine's."""
    if host not in ANY:
        return [host, made.getsockname()[0]]
    import psutil

    found = [one.address.partition("%")[0] for some in psutil.net_if_addrs().values() for one in some]
    return [socket.gethostname(), socket.getfqdn(), *found]


def open_session(atlases: list[Atlas]) -> Future[Session]:
    """A session of atlases, made in a thread of its own, for it loads torch."""
    made: Future[Session] = Future()

    def make() -> None:
        try:
            import torch

            torch.set_num_threads(1)  # small pieces are ten times as quick, and several are computed side by side
            from attlas.server.session import Session

            session = Session(named(atlases))
        except BaseException as error:
            made.set_exception(error)
            return
        made.set_result(session)
        try:
            session.foresee()
        except RuntimeError:
            if threading.main_thread().is_alive():  # else the process ends meanwhile, and starts no threads any more
                raise

    thread = threading.Thread(target=make, name="attlas session", daemon=True)
    made.set_running_or_notify_cancel()
    thread.start()
    return made


def named(atlases: list[Atlas]) -> dict[str, Atlas]:
    """Each by a name of its own: the last part of its place, numbered where that is taken."""
    from attlas.server.session import short_name

    found: dict[str, Atlas] = {}
    for atlas in atlases:
        name, number = short_name(atlas), 2
        while name in found:
            name, number = f"{short_name(atlas)}-{number}", number + 1
        found[name] = atlas
    return found


def spare_memory() -> None:
    """Have glibc's malloc keep the freed memory of all threads in two arenas, not in eight a core, and give pieces of
    LARGE bytes back at once, a threshold that it else raises to 32 MB: half as much in all, with eight clients. The
    first has an effect only before the process has a second thread."""
    with suppress(OSError, AttributeError, TypeError):  # another libc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, ARENAS)
        mallopt(M_MMAP_THRESHOLD, LARGE)
        mallopt(M_TRIM_THRESHOLD, LARGE)


def listen(app: FastAPI, made: socket.socket, session: Future[Session], begun: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; raises what making the session did. begun: called once requests are answered."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            begun()

    config: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}  # no token in a log
    server = Server(
        uvicorn.Config(app, lifespan="on", timeout_graceful_shutdown=PEACE, timeout_keep_alive=KEPT, **config)
    )

    def ended(found: Future[Session]) -> None:
        server.should_exit = server.should_exit or found.exception() is not None

    session.add_done_callback(ended)
    try:
        server.run(sockets=[made])
    except KeyboardInterrupt:
        return
    finally:
        made.close()
        with suppress(TimeoutError):  # a thread that is within an import does not end well with the process
            session.exception(timeout=LOADING)
    session.result()
