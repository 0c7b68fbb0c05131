"""What people look at: text and notebook rendering."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from captures import HOSTILE_LAYER, gpu_capture, gpu_profile, profile_without, wide_profile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xsp import Profile
from xsp.report.notebook import ROWS, profile_html
from xsp.report.text import profile_text
from xsp.words import numbers
from xsp.words.fold import fold_rows
from xsp.words.labels import kernel_name, shapes

_VOID = {"br", "hr", "img", "input", "link", "meta"}


def _row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(name))


def test_text_states_latency_busy_time_and_counts() -> None:
    """The header gives latency with its interval, GPU-busy time with its share, and what one run
    executes.
    """
    text = profile_text(gpu_profile(), width=100)
    assert re.search(r"latency +1\.000 ms ±0\.\d+ unprofiled.*3 rounds", text)
    assert "0.560 ms, 56.0% of the latency" in text
    assert "5 kernels" in text
    assert "2 library calls" in text
    assert "350 ns" in text


def test_text_rows_carry_the_numbers_of_the_tree() -> None:
    """A row has the host's time in the layer, the GPU's time for it, and what it costs the latency:
    0.300 ms of kernels and 0.200 in which the GPU waited for the layer, of 0.900.
    """
    row = _row(profile_text(gpu_profile(), width=120), "conv ")
    assert row.split()[:4] == ["conv", "Conv2d", "1", "0.300"]
    assert "55.6%" in row
    assert "8×64" in row


@pytest.mark.parametrize("width", [80, 100, 120])
def test_text_fits_its_width_and_is_plain(width: int) -> None:
    """No line is wider than asked for, and none has terminal escapes, whatever the names are."""
    prof = gpu_profile(name="Net\x1b[31m" + "x" * 10, warnings=["word " * 60])
    lines = profile_text(prof, width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("\x1b" in line for line in lines)


def test_text_is_deterministic() -> None:
    """The same profile is the same text."""
    assert profile_text(gpu_profile(), width=100) == profile_text(gpu_profile(), width=100)


def test_unknown_values_are_dashes() -> None:
    """Without kernels, device time and kernel counts are dashes, not 0 or nan, and the share says
    it is host time.
    """
    text = profile_text(profile_without("KERNEL", "no GPU here: get one"), width=100)
    assert re.fullmatch(r"Net +model +1 +1\.000.* – +100\.0% .* –", _row(text, "Net   "))
    assert "nan" not in text
    assert "KERNEL unavailable: no GPU here: get one" in text
    assert "the host's time (no kernels traced)" in " ".join(text.split())


def test_warnings_and_lost_events_are_said() -> None:
    """A profile's doubts are in the header, its lost events in the foot."""
    capture = gpu_capture(warnings=["7 records were lost; counts are too low"])
    capture.tables["runs"].loc[0, "lost"] = 7
    text = profile_text(Profile(capture), width=100)
    assert "warning   7 records were lost" in text
    assert "Events lost: 7" in " ".join(text.split())


def test_backward_layers_are_marked() -> None:
    """A layer's backward pass cannot be mistaken for its forward pass."""
    capture = gpu_capture()
    capture.tables["layers"].loc[2, "phase"] = "backward"
    capture.tables["layers"].loc[2, "forward"] = 2
    text = profile_text(Profile(capture), width=100)
    assert _row(text, "fc (bwd)")
    assert "(bwd): the layer's backward pass" in " ".join(text.split())


def test_many_rows_are_folded_and_counted() -> None:
    """A table of 500 layers is shown in the lines asked for, and says how many it hides."""
    text = profile_text(wide_profile(500), width=100, rows=20)
    lines = [line for line in text.splitlines() if line.strip().startswith("fc")]
    assert len(lines) == 17
    assert "… 483 more" in text


def test_depth_limits_nesting() -> None:
    """With depth 1 only the model and what is directly below it are shown, with their hidden
    children counted.
    """
    text = profile_text(gpu_profile(), width=100, depth=1)
    assert "block … 3 more" in text
    assert not [line for line in text.splitlines() if line.strip().startswith("conv")]


