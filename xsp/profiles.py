"""A profile, live or loaded, as users meet it: what was measured, its exports and how it
is shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xsp.analysis.profile_data import ProfileData
from xsp.capture import file as capture_file
from xsp.types import Level

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import TracerProvider

    from xsp.bounds.finding import Finding
    from xsp.bounds.lower_bound import LowerBound
    from xsp.bounds.what_if import WhatIf
    from xsp.export.trace.view import RunView
    from xsp.summary.values import Summary


_MARIMO_HEIGHT = "1000px"


class Profile(ProfileData):
    """What was measured. Tables are DataFrames; times are ns on the host's monotonic clock unless a
    column says ms.

    Each export is a module of `xsp.export`, imported when it is asked for.
    """

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a capture that `xsp.load` opens anywhere, without torch or a GPU. What an older
        version fitted of a loaded one is replaced by the costs that this one fits.

        Raises WriteError where it cannot be written, and CaptureError for contents that `xsp.load`
        would refuse; what stood there is as it was.
        """
        return self._capture_with_fit.save(path)

    def emit(
        self,
        tracer_provider: TracerProvider | SpanExporter | None = None,
        *,
        levels: str | Iterable[Level | str] | None = None,
        min_duration_ns: int = 0,
        run: int | str | None = None,
        corrected: bool = False,
        timeout_s: float = 60.0,
    ) -> int:
        """Put spans into the application's own OpenTelemetry trace; returns how many.

        Args:
            tracer_provider: an SDK TracerProvider, the global one by default, whose span processors
                get the spans. What their exporters make of them is not known. Or a SpanExporter,
                which is tried until it has taken each span.
            levels: levels to export, such as "M/L"; all by default.
            min_duration_ns: leave shorter spans out; what is below them hangs below the nearest
                span that is kept.
            run: number of a run, "all", or None for the last run of the deepest rung.
            corrected: times of `corrected`, without the tracers' cost.
            timeout_s: how long an exporter that accepts nothing, or a flush, is waited for.

        Raises ExportError, which says how many spans did not arrive, and LevelError for unknown
        levels.

        """
        from xsp.export.otel import send as otel
        from xsp.export.otel.selection import Selection

        selection = Selection.of(levels, min_duration_ns, run, corrected)
        return otel.emit(self, tracer_provider, selection, timeout_s)

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
        """Send spans to an OTLP receiver, such as an OpenTelemetry Collector; returns how many.
        Needs `xsp[otlp]`.

        What is None is read from the `OTEL_EXPORTER_OTLP_*` variables. Other arguments are those of
        `emit`.

        Args:
            endpoint: such as "http://localhost:4318" (http/protobuf) or "http://localhost:4317"
                (grpc).
            protocol: "http/protobuf", the default, or "grpc".
            headers: sent with every request, for authentication.
            timeout_s: how long a receiver that accepts nothing is waited for.
            levels: see `emit`.
            min_duration_ns: see `emit`.
            run: see `emit`.
            corrected: see `emit`.

        Raises ExportError, which says how many spans did not arrive, and LevelError for unknown
        levels.

        """
        from xsp.export.otel import send as otel
        from xsp.export.otel.selection import Selection

        selection = Selection.of(levels, min_duration_ns, run, corrected)
        return otel.to_otlp(
            self,
            selection,
            endpoint=endpoint,
            protocol=protocol,
            headers=headers,
            timeout_s=timeout_s,
        )

    def to_perfetto(
        self,
        path: str | os.PathLike[str],
        run: int | None = None,
        rung: str | None = None,
        corrected: bool = False,
    ) -> Path:
        """Write one run as a Perfetto trace, which ui.perfetto.dev opens; compressed where the name
        ends in `.gz`.

        Args:
            path: the file to write, usually `*.pftrace`.
            run: number of the run (`runs`); by default the last one of `rung`.
            rung: name of a rung, such as "M/L"; the deepest by default.
            corrected: times of `corrected`, without the tracers' cost; API calls, which have none,
                are left out.

        Raises XspError for a run or rung that is not there, and for corrected times of a run that
        has none.

        """
        from xsp.export.trace.perfetto import write_perfetto

        return write_perfetto(self._view(run, rung, corrected), Path(path))

    def to_chrome(
        self,
        path: str | os.PathLike[str],
        run: int | None = None,
        rung: str | None = None,
        corrected: bool = False,
    ) -> Path:
        """Write one run as Chrome trace events by torch.profiler's conventions, for
        chrome://tracing and Holistic Trace Analysis. `path` is usually `*.json.gz`; everything else
        is as in `to_perfetto`.
        """
        from xsp.export.trace.chrome import write_chrome

        view = self._view(run, rung, corrected)
        return write_chrome(view, Path(path), self._capture.meta)

    def to_speedscope(
        self,
        path: str | os.PathLike[str],
        run: int | None = None,
        rung: str | None = None,
        corrected: bool = False,
    ) -> Path:
        """Write for speedscope.app: what each node costs the latency as a flame graph, and one run
        track by track. `path` is usually `*.speedscope.json`; everything else is as in
        `to_perfetto`.
        """
        from xsp.export.flame.speedscope import write_speedscope

        return write_speedscope(self, self._view(run, rung, corrected), Path(path))

    def _view(self, run: int | None, rung: str | None, corrected: bool) -> RunView:
        """The run that a trace is written of."""
        from xsp.export.trace.choice import RunChoice
        from xsp.export.trace.view import view_of

        wanted = RunChoice(run, rung, corrected)
        return view_of(self._capture, wanted, self._corrected if corrected else None)

    def to_folded(self, path: str | os.PathLike[str]) -> Path:
        """Write folded stacks, a line `model;module;layer;kernel ns` each, for flamegraph.pl and
        its kin: what each node costs the latency. Usually `*.folded`.

        Raises WriteError where it cannot be written.
        """
        from xsp.export.flame.folded import write_folded

        return write_folded(self, Path(path))

    def what_if(
        self,
        *,
        faster: Mapping[str, float] | None = None,
        takes_ms: Mapping[str, float] | None = None,
        gone: str | Iterable[str] = (),
        fused: Sequence[Sequence[str]] = (),
        no_sync: str | Iterable[str] = (),
        no_launch: str | Iterable[str] = (),
        no_framework: str | Iterable[str] = (),
        cuda_graph: str | Iterable[str] = (),
        fast_host: bool = False,
        fast_gpu: bool = False,
    ) -> WhatIf:
        """What the model would take if something were otherwise: `predicted_ms`, `gain_ms` and
        half of its 95 % interval, by a replay of the corrected timeline.

        Names are patterns of layers, such as "layer1.*" or "*", or of kernels: "kernel:*gemm*".

        Args:
            faster: how many times faster, by name; on a GPU their kernels, on a CPU the layers.
            takes_ms: what one call of a layer takes on the device, by name; for example what a
                performance database has for another algorithm.
            gone: what is neither launched nor computed.
            fused: groups of layers of which only the longest still takes time.
            no_sync: layers in which the host waits for nothing; "*" for the whole model.
            no_launch: layers whose launches take the host no time.
            no_framework: layers of which the host does nothing but the launches.
            cuda_graph: layers that are launched as one CUDA graph; "*" for the whole model.
            fast_host: the host takes no time at all.
            fast_gpu: the GPU takes no time at all.

        Raises XspError for a name that nothing has, and for a profile without a corrected timeline.

        """
        from xsp.bounds.what_if import what_if

        return what_if(
            self,
            faster=faster,
            takes_ms=takes_ms,
            gone=gone,
            fused=fused,
            no_sync=no_sync,
            no_launch=no_launch,
            no_framework=no_framework,
            cuda_graph=cuda_graph,
            fast_host=fast_host,
            fast_gpu=fast_gpu,
        )

    def findings(self, bound: LowerBound | None = None) -> list[Finding]:
        """What could be done about the latency, by what it would bring, the most first: each with
        `gain_ms`, half of its 95 % interval, evidence, what to try in code, and what checks it.

        With `bound`, `xsp.analysis.lower_bound(prof)`, algorithms, layouts and parallel layers are
        looked at too.

        Raises XspError for a profile without a corrected timeline.
        """
        from xsp.bounds.findings import findings

        return findings(self, bound)

    def summary(self, top: int = 5) -> Summary:
        """What the profile says, as values in the order of a reader's questions: how long, what
        bounds it, where the time goes with the `top` largest costs of each kind, what to try, how
        much of this is the profiler. Its classes are those of `xsp.summary.values`.
        """
        from xsp.summary.summarizing import summarize

        return summarize(self, top)

    def to_html(
        self, path: str | os.PathLike[str], more: Iterable[tuple[str, str, str]] = ()
    ) -> Path:
        """Write a report as one page with summary, figures and tables, which opens in a browser
        without a network. `more` are further sections, such as `xsp.bricks(...).sections()`.

        Raises WriteError where it cannot be written.
        """
        from xsp.report.page import write_html

        return write_html(self, path, more)

    def __repr__(self) -> str:
        if self._filled is None:
            return "<xsp.Profile: empty until its block ends>"
        from xsp.report.text import profile_text

        return profile_text(self)

    def _repr_html_(self) -> str | None:
        if self._filled is None:
            return None
        from xsp.report.notebook import profile_html

        return profile_html(self)

    def _display_(self) -> object:
        """What marimo shows: it puts a page with scripts in a frame of 400 pixels unless it is told
        a height.
        """
        from marimo import iframe

        return iframe(self._repr_html_() or "", height=_MARIMO_HEIGHT)


def load(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> Profile:
    """Open a capture.

    `max_bytes` is what its tables may take in memory; what the variable XSP_MAX_BYTES says, or
    1 GiB, by default. Raises CaptureError if the file is missing, damaged, no capture, too large,
    or written by a newer xsp.
    """
    return Profile(capture_file.load(path, max_bytes))
