"""Which counters to collect: names that people ask for, the metrics of this chip that answer, and
their passes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from xsp.analysis.work.counters import CORE_PRECISIONS, FORMULAS, TENSOR_PRECISIONS
from xsp.errors import LevelError
from xsp.levels.counters.range_profiler import Configuration, MetricHost

_TENSOR = tuple(f"tensor_{precision}" for precision in TENSOR_PRECISIONS)

GROUPS: Mapping[str, tuple[str, ...]] = {
    "flops": (*CORE_PRECISIONS, *_TENSOR),
    "dram": ("dram_read_bytes", "dram_write_bytes"),
    "occupancy": ("occupancy",),
    "tensor": (*_TENSOR, "tensor_int8"),
    "l2": ("l2_bytes",),
}
"""Names for sets of quantities (`xsp.analysis.work.counters.FORMULAS`)."""


BLOCKS = "sm__ctas_launched.sum"
"""Thread blocks of a kernel: what tells that a value belongs to the kernel whose grid it is
compared with.
"""

INSTRUMENTED = "smsp__sass_inst_executed.sum"
"""Instructions counted by code that CUPTI adds to a kernel, as all `__sass_` metrics are; 0 where
it added none.
"""


IN_PLACE, FLUSHED = "in place", "flushed"
"""How a kernel finds the caches: as the kernels before it left them, or empty."""


@dataclass(frozen=True)
class Choice:
    """Metrics that this chip has, in `configurations` that are measured one after the other;
    sentences on the rest.

    Each configuration has a witness beside them, BLOCKS or INSTRUMENTED, unless that would take it
    another pass.
    """

    metrics: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    missing: tuple[str, ...]

    @property
    def passes(self) -> int:
        """How often the program is run until all of them are known."""
        return sum(one.passes for one in self.configurations)


def parse_metrics(metrics: str | Iterable[str]) -> tuple[str, ...]:
    """Checked names of groups and raw metrics, each once; a string may hold several with commas
    between.

    Raises LevelError for what is neither the name of a group nor of CUPTI's form
    `unit__counter.rollup`.
    """
    texts = (
        list(metrics)
        if isinstance(metrics, Iterable) and not isinstance(metrics, str)
        else [metrics]
    )
    names = [
        name.strip()
        for text in texts
        for name in (text.split(",") if isinstance(text, str) else [repr(text)])
    ]
    for name in names:
        if name and name not in GROUPS and "__" not in name:
            raise LevelError(
                f"metrics must be groups ({', '.join(GROUPS)}) or names of CUPTI metrics, such "
                f"as dram__bytes_read.sum, not {name!r}"
            )
    return tuple(dict.fromkeys(name for name in names if name))


def parse_caches(caches: str) -> str:
    """Checked IN_PLACE or FLUSHED. Raises LevelError for anything else."""
    if caches not in (IN_PLACE, FLUSHED):
        raise LevelError(
            f"caches must be {IN_PLACE!r}, or {FLUSHED!r} to flush them before every kernel, not "
            f"{caches!r}"
        )
    return caches


def choose_metrics(requested: Sequence[str], host: MetricHost) -> Choice:
    """The metrics of this chip that answer `requested`, names that passed `parse_metrics`."""
    metrics: dict[str, None] = {}
    missing: list[str] = []
    for name in requested:
        found = _of_group(name, host) if name in GROUPS else _raw(name, host)
        metrics |= dict.fromkeys(found)
        if not found:
            missing.append(_missing(name, host))
    return Choice(tuple(metrics), tuple(_grouped(list(metrics), host)), tuple(missing))


def _of_group(name: str, host: MetricHost) -> list[str]:
    return [metric for quantity in GROUPS[name] for metric in _formula(quantity, host)]


def _formula(quantity: str, host: MetricHost) -> Iterable[str]:
    """The first formula of which this chip has every metric; nothing where there is none, for
    example no FP8.
    """
    return next((formula for formula in FORMULAS[quantity] if host.configured(list(formula))), ())


def _raw(name: str, host: MetricHost) -> list[str]:
    return [name] if host.configured([name]) else []


def _missing(name: str, host: MetricHost) -> str:
    if name in GROUPS:
        return f"the {host.chip} chip has no counters for {name!r}"
    base = name.partition(".")[0]
    known = host.base_metrics()
    if base in known:
        return (
            f"the {host.chip} chip has the counter {base} but not as {name!r}: write {base}.sum, "
            "for example"
        )
    near = difflib.get_close_matches(base, known, 2)
    hint = f"; similar names are {' and '.join(near)}" if near else ""
    return f"the {host.chip} chip has no metric {name!r}{hint}"


def _grouped(metrics: Sequence[str], host: MetricHost) -> list[Configuration]:
    """Few sets of metrics that need one pass each, and metrics that need several each on its own.

    CUPTI could plan the passes of all metrics together, in as many runs; but one run can then not
    be checked by itself.
    """
    groups: list[Configuration] = []
    for metric in metrics:
        alone = _with_witness(metric, host)
        for index, group in enumerate(groups if alone.passes == 1 else []):
            joined = host.configured(list(dict.fromkeys([*group.metrics, *alone.metrics])))
            if joined is not None and joined.passes == 1:
                groups[index] = joined
                break
        else:
            groups.append(alone)
    return groups


def _with_witness(metric: str, host: MetricHost) -> Configuration:
    """A configuration for one metric that the chip has."""
    alone = host.configured([metric])
    assert alone is not None  # noqa: S101 - it was asked for before
    both = host.configured(
        list(dict.fromkeys([INSTRUMENTED if "__sass_" in metric else BLOCKS, metric]))
    )
    return both if both is not None and both.passes == alone.passes else alone
