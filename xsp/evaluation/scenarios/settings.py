"""How queries arrive, as a manifest says it: one class for each kind of scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from xsp.evaluation.manifest.rules import Count, Part, Seconds, Sha256

Percent = Annotated[float, Field(gt=0, lt=100, strict=False)]
"""A percentile: more than 0, less than 100."""
Milliseconds = Annotated[float, Field(gt=0, le=1e9, strict=False)]
Rate = Annotated[float, Field(gt=0, le=1e9, strict=False, description="Queries per second.")]
Duration = Annotated[float, Field(ge=0, le=1e6, strict=False)]
Batch = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[float, Field(gt=0, lt=1, strict=False)]


class _Test(Part):
    """What every scenario has."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=0, description="Of the arrivals and of the order of samples."
    )
    warmup: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=3, description="Calls of the system before the test, not recorded."
    )
    time_limit_s: Seconds = Field(
        default=600.0,
        description="Making the system and the test must end within it; else both are ended.",
    )


class SingleStream(_Test):
    """One query of one sample; the next arrives when it is answered (MLPerf's SingleStream)."""

    kind: Literal["single_stream"]
    queries: Count = Field(default=1024, description="The least number.")
    min_duration_s: Duration = 0.0
    percentile: Percent = 90.0


class MultiStream(_Test):
    """One query of several samples; the next arrives when it is answered (MLPerf's MultiStream)."""

    kind: Literal["multi_stream"]
    queries: Count = Field(default=662, description="The least number; 662 is the fewest for p99.")
    min_duration_s: Duration = 0.0
    samples_per_query: Batch = 8
    percentile: Percent = 99.0


class Server(_Test):
    """Queries of one sample arrive at random, at exponential distances (MLPerf's Server)."""

    kind: Literal["server"]
    rate_per_s: Rate
    latency_bound_ms: Milliseconds
    percentile: Percent = 99.0
    queries: Count = Field(default=1024, description="The least number.")
    min_duration_s: Duration = 0.0
    batch: Batch = Field(
        default=1, description="At most so many waiting samples are answered in one call."
    )
    most_waiting: Annotated[int, Field(ge=0)] = Field(
        default=0, description="The test ends, invalid, when more queries wait; 0 is without limit."
    )


class Offline(_Test):
    """All samples arrive at once (MLPerf's Offline)."""

    kind: Literal["offline"]
    samples: Count = 24576
    batch: Batch = Field(default=1, description="Samples in one call of the system.")


class Batched(_Test):
    """Batches of growing size, each measured alone, by `xsp.sweep`."""

    kind: Literal["batched"]
    batch_sizes: Annotated[tuple[Batch, ...], Field(min_length=1, max_length=64, strict=False)] = (
        1,
        2,
        4,
        8,
        16,
        32,
    )
    iterations: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=20, description="Timed calls for each batch size."
    )

    @field_validator("batch_sizes")
    @classmethod
    def _distinct(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(sizes)) < len(sizes):
            raise ValueError(f"batch sizes must be without duplicates, not {list(sizes)}")
        return sizes


class Replay(_Test):
    """Queries of one sample arrive when they once did: recorded arrival times.

    The times are in the manifest, or in a file with one a line; seconds from any origin, in
    ascending order.
    """

    kind: Literal["replay"]
    arrivals_s: Annotated[
        tuple[Annotated[float, Field(strict=False)], ...] | None, Field(min_length=1, strict=False)
    ] = None
    arrivals_file: Annotated[Path | None, Field(strict=False)] = None
    sha256: Sha256 | None = Field(default=None, description="Of the file.")
    speed: Annotated[float, Field(gt=0, le=1e6, strict=False)] = Field(
        default=1.0, description="2 lets them arrive twice as fast as they did."
    )
    latency_bound_ms: Milliseconds | None = None
    percentile: Percent = 99.0
    batch: Batch = 1

    @model_validator(mode="after")
    def _one_source(self) -> Replay:
        if (self.arrivals_s is None) == (self.arrivals_file is None):
            raise ValueError("a replay needs either arrivals_s or arrivals_file")
        return self

    @field_validator("arrivals_s")
    @classmethod
    def _ascending(cls, times: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if times is not None and list(times) != sorted(times):
            raise ValueError("arrival times must be in ascending order")
        return times


class HighestRate(_Test):
    """The highest rate at which the latency stays within a bound: a search over Server tests."""

    kind: Literal["highest_rate"]
    latency_bound_ms: Milliseconds
    percentile: Percent = 99.0
    queries: Count = Field(default=5000, description="In each test of the search.")
    batch: Batch = 1
    first_rate_per_s: Rate | None = Field(
        default=None,
        description="Where the search begins; half of what a single stream reaches if absent.",
    )
    precision: Share = Field(default=0.02, description="Half width of the rate's 95 % interval.")
    most_trials: Annotated[int, Field(ge=4, le=1000)] = 30


Scenario = Annotated[
    SingleStream | MultiStream | Server | Offline | Batched | Replay | HighestRate,
    Field(discriminator="kind"),
]


def as_json(scenario: Any) -> dict[str, Any]:
    """The settings of a scenario as JSON has them."""
    values: dict[str, Any] = scenario.model_dump(mode="json")
    return values
