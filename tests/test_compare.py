"""Two profiles compared: the guilty layer comes first, counts are exact, and times only where they
mean something.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from captures import gpu_capture, gpu_profile, profile_without
from mutations import MUTATIONS, Mutation, Net, mutated
from torch import nn

import xsp
from xsp.capture.file import Capture
from xsp.comparing.comparable import Comparable, comparable
from xsp.comparing.comparison import Comparison
from xsp.errors import XspError

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"
SMALL = {"levels": "M/L", "iterations": 2, "warmup": 1, "progress": False}


def profiled(model: nn.Module) -> xsp.Profile:
    """Two rounds of layers of the small model."""
    with torch.no_grad():
        return xsp.measure(model, torch.ones(2, 3, 16, 16), **SMALL)


@cache
def baseline() -> tuple[Net, xsp.Profile]:
    """The model that is mutated, and its profile."""
    torch.manual_seed(0)
    net = Net().eval()
    return net, profiled(net)


@cache
def resnet() -> xsp.Profile:
    """ResNet-50 on an H100."""
    return xsp.load(CAPTURES / "h100_resnet50.xsp")


def edited(
    profile_or_capture: Capture, **edits: Callable[[pd.DataFrame], pd.DataFrame]
) -> xsp.Profile:
    """A capture with some tables replaced by what a function makes of them."""
    tables = profile_or_capture.tables | {
        name: edit(profile_or_capture.tables[name].copy()) for name, edit in edits.items()
    }
    return xsp.Profile(Capture(profile_or_capture.meta, tables))


def slower(layer: str, factor: float) -> xsp.Profile:
    """ResNet-50 with the kernels of a layer so many times as long, and the model by as much."""
    prof = resnet()
    tables = prof.raw_tables("spans", "runs", "layers", "kernels", "library_calls")
    spans, layers = tables["spans"], tables["layers"]
    parent = spans["parent"].to_numpy()
    mine = (spans["level"] == 1).to_numpy() & (layers["name"].to_numpy() == layer)[
        spans["detail"].to_numpy() % len(layers)
    ]
    above = np.where(spans["level"].to_numpy()[parent] == 2, parent[parent], parent)
    hit = (spans["level"] == 3).to_numpy() & mine[above]
    spans.loc[hit, "duration_ns"] = (spans.loc[hit, "duration_ns"] * factor).astype(int)
    capture = prof._capture
    return xsp.Profile(Capture(capture.meta, capture.tables | {"spans": spans}))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_the_first_sentence_names_the_mutated_layer(mutation: Mutation) -> None:
    """Whatever was changed in a model, the first sentence of the comparison names the layer that
    was changed.
    """
    net, before = baseline()
    found = xsp.compare(before, profiled(mutated(net, mutation)))
    assert mutation.named in found.sentences[0]


def test_the_same_model_twice_has_no_change() -> None:
    """Two profiles of one model: every node is the same, no count differs, and the first sentence
    says so.
    """
    net, before = baseline()
    found = xsp.compare(before, profiled(copy.deepcopy(net)))
    assert set(found.nodes["change"]) == {"same"}
    assert (found.counts["a"] == found.counts["b"]).all()
    assert found.counts_grew == []
    assert found.sentences[0].startswith("No layer changed")


def test_an_inserted_layer_shifts_nothing() -> None:
    """A layer inserted at the front of a Sequential appears alone; all others are found under their
    new names.
    """
    torch.manual_seed(0)
    layers = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)]
    x = torch.ones(1, 8)
    a = xsp.measure(nn.Sequential(*layers), x, **SMALL)
    b = xsp.measure(nn.Sequential(nn.LayerNorm(8), *layers), x, **SMALL)
    nodes = xsp.compare(a, b).nodes
    leaves = nodes[nodes["level"] == "LAYER"]
    assert leaves.loc[leaves["change"] == "appeared", "path_b"].tolist() == ["Sequential/0"]
    assert (leaves["change"] == "same").sum() == 5
    assert leaves.loc[leaves["path_a"] == "Sequential/2", "path_b"].tolist() == ["Sequential/3"]


def test_a_renamed_module_is_found_with_all_its_layers() -> None:
    """A renamed module is one sentence; its layers are the same as before."""

    class Named(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.called = name
            self.add_module(name, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.get_submodule(self.called)(x)
            return output

    a, b = (xsp.measure(Named(name), torch.ones(1, 4), **SMALL) for name in ("encoder", "backbone"))
    found = xsp.compare(a, b)
    assert set(found.nodes["change"]) == {"same"}
    assert (
        found.sentences[0] == "`encoder` is called `backbone` now; nothing else about it changed."
    )
    assert [cause.kind.name for cause in found.causes] == ["RENAMED"]


def test_a_wrapped_module_keeps_its_layers() -> None:
    """A model put into a Sequential has the same layers, a level further down."""
    inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    a = xsp.measure(inner, torch.ones(1, 4), **SMALL)
    b = xsp.measure(nn.Sequential(inner), torch.ones(1, 4), **SMALL)
    nodes = xsp.compare(a, b).nodes
    assert (nodes.loc[nodes["level"] == "LAYER", "change"] == "same").all()


def test_a_replaced_kernel_is_named_with_both_names() -> None:
    """A kernel under another name in the same layer: the layer first, then which kernel gave way to
    which.
    """
    rename = {"sm90_xmma_fprop_implicit_gemm": "sm80_xmma_fprop_128x128"}
    found = xsp.compare(
        gpu_profile(),
        edited(gpu_capture(), kernels=lambda t: t.assign(name=t["name"].replace(rename))),
    )
    assert "`block.conv` (Conv2d)" in found.sentences[0]
    assert (
        "kernel `sm90_xmma_fprop_implicit_gemm` was replaced by `sm80_xmma_fprop_128x128`"
        in found.sentences[0]
    )
    kernels = found.nodes[found.nodes["level"] == "KERNEL"]
    assert sorted(kernels.loc[kernels["change"] != "same", "change"]) == ["appeared", "vanished"]


def with_more(kind: str, name: str, of: int, times: int) -> xsp.Profile:
    """The synthetic profile with further kernels or copies in the layer of kernel number `of`."""
    capture = gpu_capture()
    spans, kernels = capture.tables["spans"], capture.tables["kernels"]
    row = kernels.iloc[[of]].assign(kind=kind, name=name, bytes=4096 if kind == "memcpy" else 0)
    one = spans[(spans["level"] == 3) & (spans["detail"] == of)].assign(detail=len(kernels))
    more = [
        one.assign(start_ns=one["start_ns"] + 200_000 + 20_000 * n, duration_ns=10_000)
        for n in range(times)
    ]
    return edited(
        capture,
        spans=lambda t: pd.concat([t, *more], ignore_index=True),
        kernels=lambda t: pd.concat([t, row], ignore_index=True),
    )


def test_added_copies_are_counted() -> None:
    """Two copies more: the sentence names the layer and both numbers, and counts and bytes are
    exact.
    """
    found = xsp.compare(gpu_profile(), with_more("memcpy", "Memcpy DtoD", 2, 2))
    assert "block.\\x3cb" not in found.sentences[0]
    assert "2 more copies (2 instead of 0)" in found.sentences[0]
    counts = found.counts.set_index("count")
    assert list(counts.loc["copies"]) == [0, 2]
    assert list(counts.loc["copied_bytes"]) == [0, 8192]
    assert list(counts.loc["kernels"]) == [4, 4]
    assert found.counts_grew == ["copies", "copied_bytes"]


def test_a_kernel_that_broke_up_says_into_what() -> None:
    """One kernel gone and two others there instead, in one layer."""
    more = with_more("kernel", "first_half", 1, 1)._capture
    more.tables["kernels"].loc[1, "name"] = "second_half"
    found = xsp.compare(gpu_profile(), xsp.Profile(more))
    assert "`block.conv` (Conv2d)" in found.sentences[0]
    assert "kernel `sm90_xmma_fprop_implicit_gemm` broke up into" in found.sentences[0]
    assert "`first_half`" in found.sentences[0]
    assert "`second_half`" in found.sentences[0]


def test_a_new_wait_for_the_device_is_seen() -> None:
    """A synchronisation in a layer is a change of that layer, also where everything else is as
    before.
    """
    capture = gpu_capture()
    spans = capture.tables["spans"]
    fc = spans[(spans["level"] == 1) & (spans["detail"] == 2) & (spans["run"] % 4 == 3)]
    waits = pd.DataFrame(
        {
            "run": fc["run"],
            "name": "cudaStreamSynchronize",
            "parent": fc.index,
            "start_ns": fc["start_ns"] + 1000,
            "duration_ns": 1000,
            "thread": 7,
            "correlation_id": 99,
        }
    )
    more = edited(
        capture,
        api_calls=lambda t: pd.concat(
            [t.assign(name=t["name"].astype(str)), waits], ignore_index=True
        ),
    )
    found = xsp.compare(gpu_profile(), more)
    assert found.sentences[0].startswith(
        "`fc` (Linear) changed: the host waits in it for the device 1 times instead of 0"
    )
    assert found.counts_grew == ["synchronizations"]


def test_a_slower_layer_without_a_change_is_named() -> None:
    """A layer of ResNet-50 on an H100 whose kernels take 20 % longer is first, and the only one."""
    found = xsp.compare(resnet(), slower("layer3.2.conv2", 1.2))
    assert found.sentences[0].startswith("`layer3.2.conv2` (Conv2d) is slower")
    node = found.nodes[
        (found.nodes["name"] == "layer3.2.conv2") & (found.nodes["level"] == "LAYER")
    ].iloc[0]
    # Less than 1.2: the longer kernels cover gaps between them, and busy time is their union.
    assert 1.1 < node["ratio"] <= 1.2
    assert node["verdict"] == "regression"
    assert node["metric"] == "device"
    layers = found.nodes[found.nodes["level"] == "LAYER"]
    assert (layers["verdict"] == "regression").sum() == 1


def test_times_of_another_machine_are_refused_and_counts_compared() -> None:
    """With another driver no time is compared, the sentence says which fact differs, and counts are
    still exact.
    """
    other = gpu_profile(environment={**gpu_capture().meta["environment"], "driver": "575.3"})
    found = xsp.compare(gpu_profile(), other)
    assert found.refusal is not None
    assert "driver 580.1 in the baseline, 575.3 in the candidate" in found.refusal
    assert found.verdict.name == "undecided"
    assert found.nodes["ratio"].isna().all()
    assert list(found.counts.set_index("count").loc["kernels"]) == [4, 4]
    assert xsp.compare(gpu_profile(), other, allow=["driver"]).refusal is None


def test_a_fact_that_does_not_exist_cannot_be_allowed() -> None:
    """A misspelt fact is an error that lists those there are."""
    with pytest.raises(xsp.XspError, match="'drivers' is not a fact"):
        xsp.compare(gpu_profile(), gpu_profile(), allow=["drivers"])


def test_times_of_other_inputs_are_not_compared() -> None:
    """A batch of another size is no regression and no improvement: times are refused, unless that
    is allowed.
    """
    model = nn.ReLU()
    small, large = (xsp.measure(model, torch.ones(size, 4), **SMALL) for size in (2, 64))
    found = xsp.compare(small, large)
    assert found.refusal == (
        "times are not compared, only counts: inputs 2×4 float32 in the baseline, "
        "64×4 float32 in the candidate"
    )
    assert np.isnan(found.verdict.ratio)
    assert xsp.compare(small, large, allow=["inputs"]).refusal is None


@pytest.mark.parametrize(
    ("option", "value"), [("threshold", -0.1), ("threshold", np.nan), ("alpha", 0), ("alpha", 1.5)]
)
def test_thresholds_that_cannot_be_are_refused(option: str, value: float) -> None:
    """The message has the value and the rule."""
    options: dict[str, Any] = {option: value}
    with pytest.raises(XspError, match=f"{option} must be .*, not {value}"):
        xsp.compare(gpu_profile(), gpu_profile(), **options)


def test_a_level_that_one_side_lacks_is_not_compared() -> None:
    """Without kernels on one side, kernels are neither gone nor counted, and a sentence says so."""
    found = xsp.compare(gpu_profile(), profile_without("KERNEL", "no GPU"))
    assert "kernels" not in set(found.counts["count"])
    assert (
        "The level KERNEL was traced in the baseline only and is not compared." in found.sentences
    )
    assert found.sentences[0].startswith("No layer changed")


def test_a_baseline_in_json_compares_like_its_profile() -> None:
    """What is kept of a profile as JSON gives the sentences, counts and verdicts that the profile
    gives.
    """
    kept = Comparable.from_json(comparable(resnet()).to_json())
    candidate = slower("layer3.2.conv2", 1.2)
    direct, stored = xsp.compare(resnet(), candidate), xsp.compare(kept, candidate)
    assert stored.sentences == direct.sentences
    pd.testing.assert_frame_equal(stored.counts, direct.counts)
    assert (stored.nodes["verdict"] == direct.nodes["verdict"]).mean() > 0.99


def test_text_that_is_no_baseline_is_an_error() -> None:
    """Other JSON, and no JSON at all, raise CaptureError with the way out."""
    for text in ("{}", "[1]", "not json"):
        with pytest.raises(xsp.CaptureError, match="measure and save it again"):
            Comparable.from_json(text)


def test_the_dictionary_is_json() -> None:
    """`to_dict` holds no NaN and nothing that JSON lacks."""
    found = xsp.compare(gpu_profile(), with_more("memcpy", "Memcpy DtoD", 2, 2))
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["sentences"] == list(found.sentences)


def test_models_without_a_common_layer_fill_no_screen() -> None:
    """Of two models that have nothing in common the text shows a few layers of each and says how
    many more there are; the data have them all.
    """
    train_step, transformer = (
        xsp.load(CAPTURES / f"h100_{name}.xsp") for name in ("train_step", "transformer")
    )
    found = xsp.compare(train_step, transformer)
    layers = found.nodes[found.nodes["level"] == "LAYER"]
    lines = str(found).splitlines()
    for change in ("vanished", "appeared"):
        told = [line for line in lines if f"  {change}  " in line]
        count = int((layers["change"] == change).sum())
        assert count > 100
        assert len(told) == 6
        assert told[-1].startswith(f"and {count - 5} more")


def test_three_thousand_layers_take_seconds() -> None:
    """Layers inserted and dropped all over a model of 3,000 layers are found, and nothing else."""
    from captures import wide_profile

    a = comparable(wide_profile(3000))
    gone, new = np.arange(100, 3000, 500), np.arange(300, 3000, 500)
    types = a.nodes["type"].to_numpy(object).copy()
    types[:] = [f"Type{at % 7}" for at in range(len(types))]
    nodes = a.nodes.assign(type=types)
    b = nodes.drop(index=gone.tolist()).reset_index(drop=True)
    extra = nodes.iloc[new].assign(
        type="Other", name=[f"new{at}" for at in new], path=[f"Net/new{at}" for at in new]
    )
    extra = extra.assign(order=extra["order"] - 0.5)
    b = pd.concat([b, extra], ignore_index=True)
    found = xsp.compare(_with(a, nodes), _with(a, b)).nodes
    assert (found["change"] == "vanished").sum() == len(gone)
    assert (found["change"] == "appeared").sum() == len(new)


def _with(like: Comparable, nodes: pd.DataFrame) -> Comparable:
    return Comparable(like.name, like.environment, like.levels, nodes, {}, {}, like.counts)


class Sleep(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return x


@pytest.mark.usefixtures("virtual_clock")
def test_in_turn_a_slower_layer_is_found() -> None:
    """Two models measured in turn that differ only in how long one layer takes: a regression, in
    that layer.
    """
    a, b = (
        nn.Sequential(nn.Linear(8, 8), Sleep(seconds), nn.Linear(8, 8))
        for seconds in (0.002, 0.006)
    )
    with torch.no_grad():
        found = xsp.compare_targets(
            a, b, torch.ones(1, 8), iterations=30, levels="M/L", warmup=2, progress=False
        )
    assert found.verdict.name == "regression"
    assert 1.5 < found.verdict.ratio < 3.5
    assert found.sentences[0].startswith("`1` (Sleep) is slower")


@pytest.mark.usefixtures("virtual_clock")
def test_what_is_undecided_in_turn_says_how_many_rounds_are_needed() -> None:
    """Eight rounds of a threefold latency cannot be significant, and the sentence says so; those of
    the ladder, which decide nothing, are not counted.
    """
    a, b = Sleep(0.001), Sleep(0.004)
    few = xsp.compare_targets(
        a, b, torch.ones(1), iterations=8, localise=False, warmup=1, progress=False
    )
    assert few.verdict.name == "undecided"
    assert few.sentences[0] == "No layers were traced, so only the whole model is compared."
    assert "with 8 runs nothing can be significant, 10 are needed" in few.sentences[1]
    same = xsp.compare_targets(
        a, a, torch.ones(1), iterations=20, localise=False, threshold=1e-9, progress=False
    )
    assert "nothing can be significant" not in same.sentences[1]


def test_a_slower_machine_accuses_no_layer() -> None:
    """Where all layers are slower alike, the first sentence says that it is none of them."""
    before = comparable(resnet())
    told = json.loads(before.to_json())
    for node in told["nodes"]:
        for times in {"host_ms", "device_ms"} & set(node):
            node[times] = [1.5 * time for time in node[times]]
    found = xsp.compare(before, Comparable.from_json(json.dumps(told)))
    slow, of, *_ = re.findall(r"[0-9]+", found.sentences[0])
    assert found.sentences[0].endswith(
        "layers are slower: it is the machine, or what they share, not one of them."
    )
    assert 0.75 * int(of) <= int(slow) <= int(of)


def test_in_turn_models_are_left_as_they_were() -> None:
    """Batch normalisation's statistics, gradients and random numbers are what they were before."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    found = xsp.compare_targets(
        model, model, torch.ones(8, 4), iterations=5, localise=False, progress=False
    )
    assert isinstance(found, Comparison)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_impossible_option_is_an_error() -> None:
    """A threshold of 0 and a target that cannot be called are refused with the value that was
    given.
    """
    with pytest.raises(xsp.TargetError, match=r"threshold must be .*, not 0"):
        xsp.compare_targets(nn.Linear(1, 1), nn.Linear(1, 1), torch.ones(1), threshold=0)
    with pytest.raises(xsp.TargetError, match=r"alpha must be .*, not 0"):
        xsp.compare_targets(nn.Linear(1, 1), nn.Linear(1, 1), torch.ones(1), alpha=0)
    number: Any = 3
    with pytest.raises(xsp.TargetError, match="cannot profile 3"):
        xsp.compare_targets(nn.Linear(1, 1), number, torch.ones(1))
