"""A summary as JSON: every value of it, and a short form for programs that read and act."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from xsp.report.sentences import latency_text
from xsp.summary.summarizing import summarize
from xsp.summary.values import Cost, Summary, Try
from xsp.types import Status
from xsp.words import numbers
from xsp.words.distinct import distinct_names
from xsp.words.labels import shorten

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

FORMAT = "xsp-report"
VERSION = 1
"""Of the names below: a name that is added is no new version."""
AGENT_BYTES = 6000
"""What the short form takes at most, as UTF-8."""
_TOP = 5
"""Costs of a kind."""
_COLUMNS = (
    "depth",
    "level",
    "name",
    "type",
    "phase",
    "path",
    "calls",
    "host_ms",
    "host_ci_ms",
    "device_ms",
    "latency_ms",
    "latency_ci_ms",
    "share",
    "kernels",
)
_TEXT = 300
_PRECISE = 0.02
"""Half width, as a share of the latency, that is worth no more rounds."""


def summary_dict(summary: Summary) -> dict[str, Any]:
    """Every value, by the names of `xsp.summary.values`; what is not known is None."""
    values: dict[str, Any] = _known(asdict(summary))
    for rung, told in zip(summary.profiler.rungs, values["profiler"]["rungs"], strict=True):
        told["within_noise"] = rung.within_noise
    return values


def report_data(prof: ProfileData) -> dict[str, Any]:
    """The summary's values, the environment and the rows of the hierarchy; what is not known is
    None. Times are in ms, `…_ci_ms` half of a 95 % interval.
    """
    rows = prof.tree()[list(_COLUMNS)].to_dict("records")
    told = summary_dict(summarize(prof, _TOP))
    about = {"format": FORMAT, "version": VERSION, **told, "environment": prof.environment}
    return about | {"tree": _known(rows)}


def report_json(prof: ProfileData) -> str:
    """`report_data` as a line of JSON for each of its values."""
    lines = [
        f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for name, value in report_data(prof).items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _known(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _known(each) for key, each in value.items()}
    return [_known(each) for each in value] if isinstance(value, list | tuple) else value


def for_agent(summary: Summary, capture: str) -> str:
    """JSON of less than `AGENT_BYTES`: findings with number and interval, what is not known, and
    the command that would settle each. `capture` is the file that commands open.

    The least important findings are left out where they would not fit, and counted.
    """
    fixed = {
        "model": shorten(summary.name, 80),
        "latency_ms": _number(summary.latency.ms),
        "half_width_ms": _number(summary.latency.half_width_ms),
        "bound_by": summary.bound.who,
        "gpu_idle_share": _number(summary.bound.idle_share),
        "on": ", ".join(summary.machine)[:120],
    }
    findings, unknown = list(_findings(summary, capture)), list(_unknown(summary))
    left_out = 0
    while True:
        told = {**fixed, "findings": findings, "not_known": unknown, "left_out": left_out}
        text = json.dumps(_known(told), ensure_ascii=False, separators=(",", ":"))
        if len(text.encode()) < AGENT_BYTES or not (findings or unknown):
            return text + "\n"
        (findings if len(findings) >= len(unknown) else unknown).pop()
        left_out += 1


def _number(value: float) -> float:
    return float(f"{value:.4g}")


def _findings(summary: Summary, capture: str) -> Iterator[dict[str, Any]]:
    """What to try first, then the largest costs."""
    for place, each in enumerate(summary.tries):
        yield {
            "claim": each.advice[:_TEXT],
            "gain_ms": _number(each.gain_ms),
            "half_width_ms": _number(each.half_width_ms),
            "evidence": each.evidence[:_TEXT],
            "lines": list(each.lines),
            "check": _command(each, place, capture),
        }
    places = summary.places
    kinds = (
        ("layer", places.layers.costs),
        ("type of layer", places.types.costs),
        ("kernel, GPU busy", places.kernels.costs),
    )
    for kind, costs in kinds:
        names = distinct_names([cost.name for cost in costs], 60)
        for cost in costs:
            yield _cost(kind, names[cost.name], cost)


def _command(suggestion: Try, place: int, capture: str) -> str:
    """A command line that predicts it again; the bound itself has none."""
    if not suggestion.check:
        return f"xsp bound {capture}"
    code = (
        f"import xsp; prof = xsp.load({capture!r}); "
        f"print(prof.what_if(**prof.findings()[{place}].changed))"
    )
    return f'python -c "{code}"'


def _cost(kind: str, name: str, cost: Cost) -> dict[str, Any]:
    told = {
        "claim": f"{kind} {name}" + (" (backward)" if cost.backward else ""),
        "ms": _number(cost.ms),
        "half_width_ms": _number(cost.half_width_ms),
        "share": _number(cost.share),
    }
    if not math.isnan(cost.waiting_ms):
        told |= {"busy_ms": _number(cost.busy_ms), "waiting_ms": _number(cost.waiting_ms)}
    return told


def _unknown(summary: Summary) -> Iterator[dict[str, str]]:
    """What is not known, and what would settle it."""
    latency = summary.latency
    if latency.relative > _PRECISE:
        rounds = math.ceil(latency.rounds * (latency.relative / _PRECISE) ** 2)
        yield {
            "what": f"the latency to better than {latency_text(latency)}",
            "settle": f"measure at least {rounds} rounds: xsp profile TARGET --iterations {rounds}",
        }
    for each in summary.levels:
        if each.status != Status.TRACED.value:
            what = f"anything of level {each.level}: {each.status}"
            yield {"what": what, "settle": each.reason[:_TEXT] or "xsp doctor"}
    for rung in summary.profiler.rungs:
        if rung.within_noise:
            ms = f"{rung.added_ms:.4g} ±{rung.half_width_ms:.4g} ms"
            what = f"what rung {rung.name} adds ({ms}, within noise)"
            yield {"what": what, "settle": "more iterations: xsp profile TARGET --iterations N"}
    if summary.bound.unknown > 0:
        share = numbers.percent(summary.bound.unknown)
        yield {
            "what": f"whether {share} of the kernels' time is bound by memory or compute",
            "settle": "count the hardware's events: xsp profile TARGET --metrics flops,dram",
        }
    places = summary.places
    for kind, ranking in (("layers", places.layers), ("kernels", places.kernels)):
        if ranking.not_known:
            what = f"what {ranking.not_known} {kind} take: their intervals are wider than they are"
            yield {"what": what, "settle": "more iterations: xsp profile TARGET --iterations N"}
    for doubt in summary.doubts:
        yield {"what": shorten(doubt, _TEXT), "settle": "docs/warnings.md names the way out"}
