"""`xsp serve` as it is started, in a browser and through its REST interface."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import CHROMIUM, Tab, chromium
from captures import gpu_profile
from evaluated_models import write_digits
from fastapi import FastAPI
from plotly.utils import PlotlyJSONEncoder
from served_evaluations import evaluation, kept_capture
from typer.testing import CliRunner

from xsp.analysis import layer_information
from xsp.cli.application import app
from xsp.database.store import Store
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.dispatch.embedded import Embedded
from xsp.evaluation.manifest.reading import read_manifest
from xsp.evaluation.records.comparison import compare
from xsp.evaluation.records.writing import write
from xsp.evaluation.serving.page import add_page
from xsp.evaluation.serving.platform import Places, Platform
from xsp.evaluation.serving.server import Address

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on PATH")
pytestmark = pytest.mark.timeout(290)
_PATIENCE_S = 240
FAST, SLOW = f"{1:016x}", f"{2:016x}"


@dataclass(frozen=True)
class Served:
    """A server that runs, and what its database began with."""

    url: str
    database: Path
    opened: Path
    fast: Any
    slow: Any

    def get(self, path: str, **query: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", params=query, timeout=_PATIENCE_S)

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=_PATIENCE_S)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`xsp serve`, with two evaluations, one of them traced, and one manifest that is none."""
    folder = tmp_path_factory.mktemp("serving")
    manifest = read_manifest(write_digits(folder / "manifests"))
    (folder / "manifests" / "broken.yaml").write_text("xsp: 1\nname: [\n")
    artifacts = ArtifactStore(folder / "artifacts")
    fast = evaluation(manifest, 1, 2.0, (kept_capture(artifacts, folder),))
    slow = evaluation(manifest, 2, 3.0)
    database = folder / "evaluations.sqlite"
    with Store(database) as store:
        write(store, fast)
        write(store, slow)
    options = f"--database {database} --artifacts {artifacts.folder} --port 0 --allow-code --open"
    command = [sys.executable, "-m", "xsp", "serve", str(folder / "manifests"), *options.split()]
    (folder / "browser.py").write_text(BROWSER)
    browser = f"{sys.executable} {folder / 'browser.py'} {folder / 'page.html'} %s"
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "BROWSER": browser},
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.fullmatch(r"xsp serves (http://127\.0\.0\.1:\d+)/\n", said)
        assert found, said
        yield Served(found[1], database, folder / "page.html", fast, slow)
        process.send_signal(signal.SIGINT)
        process.wait(_PATIENCE_S)
    finally:
        process.kill()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """One browser for all tests of this file."""
    with chromium(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


def opened(tab: Tab, served: Served, path: str = "/") -> Tab:
    tab.errors.clear()
    tab.requests.clear()
    tab.call("Page.navigate", url=f"{served.url}{path}")
    tab.wait(f"location.pathname === {path!r} && document.readyState === 'complete'")
    return tab


def click(tab: Tab, selector: str) -> None:
    tab.wait(f"document.querySelector({selector!r}) !== null")
    tab.evaluate(f"document.querySelector({selector!r}).click()")


def box(evaluation: str) -> str:
    """The selector of the box that chooses an evaluation; Dash writes such ids as JSON."""
    return f'[id*="{evaluation}"] input'


def text(tab: Tab, selector: str) -> str:
    found: str = tab.evaluate(f"document.querySelector({selector!r})?.innerText ?? ''")
    return found


BROWSER = """
import sys, urllib.request
path, url = sys.argv[1:]
with urllib.request.urlopen(url) as page, open(path, "wb") as file:
    file.write(page.read())
"""
"""What the user's browser is for `--open`: it keeps the page that it was given."""


# ---- in a browser ----


def test_the_page_is_opened_where_that_is_asked_for(served: Served) -> None:
    """`xsp serve --open` gives the user's browser the address, and that gets the page."""
    deadline = time.monotonic() + _PATIENCE_S
    while not (served.opened.exists() and served.opened.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "<title>" in served.opened.read_text()


@in_browser
def test_what_is_in_the_database_is_shown_and_compared(tab: Tab, served: Served) -> None:
    """Two chosen evaluations are drawn, their measures and doubts are told, and the sentences are
    those of the comparison; texts are texts, also where they look like HTML.
    """
    opened(tab, served)
    click(tab, box(FAST))
    tab.wait(f"document.querySelector('#evaluation-{FAST}') !== null")
    assert text(tab, ".comparison") == ""
    click(tab, box(SLOW))
    tab.wait("document.querySelector('.comparison li') !== null")
    said = text(tab, ".comparison")
    for sentence in compare(served.fast, served.slow).sentences():
        assert sentence in said
    measures = text(tab, f"#measures-{FAST}")
    assert "0.5 to 9.5" in measures
    assert "unknown" in measures
    assert "there is no GPU" in measures
    assert "Doubt: <b>nobody</b> measured this" in text(tab, f"#evaluation-{FAST}")
    rows = text(tab, "#table")
    assert rows.count("FULL, in other runs") == 1
    assert "Numbers are of runs that nothing traced" in text(tab, "#evaluations")
    for one, traced in ((FAST, "traced in runs of its own"), (SLOW, "It was not traced.")):
        told = text(tab, f"#evaluation-{one}")
        assert told.index("Measured in runs that nothing traced") < told.index(traced)
    tab.wait("document.querySelector('#latencies .js-plotly-plot')?.data?.length === 2")


@in_browser
def test_a_profile_opens_down_to_its_layers(tab: Tab, served: Served) -> None:
    """The link of a traced evaluation leads to the report of the capture that its record points at,
    with its layers and kernels.
    """
    opened(tab, served)
    click(tab, box(FAST))
    click(tab, f"#evaluation-{FAST} a.profile")
    tab.wait("location.pathname.endsWith('/report') && document.readyState === 'complete'")
    for sheet in ("layer-information", "kernel-information"):
        # Tables are filled when they come near the window.
        tab.wait(f"document.querySelector('#{sheet}') !== null")
        tab.evaluate(f"document.querySelector('#{sheet}').scrollIntoView()")
        tab.wait(f"document.querySelector('#{sheet} tbody tr') !== null")
    layers = layer_information(gpu_profile())["name"]
    assert all(name in text(tab, "#layer-information") for name in layers)
    assert tab.errors == []


@in_browser
def test_the_page_asks_nobody_else_and_has_no_errors(tab: Tab, served: Served) -> None:
    """Everything it needs comes from this server; it names the file that is no manifest."""
    opened(tab, served)
    tab.wait("document.querySelector('#table tbody tr') !== null")
    tab.wait("document.querySelector('#jobs').innerText !== ''")
    assert "broken.yaml:" in text(tab, "#start-section")
    asked = [each for each in tab.requests if not each.startswith(("data:", "blob:"))]
    assert asked
    assert all(each.startswith(served.url) for each in asked)
    assert tab.errors == []


@in_browser
def test_an_evaluation_is_started_watched_and_found(tab: Tab, served: Served) -> None:
    """A click starts a real evaluation; the page shows it running, then done, then among the
    others, marked as traced, with the layers of the network in the report of its capture.
    """
    opened(tab, served)
    click(tab, "#start")
    tab.wait("document.querySelector('#said').innerText.includes('nothing was chosen')")
    assert "digits-cnn (digits.yaml: torch, single_stream)" in text(tab, "#manifests")
    # A scenario without a number that it needs.
    tab.evaluate("[...document.querySelectorAll('#scenarios input')].at(-1).click()")
    click(tab, "#start")
    tab.wait("document.querySelector('#said').innerText.includes('needs a latency bound')")
    tab.evaluate("[...document.querySelectorAll('#scenarios input')].at(-1).click()")
    click(tab, "#manifests input")
    click(tab, "#trace input[value=FRAMEWORK]")
    click(tab, "#start")
    tab.wait("document.querySelector('#said').innerText.startsWith('Started as run')")
    tab.wait("document.querySelector('#jobs-table .state-running') !== null")
    assert "digits-cnn 1.0.0" in text(tab, "#jobs-table")
    wait_longer(tab, "document.querySelector('#progress').innerText.startsWith('1 of 1 ended')")
    job = served.get("/api/jobs").json()[0]
    assert (job["state"], job["error"]) == ("done", "")
    click(tab, box(job["evaluation"]))
    tab.wait(f"document.querySelector('#evaluation-{job['evaluation']}') !== null")
    assert "top 1" in text(tab, f"#measures-{job['evaluation']}")
    assert "FRAMEWORK, in other runs" in text(tab, "#table")
    click(tab, f"#evaluation-{job['evaluation']} a.profile")
    tab.wait("location.pathname.endsWith('/report') && document.readyState === 'complete'")
    tab.evaluate("document.querySelector('#layer-information').scrollIntoView()")
    tab.wait("document.querySelector('#layer-information tbody tr') !== null")
    assert all(name in text(tab, "#layer-information") for name in ("conv1", "conv2", "fc"))
    assert tab.errors == []


def wait_longer(tab: Tab, expression: str) -> None:
    """Wait until something is true that takes as long as an evaluation."""
    for _ in range(4):
        try:
            tab.wait(expression)
            return
        except AssertionError:
            continue
    tab.wait(expression)


def test_what_a_server_does_not_run_cannot_be_chosen(tmp_path: Path) -> None:
    """Without --allow-code a manifest that names Python is grey, and the page says how it is
    allowed; with it, neither. A folder without manifests says what to do.
    """

    def layout(folder: Path, allowed: bool) -> str:
        places = Places(str(tmp_path / "db.sqlite"), str(tmp_path / "store"), folder, allowed)
        platform = Platform(places, Embedded)
        try:
            made = add_page(FastAPI(), platform).layout()
        finally:
            platform.close()
        return json.dumps(made, cls=PlotlyJSONEncoder)

    write_digits(tmp_path / "manifests")
    (tmp_path / "none").mkdir()
    refused = layout(tmp_path / "manifests", False)
    assert '"disabled": true' in refused
    assert "start xsp serve with --allow-code" in refused
    allowed = layout(tmp_path / "manifests", True)
    assert '"disabled": true' not in allowed
    assert "--allow-code" not in allowed
    assert "none has no manifests: put YAML files there" in layout(tmp_path / "none", False)


# ---- REST ----


def test_the_schema_names_every_route(served: Served) -> None:
    """It is OpenAPI, and says what comes back."""
    schema = served.get("/api/openapi.json").json()
    assert schema["openapi"].startswith("3.")
    assert {path: sorted(methods) for path, methods in schema["paths"].items()} == {
        "/api/manifests": ["get"],
        "/api/predictors": ["get"],
        "/api/runs": ["post"],
        "/api/runs/{run}": ["delete"],
        "/api/jobs": ["get"],
        "/api/evaluations": ["get"],
        "/api/evaluations/{id}": ["get"],
        "/api/evaluations/{id}/report": ["get"],
        "/api/comparisons": ["get"],
    }
    assert "EvaluationEntry" in schema["components"]["schemas"]


def test_evaluations_are_read_as_the_database_has_them(served: Served) -> None:
    """In the table and whole; unknown measures are null."""
    rows = {row["id"]: row for row in served.get("/api/evaluations").json()}
    assert rows[FAST]["model"] == "digits-cnn"
    assert (rows[FAST]["traced"], rows[SLOW]["traced"]) == ("FULL", None)
    newest = served.get("/api/evaluations", limit="1").json()
    second = served.get("/api/evaluations", limit="1", skip="1").json()
    assert [newest[0]["id"], second[0]["id"]] == [SLOW, FAST]
    whole = served.get(f"/api/evaluations/{FAST}").json()
    measures = {each["name"]: each for each in whole["measures"]}
    assert measures["latency_p90"]["value"] == served.fast.measure("latency_p90").value
    assert measures["energy"]["value"] is None
    assert whole["traces"][0]["sha256"] == served.fast.traces[0].sha256
    assert {each["runs"] for each in whole["measures"]} == {"untraced"}
    assert {each["runs"] for each in whole["traces"]} == {"traced"}
    assert whole["manifest"]["model"]["name"] == "digits-cnn"
    compared = served.get("/api/comparisons", before=FAST, after=SLOW).json()
    expected = compare(served.fast, served.slow)
    assert (compared["verdict"], compared["ratio"]) == (
        expected.latency.name,
        expected.latency.ratio,
    )


def test_manifests_are_listed_with_their_faults(served: Served) -> None:
    """A file that is no manifest says why."""
    files = {each["file"]: each for each in served.get("/api/manifests").json()}
    assert files["digits.yaml"]["scenario"] == "single_stream"
    assert files["digits.yaml"]["fault"] == ""
    assert "broken.yaml:" in files["broken.yaml"]["fault"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"manifests": ["other.yaml"]}, "there is no manifest 'other.yaml'"),
        ({"manifests": ["../digits.yaml"]}, "there is no manifest"),
        ({"manifests": ["broken.yaml"]}, "broken.yaml:"),
        ({"manifests": ["digits.yaml"], "predictors": ["other"]}, "other"),
        ({"manifests": ["digits.yaml"], "scenarios": [{"kind": "other"}]}, "scenario"),
        ({"manifests": ["digits.yaml"], "scenarios": [{"kind": "server"}]}, "rate_per_s"),
        ({"manifests": []}, "at least 1 item"),
        ({"manifests": ["digits.yaml"], "trace": 3}, "valid string"),
        ({"manifests": ["digits.yaml"], "unknown": 1}, "not permitted"),
    ],
)
def test_what_cannot_be_started_is_told(served: Served, body: Any, told: str) -> None:
    """With what is wrong, and nothing is started."""
    before = len(served.get("/api/jobs").json())
    refused = served.post("/api/runs", body)
    assert refused.status_code == 422, refused.text
    assert told in refused.text
    assert len(served.get("/api/jobs").json()) == before


