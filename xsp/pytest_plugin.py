"""The pytest plugin: fixture and marker `xsp`, the options `--xsp-…`, and the summary.
docs/pytest.md is its manual.

It is loaded in every test run of an environment that has xsp, so it imports nothing that takes
time: torch is imported when a test measures something.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from xsp.errors import XspError
from xsp.regression.fixture import Measurer, Name
from xsp.regression.options import CHOICES, MAIN, Options
from xsp.regression.outcome import Outcome
from xsp.regression.plan import Plan
from xsp.words.labels import printable

_MARKER = (
    "xsp(**options): options of the fixture `xsp` for this test: those of xsp.measure, such as "
    "levels='M/L'; "
    "max_slowdown, metric ('latency' or 'device') and patience_s; budgets such as latency_ms or "
    "kernels"
)
_REPORTED = "xsp_outcomes"
"""The attribute of a test's report by which its outcomes travel, also from the workers of xdist."""

_options: pytest.StashKey[Options] = pytest.StashKey()
_measurer: pytest.StashKey[Measurer] = pytest.StashKey()
_passed: pytest.StashKey[bool] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options, all of which begin with `--xsp-`."""
    group = parser.getgroup("xsp", "xsp: performance regressions of PyTorch code")
    named: dict[str, Any] = {"nargs": "?", "const": MAIN, "default": None, "metavar": "NAME"}
    group.addoption(
        "--xsp-save", **named, help=f"save what is measured as baseline NAME, {MAIN!r} by default"
    )
    group.addoption(
        "--xsp-compare",
        **named,
        help=f"compare with baseline NAME; without this option with {MAIN!r} if there is one",
    )
    group.addoption(
        "--xsp-add",
        **named,
        help="measure the same program once more for baseline NAME: how much do processes differ?",
    )
    group.addoption(
        "--xsp-update", action="store_true", help="compare, then accept and save what was measured"
    )
    group.addoption(
        "--xsp-fail",
        action="append",
        default=[],
        metavar="RULES",
        help=f"what else fails a test, separated by commas: {CHOICES.replace('%', '%%')}",
    )
    group.addoption(
        "--xsp-html", default=None, metavar="PATH", help="write the summary as an HTML page"
    )
    group.addoption(
        "--xsp-md",
        nargs="?",
        const="",
        default=None,
        metavar="PATH",
        help="write the summary as Markdown; without PATH to $GITHUB_STEP_SUMMARY, or to "
        "xsp-summary.md",
    )
    group.addoption(
        "--xsp-disable",
        action="store_true",
        help="run each target for one round: no timing, budgets or baselines",
    )
    parser.addini(
        "xsp_baselines",
        "folder of the baselines, relative to the root folder",
        default=".xsp/baselines",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Checks the options before anything is collected."""
    config.addinivalue_line("markers", _MARKER)
    named = config.option.xsp_compare
    try:
        options = Options.of(config.option)
        if named not in {None, MAIN} and not options.disable:
            from xsp.regression.baselines import Baselines

            Baselines(_folder(config), named).require()
        if not hasattr(config, "workerinput"):
            _check_targets(config, options)
            config.pluginmanager.register(_Summary(config), "xsp-summary")
    except XspError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[_options] = options


def _check_targets(config: pytest.Config, options: Options) -> None:
    """Raises WriteError for what could not be written after the tests."""
    pages = config.option.xsp_html, config.option.xsp_md
    if pages != (None, None):
        from xsp.regression.summary import check_targets

        check_targets(*pages)
    if options.save is not None and not options.disable:
        from xsp.capture.writing import writable_folder

        writable_folder(_folder(config) / options.save)


def _folder(config: pytest.Config) -> Path:
    return config.rootpath / str(config.getini("xsp_baselines"))


@pytest.fixture
def xsp(request: pytest.FixtureRequest) -> Iterator[Measurer]:
    """Measures a model or function and compares it with the baseline of this test."""
    node = request.node
    measurer = Measurer(
        _name(node),
        _marked(node),
        node.config.stash[_options],
        _folder(node.config),
        _fail,
        partial(_tell, node.config),
    )
    node.stash[_measurer] = measurer
    yield measurer
    if node.stash.get(_passed, False):
        measurer.save()


def _marked(node: pytest.Item) -> list[dict[str, Any]]:
    """Options of the markers on module, class and test, the nearest last."""
    marks = list(node.iter_markers("xsp"))[::-1]
    try:
        Plan.of(*(mark.kwargs for mark in marks))
    except XspError as error:
        raise pytest.UsageError(f"@pytest.mark.xsp of {node.nodeid}: {error}") from None
    if any(mark.args for mark in marks):
        raise pytest.UsageError(
            f"@pytest.mark.xsp of {node.nodeid} has an option without a name; write name=value"
        )
    return [dict(mark.kwargs) for mark in marks]


def _fail(message: str) -> None:
    pytest.fail(message, pytrace=False)


def _tell(config: pytest.Config, line: str) -> None:
    """Write a line past pytest's capture; in a worker of xdist, and with -q, to nobody."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None or config.option.verbose < 0 or hasattr(config, "workerinput"):
        return
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        reporter.ensure_newline()
        reporter.write_line(f"xsp: {printable(line)}")


def _name(node: pytest.Item) -> Name:
    """The test's name, not from the node's id, to which xdist adds a group."""
    path, root = node.path, node.config.rootpath
    file = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    chain = [each for each in node.listchain() if isinstance(each, pytest.Class | pytest.Function)]
    return Name(file, tuple(each.name for each in chain))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Remembers whether the test passed, and puts its outcomes on its last report."""
    report = (yield).get_result()
    measurer = item.stash.get(_measurer, None)
    if measurer is None:
        return
    if report.when == "call":
        item.stash[_passed] = report.passed
    elif report.when == "teardown":
        setattr(report, _REPORTED, [outcome.to_dict() for outcome in measurer.outcomes])


class _Summary:
    """Collects the outcomes of all processes, shows them and writes them to files."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._outcomes: list[Outcome] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._outcomes += [Outcome.from_dict(values) for values in getattr(report, _REPORTED, [])]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        from xsp.regression.summary import terminal_lines, write_pages

        pages = (self._config.option.xsp_html, self._config.option.xsp_md)
        if not self._outcomes and pages == (None, None):
            return
        terminalreporter.section("xsp")
        for line in terminal_lines(self._outcomes):
            terminalreporter.line(line)
        try:
            for line in write_pages(self._outcomes, *pages):
                terminalreporter.line(line)
        except XspError as error:
            terminalreporter.line(str(error), red=True)