@st.composite
def _trees(draw: st.DrawFn) -> tuple[list[int], list[float]]:
    size = draw(st.integers(1, 60))
    parents = [-1, *(draw(st.integers(0, row - 1)) for row in range(1, size))]
    shares = draw(st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=size, max_size=size))
    return parents, shares


# A busy machine is no failure.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_trees(), st.integers(1, 30))
def test_folding_keeps_the_limit_and_loses_nothing(
    tree: tuple[list[int], list[float]], limit: int
) -> None:
    """Every row is shown once, or counted among the hidden children of the nearest line above;
    lines keep the limit.
    """
    parents, shares = tree
    lines = fold_rows(parents, shares, limit)
    assert len(lines) <= limit
    shown = {line.row for line in lines if line.row >= 0}
    for row in shown:
        hidden = sum(line.hidden for line in lines if row in (line.row, line.parent))
        assert hidden + sum(parents[child] == row for child in shown) == parents.count(row)


def test_numbers_never_pretend() -> None:
    """What is unknown is a dash, and what is small is not written as zero."""
    assert numbers.milliseconds(float("nan")) == "–"
    assert numbers.milliseconds(0.0001) == "<0.001"
    assert numbers.milliseconds(0.0) == "0.000"
    assert numbers.percent(0.0001) == "<0.1%"
    assert numbers.plus_minus(float("nan")) == ""
    assert numbers.count(3, known=False) == "–"


def test_labels_are_short() -> None:
    """Kernel names lose namespaces and template arguments; shapes read as sizes."""
    name = "void at::native::(anonymous namespace)::foo_kernel<float, 4>(int, float*)"
    assert kernel_name(name) == "foo_kernel<…>"
    assert kernel_name("sm90_xmma_gemm_f16") == "sm90_xmma_gemm_f16"
    assert shapes("[[8, 3], [], [1], [2]]") == "8×3, () +2"


class _Page(HTMLParser):
    """Checks that tags nest, and collects names of elements, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.seen = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.seen += data


def test_html_is_well_formed_and_escapes_names() -> None:
    """Names that contain markup are shown, not executed; the only script is xsp's own."""
    page = _Page(
        profile_html(gpu_profile(name="<script>alert(1)</script>", warnings=["<img src=x>"]))
    )
    assert page.tags.count("script") == 1
    assert page.tags.count("style") == 1
    assert "img" not in page.tags
    assert "<script>alert(1)</script>" in page.seen
    assert HOSTILE_LAYER.removeprefix("block.") in page.seen
    assert "<img src=x>" in page.seen


def test_html_loads_nothing() -> None:
    """The page refers to nothing outside itself."""
    page = _Page(profile_html(gpu_profile()))
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert "@import" not in profile_html(gpu_profile())
    assert "url(" not in profile_html(gpu_profile())


def test_html_elements_are_unique() -> None:
    """A profile shown twice in one page has two ids, each used by its own script."""
    prof = gpu_profile()
    pages = [prof._repr_html_() or "" for _ in range(2)]
    ids = [re.findall(r'id="(xsp-\w+)"', page)[0] for page in pages]
    assert ids[0] != ids[1]
    assert ids[0] not in (prof._repr_html_() or "")


def test_html_rows_are_limited() -> None:
    """A hierarchy of thousands of nodes stays a quick page and says that it is cut."""
    html = profile_html(wide_profile(ROWS + 500))
    assert html.count("<tr") <= ROWS + 1
    assert f"The table shows {ROWS} of {ROWS + 502} nodes" in html


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium on PATH")
def test_html_folds_in_a_browser(tmp_path: Path) -> None:
    """In a browser the scripts of two profiles in one page both run, and fold what is small."""
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><meta "
        f"charset=utf-8>{gpu_profile()._repr_html_()}{wide_profile(80)._repr_html_()}"
    )
    options = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        "--disable-sync"
    )
    dumped = subprocess.run(
        [
            "chromium",
            *options.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    ).stdout
    assert dumped.count("xsp-profile xsp-live") == 2
    assert 'aria-expanded="true"' in dumped
