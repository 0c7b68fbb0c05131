"""Models as bricks: taken apart, run, measured and put together."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as some
from small_models import Branching, Convolutional, HandWritten, Recurrent, Transformer, ready
from torch import Tensor, nn

from xsp.brickwork import running
from xsp.brickwork.conditions import CpuShare
from xsp.brickwork.construction import along_critical_path, between, overlapping, repeating, summed
from xsp.brickwork.cutting import Decomposition, decomposed, pairs
from xsp.brickwork.model import Model, model_of
from xsp.brickwork.network import _function, built, described, fresh, synthetic
from xsp.brickwork.occurrences import occurrences_in
from xsp.brickwork.operators import difference
from xsp.brickwork.plan import Options, prepared
from xsp.brickwork.precision import wide
from xsp.brickwork.rounds import MODEL, Runnable, round_of
from xsp.brickwork.running import measure
from xsp.brickwork.samples import EAGER, NETWORK, PAPER, TRAINED, Done, Record, times_of
from xsp.brickwork.splitting import find_model_subgraphs
from xsp.brickwork.stand_in import model_of_graph
from xsp.database.store import Store
from xsp.errors import GraphError, XspError
from xsp.graphs.from_export import graph_of
from xsp.graphs.graph import Graph
from xsp.graphs.tracing import traced_call
from xsp.graphs.unique import shares, similarity

KINDS = (Convolutional, Transformer, Recurrent, HandWritten)


class WritesInPlace(nn.Module):
    """Views, copies and writes in place in orders that a careless cut would change."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.register_buffer("order", torch.tensor([2, 0, 1, 5, 4, 3]))

    order: Tensor

    def forward(self, x: Tensor) -> Tensor:
        kept = x.clone()
        x.mul_(2.0)
        y = self.linear(x)
        before, shown = y.clone(), y[:, :3]
        y[:, 1] = 7.0
        shown.add_(1.0)
        first, second = y.split(3, dim=1)
        F.relu_(first)
        left, right = kept.chunk(2, dim=1)
        both = torch.cat([second, first, left], 1)[:, self.order]
        output: Tensor = (
            both + before.exp() + y.transpose(0, 1).reshape(y.shape) + right.repeat(1, 2)
        )
        return output


