"""Kernels, copies and sets that the compiler's own CUDA graphs replay find their launches in a run
that makes these one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from graph_programs import eager_run, replaying_run, words

from xsp.analysis.compiled.activities import CalledGraphs, led_activities, split_by_kind
from xsp.analysis.compiled.graph_calls import code_around
from xsp.analysis.compiled.source_layers import compiled_layers
from xsp.analysis.spans.assembly import assemble
from xsp.machine.compiler_internals import launched_singly
from xsp.types import LIBRARY_EVENTS, Columns, Level, Tables, empty

LAUNCHES = ["extern_kernels.mm", "extern_kernels.mm", "torch.ops.aten.attend", "relu"]
"""What a wrapper launches; `relu` is a kernel of Triton."""

KERNELS = ["memset", "gemm", "gemm", "gemm", "softmax", "relu"]
"""What that runs: the first product is a set and two kernels."""

CALLED = [(0, 2), (3, 3)]
"""The first and the last kernel of each library call."""


def _launches() -> pd.DataFrame:
    rows = [
        {
            "graph": 0,
            "phase": "forward",
            "ordinal": place,
            "kernel": name,
            "kind": "triton" if name == "relu" else "extern",
            "confidence": "exact",
        }
        for place, name in enumerate(LAUNCHES)
    ]
    return pd.DataFrame(rows)


def _intervals(*hosts: tuple[int, int]) -> pd.DataFrame:
    rows = [(0, 0, 1, start, end) for start, end in hosts]
    columns = ["run", "graph", "thread", "start_ns", "end_ns"]
    return pd.DataFrame(rows, columns=columns, dtype=np.int64)


def _library_events(calls: Sequence[tuple[int, int]]) -> Columns:
    """Library calls around these kernels of `eager_run`, which launches one every 100 ns."""
    events = empty(LIBRARY_EVENTS, len(calls))
    events["thread"][:] = 1
    events["start_ns"][:] = [1095 + 100 * first for first, _ in calls]
    events["end_ns"][:] = [1115 + 100 * last for _, last in calls]
    return events


def _singly(
    kernels: Sequence[str] = KERNELS, called: Sequence[tuple[int, int]] = CALLED
) -> CalledGraphs:
    """A run of the code that launches each kernel by itself, in library calls of 7 FLOPs."""
    run = eager_run([("region", kernels)])
    run = replace(run, tables={**run.tables, "library_events": _library_events(called)})
    calls = [{"symbol": 0, "arguments": {"flops": 7}} for _ in called]
    named = replace(words(["region"]), symbols=["gemmEx"], library_calls=calls)
    tables = assemble([run], named)
    return CalledGraphs(_intervals((1050, 5000)), tables, _intervals(), _intervals())


def _replayed(kernels: Sequence[str] = KERNELS) -> CalledGraphs:
    """The same code as a CUDA graph, before which an input was copied by a kernel."""
    tables = assemble([replaying_run([(9, ["softmax"]), (3, kernels)])], words([]))
    return CalledGraphs(_intervals((990, 5000)), tables, _intervals((995, 1100)), _intervals())


def _led(called: CalledGraphs, singly: CalledGraphs | None) -> pd.DataFrame:
    return led_activities(called, singly, _launches())


def test_library_calls_tell_kernels_copies_and_sets_apart() -> None:
    """Where the code launches one by one: all that a library call makes is its launch's, with its
    FLOPs once.
    """
    led = _led(_singly(), None)
    assert led["launch"].tolist() == [0, 0, 0, 1, 2, 3]
    assert led["kind"].tolist() == ["memset", *["kernel"] * 5]
    assert led["by"].tolist() == ["call", *["place"] * 4, "name"]
    assert led["flops"].dropna().to_dict() == {1: 7, 3: 7}


def test_a_replay_takes_over_what_a_run_without_it_tells() -> None:
    """If all that it launches is equal, in order. The copy of its input is no launch of it."""
    led = _led(_replayed(), _singly())
    assert led["launch"].tolist() == [-1, 0, 0, 0, 1, 2, 3]
    assert led["by"].tolist()[0] == "inputs"
    assert led["flops"].dropna().to_dict() == {2: 7, 4: 7}


@pytest.mark.parametrize(
    "singly",
    [None, _singly([*KERNELS[:4], "gemm", "relu"]), _singly(KERNELS[1:], [(0, 1), (2, 2)])],
    ids=["no such run", "another kernel", "fewer"],
)
def test_a_replay_of_something_else_takes_over_nothing(singly: CalledGraphs | None) -> None:
    """Only what names tell is known then: three products' kernels for two products are not told
    apart.
    """
    led = _led(_replayed(), singly)
    assert led["launch"].tolist() == [-1, -1, -1, -1, -1, -1, 3]
    assert led["by"].tolist() == ["inputs", "", "", "", "", "", "name"]
    assert led["flops"].isna().all()


def test_calls_in_another_order_take_over_nothing() -> None:
    """The n-th call of one run is not that of the other where other graphs were called."""
    singly = _singly()
    other = replace(singly, calls=pd.concat([singly.calls, _intervals((5000, 5001))]))
    assert (_led(_replayed(), other)["launch"] >= 0).sum() == 1


def test_a_set_outside_library_calls_prepares_the_kernel_after_it() -> None:
    """Which is an inference, and not made for a kernel of Triton; a copy is nobody's."""
    kernels = ["gemm", "gemm", "memset", "softmax", "memcpy DtoD", "memset", "relu"]
    led = _led(_singly(kernels, [(0, 0), (1, 1)]), None)
    assert led["launch"].tolist() == [0, 1, 2, 2, -1, -1, 3]
    assert led["by"].tolist()[2] == "kind"


