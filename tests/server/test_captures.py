"""Captures over HTTP: a batch in a queue, an outcome for each item, events that can be followed again, an atlas at the
end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

import attlas
from attlas.server import captures as module
from attlas.server.app import create_app
from attlas.server.captures import Captures
from attlas.server.session import Session
from tests.server.clients import HOST, TOKEN, listening

TEXT = "the cat sat. the cat sat."


def made(folder: Path, **options: Any) -> tuple[Session, Captures]:
    attlas.capture("demo", [TEXT], folder / "a.zarr", ids=["one"])
    session = Session({"a": folder / "a.zarr"})
    to_be: Future[Session] = Future()
    to_be.set_result(session)
    (folder / "made").mkdir()
    return session, Captures(["demo"], folder / "made", to_be.result, **options)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    session, captures = made(tmp_path)
    with TestClient(create_app(session, token=None, captures=captures), base_url=HOST) as client:
        yield client


def ended(client: TestClient, where: str) -> dict[str, Any]:
    for _ in range(600):
        told: dict[str, Any] = client.get(where).json()
        if told["state"] in ("done", "failed", "cancelled"):
            return told
        time.sleep(0.02)
    raise AssertionError(told)


def test_each_text_has_an_outcome_and_the_good_ones_are_served(client: TestClient, tmp_path: Path) -> None:
    texts = [
        TEXT,
        {"id": "b", "text": "and ran"},
        "",
        {"id": "b", "text": "twice"},
        5,
        {"id": "c", "text": "x" * 200_000},
    ]
    texts.append({"source": "a", "target": "b"})
    response = client.post("/v1/captures", json={"model": "demo", "texts": texts})
    assert response.status_code == 202
    told = ended(client, response.headers["location"])
    assert told["state"] == "done"
    assert [item["state"] for item in told["items"]] == ["captured", "captured", *["failed"] * 5]
    messages = [item["error"]["message"] for item in told["items"][2:]]
    assert "texts[2]" in messages[0]
    assert "twice" in messages[1]
    assert all(messages)
    served = client.get(f"/v1/atlases/{told['atlas']}/documents").json()
    assert [one["id"] for one in served["documents"]] == ["text-0", "b"]
    row = client.get(f"/v1/atlases/{told['atlas']}/documents/text-0/rows/self/1/0/9?format=f32").content
    attlas.capture("demo", [TEXT], tmp_path / "own.zarr")
    own = attlas.open_atlas(tmp_path / "own.zarr")["doc-0"].attention.sel(layer=1, head=0).values[9]
    np.testing.assert_allclose(np.frombuffer(row, "<f4")[:10], own[:10], atol=1e-5)


def test_where_no_text_is_good_there_is_no_atlas(client: TestClient) -> None:
    told = ended(client, client.post("/v1/captures", json={"model": "demo", "texts": [3, " "]}).headers["location"])
    assert (told["state"], told["atlas"]) == ("failed", None)
    assert len(client.get("/v1/atlases").json()["atlases"]) == 1


def test_what_cannot_be_asked_is_a_problem(client: TestClient) -> None:
    for wrong, status in (
        ({"model": "/etc", "texts": [TEXT]}, 422),
        ({"model": "demo", "texts": []}, 422),
        ({"model": "demo", "texts": [TEXT] * 1001}, 422),
        ({"model": "demo", "texts": [TEXT], "store": "/tmp/x"}, 422),
        ({"model": "demo", "texts": TEXT}, 422),
    ):
        response = client.post("/v1/captures", json=wrong)
        assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert client.post("/v1/captures", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    for path in ("/v1/captures/never", "/v1/captures/never/events"):
        assert client.get(path).status_code == 404
    assert client.delete("/v1/captures/never").status_code == 404


def test_without_allow_capture_there_is_no_door(tmp_path: Path) -> None:
    session, _ = made(tmp_path)
    with TestClient(create_app(session, token=None), base_url=HOST) as client:
        assert client.post("/v1/captures", json={"model": "demo", "texts": [TEXT]}).status_code == 404


def test_a_full_queue_and_cancelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, real = threading.Event(), module.Captures._run

    def slow(self: Captures, job: module.Job) -> None:
        held.wait(20)
        real(self, job)

    monkeypatch.setattr(module.Captures, "_run", slow)
    session, captures = made(tmp_path, most_waiting=1)
    batch = {"model": "demo", "texts": [TEXT]}
    with TestClient(create_app(session, token=None, captures=captures), base_url=HOST) as client:
        first = client.post("/v1/captures", json=batch).headers["location"]
        while client.get(first).json()["state"] == "waiting":
            time.sleep(0.01)
        second = client.post("/v1/captures", json=batch).headers["location"]
        refused = client.post("/v1/captures", json=batch)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert client.delete(first).status_code == 409
        assert client.delete(second).json()["state"] == "cancelled"
        assert client.delete(second).status_code == 200
        third = client.post("/v1/captures", json=batch).headers["location"]
        held.set()
        assert ended(client, first)["state"] == ended(client, third)["state"] == "done"
        assert client.get(second).json()["items"][0]["state"] == "cancelled"


def test_events_are_followed_and_gone_on_with(tmp_path: Path) -> None:
    session, captures = made(tmp_path)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with listening(create_app(session, token=TOKEN, captures=captures)) as url:
        batch = {"model": "demo", "texts": [TEXT, ""]}
        where = url + httpx.post(f"{url}/v1/captures", json=batch, headers=headers).headers["location"]
        with httpx.stream("GET", f"{where}/events", headers=headers, timeout=20) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            found = events("".join(response.iter_text()))
        again = httpx.get(f"{where}/events", headers=headers | {"Last-Event-ID": "1"}).text
        atlas = httpx.get(where, headers=headers).json()["atlas"]
    names = [name for _, name, _ in found]
    assert names[:2] == ["state", "state"]
    assert names[-1] == "end"
    assert "progress" in names
    assert names.count("item") == 1  # the other has failed before there was anything to follow
    assert [number for number, _, _ in found] == list(range(len(found)))
    assert found[-1][2] == {"state": "done", "atlas": atlas}
    assert events(again) == found[2:]
    progress = [data for _, name, data in found if name == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] == 1


def events(text: str) -> list[tuple[int, str, Any]]:
    """(id, event, data) each."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        found += [(int(fields["id"]), fields["event"], json.loads(fields["data"]))] if fields else []
    return found


def test_a_model_that_fails_does_not_end_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, captures = made(tmp_path)
    monkeypatch.setattr(captures, "models", ("demo", str(tmp_path / "no-model")))
    with TestClient(create_app(session, token=None, captures=captures), base_url=HOST) as client:
        wrong = {"model": str(tmp_path / "no-model"), "texts": [TEXT]}
        told = ended(client, client.post("/v1/captures", json=wrong).headers["location"])
        assert told["state"] == "failed"
        assert told["items"][0]["error"]["type"] == "InputError"
        right = {"model": "demo", "texts": [TEXT]}
        assert ended(client, client.post("/v1/captures", json=right).headers["location"])["state"] == "done"
