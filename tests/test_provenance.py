"""Kernels of compiled code are led to the layers and lines that they come from."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from inductor_without_compiler import inductor_without_compiler
from quick import QUICK, measured
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import xsp
from xsp.analysis.work.layer_work import layer_work
from xsp.machine import compiler_internals
from xsp.measuring.afterwards import compiled as afterwards
from xsp.provenance.graphs import CompiledGraph, Launch, explained
from xsp.provenance.origins import Origin
from xsp.provenance.products import product_flops
from xsp.provenance.recording import Recorder
from xsp.provenance.tables import Described, described, shares
from xsp.provenance.wrapper_text import launches
from xsp.report.sheet_data import sheet_data
from xsp.report.sheets import SHEETS

PHASES = ("forward", "backward")

Tables = tuple[pd.DataFrame, pd.DataFrame]
"""Launches, and their origins."""


@pytest.fixture
def _no_compiler(tmp_path: Path) -> Iterator[None]:
    with inductor_without_compiler(tmp_path):
        yield


class Gated(nn.Module):
    """Two products, a function between them, and one at the root of it."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 32)
        self.norm = nn.LayerNorm(8)
        self.down = nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A residual block."""
        inner: torch.Tensor = self.down(torch.sigmoid(self.up(self.norm(x))))
        return x + inner


class Stack(nn.Module):
    """Two blocks, the first called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Gated(), Gated()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Every block, the first once more."""
        output: torch.Tensor = self.blocks[0](self.blocks[1](self.blocks[0](x)))
        return output.tanh()


class Broken(nn.Module):
    """Two layers between which Dynamo breaks the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One after the other."""
        x = self.first(x)
        torch._dynamo.graph_break()
        output: torch.Tensor = self.last(x)
        return output.tanh()


@dataclass(frozen=True)
class Compiled:
    """One step of Stack, of dynamic shapes: what was recorded while it was compiled, what was found
    out without that, what without Dynamo's graph too, and what the compiler had done before and
    after these were found out.
    """

    watched: Tables
    again: Tables
    by_line: Tables
    done: tuple[Any, Any]


def _live_graphs() -> list[compiler_internals.LiveGraph]:
    """Every compiled graph that is alive, as the garbage collector finds them."""
    kind = torch._inductor.output_code.CompiledFxGraph
    # `isinstance` would ask objects of other libraries, some of which answer with work.
    return [compiler_internals.live_graph(each) for each in gc.get_objects() if type(each) is kind]


def _of_live_graphs(recorder: Recorder | None = None) -> tuple[Described, list[str]]:
    """Their rows, and sentences on what is missing."""
    found = explained(_live_graphs(), recorder or Recorder())
    return described([(graph, "") for graph in found.graphs]), found.remarks


def _tables(recorder: Recorder | None = None, remarks: int = 0) -> Tables:
    found, said = _of_live_graphs(recorder)
    assert len(said) == remarks
    return pd.DataFrame(found.launches), pd.DataFrame(found.origins)


def _run(program: Callable[..., Any], *shape: int, **options: Any) -> None:
    compiled = torch.compile(program, **options)
    compiled(torch.randn(*shape, requires_grad=True)).sum().backward()


def _line(method: Any, text: str) -> str:
    lines, first = inspect.getsourcelines(method)
    return f"{__file__}:{first + next(at for at, line in enumerate(lines) if text in line)}"


def _owners(launches: pd.DataFrame, origins: pd.DataFrame, phase: str) -> list[set[str]]:
    own = launches.index[launches["phase"] == phase]
    return [set(origins.loc[origins["launch"] == each, "layer"]) for each in own]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """One compilation for all tests that need no other."""
    recorder = Recorder()
    with inductor_without_compiler(tmp_path_factory.mktemp("inductor")):
        with recorder.on_when_compiling():
            _run(Stack(), 4, 8, dynamic=True)
        before = _done()
        watched, again = _tables(recorder), _tables()
        after = _done()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(compiler_internals, "dynamo_graphs", list)
            return Compiled(watched, again, _tables(remarks=1), (before, after))


def _done() -> Any:
    counters = torch._dynamo.utils.counters
    handles = {id(each.handle) for each in _live_graphs()}
    said = len(compiler_internals.compilation_metrics())
    return handles, dict(counters["frames"]), dict(counters["inductor"]), said


@pytest.fixture
def watched(compiled: Compiled) -> Tables:
    """What was recorded of it while it was compiled."""
    return compiled.watched


def test_every_launch_is_led_to_its_layers_in_order(watched: Tables) -> None:
    """Recorded while it is compiled, each launch of the forward pass has the layers that are fused
    into it, in the order of the program, with the line that called them.
    """
    launched, origins = watched
    forward = _owners(launched, origins, "forward")
    products = [owners for owners in forward if owners & {"blocks.0.up", "blocks.1.up"}]
    assert products == [{"blocks.0.up"}, {"blocks.1.up"}, {"blocks.0.up"}]
    assert {"blocks.0::sigmoid"} in forward
    assert {"blocks.0::add", "blocks.1.norm"} <= forward[4]
    assert "::tanh" in forward[-1]
    assert set(launched["confidence"]) == {"exact"}
    up = origins[origins["layer"] == "blocks.1.up"]
    assert set(up["source"]) == {_line(Gated.forward, "self.up")}


def test_backward_kernels_are_led_to_the_layers_of_the_forward_pass(watched: Tables) -> None:
    """The two products of a Linear's backward pass are its own; gradients that are added up are
    called so, and are no layer's.
    """
    launched, origins = watched
    backward = _owners(launched, origins, "backward")
    assert backward.count({"blocks.1.down"}) == 2
    assert backward.count({"blocks.0.up"}) == 4
    assert any("(gradient accumulation)" in name for owners in backward for name in owners)
    assert not any("(unknown)" in owners for owners in backward)


def test_shares_of_a_launch_add_up_to_one(watched: Tables) -> None:
    """Nothing of a kernel is lost or counted twice when it is shared among its layers."""
    launched, origins = watched
    sums = origins.groupby("launch")["share"].sum()
    assert list(sums.index) == list(range(len(launched)))
    assert sums.to_numpy() == pytest.approx(1.0)


def test_what_was_compiled_before_is_found_again(compiled: Compiled) -> None:
    """Without a record the code is generated again, also of dynamic shapes; its text is that of the
    live graph, the owners are those that a record would have had, and nothing is compiled again.
    """
    launched, origins = compiled.again
    known, recorded = compiled.watched
    assert set(launched["confidence"]) == {"verified"}
    assert launched.drop(columns="confidence").equals(known.drop(columns="confidence"))
    assert origins["layer"].tolist() == recorded["layer"].tolist()
    assert origins["share"].tolist() == recorded["share"].tolist()
    assert compiled.done[0] == compiled.done[1]


@pytest.mark.usefixtures("_no_compiler")
def test_a_profile_has_the_source_layers_of_compiled_code() -> None:
    """A profile of a compiled step names the layers of its kernels, forward and backward, beside
    the compiled layer, which stays one in the tree; a CPU gives no times for them.
    """
    net = torch.compile(Gated())
    x = torch.randn(4, 8)

    def step() -> None:
        net(x).sum().backward()

    prof = measured(step)
    layers = prof.compiled_layers().set_index(["layer", "phase"])
    assert layers.loc[("up", "forward"), "confidence"] == "exact"
    assert ("down", "backward") in layers.index
    assert layers["device_ms"].isna().all()
    flops = layers["flops"].dropna().to_dict()
    assert set(flops) == {(name, phase) for name in ("up", "down") for phase in PHASES}
    eager = measured(Gated(), x).table("layers")
    work = layer_work(eager)["flops"].groupby(eager["name"]).sum()
    for name in ("up", "down"):
        assert flops[(name, "forward")] == work[name] > 0
    with FlopCounterMode(display=False) as counted:
        Gated()(x).sum().backward()
    assert sum(flops.values()) == counted.get_total_flops()
    assert "up" not in " ".join(prof.tree()["name"])
    assert not [each for each in prof.warnings if "recompiled" in each or "not-led" in each]
    assert prof.compiled_graphs()["phase"].tolist() == ["forward", "backward"]
    assert (prof.compiled_graphs()["entering_ns"] > 0).all()
    within = prof.compilations[prof.compilations["when"] == "within"]
    assert within["phase"].tolist() == ["forward", "backward"], prof.compilations.to_string()
    assert (within["total_ns"] > 0).all()


@pytest.mark.usefixtures("_no_compiler")
@pytest.mark.parametrize(
    "modes",
    [torch.no_grad, torch.inference_mode, partial(torch.autocast, "cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_what_was_compiled_before_in_other_modes_is_found_again(
    modes: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Code depends on the modes that it is compiled under; a program that enters them itself, and
    has run before it is profiled, has its layers all the same, and its modes afterwards.
    """
    net, x = torch.compile(Gated()), torch.randn(4, 8)

    def infer() -> None:
        with modes():
            net(x)

    infer()
    prof = measured(infer)
    assert set(prof.table("compiled_launches")["confidence"]) == {"verified"}
    assert {"up", "norm", "down"} <= set(prof.compiled_layers()["layer"])
    assert not [each for each in prof.warnings if "recompiled" in each or "not-led" in each]
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.usefixtures("_no_compiler")
def test_compiled_code_of_others_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that calls no compiled code is run no more often for what its process has compiled,
    and nothing is said of that.
    """
    torch.compile(Gated())(torch.randn(4, 8))
    looked: list[Any] = []
    place = "xsp.measuring.afterwards.compiled.lead_kernels"
    monkeypatch.setattr(place, lambda *all_: looked.append(all_))
    prof = measured(Gated(), torch.randn(4, 8))
    assert not looked
    assert not len(prof.compiled())
    assert not [each for each in prof.warnings if "compiled" in each]


@pytest.mark.usefixtures("_no_compiler")
def test_whole_calls_alone_are_not_led_to_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only whole calls are asked for, as for each batch size of an evaluation, no code is
    generated once more.
    """
    monkeypatch.setattr(afterwards, "lead_kernels", lambda *_: pytest.fail("it was led"))
    net = torch.compile(Gated())
    x = torch.randn(4, 8)
    with torch.no_grad():
        prof = xsp.measure(lambda: net(x), **QUICK, levels="M")
    assert prof.compiled_graphs().empty
    assert not [each for each in prof.warnings if "not-led" in each]


