"""Kernels of replayed CUDA graphs belong to the layers that were captured, or to none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from captures import gpu_capture
from graph_programs import Layer, Replay, eager_run, ladder, replaying_run, words

from xsp import Profile
from xsp.analysis import from_disk
from xsp.analysis.correction.charges import COST_LEVELS, Costs
from xsp.analysis.correction.corrected import corrected_spans
from xsp.analysis.spans import run_parts
from xsp.analysis.spans.ancestors import layer_spans
from xsp.analysis.spans.assembly import Assembled, assemble, assemble_runs
from xsp.analysis.spans.graph_layers import Captured
from xsp.analysis.spans.sequence import kernel_sequence
from xsp.capture.file import Capture
from xsp.capture.table_checks import check_frames
from xsp.types import Level, RunSpec, Tables

NET: list[Layer] = [
    ("conv", ["memset", "gemm"]),
    ("relu", ["relu"]),
    ("fc", ["gemm"]),
    ("soft", ["memcpy DtoD", "softmax"]),
]
KERNELS = [kernel for _, kernels in NET for kernel in kernels]


def eager(layers: Sequence[Layer], *graphs: int) -> Captured:
    """A program that launches its kernels by itself, and was captured into these graphs."""
    return Captured(assemble([eager_run(layers)], words([name for name, _ in layers])), graphs)


def led(replays: Sequence[Replay], *programs: Sequence[Layer], runs: int = 1) -> Assembled:
    """Runs of a program that replays graphs of these programs."""
    every = [replaying_run(replays, number) for number in range(runs)]
    return assemble_runs(every, words([], [eager(each) for each in programs]))


def kernels_by_layer(tables: Tables, run: int = 0) -> dict[str, list[str]]:
    """The kernels of each layer in a run, in the order of their nodes."""
    nodes = tables["graph_nodes"]
    rows = nodes.sort_values(["graph", "node"])["span"].to_numpy()
    rows = rows[(tables["spans"]["run"].to_numpy() == run)[rows]]
    above = layer_spans(tables["spans"], rows)
    detail = tables["spans"]["detail"].to_numpy()
    table = pd.DataFrame(
        {
            "layer": tables["layers"]["name"].to_numpy()[detail[above]],
            "kernel": tables["kernels"]["name"].to_numpy()[detail[rows]],
        }
    )
    return {str(layer): list(part) for layer, part in table.groupby("layer")["kernel"]}


def test_kernels_copies_and_sets_belong_to_the_captured_layers() -> None:
    """Whatever the order in which the device ran them, in every run."""
    found = led([(3, KERNELS)], NET, runs=3)
    for run in range(3):
        assert kernels_by_layer(found.tables, run) == {name: list(own) for name, own in NET}
    assert set(found.tables["graph_nodes"]["owner"]) == {"order"}
    assert not found.unled


def test_tables_with_captured_layers_are_those_of_a_capture() -> None:
    """All that is checked when a capture is opened holds, and the last two rows of `layers` stay
    the last.
    """
    tables = led([(3, KERNELS)], NET, runs=2).tables
    check_frames(tables)
    assert list(tables["layers"]["name"][-2:]) == ["(outside layers)", "(not in the structure run)"]
    assert list(tables["layers"]["of_graph"]) == [True] * 4 + [False] * 2


def test_one_kernel_of_another_name_leads_nothing() -> None:
    """A graph that is not what the program launches stays below its launcher, whole, and the place
    of the difference is known.
    """
    changed = [*KERNELS[:3], "softmax", *KERNELS[4:]]
    found = led([(3, changed)], NET)
    assert kernels_by_layer(found.tables) == {"(outside layers)": changed}
    assert set(found.tables["graph_nodes"]["owner"]) == {"unknown"}
    (unled,) = found.unled
    assert (unled.place, unled.expected, unled.found) == (3, "gemm", "softmax")


def test_a_set_that_the_graph_makes_by_a_kernel_is_the_programs_set() -> None:
    """The driver can run a set of a graph as a kernel of its own, `memset32`: it belongs to the
    layer of the set. A kernel that is no set is still told apart.
    """
    replayed = ["memset32" if kernel == "memset" else kernel for kernel in KERNELS]
    found = led([(3, replayed)], NET, runs=2)
    assert kernels_by_layer(found.tables, 1)["conv"] == ["memset32", "gemm"]
    assert set(found.tables["graph_nodes"]["owner"]) == {"order"}
    assert led([(3, ["relu", *KERNELS[1:]])], NET).unled


def test_a_graph_of_a_part_is_found_in_the_whole() -> None:
    """Graphs of the first and the second half of a program are both led."""
    found = led([(3, KERNELS[:3]), (4, KERNELS[3:])], NET)
    assert kernels_by_layer(found.tables) == {name: list(own) for name, own in NET}


def test_equal_blocks_are_told_apart_by_the_order_of_launches() -> None:
    """Two graphs with the same kernels, launched one after the other, are the first and the second
    of two equal blocks, and it is said that the turn tells so.
    """
    blocks: list[Layer] = [("one", ["gemm", "relu"]), ("two", ["gemm", "relu"])]
    found = led([(3, ["gemm", "relu"]), (4, ["gemm", "relu"])], blocks, runs=2)
    assert kernels_by_layer(found.tables, 1) == {name: list(own) for name, own in blocks}
    assert set(found.tables["graph_nodes"]["owner"]) == {"turn"}


def test_a_graph_that_is_named_is_of_its_own_program_whatever_the_turn() -> None:
    """Two equal programs whose graphs are known: launched in the other order, each kernel is still
    of its own.
    """
    one, two = ([(name, ["gemm", "relu"])] for name in ("one", "two"))
    run = replaying_run([(4, ["gemm", "relu"]), (3, ["gemm", "relu"])])
    tables = assemble([run], words([], [eager(one, 3, 9), eager(two, 4)]))
    spans, nodes = tables["spans"], tables["graph_nodes"]
    above = layer_spans(spans, nodes["span"].to_numpy())
    names = tables["layers"]["name"].to_numpy()[spans["detail"].to_numpy()[above]]
    assert set(zip(nodes["graph"], names, strict=True)) == {(3, "one"), (4, "two")}
    assert set(nodes["owner"]) == {"order"}


def test_equal_programs_whose_graphs_are_not_named_are_ambiguous() -> None:
    """The order in which programs are given says nothing of the order of launches."""
    one, two = ([(name, ["gemm", "relu"])] for name in ("one", "two"))
    found = led([(3, ["gemm", "relu"]), (4, ["gemm", "relu"])], one, two)
    assert [each.ambiguous for each in found.unled] == [True]
    assert set(found.tables["graph_nodes"]["owner"]) == {"unknown"}


def test_an_equal_block_launched_alone_is_ambiguous() -> None:
    """One launch of what occurs twice leads nowhere."""
    blocks: list[Layer] = [("one", ["gemm", "relu"]), ("two", ["gemm", "relu"])]
    found = led([(3, ["gemm", "relu"])], blocks)
    assert [each.ambiguous for each in found.unled] == [True]
    assert kernels_by_layer(found.tables) == {"(outside layers)": ["gemm", "relu"]}


def test_each_graph_finds_its_program_among_several() -> None:
    """Programs are given in any order, and a graph that none of them is stays where it was."""
    graphs: list[Replay] = [(3, ["softmax"]), (4, KERNELS), (5, ["relu", "relu", "relu"])]
    found = led(graphs, NET, [("last", ["softmax", "softmax"]), ("end", ["memset"])])
    layers = kernels_by_layer(found.tables)
    assert layers["(outside layers)"] == ["softmax", "relu", "relu", "relu"]
    assert layers["conv"] == ["memset", "gemm"]
    assert {each.kernels for each in found.unled} == {1, 3}


def test_runs_that_traced_no_layers_stay_as_they_are() -> None:
    """Where LAYER is not traced, kernels are led nowhere."""
    run = replaying_run([(3, KERNELS)], spec=RunSpec((Level.MODEL, Level.KERNEL)))
    tables = assemble([run], words([], [eager(NET)]))
    assert set(tables["graph_nodes"]["owner"]) == {"unknown"}
    assert kernels_by_layer(tables) == {"(outside layers)": KERNELS}


def replayed() -> Profile:
    """A profile of all rungs of a program that only replays a graph, of which the layers are
    known.
    """
    tables = assemble(ladder([(3, KERNELS)]), words([], [eager(NET)]))
    return Profile(Capture({"name": "step"}, tables))


def test_times_of_the_layers_add_up_and_the_host_s_time_stays_with_the_launcher() -> None:
    """In the latency table every layer has the device time of its kernels and no host time; rows
    add up to the model in device time and latency.
    """
    tree = replayed().tree()
    layers = tree[tree["level"] == "LAYER"].set_index("name")
    for name, kernels in NET:
        assert layers.loc[name, "kernels"] == len(kernels)
        assert layers.loc[name, "device_ms"] == pytest.approx(50e-6 * len(kernels))
        assert layers.loc[name, "host_ms"] == 0
        assert layers.loc[name, "calls"] == 1
    below = tree[tree["parent"] == 0]
    model = tree.iloc[0]
    for column in ("device_ms", "latency_ms"):
        assert below[column].sum() == pytest.approx(model[column])
    assert below["kernels"].sum() == model["kernels"] == len(KERNELS)


def test_a_file_read_in_parts_has_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capture larger than a part gives the same latency table, from the file and from memory."""
    tables = assemble(ladder([(3, KERNELS)], rounds=6), words([], [eager(NET)]))
    prof = Profile(Capture(gpu_capture().meta, tables))
    whole = prof.tree()
    saved = prof.save(tmp_path / "a.xsp")
    for module in (run_parts, from_disk):
        monkeypatch.setattr(module, "SPANS_OF_PART", 40)
    assert len(list(run_parts.parts_of(tables, None))) > 1
    pd.testing.assert_frame_equal(from_disk.tree_from_file(saved), whole)
    pd.testing.assert_frame_equal(Profile(Capture(gpu_capture().meta, tables)).tree(), whole)