class Selecting(nn.Module):
    """Its result has as many rows as there are positive numbers."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x[x > 0].exp()
        return output


def run_as_bricks(cut: Decomposition) -> list[Tensor]:
    """What the model returns when its bricks are built from their keys and run one by one."""
    model = cut.model
    _, values = next(model.run())
    found = dict(values)
    with torch.no_grad():
        for brick in cut.bricks:
            network = built(json.loads(brick.layer.key), [found[each] for each in brick.weights])
            results = network(*(found[each] for each in brick.inputs))
            found.update(zip(brick.outputs, results, strict=True))
    return [found[each] for each in model.outputs]


def model(kind: type[nn.Module], name: str | None = None) -> Model:
    return model_of(*ready(kind), name=name)


# ---- decomposition ----


@pytest.mark.parametrize("granularity", [1, 2, 3, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_bricks_in_order_compute_what_the_model_computes(
    kind: type[nn.Module], granularity: int
) -> None:
    """Whatever the granularity, nothing is lost, doubled or put in another order."""
    module, inputs = ready(kind)
    with torch.no_grad():
        wanted = module(*inputs)
    (found,) = run_as_bricks(decomposed(model_of(module, inputs), granularity))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("granularity", [1, 3, 10])
def test_writes_in_place_keep_their_order(granularity: int) -> None:
    """Copies are made before what they copy is written to, and views see what is written."""
    torch.manual_seed(0)
    module, x = WritesInPlace().eval(), torch.randn(4, 6)
    with torch.no_grad():
        wanted = module(x.clone())
    cut = decomposed(model_of(module, (x.clone(),)), granularity)
    torch.testing.assert_close(run_as_bricks(cut)[0], wanted)


@given(some.integers(1, 30), some.integers(1, 12), some.data())
@settings(max_examples=60, deadline=None)
def test_windows_cover_every_layer_once(
    length: int, granularity: int, data: some.DataObject
) -> None:
    """For any layers and any rule, windows are valid or single, in order and whole."""
    reach = [data.draw(some.integers(0, place)) for place in range(length)]

    def valid(begin: int, end: int) -> bool:
        return all(reach[place] >= begin for place in range(begin + 1, end))

    found = find_model_subgraphs(length, granularity, valid)
    assert [place for begin, end in found for place in range(begin, end)] == list(range(length))
    assert all(end - begin <= granularity for begin, end in found)
    assert all(end - begin == 1 or valid(begin, end) for begin, end in found)


def test_a_window_that_fails_gives_single_layers_until_one_fits() -> None:
    """SplitModel: [0, 3) fails, so 0 is alone and [1, 4) is tried; the next begins behind it."""
    found = find_model_subgraphs(6, 3, lambda begin, end: not begin < 1 < end)
    assert found == [(0, 1), (1, 4), (4, 6)]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_first_layer_of_a_brick_reads_from_outside(kind: type[nn.Module]) -> None:
    """A residual's addition or a concatenation is never behind the first layer of a brick unless
    all that it joins is in the brick.
    """
    cut = decomposed(model(kind), 3)
    joins = any(len(brick.inputs) > 1 for brick in cut.bricks)
    assert joins or kind in {Recurrent, Transformer}  # an encoder's layer is one operator
    for brick in cut.bricks:
        assert set(brick.inputs) <= set(cut.model.parts[brick.begin].reads), brick.layer.source


def test_a_granularity_below_one_is_refused() -> None:
    """The message gives the value, the rule and what it means."""
    with pytest.raises(GraphError, match="must be a whole number >= 1, not 0"):
        decomposed(model(HandWritten), 0)


def test_weights_and_names_do_not_count_but_shapes_and_layout_do() -> None:
    """Two models with other weights and names share every brick; other strides share none."""
    one, two = (decomposed(model(Convolutional, name), 3).graph for name in ("one", "two"))
    assert one.keys == two.keys
    assert similarity({"one": one, "two": two}).loc["one", "two"] == 1.0
    module, (x,) = ready(Convolutional)
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            each.weight.data = each.weight.contiguous(memory_format=torch.channels_last)
    last = x.contiguous(memory_format=torch.channels_last)
    other = decomposed(model_of(module, (last,)), 3).graph
    assert not set(other.keys[:2]) & set(one.keys)


def test_repeated_blocks_are_unique_once() -> None:
    """Two equal blocks have as many unique bricks as one, and the shares say so."""
    block = [nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8)]
    module = nn.Sequential(*block, *[nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8)]).eval()
    graph = decomposed(model_of(module, (torch.randn(2, 8),)), 1).graph
    (row, _) = shares({"twice": graph}).to_dict("records")
    assert (row["layers"], row["unique"], row["unique_share"]) == (6, 3, 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_without_weights_runs_as_bricks(kind: type[nn.Module]) -> None:
    """The graph of a file, as of ONNX and captures, gives as many layers as it has; they run."""
    graph = Graph.from_json(graph_of(*ready(kind)).to_json())
    made = model_of_graph(graph)
    zeros = [part for part in made.parts if part.name.startswith("zeros")]
    assert len(made.parts) - len(zeros) == len(graph)
    assert all(each.isfinite().all() for each in run_as_bricks(decomposed(made, 3)))


def test_what_depends_on_values_is_that_of_these_inputs() -> None:
    """A shape, and the branch that a condition takes; a note names the operators."""
    selecting = model_of(Selecting().eval(), (torch.tensor([1.0, -1.0, 2.0]),))
    last = decomposed(selecting, 1).bricks[-1]
    assert [each.shape for each in last.layer.outputs] == [(2,)]
    assert "(index)" in selecting.traced.notes[0]
    branching = model(Branching)
    assert [part.name for part in branching.parts][-1] == "linear"
    assert "depend on values" in branching.traced.notes[0]


def test_another_device_than_the_models_stays() -> None:
    """What a model makes elsewhere (here without data) its bricks make there, too."""

    class Elsewhere(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.zeros(3, device="meta").shape[0] + torch.zeros(4, device="cpu")

    cut = decomposed(model_of(Elsewhere().eval(), (torch.randn(4),)), 1)
    made = [built(json.loads(each.layer.key), []) for each in cut.bricks]
    kinds = [
        each()[0].device.type
        for each, brick in zip(made, cut.bricks, strict=True)
        if not brick.inputs and brick.outputs
    ]
    assert "meta" in cut.bricks[0].layer.key
    assert kinds == ["cpu"]


def test_composite_operators_are_one_layer() -> None:
    """`linear` on a batch of matrices, and not the views and the product that torch makes of it."""
    made = model_of(nn.Linear(3, 4).eval(), (torch.randn(2, 5, 3),))
    assert [[node.name for node in part.nodes] for part in made.parts] == [["linear"]]


def test_taking_a_model_apart_leaves_its_inputs_and_buffers_alone() -> None:
    """Also where it writes to them."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: Tensor
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.add_(1.0)
            return x.mul_(2.0)

    module, x = Counting().eval(), torch.ones(3)
    model_of(module, (x,))
    assert module.seen.tolist() == [0.0]
    assert x.tolist() == [1.0, 1.0, 1.0]


