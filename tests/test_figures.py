"""Figures show what the analyses say, on captures of an H100 and of a model on this CPU."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from captures import HOSTILE_KERNEL, gpu_capture, gpu_profile, wide_profile
from torch import nn

import xsp
from xsp import analysis
from xsp.analysis import figures
from xsp.analysis.figures.palette import BUSY, FAMILIES, IDLE, OTHER, OUTER, family
from xsp.analysis.figures.theme import MARKS
from xsp.analysis.peaks import peaks

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"
SWEEPS = ("model_information", "kernels_by_model")
OF_KERNELS = ("kernel_roofline", "kernels_by_name", "gpu_vs_nongpu", "kernels_by_model")


@pytest.fixture(scope="module")
def resnet() -> xsp.Profile:
    """ResNet-50 on an H100."""
    return xsp.load(CAPTURES / "h100_resnet50.xsp")


@pytest.fixture(scope="module")
def step() -> xsp.Profile:
    """A training step of ResNet-50 on an H100."""
    return xsp.load(CAPTURES / "h100_train_step.xsp")


@pytest.fixture(scope="module")
def on_cpu() -> xsp.Profile:
    """A small model on the CPU."""
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    return xsp.measure(model, torch.randn(16, 32), iterations=5)


def bars(figure: Any, axis: str = "y") -> dict[float, float]:
    """Height by place of all bars on one axis."""
    traces = [
        trace for trace in figure.data if trace.type == "bar" and (trace.yaxis or "y") == axis
    ]
    return {float(x): float(y) for trace in traces for x, y in zip(trace.x, trace.y, strict=True)}


def note(figure: Any) -> str:
    """The sentence below the title."""
    return str(figure.layout.meta["note"])


def marks(figure: Any) -> int:
    """Things drawn."""
    return sum(len(trace.ids if trace.type == "icicle" else trace.x) for trace in figure.data)


def test_importing_figures_does_not_import_plotly() -> None:
    """plotly, which takes a second, is imported by the first figure."""
    code = "import sys, xsp.analysis.figures; sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", figures.__all__)
def test_every_figure_says_what_it_shows(name: str, resnet: xsp.Profile) -> None:
    """Each figure of an H100 capture has a title, titles on its axes, hover texts, and at most
    MARKS marks.
    """
    drawn = getattr(figures, name)(resnet)
    assert drawn.layout.title.text.startswith("<b>")
    assert not drawn.layout.meta.get("empty")
    assert 0 < marks(drawn) <= MARKS
    if name != "hierarchy":
        titles = [drawn.layout[axis].title.text for axis in ("xaxis", "yaxis")]
        assert any(titles)
        assert any(
            "(" in title or "Share" in title or "Batch" in title for title in filter(None, titles)
        )
    assert any(trace.hovertext is not None for trace in drawn.data)


@pytest.mark.parametrize("name", figures.__all__)
def test_every_figure_survives_a_model_without_gpu(name: str, on_cpu: xsp.Profile) -> None:
    """On a CPU profile figures of kernels are empty and say why; the others are drawn."""
    drawn = getattr(figures, name)(on_cpu)
    is_empty = bool(drawn.layout.meta.get("empty"))
    assert is_empty or drawn.data
    if name in OF_KERNELS:
        assert is_empty
        assert "NVIDIA GPU" in note(drawn)
        assert drawn.layout.annotations[0].text
    if name in {"layer_latency", "hierarchy", "layer_type_distribution", "layer_latency_by_type"}:
        assert not is_empty


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", figures.__all__)
def test_every_figure_says_why_it_is_empty_where_only_the_model_was_traced(name: str) -> None:
    """Without layers each figure but the one of latencies says that there are none, and no share is
    not a number.
    """
    prof = xsp.measure(nn.Linear(8, 8), torch.randn(4, 8), iterations=3, levels="M")
    drawn = getattr(figures, name)(prof)
    if name != "model_information":
        assert drawn.layout.meta["empty"]
    assert "nan" not in drawn.to_json().lower()


def test_bars_are_the_layers_latencies(step: xsp.Profile) -> None:
    """A3: one bar per layer, at its index, as high as its latency; backward passes are hatched, as
    the note says.
    """
    table = analysis.layer_latency(step)
    drawn = figures.layer_latency(step)
    found = bars(drawn)
    assert set(found) == set(table["index"])
    np.testing.assert_allclose([found[index] for index in table["index"]], table["latency_ms"])
    hatched = sum(len(trace.x) for trace in drawn.data if trace.marker.pattern.shape == "/")
    assert hatched == (table["phase"] == "backward").sum()
    assert "Hatched: backward" in note(drawn)
    assert table.sort_values("latency_ms")["name"].iloc[-1] in note(drawn)


def test_bars_are_the_layers_memory(resnet: xsp.Profile) -> None:
    """A4: bars in MiB of what each layer allocates."""
    table = analysis.layer_memory(resnet).dropna()
    found = bars(figures.layer_memory(resnet))
    np.testing.assert_allclose(
        [found[index] for index in table["index"]], table["allocated_bytes"] / 2**20
    )


def test_work_has_three_panels(resnet: xsp.Profile) -> None:
    """A12: FLOPs in G, bytes read and written in MiB, below each other; analytic ones are called
    that.
    """
    table = analysis.layer_metrics(resnet).dropna()
    drawn = figures.layer_metrics(resnet)
    columns = {
        "y": ("flops", 1e9),
        "y2": ("dram_read_bytes", 2**20),
        "y3": ("dram_write_bytes", 2**20),
    }
    for axis, (column, scale) in columns.items():
        found = bars(drawn, axis)
        np.testing.assert_allclose(
            [found[index] for index in table["layer_index"]], table[column] / scale
        )
    assert note(drawn).startswith("Analytic")


def test_gpu_shares_fill_every_bar(resnet: xsp.Profile) -> None:
    """A13: busy and idle of a layer add up to 100 %, and busy is the table's GPU share."""
    table = analysis.gpu_vs_nongpu(resnet).dropna()
    busy, idle = figures.gpu_vs_nongpu(resnet).data
    np.testing.assert_allclose(busy.y, table["gpu_share"] * 100)
    np.testing.assert_allclose(np.add(busy.y, idle.y), 100)


