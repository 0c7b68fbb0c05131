"""The exports of a profile; each format is a module of `xsp.export`, imported when it is asked for."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from xsp.types import Level

if TYPE_CHECKING:
    import pandas as pd
    from opentelemetry.trace import TracerProvider

    from xsp.capture import Capture
    from xsp.profiles import Profile


class Exports(ABC):
    """What `Profile` can be written as."""

    @property
    @abstractmethod
    def _capture(self) -> Capture:
        """What was measured."""

    @property
    @abstractmethod
    def _corrected(self) -> pd.DataFrame | None:
        """See `Profile.corrected`."""

    def emit(
        self,
        tracer_provider: TracerProvider | None = None,
        *,
        levels: str | Iterable[Level | str] | None = None,
        min_duration_ns: int = 0,
        run: int | str | None = None,
        corrected: bool = False,
        timeout_s: float = 60.0,
    ) -> int:
        """Put spans into the application's own OpenTelemetry trace; returns how many.

        Args:
            tracer_provider: an SDK TracerProvider, the global one by default. Its span processors get the spans.
            levels: levels to export, such as "M/L"; all by default.
            min_duration_ns: leave shorter spans out; what is below them hangs below the nearest span that is kept.
            run: number of a run, "all", or None for the last run of the deepest rung.
            corrected: times of `corrected`, without the tracers' cost.
            timeout_s: how long an exporter that accepts nothing is waited for.

        Raises ExportError, which says how many spans did not arrive, and LevelError for unknown levels.

        """
        from xsp.export import otel
        from xsp.export.otel_selection import Selection

        selection = Selection.of(levels, min_duration_ns, run, corrected)
        return otel.emit(cast("Profile", self), tracer_provider, selection, timeout_s)

    def to_otlp(
        self,
        endpoint: str | None = None,
        protocol: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 60.0,
        levels: str | Iterable[Level | str] | None = None,
        min_duration_ns: int = 0,
        run: int | str | None = None,
        corrected: bool = False,
    ) -> int:
        """Send spans to an OTLP receiver, such as an OpenTelemetry Collector; returns how many. Needs `xsp[otlp]`.

        What is None is read from the `OTEL_EXPORTER_OTLP_*` variables. Other arguments are those of `emit`.

        Args:
            endpoint: such as "http://localhost:4318" (http/protobuf) or "http://localhost:4317" (grpc).
            protocol: "http/protobuf", the default, or "grpc".
            headers: sent with every request, for authentication.
            timeout_s: how long a receiver that accepts nothing is waited for.
            levels: see `emit`.
            min_duration_ns: see `emit`.
            run: see `emit`.
            corrected: see `emit`.

        Raises ExportError, which says how many spans did not arrive, and LevelError for unknown levels.

        """
        from xsp.export import otel
        from xsp.export.otel_selection import Selection

        selection = Selection.of(levels, min_duration_ns, run, corrected)
        return otel.to_otlp(
            cast("Profile", self), selection, endpoint=endpoint, protocol=protocol, headers=headers, timeout_s=timeout_s
        )

    def to_perfetto(
        self, path: str | os.PathLike[str], run: int | None = None, rung: str | None = None, corrected: bool = False
    ) -> Path:
        """Write one run as a Perfetto trace, which ui.perfetto.dev opens; compressed where the name ends in `.gz`.

        Args:
            path: the file to write, usually `*.pftrace`.
            run: number of the run (`runs`); by default the last one of `rung`.
            rung: name of a rung, such as "M/L"; the deepest by default.
            corrected: times of `corrected`, without the tracers' cost; API calls, which have none, are left out.

        Raises XspError for a run or rung that is not there, and for corrected times of a run that has none.

        """
        from xsp.export.perfetto import write_perfetto
        from xsp.export.run_choice import RunChoice
        from xsp.export.traces import view_of

        wanted = RunChoice(run, rung, corrected)
        return write_perfetto(view_of(self._capture, wanted, self._corrected if corrected else None), Path(path))

    def to_chrome(
        self, path: str | os.PathLike[str], run: int | None = None, rung: str | None = None, corrected: bool = False
    ) -> Path:
        """Write one run as Chrome trace events by torch.profiler's conventions, for chrome://tracing and Holistic Trace
        Analysis. `path` is usually `*.json.gz`; everything else is as in `to_perfetto`.
        """
        from xsp.export.chrome import write_chrome
        from xsp.export.run_choice import RunChoice
        from xsp.export.traces import view_of

        wanted = RunChoice(run, rung, corrected)
        view = view_of(self._capture, wanted, self._corrected if corrected else None)
        return write_chrome(view, Path(path), self._capture.meta)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a report as one page with summary, figures and tables, which opens in a browser without a network.

        Raises XspError where the directory does not exist.
        """
        from xsp.export.html import write_html

        return write_html(cast("Profile", self), path)