def test_a_call_under_autocast_is_read_by_tracing() -> None:
    """Its casts are not among the operators that Python calls; a note says so."""

    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                result: Tensor = self.linear(x)
            return result

    with pytest.raises(GraphError, match="wrap_with_autocast"):
        decomposed(model_of(Casting().eval(), (torch.randn(2, 3),)), 1)


# ---- networks ----


def test_a_key_is_all_that_a_network_needs() -> None:
    """From its JSON, and what its numbers are like, a brick runs on made-up tensors of the same
    shapes, types and strides, with indices that exist.
    """
    made = model(Transformer)
    _, values = next(made.run())
    first = decomposed(made, 2).bricks[0]
    real = [values[node] for node in (*first.inputs, *first.weights)]
    facts = json.loads(first.layer.key)
    inputs, weights = synthetic(facts, [described(each) for each in real], "cpu")
    for found, wanted in zip([*inputs, *weights], real, strict=True):
        assert (found.shape, found.dtype, found.stride()) == (
            wanted.shape,
            wanted.dtype,
            wanted.stride(),
        )
    results = built(facts, weights)(*inputs)
    assert [tuple(each.shape) for each in results] == [each.shape for each in first.layer.outputs]
    assert "embed" not in first.layer.key.replace("aten.embedding", "")


def test_an_unknown_operator_is_named() -> None:
    """A brick of another library's operator says which, and what to do."""
    facts = {"inputs": [], "weights": [], "parameters": {"nodes": [["mine.op.default", [], {}]]}}
    with pytest.raises(ValueError, match=r"no operator mine\.op\.default"):
        built(facts, [])


# ---- measuring and construction ----


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store(tmp_path_factory.mktemp("bricks") / "layers.sqlite") as opened:
        yield opened


OPTIONS = Options((1, 3), overlap=True, progress=False)


@pytest.fixture(scope="module")
def done(store: Store) -> Done:
    return measure(store, prepared([model(HandWritten, "one")], OPTIONS), OPTIONS)


def test_every_brick_and_the_whole_model_are_measured(store: Store, done: Done) -> None:
    """In the state inside a model, with provenance, and on disk."""
    (subject,) = prepared([model(HandWritten)], OPTIONS).subjects
    digests = {brick.layer.digest for brick in subject.bricks}
    assert set(times_of(done.records, NETWORK, "model")) == digests
    assert subject.whole is not None
    assert times_of(done.records, EAGER, "model")[subject.whole.layer.digest].mean_ns > 0
    kept = {entry.algorithm: entry for entry in store.entries(done.machine, [subject.whole.layer])}
    assert set(kept) == {NETWORK, EAGER}
    assert {"method", "threads", "statistics", "torch"} <= set(kept[NETWORK].provenance)


def test_warm_and_cold_loops_lie_beside(tmp_path: Path) -> None:
    """With a bracket every brick has three times, each an entry of its own."""
    options = Options((10,), budget_s=20.0, whole=False, bracket=True, progress=False)
    with Store(tmp_path / "layers.sqlite") as opened:
        done = measure(opened, prepared([model(HandWritten)], options), options)
        kept = opened.entries()
    states = [set(times_of(done.records, NETWORK, each)) for each in ("model", "warm", "cold")]
    assert len(states[0]) == 3
    assert states[0] == states[1] == states[2]
    assert {entry.caches: entry.rounds for entry in kept}["warm"] == 20


