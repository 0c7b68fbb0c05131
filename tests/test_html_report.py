"""The HTML report, opened in the browser that a reader would use."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
import torch
from browser import CHROMIUM, Tab, chromium
from captures import HOSTILE_LAYER, gpu_profile, wide_profile
from torch import nn
from typer.testing import CliRunner

import xsp
from xsp import analysis
from xsp.cli.application import app
from xsp.report.page import report_html
from xsp.report.sheet_data import script_json

CAPTURE = Path(__file__).parent.parent / "examples" / "captures" / "h100_resnet50.xsp"
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on PATH")

HOSTILE = "</script><img src=http://example.com/x onerror=window.hacked=1>&\"'\u2028"
LIBRARIES = {
    "plotly-cartesian.min.js": "79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a",
    "pako_inflate.min.js": "bbcaa5e569e289b4904c7e12c45b6785bc41745977091d105086a6cbb0faf832",
}
"""sha256 of the files that npm has."""
DRAWN = "Array.from(document.querySelectorAll('figure:not(.empty)'))"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """One browser for all tests of this file."""
    with chromium(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of ResNet-50 on an H100."""
    return xsp.load(CAPTURE).to_html(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def alexnet() -> xsp.Profile:
    """A small capture with all that a report shows."""
    return xsp.load(CAPTURE.parent / "models" / "alexnet.xsp")


@pytest.fixture(scope="module")
def small_page(alexnet: xsp.Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its report."""
    return alexnet.to_html(tmp_path_factory.mktemp("report") / "small.html")


def opened(tab: Tab, page: Path) -> Tab:
    """The tab with this page and no messages of earlier ones; tall enough for everything to be near
    the window.
    """
    tab.errors.clear()
    tab.requests.clear()
    tab.open(page)
    height = tab.evaluate("document.documentElement.scrollHeight")
    tab.call(
        "Emulation.setDeviceMetricsOverride",
        width=1400,
        height=height,
        deviceScaleFactor=1,
        mobile=False,
    )
    tab.wait("document.documentElement.dataset.read === 'yes'")
    tab.wait(
        "Array.from(document.querySelectorAll('.sheet')).every((sheet) => "
        "sheet.querySelector('tbody tr'))"
    )
    tab.wait(f"{DRAWN}.every((figure) => figure.querySelector('svg.main-svg'))")
    return tab


def at_top(tab: Tab, page: Path, width: int = 1280, height: int = 900) -> Tab:
    """The tab with this page as a reader sees it first: only what is near the window is drawn."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    tab.call("Emulation.setDeviceMetricsOverride", **size)
    tab.open(page)
    tab.wait("document.documentElement.dataset.read === 'yes'")
    tab.evaluate("document.querySelector('.stack').scrollIntoView()")
    tab.wait("document.querySelector('.stack-node') !== null")
    return tab


def column(tab: Tab, sheet: str, head: str) -> list[str]:
    """Cells of a table's column as shown."""
    result: list[str] = tab.evaluate(
        f"""(() => {{
            const sheet = document.getElementById({sheet!r});
            const heads = Array.from(sheet.querySelectorAll("th"), (cell) => cell.textContent);
            const rows = Array.from(sheet.querySelectorAll("tbody tr:not(.space)"));
            return rows.map((row) => row.cells[heads.indexOf({head!r})].textContent);
        }})()"""
    )
    return result


def click(tab: Tab, sheet: str, head: str) -> None:
    """Click a table's heading."""
    tab.evaluate(
        f"Array.from(document.querySelectorAll('#{sheet} th button')).find((b) => b.textContent "
        f"=== {head!r}).click()"
    )


def search(tab: Tab, sheet: str, words: str) -> str:
    """Type into a table's search; returns what it says it found."""
    result: str = tab.evaluate(
        f"""(() => {{
            const input = document.querySelector("#{sheet} input");
            input.value = {words!r};
            input.dispatchEvent(new Event("input"));
            return document.querySelector("#{sheet} output").textContent;
        }})()"""
    )
    return result


@in_browser
def test_page_draws_everything_without_errors_or_network(tab: Tab, page: Path) -> None:
    """All figures and tables appear, nothing is written to the console, and only the page itself is
    loaded.
    """
    opened(tab, page)
    assert tab.evaluate(f"{DRAWN}.length") >= 11
    assert tab.evaluate("document.querySelectorAll('.sheet').length") >= 10
    assert tab.evaluate(
        f"{DRAWN}.every((f) => f.querySelectorAll('path.point, g.slice, path.surface, "
        ".point').length)"
    )
    assert tab.errors == []
    assert [address for address in tab.requests if not address.startswith(("data:", "blob:"))] == [
        page.as_uri()
    ]


@in_browser
def test_network_is_forbidden_to_the_page(tab: Tab, page: Path) -> None:
    """The page's own policy stops a script in it from loading anything."""
    opened(tab, page)
    refused = tab.evaluate(
        "fetch('http://127.0.0.1:9/').then(() => 'loaded', (error) => error.name)"
    )
    assert refused == "TypeError"
    assert any("Content Security Policy" in error for error in tab.errors)


@in_browser
def test_tables_show_the_analyses(tab: Tab, page: Path) -> None:
    """A table's cells are the values of its analysis, in its order."""
    opened(tab, page)
    expected = analysis.layer_information(xsp.load(CAPTURE))
    shown = column(tab, "layer-information", "layer")
    assert shown == expected["name"].tolist()[: len(shown)]
    assert column(tab, "layer-information", "latency ms")[0] == f"{expected['latency_ms'][0]:.4f}"
    assert f"{len(expected)} rows" in tab.evaluate(
        "document.querySelector('#layer-information output').textContent"
    )


@in_browser
def test_tables_sort(tab: Tab, page: Path) -> None:
    """A heading sorts from the largest, then from the smallest, then as before; texts
    alphabetically.
    """
    opened(tab, page)
    before = column(tab, "layer-information", "layer")
    latencies = analysis.layer_information(xsp.load(CAPTURE))["latency_ms"]
    for order in (False, True):
        click(tab, "layer-information", "latency ms")
        shown = [float(cell.lstrip("<")) for cell in column(tab, "layer-information", "latency ms")]
        expected = sorted(latencies, reverse=not order)[: len(shown)]
        assert shown == pytest.approx(expected, abs=1e-4)
    click(tab, "layer-information", "latency ms")
    assert column(tab, "layer-information", "layer") == before
    click(tab, "layer-information", "type")
    kinds = column(tab, "layer-information", "type")
    assert kinds == sorted(kinds, key=str.lower)


@in_browser
def test_tables_search_all_words_also_in_full_names(tab: Tab, page: Path) -> None:
    """The search keeps the rows in which every word occurs, and finds what the shown name leaves
    out.
    """
    opened(tab, page)
    names = analysis.kernel_information(xsp.load(CAPTURE))[["name", "layer"]]
    wanted = names["name"].str.contains("at::native", regex=False) & names["layer"].str.contains(
        "layer1.0"
    )
    assert 0 < wanted.sum() < len(names)
    assert (
        search(tab, "kernel-information", "AT::native layer1.0")
        == f"{wanted.sum()} of {len(names)} rows"
    )
    assert len(column(tab, "kernel-information", "kernel")) == min(wanted.sum(), 32)
    assert search(tab, "kernel-information", "no such kernel").startswith("0 of")
    assert search(tab, "kernel-information", "") == f"{len(names)} rows"


@in_browser
def test_long_tables_keep_few_rows_in_the_page(tab: Tab, tmp_path: Path) -> None:
    """A table of 3,000 rows keeps few of them in the page, also sorted, and scrolls to its end."""
    opened(tab, wide_profile(3000).to_html(tmp_path / "wide.html"))
    assert tab.evaluate("document.querySelectorAll('#layer-information tbody tr').length") < 60
    tab.evaluate("document.querySelectorAll('#layer-information th button')[1].click()")
    assert column(tab, "layer-information", "layer")[:3] == ["fc0", "fc1", "fc10"]
    tab.evaluate("document.querySelector('#layer-information .scroll').scrollTop = 1e9")
    tab.wait("document.querySelector('#layer-information tbody').textContent.includes('fc999')")


@in_browser
def test_dark_and_light_follow_the_system(tab: Tab, page: Path) -> None:
    """Page and figures take the colours that the system asks for, also when it changes its mind."""
    background = "getComputedStyle(document.body).backgroundColor"
    text = "getComputedStyle(document.querySelector('#figure-layer_latency .ytitle')).fill"
    opened(tab, page)
    try:
        seen = []
        for wanted in (False, True):
            tab.dark(wanted)
            tab.wait(
                f"matchMedia('(prefers-color-scheme: dark)').matches === {str(wanted).lower()}"
            )
            tab.wait(f"{text} === '{'rgb(230, 232, 235)' if wanted else 'rgb(31, 35, 40)'}'")
            seen.append(tab.evaluate(background))
        assert seen == ["rgb(255, 255, 255)", "rgb(21, 24, 28)"]
    finally:
        tab.dark(False)


@in_browser
def test_hostile_names_are_text(tab: Tab, tmp_path: Path) -> None:
    """Names, warnings and environment with markup in them are shown as they are and never
    executed.
    """
    prof = gpu_profile(
        name=HOSTILE, warnings=[HOSTILE], environment={"gpu": HOSTILE, "torch": "2.11"}
    )
    opened(tab, prof.to_html(tmp_path / "hostile.html"))
    assert tab.evaluate("window.hacked") is None
    assert tab.evaluate("document.images.length") == 0
    assert tab.evaluate("document.querySelector('h1').textContent") == HOSTILE.replace(
        "\u2028", "\\u2028"
    )
    assert HOSTILE_LAYER in column(tab, "layer-information", "layer")
    ticks = tab.evaluate(
        "Array.from(document.querySelectorAll('#figure-layer_latency .xtick text'), (t) => "
        "t.textContent)"
    )
    assert HOSTILE_LAYER in ticks
    assert tab.errors == []
    assert len(tab.requests) == 1


@in_browser
def test_page_of_a_model_on_the_cpu(tab: Tab, tmp_path: Path) -> None:
    """Without a GPU the page opens without errors; figures of kernels say why they are empty."""
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    prof = xsp.measure(model, torch.randn(16, 32), iterations=5)
    opened(tab, prof.to_html(tmp_path / "cpu.html"))
    assert "NVIDIA GPU" in tab.evaluate(
        "document.querySelector('#figure-kernel_roofline').textContent"
    )
    assert "the host" in tab.evaluate("document.querySelector('#summary dd').textContent")
    assert tab.errors == []


ACTIVE = "document.activeElement"


@in_browser
def test_few_tab_stops_stand_before_the_first_table(tab: Tab, page: Path) -> None:
    """The keyboard comes to the stack first, then to the first table: its search, its rows, and its
    headings, which are one stop.
    """
    at_top(tab, page)
    tab.evaluate("document.querySelector('#layer-information').scrollIntoView()")
    tab.wait("document.querySelector('#layer-information th') !== null")
    tab.evaluate("document.querySelector('h1').tabIndex = -1; document.querySelector('h1').focus()")
    seen = []
    for _ in range(4):
        tab.press("Tab")
        seen.append(tab.evaluate(f"{ACTIVE}.className || {ACTIVE}.tagName.toLowerCase()"))
    assert seen == ["stack-nodes", "input", "scroll", "button"]
    tab.evaluate("document.querySelector('#layer-information th button').focus()")
    tab.press("ArrowRight", 4)
    focused = tab.evaluate(f"{ACTIVE}.textContent")
    assert focused == tab.evaluate(
        "document.querySelectorAll('#layer-information th')[4].textContent"
    )


@in_browser
def test_the_stack_is_walked_by_keys(tab: Tab, page: Path) -> None:
    """Arrows go to the costliest child and to siblings, Enter opens a node, Escape goes back; what
    is said of a node are the numbers of the tree.
    """
    at_top(tab, page)
    tab.evaluate("document.querySelector('.stack-nodes').focus()")
    said = "document.querySelector('.stack output').textContent"
    bars = "document.querySelectorAll('.stack-node').length"
    whole = tab.evaluate(bars)
    tab.press("ArrowDown")
    tree = xsp.load(CAPTURE).tree()
    below = tree[(tree["parent"] == 0) & (tree["level"] != "OWN")]
    first = below.nlargest(1, "latency_ms").iloc[0]
    assert tab.evaluate(said).startswith(f"{first['name']}: {first['latency_ms']:.4f} ms")
    tab.press("ArrowLeft")
    assert not tab.evaluate(said).startswith(f"{first['name']}:")
    tab.press("ArrowRight")
    tab.press("Enter")
    assert tab.evaluate(bars) != whole
    active = "document.querySelector('.stack-nodes').getAttribute('aria-activedescendant')"
    label = f"document.getElementById({active}).getAttribute('aria-label')"
    assert tab.evaluate(label).startswith(f"{first['name']}: ")
    tab.press("Escape")
    assert tab.evaluate(bars) == whole


@in_browser
def test_the_hierarchy_folds_by_keys(tab: Tab, page: Path) -> None:
    """It is a tree grid: rows have levels, one of them is a tab stop, arrows move and fold."""
    at_top(tab, page)
    tab.evaluate("document.querySelector('.tree').scrollIntoView()")
    tab.wait("document.querySelector('.tree tbody tr') !== null")
    rows = "document.querySelectorAll('.tree tbody tr[data-at]')"
    tab.evaluate("document.querySelector('.tree [data-do=fold]').click()")
    assert tab.evaluate(f"{rows}.length") == 1 + len(direct_children())
    assert tab.evaluate("document.querySelectorAll('.tree tbody tr[tabindex=\"0\"]').length") == 1
    tab.evaluate(f"{rows}[0].focus()")
    tab.press("ArrowLeft")
    assert tab.evaluate(f"{rows}.length") == 1
    tab.press("ArrowRight")
    tab.press("ArrowDown")
    name = tab.evaluate(f"{ACTIVE}.cells[0].textContent")
    assert name.endswith(direct_children()[0])
    assert tab.evaluate(f"{ACTIVE}.getAttribute('aria-level')") == "2"


def direct_children() -> list[str]:
    """Names of the rows below the model."""
    tree = xsp.load(CAPTURE).tree()
    return [str(name) for name in tree.loc[tree["parent"] == 0, "name"]]


@in_browser
def test_paper_has_every_row(tab: Tab, page: Path) -> None:
    """While it is printed a page has all rows of all tables, and afterwards few again."""
    at_top(tab, page)
    sheet = "document.querySelectorAll('#kernel-information tbody tr:not(.space)').length"
    tree = "document.querySelectorAll('.tree tbody tr[data-at]').length"
    prof = xsp.load(CAPTURE)
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate(sheet) == len(analysis.kernel_information(prof))
    assert tab.evaluate(tree) == len(prof.tree())
    assert tab.evaluate("Boolean(document.querySelector('#figure-layer_metrics svg'))")
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert 0 < tab.evaluate(sheet) < 60


@in_browser
def test_a_pdf_has_every_row(tab: Tab, alexnet: xsp.Profile, small_page: Path) -> None:
    """The file that a browser prints has each row that its tables have, and a page whose tables
    were not read yet says so on paper.
    """
    at_top(tab, small_page)
    rows = (
        "Object.fromEntries([...document.querySelectorAll('table')].map((table) =>"
        " [table.closest('[id]').id, table.querySelectorAll('tr:not(.space)').length]))"
    )
    tab.evaluate(f"window.addEventListener('beforeprint', () => {{ window.printed = {rows} }})")
    pdf = tab.pdf()
    printed = tab.evaluate("window.printed")
    assert len(re.findall(rb"/S /TR\b", pdf)) == sum(printed.values())
    # One row more is the head.
    assert printed["kernel-information"] == 1 + len(analysis.kernel_information(alexnet))
    assert printed["hierarchy"] == 1 + len(alexnet.tree())

    said = "getComputedStyle(document.body, '::before').content"
    tab.call("Emulation.setEmulatedMedia", media="print")
    assert tab.evaluate(said) == "none"
    tab.evaluate("delete document.documentElement.dataset.read")
    assert "rows are missing" in tab.evaluate(said)
    tab.call("Emulation.setEmulatedMedia", media="")


@in_browser
def test_what_is_printed_at_once_has_every_row(tab: Tab, small_page: Path) -> None:
    """Printed as soon as it is open, a page has the rows and texts that it has once it was read."""
    cells = "[...document.querySelectorAll('td')].map((cell) => cell.textContent).join('|')"
    keep = f"window.addEventListener('beforeprint', () => {{ window.printed = {cells} }})"
    opened(tab, small_page)
    tab.evaluate(keep)
    tab.pdf()
    printed_later = tab.evaluate("window.printed")
    tab.open(small_page)
    tab.evaluate(keep)
    tab.pdf()
    assert tab.evaluate("window.printed") == printed_later


@in_browser
def test_axe_finds_nothing(tab: Tab, small_page: Path) -> None:
    """axe-core, which knows what readers with a screen reader or a keyboard cannot use, finds
    nothing in the report, light or dark.
    """
    opened(tab, small_page)
    assert axe(tab) == []
    try:
        tab.dark()
        tab.wait("matchMedia('(prefers-color-scheme: dark)').matches")
        assert axe(tab) == []
    finally:
        tab.dark(False)


def axe(tab: Tab) -> list[str]:
    """Rules that the page breaks, each with an element that does."""
    source = resources.files("axe_playwright_python").joinpath("axe.min.js")
    tab.evaluate(source.read_text(encoding="utf-8") + ";0")
    found = tab.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then((done) => done.violations.map("
        "(each) => each.id + ': ' + each.nodes[0].html.slice(0, 200)))"
    )
    return [str(each) for each in found]


@in_browser
def test_the_page_fits_a_phone(tab: Tab, page: Path) -> None:
    """On a window of 390 pixels only tables and figures scroll sideways, not the page."""
    at_top(tab, page, 390, 844)
    tab.wait("innerWidth <= 390 && document.documentElement.scrollWidth <= 390")


@pytest.mark.parametrize("name", ["resnet50", "transformer", "train_step"])
def test_the_page_is_small(name: str, profiles: dict[str, xsp.Profile]) -> None:
    """The page of each bundled capture is less than 2.2 MB, plotly.js included."""
    assert len(report_html(profiles[name]).encode()) < 2_200_000


@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries_of_the_page_are_those_published(name: str) -> None:
    """The copies of plotly.js and pako in the package are the files that their makers publish, with
    their licences beside them.
    """
    folder = resources.files("xsp.report.vendor")
    assert hashlib.sha256(folder.joinpath(name).read_bytes()).hexdigest() == LIBRARIES[name]
    licence = re.split("[-_]", name)[0] + ".LICENSE"
    assert "MIT" in folder.joinpath(licence).read_text(encoding="utf-8")


def test_environment_is_in_words() -> None:
    """Lists and named numbers of the environment are not shown as Python writes them."""
    facts = {
        "cpu_flags": ["sse2", "fma"],
        "measured_peaks": {"dram_bytes_per_s": 3038172725216.944},
        "more": {"<b>": [1]},
    }
    page = report_html(gpu_profile(environment=facts))
    assert "<dt>cpu flags</dt><dd>sse2, fma</dd>" in page
    assert "<dd>dram bytes per s 3.03817e+12</dd>" in page
    assert "<dd>&lt;b&gt; 1</dd>" in page


def test_page_refers_to_nothing(page: Path) -> None:
    """No element of the page has an address outside of it, and a policy forbids loading any."""
    text = page.read_text(encoding="utf-8")
    without_scripts = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(
        r"""(src|href)\s*=\s*["']?(?!["']?#)""", re.sub(r"<script.*?</script>", "", without_scripts)
    )
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in text


def test_json_cannot_end_its_script_element() -> None:
    """JSON in the page has none of the characters that HTML reads in scripts, and is still the same
    JSON.
    """
    written = script_json({"name": HOSTILE})
    assert not set("<>&\u2028") & set(written)
    assert eval(written) == {"name": HOSTILE}


def test_command_writes_the_page(tmp_path: Path) -> None:
    """`xsp report --html` writes the page and says where; a directory that is not there is a clear
    error.
    """
    target = tmp_path / "out.html"
    outcome = CliRunner().invoke(app, ["report", str(CAPTURE), "--html", str(target)])
    assert outcome.exit_code == 0
    assert outcome.output.strip() == str(target)
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(xsp.XspError, match="no directory"):
        xsp.load(CAPTURE).to_html(tmp_path / "missing" / "out.html")
