"""Asks what-if of one profile again and again, and knows where in the program its layers are."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from fnmatch import translate
from typing import TYPE_CHECKING, Any

import numpy as np

from xsp.analysis.peaks import on_cpu
from xsp.bounds.finding import Finding
from xsp.bounds.otherwise import Otherwise
from xsp.bounds.recorded import Recording
from xsp.bounds.what_if import predicted

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_LINES = 3
"""Lines that a finding names."""


class Asker:
    """A profile whose calls are corrected once."""

    def __init__(self, profile: ProfileData, recorded: Recording) -> None:
        self.profile, self.recorded = profile, recorded
        self.on_cpu = on_cpu(profile) or not recorded.has_device
        self.names = set(recorded.calls[-1].layers["name"])
        self.kernels = (
            sorted({str(name) for call in recorded.calls for name in call.op_kernel})
            if recorded.has_device
            else []
        )
        layers = profile.table("layers")
        forward = layers[layers["phase"] == "forward"]
        there = forward["source"] if "source" in forward else [""] * len(forward)
        self._lines = dict(zip(forward["name"], there, strict=True))

    def finding(
        self,
        question: int,
        layer: str,
        changed: Mapping[str, Any],
        evidence: str,
        advice: str,
        lines: tuple[str, ...] = (),
    ) -> Finding:
        """A finding with what a replay predicts of it."""
        answer = predicted(self.profile, self.recorded, Otherwise.of(**changed))
        return Finding(
            question,
            layer,
            answer.gain_ms,
            answer.half_width_ms,
            evidence,
            advice,
            changed,
            lines,
        )

    def lines(self, names: Iterable[str]) -> tuple[str, ...]:
        """The lines of the program that call these layers, those of most of them first; none for
        captures that do not have them.
        """
        counted: dict[str, int] = {}
        for name in names:
            line = self._lines.get(name)
            if isinstance(line, str) and line:
                counted[line] = counted.get(line, 0) + 1
        return tuple(sorted(counted, key=lambda line: -counted[line])[:_LINES])

    def known(self, names: Iterable[str]) -> list[str]:
        """Those of the names that the corrected calls have, as few patterns as name them and no
        other layer.
        """
        return patterns_of([name for name in names if name in self.names], self.names)

    def layers_of(self, kernels: Collection[str]) -> list[str]:
        """Names of the layers that ran these kernels, one for each time, of the last call."""
        call = self.recorded.calls[-1]
        mine = np.isin(call.op_kernel.astype(str), list(kernels))
        return [str(name) for name in call.op_layer[mine]]


def patterns_of(names: Iterable[str], every: Collection[str]) -> list[str]:
    """Patterns that fit these names and no others of `every`: `layer*.*.bn1` for fifty layers."""
    left = dict.fromkeys(names)
    wanted = set(left)
    found: list[str] = []
    for shortened in (_without_numbers, _without_numbers_above):
        groups: dict[str, list[str]] = {}
        for name in left:
            groups.setdefault(shortened(quoted(name)), []).append(name)
        for pattern, group in groups.items():
            if len(group) < 2:
                continue
            fits = re.compile(translate(pattern)).match
            if all(each in wanted for each in every if fits(each)):
                found.append(pattern)
                for name in group:
                    del left[name]
    return [*found, *map(quoted, left)]


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+", "*", name)


def _without_numbers_above(name: str) -> str:
    """The last part of a path keeps its numbers."""
    above, dot, own = name.rpartition(".")
    return _without_numbers(above) + dot + own


def quoted(name: str) -> str:
    """A name as a pattern that fits it alone."""
    return name.replace("[", "[[]")
