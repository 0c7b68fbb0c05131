"""`xsp doctor`: what can be traced on this machine now, and what would bring the rest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from xsp.analysis.peaks import DRAM, cpu_peaks, gpu_peaks
from xsp.cli.keeping import checked_all, put
from xsp.errors import WriteError
from xsp.machine import peak_file as measured_peaks

if TYPE_CHECKING:
    from xsp.types import LevelStatus


def peak_lines(console: Console, facts: Mapping[str, Any], measure: bool) -> list[tuple[str, str]]:
    """Resources of the device that `facts` describe, each with its peaks in words; measured now if
    `measure`.
    """
    theoretical = gpu_peaks(facts) if "gpu" in facts else cpu_peaks(facts)
    known = {_key(resource): per_s for resource, (per_s, _) in theoretical.items()}
    measured: dict[str, float] = dict(facts.get("measured_peaks", {}))
    ways: dict[str, str] = {}
    where = []
    if measure:
        measured, ways = _measured(console, "cuda" if "gpu" in facts else "cpu", list(theoretical))
        where = [("kept", _kept(measured_peaks.device_key(facts), measured))]
    rows = [(_resource(key), _line(key, measured, known, ways)) for key in {**known, **measured}]
    return [
        *(rows or [("unknown", "for this device; `xsp doctor --measure` measures them")]),
        *where,
    ]


def _key(resource: str) -> str:
    return f"{resource.replace(' ', '_')}_{'bytes' if resource == DRAM else 'flops'}_per_s"


def _resource(key: str) -> str:
    return key.removesuffix("_flops_per_s").removesuffix("_bytes_per_s").replace("_", " ")


def _line(
    key: str, measured: Mapping[str, float], known: Mapping[str, float], ways: Mapping[str, str]
) -> str:
    scale, unit = (1e9, "GB/s") if key.endswith("_bytes_per_s") else (1e12, "TFLOP/s")
    parts = []
    if key in known:
        parts.append(f"{known[key] / scale:.4g} {unit} in theory")
    if key in measured:
        share = f", {measured[key] / known[key]:.0%} of it" if key in known else ""
        parts.append(f"{measured[key] / scale:.4g} {unit} measured{share}")
    way = f" ({ways[key]})" if key in ways else ""
    return "; ".join(parts) + way


def _measured(
    console: Console, device: str, known: list[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """What is measured now: FLOP/s or bytes/s, and with what, both by key."""
    from xsp.machine.peak_benchmark import measure_peaks, resources_of

    with console.status("measuring") as status:
        found = measure_peaks(
            device,
            resources_of(known, device),
            announce=lambda what: status.update(f"measuring {what}"),
        )
    return {each.key: each.per_s for each in found}, {each.key: each.how for each in found}


def _kept(device: str, peaks: Mapping[str, float]) -> str:
    try:
        file = measured_peaks.keep_peaks(device, peaks)
    except (OSError, RuntimeError, WriteError) as error:  # RuntimeError: no home directory is known
        return f"nowhere: {error}; set XDG_CACHE_HOME to a writable folder"
    return f"for {device} in {file}; new captures on this device have them"


def doctor(
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure FLOP/s and memory bandwidth (some ten seconds); new captures then have "
            "them.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write JSON to this file."),
    ] = None,
) -> None:
    """Say level by level what can be traced here, what is missing and how to get it."""
    from rich.console import Console

    checked_all(output)
    for_programs = as_json or output is not None
    found = examined(Console(stderr=for_programs), measure)
    if for_programs:
        put(json.dumps(found, indent=1, ensure_ascii=False, default=str) + "\n", output)
    else:
        _print(Console(), found)


_GPU_KEYS = (
    "gpu",
    "gpu_count",
    "compute_capability",
    "driver",
    "gpu_memory_bytes",
    "multiprocessors",
)

Examined = dict[str, Any]
"""By section, facts by name; the section `levels` is a list of rows."""


def examined(console: Console, measure: bool) -> Examined:
    """What is found out here; with `measure`, its progress is shown on the console."""
    try:
        # First, because the LIBRARY level looks at what torch has loaded.
        import torch  # noqa: F401
    except (ImportError, OSError) as error:
        said = f"cannot be imported ({error}): nothing can be measured without it"
        return {"torch": {"torch": said}}
    from xsp.levels import _native, statuses
    from xsp.machine.environment import environment
    from xsp.types import Level

    facts = environment()
    gpu = {key: facts[key] for key in _GPU_KEYS if key in facts}
    apart = (*_GPU_KEYS, "measured_peaks")
    return {
        "levels": [_row(status) for status in statuses(Level)],
        "native part": {"libxsp_native": _native.why_missing() or "loaded"},
        "GPU": gpu or {"gpu": "none that torch can use"},
        "environment": {key: value for key, value in facts.items() if key not in apart},
        "peaks": dict(peak_lines(console, facts, measure)),
    }


def _row(status: LevelStatus) -> dict[str, Any]:
    from xsp.types import Status

    return {
        "level": status.level.name,
        "can_be_traced": status.status is Status.TRACED,
        "tracer": status.tracer,
        "reason": status.reason,
    }


def _print(console: Console, found: Examined) -> None:
    for title, facts in found.items():
        if title == "levels":
            _levels(console, facts)
        else:
            _facts(console, title, facts.items())


def _levels(console: Console, rows: Iterable[Mapping[str, Any]]) -> None:
    from rich.text import Text

    console.print(Text("levels", style="bold"))
    for row in rows:
        can = row["can_be_traced"]
        verdict = Text(
            "can be traced" if can else "unavailable", style="green" if can else "yellow"
        )
        console.print(
            Text(f"  {row['level']:8}  ").append_text(verdict).append(f"  {row['tracer']}"),
            soft_wrap=True,
        )
        if row["reason"]:
            console.print(Text(f"            {row['reason']}"), soft_wrap=True)


def _facts(console: Console, title: str, facts: Iterable[tuple[str, object]]) -> None:
    from rich.text import Text

    console.print(Text(f"\n{title}", style="bold"))
    for name, value in facts:
        console.print(Text(f"  {name:18}  {'–' if value is None else value}"), soft_wrap=True)
