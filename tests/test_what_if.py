"""What-if: predictions by replay against programs that really are otherwise, and on captures."""

from __future__ import annotations

import time
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from simulator import Call, Launch, Machine, Simulation, Synchronize, Work
from torch import nn

import xsp
from xsp import Profile
from xsp.analysis.correction.charges import Costs, EventKind
from xsp.analysis.correction.replay import replay
from xsp.analysis.correction.timeline import Timeline
from xsp.bounds.as_if import Change, corrected, divided, latency_ns, outside, united, within
from xsp.bounds.asker import patterns_of
from xsp.bounds.findings import findings
from xsp.errors import XspError
from xsp.report.text import profile_text
from xsp.types import Level

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"
COSTS = Costs(layer_ns=6000, library_ns=700, launch_ns=2000, api_ns=500, kernel_ns=100)
MACHINE = Machine()
UNTRACED: frozenset[Level] = frozenset()
HOST_BOUND, GPU_BOUND = (5_000, 20_000), (20_000, 8_000)
"""Kernel and host time of a layer in ns."""
LAYERS = 20


def program(
    kernel_ns: int, work_ns: int, *, sync: bool = True, other: dict[int, int] | None = None
) -> tuple[object, ...]:
    """Layers of one kernel each; the host waits for the device after the eighth."""
    steps: list[object] = []
    for number in range(LAYERS):
        kernel = (other or {}).get(number, kernel_ns)
        steps.append(Call(Level.LAYER, (Work(work_ns), Launch(1, kernel))))
        if sync and number == 7:
            steps.append(Synchronize())
    return tuple(steps)


def traced(shape: tuple[int, int]) -> Timeline:
    """The program recorded under costly tracers, and corrected."""
    recorded = Simulation(program(*shape), COSTS).timeline()
    return corrected(replay(recorded, COSTS, MACHINE.latencies()))


def truth(steps: tuple[object, ...], machine: Machine = MACHINE) -> int:
    """Latency of a program without tracers."""
    return Simulation(steps, levels=UNTRACED, machine=machine).latency_ns


