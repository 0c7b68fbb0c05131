"""The values of a summary. Times are ms, shares are of the unprofiled latency unless they say
otherwise, a `half_width` is half of a 95 % interval; NaN is not known.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Latency:
    """How long a call takes, and how sure that is. `unprofiled` is false where no run was made
    without tracing.
    """

    ms: float
    half_width_ms: float
    rounds: int
    unprofiled: bool

    @property
    def relative(self) -> float:
        """The half width as a share of the latency."""
        return self.half_width_ms / self.ms if self.ms else float("nan")


@dataclass(frozen=True)
class Bound:
    """What the latency is bound by: `who` is "host", "both" or "gpu".

    `busy_ms` is the GPU's, NaN where no GPU work was traced; `idle_place` is where most of the idle
    time lies ("between", "before", "after" the kernels, or empty) and `idle_place_share` its part
    of it. `memory`, `compute` and `unknown` are shares of the kernels' time, NaN where nothing is
    known of any; `analytic` are the quantities that were worked out and not counted.
    """

    who: str
    busy_ms: float
    idle_share: float
    idle_place: str
    idle_place_share: float
    memory: float
    compute: float
    unknown: float
    analytic: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """What a layer, a type of layers, a library function or a kernel takes of the latency.

    `ms` is `busy_ms`, in which the GPU works for it, and `waiting_ms`, in which it is idle because
    of it; of library functions and kernels it is busy time alone, without a GPU the host's time.
    """

    name: str
    kind: str
    backward: bool
    calls: int
    ms: float
    half_width_ms: float
    busy_ms: float
    waiting_ms: float
    share: float


@dataclass(frozen=True)
class Ranking:
    """The largest costs of a kind, the largest first. Costs whose interval is wider than they are
    are not among them: `not_known` counts these, `of` all there are.
    """

    costs: tuple[Cost, ...]
    of: int
    not_known: int


@dataclass(frozen=True)
class Places:
    """Where the time goes. `in_no_layer` is the share of the latency that no layer costs;
    `kernels_overlap` is true where shares of kernels that run side by side exceed the whole.
    """

    layers: Ranking
    types: Ranking
    library: Ranking
    kernels: Ranking
    in_no_layer: float
    kernels_overlap: bool


@dataclass(frozen=True)
class Try:
    """Something to try, with what a replay predicts that it gains, and the call that checks it."""

    advice: str
    evidence: str
    layer: str
    gain_ms: float
    half_width_ms: float
    check: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Rung:
    """What tracing one level more added to the latency. `within_noise` is true where its interval
    holds 0.
    """

    name: str
    added_ms: float
    half_width_ms: float
    share: float

    @property
    def within_noise(self) -> bool:
        """Whether it cannot be told from nothing."""
        return not abs(self.added_ms) > self.half_width_ms


@dataclass(frozen=True)
class Closure:
    """How far the corrected timeline is from the unprofiled latency, as a share of it, with its
    95 % interval.
    """

    rung: str
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class Profiler:
    """How much of this is the profiler. `total` is the share that all levels together add; NaN and
    None are not known. `corrected` says whether the host's times are without the tracers' cost.
    `lost` counts events of all runs, `clock_error_ns` is how far device times can be off on the
    host's clock.
    """

    total: float
    rungs: tuple[Rung, ...]
    closure: Closure | None
    corrected: bool
    lost: int
    clock_error_ns: float


@dataclass(frozen=True)
class LevelState:
    """A level of the stack: its status, and the reason where it was not traced."""

    level: str
    status: str
    reason: str


@dataclass(frozen=True)
class Counts:
    """What one run executes; None where it was not traced."""

    layers: int | None
    library_calls: int | None
    kernels: int | None


@dataclass(frozen=True)
class Summary:
    """All of it. `doubts` are the profile's warnings, `machine` is what it ran on, outermost
    first.
    """

    name: str
    latency: Latency
    bound: Bound
    places: Places
    tries: tuple[Try, ...]
    profiler: Profiler
    counts: Counts
    levels: tuple[LevelState, ...]
    doubts: tuple[str, ...]
    machine: tuple[str, ...]