def test_constructed_latencies_are_sums_with_intervals(done: Done) -> None:
    """The sum adds every occurrence; the critical path is no longer; overlaps take away what the
    predecessor costs alone; a brick without a time makes the latency unknown, and is named.
    """
    (subject,) = prepared([model(HandWritten)], OPTIONS).subjects
    times, cut = times_of(done.records, NETWORK, "model"), subject.decompositions[1]
    total = summed(cut, times)
    each = [times[brick.layer.digest].mean_ns for brick in cut.bricks]
    assert total.latency_ns == pytest.approx(sum(each))
    assert 0 < total.half_width_ns < total.latency_ns
    assert along_critical_path(cut, times).latency_ns < total.latency_ns
    corrected = overlapping(cut, subject.pairs, times)
    assert sum(corrected.terms.values()) == sum(brick is None for brick in subject.pairs)
    del times[cut.bricks[2].layer.digest]
    unknown = summed(cut, times)
    assert unknown.latency_ns != unknown.latency_ns
    assert unknown.missing == ("div",)


def test_equal_bricks_are_off_together() -> None:
    """The interval of n equal bricks is n times that of one, not the root of n times."""
    module = nn.Sequential(*[nn.ReLU() for _ in range(4)])
    cut = decomposed(model_of(module.eval(), (torch.randn(3),)), 1)
    record = Record(cut.bricks[0].layer, NETWORK, "model", [10.0, 11.0, 12.0, 13.0, 14.0])
    total = summed(cut, {record.layer.digest: record})
    assert total.latency_ns == pytest.approx(48.0)
    assert total.half_width_ns == pytest.approx(4 * record.half_width_ns)


def test_repeated_bricks_find_their_code_in_the_caches() -> None:
    """Of four equal bricks the first counts with its own time and three with that of a second call,
    a brick that occurs once with its own; without second calls there is no such latency.
    """
    layers = [nn.Tanh() for _ in range(4)]
    cut = decomposed(model_of(nn.Sequential(*layers, nn.ReLU()).eval(), (torch.randn(3),)), 1)
    first, last = cut.bricks[0].layer, cut.bricks[-1].layer
    times = {
        first.digest: Record(first, NETWORK, "model", [10.0] * 5),
        last.digest: Record(last, NETWORK, "model", [7.0] * 5),
    }
    assert repeating(cut, times) is None
    times[first.digest].facts["again_samples_ns"] = [5.0, 6.0, 7.0]
    found = repeating(cut, times)
    assert found is not None
    assert found.latency_ns == pytest.approx(10 + 3 * 6 + 7)
    again = times[first.digest].again
    assert again is not None
    assert found.half_width_ns == pytest.approx(3 * again.half_width_ns)
    del times[last.digest]
    unknown = repeating(cut, times)
    assert unknown is not None
    assert unknown.missing == ("relu",)


def test_a_brick_that_occurs_twice_is_called_twice_in_a_round() -> None:
    """The second call has the weights of the next occurrence; one that occurs once, or whose calls
    a GPU is waited for, is called once.
    """
    called: list[str] = []

    def calls(*names: str) -> list[Any]:
        return [partial(called.append, name) for name in names]

    runnables = [
        Runnable(calls("a0", "a1"), [[], []]),
        Runnable(calls("b0"), [[]]),
        Runnable(calls("c0", "c1"), [[], []], wait=lambda: None),
    ]
    taken = round_of(runnables, 3, fresh, random.Random(0))
    assert called == ["a1", "a0", "b0", "c1"]
    assert [each.again_ns is not None for each in taken] == [True, False, False]


