"""The outcomes of a test run as lines for a terminal and as GitHub-flavoured Markdown."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

from xsp.capture.writing import append_text, writable, writable_folder
from xsp.capture.writing import write_file as file_written
from xsp.errors import WriteError
from xsp.regression.outcome import Outcome, State
from xsp.words.labels import escape_markdown as markdown_text
from xsp.words.labels import printable

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem;
  color: #1c1e21 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid #d8dbe0;
  vertical-align: top }
td:first-child { overflow-wrap: anywhere }
tr.failed td { background: #fdecea }
pre { background: #f4f5f7; padding: .7rem; overflow-x: auto }
summary { cursor: pointer; font-family: ui-monospace, monospace }
@media (prefers-color-scheme: dark) {
  body { background: #17181a; color: #e6e7e9 } th, td { border-color: #3a3d42 }
  tr.failed td { background: #46211f } pre { background: #222428 }
}
"""


def page(outcomes: Sequence[Outcome]) -> str:
    """The page's text. Names of tests and layers are escaped: they come from any program."""
    title = f"xsp: {count_states(outcomes)}"
    head = "".join(f"<th>{escape(heading)}</th>" for heading in HEADINGS)
    rows = "".join(map(_html_row, outcomes))
    facts = [*explanations(outcomes), *(f"measured on {machine}" for machine in machines(outcomes))]
    said = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><ul>{said}</ul>"
        f"{''.join(map(_html_details, outcomes))}</body></html>\n"
    )


def _html_row(outcome: Outcome) -> str:
    kind = ' class="failed"' if outcome.failures else ""
    return f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(outcome))}</tr>"


def _html_details(outcome: Outcome) -> str:
    if not (said := details(outcome)):
        return ""
    opened = " open" if outcome.failures else ""
    text, test = escape("\n".join(said)), escape(printable(outcome.test))
    return f"<details{opened}><summary>{test}</summary><pre>{text}</pre></details>"


def write_pages(outcomes: Sequence[Outcome], html: str | None, md: str | None) -> list[str]:
    """Write the pages that were asked for; returns a sentence for each. Raises XspError where one
    cannot be written.
    """
    said = []
    if html is not None:
        said.append(_to_file(Path(html), page(outcomes), append=False))
    if md is not None:
        # GitHub shows what all commands of a step have written there, one after the other.
        append = not md and bool(_step_summary())
        said.append(_to_file(_markdown_file(md), to_markdown(outcomes), append=append))
    return said


def check_targets(html: str | None, md: str | None) -> None:
    """Raises WriteError for a page that cannot be written: asked before tests that take minutes.

    A folder that is missing is made when the page is written.
    """
    pages = (None if html is None else Path(html), None if md is None else _markdown_file(md))
    for path in pages:
        if path is not None and path.parent.is_dir():
            writable(path)
        elif path is not None:
            writable_folder(path.parent)


def _step_summary() -> str:
    return os.environ.get("GITHUB_STEP_SUMMARY", "")


def _markdown_file(md: str) -> Path:
    return Path(md or _step_summary() or "xsp-summary.md")


def _to_file(path: Path, text: str, *, append: bool) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"the summary's folder {str(path.parent)!r} cannot be made: {error}; name another file"
        ) from error
    if append:
        append_text(path, text)
    else:
        file_written(path, text.encode())
    return f"summary written to {path}"


LONGEST_COMMENT = 60_000
"""Characters; GitHub refuses a comment of more than 65,536."""

_QUIET = (State.SAME, State.COUNTED, State.NEW, State.RECORDED, State.DISABLED)
"""States that are explained once for all tests."""
_UNKNOWN = "–"
HEADINGS = ("test", "state", "time ms", "baseline ms", "ratio (95 %)", "rounds")


def count_states(outcomes: Sequence[Outcome]) -> str:
    """`1 regression, 2 same`, those that need attention first, with the number of tests that
    failed.
    """
    numbers = Counter(outcome.state for outcome in outcomes)
    parts = [f"{numbers[state]} {state}" for state in State if numbers[state]]
    failed = sum(bool(outcome.failures) for outcome in outcomes)
    if failed:
        parts.append(f"{failed} failed")
    return ", ".join(parts) or "nothing measured"


def cells(outcome: Outcome) -> tuple[str, ...]:
    """One row under HEADINGS."""
    half = "" if outcome.time_ci_ms is None else f" ±{outcome.time_ci_ms:.3f}"
    time = _UNKNOWN if outcome.time_ms is None else f"{outcome.time_ms:.3f}{half}"
    before = _UNKNOWN if outcome.baseline_ms is None else f"{outcome.baseline_ms:.3f}"
    state = f"{outcome.state}, failed" if outcome.failures else str(outcome.state)
    kind = "" if outcome.metric == "latency" or outcome.time_ms is None else f" ({outcome.metric})"
    return (
        printable(outcome.test),
        state,
        time + kind,
        before,
        _ratio(outcome),
        str(outcome.rounds or _UNKNOWN),
    )