@pytest.mark.parametrize(
    "name", ["layer_type_distribution", "layer_latency_by_type", "layer_memory_by_type"]
)
def test_shares_of_types_add_up(name: str, step: xsp.Profile) -> None:
    """A5 to A7: bars are sorted shares, the small ones pooled, and add up to 100 %."""
    table = getattr(analysis, name)(step)
    (trace,) = getattr(figures, name)(step).data
    assert sum(trace.x) == pytest.approx(100)
    assert list(trace.x[:-1]) == sorted(trace.x[:-1], reverse=True)
    assert trace.x[0] == pytest.approx(table["share"].max() * 100)
    assert len(trace.x) < len(table)


def test_kernels_lie_below_named_roofs(resnet: xsp.Profile) -> None:
    """A9: logarithmic axes, a mark per kernel whose place is known, the rest counted; ridge points
    on the DRAM roof.
    """
    table = analysis.kernel_roofline(resnet)
    known = table[(table["arithmetic_intensity"] > 0) & (table["flops_per_s"] > 0)]
    drawn = figures.kernel_roofline(resnet)
    assert drawn.layout.xaxis.type == drawn.layout.yaxis.type == "log"
    points = [trace for trace in drawn.data if trace.mode == "markers" and trace.showlegend is None]
    assert sorted(np.concatenate([trace.x for trace in points])) == sorted(
        known["arithmetic_intensity"]
    )
    assert sorted(np.concatenate([trace.y for trace in points])) == sorted(known["flops_per_s"])
    assert f"{len(table) - len(known)} of {len(table)} kernels" in note(drawn)
    bandwidth = peaks(resnet).set_index("resource")["per_s"]["dram"]
    ridges = [
        trace for trace in drawn.data if trace.mode == "markers" and trace.showlegend is False
    ]
    assert len(ridges) >= known["precision"].nunique()
    for ridge in ridges:
        assert ridge.y[0] == pytest.approx(ridge.x[0] * bandwidth)
    texts = [trace.text[0] for trace in drawn.data if trace.mode == "text"]
    assert any(text.startswith("DRAM") for text in texts)
    assert any(text.startswith("fp16 tensor") for text in texts)


