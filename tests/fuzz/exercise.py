"""Everything that a user does with a profile that was opened; a part of it for each mutant."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import xsp
import xsp.analysis
from fuzz.choices import Choices
from xsp.analysis import figures
from xsp.comparing.comparable import Comparable, comparable
from xsp.export.tables import write_tables
from xsp.report.text import profile_text

Step = Callable[[xsp.Profile, Path], object]


def _emit(prof: xsp.Profile, _: Path) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    prof.emit(provider)


def _compare(prof: xsp.Profile, folder: Path) -> None:
    found = xsp.compare(prof, Comparable.from_json(comparable(prof).to_json()))
    found.to_markdown()
    found.to_html(folder / "c.html")
    found.to_dict()


def _analysed(package: Any, name: str, prof: xsp.Profile, _: Path) -> object:
    return getattr(package, name)(prof)


_ANALYSES = [name for name in xsp.analysis.__all__ if name != "compare_models"]

STEPS: dict[str, Step] = {
    "tables": lambda prof, _: [
        prof.spans,
        prof.runs,
        prof.levels,
        prof.overhead(),
        prof.device_timeline(),
        prof.corrected,
        prof.costs,
        prof.closure_error,
        prof.gpu_states,
        prof.serialized,
        prof.ranges,
    ],
    "tree": lambda prof, _: (prof.tree(), prof.latency_ms, prof.latency_ci_ms, prof.lost),
    "text": lambda prof, _: (profile_text(prof), prof._repr_html_()),
    "save": lambda prof, folder: xsp.load(prof.save(folder / "again.xsp")),
    "perfetto": lambda prof, folder: prof.to_perfetto(folder / "p.pftrace"),
    "chrome": lambda prof, folder: prof.to_chrome(folder / "c.json"),
    "html": lambda prof, folder: prof.to_html(folder / "r.html"),
    "csv": lambda prof, folder: write_tables(prof, folder / "csv", "csv"),
    "parquet": lambda prof, folder: write_tables(prof, folder / "parquet", "parquet"),
    "emit": _emit,
    "compare": _compare,
    "models": lambda prof, _: xsp.analysis.compare_models([prof]),
    **{name: partial(_analysed, xsp.analysis, name) for name in _ANALYSES},
    **{f"figure {name}": partial(_analysed, figures, name) for name in figures.__all__},
}
_SLOW = ("html", "csv", "parquet")


def exercise(prof: xsp.Profile, choices: Choices, folder: Path) -> None:
    """Some of STEPS; each may refuse with XspError, and nothing else."""
    quick = [name for name in STEPS if name not in _SLOW]
    first = choices.below(len(quick))
    wanted = [quick[(first + 7 * each) % len(quick)] for each in range(6)]
    if not choices.below(12):
        wanted.append(_SLOW[choices.below(len(_SLOW))])
    for name in wanted:
        run(name, prof, folder)


def run(name: str, prof: xsp.Profile, folder: Path) -> None:
    """One step. Raises AssertionError that names the step if anything but XspError comes out."""
    with contextlib.suppress(xsp.XspError):
        try:
            STEPS[name](prof, folder)
        except xsp.XspError:
            raise
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error


def everything(prof: xsp.Profile, folder: Path) -> None:
    """All of STEPS."""
    for name in STEPS:
        run(name, prof, folder)
