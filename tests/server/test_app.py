"""Every resource says what the session says; ETags, limits, problems, figures."""

from __future__ import annotations

import json
import struct
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
from attlas.errors import CorruptAtlasError
from attlas.server.app import MOST_BODY, create_app
from attlas.server.ask import MOST_MESSAGE, unframe
from attlas.server.session import Answer, Op, Session
from tests.server.clients import HOST, listening

TEXT = "the cat sat. the dog ran! and nobody knows why the cat sat. "
DTYPES = {"u8": "u1", "f16": "<f2", "f32": "<f4"}
AT = "/v1/atlases/a/documents/one"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("served")
    attlas.capture("demo", [TEXT * 5, TEXT], folder / "a.zarr", ids=["one", "of two/parts?"])
    return Session({"a": folder / "a.zarr"})


@pytest.fixture(scope="module")
def client(session: Session) -> Iterator[TestClient]:
    with TestClient(create_app(session, token=None), base_url=HOST) as client:
        yield client


JSON: list[tuple[str, str, dict[str, Any]]] = [
    ("/v1/atlases", "info", {}),
    ("/v1/atlases/a/documents?start=1&text=TWO", "documents", {"atlas": "a", "start": 1, "text": "TWO"}),
    (AT, "document", {"document": "one"}),
    ("/v1/atlases/a/documents/of%20two%2Fparts%3F", "document", {"document": "of two/parts?"}),
    ("/v1/atlases/a/documents/of%20two%2Fparts%3F/tokens?stop=7", "tokens", {"document": "of two/parts?", "stop": 7}),
    (AT + "/tokens?axis=query&start=3", "tokens", {"document": "one", "axis": "query", "start": 3}),
    (AT + "/find?text=cat&limit=3", "find", {"document": "one", "text": "cat", "limit": 3}),
    (AT + "/cells/self/1/mean/20/3", "cell", {"document": "one", "layer": 1, "head": "mean", "query": 20, "key": 3}),
    (AT + "/cells/self/1/0/3/20", "cell", {"document": "one", "layer": 1, "head": 0, "query": 3, "key": 20}),
    (AT + "/heads", "heads", {"document": "one"}),
]


@pytest.mark.parametrize(("path", "op", "asked"), JSON, ids=[path for path, _, _ in JSON])
def test_a_resource_is_the_sessions_answer(
    client: TestClient, session: Session, path: str, op: str, asked: dict[str, Any]
) -> None:
    response = client.get(path)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json() == json.loads(json.dumps(session.answer(op, asked).data))


@pytest.mark.parametrize("form", DTYPES)
@pytest.mark.parametrize("pool", ["max", "mass"])
def test_a_tile_is_bytes_with_what_they_are_in_headers(
    client: TestClient, session: Session, form: str, pool: str
) -> None:
    asked = {"document": "one", "layer": 2, "head": 3, "level": 1, "row": 0, "column": 0, "pool": pool, "format": form}
    found = session.answer("tile", asked)
    response = client.get(f"{AT}/tiles/self/2/3/1/0/0", params={"pool": pool, "format": form})
    assert response.headers["content-type"] == "application/octet-stream"
    shape = tuple(int(size) for size in response.headers["x-attlas-shape"].split(","))
    np.testing.assert_array_equal(np.frombuffer(response.content, DTYPES[form]).reshape(shape), found.buffers[0])
    assert response.headers["x-attlas-dtype"] == found.data["dtype"]
    assert json.loads(response.headers["x-attlas-data"]) == found.data
    assert ("x-attlas-scale" in response.headers) == (form == "u8")
    if form == "u8":
        assert json.loads(response.headers["x-attlas-scale"]) == {"kind": "log", "low": 1e-5, "high": 1}


def test_rows_and_columns_are_the_atlas_own_weights(client: TestClient, session: Session) -> None:
    """Against what the library says, not the session."""
    weights = session.atlas("a")["one"].attention.sel(layer=1, head=2).values
    row = client.get(AT + "/rows/self/1/2/30?top=2").json()
    np.testing.assert_allclose(row["weights"][:31], weights[30, :31], atol=1e-5)
    assert row["weights"][31:] == [None] * (len(weights) - 31)
    assert [one["key"] for one in row["top"]] == np.argsort(-weights[30, :31])[:2].tolist()
    column = client.get(AT + "/columns/self/1/2/30?format=f32")
    found = np.frombuffer(column.content, "<f4")
    assert np.isnan(found[:30]).all()
    np.testing.assert_allclose(found[30:], weights[30:, 30], atol=1e-5)


