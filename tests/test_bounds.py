"""Benchmarks of layers over algorithms, and lower bounds from what a database has of them."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import Convolutional, Recurrent, Transformer, ready
from timed_calls import timed
from torch import nn
from torch.nn import functional as F

import xsp
from xsp.bounds.algorithms import candidates
from xsp.bounds.granularities import EIGHT_BIT, FUSED, LAYOUT, LIBRARY
from xsp.bounds.lower_bound import bound_of
from xsp.bounds.package import write_package
from xsp.bounds.roofs import Flags, Peaks
from xsp.bounds.running import measure_missing, this_machine
from xsp.bounds.timers import HostTimer, KernelTimer
from xsp.bounds.timing import Prepared, raced
from xsp.bounds.torch_calls import torch_call
from xsp.bounds.variants import in_eight_bits
from xsp.bounds.wanted import ALL, Wanted, missing, wanted_of
from xsp.cli import main
from xsp.database.entry import Entry, Machine
from xsp.database.store import Store
from xsp.errors import XspError
from xsp.graphs.from_export import graph_of
from xsp.graphs.from_onnx import graph_of_onnx
from xsp.graphs.from_profile import graph_of_profile
from xsp.graphs.graph import Graph, chain
from xsp.graphs.layer import Layer, TensorType
from xsp.graphs.patterns import fused
from xsp.graphs.work import flops

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"
HERE = Machine({"gpu": "H200", "driver": "1"})


class Instant:
    """A timer that knows what each call takes."""

    method = "said"

    def __init__(self) -> None:
        self.asked = 0

    def samples(self, calls: Sequence[Prepared], caches: str, count: int) -> Any:
        return [self.of(each.call, count) for each in calls]

    def of(self, call: Any, count: int) -> Any:
        call()
        self.asked += 1
        return np.full(count, 1000.0)


def relu(name: str, size: int) -> Layer:
    kind = TensorType((size,), "float16")
    return Layer(name, "relu", inputs=(kind,), outputs=(kind,))


def known(layer: Layer, time_ns: float, algorithm: str = "torch", **changes: Any) -> Entry:
    made = Entry(HERE, layer, "fp16", algorithm, "warm", time_ns, 0.01 * time_ns, 20, 1.0)
    return replace(made, **changes)


NO_PEAKS = Peaks({}, float("nan"))
SIZES = range(1, 40)


@pytest.mark.parametrize("kind", [Convolutional, Transformer, Recurrent])
def test_every_layer_can_be_run_as_a_benchmark(kind: type[nn.Module]) -> None:
    """Every layer, fused or not, in every algorithm of the CPU, gives as many numbers as the model
    had there.
    """
    model, inputs = ready(kind)
    graph = graph_of(model, inputs)
    for layer in (*graph.layers, *fused(graph).layers):
        offered = candidates(layer, "fp32", "cpu")
        assert offered, layer.operator
        for each in offered:
            with each.under(), torch.inference_mode():
                result = each.prepare()()
            first = result[0] if isinstance(result, tuple) else result
            assert first.numel() == layer.outputs[0].elements, (layer.operator, each.algorithm)


def test_algorithms_agree() -> None:
    """oneDNN and PyTorch's own convolution compute the same from the same tensors."""
    model, inputs = ready(Convolutional)
    stem = graph_of(model, inputs).layers[0]
    results = []
    for each in candidates(stem, "fp32", "cpu"):
        torch.manual_seed(0)
        with each.under(), torch.inference_mode():
            results.append(each.prepare()())
    assert len(results) == 2
    torch.testing.assert_close(*results)
    assert torch._C._get_mkldnn_enabled()


def test_what_pytorch_has_no_name_for_runs_with_its_arguments() -> None:
    """An operator without a normal form keeps its arguments, so that it can be benchmarked."""

    class Rolled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.roll(x, 2, dims=1)

    (layer,) = graph_of(Rolled(), (torch.arange(8.0).view(2, 4),)).layers
    assert layer.operator == "aten::roll"
    call = torch_call(layer, "cpu")
    assert call is not None
    assert call().shape == (2, 4)


