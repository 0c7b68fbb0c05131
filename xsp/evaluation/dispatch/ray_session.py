"""Ray, joined or started: where none runs, one is started for this program alone, on the loopback
interface, with a token, without usage reports.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from xsp.errors import DispatchError
from xsp.evaluation.extra import needed

NAMESPACE = "xsp"
_STORE_BYTES = 100_000_000
"""Jobs and results are small JSON; Ray would take 30 % of the memory for objects."""
_REACHED_IN_S = 10.0
_JOINING = {"RAY_USAGE_STATS_ENABLED": "0"}
_IMPORTED: list[bool] = []
"""Not empty once Ray was imported under `settings`."""


@lru_cache(maxsize=1)
def settings() -> dict[str, str]:
    """The environment of a Ray that is started on one machine. Ray reads some of it when it is
    imported, and the token once: they are the same for as long as this process lives.

    Ray binds to all interfaces whatever address it is given; as it does on desktop systems, it
    binds to the loopback interface alone where clusters are switched off. Workers run at niceness
    15 by default, which changes latencies. The death of a node is noticed within about two seconds
    instead of twenty.
    """
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }


class Session:
    """A connection to Ray, for as long as a dispatch takes.

    A program that is connected already stays so. With an address (or RAY_ADDRESS) that cluster is
    joined; else a Ray of one node is started, and ended with the session.

    Raises DispatchError where the cluster cannot be reached.
    """

    def __init__(self, address: str | None = None) -> None:
        given = address or os.environ.get("RAY_ADDRESS")
        with needed("dispatching to Ray", "ray"):
            self.ray = _joinable() if given else _startable()
        self._own = not self.ray.is_initialized()
        if self._own:
            with _environment(_JOINING if given else settings()):
                _refuse_unreachable(given)
                _connect(self.ray, given)

    def nodes(self) -> list[Mapping[str, Any]]:
        """The nodes that are alive, the one of this program first."""
        here = self.ray.get_runtime_context().get_node_id()
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        return sorted(alive, key=lambda node: node["NodeID"] != here)

    def close(self) -> None:
        """Leave the cluster, or end it if it was started here."""
        if self._own:
            self.ray.shutdown()


def _joinable() -> Any:
    """Ray, which finds the cluster's token in the environment or in the user's files."""
    with _environment(_JOINING):
        import ray

        return ray


def _startable() -> Any:
    """Ray, imported so that what it starts is closed to other machines, or connected already."""
    before = sys.modules.get("ray")
    if before is not None and not _IMPORTED:
        if not before.is_initialized():
            raise DispatchError(
                "this program imported Ray before xsp could tell it to listen on the loopback "
                "interface alone: connect it yourself with ray.init(), or give a cluster's address"
            )
        return before
    with _environment(settings()):
        import ray

        _IMPORTED.append(True)
        return ray


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """The environment with these changes, except where the user has set a name."""
    new = {name: value for name, value in changes.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _refuse_unreachable(address: str | None) -> None:
    """Ray would try for minutes, and write to stderr meanwhile."""
    host, colon, port = (address or "").rpartition(":")
    if not colon or not port.isdigit() or "//" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHED_IN_S).close()
    except OSError as error:
        raise DispatchError(
            f"nothing answers at {address} ({error}); give the address that `ray start --head` "
            "printed, or leave it out to start a Ray on this machine"
        ) from error


def _connect(ray: Any, address: str | None) -> None:
    quiet: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                _node_ip_address="127.0.0.1",
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                **quiet,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"the cluster at {address}" if address else "a Ray on this machine"
        said = str(error).strip().splitlines()
        raise DispatchError(
            f"{where} cannot be reached ({said[0] if said else type(error).__name__}); check the "
            "address, and RAY_AUTH_TOKEN if the cluster has a token"
        ) from error