def test_layers_roofline_has_every_known_layer(resnet: xsp.Profile) -> None:
    """A14: a mark per layer with FLOPs and traffic, of the size of its time, with symbols that
    differ by kind.
    """
    table = analysis.layer_roofline(resnet)
    known = table[(table["arithmetic_intensity"] > 0) & (table["flops_per_s"] > 0)]
    points = [
        trace
        for trace in figures.layer_roofline(resnet).data
        if trace.mode == "markers" and trace.name
    ]
    assert sum(len(trace.x) for trace in points) == len(known)
    assert len({trace.marker.symbol for trace in points}) == len(points) > 2


def test_kernels_by_name_are_the_largest(resnet: xsp.Profile) -> None:
    """A10: bars of summed latency with share and calls as text; what is not drawn is counted."""
    table = analysis.kernels_by_name(resnet)
    drawn = figures.kernels_by_name(resnet)
    lengths = {int(y): x for trace in drawn.data for x, y in zip(trace.x, trace.y, strict=True)}
    largest = table["latency_ms"].nlargest(len(lengths)).to_numpy()
    np.testing.assert_allclose([lengths[row] for row in range(len(lengths))], largest)
    assert f"{len(table) - len(lengths)} smallest of {len(table)} names" in note(drawn)


def test_icicle_adds_up_to_the_timeline(step: xsp.Profile) -> None:
    """The stack: the whole is the device's timeline, a layer as wide as its latency, every node
    below its parent.
    """
    (trace,) = figures.hierarchy(step).data
    timeline = step.device_timeline()
    assert sum(trace.values) == pytest.approx(
        (timeline["busy_ms"] + timeline["idle_before_ms"]).sum(), rel=0.01
    )
    ids = list(trace.ids)
    assert len(set(ids)) == len(ids)
    assert set(trace.parents) - {""} <= set(ids)
    assert min(trace.values) >= 0
    layers = analysis.layer_latency(step)
    widest = layers.sort_values("latency_ms").iloc[-1]
    (text,) = [
        text
        for text in trace.hovertext
        if f"<b>{widest['name']}</b>" in text and "backward" not in text
    ]
    assert f"{widest['latency_ms']:.3f} ms" in text


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours, 1 to 21."""
    parts = np.array(
        [[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in (one, other)]
    )
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ (0.2126, 0.7152, 0.0722) + 0.05)
    return float(high / low)


def test_names_in_the_icicle_can_be_read(step: xsp.Profile) -> None:
    """Text stands out from every node's colour, those of modules too, with a ratio of more
    than 4.
    """
    (trace,) = figures.hierarchy(step).data
    pairs = set(zip(trace.textfont.color, trace.marker.colors, strict=True))
    assert len(pairs) > 4
    assert min(contrast(*pair) for pair in pairs) > 4


@pytest.mark.parametrize("name", ["layer_latency", "hierarchy", "layer_latency_by_type"])
def test_marks_are_limited_however_many_layers(name: str) -> None:
    """A model of 5,000 layers gives a figure of at most MARKS marks that says what is not drawn."""
    drawn = getattr(figures, name)(wide_profile(5000))
    assert marks(drawn) <= MARKS
    assert name == "layer_latency_by_type" or re.search("500[012]", note(drawn))


def test_names_are_text_not_markup() -> None:
    """Names with markup in them are escaped: plotly reads tags in its texts."""
    prof = gpu_profile(name="<script>alert(1)</script>")
    for name in figures.__all__:
        drawn = getattr(figures, name)(prof).update_layout(meta=None)
        written = drawn.to_json().replace("\\u003c", "<").replace("\\u003e", ">")
        assert "<script" not in written
        assert "<b>act" not in written
        assert "<float>" not in written
    assert "<script>" in HOSTILE_KERNEL


def test_bars_of_overlapping_kernels_are_not_longer_than_the_latency() -> None:
    """A15: kernels that run side by side add up to more than the latency; the bar is the time that
    the GPU is busy.
    """
    prof = xsp.load(CAPTURES / "models" / "wav2vec2_base.xsp")
    assert analysis.kernels_by_model(prof)["kernel_latency_ms"][0] > prof.latency_ms
    busy, idle, *_ = figures.kernels_by_model(prof).data
    assert busy.y[0] + idle.y[0] == pytest.approx(prof.latency_ms)
    assert idle.y[0] > 0


@pytest.mark.parametrize(
    "name", ["kernel_roofline", "layer_metrics", "kernels_by_name", "kernels_by_model"]
)
def test_notes_tell_what_was_counted(name: str) -> None:
    """Where the hardware counted DRAM bytes and no FLOPs, the note says so of each; where both, of
    both.
    """
    draw, capture = getattr(figures, name), gpu_capture()
    fused = {
        f"smsp__sass_thread_inst_executed_op_f{each}_pred_on.sum": 1e6
        for each in ("add", "mul", "fma")
    }
    others = [name.replace("_op_f", f"_op_{letter}") for name in fused for letter in "dh"]
    dram = {"dram__bytes_read.sum": 2e6, "dram__bytes_write.sum": 1e6}
    tensor = {"sm__ops_path_tensor_src_bf16_dst_fp32.sum": 1e6}

    def counting(**columns: float) -> xsp.Profile:
        position = np.arange(4)
        table = pd.DataFrame(
            {"position": position, "kernel": position, "sample": position, **columns}
        )
        return xsp.Profile(replace(capture, tables={**capture.tables, "counters": table}))

    assert "FLOPs are analytic" in note(draw(counting(**dram)))
    assert "DRAM bytes were counted by the hardware." in note(draw(counting(**dram)))
    every = counting(**dram, **fused, **dict.fromkeys(others, 0.0), **tensor)
    assert "FLOPs and DRAM traffic were counted by the hardware." in note(draw(every))


def test_work_of_a_model_on_the_cpu_is_called_analytic(on_cpu: xsp.Profile) -> None:
    """Without kernels FLOPs and bytes are from the layers' shapes, and the figure of them
    says so.
    """
    assert analysis.layer_metrics(on_cpu)["flops"].notna().any()
    assert note(figures.layer_metrics(on_cpu)).startswith("Analytic, not counted")


def test_colours_are_the_same_everywhere(resnet: xsp.Profile) -> None:
    """Convolutions have one colour in the bars, the shares and the rooflines; no two kinds share a
    symbol.
    """
    colour = family("Conv2d").colour
    for drawn in (
        figures.layer_latency(resnet),
        figures.layer_roofline(resnet),
        figures.kernel_roofline(resnet),
    ):
        (trace,) = [trace for trace in drawn.data if trace.name == "convolution"]
        assert trace.marker.color == colour
    (shares,) = figures.layer_latency_by_type(resnet).data
    assert colour in shares.marker.color
    assert (
        len({one.symbol for one in FAMILIES})
        == len({one.colour for one in FAMILIES})
        == len(FAMILIES)
    )


# Machado, Oliveira and Fernandes, 2009: linear RGB as an eye sees it that lacks one kind of cone.
EYES = {
    "none": np.eye(3),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ]
    ),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.3039],
        ]
    ),
}


def lab(colour: str, eye: Any) -> Any:
    """CIELAB (D65) of `#rrggbb` as an eye sees it."""
    parts = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    seen = np.clip(eye @ linear, 0, 1)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = to_xyz @ seen / (0.9505, 1.0, 1.089)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", EYES)
def test_kinds_can_be_told_apart_by_every_eye(eye: str) -> None:
    """There are at most six colours of kinds, and to an eye without one kind of cone no two are
    nearer than 24 in CIELAB, ten times what can just be seen.
    """
    colours = [each.colour for each in (*FAMILIES, OTHER)]
    assert len(colours) <= 6
    seen = [lab(colour, EYES[eye]) for colour in colours]
    pairs = itertools.combinations(seen, 2)
    assert min(float(np.linalg.norm(one - other)) for one, other in pairs) > 24


def test_colours_have_one_meaning() -> None:
    """No kind has the colour of busy or idle time or of what is of no kind."""
    kinds = {each.colour for each in (*FAMILIES, OTHER)}
    assert not kinds & {BUSY, IDLE, OUTER}
    assert len({BUSY, IDLE, OUTER}) == 3


def test_layers_by_cost_are_the_costliest(step: xsp.Profile) -> None:
    """Busy and waiting parts add up to what a layer costs, the largest first, and layers whose
    interval is wider than that are counted and not drawn.
    """
    table = analysis.layer_information(step)
    doubtful = table["latency_ci_ms"] >= table["latency_ms"]
    wanted = table[~doubtful].nlargest(20, "latency_ms")["latency_ms"].to_numpy()
    drawn = figures.layers_by_cost(step)
    busy, waiting = (np.array(trace.x, dtype=float) for trace in drawn.data)
    np.testing.assert_allclose(busy + waiting, wanted)
    assert f"{int(doubtful.sum())} are not ranked" in note(drawn)


@pytest.mark.parametrize(
    ("layer_type", "kind"),
    [
        ("Conv2d", "convolution"),
        ("ConvTranspose2d", "convolution"),
        ("Conv1D", "matrix product"),
        ("Linear", "matrix product"),
        ("matmul", "matrix product"),
        ("baddbmm", "matrix product"),
        ("scaled_dot_product_attention", "attention"),
        ("MultiheadAttention", "attention"),
        ("BatchNorm2d", "reduction"),
        ("LlamaRMSNorm", "reduction"),
        ("ReLU6", "elementwise and movement"),
        ("NewGELUActivation", "elementwise and movement"),
        ("hardswish", "elementwise and movement"),
        ("AdaptiveAvgPool2d", "reduction"),
        ("add", "elementwise and movement"),
        ("iadd", "elementwise and movement"),
        ("foreach_mul", "elementwise and movement"),
        ("Embedding", "elementwise and movement"),
        ("EmbeddingBag", "elementwise and movement"),
        ("CrossEntropyLoss", "reduction"),
        ("softmax", "reduction"),
        ("cat", "elementwise and movement"),
        ("flatten", "elementwise and movement"),
        ("to", "elementwise and movement"),
        ("Mystery", "other"),
    ],
)
def test_types_have_kinds(layer_type: str, kind: str) -> None:
    """The kind of layer, which gives colour and symbol, follows from the type's name."""
    assert family(layer_type).name == kind