def _ratio(outcome: Outcome) -> str:
    if outcome.ratio is None or outcome.low is None or outcome.high is None:
        return _UNKNOWN
    return f"{outcome.ratio:.3f} ({outcome.low:.3f} to {outcome.high:.3f})"


def machines(outcomes: Sequence[Outcome]) -> list[str]:
    """The machines that were measured on, each once."""
    return list(dict.fromkeys(outcome.machine for outcome in outcomes if outcome.machine))


def explanations(outcomes: Sequence[Outcome]) -> list[str]:
    """What the states mean that are there, and what to do about them."""
    present = {outcome.state for outcome in outcomes}
    lines = []
    for state in State:
        if state in present:
            way_out = f"; {state.value.way_out}" if state.value.way_out else ""
            lines.append(f"{state}: {state.value.meaning}{way_out}")
    return [*lines, *_without_baseline(outcomes)]


def _without_baseline(outcomes: Sequence[Outcome]) -> list[str]:
    """How many measurements passed because there was nothing to compare them with."""
    new = sum(outcome.state == State.NEW for outcome in outcomes)
    if not new:
        return []
    had = "had no baseline and was" if new == 1 else "had no baseline and were"
    return [
        f"{new} of {len(outcomes)} measurements {had} compared with nothing; --xsp-fail=new makes "
        "that a failure"
    ]


def terminal_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """The table, what is to be said about single tests, and the numbers of tests by state."""
    if not outcomes:
        return []
    rows = [HEADINGS, *map(cells, outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    for outcome in outcomes:
        noted = (
            []
            if outcome.failures or outcome.state in _QUIET
            else f"{outcome.test}: {outcome.notes[0]}".split("\n")
        )
        lines += [*noted, *(f"{outcome.test}: {sentence}" for sentence in outcome.unchecked)]
    lines += [f"measured on {machine}" for machine in machines(outcomes)]
    lines += explanations(outcomes)
    saved = [outcome.saved for outcome in outcomes if outcome.saved]
    if saved:
        noun = "baseline" if len(saved) == 1 else "baselines"
        lines.append(
            f"saved {len(saved)} {noun} in "
            f"{os.path.commonpath([str(Path(path).parent) for path in saved])}"
        )
    return [*map(printable, lines), count_states(outcomes)]


def to_markdown(outcomes: Sequence[Outcome]) -> str:
    """A heading, a table, and foldable details, as GitHub shows them in a job's summary or a
    comment; details that would make it longer than a comment can be are left out and counted, those
    of tests that failed last.
    """
    lines = [f"### xsp: {count_states(outcomes)}", ""]
    if outcomes:
        lines += [_row(HEADINGS), _row(["---"] * len(HEADINGS))]
        lines += [_row([_code(test), *rest]) for test, *rest in map(cells, outcomes)]
        lines += ["", *(f"- {line}" for line in explanations(outcomes))]
        lines += [f"- measured on {_escaped(machine)}" for machine in machines(outcomes)]
    text = "\n".join(lines) + "\n"
    folded = [each for each in map(_folded, sorted(outcomes, key=_is_green)) if each]
    for place, each in enumerate(folded):
        if len(text) + len(each) > LONGEST_COMMENT:
            left = len(folded) - place
            return f"{text}\nDetails of {left} tests are left out: see the job's log.\n"
        text += each
    return text


def _is_green(outcome: Outcome) -> bool:
    return not outcome.failures


def _folded(outcome: Outcome) -> str:
    """The details of one test, folded unless it failed; empty where there is nothing to say."""
    if not (said := details(outcome)):
        return ""
    opened = " open" if outcome.failures else ""
    fence = "`" * (3 + _ticks(*said))
    head = f"<details{opened}><summary>{_escaped(outcome.test)}</summary>"
    return "\n".join(["", head, "", f"{fence}text", *said, fence, "", "</details>", ""])


def details(outcome: Outcome) -> list[str]:
    """All that is said about one test: failures, then notes."""
    said = (*outcome.failures, *outcome.notes, *outcome.unchecked, *outcome.kept)
    return [line for text in said for line in _lines(text)]


def _lines(text: str) -> list[str]:
    """Its lines, with nothing in them that a terminal or a page would obey."""
    return [printable(line) for line in text.split("\n")]


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _code(text: str) -> str:
    """Code in a cell of a table. Backticks inside need more of them outside, and spaces that are
    not shown.
    """
    ticks = "`" * (_ticks(text) + 1)
    space = " " * (len(ticks) > 1)
    escaped = printable(text).replace("|", "\\|")
    return f"{ticks}{space}{escaped}{space}{ticks}"


def _ticks(*texts: str) -> int:
    """Length of the longest row of backticks in any of the texts."""
    return max((len(row) for text in texts for row in re.findall("`+", text)), default=0)


def _escaped(text: str) -> str:
    return markdown_text(text)