def test_kernels_are_in_the_order_of_the_nodes() -> None:
    """Branches that run in another order in each run are one sequence, whose kernels have a time of
    every run.
    """
    sequence = kernel_sequence(assemble(ladder([(3, KERNELS)]), words([], [eager(NET)])))
    kernels = [name for name in KERNELS if name not in {"memset", "memcpy DtoD"}]
    assert list(sequence["name"]) == kernels
    assert list(sequence["duration_ns"]) == [50.0] * len(kernels)


def test_what_tracing_adds_is_known_of_a_program_without_layers_of_its_own() -> None:
    """Levels of which nothing was recorded took no time."""
    added = replayed().overhead().set_index(["rung", "level"])["added_ms"]
    assert added["M/L/Lib/K", "LAYER"] == 0
    assert added["M/L/Lib/K", "LIBRARY"] == 0


def test_no_tracer_was_paid_for_layers_that_graphs_ran() -> None:
    """The correction takes nothing out for them, whatever a layer costs."""
    tables = assemble(ladder([(3, KERNELS)]), words([], [eager(NET)]))
    none = np.zeros((len(COST_LEVELS), len(COST_LEVELS)))
    free, dear = (corrected_spans(tables, Costs(layer_ns=ns), none) for ns in (0.0, 500.0))
    pd.testing.assert_frame_equal(free, dear)
    model = tables["spans"]["level"].to_numpy()[free["row"]] == Level.MODEL
    assert (free["duration_ns"][model] > 0).all()
