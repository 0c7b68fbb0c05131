"""How queries arrive, as a manifest says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from xsp.evaluation.manifest.rules import Count, Part, Seconds


class SingleStream(Part):
    """One query of one sample after another."""

    kind: Literal["single_stream"]
    queries: Count = 100
    time_limit_s: Seconds = 600.0


class Offline(Part):
    """All samples in one query."""

    kind: Literal["offline"]
    samples: Count = 100
    time_limit_s: Seconds = 600.0


Scenario = Annotated[SingleStream | Offline, Field(discriminator="kind")]
