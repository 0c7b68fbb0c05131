"""On a GPU: what kernels and library calls belong to by their order is what they belong to where
all levels are traced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from torch import nn

import xsp
from xsp.types import Level

pytestmark = pytest.mark.gpu

ROUNDS = 4
OPTIONS: dict[str, Any] = {"iterations": ROUNDS, "progress": False}


def resnet50() -> Callable[[], Any]:
    """Inference of a small batch."""
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet50(weights=None).cuda().eval().requires_grad_(False)
    image = torch.rand(1, 3, 224, 224, device="cuda")
    return lambda: model(image)


def gpt2() -> Callable[[], Any]:
    """Inference of 64 tokens."""
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    model = model.cuda().eval().requires_grad_(False)
    tokens = torch.randint(0, 1000, (1, 64), device="cuda")
    return lambda: model(input_ids=tokens, use_cache=False)


def training_step() -> Callable[[], Any]:
    """Forward, backward on autograd's own thread, and an optimizer step."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 900, 10)
    ).cuda()
    optimizer = torch.optim.Adam(model.parameters())
    x, y = torch.rand(8, 3, 32, 32, device="cuda"), torch.randint(0, 10, (8,), device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


class TwoStreams(nn.Module):
    """Two branches at the same time, each on a stream that every call takes anew."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(256, 256), nn.Linear(256, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        current, other = torch.cuda.current_stream(), torch.cuda.Stream()
        other.wait_stream(current)
        with torch.cuda.stream(other):
            right = self.right(x).relu()
        left: torch.Tensor = self.left(x).relu()
        current.wait_stream(other)
        joined: torch.Tensor = left + right
        return joined


def two_streams() -> Callable[[], Any]:
    """Inference on two streams."""
    model = TwoStreams().cuda().requires_grad_(False)
    x = torch.rand(64, 256, device="cuda")
    return lambda: model(x)


def owners(prof: xsp.Profile, rows: npt.NDArray[np.int64]) -> pd.DataFrame:
    """Layer, phase and name of these spans."""
    spans = prof.table("raw_spans")
    parent, level = spans["parent"].to_numpy(), spans["level"].to_numpy()
    above = parent[rows]
    above = np.where(level[above] == Level.LIBRARY, parent[above], above)
    layers = prof.table("layers").loc[spans["detail"].to_numpy()[above], ["name", "phase"]]
    named = prof.spans["name"].astype(str).to_numpy()[rows]
    found: pd.DataFrame = layers.reset_index(drop=True).assign(event=named)
    return found


def counted(table: pd.DataFrame, runs: int) -> pd.Series:
    """Events by layer, phase and name in a run."""
    return table.value_counts().sort_index() / runs


@pytest.mark.parametrize("program", [resnet50, gpt2, training_step, two_streams])
def test_owners_by_order_are_those_of_the_nested_ladder(
    program: Callable[[], Callable[[], Any]],
) -> None:
    """Each run of one level repeats the annotated runs to the last event, and the layers have as
    many kernels of each name as on a nested ladder.
    """
    target = program()
    separate = xsp.measure(target, ladder="separate", **OPTIONS)
    nested = xsp.measure(target, **OPTIONS)
    assert [said for said in separate.warnings if "not-joined" in said] == []
    assert set(separate.runs["rung"]) == {"M", "M/L", "M/Lib", "M/K", "M/L/Lib/K"}
    repeats = separate.table("repeats")
    spans = nested.table("raw_spans")
    for level in (Level.LIBRARY, Level.KERNEL):
        mine = repeats[repeats["level"] == level]
        assert mine["run"].nunique() == ROUNDS
        deepest = nested.runs.loc[nested.runs["rung"] == "M/L/Lib/K", "run"]
        theirs = spans.index[(spans["level"] == level) & spans["run"].isin(deepest)]
        pd.testing.assert_series_equal(
            counted(owners(separate, mine["span"].to_numpy()), ROUNDS),
            counted(owners(nested, theirs.to_numpy()), ROUNDS),
        )


@pytest.mark.parametrize("program", [gpt2, training_step])
def test_annotated_runs_agree_on_owners_by_order(
    program: Callable[[], Callable[[], Any]],
) -> None:
    """In the order of their launches, the kernels of all annotated runs have the same names and
    layers: order tells owners.
    """
    prof = xsp.measure(program(), ladder="separate", **OPTIONS)
    spans, api = prof.table("raw_spans"), prof.table("api_calls")
    found = []
    for run in prof.runs.loc[prof.runs["rung"] == "M/L/Lib/K", "run"]:
        kernels = spans[(spans["level"] == Level.KERNEL) & (spans["run"] == run)]
        launches = api[api["run"] == run].sort_values("start_ns").drop_duplicates("correlation_id")
        order = launches.set_index("correlation_id")["start_ns"].loc[kernels["correlation_id"]]
        by_launch = np.lexsort((order.to_numpy(), kernels["thread"].to_numpy()))
        found.append(owners(prof, kernels.index.to_numpy()[by_launch]))
    assert len(found) == ROUNDS
    for other in found[1:]:
        pd.testing.assert_frame_equal(found[0], other)