def test_what_is_not_there_is_not_found(served: Served) -> None:
    """Evaluations by an unknown id, and the report of one that was not traced."""
    assert served.get("/api/evaluations/ffff").status_code == 404
    assert served.get("/api/comparisons", before=FAST, after="ffff").status_code == 404
    untraced = served.get(f"/api/evaluations/{SLOW}/report")
    assert untraced.status_code == 422
    assert "was not traced" in untraced.json()["detail"]


def test_the_server_refuses_other_names_and_origins(served: Served) -> None:
    """As it is started by default, on a real connection."""
    refused = httpx.get(f"{served.url}/", headers={"host": "evil.example"})
    assert refused.status_code == 403
    start = {"origin": "http://evil.example"}
    assert httpx.post(f"{served.url}/api/runs", json={}, headers=start).status_code == 403


def test_a_port_that_is_taken_is_told(served: Served, tmp_path: Path) -> None:
    """In one sentence that names it."""
    port = served.url.rpartition(":")[2]
    options = ["serve", str(tmp_path), "--port", port, "--database", str(tmp_path / "db")]
    result = CliRunner().invoke(app, options)
    assert "another program listens there" in str(result.exception)


def test_a_token_is_made_for_other_machines() -> None:
    """None is needed on this machine alone; one that is given counts everywhere."""
    assert Address().rules().token is None
    made = Address("0.0.0.0").rules().token
    assert made is not None
    assert len(made) >= 32
    assert made != Address("0.0.0.0").rules().token
    assert Address(token="mine").rules().token == "mine"
