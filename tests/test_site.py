"""The pages of docs/ as a site, built as `make docs` does and read in a browser."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Tab, chromium

ROOT = Path(__file__).parent.parent

pytest.importorskip("material", reason="needs the extra docs")


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that does not write each request to the terminal."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as files."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=240, cwd=ROOT
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    """Address of the site, served on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """One browser for all tests of this file."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium or Chrome on PATH")
    with chromium(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


def opened(tab: Tab, address: str) -> Tab:
    """The tab with this page, and no messages of earlier ones."""
    tab.errors.clear()
    tab.requests.clear()
    tab.call("Page.navigate", url=address)
    tab.wait(f"location.href === {address!r} && document.readyState === 'complete'")
    tab.wait("document.querySelector('[data-md-component=search-query]') !== null")
    return tab


@pytest.mark.parametrize("page", ["index.html", "columns.html", "reference.html"])
def test_page_loads_only_the_site(tab: Tab, site: str, page: str) -> None:
    """A page asks nobody but the server it came from, has no broken pictures, and writes no errors
    to the console.
    """
    opened(tab, site + page)
    elsewhere = [
        address for address in tab.requests if not address.startswith((site, "data:", "blob:"))
    ]
    assert elsewhere == []
    assert tab.errors == []
    assert tab.evaluate(
        "Array.from(document.images).every((image) => !image.complete || image.naturalWidth > 0)"
    )


def test_pictures_follow_the_theme(tab: Tab, site: str) -> None:
    """The page and its pictures are dark where the system is, and change with it."""
    shown = (
        "Array.from(document.images).filter((each) => each.offsetParent).map((each) => "
        "each.src.split(/[/#]/).at(-2))"
    )
    opened(tab, site + "index.html")
    for dark, look in ((True, "dark"), (False, "light")):
        tab.dark(dark)
        tab.wait(f"{shown}.join() === 'notebook-{look}.png,report-{look}.png'")


@pytest.mark.parametrize("served", [True, False])
def test_search_finds_columns(tab: Tab, site: str, folder: Path, served: bool) -> None:
    """The search works without a network, on names with underscores too, and for pages that are
    opened as files.
    """
    opened(tab, f"{site}index.html" if served else (folder / "index.html").as_uri())
    tab.evaluate(
        """(() => {
            document.querySelector("#__search").click();
            const input = document.querySelector("[data-md-component=search-query]");
            input.focus();
            input.value = "device_interval_ms";
            for (const kind of ["input", "keyup"]) input.dispatchEvent(new Event(kind, {bubbles: true}));
        })()"""
    )
    tab.wait(
        "document.querySelector('.md-search-result__list')?.textContent.includes('What the columns "
        "mean')"
    )


def test_reference_has_the_public_names(site: str) -> None:
    """Every public function and class, and every member of a profile, is in the reference with its
    docstring.
    """
    import urllib.request

    import xsp

    text = urllib.request.urlopen(site + "reference.html").read().decode()
    names = [f"xsp.{name}" for name in xsp.__all__ if not name.endswith("Error")]
    names += [
        f"xsp.Profile.{name}"
        for name in dir(xsp.Profile)
        if not name.startswith("_") and name != "fill"
    ]
    names += [f"xsp.analysis.{name}" for name in xsp.analysis.__all__]
    assert [name for name in names if f'id="{name}"' not in text] == []
