"""Budgets: absolute limits on what one run may take, and what is said when one is broken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from xsp.errors import BudgetError

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData
    from xsp.regression.quantities import Part, Quantity

UNITS = {
    "latency_ms": "ms",
    "kernels": "",
    "library_calls": "",
    "allocated_bytes": "bytes",
    "synchronizations": "",
    "dram_bytes": "bytes",
    "gpu_idle_share": "",
    "graph_breaks": "",
}
"""Every quantity that can have a budget, in the order in which they are reported, with its unit."""

TOP = 5
"""Layers that a broken budget's message shows."""
_INSIDE = 3
_NAME = 60

KEPT, BROKEN, UNCHECKED = "kept", "broken", "unchecked"


@dataclass(frozen=True)
class Checked:
    """One budget held against a profile: `state` is "kept", "broken" or "unchecked" (`why` then
    says why).

    `value` is NaN where it is not known. `message` has several lines for a broken budget, and one
    otherwise.
    """

    name: str
    limit: float
    value: float
    state: str
    message: str


def parse_budgets(given: Mapping[str, Any]) -> dict[str, float]:
    """Checked budgets; None lifts a budget. Raises BudgetError for unknown names and impossible
    limits.
    """
    for name, limit in given.items():
        if name not in UNITS:
            raise BudgetError(f"budget {name!r} is unknown; the budgets are {', '.join(UNITS)}")
        if limit is None:
            continue
        if (
            isinstance(limit, bool)
            or not isinstance(limit, Real)
            or not math.isfinite(limit)
            or limit < 0
        ):
            raise BudgetError(
                f"budget {name} must be a number >= 0, or None for no budget, not {limit!r}"
            )
    return {name: float(given[name]) for name in UNITS if given.get(name) is not None}


def metrics_for(budgets: Mapping[str, float]) -> tuple[str, ...]:
    """Groups of hardware counters that these budgets need."""
    return ("dram",) if "dram_bytes" in budgets else ()


def check_budgets(
    prof: ProfileData, budgets: Mapping[str, float], graph_breaks: Mapping[str, int] | None
) -> list[Checked]:
    """Every budget held against the profile, and against the graph breaks of one execution by
    place.

    A budget whose level was left out by the test itself can never be kept, and is broken; where the
    level is missing on this machine only, the budget is unchecked.
    """
    return [_checked(prof, name, limit, graph_breaks) for name, limit in budgets.items()]


def _checked(
    prof: ProfileData, name: str, limit: float, graph_breaks: Mapping[str, int] | None
) -> Checked:
    from xsp.regression.quantities import READERS, Unknown

    try:
        quantity = _graph_breaks(graph_breaks) if name == "graph_breaks" else READERS[name](prof)
    except Unknown as unknown:
        state = BROKEN if unknown.off else UNCHECKED
        return Checked(
            name,
            limit,
            math.nan,
            state,
            f"budget {name}={_plain(limit)} was not checked: {unknown}",
        )
    if quantity.value > limit:
        return Checked(
            name, limit, quantity.value, BROKEN, "\n".join(_broken(name, limit, quantity))
        )
    return Checked(
        name,
        limit,
        quantity.value,
        KEPT,
        f"{name} {show_quantity(name, quantity)} of {_plain(limit)}",
    )


def _graph_breaks(places: Mapping[str, int] | None) -> Quantity:
    from xsp.regression.quantities import Part, Quantity, Unknown

    if places is None:
        raise Unknown(
            "another profiler of Python calls is active, so graph breaks cannot be counted"
        )
    return Quantity(sum(places.values()), tuple(Part(*each) for each in places.items()))


def show_quantity(name: str, quantity: Quantity) -> str:
    """The value with its interval and unit: `5.31 ±0.02 ms`, `14`."""
    half = quantity.half_width
    interval = f" ±{_plain(half)}" if half is not None and math.isfinite(half) else ""
    unit = f" {UNITS[name]}" if UNITS[name] else ""
    return f"{_plain(quantity.value)}{interval}{unit}"


def _broken(name: str, limit: float, quantity: Quantity) -> list[str]:
    over = f" ({quantity.value / limit - 1:+.1%})" if limit else ""
    first = f"{name} is {show_quantity(name, quantity)}, over the budget of {_plain(limit)}{over}"
    if not quantity.parts:
        return [first]
    top, rest = quantity.parts[:TOP], quantity.parts[TOP:]
    wide = max(len(_cut(part.layer)) for part in top)
    long = max(len(_plain(part.amount)) for part in top)
    lines = [f"{first}; most of it in"]
    for part in top:
        share = part.amount / quantity.value
        lines.append(
            f"    {_cut(part.layer):<{wide}}  {_plain(part.amount):>{long}}  "
            f"{share:>5.1%}{_inside(part)}"
        )
    if rest:
        more = "layer" if len(rest) == 1 else "layers"
        lines.append(
            f"    and {len(rest)} more {more} with {_plain(sum(part.amount for part in rest))}"
        )
    return lines


def _inside(part: Part) -> str:
    from xsp.words.labels import telling_kernel_name

    names = [
        f"{number}× {_cut(telling_kernel_name(name))}"
        if number > 1
        else _cut(telling_kernel_name(name))
        for name, number in part.inside[:_INSIDE]
    ]
    if len(part.inside) > _INSIDE:
        names.append(f"… {len(part.inside) - _INSIDE} more")
    return f"  {', '.join(names)}" if names else ""


def _cut(name: str) -> str:
    from xsp.words.labels import printable, shorten

    return shorten(printable(name), _NAME)


def _plain(number: float) -> str:
    """Whole numbers in full with thousands separated, others with four significant digits."""
    return f"{int(number):,}" if float(number).is_integer() else f"{number:.4g}"