@pytest.mark.usefixtures("_no_compiler")
def test_each_part_between_graph_breaks_is_a_graph_of_its_own() -> None:
    """A program that breaks has one graph before and one after, each with its layers only."""
    recorder = Recorder()
    with recorder.on_when_compiling(), torch.no_grad():
        torch.compile(Broken())(torch.randn(4, 8))
    launched, origins = _tables(recorder)
    by_graph = [
        set(origins.loc[origins["launch"].isin(rows.index), "layer"])
        for _, rows in launched.groupby("graph")
    ]
    assert sorted(by_graph, key=len) == [{"first"}, {"last", "::tanh"}]


def test_without_dynamos_graph_the_line_is_still_known(compiled: Compiled) -> None:
    """Where code can neither be watched nor generated again, each launch has the line of its last
    operation, said to be inferred, and no layer is made up; a sentence says what is missing.
    """
    launched, origins = compiled.by_line
    assert set(launched["confidence"]) == {"inferred"}
    assert set(origins["layer"]) == {"(unknown)"}
    assert _line(Gated.forward, "self.up") in set(origins["source"])


@pytest.mark.usefixtures("_no_compiler")
def test_without_time_nothing_is_generated_and_that_is_said() -> None:
    """Where a profile's time is over, what a record would have told is missing, with a sentence."""
    with torch.no_grad():
        torch.compile(lambda x: x.tanh() + 1)(torch.randn(4, 8))
    found = explained(_live_graphs(), Recorder(), lambda: False)
    assert found.remarks == ["there was no time to generate code again"]
    assert {each.confidence for graph in found.graphs for each in graph.launches} == {"inferred"}