def test_flops_of_layers() -> None:
    """2 N K P Q C R S for a convolution, 2 M N K for a linear layer."""
    model, inputs = ready(Convolutional)
    by_name = {layer.name: flops(layer) for layer in graph_of(model, inputs).layers}
    assert by_name["stem"] == 2 * 2 * 8 * 16 * 16 * 3 * 9
    assert by_name["head"] == 2 * 2 * 8 * 16


def test_sampling_stops_when_the_interval_is_narrow() -> None:
    """A steady call needs two looks, at five samples and ten more, a noisy one goes on to a
    hundred.
    """
    steady = timed(Instant(), lambda: None, "warm")
    assert (steady.time_ns, steady.half_width_ns, steady.rounds) == (1000.0, 0.0, 15)

    class Noisy(Instant):
        def of(self, call: Any, count: int) -> Any:
            self.asked += 1
            return np.random.default_rng(self.asked).uniform(500, 1500, count)

    assert timed(Noisy(), lambda: None, "warm", budget_s=30).rounds >= 100


def test_slow_algorithms_are_left_behind() -> None:
    """Of three algorithms the two fastest are timed on, as is a slow one that must be; one that
    raises gives its reason and the others their times.
    """

    class Known(Instant):
        def of(self, call: Any, count: int) -> Any:
            mean = call()
            return np.random.default_rng(count).uniform(0.95 * mean, 1.05 * mean, count)

    def broken() -> float:
        raise RuntimeError("not supported")

    calls = [Prepared(lambda: 100.0), Prepared(lambda: 101.0), Prepared(lambda: 900.0)]
    calls += [Prepared(lambda: 800.0, to_the_end=True), Prepared(broken)]
    best, close, slow, default, failed = raced(Known(), calls, "warm", budget_s=30, target=0.005)
    assert isinstance(failed, RuntimeError)
    rounds = [getattr(each, "rounds", 0) for each in (best, close, default)]
    assert min(rounds) > 15
    assert getattr(slow, "rounds", 0) == 1
    assert getattr(best, "time_ns", 0) == pytest.approx(100, rel=0.02)


