"""The analyses without a GPU: the host's times, and FLOPs and bytes from the shapes of layers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from captures import gpu_capture
from quick import measured, profiled
from scipy.stats import trim_mean
from torch import nn
from torch.nn.utils import weight_norm
from torch.utils.flop_counter import FlopCounterMode

import xsp
from xsp import analysis
from xsp.capture.file import Capture

KERNEL_ANALYSES = (
    "kernel_information",
    "kernel_roofline",
    "kernels_by_name",
    "kernels_by_layer",
    "kernels_by_library_call",
)


@pytest.fixture(scope="module")
def cpu() -> xsp.Profile:
    """A small convolutional model on the CPU, down to its layers."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10, bias=False)
    )
    return profiled(model, torch.randn(4, 3, 8, 8))


def test_layers_on_the_cpu_have_the_hosts_time(cpu: xsp.Profile) -> None:
    """Without a GPU a layer's latency is the host's time in it, from the rung of layers."""
    spans = cpu.spans
    own = spans[(spans["level"] == "LAYER") & (spans["rung"] == "M/L")]
    by_layer = own.pivot_table(index="run", columns="detail", values="duration_ns", aggfunc="sum")
    assert cpu.corrected is None
    table = analysis.layer_information(cpu)
    assert table["type"].tolist() == ["Conv2d", "ReLU", "Flatten", "Linear"]
    assert table["shape"].tolist() == ["4, 8, 8, 8", "4, 8, 8, 8", "4, 512", "4, 10"]
    np.testing.assert_allclose(
        table["latency_ms"], trim_mean(by_layer.to_numpy(), 0.2, axis=0) / 1e6
    )
    assert table["device_ms"].isna().all()


def test_kernel_analyses_are_empty_on_the_cpu(
    cpu: xsp.Profile, profiles: dict[str, xsp.Profile]
) -> None:
    """Without kernels the analyses of kernels are empty and have the columns that they have on a
    GPU.
    """
    for name in (*KERNEL_ANALYSES, "library_calls", "library_by_api"):
        table = getattr(analysis, name)(cpu)
        assert len(table) == 0
        assert (
            table.columns.tolist()
            == getattr(analysis, name)(profiles["transformer"]).columns.tolist()
        )
    [model] = analysis.kernels_by_model(cpu).to_dict("records")
    assert model["kernel_latency_ms"] == 0
    assert np.isnan(model["flops"])
    assert analysis.gpu_vs_nongpu(cpu)["gpu_ms"].isna().all()


def test_layers_on_the_cpu_are_rated_from_their_shapes(cpu: xsp.Profile) -> None:
    """FLOPs and bytes of layers come from their shapes, and their throughput from the
    host's time.
    """
    metrics = analysis.layer_metrics(cpu)
    assert metrics["flops"].tolist() == [2 * 4 * 8 * 64 * 27, 0, 0, 2 * 4 * 10 * 512]
    assert metrics["dram_read_bytes"].tolist()[3] == 4 * (4 * 512 + 512 * 10)
    assert metrics["dram_write_bytes"].tolist()[2:] == [0, 4 * 4 * 10]
    roofline = analysis.layer_roofline(cpu)
    assert roofline["precision"].tolist() == ["fp32", "", "", "fp32"]
    latency = analysis.layer_latency(cpu)["latency_ms"]
    np.testing.assert_allclose(roofline["flops_per_s"], metrics["flops"] / (latency / 1e3))


class Each(nn.ModuleDict):
    """Modules that are called one after another, each with inputs of its own."""

    def forward(self, inputs: list[tuple[torch.Tensor, ...]]) -> None:
        for module, own in zip(self.values(), inputs, strict=True):
            module(*own)


Modules = dict[str, tuple[nn.Module, tuple[torch.Tensor, ...]]]


def each_measured(modules: Modules) -> xsp.Profile:
    """A profile of modules that are called one after another."""
    model = Each({name: module for name, (module, _) in modules.items()})
    with torch.no_grad():
        return measured(model, [inputs for _, inputs in modules.values()])


def layer_by_layer(modules: Modules) -> pd.DataFrame:
    """`layer_metrics` of modules that are called one after another, by the layer's name."""
    return analysis.layer_metrics(each_measured(modules)).set_index("layer")


def counted_by_torch(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """FLOPs by torch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    result: int = counter.get_total_flops()
    return result


def test_flops_by_definition_are_those_that_torch_counts() -> None:
    """Convolutions, products and recurrent networks have the FLOPs of torch's counter."""
    rand = torch.randn
    modules: Modules = {
        "conv1d": (nn.Conv1d(8, 16, 5), (rand(2, 8, 50),)),
        "conv_unbatched": (nn.Conv2d(3, 16, 3, stride=2), (rand(3, 33, 33),)),
        "conv_dilated": (nn.Conv2d(8, 16, 3, dilation=2, bias=False), (rand(2, 8, 20, 20),)),
        "conv3d": (nn.Conv3d(4, 8, 3), (rand(2, 4, 8, 8, 8),)),
        "depthwise": (nn.Conv2d(16, 16, 3, groups=16), (rand(2, 16, 20, 20),)),
        "grouped": (nn.Conv2d(8, 16, 3, groups=2), (rand(2, 8, 20, 20),)),
        "one_channel": (nn.Conv2d(1, 8, 3), (rand(2, 1, 20, 20),)),
        "half_precision": (nn.Conv2d(8, 16, 3).bfloat16(), (rand(2, 8, 20, 20).bfloat16(),)),
        "transposed": (nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2), (rand(2, 8, 20, 20),)),
        "weight_norm": (weight_norm(nn.Conv2d(2, 4, 3)), (rand(2, 2, 10, 10),)),
        "linear": (nn.Linear(32, 64), (rand(4, 7, 32),)),
        "lstm": (nn.LSTM(8, 16, 2, bidirectional=True, proj_size=5), (rand(10, 3, 8),)),
        "gru": (nn.GRU(8, 16, batch_first=True), (rand(3, 10, 8),)),
        "rnn_unbatched": (nn.RNN(8, 16, 2), (rand(10, 8),)),
        "cell": (nn.LSTMCell(8, 16), (rand(3, 8),)),
    }
    found = layer_by_layer(modules)["flops"]
    for name, (module, inputs) in modules.items():
        assert found[name] == counted_by_torch(module, inputs) > 0, name


