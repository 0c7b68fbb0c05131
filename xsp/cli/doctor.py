"""`xsp doctor`: what can be traced on this machine now, and what would bring the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from xsp.types import LevelStatus


def doctor(
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Measure FLOP/s and memory bandwidth (some ten seconds); new captures then have them."
        ),
    ] = False,
) -> None:
    """Say level by level what can be traced here, what is missing and how to get it."""
    from rich.console import Console

    console = Console()
    try:
        # First, because the LIBRARY level looks at what torch has loaded.
        import torch  # noqa: F401
    except (ImportError, OSError) as error:
        _facts(console, "torch", [("torch", f"cannot be imported ({error}): nothing can be measured without it")])
        return
    from xsp.cli.peaks import peak_lines
    from xsp.levels import _native, statuses
    from xsp.machine.environment import environment
    from xsp.types import Level

    _levels(console, statuses(Level))
    facts = environment()
    missing = _native.why_missing()
    _facts(console, "native part", [("libxsp_native", missing or "loaded")])
    gpu_keys = ("gpu", "gpu_count", "compute_capability", "driver", "gpu_memory_bytes", "multiprocessors")
    gpu = [(key, facts[key]) for key in gpu_keys if key in facts]
    _facts(console, "GPU", gpu or [("gpu", "none that torch can use")])
    apart = (*gpu_keys, "measured_peaks")
    _facts(console, "environment", [(key, value) for key, value in facts.items() if key not in apart])
    _facts(console, "peaks", peak_lines(console, facts, measure))


def _levels(console: Console, rows: Iterable[LevelStatus]) -> None:
    from rich.text import Text

    from xsp.types import Status

    console.print(Text("levels", style="bold"))
    for row in rows:
        can = row.status is Status.TRACED
        verdict = Text("can be traced" if can else "unavailable", style="green" if can else "yellow")
        console.print(Text(f"  {row.level.name:8}  ").append_text(verdict).append(f"  {row.tracer}"), soft_wrap=True)
        if row.reason:
            console.print(Text(f"            {row.reason}"), soft_wrap=True)


def _facts(console: Console, title: str, facts: Iterable[tuple[str, object]]) -> None:
    from rich.text import Text

    console.print(Text(f"\n{title}", style="bold"))
    for name, value in facts:
        console.print(Text(f"  {name:18}  {'–' if value is None else value}"), soft_wrap=True)
