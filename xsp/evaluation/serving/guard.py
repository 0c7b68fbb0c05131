"""Who may use the page: the right name, no foreign origin, and a token beyond this machine.

It stands before everything that is served, as an ASGI application around another (ASGI 3.0).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
"""For answers of the guard itself; the first three are added to all."""
_ADDED = ("x-content-type-options", "x-frame-options", "referrer-policy")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that is bound to this address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True)
class Rules:
    """What a request must fulfil.

    Args:
        names: host names under which the page is served. A number address needs none: only names
            can be made to point at another machine (DNS rebinding).
        token: None where everybody who reaches the server may use it.

    """

    names: frozenset[str] = _LOOPBACK
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, host: str, token: str | None, names: tuple[str, ...] = ()) -> Rules:
        """For a server bound to an address: this machine's names count, beside those given."""
        own = () if is_loopback(host) else (host, socket.gethostname(), socket.getfqdn())
        return cls(_LOOPBACK | {name.lower() for name in (*own, *names)}, token)

    @property
    def cookie(self) -> str:
        """What a browser keeps in place of the token."""
        key = (self.token or "").encode()
        return hmac.new(key, b"xsp serve", hashlib.sha256).hexdigest()


class Guard:
    """An application that only requests by the rules reach."""

    def __init__(self, inner: Application, rules: Rules) -> None:
        self._inner, self._rules = inner, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        headers = _headers(scope)
        refusal = _refused(headers, self._rules) or _unknown(scope, headers, self._rules)
        if refusal is None:
            await self._inner(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.detail})
        elif _given_once(scope, self._rules):
            await _answer(send, 200, *_welcome(scope, headers, self._rules))
        else:
            await _answer(send, refusal.status, *_told(refusal))


@dataclass(frozen=True)
class _Refusal:
    status: int
    detail: str


def _headers(scope: Scope) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
    }


def _refused(headers: Mapping[str, str], rules: Rules) -> _Refusal | None:
    """Whether the request is for another host, or was made by another host's page."""
    host = headers.get("host", "")
    if not _is_named(host, rules.names):
        return _Refusal(
            403, f"this server is not {host!r}; start it with --name to serve it under that name"
        )
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return _Refusal(403, f"requests of pages of {origin!r} are not answered")
    return None


def _is_named(host: str, names: frozenset[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return names != _LOOPBACK


def _unknown(scope: Scope, headers: Mapping[str, str], rules: Rules) -> _Refusal | None:
    """Whether the request has no token, or a wrong one."""
    if rules.token is None or _has_token(headers, rules) or _has_cookie(scope, headers, rules):
        return None
    return _Refusal(
        401, "a token is needed: `Authorization: Bearer TOKEN`, or once ?token=TOKEN in a browser"
    )


def _has_token(headers: Mapping[str, str], rules: Rules) -> bool:
    kind, _, given = headers.get("authorization", "").partition(" ")
    return kind.lower() == "bearer" and _same(given.strip(), rules.token or "")


def _has_cookie(scope: Scope, headers: Mapping[str, str], rules: Rules) -> bool:
    try:
        kept = SimpleCookie(headers.get("cookie", "")).get(_cookie_name(scope))
    except CookieError:
        return False
    return kept is not None and _same(kept.value, rules.cookie)


def _given_once(scope: Scope, rules: Rules) -> bool:
    """Whether a browser was opened with the token in its address."""
    given = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token")
    wanted = rules.token
    return wanted is not None and given is not None and _same(given, wanted)


def _same(given: str, wanted: str) -> bool:
    """In a time that does not tell how much of it was right."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _cookie_name(scope: Scope) -> str:
    # Browsers send the cookies of one port of a host to all: another server's must not be ours.
    return f"xsp-{(scope.get('server') or ('', 0))[1]}"


def _welcome(
    scope: Scope, headers: Mapping[str, str], rules: Rules
) -> tuple[str, bytes, dict[str, str]]:
    """A page that keeps the cookie and goes to the address without the token. A redirection would
    not do: a strict cookie is not sent along where another site's link began it.
    """
    rest = [
        pair for pair in parse_qsl(scope["query_string"].decode("latin-1")) if pair[0] != "token"
    ]
    # Not `//host`, which would be another site.
    path = "/" + quote(scope["path"].lstrip("/"))
    target = escape(f"{path}?{urlencode(rest)}" if rest else path)
    page = f'<!doctype html><meta http-equiv="refresh" content="0;url={target}"><title>xsp</title>'
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    cookie = f"{_cookie_name(scope)}={rules.cookie}; Path=/; HttpOnly; SameSite=Strict{secure}"
    del headers
    return "text/html; charset=utf-8", page.encode(), {"set-cookie": cookie}


def _told(refusal: _Refusal) -> tuple[str, bytes, dict[str, str]]:
    more = {"www-authenticate": "Bearer"} if refusal.status == 401 else {}
    return "application/json", json.dumps({"detail": refusal.detail}).encode(), more


async def _answer(send: Send, status: int, kind: str, body: bytes, more: Mapping[str, str]) -> None:
    headers = {**_HEADERS, "content-type": kind, "content-length": str(len(body)), **more}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send) -> Send:
    added = [(name.encode(), _HEADERS[name].encode()) for name in _ADDED]

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *added]
        await send(message)

    return sending
