"""The outcomes of a test run as lines for a terminal and as GitHub-flavoured Markdown."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from xsp.regression import outcome as states
from xsp.regression.outcome import MEANINGS, Outcome

_QUIET = (states.SAME, states.ADDED, states.NEW, states.UNCOMPARED, states.DISABLED)
"""States that are explained once for all tests."""
_UNKNOWN = "–"
HEADINGS = ("test", "state", "time ms", "baseline ms", "ratio (95 %)", "rounds")


def counted(outcomes: Sequence[Outcome]) -> str:
    """`1 regression, 2 same`, those that need attention first, with the number of tests that failed."""
    numbers = Counter(outcome.state for outcome in outcomes)
    parts = [f"{numbers[state]} {state}" for state in MEANINGS if numbers[state]]
    failed = sum(bool(outcome.failures) for outcome in outcomes)
    return ", ".join([*parts, *([f"{failed} failed"] if failed else [])]) or "nothing measured"


def cells(outcome: Outcome) -> tuple[str, ...]:
    """One row under HEADINGS."""
    half = "" if outcome.time_ci_ms is None else f" ±{outcome.time_ci_ms:.3f}"
    time = _UNKNOWN if outcome.time_ms is None else f"{outcome.time_ms:.3f}{half}"
    before = _UNKNOWN if outcome.baseline_ms is None else f"{outcome.baseline_ms:.3f}"
    state = f"{outcome.state}, failed" if outcome.failures else outcome.state
    kind = "" if outcome.metric == "latency" or outcome.time_ms is None else f" ({outcome.metric})"
    return outcome.test, state, time + kind, before, _ratio(outcome), str(outcome.rounds or _UNKNOWN)


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
    lines = [f"{state}: {meaning}" for state, meaning in MEANINGS.items() if state in present]
    ways_out = {
        states.NEW: "; --xsp-save makes one",
        states.SHRANK: "; --xsp-update makes it the baseline",
        states.IMPROVED: "; --xsp-update makes it the baseline",
    }
    return [line + ways_out.get(line.partition(":")[0], "") for line in lines]


def terminal_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """The table, what is to be said about single tests, and the numbers of tests by state."""
    if not outcomes:
        return []
    rows = [HEADINGS, *map(cells, outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for outcome in outcomes:
        noted = [] if outcome.failures or outcome.state in _QUIET else [f"{outcome.test}: {outcome.notes[0]}"]
        lines += [*noted, *(f"{outcome.test}: {sentence}" for sentence in outcome.unchecked)]
    lines += [f"measured on {machine}" for machine in machines(outcomes)]
    lines += explanations(outcomes)
    saved = [outcome.saved for outcome in outcomes if outcome.saved]
    if saved:
        noun = "baseline" if len(saved) == 1 else "baselines"
        lines.append(f"saved {len(saved)} {noun} in {os.path.commonpath([str(Path(path).parent) for path in saved])}")
    return [*lines, counted(outcomes)]


def markdown(outcomes: Sequence[Outcome]) -> str:
    """A heading, a table, and foldable details, as GitHub shows them in a job's summary or a comment."""
    lines = [f"### xsp: {counted(outcomes)}", ""]
    if outcomes:
        lines += [_row(HEADINGS), _row(["---"] * len(HEADINGS))]
        lines += [_row([_code(test), *rest]) for test, *rest in map(cells, outcomes)]
        lines += ["", *(f"- {line}" for line in explanations(outcomes))]
        lines += [f"- measured on {_escaped(machine)}" for machine in machines(outcomes)]
    for outcome in outcomes:
        if said := details(outcome):
            opened = " open" if outcome.failures else ""
            fence = "`" * (3 + _ticks(*said))
            lines += ["", f"<details{opened}><summary>{_escaped(outcome.test)}</summary>", "", f"{fence}text"]
            lines += [*said, fence, "", "</details>"]
    return "\n".join(lines) + "\n"


def details(outcome: Outcome) -> list[str]:
    """All that is said about one test: failures, then notes."""
    return [*outcome.failures, *outcome.notes, *outcome.unchecked, *outcome.kept]


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _code(text: str) -> str:
    """Code in a cell of a table. Backticks inside need more of them outside, and spaces that are not shown."""
    ticks = "`" * (_ticks(text) + 1)
    space = " " * (len(ticks) > 1)
    escaped = text.replace("|", "\\|")
    return f"{ticks}{space}{escaped}{space}{ticks}"


def _ticks(*texts: str) -> int:
    """Length of the longest row of backticks in any of the texts."""
    return max((len(row) for text in texts for row in re.findall("`+", text)), default=0)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
