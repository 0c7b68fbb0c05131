"""Baselines on disk: one small JSON file per test and machine, for people and version control to
read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from xsp.capture.limits import text_of
from xsp.capture.writing import write_file
from xsp.comparing.comparable import Comparable
from xsp.comparing.rules import BASELINE
from xsp.errors import BaselineError, CaptureError, WriteError
from xsp.regression.identity import machine_folder, machine_of
from xsp.regression.sessions import Session

_KEY = "baseline"
MOST_SESSIONS = 20
"""Sessions that are kept, the latest: a machine that was another a year ago says nothing about
today.
"""


@dataclass(frozen=True)
class Baseline:
    """What was measured, to compare with: `test` as pytest names it, `saved` in UTC, `graph_breaks`
    by place, None where they are not known.

    `sessions` are all measurements of this test on this machine, this one last; `profile` is this
    one's.
    """

    test: str
    saved: str
    profile: Comparable
    graph_breaks: Mapping[str, int] | None = field(default_factory=dict)
    sessions: tuple[Session, ...] = ()

    @property
    def machine(self) -> dict[str, Any]:
        """The facts that baselines are kept by; see `xsp.regression.identity.machine_of`."""
        return machine_of(self.profile.environment)

    @classmethod
    def measured(
        cls, test: str, saved: str, profile: Comparable, graph_breaks: Mapping[str, int] | None
    ) -> Baseline:
        """A baseline of one session."""
        return cls(test, saved, profile, graph_breaks, (Session.of(profile, saved),))

    def after(self, earlier: Baseline | None, *, same_program: bool) -> Baseline:
        """The same with what is known from the baseline that it replaces.

        A session of the same program joins its sessions; of another version it begins anew, and the
        older sessions still tell how much this machine changes between processes.
        """
        if earlier is None:
            return self
        last = earlier.sessions[-1].version
        own = replace(self.sessions[-1], version=last if same_program else last + 1)
        return replace(self, sessions=(*earlier.sessions, own)[-MOST_SESSIONS:])

    def to_json(self) -> str:
        """The JSON of `Comparable` with the facts about the test in front."""
        sessions = [session.to_dict() for session in self.sessions]
        breaks = None if self.graph_breaks is None else dict(self.graph_breaks)
        facts = {
            "test": self.test,
            "saved": self.saved,
            "graph_breaks": breaks,
            "sessions": sessions,
        }
        body = self.profile.to_json().removeprefix("{")
        return f'{{\n "{_KEY}": {json.dumps(facts, ensure_ascii=False)},{body}'

    @classmethod
    def from_json(cls, text: str) -> Baseline:
        """The inverse of `to_json`. Raises CaptureError for text that is something else."""
        profile = Comparable.from_json(text)
        facts = json.loads(text).get(_KEY, {})
        if said := BASELINE(facts):
            raise CaptureError(f"this baseline is damaged: {_KEY}{said}; save it again")
        saved = facts.get("saved", "")
        sessions = tuple(Session.from_dict(row) for row in facts.get("sessions", ()))
        return cls(
            facts.get("test", ""),
            saved,
            profile,
            facts.get("graph_breaks", {}),
            sessions or (Session.of(profile, saved),),
        )


class Baselines:
    """The baselines of one name below `root`, by machine and test."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name

    @property
    def folder(self) -> Path:
        """Where they lie, a folder for each machine in it."""
        return self.root / self.name

    def require(self) -> None:
        """Raises BaselineError if there are none at all under this name; it says which names there
        are.
        """
        if self.folder.is_dir():
            return
        names = (
            sorted(path.name for path in self.root.iterdir() if path.is_dir())
            if self.root.is_dir()
            else []
        )
        there = f"there are {', '.join(names)}" if names else "there are none"
        raise BaselineError(
            f"no baseline {self.name!r} in {self.root}: {there}; make it with "
            f"--xsp-save={self.name}"
        )

    def path(self, machine: Mapping[str, Any], test: PurePosixPath) -> Path:
        """The file of a test (as `xsp.regression.identity.test_path` names it) on a machine."""
        return self.folder / machine_folder(machine) / test

    def read(self, machine: Mapping[str, Any], test: PurePosixPath) -> Baseline | None:
        """The baseline of a test, None if there is none. Raises BaselineError if the file cannot be
        read.
        """
        path = self.path(machine, test)
        return _read(path) if path.is_file() else None

    def elsewhere(self, machine: Mapping[str, Any], test: PurePosixPath) -> list[Baseline]:
        """Baselines of the same test on other machines, the latest first."""
        own = machine_folder(machine)
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        paths = [folder / test for folder in sorted(folders) if folder.name != own]
        found = [_read(path) for path in paths if path.is_file()]
        return sorted(found, key=lambda each: each.saved, reverse=True)

    def write(self, test: PurePosixPath, baseline: Baseline, *, same_program: bool = False) -> Path:
        """Save a baseline in place of an older one, with that one's sessions (`Baseline.after`).

        Readers see the old file or the new one, never half of it. An older one that cannot be read
        is replaced. Raises BaselineError where it cannot be written, or could not be read again.
        """
        path = self.path(baseline.machine, test)
        try:
            baseline = baseline.after(self.read(baseline.machine, test), same_program=same_program)
        except BaselineError:
            if same_program:
                raise
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return write_file(path, _readable(baseline).encode())
        except (OSError, UnicodeError, CaptureError, WriteError) as error:
            raise BaselineError(f"the baseline {path} cannot be written: {error}") from error


def _readable(baseline: Baseline) -> str:
    """Its JSON. Raises CaptureError if `from_json` refuses that."""
    text = baseline.to_json()
    Baseline.from_json(text)
    return text


def _read(path: Path) -> Baseline:
    try:
        return Baseline.from_json(text_of(path))
    except (OSError, UnicodeDecodeError, CaptureError) as error:
        raise BaselineError(
            f"the baseline {path} cannot be read: {error}; delete it, or save it again"
        ) from error