def test_thumbnails_and_statistics(client: TestClient, session: Session) -> None:
    found = session.answer("thumbnails", {"document": "one", "layer": 1, "cells": 16})
    response = client.get(AT + "/thumbnails/self", params={"layer": 1, "cells": 16})
    assert response.content == found.buffers[0].tobytes()
    assert response.headers["x-attlas-shape"] == ",".join(map(str, found.buffers[0].shape))
    names = ["entropy", "received"]
    values = session.answer("statistics", {"document": "one", "layer": 1, "head": 0, "names": names}).buffers
    told = client.get(AT + "/statistics/self/1/0", params={"names": names}).json()
    for name, value in zip(names, values, strict=True):
        np.testing.assert_allclose(np.array(told[name], np.float32), value, rtol=1e-6)
    both = client.get(AT + "/statistics/self/1/0", params={"names": names, "format": "f32"})
    assert both.content == b"".join(value.tobytes() for value in values)
    assert both.headers["x-attlas-shape"] == ";".join(str(len(value)) for value in values)


def test_statistics_of_all_documents_stream_as_lines(client: TestClient, session: Session) -> None:
    response = client.get("/v1/atlases/a/statistics", params={"layer": 1, "names": "entropy", "rows": True})
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["document"] for line in lines] == ["one", "of two/parts?"]
    page = session.atlas("a")["of two/parts?"]
    np.testing.assert_allclose(lines[1]["entropy"], page.entropy.sel(layer=1).mean("head").values, rtol=1e-5)
    means = [json.loads(line) for line in client.get("/v1/atlases/a/statistics").text.splitlines()]
    assert len(means) == 2 * len(session.atlas("a").layers("self"))
    assert means[1]["entropy"] == pytest.approx(np.mean(lines[0]["entropy"]), rel=1e-6)
    wrong = [json.loads(line) for line in client.get("/v1/atlases/a/statistics?names=nonsense").text.splitlines()]
    assert [line["error"]["status"] for line in wrong] == [422, 422]


def test_a_message_is_answered_in_one_body(client: TestClient, session: Session) -> None:
    message = {"id": [7], "op": "row", "document": "one", "layer": 1, "head": 0, "query": 30}
    body = client.post("/v1/ask", json=message).content
    length = struct.unpack_from("<I", body)[0]
    assert (4 + length) % 8 == 0
    reply = json.loads(body[4 : 4 + length])
    told, buffers = session.reply(message)
    assert reply == json.loads(json.dumps(told)) | {"buffers": [one.nbytes for one in buffers]}
    np.testing.assert_array_equal(np.frombuffer(body[4 + length :], "<f4"), buffers[0])


def test_a_message_that_is_refused_is_answered_too(client: TestClient) -> None:
    response = client.post("/v1/ask", json={"id": 1, "op": "cell", "document": "never"})
    reply, buffers = unframe(response.content)
    assert response.status_code == 200
    assert (reply["id"], reply["ok"], reply["error"]["status"], buffers) == (1, False, 404, [])
    assert unframe(client.post("/v1/ask", json=[1]).content)[0]["error"]["status"] == 422
    for body, status in ((b"{", 400), (b"\xff", 400), (b"[" * 10_000, 400), (b'"' + b"x" * MOST_MESSAGE + b'"', 413)):
        assert client.post("/v1/ask", content=body).status_code == status


@pytest.mark.parametrize(
    "path", [AT, AT + "/tiles/self/1/0/0/0/0", AT + "/heads", "/v1/atlases/a/documents", "/v1/atlases/a/zarr/zarr.json"]
)
def test_what_the_asker_has_is_not_sent_again(client: TestClient, path: str) -> None:
    first = client.get(path)
    tag = first.headers["etag"]
    assert tag.startswith('"')
    assert "no-cache" in first.headers["cache-control"]
    again = client.get(path, headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"If-None-Match": '"other"'}).content == first.content


def test_another_question_or_atlas_has_another_tag(client: TestClient, session: Session, tmp_path: Path) -> None:
    path = AT + "/tiles/self/1/0/0/0/0"
    tags = {client.get(path + query).headers["etag"] for query in ("", "?pool=mass", "?format=f32")}
    tags.add(client.get(AT + "/tiles/self/1/1/0/0/0").headers["etag"])
    attlas.capture("demo", [TEXT * 5], tmp_path / "a.zarr", ids=["one"])
    with TestClient(create_app(Session({"a": tmp_path / "a.zarr"}), token=None), base_url=HOST) as other:
        tags.add(other.get(path).headers["etag"])
    assert len(tags) == 5


