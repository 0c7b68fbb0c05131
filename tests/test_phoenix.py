"""A real backend understands the spans: arize-phoenix, in a Python environment of its own that
XSP_PHOENIX names.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import xsp

PYTHON = os.environ.get("XSP_PHOENIX", "")
pytestmark = [
    pytest.mark.skipif(
        not PYTHON,
        reason="XSP_PHOENIX names no Python with arize-phoenix: python -m venv p && p/bin/pip "
        "install arize-phoenix",
    ),
    pytest.mark.timeout(600),
]
CAPTURE = Path(__file__).parent.parent / "examples" / "captures" / "h100_resnet50.xsp"
START_S = 180


def free_port() -> int:
    """A port that nothing listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Phoenix:
    """A running server."""

    def __init__(self, directory: Path) -> None:
        self.http, self.grpc = free_port(), free_port()
        own = {
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(self.http),
            "PHOENIX_GRPC_PORT": str(self.grpc),
            "PHOENIX_WORKING_DIR": str(directory),
            "PHOENIX_TELEMETRY_ENABLED": "false",
        }
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PYTHON", "OTEL_"))
        }
        self.log = directory / "log.txt"
        with self.log.open("wb") as log:
            command = [PYTHON, "-m", "phoenix.server.main", "serve"]
            self.process = subprocess.Popen(
                command, env=inherited | own, cwd=directory, stdout=log, stderr=log
            )

    def get(self, path: str) -> Any:
        """Answer to a GET request, decoded."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=240) as response:
            return json.loads(response.read() or b"null")

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.get("/v1/projects")
                return
            except (OSError, urllib.error.HTTPError, json.JSONDecodeError):
                time.sleep(0.5)
        pytest.fail(f"phoenix did not start:\n{self.log.read_text(errors='replace')[-3000:]}")

    def spans(self, run: int, count: int) -> dict[str, dict[str, Any]]:
        """The spans of a run by id, once there are `count` of them; the server stores them after it
        has answered.
        """
        found: dict[str, dict[str, Any]] = {}
        deadline = time.monotonic() + 60
        while len(found) < count and time.monotonic() < deadline:
            time.sleep(1)
            found = {
                one["context"]["span_id"]: one
                for one in self._all()
                if one["attributes"]["xsp.run"] == run
            }
        return found

    def _all(self) -> Iterator[dict[str, Any]]:
        cursor: str | None = ""
        while cursor is not None:
            try:
                page = self.get(
                    f"/v1/projects/xsp/spans?limit=1000&cursor={cursor}".removesuffix("&cursor=")
                )
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
                return  # The project appears with its first span.
            yield from page["data"]
            cursor = page["next_cursor"]


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phoenix]:
    """A server on this machine, for the tests of this file."""
    server = Phoenix(tmp_path_factory.mktemp("phoenix"))
    try:
        server.wait()
        yield server
    finally:
        server.process.terminate()
        server.process.wait(30)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_phoenix_has_every_span(
    protocol: str, phoenix: Phoenix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every span of a run on an H100 is in the backend with its name, trace, parent and level."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "openinference.project.name=xsp")
    prof = xsp.load(CAPTURE)
    # The server knows spans by their ids: another run for the other protocol.
    run = int(
        prof.runs.loc[prof.runs["rung"] == "M/L/Lib/K", "run"].iloc[0 if protocol == "grpc" else -1]
    )
    port = phoenix.grpc if protocol == "grpc" else phoenix.http
    sent = prof.to_otlp(f"http://127.0.0.1:{port}", protocol, run=run)
    spans = phoenix.spans(run, sent)
    assert len(spans) == sent
    mine = prof.spans[prof.spans["run"] == run]
    for row in mine.to_dict("records"):
        span = spans[f"{row['span_id']:016x}"]
        assert span["name"] == row["name"]
        assert span["parent_id"] == (f"{row['parent_id']:016x}" if row["parent_id"] else None)
        assert span["context"]["trace_id"] == prof.trace.trace_id_hex
        assert span["attributes"]["xsp.level"] == row["level"]