def test_what_runs_around_a_graph_is_no_launch_of_it() -> None:
    """It belongs to the graph whose code it surrounds, under a name of its own; what lies outside
    of both is not the compiler's.
    """
    called = _singly(["softmax", *KERNELS], [(1, 3), (4, 4)])
    inside = replace(called, calls=_intervals((1150, 5000)), around=_intervals((1000, 5000)))
    led = _led(inside, None)
    assert led["launch"].tolist() == [-1, 0, 0, 0, 1, 2, 3]
    assert led["by"].tolist()[0] == "around"
    assert len(_led(replace(inside, around=_intervals()), None)) == len(KERNELS)


def test_code_around_graphs_is_where_dynamo_and_autograd_call_them() -> None:
    """The entry of what Dynamo compiled, and a backward node; not a layer in which the program's
    own code can run between graphs.
    """
    spans = pd.DataFrame(
        [
            {"level": Level.LAYER, "detail": 0, "start_ns": 0, "duration_ns": 1000, "thread": 1},
            {"level": Level.LAYER, "detail": 1, "start_ns": 2000, "duration_ns": 500, "thread": 1},
        ]
    )
    tables = {"spans": spans, "layers": pd.DataFrame({"kind": ["module", "autograd"]})}
    calls = _intervals((200, 300), (320, 350), (600, 650), (2100, 2200))
    calls["graph"] = [4, 5, 6, 7]
    around = code_around(calls, _intervals((150, 400)), tables)
    columns = ["graph", "start_ns", "end_ns"]
    assert around[columns].to_numpy().tolist() == [[4, 150, 400], [7, 2000, 2500]]
    assert not len(code_around(calls[:0], _intervals(), tables))


def _with(tables: Tables, led: pd.DataFrame) -> dict[str, pd.DataFrame]:
    kernels, copies = split_by_kind(led)
    origins = [
        {
            "launch": launch,
            "layer": f"layer {launch}",
            "operators": "",
            "source": "",
            "share": 1.0,
            "confidence": "exact",
        }
        for launch in range(len(LAUNCHES))
    ]
    return {
        **tables,
        "compiled_launches": _launches(),
        "compiled_origins": pd.DataFrame(origins),
        "compiled_kernels": kernels,
        "compiled_copies": copies,
    }


def test_layers_have_the_time_of_copies_and_sets_too() -> None:
    """A layer's time counts the sets of its products, and copies of inputs stand by themselves:
    nothing is lost or counted twice.
    """
    called = _replayed()
    found = compiled_layers(_with(called.tables, _led(called, _singly())))
    took_ns = (found.set_index("layer")["device_ms"] * 1e6).round().astype(int).to_dict()
    assert took_ns == {
        "layer 0": 150,
        "layer 1": 50,
        "layer 2": 50,
        "layer 3": 50,
        "(inputs of CUDA graphs)": 50,
    }


def test_code_runs_without_its_graphs_in_a_block_only() -> None:
    """In it the function that was captured is called with its inputs; after it, also if that
    raises, graphs are replayed as before.
    """
    from torch._inductor.cudagraph_trees import CUDAGraphTreeManager

    manager: Any = CUDAGraphTreeManager
    before = manager._run
    function = SimpleNamespace(model=lambda inputs: sum(inputs))
    trees = SimpleNamespace(ids_to_funcs={3: function})
    with suppress(ZeroDivisionError), launched_singly():
        assert manager._run(trees, [1, 2], 3) == 3
        raise ZeroDivisionError
    assert manager._run is before