@pytest.mark.usefixtures("_no_compiler")
def test_a_release_without_these_names_gives_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that has moved what is asked for loses provenance, not the program."""

    def moved() -> Any:
        raise compiler_internals.MovedError("torch has no codegen_comment")

    monkeypatch.setattr(compiler_internals, "announcements", moved)
    recorder = Recorder()
    with recorder.on_when_compiling(), torch.no_grad():
        torch.compile(lambda x: x.tanh() + 1)(torch.randn(4, 8))
    found, remarks = _of_live_graphs(recorder)
    assert any("codegen_comment" in each for each in remarks)
    assert {row["confidence"] for row in found.launches} == {"inferred"}


def test_recording_leaves_the_compiler_as_it_was() -> None:
    """After a block, also one that raised, Inductor's methods are its own."""
    import torch._inductor.codegen.triton as triton

    before = triton.TritonScheduling.codegen_comment
    with suppress(ZeroDivisionError), Recorder().on():
        assert triton.TritonScheduling.codegen_comment is not before
        raise ZeroDivisionError
    assert triton.TritonScheduling.codegen_comment is before
    handler = torch._dynamo.callback.callback_handler
    callbacks = list(handler.start_callbacks)
    with Recorder().on_when_compiling():
        assert len(handler.start_callbacks) == len(callbacks) + 1
    assert handler.start_callbacks == callbacks


