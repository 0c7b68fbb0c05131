"""What could be done about a model's time: one answer to one of Benanza's six questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

QUESTIONS = {
    1: "potential",
    2: "parallel layers",
    3: "algorithm",
    4: "framework",
    5: "fusion",
    6: "tensor cores and layout",
}


@dataclass(frozen=True)
class Finding:
    """One answer: of which question, where, what it would bring with half of its 95 % interval in
    ms, what tells it, and what to try in code. `changed` are the arguments of `Profile.what_if`
    that predict it again; `lines` are lines of the program (`path:line`) that it is about.
    """

    question: int
    layer: str
    gain_ms: float
    half_width_ms: float
    evidence: str
    advice: str
    changed: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()

    @property
    def check(self) -> str:
        """The call that predicts it again; empty where the bound itself is the prediction."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.changed.items())
        return f"prof.what_if({given})" if given else ""

    @property
    def kind(self) -> str:
        """The question in a word or two."""
        return QUESTIONS[self.question]

    def sentence(self) -> str:
        """`saves 0.42 ± 0.03 ms: …`, for a list."""
        gain = f"{self.gain_ms:.2f} ± {self.half_width_ms:.2f} ms"
        return f"{self.advice} (saves {gain}; {self.evidence})"
