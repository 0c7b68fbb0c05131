"""Serving until the program is told to end."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from xsp.errors import EvaluationError
from xsp.evaluation.serving.application import application
from xsp.evaluation.serving.guard import Rules, is_loopback
from xsp.evaluation.serving.platform import Platform

HOST, PORT = "127.0.0.1", 8311


@dataclass(frozen=True)
class Address:
    """Where to listen, and who may use it.

    Beyond the loopback interface a token is needed: one is made where none is given. `names` are
    further host names under which browsers reach the server.
    """

    host: str = HOST
    port: int = PORT
    token: str | None = None
    names: tuple[str, ...] = ()

    def rules(self) -> Rules:
        """The guard's rules."""
        open_to_others = not is_loopback(self.host)
        token = self.token or (secrets.token_urlsafe(32) if open_to_others else None)
        return Rules.of(self.host, token, self.names)


def serve(platform: Platform, address: Address, ready: Callable[[str], None]) -> None:
    """Listen, say under which address, and serve until interrupted. Evaluations in flight are
    waited for at the end.

    Raises EvaluationError where the address cannot be listened on.
    """
    rules = address.rules()
    listener = _listener(address)
    port = listener.getsockname()[1]
    settings = uvicorn.Config(
        application(platform, rules),
        # An access log would have the token of the first request.
        access_log=False,
        log_level="warning",
        ws="wsproto",
        server_header=False,
    )
    ready(_shown(address.host, port, rules))
    try:
        uvicorn.Server(settings).run(sockets=[listener])
    finally:
        platform.close()


def _listener(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        used = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why = "another program listens there" if used else str(error)
        raise EvaluationError(
            f"{address.host}:{address.port} cannot be listened on ({why}); choose another --port, "
            "or 0 for any"
        ) from error
    return listener


def _shown(host: str, port: int, rules: Rules) -> str:
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 - a comparison
    shown = f"[{name}]" if ":" in name else name
    token = "" if rules.token is None else f"?token={rules.token}"
    return f"http://{shown}:{port}/{token}"