def _origin(**facts: Any) -> Origin:
    known: dict[str, Any] = {"bytes": 0, "main": False, **facts}
    return Origin("n", "aten.add", (), "add", "a.py:1", is_backward=False, **known)


@pytest.mark.parametrize(
    ("kind", "origins", "expected"),
    [
        ("triton", [_origin(bytes=300), _origin(bytes=100)], [0.75, 0.25]),
        ("triton", [_origin(bytes=0), _origin(bytes=0)], [0.5, 0.5]),
        ("triton", [_origin(bytes=None), _origin(bytes=100)], [0.5, 0.5]),
        ("template", [_origin(bytes=1, main=True), _origin(bytes=99)], [1.0, 0.0]),
        ("extern", [_origin(bytes=0)], [1.0]),
    ],
    ids=["by bytes", "nothing moved", "bytes not known", "a product and what follows", "a library"],
)
def test_the_rule_of_sharing(kind: str, origins: list[Origin], expected: list[float]) -> None:
    """Bytes decide among fused layers; a template belongs to its product; equal parts are the last
    resort.
    """
    launch = Launch(0, "kernel", kind, "exact", tuple(origins))
    assert shares(launch) == expected


WRAPPER = '''
async_compile = AsyncCompile()
triton_red_fused_0 = async_compile.triton('triton_red_fused_0', """ def call(args): pass """)
def partition_0(args):
    buf1 = empty_strided_cuda((4, ), (1, ), torch.float32)
    triton_poi_fused_1.run(arg0, buf1, 4, stream=stream0)
    return (buf1, )
class Runner:
    def call(self, args):
        arg0_1, = args
        args.clear()
        assert_size_stride(arg0_1, (4, ), (1, ))
        with torch.cuda._DeviceGuard(0):
            torch.cuda.set_device(0)
            extern_kernels.mm(arg0_1, reinterpret_tensor(arg0_1, (4, ), (1, ), 0), out=buf0)
            (buf1,) = self.partitions[0](partition0_args)
            triton_red_fused_0.run(buf0, ws, 4, 8, stream=stream0)
            buf2 = ws[0 : 64].view(4, 16).sum(dim=0)
            buf3 = torch.ops.aten._scaled_dot_product_flash_attention.default(buf2, buf2, buf2)
            buf4 = buf3[0]
            del buf3
        return (buf4, reinterpret_tensor(buf0, (4, ), (1, ), 0), )
'''


def test_launches_of_a_wrapper_are_read_in_the_order_in_which_they_run() -> None:
    """Partitions are read where they are called; views, allocations and asserts launch nothing."""
    assert [(each.name, each.kind) for each in launches(WRAPPER)] == [
        ("extern_kernels.mm", "extern"),
        ("triton_poi_fused_1", "triton"),
        ("triton_red_fused_0", "triton"),
        (".sum", "extern"),
        ("torch.ops.aten._scaled_dot_product_flash_attention.default", "extern"),
    ]


