"""How performance tests went over the commits: baselines as git has kept them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from xsp.analysis.spans.statistics import trimmed
from xsp.errors import BaselineError, CaptureError
from xsp.regression.baselines import Baseline
from xsp.regression.identity import machine_sentence
from xsp.regression.sessions import model_times

COMMITS = 200
"""Commits that are read unless told otherwise, the latest."""

UNCOMMITTED = "not committed"
_FIELDS = "%H%x1f%cI%x1f%s"


@dataclass(frozen=True)
class Commit:
    """A commit that changed baselines: `digest`, when it was made, its subject, and the files."""

    digest: str
    date: str
    subject: str
    files: tuple[str, ...]


def history(folder: Path, *, commits: int = COMMITS) -> pd.DataFrame:
    """A row for each version of each test's baseline below `folder`, the oldest first: `test`,
    `machine`, `commit` (`not committed` for what lies in the working tree and differs from the last
    commit), `date`, `subject`, `latency_ms` with half a 95 % interval, `ratio` to the row before of
    the same test and machine, and the counts.

    Raises BaselineError where there are none, or git cannot be asked. Versions that this xsp cannot
    read are left out.
    """
    if not folder.is_dir():
        raise BaselineError(
            f"there are no baselines in {str(folder)!r}: make them with `pytest --xsp-save`, or "
            "name their folder with --baselines"
        )
    rows = list(_committed(folder, commits))
    rows += _uncommitted(folder, {row["file"]: row["saved"] for row in rows})
    if not rows:
        raise BaselineError(f"no baseline in {str(folder)!r} can be read")
    return _with_ratios(pd.DataFrame(rows))


def _with_ratios(found: pd.DataFrame) -> pd.DataFrame:
    by_test = found.groupby(["test", "machine"], sort=False)["latency_ms"]
    place = list(found.columns).index("counts")
    found.insert(place, "ratio", found["latency_ms"] / by_test.shift())
    ordered = found.sort_values(["test", "machine"], kind="stable")
    return ordered.drop(columns=["file", "saved"]).reset_index(drop=True)


def _committed(folder: Path, commits: int) -> Iterator[dict[str, Any]]:
    top = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
    found = _commits(_git(folder, "log", f"--max-count={commits}", *_LOG, "--", "."))
    wanted = [(each, file) for each in reversed(found) for file in each.files]
    texts = _contents(top, [f"{each.digest}:{file}" for each, file in wanted])
    for (each, file), text in zip(wanted, texts, strict=True):
        facts = {"commit": each.digest, "date": each.date, "subject": each.subject}
        if row := _row(text, facts):
            yield {**row, "file": str(top / file)}


_LOG = ("--name-only", "--diff-filter=AM", f"--format=%x1e{_FIELDS}")


def _commits(text: str) -> list[Commit]:
    found = []
    for part in text.split("\x1e")[1:]:
        head, *lines = part.strip("\n").split("\n")
        files = tuple(line for line in lines if line.endswith(".json"))
        digest, date, subject = head.split("\x1f", 2)
        found.append(Commit(digest, date, subject, files))
    return found


def _contents(top: Path, names: Sequence[str]) -> Iterator[str]:
    """The texts of these objects, in one process of git; empty for one that is not there."""
    if not names:
        return
    given = "".join(f"{name}\n" for name in names).encode()
    answer = _run(top, ["cat-file", "--batch"], given)
    at = 0
    for _ in names:
        end = answer.index(b"\n", at)
        *_, size = answer[at:end].split()
        if not size.isdigit():
            at = end + 1
            yield ""
            continue
        begin, at = end + 1, end + 2 + int(size)
        yield answer[begin : at - 1].decode(errors="replace")


def _uncommitted(folder: Path, known: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = []
    for path in sorted(folder.resolve().rglob("*.json")):
        facts = {"commit": UNCOMMITTED, "date": "", "subject": ""}
        row = _row(path.read_text(encoding="utf-8", errors="replace"), facts)
        if row and known.get(str(path)) != row["saved"]:
            rows.append({**row, "date": row["saved"], "file": str(path)})
    return rows


def _row(text: str, facts: Mapping[str, str]) -> dict[str, Any] | None:
    try:
        baseline = Baseline.from_json(text)
    except CaptureError:
        return None
    times = model_times(baseline.profile, "latency")
    mean, half = (float(each) for each in trimmed(times))
    return {
        "test": baseline.test,
        "machine": machine_sentence(baseline.machine),
        **facts,
        "latency_ms": mean,
        "latency_ci_ms": half,
        "counts": dict(baseline.profile.counts),
        "saved": baseline.saved,
    }


def _git(folder: Path, *arguments: str) -> str:
    return _run(folder, list(arguments), b"").decode(errors="replace")


def _run(folder: Path, arguments: list[str], given: bytes) -> bytes:
    try:
        done = subprocess.run(  # noqa: S603 # git itself, with a folder and digests
            ["git", "-C", str(folder), *arguments],  # noqa: S607 # found as the user's shell finds it
            input=given,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"") or str(error).encode()
        raise BaselineError(
            f"git cannot be asked for the history of {str(folder)!r}: "
            f"{said.decode(errors='replace').strip()}; baselines are kept by committing them"
        ) from error
    return done.stdout