class Recorded:
    """A kernel tracer with records of known calls: each call of `launch` is one launch, at the
    clock of the host, and one operation of that length, long after.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def start(self) -> None:
        self.calls = []

    def stop(self) -> None:
        pass

    def lost(self) -> int:
        return 0

    def launch(self, length_ns: int) -> None:
        self.calls.append((time.monotonic_ns(), length_ns))

    def collect(self) -> dict[str, dict[str, Any]]:
        launched, length = (
            np.array(each, dtype=np.int64) for each in zip(*self.calls, strict=True)
        )
        identity = np.arange(len(launched), dtype=np.uint32) + 7
        start = launched[0] + 10**9 + np.cumsum(length) - length
        return {
            "api_calls": {"correlation_id": identity, "start_ns": launched},
            "device_activity": {
                "correlation_id": identity[::-1],
                "start_ns": start[::-1],
                "end_ns": (start + length)[::-1],
            },
        }


def test_one_recording_times_many_calls() -> None:
    """Operations are those of the call that launched them, however late they run; cold calls are
    told without what empties the caches, and one that launches now more, now less is refused.
    """
    tracer = Recorded()
    uneven = iter(range(100))

    def two() -> None:
        tracer.launch(300)
        tracer.launch(500)

    def sometimes() -> None:
        for _ in range(next(uneven)):
            tracer.launch(40)

    calls = [Prepared(two), Prepared(sometimes), Prepared(lambda: tracer.launch(70))]
    timer: Any = KernelTimer(tracer, flush=lambda: tracer.launch(9000))
    for caches in ("warm", "cold"):
        both, odd, one = timer.samples(calls, caches, 4)
        assert list(both) == [800.0] * 4
        assert isinstance(odd, XspError)
        assert list(one) == [70.0] * 4


def test_cold_caches_are_slower_than_warm_ones() -> None:
    """Reading 4 MB that another buffer has pushed out takes longer than reading it again."""
    source = torch.randn(1 << 20)
    timer: Any = HostTimer()
    call = Prepared(source.sum)
    cold, warm = (min(timer.samples([call], caches, 30)[0]) for caches in ("cold", "warm"))
    assert cold > warm


def test_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    """The second time nothing is timed; a layer of another model is the only one that is."""
    model, inputs = ready(Recurrent)
    graph = graph_of(model, inputs)
    wanted = wanted_of([graph], "cpu")
    with Store(tmp_path / "layers.sqlite") as store:
        first = measure_missing(store, wanted, "cpu", progress=False, timer=Instant())
        assert (first.layers, first.failed) == (4, 0)
        timer = Instant()
        again = measure_missing(store, wanted, "cpu", progress=False, timer=timer)
        assert (again.layers, timer.asked) == (0, 0)
        more = Wanted(graph.layers[0].with_dtype("float64"), "fp64")
        assert missing(store, this_machine("cpu"), [*wanted, more]) == [more]


def test_an_interrupted_measurement_keeps_what_it_has(tmp_path: Path) -> None:
    """A timer that is interrupted at the third layer leaves the first two whole; a budget of no
    time leaves all for another day.
    """
    model, inputs = ready(Recurrent)
    wanted = wanted_of([graph_of(model, inputs)], "cpu")

    class Interrupted(Instant):
        def of(self, call: Any, count: int) -> Any:
            if self.asked > 10:
                raise KeyboardInterrupt
            return super().of(call, count)

    with Store(tmp_path / "layers.sqlite") as store:
        with pytest.raises(KeyboardInterrupt):
            measure_missing(store, wanted, "cpu", progress=False, timer=Interrupted())
        left = missing(store, this_machine("cpu"), wanted)
        assert 0 < len(left) < len(wanted)
        done = measure_missing(store, wanted, "cpu", progress=False, budget_s=0, timer=Instant())
        assert done.unfinished in {len(left), len(left) - 1}


def test_an_algorithm_that_fails_is_kept_with_its_reason(tmp_path: Path) -> None:
    """What a library cannot compute is in the database with what it said, and not tried again."""
    odd = Layer(
        "odd",
        "resize",
        inputs=(TensorType((2, 2), "float32"),),
        parameters={"size": [4], "mode": "bicubic"},
    )
    with Store(tmp_path / "layers.sqlite") as store:
        done = measure_missing(store, [Wanted(odd, "fp32")], "cpu", progress=False)
        assert (done.algorithms, done.failed) == (0, 1)
        failed = [each for each in store.entries() if each.algorithm != ALL]
        assert failed[0].time_ns is None
        assert failed[0].failure
        assert not missing(store, this_machine("cpu"), [Wanted(odd, "fp32")])


# ---- bounds from entries with round numbers ----


def diamond() -> Graph:
    """One layer, then two side by side, then one."""
    layers = (relu("a", 1), relu("b", 2), relu("c", 3), relu("d", 4))
    return Graph("diamond", layers, ((0, 1), (0, 2), (1, 3), (2, 3)), "test")


def test_bounds_are_sums_of_the_best() -> None:
    """Sequential: the sum of the fastest algorithm of each layer. Parallel: the critical path."""
    graph = diamond()
    entries = [known(layer, 1e6 * (place + 1)) for place, layer in enumerate(graph.layers)]
    entries.append(known(graph.layers[2], 2.5e6, "faster"))
    entries.append(known(graph.layers[0], 0.1e6, "other machine's", caches="cold"))
    found = bound_of(graph, HERE, entries, NO_PEAKS, latency=(19.0, 0.1))
    assert found.sequential_ms == pytest.approx(1 + 2 + 2.5 + 4)
    assert found.parallel_ms == pytest.approx(1 + 2.5 + 4)
    assert found.ratio == pytest.approx(9.5 / 19)
    assert found.is_bound
    assert found.bounds[LIBRARY].path == ("a", "c", "d")
    assert found.layers["algorithm"].tolist() == ["torch", "torch", "faster", "torch"]


def test_what_is_missing_is_listed_and_makes_it_no_bound() -> None:
    """A layer without an entry counts with its ideal traffic, is listed, and there is a doubt."""
    graph = diamond()
    entries = [known(layer, 1e6) for layer in graph.layers[:3]]
    peaks = Peaks({"fp16": 1e12}, 1e9)
    found = bound_of(graph, HERE, entries, peaks)
    # Four elements of two bytes, read and written, at a gigabyte a second: 16 ns.
    assert found.sequential_ms == pytest.approx(3.000016)
    assert [each.name for each in found.missing] == ["d"]
    assert not found.is_bound
    assert "1 of 4 layers (relu)" in found.doubts[0]
    assert isnan(found.ratio)


def test_another_clock_and_a_wide_interval_are_doubts() -> None:
    """Entries measured at another clock, as a captured graph, or to no better than ±10 % are no
    bound, and the sentence says which.
    """
    graph = diamond()
    said: dict[str, dict[str, Any]] = {
        "MHz": {"provenance": {"sm_clock_mhz": 1500}},
        "gaps between kernels": {
            "provenance": {"method": "a captured graph, with the gaps between its kernels"}
        },
        "±10 %": {"half_width_ns": 0.5e6},
    }
    for words, changes in said.items():
        entries = [known(layer, 1e6, **changes) for layer in graph.layers]
        found = bound_of(graph, HERE, entries, NO_PEAKS, clock_mhz=1980.0)
        assert len(found.doubts) == 1
        assert words in found.doubts[0]


def test_a_bound_above_what_was_measured_is_a_doubt() -> None:
    """Entries that add up to more than the device worked are no bound, and the layers that are
    furthest above their own time are named; within the bound's interval nothing is said.
    """
    graph = diamond()
    entries = [known(layer, 1e6, half_width_ns=1e4) for layer in graph.layers]
    measured = {"a": 1.5, "b": 0.2, "c": 0.9, "d": 1.2}
    found = bound_of(graph, HERE, entries, NO_PEAKS, measured=measured, busy_ms=3.8)
    (doubt,) = found.doubts
    assert "bound of 4 ms is above the 3.8 ms" in doubt
    assert "most by b, c:" in doubt
    assert not found.is_bound
    assert bound_of(graph, HERE, entries, NO_PEAKS, busy_ms=3.99).is_bound
    assert bound_of(graph, HERE, entries, NO_PEAKS).is_bound


def test_order_alone_gives_no_parallel_bound() -> None:
    """Where dependencies are not known, the parallel bound is not known either."""
    graph = replace(diamond(), dependencies_known=False)
    entries = [known(layer, 1e6) for layer in graph.layers]
    assert isnan(bound_of(graph, HERE, entries, NO_PEAKS).parallel_ms)


def test_wider_ideals_are_never_slower() -> None:
    """Another layout, fusion and narrower types can only lower the bound, also where they were
    measured slower.
    """
    model, inputs = ready(Convolutional)
    graph = graph_of(model, inputs)
    entries = [
        Entry(HERE, layer, "fp32", "torch", "warm", 1000.0 + 500 * place, 1.0, 20, 1.0)
        for place, layer in enumerate((*graph.layers, *fused(graph).layers))
    ]
    found = bound_of(graph, HERE, entries, NO_PEAKS, flags=Flags())
    steps = [each.sequential_ms for each in found.bounds.values()]
    assert steps[0] >= steps[1] >= steps[2] >= steps[3]
    assert found.bounds[FUSED].covered == 1
    # Of the other layout nothing was measured, and most layers here have one.
    assert 0 < found.bounds[LAYOUT].covered < 1


def test_a_fused_product_that_was_not_measured_takes_what_its_parts_take() -> None:
    """The fused bound without fused entries is that of the library, covered by nothing; with one,
    the convolution, its normalisation and activation take that.
    """
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
    graph = graph_of(model, (torch.randn(1, 3, 8, 8),))
    apart = [
        Entry(HERE, layer, "fp32", "torch", "warm", 1e6, 1e3, 20, 1.0) for layer in graph.layers
    ]
    (product,) = fused(graph).layers
    peaks = Peaks({"fp32": 1e12}, 1e12)
    without = bound_of(graph, HERE, apart, peaks).bounds
    assert without[FUSED].sequential_ms == without[LIBRARY].sequential_ms == pytest.approx(3)
    assert without[FUSED].covered == 0
    together = Entry(HERE, product, "fp32", "cuDNN plan 1", "warm", 1.2e6, 1e3, 20, 1.0)
    found = bound_of(graph, HERE, [*apart, together], peaks).bounds
    assert found[FUSED].sequential_ms == pytest.approx(1.2)
    assert found[FUSED].covered == 1


def test_products_in_eight_bits_are_a_step_of_their_own() -> None:
    """Where linear layers were measured in 8-bit floats there is a row for it, no slower than the
    one before; where none was there is none. Sizes that do not fit have no such product.
    """
    model = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 10)).eval()
    graph = graph_of(model, (torch.randn(16, 32),))
    fits, other = (in_eight_bits(layer) for layer in graph.layers)
    assert fits is not None
    assert (fits.dtype, other) == ("float8_e4m3fn", None)
    if hasattr(F, "scaled_mm"):
        call = torch_call(fits, "cpu")
        assert call is not None
        assert call().shape == (16, 64)
    plain = [
        Entry(HERE, layer, "fp32", "torch", "warm", 1e6, 1e3, 20, 1.0) for layer in graph.layers
    ]
    assert EIGHT_BIT not in bound_of(graph, HERE, plain, NO_PEAKS).bounds
    short = Entry(HERE, fits, "fp8", "torch", "warm", 0.2e6, 1e3, 20, 1.0)
    found = bound_of(graph, HERE, [*plain, short], NO_PEAKS).bounds
    assert found[EIGHT_BIT].sequential_ms == pytest.approx(1.2)
    assert found[EIGHT_BIT].covered == 1


def test_what_matters_most_is_measured_first() -> None:
    """Every layer as it is, the largest first, then fused, then in the other layout."""
    model, inputs = ready(Convolutional)
    graph = graph_of(model, inputs)
    wanted = wanted_of([graph], "cpu")
    purposes = [each.purpose for each in wanted]
    assert purposes == sorted(purposes, key=[LIBRARY, FUSED, LAYOUT].index)
    assert {LIBRARY, FUSED, LAYOUT} == set(purposes)
    plain = [each.layer for each in wanted if each.purpose == LIBRARY]
    assert {each.digest for each in plain} == {each.digest for each in graph.layers}
    assert plain[0].traffic_bytes > plain[-1].traffic_bytes


def test_onnx_and_pytorch_have_the_same_bound(tmp_path: Path) -> None:
    """The same model by ONNX and by torch.export has the same bound from the same entries."""
    pytest.importorskip("onnx")
    model, inputs = ready(Transformer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, inputs, str(tmp_path / "model.onnx"), dynamo=False)
    graphs = [graph_of(model, inputs), graph_of_onnx(tmp_path / "model.onnx")]
    entries = [
        Entry(HERE, layer, "fp32", "torch", "warm", 1000.0 + 10 * place, 1.0, 20, 1.0)
        for place, layer in enumerate(graphs[0].layers)
    ]
    one, other = (bound_of(graph, HERE, entries, NO_PEAKS) for graph in graphs)
    assert not other.missing
    assert one.sequential_ms == pytest.approx(other.sequential_ms)
    assert one.parallel_ms == pytest.approx(other.parallel_ms)


def test_layers_in_a_chain_take_as_long_side_by_side() -> None:
    """Where each layer waits for the one before, the parallel bound is the sequential one, to the
    last bit: no order of adding up puts it above.
    """
    layers = tuple(
        Layer(f"relu{size}", "relu", (TensorType((size,), "float32"),)) for size in SIZES
    )
    graph = Graph("chain", layers, chain(layers), "test")
    for seed in range(20):
        times = np.random.default_rng(seed).uniform(1e3, 1e6, len(layers))
        entries = [
            Entry(HERE, layer, "fp32", "torch", "warm", float(taken), 1.0, 20, 1.0)
            for layer, taken in zip(layers, times, strict=True)
        ]
        found = bound_of(graph, HERE, entries, NO_PEAKS)
        assert found.parallel_ms == found.sequential_ms


# ---- the whole path ----


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A small model measured here, every layer of it in a database, and the bound."""
    place = tmp_path_factory.mktemp("bounds") / "layers.sqlite"
    torch.manual_seed(0)
    model, inputs = ready(Convolutional)
    with torch.no_grad():
        prof = xsp.measure(model, *inputs, levels="M/L", iterations=8, warmup=3, progress=False)
    graph = graph_of(model, inputs)
    with Store(place) as store:
        wanted = wanted_of([graph], "cpu")
        measure_missing(store, wanted, "cpu", progress=False, each_s=0.05)
        return place, prof, xsp.analysis.lower_bound(prof, store, graph=graph)


