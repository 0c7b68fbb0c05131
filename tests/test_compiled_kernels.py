"""Kernels of compiled graphs find their launches, and source layers share their time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import xsp
from xsp.analysis.compiled.matching import match_launches
from xsp.analysis.compiled.source_layers import compiled_kernels, compiled_layers
from xsp.analysis.spans.sequence import kernel_sequence
from xsp.capture.file import Capture
from xsp.profiles import Profile
from xsp.types import Tables

ATTENTION = "torch.ops.aten._scaled_dot_product_flash_attention.default"


def _matched(
    kernels: Sequence[str], launches: Sequence[str], library: Sequence[int] | None = None
) -> list[int]:
    calls = np.array(library if library is not None else [-1] * len(kernels))
    named = [each.startswith("triton_") for each in launches]
    found, _ = match_launches(kernels, calls, launches, named)
    return [int(each) for each in found]


@pytest.mark.parametrize(
    ("kernels", "library", "launches", "expected"),
    [
        (
            ["triton_a", "gemm", "triton_b", "triton_a"],
            None,
            ["triton_a", "extern_kernels.mm", "triton_b", "triton_a"],
            [0, 1, 2, 3],
        ),
        (
            ["triton_a", "nchwToNhwc", "conv", "nhwcToNchw", "triton_b"],
            [-1, 7, 7, 7, -1],
            ["triton_a", "extern_kernels.convolution", "triton_b"],
            [0, 1, 1, 1, 2],
        ),
        (
            ["triton_a", "gemm", "splitKreduce_kernel", "gemm"],
            None,
            ["triton_a", "extern_kernels.mm", "extern_kernels.mm"],
            [0, 1, 1, 2],
        ),
        (
            ["gemm", "prepare", "fmha", "gemm", "triton_a"],
            [3, -1, -1, 4, -1],
            ["extern_kernels.addmm", ATTENTION, "extern_kernels.addmm", "triton_a"],
            [0, 1, 1, 2, 3],
        ),
        (
            ["gemm", "x", "y", "triton_a"],
            [3, -1, -1, -1],
            ["extern_kernels.mm", "extern_kernels.mm", "triton_a"],
            [-1, -1, -1, 2],
        ),
        (
            ["sgemm", "prepare", "fmha", "sgemm", "triton_a"],
            None,
            ["extern_kernels.addmm", ATTENTION, "extern_kernels.addmm", "triton_a"],
            [0, 1, 1, 2, 3],
        ),
        (["triton_b", "triton_a"], None, ["triton_a", "triton_b"], [-1, -1]),
        (["triton_a"], None, ["triton_a", "triton_b"], [-1]),
        ([], None, ["triton_a"], []),
    ],
    ids=[
        "names in order, one of them twice",
        "a library call of several kernels",
        "a product that is split and summed",
        "an operator of ATen between two products",
        "more kernels than can be told apart",
        "the same, replayed from a graph",
        "another order",
        "a launch that did not run",
        "nothing ran",
    ],
)
def test_kernels_find_their_launches(
    kernels: list[str], library: list[int] | None, launches: list[str], expected: list[int]
) -> None:
    """Names divide the kernels; what lies between is told apart where that leaves no choice, and
    stays without a launch where it does.
    """
    assert _matched(kernels, launches, library) == expected


@pytest.mark.parametrize(
    ("library", "how"), [([3, -1, -1], "place"), ([-1, 3, -1], "kind")], ids=["agrees", "differs"]
)
def test_a_number_that_fits_by_chance_is_no_proof(library: list[int], how: str) -> None:
    """As many kernels as launches are matched one to one; where a library's kernel falls to a
    launch that calls none, that is said to be in doubt.
    """
    launches = ["extern_kernels.mm", ATTENTION, "triton_a"]
    kernels = ["gemm", "fmha", "triton_a"]
    _, found = match_launches(kernels, np.array(library), launches, [False, False, True])
    assert found.tolist() == [how, how, "name"]


def _with_compiled(tables: Tables, launches: Sequence[int]) -> dict[str, pd.DataFrame]:
    """A capture's tables as if its first kernels were compiled code with the two launches that
    these are rows of, the second shared by two layers.
    """
    facts = {"graph": 0, "phase": "forward", "kind": "triton"}
    rows = [{**facts, "ordinal": n, "kernel": f"triton_{n}", "confidence": "exact"} for n in (0, 1)]
    sharing = [
        (0, "stem", 1.0, "exact"),
        (1, "stem", 0.25, "exact"),
        (1, "::add", 0.75, "inferred"),
    ]
    origins = [
        {
            "launch": launch,
            "layer": layer,
            "operators": "aten.add",
            "source": "net.py:3",
            "share": share,
            "confidence": sure,
        }
        for launch, layer, share, sure in sharing
    ]
    kernels = {
        "position": range(len(launches)),
        "graph": 0,
        "launch": launches,
        "by": ["name" if each >= 0 else "" for each in launches],
    }
    return {
        **tables,
        "compiled_launches": pd.DataFrame(rows),
        "compiled_origins": pd.DataFrame(origins),
        "compiled_kernels": pd.DataFrame(kernels),
    }


@pytest.fixture(scope="module")
def tables() -> Tables:
    """A capture of an H100, whose first four kernels are said to be compiled code's."""
    known = xsp.example("resnet50").raw_tables("spans", "runs", "kernels", "layers", "api_calls")
    return _with_compiled(known, [0, 1, 1, -1])