def test_text_from_a_cache_is_the_same_code_whoever_filled_it() -> None:
    """What a graph's number, its files and the command line put into its text launches nothing."""
    texts = [
        f"# AOT ID: ['{number}_inference']\n# kernel path: /tmp/{number}.py\n{WRAPPER}"
        f"    compiled_module_main('{name}', lambda times, repeat: None)\n"
        for number, name in ((0, "None"), (1, "lstm"))
    ]
    same = compiler_internals.same_code
    assert same(texts[0]) == same(texts[1])
    assert same(texts[0]) != same(texts[0].replace("buf0", "buf9"))


def test_a_text_that_is_no_python_wrapper_launches_nothing() -> None:
    """Code of the C++ wrapper, and of releases to come, gives no launches instead of an error."""
    assert launches("#include <torch/csrc/inductor/cpp_wrapper/cpu.h>") == []
    assert launches("x = 1") == []


def test_flops_of_nodes_are_those_of_the_operators() -> None:
    """A grouped convolution's backward pass computes twice what its forward pass does, where both
    gradients are asked for; a function has no products, and of attention that has no formula they
    are not known, which is not 0.
    """
    x, weight = torch.randn(2, 4, 6, 6), torch.randn(8, 2, 3, 3)
    convolution = ([1, 1], [0, 0], [1, 1], False, [0, 0], 2)

    def convolved(x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
        y = torch.ops.aten.convolution(x, weight, None, *convolution)
        mask = [True, True, False]
        given = (y, x, weight, None, *convolution, mask)
        attended = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(x, x, x)
        return [*torch.ops.aten.convolution_backward(*given)[:2], torch.sigmoid(y), attended[0]]

    graph = make_fx(convolved, tracing_mode="fake")(x, weight).graph
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    found = {str(node.target): product_flops(node) for node in nodes}
    forward = 2 * 2 * 8 * 4 * 4 * 2 * 3 * 3
    assert found["aten.convolution.default"] == forward
    assert found["aten.convolution_backward.default"] == 2 * forward
    assert found["aten.sigmoid.default"] == 0
    assert found["aten._scaled_dot_product_flash_attention_for_cpu.default"] is None


def test_a_product_counts_once_however_many_launches_stand_for_it() -> None:
    """A convolution's gradients by a library, and that of its bias by a fused kernel, are of one
    node: its FLOPs are the library's. What is known by a line alone has FLOPs that are not known.
    """
    node = Origin("n", "aten.convolution_backward", (), "conv", "a.py:1", 8, True, flops=100)
    by_line = Origin("", "", (), "", "a.py:2", None, True)
    launched = [
        Launch(0, "cpp_fused_0", "cpp", "exact", (node,)),
        Launch(1, "extern_kernels.convolution_backward", "extern", "exact", (node,)),
        Launch(2, "cpp_fused_1", "cpp", "inferred", (by_line,)),
    ]
    live = compiler_internals.LiveGraph(None, "", is_backward=True, lines=())
    rows = described([(CompiledGraph(live, "backward", tuple(launched)), "")]).origins
    assert [row["flops"] for row in rows] == [0, 100, None]


@pytest.mark.usefixtures("_no_compiler")
def test_a_report_has_the_flops_of_compiled_layers() -> None:
    """In both tables of compiled code, in GFLOP; a layer without a product has none."""
    net = torch.compile(Gated())
    with torch.no_grad():
        prof = measured(lambda x: net(x), torch.randn(4, 8))
    for sheet in SHEETS["compiled"]:
        shown = sheet_data(sheet, sheet.rows(prof))["columns"]
        columns = {each["head"]: each for each in shown}
        layers = [columns["layer"]["texts"][code][0] for code in columns["layer"]["codes"]]
        flops = dict(zip(layers, columns["GFLOP"]["values"], strict=True))
        assert flops["up"] == pytest.approx(2 * 4 * 8 * 32 / 1e9)
        assert not flops["norm"]