def test_every_layer_of_a_whole_bound_was_measured(whole: tuple[Path, Any, Any]) -> None:
    """Nothing is missing, and the critical path takes no longer than all layers one by one.
    Whether the bound lies below the latency is a question of clocks: benchmarks/bounds.py.
    """
    _, _, found = whole
    assert not found.missing
    assert 0 < found.parallel_ms <= found.sequential_ms
    assert found.layers["measured_ms"].notna().all()


def vgg16_entries(prof: xsp.Profile) -> list[Entry]:
    """Entries as if measured on the capture's machine: PyTorch takes 50 µs for each layer, another
    plan half of that for the third convolution.
    """
    machine = Machine.of(prof.environment, "cuda")
    graph = graph_of_profile(prof)
    found = {
        layer.key: Entry(machine, layer, "fp16", "torch", "warm", 5e4, 10.0, 20, 1.0)
        for layer in graph.layers
    }
    third = [layer for layer in graph.layers if layer.operator == "convolution"][2]
    faster = Entry(machine, third, "fp16", "cuDNN plan 7", "warm", 2.5e4, 10.0, 20, 1.0)
    return [*found.values(), faster]


def test_findings_use_the_database(tmp_path: Path) -> None:
    """With entries of a capture's machine its profile is told its potential, and the layer that
    another plan would make twice as fast, with what that brings by replay: half of its kernels.
    """
    prof = xsp.load(CAPTURES / "models" / "vgg16.xsp")
    with Store(tmp_path / "layers.sqlite") as store:
        store.put(vgg16_entries(prof))
        found = xsp.analysis.lower_bound(prof, store)
    assert not found.missing
    layers = graph_of_profile(prof).layers
    third = [layer for layer in layers if layer.operator == "convolution"][2]
    assert found.sequential_ms == pytest.approx(0.05 * len(layers) - 0.025)
    answers = prof.findings(found)
    assert 1 in {each.question for each in answers}
    (answer,) = [each for each in answers if each.question == 3]
    assert answer.layer == third.owner
    assert answer.changed == {"faster": {third.owner: pytest.approx(2.0)}}
    tree = prof.tree()
    device = float(tree.loc[tree["path"].str.endswith(third.owner), "device_ms"].iloc[0])
    assert answer.gain_ms == pytest.approx(device / 2, rel=0.1)


