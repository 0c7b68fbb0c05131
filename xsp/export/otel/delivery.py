"""Handing batches of spans over so that each one arrives, or is counted."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from opentelemetry.sdk.trace import ReadableSpan

from xsp.errors import ExportError

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 10.0
"""Waits double from the first to the longest between attempts, unless the receiver says how long to
wait.
"""


@dataclass(frozen=True)
class Answer:
    """What became of one attempt to hand over a batch.

    Of an accepted batch `rejected` counts the spans that the receiver took note of and threw away,
    which OTLP forbids sending again. One that is not accepted may be sent again, after `wait_s`
    seconds if the receiver says so; `final` says that it would be refused again.
    """

    accepted: bool = True
    rejected: int = 0
    reason: str = ""
    final: bool = False
    wait_s: float | None = None


def thrown_away(batch: Sequence[ReadableSpan], response: Any) -> Answer:
    """What an ExportTraceServiceResponse says of a batch that was accepted (partial success)."""
    partial = response.partial_success
    rejected = min(max(int(partial.rejected_spans), 0), len(batch))
    reason = f"rejected by the receiver: {partial.error_message or 'no reason given'}"
    return Answer(rejected=rejected, reason=reason)


class Send(Protocol):
    """One attempt to hand over a batch; raises nothing."""

    def __call__(self, batch: Sequence[ReadableSpan], /) -> Answer:
        """Try it."""


@dataclass
class Delivery:
    """Sends batch after batch, each until it is accepted.

    After `patience_s` seconds in which the receiver accepted nothing, the rest is given up. A batch
    that is in doubt, because the connection broke before the answer, is sent again: spans keep
    their ids, so a backend can tell.
    """

    send: Send
    total: int
    patience_s: float
    delivered: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def run(self, batches: Iterable[Sequence[ReadableSpan]]) -> int:
        """Deliver all batches and return the number of spans. Raises ExportError with the number
        that was lost.
        """
        given_up = ""
        for batch in batches:
            given_up = self._deliver(batch)
            if given_up:
                self._lose(given_up, self.total - self.delivered - sum(self.reasons.values()))
                break
        if self.reasons:
            raise self._error()
        return self.delivered

    def _deliver(self, batch: Sequence[ReadableSpan]) -> str:
        """Deliver one batch; returns why everything is given up, or nothing."""
        deadline, wait_s = time.monotonic() + self.patience_s, FIRST_WAIT_S
        while True:
            answer = self.send(batch)
            if answer.accepted:
                self.delivered += len(batch) - answer.rejected
                self._lose(answer.reason, answer.rejected)
                return ""
            if answer.final:
                self._lose(answer.reason, len(batch))
                return ""
            pause = wait_s if answer.wait_s is None else answer.wait_s
            if time.monotonic() + pause > deadline:
                return answer.reason
            time.sleep(pause)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _lose(self, reason: str, count: int) -> None:
        if count:
            self.reasons[reason] = self.reasons.get(reason, 0) + count

    def _error(self) -> ExportError:
        lost = sum(self.reasons.values())
        why = "; ".join(f"{count}: {reason}" for reason, count in self.reasons.items())
        return ExportError(
            f"{lost} of {self.total} spans did not arrive, {self.delivered} did ({why}). They can "
            "be sent again, as their ids do not change; raise timeout_s for a receiver that needs "
            "longer, or send fewer with levels= and min_duration_ns=",
            lost=lost,
            delivered=self.delivered,
        )