def test_other_batch_sizes_lie_between_measured_ones() -> None:
    """Half way between two sizes is the mean of both; beyond them is refused."""

    def cut(batch: int) -> Decomposition:
        return decomposed(model_of(nn.ReLU(), (torch.randn(batch, 3),)), 1)

    def measured(batch: int, time_ns: float) -> tuple[Decomposition, dict[str, Record]]:
        made = cut(batch)
        record = Record(made.bricks[0].layer, NETWORK, "model", [time_ns] * 5)
        return made, {record.layer.digest: record}

    known = {2: measured(2, 10.0), 6: measured(6, 30.0)}
    assert between(known, cut(4), 4).latency_ns == pytest.approx(20.0)
    with pytest.raises(XspError, match="outside the measured"):
        between(known, cut(8), 8)


def test_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    """A second model of the same bricks adds no brick, once the first is complete: by the paper's
    statistics when all have a hundred samples.
    """
    options = Options((1,), "paper", progress=False)
    again = prepared([model(HandWritten, "two")], options)
    with Store(tmp_path / "layers.sqlite") as store:
        first = measure(store, again, options)
        second = measure(store, again, options)
    assert first.rounds == 100
    assert (second.measured, second.rounds) == (0, 0)
    assert second.known == len({brick.layer.digest for brick in again.subjects[0].bricks})
    assert all(
        len(each.samples_ns) >= 100
        for each in second.records.values()
        if each.complete and each.caches == "model"
    )


KILLED = """
import os, signal, sys
from unittest import mock
from small_models import HandWritten, ready
import xsp
from xsp.brickwork import running
from xsp.brickwork.model import model_of
from xsp.brickwork.plan import Options, prepared
from xsp.brickwork.rounds import round_of
from xsp.database.store import Store

options = Options((3,), "paper", whole=False, threads=1, progress=False)
calls = iter(range(1000))

def kill(*given):
    if next(calls) > 60:
        os.kill(os.getpid(), signal.SIGKILL)
    return round_of(*given)

with mock.patch.multiple(running, KEPT_EVERY_S=0.0, round_of=kill), Store(sys.argv[1]) as opened:
    running.measure(opened, prepared([model_of(*ready(HandWritten))], options), options)
"""


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """Of a process that is killed in a round after the 20th the next one has all that was kept, and
    adds what is missing up to the paper's 100.
    """
    place = tmp_path / "layers.sqlite"
    options = Options((3,), PAPER, whole=False, threads=1, progress=False)
    path = os.pathsep.join(map(str, [Path(__file__).parent, *sys.path]))
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(place)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        timeout=240,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    with Store(place) as opened:
        before = {entry.key: entry.provenance["samples_ns"] for entry in opened.entries()}
        done = measure(opened, prepared([model(HandWritten)], options), options)
        after = {entry.key: entry.provenance["samples_ns"] for entry in opened.entries()}
    assert all(20 < len(each) < 100 for each in before.values())
    assert all(len(each) == 100 for each in after.values())
    assert all(after[key][: len(each)] == each for key, each in before.items())
    assert done.rounds == 100 - max(map(len, before.values()))


def test_a_brick_that_fails_is_an_entry_and_the_rest_goes_on(tmp_path: Path) -> None:
    """What its operator raised stands in the database; every other brick has a time."""
    options = Options((1,), budget_s=1.0, progress=False)
    ready_models = prepared([model(HandWritten)], options)
    real = torch.ops.aten.erf.default

    def broken(*_: object) -> Tensor:
        raise RuntimeError("no such luck")

    def chosen(name: str) -> object:
        return broken if name == str(real) else _function(name)

    with (
        Store(tmp_path / "layers.sqlite") as opened,
        mock.patch(
            "xsp.brickwork.network._function",
            lambda name, own=_function: broken if name == str(real) else own(name),
        ),
    ):
        done = measure(opened, ready_models, options)
        failed = [entry for entry in opened.entries() if entry.failure]
    assert len(done.failures) == 2  # erf, and the whole model as one brick
    assert {entry.failure for entry in failed} == {"RuntimeError: no such luck"}
    assert len(times_of(done.records, NETWORK, "model")) == 10