def test_a_capture_is_bound_from_the_database(whole: tuple[Path, Any, Any]) -> None:
    """The profile alone finds its layers' entries, as a chain, without the graph."""
    place, prof, found = whole
    alone = xsp.analysis.lower_bound(prof, str(place))
    assert isnan(alone.parallel_ms)
    shared = set(alone.layers.loc[alone.layers["bound_ms"].notna(), "name"])
    assert {"stem", "norm", "act", "depthwise", "head"} <= shared
    assert alone.sequential_ms <= found.sequential_ms + 1e-9


def test_the_command_measures_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`xsp bound` on a model: bound by granularity, layers, what to try, JSON; run again nothing is
    measured.
    """
    target = tmp_path / "small.py"
    target.write_text(
        "import torch\nfrom torch import nn\n"
        "def target():\n"
        "    return nn.Sequential(nn.Linear(64, 64), nn.ReLU()).eval(), torch.randn(8, 64)\n"
    )
    place, written = str(tmp_path / "layers.sqlite"), tmp_path / "bound.json"
    options = ["--database", place, "--quiet", "--profile-s", "0.5", "--device", "cpu"]

    def ran(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["xsp", "bound", *arguments, *options])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out

    said = ran(str(target), "-o", str(written))
    assert "layers measured" in said
    assert "library's best" in said
    row = json.loads(written.read_text())
    assert row["bounds"]["library's best"]["sequential_ms"] > 0
    assert row["latency_ms"] > 0
    assert "0 layers measured" in ran(str(target))


def test_the_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example goes the whole path on this machine: graph, profile, layers, bound, what to
    try; branches make its parallel bound the lower one.
    """
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "examples"))
    example = importlib.import_module("bound")
    options = ["--image", "32", "--budget-s", "0.5", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["bound.py", *options])
    example.main()
    said = capsys.readouterr().out
    assert "9 layers, 9 unique" in said
    assert "Benanza Ratio" in said
    assert "wide" in said.split("critical path")[1]