def test_models_without_a_batch_size_are_drawn_too(resnet: xsp.Profile, step: xsp.Profile) -> None:
    """A training step's batch size is not known: its bar and its mark have the name alone."""
    drawn = figures.kernels_by_model([resnet, step])
    assert list(drawn.layout.xaxis.ticktext) == [f"{resnet.name} batch 32", escape(step.name)]
    [alone] = [
        trace for trace in figures.kernels_by_model(step).data if trace.name == escape(step.name)
    ]
    assert "batch" not in alone.hovertext[0]


def test_sweep_figures_show_every_profile(resnet: xsp.Profile, step: xsp.Profile) -> None:
    """A1 and A15 over several profiles: throughput and latency by batch size, GPU time, and a place
    in the roofline.
    """
    both = [resnet, xsp.load(CAPTURES / "h100_transformer.xsp")]
    table = analysis.model_information(both)
    drawn = figures.model_information(both)
    upper = {(trace.name, trace.x[0]): trace.y[0] for trace in drawn.data if trace.yaxis is None}
    for name, batch, throughput in table[["name", "batch_size", "throughput_per_s"]].itertuples(
        index=False
    ):
        assert upper[name, batch] == pytest.approx(throughput)
    busy, idle, *_ = figures.kernels_by_model(both).data
    np.testing.assert_allclose(busy.y, [prof.tree()["device_ms"].iloc[0] for prof in both])
    np.testing.assert_allclose(np.add(busy.y, idle.y), [prof.latency_ms for prof in both])
    assert figures.model_information(step).layout.meta["empty"]
