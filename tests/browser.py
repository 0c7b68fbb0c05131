"""A headless Chromium, driven over its DevTools protocol: what a test sees is what a reader's
browser makes of a page.

The websocket client is tornado's.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_DOWNLOADED = ("chromium-*/chrome-linux*/chrome", "chromium-*/chrome-mac*/**/MacOS/Chromium")


def _found() -> str | None:
    """Chromium on PATH, or the one that `make chromium` has Playwright download."""
    on_path = next(filter(None, map(shutil.which, _NAMES)), None)
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", "~/.cache/ms-playwright")).expanduser()
    downloaded = (path for pattern in _DOWNLOADED for path in sorted(cache.glob(pattern)))
    return on_path or next(map(str, downloaded), None)


CHROMIUM = _found()
_OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-sync "
    "--remote-debugging-port=0 --window-size=1400,1000 --hide-scrollbars"
)
_PATIENCE_S = 240
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27}
_KEYS |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
"""Codes of keys, as Windows numbers them and the protocol asks."""


class Tab:
    """One page. `errors` are uncaught exceptions and messages of the console, `requests` the
    addresses asked for, `theme` is what a test calls the page's colours.
    """

    def __init__(self, socket: WebSocketClientConnection, loop: asyncio.AbstractEventLoop) -> None:
        self._socket, self._loop, self._sent = socket, loop, 0
        self.errors: list[str] = []
        self.theme = ""
        self.requests: list[str] = []
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Result of a DevTools command; events that come before it are kept."""
        self._sent += 1
        message = json.dumps({"id": self._sent, "method": method, "params": parameters})
        return self._loop.run_until_complete(
            asyncio.wait_for(self._answer(message, self._sent), _PATIENCE_S)
        )

    async def _answer(self, message: str, number: int) -> dict[str, Any]:
        await self._socket.write_message(message)
        while True:
            text = await self._socket.read_message()
            assert text is not None, "the browser closed the connection"
            answer = json.loads(text)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._keep(answer.get("method"), answer.get("params", {}))

    def _keep(self, event: str | None, parameters: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"]))
        elif event == "Log.entryAdded" or (
            event == "Runtime.consoleAPICalled" and parameters["type"] != "log"
        ):
            self.errors.append(json.dumps(parameters))
        elif event == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

    def open(self, page: Path) -> None:
        """Load a page from disk and wait until its scripts have run."""
        self.call("Page.navigate", url=page.as_uri())
        self.wait(
            f"location.href === {json.dumps(page.as_uri())} && document.readyState === 'complete'"
        )

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression in the page; promises are waited for."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until the expression is true."""
        end = time.monotonic() + _PATIENCE_S
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)

    def dark(self, wanted: bool = True) -> None:
        """Set what the reader's system prefers."""
        preference = {"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}
        self.call("Emulation.setEmulatedMedia", features=[preference])

    def press(self, key: str, times: int = 1) -> None:
        """Press a key of the keyboard, such as "Tab" or "ArrowDown"."""
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        about = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        for _ in range(times):
            self.call("Input.dispatchKeyEvent", type="rawKeyDown", **about)
            self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def pdf(self) -> bytes:
        """The page printed to PDF, with what is a row and what a table marked in it."""
        printed = self.call("Page.printToPDF", generateTaggedPDF=True)
        return base64.b64decode(printed["data"])

    def screenshot(self, path: Path) -> Path:
        """Write the window as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
        return path


@contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """A fresh browser with one tab; its profile is kept in `folder`. Only this machine is there, no
    network.
    """
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        *_OPTIONS.split(),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={folder}",
    ]
    process = subprocess.Popen(
        [*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    loop = asyncio.new_event_loop()
    try:
        socket = loop.run_until_complete(_connected(folder / "DevToolsActivePort"))
        yield Tab(socket, loop)
        loop.run_until_complete(_closed(socket))
    finally:
        process.terminate()
        process.wait(_PATIENCE_S)
        loop.close()


async def _closed(socket: WebSocketClientConnection) -> None:
    """Close it inside the loop that it belongs to."""
    socket.close()


async def _connected(port_file: Path) -> WebSocketClientConnection:
    """Connection to the first tab of the browser that writes this file."""
    from tornado.httpclient import AsyncHTTPClient

    end = time.monotonic() + _PATIENCE_S
    while not (port_file.is_file() and port_file.read_text().strip()):
        assert time.monotonic() < end, "the browser did not start"
        await asyncio.sleep(0.05)
    port = port_file.read_text().split()[0]
    while True:
        listed = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json/list")
        pages = [each for each in json.loads(listed.body) if each["type"] == "page"]
        if pages:
            return await websocket_connect(
                pages[0]["webSocketDebuggerUrl"], max_message_size=1 << 28
            )
        assert time.monotonic() < end, "the browser has no tab"
        await asyncio.sleep(0.05)