def test_a_benchmark_row_is_plain_json(tmp_path: Path) -> None:
    """What benchmarks/bounds.py writes of a model is JSON, and its page shows it beside the paper's
    figures; a worker's file is whole after every model.
    """
    bounds: Any = importlib.import_module("bounds")
    rows_of: Any = importlib.import_module("bounds_rows")
    page_of: Any = importlib.import_module("bounds_page")
    model, inputs = ready(Recurrent)
    with Store(tmp_path / "layers.sqlite") as store:
        row = rows_of.model_row("paper/resnet50", model, inputs, store, "cpu", 4.0, 0.5)
    bounds._keep(tmp_path / "rows.json", "paper/resnet50", row)
    bounds._keep(tmp_path / "rows.json", "paper/vgg16", {"error": "no such model"})
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert rows["paper/resnet50"]["bounds"]["library's best"]["covered"] == 1
    page = "\n".join(page_of.page_lines(rows))
    assert "| paper/resnet50 | 4 (4) |" in page
    assert "0.88" in page
    assert "Not measured: paper/vgg16 (no such model)." in page


def test_a_package_runs_without_xsp(tmp_path: Path) -> None:
    """An exported suite has no names and no weights in it and runs where xsp is not installed."""
    layer = Layer(
        "secret.block",
        "linear",
        (TensorType((4, 8), "float32"),),
        (TensorType((8, 8), "float32"),),
        (TensorType((4, 8), "float32"),),
    )
    graph = Graph("secret model", (layer, layer.renamed("secret.other")), ((0, 1),), "test")
    folder = write_package([graph], tmp_path / "suite")
    for path in folder.rglob("*"):
        assert path.is_dir() or "secret" not in path.read_text()
    assert json.loads((folder / "layers.json").read_text())[0]["count"] == 2
    (folder / "conftest.py").write_text("import sys; sys.modules['xsp'] = None\n")
    options = ["-q", "-p", "no:xsp", "-p", "no:cacheprovider", "--benchmark-disable"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "layers_bench.py"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout
    with pytest.raises(XspError, match="not an empty folder"):
        write_package([graph], folder)


def test_a_killed_benchmark_goes_on_where_it_was() -> None:
    """A model during which a run was killed is begun again, one that is done is not; what left
    layers is measured again if asked for, and keeps its row until it has a better one.
    """
    bounds: Any = importlib.import_module("bounds")
    done: dict[str, Any] = {"bounds": {}, "left": {}}
    rows: dict[str, dict[str, Any]] = {
        "a": done,
        "b": {"state": "begun", "tries": 1},
        "c": {"bounds": {}, "left": {"fused": 3}},
    }
    assert bounds.todo(["a", "b", "c", "d"], rows) == ["b", "d"]
    assert bounds.todo(["a", "b", "c", "d"], rows, complete=True) == ["b", "d", "c"]
    assert bounds.ended_early({**rows["c"], "state": "begun"}, "killed") == rows["c"]
    assert bounds.ended_early(rows["b"], "killed") == {"error": "killed"}