def test_shared_time_adds_up_to_the_kernels_time(tables: Tables) -> None:
    """What source layers are given is the time of all kernels that compiled graphs ran: nothing is
    counted twice, and what has no launch is a row of its own.
    """
    took_ns = kernel_sequence(tables)["duration_ns"].to_numpy()[:4]
    table, layers = compiled_kernels(tables), compiled_layers(tables)
    assert table["device_ms"].sum() == pytest.approx(took_ns.sum() / 1e6)
    assert layers["device_ms"].sum() == pytest.approx(took_ns.sum() / 1e6)
    assert layers["share"].sum() == pytest.approx(1.0)
    by_layer = layers.set_index("layer")
    both_ns = took_ns[1] + took_ns[2]
    assert by_layer.loc["stem", "device_ms"] == pytest.approx((took_ns[0] + both_ns / 4) / 1e6)
    assert by_layer.loc["::add", "device_ms"] == pytest.approx(0.75 * both_ns / 1e6)
    assert by_layer.loc["(unknown)", "device_ms"] == pytest.approx(took_ns[3] / 1e6)


def test_each_row_says_how_sure_its_owner_is(tables: Tables) -> None:
    """A layer is as sure as the least sure of what it was given."""
    sure = compiled_layers(tables).set_index("layer")["confidence"].to_dict()
    assert sure == {"stem": "exact", "::add": "inferred", "(unknown)": "unknown"}


def test_without_kernels_there_are_layers_and_no_times(tables: Tables) -> None:
    """On a CPU the layers that kernels come from are known, and no time is made up for them."""
    known = {name: table for name, table in tables.items() if name != "compiled_kernels"}
    assert compiled_layers(known)["layer"].tolist() == ["stem", "::add"]
    assert compiled_layers(known)["device_ms"].isna().all()
    assert (compiled_kernels(known)["kernels"] == 0).all()


def test_a_capture_keeps_them(tmp_path: Path) -> None:
    """A saved profile has the same source layers as the live one; one without compiled code has
    none.
    """
    example = xsp.example("resnet50")
    assert not len(example.compiled())
    assert not len(example.compiled_layers())
    known = Capture(example._capture.meta, _with_compiled(example._capture.tables, [0, 1]))
    path = Profile(known).save(tmp_path / "a.xsp")
    pd.testing.assert_frame_equal(xsp.load(path).compiled(), Profile(known).compiled())


def test_a_report_shows_how_compiled_kernels_are_shared(tmp_path: Path) -> None:
    """The page has a section of source layers, with the lines that they are called from."""
    example = xsp.example("resnet50")
    known = Capture(example._capture.meta, _with_compiled(example._capture.tables, [0, 1]))
    page = Profile(known).to_html(tmp_path / "a.html").read_text()
    assert "Compiled code by source layer" in page
    assert "net.py:3" in page


def test_an_owner_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A file whose kernels lead to a launch that it does not have cannot be opened."""
    example = xsp.example("resnet50")
    known = Capture(example._capture.meta, _with_compiled(example._capture.tables, [0, 7]))
    with pytest.raises(xsp.XspError, match=r"compiled_kernels\.launch"):
        Profile(known).save(tmp_path / "a.xsp")
