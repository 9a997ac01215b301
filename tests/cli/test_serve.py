"""attlas serve: what it listens at, whom it lets in, what it takes."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient

import attlas
from attlas.cli import main
from attlas.server import listen
from tests.cli.test_view import started

TOKEN = "s3cret-of-the-team"
Told = list[tuple[int, Any]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("served") / "book.zarr"
    attlas.capture("demo", ["the cat sat"], place, ids=["one"])
    return str(place)


def run(*arguments: str, status: int = 0, **env: str) -> Result:
    result = CliRunner().invoke(main, ["serve", *arguments], env=env)
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Asks the app in this process instead of serving it: the status by Host, and what became of a capture."""
    found: Told = []

    def not_served(app: Any, made: socket.socket, session: Any, begun: Callable[[], None]) -> None:
        begun()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with TestClient(app, base_url="http://localhost", headers=headers) as client:
            for host in ("localhost", socket.gethostname(), "team.example", "evil.example"):
                found.append((client.get("/v1/atlases", headers={"Host": host}).status_code, host))
            batch = {"model": "demo", "texts": ["and ran"]}
            found.append((client.post("/v1/captures", json=batch).status_code, "capture"))
        made.close()

    monkeypatch.setattr(listen, "listen", not_served)
    return found


@pytest.mark.slow
def test_a_capture_in_a_process_of_its_own(store: str, tmp_path: Path) -> None:
    arguments = ("--port", "0", "--token", TOKEN, "--allow-capture", "--model", "demo", "--folder", str(tmp_path))
    with started("serve", store, *arguments) as (told, _):
        url = re.findall(r"(http://127\.0\.0\.1:\d+)/\?token=" + TOKEN, told)[0]
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
            where = client.post("/v1/captures", json={"model": "demo", "texts": ["the dog ran"]}).headers["location"]
            assert "event: end" in client.get(f"{where}/events").text
            atlas = client.get(where).json()["atlas"]
            assert client.get(f"/v1/atlases/{atlas}/documents").json()["total"] == 1
    assert list(attlas.open_atlas(tmp_path / f"{atlas}.zarr")) == ["text-0"]


def test_who_is_let_in(store: str, asked: Told) -> None:
    run(store, "--port", "0", ATTLAS_TOKEN=TOKEN)
    assert [status for status, _ in asked] == [200, 400, 400, 400, 404]
    asked.clear()
    told = run(store, "--port", "0", "--token", TOKEN, "--host", "0.0.0.0", "--allow-host", "team.example").stdout
    assert [status for status, _ in asked] == [200, 200, 200, 400, 404]
    assert "ssh" not in told
    asked.clear()
    run(store, "--port", "0", "--token", TOKEN, "--allow-capture", "--model", "demo")
    assert asked[-1][0] == 202


def test_what_cannot_be(store: str, asked: Told) -> None:
    assert "there is no host" in run(store, "--host", "no.such.host.example", status=1).stderr
    assert "go together" in run(store, "--allow-capture", status=2).stderr
    assert "go together" in run(store, "--model", "demo", status=2).stderr
    assert "is for --allow-capture" in run(store, "--folder", ".", status=2).stderr
    for wrong in ("short", "with blanks in it", "ünïcödeünïcöde"):
        assert "the token" in run(store, "--token", wrong, status=2).stderr
    assert "the port" in run(store, "--port", "70000", status=2).stderr
    assert asked == []