@pytest.mark.parametrize("shape", [HOST_BOUND, GPU_BOUND, (14_000, 10_000)])
class TestAgainstPrograms:
    """The prediction from a traced run is the latency of the program that really is otherwise."""

    def predicted(self, shape: tuple[int, int], change: Change | None = None) -> float:
        run = traced(shape)
        return latency_ns(run, change or Change.none(run), MACHINE.latencies())

    def test_nothing_changed(self, shape: tuple[int, int]) -> None:
        """Without a change the untraced latency comes out to the nanosecond."""
        assert self.predicted(shape) == truth(program(*shape))

    def test_every_kernel_faster(self, shape: tuple[int, int]) -> None:
        """Kernels in half the time: exact, whether the host or the GPU is the limit."""
        change = Change.none(traced(shape))
        halved = replace(change, duration_ns=change.duration_ns / 2)
        assert self.predicted(shape, halved) == truth(program(shape[0] // 2, shape[1]))

    def test_one_kernel_faster(self, shape: tuple[int, int]) -> None:
        """One kernel in a tenth of its time: exact."""
        change = Change.none(traced(shape))
        length = change.duration_ns.copy()
        length[12] /= 10
        wanted = truth(program(*shape, other={12: shape[0] // 10}))
        assert self.predicted(shape, replace(change, duration_ns=length)) == wanted

    def test_no_synchronisation(self, shape: tuple[int, int]) -> None:
        """Without the wait in the middle: to within the 32 ns that payments are made of."""
        run = traced(shape)
        waits, change = run.waits, Change.none(run)
        released = change.released.copy()
        released[0] = True
        spent = [waits.start_ns[0], waits.end_ns[0]]
        found = self.predicted(shape, replace(change, released=released).also_free([spent]))
        assert found == pytest.approx(truth(program(*shape, sync=False)), abs=100)

    def test_no_launch_overhead(self, shape: tuple[int, int]) -> None:
        """Launch calls that take the host nothing: each to within 32 ns."""
        run = traced(shape)
        launches = run.events.kind == EventKind.LAUNCH
        free = np.stack([run.events.start_ns, run.events.end_ns], axis=1)[launches]
        wanted = truth(program(*shape), replace(MACHINE, launch_call=0))
        found = self.predicted(shape, Change.none(run).also_free(free))
        assert found == pytest.approx(wanted, abs=32 * LAYERS)

    def test_a_host_that_takes_no_time(self, shape: tuple[int, int]) -> None:
        """Everything but waiting for free: what is left is the device's chain."""
        run = traced(shape)
        waits = np.stack([run.waits.start_ns, run.waits.end_ns], axis=1).astype(float)
        free = outside(waits, run.start_ns, run.host_end_ns)
        found = self.predicted(shape, Change.none(run).also_free(free))
        assert found == pytest.approx(truth(program(shape[0], 0)), abs=6_000)


def test_intervals_are_united_and_left_out() -> None:
    """Overlapping intervals count once; `outside` is what they leave of a whole."""
    given = np.array([[5.0, 7.0], [1.0, 3.0], [2.0, 4.0], [7.0, 8.0]])
    assert united(given).tolist() == [[1.0, 4.0], [5.0, 8.0]]
    assert outside(given, 0.0, 9.0).tolist() == [[0.0, 1.0], [4.0, 5.0], [8.0, 9.0]]
    assert outside(np.zeros((0, 2)), 0.0, 1.0).tolist() == [[0.0, 1.0]]


def test_intervals_are_divided_at_the_cuts_inside_them() -> None:
    """A cut between intervals or on an edge divides nothing; times on an edge are within."""
    given = np.array([[1.0, 4.0], [6.0, 8.0]])
    cuts = np.array([7.0, 5.0, 2.0, 3.0, 8.0, 0.0])
    parts = [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0], [6.0, 7.0], [7.0, 8.0]]
    assert divided(given, cuts).tolist() == parts
    assert within(np.array([0.0, 1.0, 4.0, 5.0, 9.0]), given).tolist() == [0, 1, 1, 0, 0]
    assert not within(cuts, np.zeros((0, 2))).any()


# ---- on captures recorded on an H100 ----


@cache
def capture(name: str) -> Profile:
    return xsp.load(CAPTURES / f"{name}.xsp")


def test_nothing_changed_gains_nothing() -> None:
    """Without a change the gain is 0 and the prediction the measured latency."""
    found = capture("h100_resnet50").what_if()
    assert found.gain_ms == pytest.approx(0.0, abs=1e-9)
    assert found.predicted_ms == pytest.approx(capture("h100_resnet50").latency_ms)


def test_a_host_bound_model_gains_nothing_from_the_gpu() -> None:
    """ResNet-50 at this size waits for the host: faster kernels bring nothing, a CUDA graph brings
    the latency down to the GPU's busy time.
    """
    prof = capture("h100_resnet50")
    assert prof.what_if(faster={"*": 2}).gain_ms == pytest.approx(0.0, abs=0.05)
    graphed = prof.what_if(cuda_graph="*")
    busy = float(prof.tree()["device_ms"].iloc[0])
    assert graphed.predicted_ms == pytest.approx(busy, rel=0.05)
    assert graphed.half_width_ms < 0.2 * graphed.gain_ms


def test_gains_are_not_sums() -> None:
    """Launches in two halves of a model bring less one by one than together only where the host is
    the limit; no gain is more than what is there.
    """
    prof = capture("h100_transformer")
    host = prof.what_if(fast_host=True).gain_ms
    changes: list[dict[str, Any]] = [
        {"no_launch": "*"},
        {"no_framework": "*"},
        {"gone": "h.0.*"},
    ]
    for changed in changes:
        gain = prof.what_if(**changed).gain_ms
        assert 0 < gain <= host + 0.01
    # A graph needs more of the host than nothing, but its kernels follow each other closer.
    closer = 0.001 * prof.kernel_count
    assert 0 < prof.what_if(cuda_graph="*").gain_ms < host + closer


def test_waits_and_copies_are_told_with_their_lines() -> None:
    """A detector's waits and copies to the GPU are named with the lines that call their layers;
    a capture without lines has the findings without them.
    """
    prof = xsp.load(CAPTURES / "models" / "retinanet_resnet50_fpn.xsp")
    bare = [each for each in prof.findings() if each.question == 4]
    assert {each.lines for each in bare} == {()}
    layers = prof._capture.tables["layers"]
    lines = [f"detect.py:{number}" for number in range(len(layers))]
    prof._capture.tables["layers"] = layers.assign(source=lines)
    waits, copies = (
        next(each for each in findings(prof) if word in each.evidence)
        for word in ("waits for the GPU", "copies to the GPU")
    )
    for finding in (waits, copies):
        assert 0 < len(finding.lines) <= 3
        assert f"at {', '.join(finding.lines)}" in finding.evidence
    asking = dict(zip(layers["name"], lines, strict=True))
    assert copies.lines[0] in asking.values()
    assert asking[copies.layer] in copies.lines


def test_few_patterns_name_many_layers_and_no_others() -> None:
    """Names that differ in numbers become one pattern where it fits nothing else; a name with a
    bracket fits itself alone.
    """
    norms = [f"layer{stage}.{block}.bn1" for stage in (1, 2) for block in (0, 1)]
    every = [*norms, "layer1.0.bn2", "blocks[0]", "head"]
    assert patterns_of(norms, every) == ["layer*.*.bn1"]
    assert patterns_of([*norms[:3], "head"], every) == [*norms[:3], "head"]
    (quoted_name,) = patterns_of(["blocks[0]"], every)
    assert [name for name in every if fnmatchcase(name, quoted_name)] == ["blocks[0]"]


def test_names_that_nothing_has_are_refused() -> None:
    """An unknown layer or kernel, and a factor of 0, end in a sentence that names some layers."""
    prof = capture("h100_transformer")
    with pytest.raises(XspError, match="h\\.0\\.attn"):
        prof.what_if(gone="layer1.*")
    with pytest.raises(XspError, match="kernel:nothing"):
        prof.what_if(faster={"kernel:nothing": 2})
    with pytest.raises(XspError, match="must be > 0, not 0"):
        prof.what_if(faster={"h.0.*": 0})


def test_plain_names_are_looked_up_and_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for every layer by its own name gains what a pattern of all gains, and compiles no
    pattern: the work does not grow with names times layers.
    """
    prof = capture("h100_resnet50")
    by_pattern = prof.what_if(gone="layer1.*")
    layers = prof.tree().query("level == 'LAYER'")["name"].unique()
    names = [name for name in layers if name.startswith("layer1.")]
    monkeypatch.setattr("xsp.bounds.otherwise.translate", None)
    assert len(names) > 10
    assert prof.what_if(gone=names).gain_ms == pytest.approx(by_pattern.gain_ms)


def test_findings_name_what_to_do() -> None:
    """The ResNet-50 capture in NCHW is told to use channels last, with a call that predicts it
    again; findings come by gain, each above its own interval.
    """
    prof = capture("h100_resnet50")
    found = prof.findings()
    gains = [each.gain_ms for each in found]
    assert gains == sorted(gains, reverse=True)
    assert all(each.gain_ms > each.half_width_ms for each in found)
    layout = next(each for each in found if each.question == 6)
    assert "channels_last" in layout.advice
    again = prof.what_if(**layout.changed)
    assert again.gain_ms == pytest.approx(layout.gain_ms, rel=0.2)


def test_the_summary_says_what_to_try() -> None:
    """Text and page have at most five things to try behind where the time goes, before how much of
    it is the profiler.
    """
    prof = capture("h100_transformer")
    text = profile_text(prof, width=120)
    assert "try       −" in text
    assert text.index("Host ms:") < text.index("try       −") < text.index("Closure error")
    assert len(prof.findings()) <= 5 or text.count("Check:") == 5
    page: Any = __import__("xsp.report.page", fromlist=["report_html"])
    assert '<section id="try"' in page.report_html(prof)


class Waits(nn.Module):
    """A layer of two milliseconds."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.002)
        return x


@pytest.mark.usefixtures("virtual_clock")
def test_a_profile_of_the_cpu_can_be_asked() -> None:
    """Without a GPU a layer's time is the host's: half of it gone is what the prediction gains."""
    model = nn.Sequential(*[Waits() for _ in range(6)])
    prof = xsp.measure(model, torch.ones(1), levels="M/L", iterations=10, progress=False)
    found = prof.what_if(faster={"0": 2})
    assert found.gain_ms == pytest.approx(1, rel=0.1)
    assert prof.what_if(gone="*").gain_ms == pytest.approx(12, rel=0.1)