def test_training_steps_are_bricks_with_their_backward_pass(tmp_path: Path) -> None:
    """A model in training mode: bricks have gradients too, and the model is left as it was."""
    module, inputs = ready(Convolutional)
    module.train()
    before = {name: each.clone() for name, each in module.state_dict().items()}
    options = Options((1,), budget_s=1.0, whole=False, progress=False)
    with Store(tmp_path / "layers.sqlite") as opened:
        done = measure(opened, prepared([model_of(module, inputs)], options), options)
    times = times_of(done.records, TRAINED, "model")
    assert not done.failures
    assert len(times) == len({record.layer.digest for record in times.values()}) > 10
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(before[name], each) for name, each in module.state_dict().items())


def test_the_process_is_left_as_it_was(done: Done) -> None:
    """Threads, CPUs, denormal numbers and the garbage collector are as before."""
    import gc

    assert done.rounds
    assert gc.isenabled()
    assert torch.get_num_threads() == int(
        os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())
    )
    assert len(os.sched_getaffinity(0)) == (os.cpu_count() or 1) or len(os.sched_getaffinity(0)) > 0
    assert float(torch.tensor(1e-40) * 1.0) > 0


def test_options_say_what_they_may_be() -> None:
    """Bad values are refused before anything is measured."""
    with pytest.raises(XspError, match="granularity must be whole numbers >= 1"):
        Options((0,))
    with pytest.raises(XspError, match="statistics must be"):
        Options((1,), "mean")
    with pytest.raises(XspError, match="threads must be"):
        Options((1,), threads=0)


def test_a_model_that_cannot_be_taken_apart_is_named_and_the_rest_goes_on() -> None:
    """It is a failure by name; the other model is a subject."""
    bad = model_of(Sparse().eval(), (torch.randn(3, 3),), name="bad")
    found = prepared([bad, model(HandWritten, "good")], Options())
    assert [each.model.name for each in found.subjects] == ["good"]
    assert "dense tensors only" in found.failures["bad"]


def test_pairs_leave_out_what_is_no_network() -> None:
    """A layer that reads more than its predecessor's result has no pair."""
    found = pairs(model(HandWritten))
    assert found[0] is None
    assert next(each.layer.source for each in found if each is not None).startswith("linear")


def test_what_is_known_well_enough_is_not_run_any_more(done: Done) -> None:
    """A sum that is known to a share, with its bricks, and a whole model; the others stay."""

    def record(name: str, algorithm: str, *samples_ns: float) -> Record:
        layer = replace(next(iter(done.records.values())).layer, operator=name)
        return Record(layer, algorithm, MODEL, list(samples_ns))

    steady = record("steady", NETWORK, *[100.0, 100.1] * 5)
    noisy = record("noisy", NETWORK, *[100.0, 200.0] * 5)
    model = record("model", EAGER, *[300.0, 300.1] * 5)
    records = {each.key: each for each in (steady, noisy, model)}
    sums = [Counter({steady.layer.digest: 2}), Counter([steady.layer.digest, noisy.layer.digest])]
    assert wide(records, sums[:1], 0.01) == set()
    assert wide(records, sums, 0.01) == {steady.layer.digest, noisy.layer.digest}
    model.samples_ns[::2] = [900.0] * 5
    assert wide(records, sums[:1], 0.01) == {model.layer.digest}


def test_times_of_two_clocks_are_kept_apart(tmp_path: Path) -> None:
    """CPU time is what the thread used: an entry of its own, that no wall time is taken for."""
    with Store(tmp_path / "layers.sqlite") as opened:
        for clock in ("wall", "cpu"):
            options = Options((10,), threads=1, clock=clock, budget_s=0.1, progress=False)
            done = measure(opened, prepared([model(HandWritten)], options), options)
        kept = {entry.algorithm for entry in opened.entries()}
    assert kept == {"network", "network, CPU time", "whole model", "whole model, CPU time"}
    assert all(record.samples_ns for record in done.records.values())


def test_cpu_time_needs_one_thread() -> None:
    """The message says why."""
    with pytest.raises(XspError, match="counts the calling thread only, and threads is None"):
        Options((1,), clock="cpu")
    with pytest.raises(XspError, match="clock must be 'wall' or 'cpu', not 'gpu'"):
        Options((1,), threads=1, clock="gpu")


def test_a_machine_that_others_use_is_a_doubt() -> None:
    """Time in which the thread has no CPU is told, with what it does to latencies."""
    share = CpuShare()
    time.sleep(0.05)
    assert share.value < 0.5
    assert "interrupt a whole model more often than a brick" in share.doubt()


