"""Who may use the page: wrong tokens, names and origins are refused before anything is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from xsp.evaluation.serving.guard import Guard, Rules, is_loopback

TOKEN = "a-token-of-this-test"
HERE = "127.0.0.1:8311"


async def behind(scope: Any, _receive: Any, send: Any) -> None:
    """What the guard protects: it answers everything that it is asked."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def asked(
    rules: Rules,
    path: str = "/page",
    headers: Mapping[str, str] | None = None,
    host: str = HERE,
    method: str = "GET",
) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=Guard(behind, rules))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.request(method, path, headers=dict(headers or {}))

    return asyncio.run(ask())


# ---- this machine alone ----


def test_this_machine_needs_no_token() -> None:
    """By default the page is for who sits at the machine."""
    rules = Rules.of("127.0.0.1", None)
    assert asked(rules).text == "/page"
    assert asked(rules, host="localhost:8311").status_code == 200
    assert asked(rules, host="[::1]:8311").status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8311", "127.0.0.1.evil.example", "10.0.0.7:8311", "", "["],
)
def test_another_name_of_this_machine_is_refused(host: str) -> None:
    """A page of another site could have its own name lead here (DNS rebinding)."""
    refused = asked(Rules.of("127.0.0.1", None), headers={"host": host})
    assert refused.status_code == 403
    assert "--name" in refused.json()["detail"]


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1", "http://"],
)
def test_requests_of_pages_of_another_origin_are_refused(origin: str) -> None:
    """Another site's page, or another port's, can make a browser ask, but is not answered."""
    rules = Rules.of("127.0.0.1", None)
    refused = asked(rules, headers={"origin": origin}, method="POST")
    assert refused.status_code == 403
    assert asked(rules, headers={"origin": f"http://{HERE}"}, method="POST").status_code == 200


# ---- other machines ----


def test_another_address_asks_for_the_token() -> None:
    """Without it, or with a wrong one, nothing is answered; with it everything is."""
    rules = Rules.of("0.0.0.0", TOKEN, ("box.example",))
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        refused = asked(rules, headers=headers)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in refused.text
    right = {"authorization": f"Bearer {TOKEN}"}
    assert asked(rules, headers=right).status_code == 200
    assert asked(rules, headers=right, host="10.0.0.7:8311").status_code == 200
    assert asked(rules, headers=right, host="box.example").status_code == 200
    assert asked(rules, headers=right, host="evil.example").status_code == 403


def test_a_browser_gives_the_token_once() -> None:
    """`?token=` leaves a cookie that is not the token and is sent to this site alone, and goes on
    to the address without it.
    """
    rules = Rules.of("0.0.0.0", TOKEN)
    welcome = asked(rules, f"/%2Fevil.example/page?a=1%26b&token={TOKEN}")
    cookie = welcome.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie + welcome.text
    assert 'url=/evil.example/page?a=1%26b"' in welcome.text
    kept = cookie.partition(";")[0]
    assert asked(rules, headers={"cookie": kept}).text == "/page"
    assert asked(rules, headers={"cookie": f"{kept}0"}).status_code == 401
    assert asked(Rules.of("0.0.0.0", "other"), headers={"cookie": kept}).status_code == 401
    assert asked(rules, "/page?token=wrong").status_code == 401


def test_a_websocket_without_the_token_is_closed() -> None:
    """Dash could be asked through one."""
    sent: list[Any] = []

    async def connect() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "websocket",
            "path": "/",
            "query_string": f"token={TOKEN}".encode(),
            "headers": [(b"host", HERE.encode())],
            "server": ("127.0.0.1", 8311),
        }

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        await Guard(behind, Rules.of("0.0.0.0", TOKEN))(scope, receive, send)

    asyncio.run(connect())
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_every_answer_forbids_frames_and_guesses() -> None:
    """Another site cannot show the page in a frame."""
    headers = asked(Rules.of("127.0.0.1", None)).headers
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("box.example", False),
    ],
)
def test_addresses_of_this_machine_alone(host: str, alone: bool) -> None:
    """All of 127.0.0.0/8 is the loopback interface; names other than localhost may be anything."""
    assert is_loopback(host) is alone