def test_captures_without_filters_have_flops_where_parameters_tell() -> None:
    """Before the shapes of filters were recorded: FLOPs by the number of parameters, NaN where it
    has two readings.
    """
    x = torch.randn(2, 8, 20, 20)
    # Eight channels: a dense 1x1 filter with a bias has as many parameters as a depthwise 3x3 one
    # without.
    modules: Modules = {
        "dense": (nn.Conv2d(8, 16, 3), (x,)),
        "depthwise": (nn.Conv2d(8, 8, 3, groups=8), (x,)),
        "grouped": (nn.Conv2d(8, 16, 3, groups=2), (x,)),
        "either": (nn.Conv2d(8, 8, 1), (x,)),
        "or": (nn.Conv2d(8, 8, 3, groups=8, bias=False), (x,)),
    }
    new = each_measured(modules)._capture
    old = Capture(
        new.meta, new.tables | {"layers": new.tables["layers"].drop(columns="weight_shape")}
    )
    found = analysis.layer_metrics(xsp.Profile(old)).set_index("layer")["flops"]
    for name in ("dense", "depthwise"):
        assert found[name] == counted_by_torch(*modules[name]) > 0, name
    assert found[["grouped", "either", "or"]].isna().all()


@pytest.mark.parametrize("data_type", [torch.float32, torch.bfloat16])
def test_functional_convolutions_count_their_filters(data_type: torch.dtype) -> None:
    """Where the filters are an operand, FLOPs are torch's whatever the groups, bias, direction and
    precision.
    """

    def call(
        image: torch.Tensor, series: torch.Tensor, filters: torch.Tensor, bias: torch.Tensor
    ) -> None:
        nn.functional.conv2d(image, filters, bias[:8], groups=2, dilation=2)
        nn.functional.conv_transpose2d(image, filters, bias, stride=2, groups=4)
        nn.functional.conv1d(series, filters[:, :, 0], padding=1)
        nn.functional.conv2d(image[0], filters, groups=2)
        nn.functional.conv2d(weight=filters, input=image, groups=2)

    rand = partial(torch.randn, dtype=data_type)
    inputs = rand(2, 8, 9, 9), rand(2, 4, 20), rand(8, 4, 3, 3), rand(16)
    with FlopCounterMode(display=False) as counter:
        call(*inputs)
    metrics = analysis.layer_metrics(measured(call, *inputs)).set_index("type")
    counted = metrics.loc[metrics.index.str.startswith("conv"), "flops"]
    assert counted.sum() == counter.get_total_flops()


def test_what_gathers_reads_rows_and_not_the_table() -> None:
    """Embeddings, bags of them and indexing read their indices and the rows that these name; a bag
    adds the rows up.
    """
    embedding, bag, table = nn.Embedding(1000, 16), nn.EmbeddingBag(1000, 16), torch.randn(1000, 16)

    def call(indices: torch.Tensor) -> None:
        embedding(indices)
        bag(indices)
        nn.functional.embedding(indices, table)
        table[indices]

    metrics = analysis.layer_metrics(measured(call, torch.randint(0, 1000, (4, 7))))
    gathers = metrics[metrics["type"].str.contains("mbedding|getitem")]
    assert len(gathers) == 4
    assert set(gathers["dram_read_bytes"]) == {4 * 7 * (8 + 16 * 4)}
    assert gathers["flops"].tolist() == [
        4 * 7 * 16 * (kind == "EmbeddingBag") for kind in gathers["type"]
    ]


def test_only_the_model_was_traced() -> None:
    """A profile of rung M alone has no layers, and every analysis still answers."""
    capture = gpu_capture()
    runs = capture.tables["runs"]
    own = runs[runs["rung"] == "M"]
    spans = capture.tables["spans"]
    spans = spans[spans["run"].isin(own["run"])].reset_index(drop=True)
    spans["parent"] = -1
    nothing = {
        name: capture.tables[name][:0]
        for name in ("layers", "library_calls", "kernels", "api_calls")
    }
    prof = xsp.Profile(
        replace(capture, tables={**capture.tables, **nothing, "runs": own, "spans": spans})
    )
    sizes = {
        name: len(getattr(analysis, name)(prof)) for name in analysis.__all__ if name != "compare"
    }
    assert {name for name, size in sizes.items() if size} - {"compare_models"} == {
        "model_information",
        "kernels_by_model",
    }
