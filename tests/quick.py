"""Short profiles for tests: two rounds, one warm-up run, no progress bar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

import xsp

TESTED = Path(xsp.__file__).parents[1]
"""The folder that the tested xsp was imported from. `python -c` imports from where it is started:
in a clone that would be the source tree, whose native part is not built.
"""

QUICK: dict[str, Any] = {"iterations": 2, "warmup": 1, "progress": False}
LAYERS = {**QUICK, "levels": "M/L"}


def profiled(model: nn.Module, *args: Any, **kwargs: Any) -> xsp.Profile:
    """Profile one call of a model in a block, down to its layers."""
    with xsp.profile(model, **LAYERS) as prof:
        model(*args, **kwargs)
    return prof


def measured(function: Callable[..., Any], *args: Any, **kwargs: Any) -> xsp.Profile:
    """Measure a callable, down to its layers."""
    return xsp.measure(function, *args, **LAYERS, **kwargs)


def layer_spans(prof: xsp.Profile) -> pd.DataFrame:
    """Layer spans of the last traced run as they began, each with the columns of its row of the
    table of layers.
    """
    spans = prof.spans
    last = spans.loc[spans["level"] == "LAYER", "run"].max()
    mine = spans[(spans["run"] == last) & (spans["level"] == "LAYER")].sort_values(
        "start_ns", kind="stable"
    )
    facts = prof.table("layers").drop(columns="name").iloc[mine["detail"]].reset_index(drop=True)
    result: pd.DataFrame = pd.concat([mine.reset_index(drop=True), facts], axis=1)
    return result


def forward_names(prof: xsp.Profile) -> list[str]:
    """Names of the forward layers of the last traced run, as they began."""
    spans = layer_spans(prof)
    return [str(name) for name in spans.loc[spans["phase"] == "forward", "name"]]


def backward_names(prof: xsp.Profile) -> list[str]:
    """Names of the layers whose backward nodes ran in the last traced run, as they began."""
    spans = layer_spans(prof)
    return [
        str(name)
        for name in spans.loc[
            (spans["phase"] == "backward") & (spans["kind"] == "autograd"), "name"
        ]
    ]
