"""attlas view: an address that works at once, in a process of its own, and an end in peace."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

import attlas
from attlas.cli import main, serving
from attlas.server import listen

LINE = [sys.executable, "-c", "from attlas.cli import main; main()"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("viewed") / "book.zarr"
    attlas.capture("demo", ["the cat sat"], place, ids=["one"])
    return str(place)


@contextmanager
def started(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server in a process of its own, once it has printed its address."""
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([*LINE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        told = ""
        while "stops" not in told:
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            told += line
        yield told, process
    finally:
        process.kill()
        process.communicate()


def test_it_prints_an_address_and_ends_quietly(store: str) -> None:
    with started("view", store, store, "--no-browser", "--port", "0") as (told, process):
        found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\w{48})", told)
        assert found is not None
        port, token = found.groups()
        assert f"ssh -L {port}:localhost:{port}" in told
        assert "1 document" in told
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/v1/health/live").status_code == 200
        assert httpx.get(f"{url}/v1/atlases").status_code == 401
        served = httpx.get(f"{url}/v1/atlases", params={"token": token}, timeout=60).json()  # waits for torch
        assert [one["name"] for one in served["atlases"]] == ["book", "book-2"]
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
        assert (process.returncode, rest, errors) == (0, "", "")


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, socket.socket]]:
    """What would be served, in this process, and is not."""
    found: list[tuple[Any, socket.socket]] = []

    def not_served(app: Any, made: socket.socket, session: Any, begun: Callable[[], None]) -> None:
        begun()
        session.result(timeout=60)
        found.append((app, made))
        made.close()

    monkeypatch.setattr(listen, "listen", not_served)
    return found


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == status, result.output
    return result


def test_the_next_port_is_taken_where_the_usual_one_is(
    store: str, heard: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(listen, "PORT", port)
        told = run("view", store, "--no-browser").stdout
        other = int(re.findall(r"127\.0\.0\.1:(\d+)/", told)[0])
        assert port < other <= port + listen.TRIED
        refused = run("view", store, "--port", str(port), status=1)
    assert (
        refused.stderr
        == f"error: port {port} of 127.0.0.1 is taken (Address already in use): choose another with --port\n"
    )
    assert "error: there is no atlas at" in run("view", store + "x", status=1).stderr


def test_a_browser_is_opened_where_there_is_a_screen(
    store: str, heard: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    for name in (*serving.SSH, *serving.SCREENS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    run("view", store, "--port", "0")
    monkeypatch.setenv("DISPLAY", ":0")
    run("view", store, "--port", "0", "--no-browser")
    monkeypatch.setenv("SSH_CONNECTION", "1 2 3 4")
    run("view", store, "--port", "0")
    assert opened == []
    monkeypatch.delenv("SSH_CONNECTION")
    told = run("view", store, "--port", "0").stdout
    assert len(opened) == 1
    assert opened[0] in told