WRONG = {
    "/v1/atlases/never/documents": 404,
    "/v1/atlases/a/documents/never": 404,
    "/v1/nothing": 404,
    AT + "/cells/self/99/0/0/0": 422,
    AT + "/cells/self/x/0/0/0": 422,
    AT + "/cells/self/0/0/999999/0": 422,
    AT + "/cells/cross/0/0/0/0": 422,
    AT + "/tiles/self/0/0/0/0/0?format=f64": 422,
    AT + "/tiles/self/0/0/0/7/0": 422,
    AT + "/find?text=%00": 422,
    AT + "/tokens?start=" + "9" * 30: 422,
    "/v1/atlases/a/zarr/never": 404,
}


@pytest.mark.parametrize("path", WRONG)
def test_an_error_is_a_problem(client: TestClient, path: str) -> None:
    response = client.get(path)
    told = response.json()
    assert (response.status_code, told["status"]) == (WRONG[path], WRONG[path])
    assert response.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "detail", "error"} <= set(told)
    assert told["detail"].isprintable()
    assert "etag" not in response.headers


def test_who_goes_away_has_cancelled(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that waits for its turn is dropped once the connection is closed."""
    cancelled, waits = threading.Event(), threading.Event()

    def waiting(asked: Any) -> Answer:
        waits.set()
        for _ in range(2000):
            if not asked.wanted():
                cancelled.set()
                break
            time.sleep(0.01)
        return Answer({})

    monkeypatch.setattr(Op, "__call__", lambda self, asked, arguments: waiting(asked))
    with listening(create_app(session, token=None)) as url:
        with httpx.Client(timeout=1) as client, pytest.raises(httpx.ReadTimeout):
            client.post(f"{url}/v1/ask", json={"id": 5, "op": "info"})
        assert waits.wait(10)
        assert cancelled.wait(10)


def test_a_body_beyond_the_limit_is_refused(client: TestClient) -> None:
    assert client.post("/v1/ask", headers={"Content-Length": str(MOST_BODY + 1)}, content=b"x").status_code == 413
    assert client.post("/v1/atlases", json={}).status_code == 405


def test_answers_may_do_little_in_a_browser(client: TestClient) -> None:
    for path in ("/docs", "/v1/atlases", "/v1/nothing"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    reference = client.get("/docs").text
    assert "<script" not in reference
    assert "//" not in reference.replace("<!doctype html>", "")  # nothing is fetched from elsewhere
    assert "/v1/atlases/{atlas}/documents/{document}/tiles" in reference


def test_a_server_is_ready_once_its_session_is(session: Session) -> None:
    to_be: Future[Session] = Future()
    with TestClient(create_app(to_be, token=None), base_url=HOST) as client:
        assert client.get("/v1/health/live").json() == {"status": "live"}
        assert client.get("/v1/health/ready").status_code == 503
        to_be.set_result(session)
        assert client.get("/v1/health/ready").json() == {"status": "ready"}
        assert client.get("/v1/atlases").status_code == 200


def test_what_went_wrong_at_the_start_is_told(session: Session) -> None:
    to_be: Future[Session] = Future()
    to_be.set_exception(CorruptAtlasError("the atlas is damaged: restore it"))
    with TestClient(create_app(to_be, token=None), base_url=HOST) as client:
        assert client.get("/v1/health/ready").status_code == 503
        assert client.get("/v1/atlases").json()["detail"] == "the atlas is damaged: restore it"


def test_figures_count_what_was_asked(session: Session) -> None:
    with TestClient(create_app(session, token=None), base_url=HOST) as client:
        hits = session.cache.hits
        tile = client.get(AT + "/tiles/self/3/1/0/0/0").content
        client.get(AT + "/tiles/self/3/1/0/0/0")
        client.post("/v1/ask", json={"op": "info"})
        client.post("/v1/ask", json={"op": "made-up-" * 9})
        client.get("/v1/nothing?token=leaked")
        text = client.get("/metrics").text
    route = "/v1/atlases/{atlas}/documents/{document:path}/tiles/{kind}/{layer}/{head}/{level}/{row}/{column}"
    assert f'attlas_requests_total{{method="GET",op="",route="{route}",status="200"}} 2.0' in text
    assert f'attlas_response_bytes_total{{method="GET",op="",route="{route}"}} {2 * len(tile):.1f}' in text.replace(
        f"{float(2 * len(tile))}", f"{2 * len(tile):.1f}"
    )
    assert 'attlas_requests_total{method="POST",op="info",route="/v1/ask",status="200"} 1.0' in text
    assert 'attlas_requests_total{method="GET",op="",route="other",status="404"} 1.0' in text
    assert f"attlas_cache_hits_total {hits + 1:.1f}" in text
    assert "made-up" not in text
    assert "leaked" not in text
