"""Who is let in: the token in its three ways, the Host, the Origin, and no path that leaves an atlas."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

import attlas
from attlas.errors import InputError
from attlas.server.app import create_app
from attlas.server.auth import host_name, new_token, parse_token
from attlas.server.session import Session
from tests.server.clients import HOST, TOKEN

BEARER = {"Authorization": f"Bearer {TOKEN}"}
ASKED = "/v1/atlases"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("guarded")
    attlas.capture("demo", ["the cat sat"], folder / "a.zarr", ids=["one"])
    (folder / "secret.json").write_text("{}")
    (folder / "a.zarr" / "out.json").symlink_to(folder / "secret.json")
    return Session({"a": folder / "a.zarr"})


@pytest.fixture
def client(session: Session) -> Iterator[TestClient]:
    app = create_app(session, token=TOKEN, hosts=["attlas.example"])
    with TestClient(app, base_url=HOST, follow_redirects=False) as client:
        yield client


def test_without_the_token_nothing_is_told(client: TestClient, session: Session) -> None:
    paths = [ASKED, "/", "/docs", "/openapi.json", "/metrics", "/static/viewer.js", "/v1/atlases/a/zarr/zarr.json"]
    for path in paths:
        response = client.get(path)
        assert response.status_code == 401, path
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert response.json()["status"] == 401
    assert client.post("/v1/ask", json={"op": "info"}).status_code == 401
    for path in ("/v1/health/live", "/v1/health/ready"):
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("wrong", ["", "wrong", TOKEN[:-1], TOKEN + "x", "café", "\x00"])
def test_a_wrong_token_is_refused_wherever_it_is_given(client: TestClient, wrong: str) -> None:
    assert client.get(ASKED, params={"token": wrong}).status_code == 401
    header = f"Bearer {wrong}".encode()
    assert client.get(ASKED, headers=[(b"Authorization", header)]).status_code == 401
    name = _entered(client)
    client.cookies.clear()
    if wrong.isascii() and wrong.isprintable():
        assert client.get(ASKED, headers={"Cookie": f"{name}={wrong}"}).status_code == 401
        assert (
            client.get(ASKED, headers={"Cookie": f"{name}={TOKEN}"}).status_code == 401
        )  # the cookie is not the token


def test_the_address_that_is_printed_gives_a_cookie_and_loses_its_token(client: TestClient) -> None:
    response = client.get(f"/?token={TOKEN}&document=a%26b")
    assert response.status_code == 303
    assert response.headers["location"] == "./?document=a%26b"
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert client.get(ASKED).status_code == 200  # by the cookie
    assert client.get(f"//evil.example/?token={TOKEN}").headers.get("location", "./").startswith("./")


def test_programs_give_the_token_as_bearer_or_in_the_query(client: TestClient) -> None:
    assert client.get(ASKED, headers=BEARER).status_code == 200
    assert client.get(ASKED, headers={"Authorization": f"token {TOKEN}"}).status_code == 200
    assert client.get(ASKED, params={"token": TOKEN}).status_code == 200
    assert client.get("/docs", headers=BEARER).status_code == 200


def test_a_browser_without_the_token_is_asked_for_it(client: TestClient) -> None:
    response = client.get("/", headers={"Accept": "text/html"})
    assert response.status_code == 401
    assert 'name="token"' in response.text


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "a@localhost", "", "[x"]
)
def test_a_foreign_host_is_refused_even_with_the_token(client: TestClient, host: str) -> None:
    response = client.get(ASKED, headers=BEARER | {"Host": host})
    assert response.status_code == 400
    assert "--allow-host" in response.json()["detail"]


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1:8765", "[::1]:8765", "ATTLAS.example", "localhost."])
def test_a_known_host_is_served(client: TestClient, host: str) -> None:
    assert client.get(ASKED, headers=BEARER | {"Host": host}).status_code == 200


def test_a_page_of_another_site_may_not_ask(client: TestClient) -> None:
    for origin, status in (("http://evil.example", 403), ("null", 403), ("http://localhost:8765", 200)):
        response = client.post("/v1/ask", json={"op": "info"}, headers=BEARER | {"Origin": origin})
        assert response.status_code == status


OUT = ["../secret.json", "..%2fsecret.json", "%2e%2e/secret.json", "self/../../secret.json", "./zarr.json", "out.json",
       "/etc/passwd", "%2fetc/passwd", "self//q/zarr.json", "..%5csecret.json", "zarr.json%00", "", "self"]  # fmt: skip


@pytest.mark.parametrize("path", OUT)
def test_a_path_that_leaves_the_atlas_is_refused(client: TestClient, path: str) -> None:
    response = client.get("http://localhost/v1/atlases/a/zarr/" + path, headers=BEARER)
    if path == "./zarr.json":  # made plain by the client itself
        assert response.status_code == 200
    else:
        assert response.status_code == 404
        assert response.content != b"{}"


def test_a_host_header_is_taken_apart() -> None:
    found = [host_name(one) for one in ("a:1", "[::1]", "a/b", "a:x", "b@a", "")]
    assert found == ["a", "::1", "", "", "", ""]


def test_tokens() -> None:
    assert len({new_token() for _ in range(10)}) == 10
    assert len(new_token()) == 48
    for wrong in ("short", "seven 8 nine", "ünïcödes", None, 5):
        with pytest.raises(InputError, match="token"):
            parse_token(wrong)


def test_no_token_is_asked_for_where_somebody_else_sees_to_it(session: Session) -> None:
    with TestClient(create_app(session, token=None, hosts=["*"]), base_url="http://any.example") as client:
        assert client.get(ASKED).status_code == 200


def _entered(client: TestClient) -> str:
    """The name of the cookie."""
    return client.get("/", params={"token": TOKEN}).headers["set-cookie"].partition("=")[0]