def test_copies_lie_in_memory_as_what_they_copy() -> None:
    """Slices, transposed, expanded and overlapping tensors keep shape and strides; where no two
    places are one, the numbers too.
    """
    base = torch.randn(6, 8)
    alike = [base[:, 2:5], base.t(), base[::2], base[0].expand(3, 8), torch.tensor(2.0)]
    for each in alike:
        copy = fresh(each)
        assert (copy.shape, copy.stride()) == (each.shape, each.stride())
        torch.testing.assert_close(copy, each)
    windows = base[0].unfold(0, 3, 1)
    copy = fresh(windows)
    assert (copy.shape, copy.stride()) == (windows.shape, windows.stride())
    assert copy.untyped_storage().nbytes() == 8 * 4


class Overlapping(nn.Module):
    """A layer that reads overlapping windows from another."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x.exp().unfold(1, 3, 1).sin().sum(-1)
        return output


def test_overlapping_windows_are_measured(tmp_path: Path) -> None:
    """No brick fails because its input overlaps itself in memory."""
    options = Options((1,), budget_s=0.2, progress=False)
    made = model_of(Overlapping().eval(), (torch.randn(2, 9),))
    with Store(tmp_path / "layers.sqlite") as opened:
        done = measure(opened, prepared([made], options), options)
    assert not done.failures


class Sparse(nn.Module):
    """Its middle is a sparse tensor."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x.relu().to_sparse().sin().to_dense()
        return output


def test_a_sparse_tensor_is_named() -> None:
    """Where it comes from, and that bricks are of dense tensors."""
    with pytest.raises(GraphError, match=r"dense tensors only|cannot be read"):
        decomposed(model_of(Sparse().eval(), (torch.randn(3, 3),)), 1)


def test_a_model_that_fails_layer_by_layer_is_a_note_and_the_rest_goes_on(tmp_path: Path) -> None:
    """The other model has its latency."""
    options = Options((1,), budget_s=0.5, progress=False)
    ready_models = prepared([model(HandWritten, "bad"), model(Recurrent, "good")], options)
    bad = ready_models.subjects[0].model

    def failing(model: Model, bricks: Any) -> Any:
        if model is bad:
            raise RuntimeError("no such luck")
        return occurrences_in(model, bricks)

    with (
        Store(tmp_path / "layers.sqlite") as opened,
        mock.patch.object(running, "occurrences_in", failing),
    ):
        done = measure(opened, ready_models, options)
    assert "bad cannot be run layer by layer: RuntimeError: no such luck" in done.notes
    times = times_of(done.records, NETWORK, "model")
    assert summed(ready_models.subjects[1].decompositions[1], times).covered == 1


def test_bricks_of_a_segment_are_called_in_the_order_of_the_model() -> None:
    """Segments come in random order, what is in them does not: code is as warm as in the model."""
    called: list[int] = []

    def call(number: int) -> Any:
        return lambda: called.append(number)

    runnables = [Runnable([call(number)], [[]], segment=number // 3) for number in range(9)]
    orders = set()
    for seed in range(8):
        called.clear()
        taken = round_of(runnables, 0, fresh, random.Random(seed))
        assert len(taken) == 9
        groups = [tuple(called[start : start + 3]) for start in (0, 3, 6)]
        assert sorted(groups) == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]
        orders.add(tuple(groups))
    assert len(orders) > 1


class KnowsWhenTraced(nn.Module):
    """Multiplies in one operator, but in two while it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return x * 2.0 * 3.0
        return x * 6.0


def test_bricks_are_of_what_a_call_runs() -> None:
    """Also where a model that is traced does something else; where bricks are of that, a sentence
    says which operators differ.
    """
    module, x = KnowsWhenTraced().eval(), torch.randn(4)
    called = model_of(module, (x,))
    assert [part.name for part in called.parts] == ["mul"]
    assert difference(called) == ""
    traced = replace(called, traced=traced_call(module, (x,), None, "knows"))
    assert difference(traced).startswith(
        "its bricks are of 1 mul where a call of the model runs no"
    )
