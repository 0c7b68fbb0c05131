"""Where the time went between two profiles, drawn."""

from __future__ import annotations

import re

import numpy as np
from captures import gpu_capture, gpu_profile

import xsp
from xsp.comparing.differential import HEADINGS, certain_differences, differential_html
from xsp.comparing.page import comparison_html


def slower(layer: str, factor: float) -> xsp.Profile:
    """The GPU profile with all work of one layer taking longer."""
    capture = gpu_capture()
    tables = capture.tables
    detail = int(tables["layers"].index[tables["layers"]["name"] == layer][0])
    spans = tables["spans"]
    mine = (spans["level"] == 1) & (spans["detail"] == detail)
    below = spans["parent"].isin(spans.index[mine])
    deeper = spans["parent"].isin(spans.index[below])
    kernels = (mine | below | deeper) & (spans["level"] == 3)
    longer = (spans.loc[kernels, "duration_ns"] * factor).astype("int64")
    spans.loc[kernels, "duration_ns"] = longer
    return xsp.Profile(capture)


def test_only_what_is_known_to_have_changed_is_drawn() -> None:
    """Bars are the layers whose interval is without 1 and those of one side, the most first, each
    with the difference of its two times.
    """
    found = xsp.compare(gpu_profile(), slower("block.conv", 3.0))
    table = certain_differences(found)
    layers = found.nodes[found.nodes["level"] == "LAYER"]
    sure = (
        (layers["low"] > 1) | (layers["high"] < 1) | layers["change"].isin(["appeared", "vanished"])
    )
    assert set(table.index) <= set(layers.index[sure])
    amounts = table["difference_ms"].abs().tolist()
    assert amounts == sorted(amounts, reverse=True)
    drawn = differential_html(found)
    assert drawn.count("<i style") == min(len(table), 30)


def test_times_of_the_host_and_of_the_gpu_are_apart() -> None:
    """A layer that took longer on the host and one that took longer on the GPU are in two figures,
    each with its heading and bars on its own scale.
    """
    found = xsp.compare(gpu_profile(), slower("block.conv", 3.0))
    nodes = found.nodes
    layers = nodes.index[nodes["level"] == "LAYER"][:3]
    nodes.loc[layers, "change"] = "changed"
    nodes.loc[layers, "metric"] = ["host", "device", "device"]
    numbers = {
        "a_ms": (1.0, 0.1, 0.3),
        "b_ms": (5.0, 0.3, 0.2),
        "ratio": (5.0, 3.0, 0.7),
        "low": (4.0, 2.0, 0.6),
        "high": (6.0, 4.0, 0.8),
    }
    others = nodes["level"].eq("LAYER") & ~nodes.index.isin(layers)
    for name, values in numbers.items():
        nodes.loc[layers, name] = np.array(values)
    nodes.loc[others, "low"], nodes.loc[others, "high"] = 0.5, 2.0
    drawn = differential_html(found)
    figures = drawn.split("<h3>")[1:]
    assert [figure.split("</h3>")[0] for figure in figures] == list(HEADINGS.values())
    assert [figure.count("<i style") for figure in figures] == [2, 1]
    assert all("width:100.0%" in figure for figure in figures)


def test_the_same_twice_draws_nothing() -> None:
    """Without a certain difference there is no section, and with one there is."""
    same = xsp.compare(gpu_profile(), gpu_profile())
    assert differential_html(same) == ""
    assert "Where the time went" not in comparison_html(same)


def test_layers_of_one_side_are_striped_and_escaped() -> None:
    """A layer that only one of the two has is marked so without colour, and names are text."""
    capture = gpu_capture()
    names = capture.tables["layers"]["name"]
    capture.tables["layers"]["name"] = names.where(names != "fc", "<b>new</b>")
    found = xsp.compare(gpu_profile(), xsp.Profile(capture))
    page = comparison_html(found)
    assert "<b>new</b>" not in page
    table = certain_differences(found)
    alone = table["change"].isin(["appeared", "vanished"])
    if alone.any():
        assert len(re.findall(r"side (?:less|more) alone", page)) == 2 * int(alone.sum())
