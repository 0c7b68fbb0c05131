"""Models as graphs of layers: from PyTorch, from ONNX files and from captures."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from small_models import Branching, Convolutional, HandWritten, Recurrent, Transformer, ready
from torch import nn

import xsp
from xsp.cli import main
from xsp.errors import GraphError
from xsp.graphs.from_export import EXPORT, TRACE, graph_of
from xsp.graphs.from_onnx import graph_of_onnx
from xsp.graphs.from_profile import graph_of_profile
from xsp.graphs.graph import Graph, chain
from xsp.graphs.layer import Layer, TensorType
from xsp.graphs.patterns import folded
from xsp.graphs.unique import shares, similarity, unique_layers

onnx = pytest.importorskip("onnx", reason="reading ONNX files needs the package onnx")
ROOT = Path(__file__).parent.parent


def exported(model: nn.Module, inputs: tuple[Any, ...], path: Path, **options: Any) -> Path:
    """The model as torch.onnx writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, inputs, str(path), **{"dynamo": False, **options})
    return path


def of(*names: str) -> Graph:
    """A chain of ReLUs of one size each, told apart by name and size."""
    layers = tuple(
        Layer(name, "relu", inputs=(TensorType((int(name[1:]),), "float32"),)) for name in names
    )
    return Graph("made", layers, chain(layers), "test")


def alike(one: Graph, other: Graph) -> bool:
    """Whether both have the same layers with the same edges, up to names and the order of layers
    that do not depend on each other.
    """
    return sorted(signatures(one)) == sorted(signatures(other))


def signatures(graph: Graph) -> list[str]:
    """Each layer with everything above it, as text that does not depend on names."""
    found: list[str] = []
    for place, layer in enumerate(graph.layers):
        above = sorted(found[before] for before, after in graph.edges if after == place)
        found.append(f"{layer.key}({', '.join(above)})")
    return found


@pytest.mark.parametrize("kind", [Transformer, Recurrent])
def test_onnx_and_pytorch_give_the_same_graph(kind: type[nn.Module], tmp_path: Path) -> None:
    """The same model by ONNX and by torch.export has the same layers and edges up to names."""
    model, inputs = ready(kind)
    read = graph_of(model, inputs)
    again = graph_of_onnx(exported(model, inputs, tmp_path / "model.onnx"))
    assert read.source == EXPORT
    assert alike(read, again), set(read.keys) ^ set(again.keys)


def test_a_folded_export_is_the_folded_graph(tmp_path: Path) -> None:
    """torch.onnx folds batch normalisation into convolutions; `folded` gives the same graph."""
    model, inputs = ready(Convolutional)
    read = graph_of(model, inputs)
    again = graph_of_onnx(exported(model, inputs, tmp_path / "model.onnx"))
    assert not alike(read, again)
    assert len(read) == len(again) + 1
    assert alike(folded(read), again), set(folded(read).keys) ^ set(again.keys)


def test_the_newer_exporter_gives_the_same_graph(tmp_path: Path) -> None:
    """torch.onnx's exporter by torch.export, which spells things otherwise, reads the same."""
    pytest.importorskip("onnxscript")
    model, inputs = ready(Convolutional)
    path = exported(model, inputs, tmp_path / "model.onnx", dynamo=True, verbose=False)
    assert alike(folded(graph_of(model, inputs)), folded(graph_of_onnx(path)))


def test_layers_have_shapes_parameters_and_users() -> None:
    """A strided convolution is read with its weights, parameters and the layer that it feeds."""
    model, inputs = ready(Convolutional)
    read = graph_of(model, inputs)
    stem = read.layers[0]
    assert (stem.name, stem.operator) == ("stem", "convolution")
    assert stem.weights == (TensorType((8, 3, 3, 3), "float32"),)
    assert stem.parameters["stride"] == [2, 2]
    assert stem.outputs[0].shape == (2, 8, 16, 16)
    table = read.table().set_index("name")
    assert table.loc["stem", "feeds"] == "norm"
    assert table.loc["pool", "feeds"] == "depthwise, ::add"
    assert "drop" not in table.index
    assert [name for name, _ in model.named_modules()] == [
        n for n, _ in ready(Convolutional)[0].named_modules()
    ]


def test_channels_last_is_another_layer() -> None:
    """The layout counts when layers are compared: the same convolution in NHWC is another one."""
    model, (image,) = ready(Convolutional)
    plain = graph_of(model, (image,))
    turned = graph_of(model, (image.to(memory_format=torch.channels_last),))
    assert plain.layers[0].layout == "contiguous"
    assert turned.layers[0].layout == "channels_last"
    assert plain.layers[0].key != turned.layers[0].key


def test_layouts_are_those_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer behind a channels-last convolution lies as it does when the model runs, also by
    a torch.export that takes convolutions for contiguous, as that of torch 2.11 does on a GPU.
    """
    model, (image,) = ready(Convolutional)
    layout: dict[str, Any] = {"memory_format": torch.channels_last}
    model.to(**layout)
    expected = graph_of(model, (image,))
    lying: list[bool] = []

    def look(_module: nn.Module, _args: object, output: torch.Tensor) -> None:
        lying.append(output.is_contiguous(memory_format=torch.channels_last))

    convolutions = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
    hooks = [each.register_forward_hook(look) for each in convolutions]
    model(image)
    for hook in hooks:
        hook.remove()
    exported = torch.export.export

    def flattening(*args: Any, **kwargs: Any) -> torch.export.ExportedProgram:
        program = exported(*args, **kwargs)
        for node in program.graph.nodes:
            if node.op == "call_function" and isinstance(node.meta["val"], torch.Tensor):
                node.meta["val"] = node.meta["val"].contiguous()
        return program

    monkeypatch.setattr(torch.export, "export", flattening)
    mended = graph_of(model, (image,))
    found = [layer.layout for layer in mended.layers if layer.operator == "convolution"]
    assert [layout == "channels_last" for layout in found] == lying
    assert all(lying)
    assert mended.layers == expected.layers
    assert mended.notes == expected.notes


def test_written_out_operations_are_recognised() -> None:
    """Attention, SiLU and GELU written out by hand are read as what they compute."""
    model, inputs = ready(HandWritten)
    read = graph_of(model, inputs)
    assert [layer.operator for layer in read.layers] == ["linear", "attention", "silu", "gelu"]
    assert [each.shape for each in read.layers[1].inputs] == [(8, 10, 8)] * 3
    assert read.edges == ((0, 1), (1, 2), (2, 3))


def test_a_condition_on_a_value_is_traced_once() -> None:
    """What torch.export refuses is run once; the graph is that of this execution and says so."""
    model, inputs = ready(Branching)
    read = graph_of(model, inputs)
    assert read.source == TRACE
    assert "torch.export refused" in read.notes[0]
    assert [layer.weights[0].shape for layer in read.layers if layer.operator == "linear"] == [
        (4, 4)
    ]


def test_inputs_that_do_not_fit_are_one_sentence() -> None:
    """A model that raises on its inputs gives a GraphError with the reason, not a traceback."""
    model, _ = ready(Convolutional)
    with pytest.raises(GraphError, match="give inputs that the model takes"):
        graph_of(model, (torch.randn(2, 5),))


def test_the_longest_way_is_the_critical_path() -> None:
    """With branches of 5 and 3 between ends of 1 and 2, the least time in parallel is 8."""
    layers = tuple(Layer(name, "relu") for name in "abcd")
    graph = Graph("diamond", layers, ((0, 1), (0, 2), (1, 3), (2, 3)), "test")
    total, path = graph.critical_path([1.0, 5.0, 3.0, 2.0])
    assert (total, path) == (8.0, [0, 1, 3])
    with pytest.raises(GraphError, match="one for each layer"):
        graph.critical_path([1.0])
    with pytest.raises(GraphError, match="goes backwards"):
        Graph("loop", layers, ((1, 0),), "test")


def test_random_graphs_against_every_path() -> None:
    """The critical path of random graphs is the longest of all paths, found by trying them."""
    random = np.random.default_rng(0)
    for _ in range(20):
        size = 7
        pairs = [(a, b) for b in range(size) for a in range(b) if random.random() < 0.4]
        length = random.integers(1, 9, size).astype(float)
        graph = Graph("random", tuple(Layer(str(n), "relu") for n in range(size)), tuple(pairs), "")
        after: dict[int, list[int]] = {n: [b for a, b in pairs if a == n] for n in range(size)}

        def longest(at: int, after: Any = after, length: Any = length) -> float:
            return float(length[at]) + max((longest(each) for each in after[at]), default=0.0)

        total, path = graph.critical_path(length)
        assert total == max(longest(n) for n in range(size)) == length[path].sum()


def test_shares_and_similarity() -> None:
    """Unique layers are counted once over all models; Jaccard is intersection over union."""
    one, other = of("a1", "b1", "c2"), of("d2", "e3")
    assert [(each.layer.name, each.count) for each in unique_layers([one])] == [
        ("a1", 2),
        ("c2", 1),
    ]
    table = shares({"one": one, "other": other}).set_index("model")
    assert list(table.loc["all", ["layers", "unique"]]) == [5, 3]
    assert table.loc["one", "unique_share"] == pytest.approx(2 / 3)
    assert similarity({"one": one, "other": other}).loc["one", "other"] == pytest.approx(1 / 3)


def test_json_gives_the_graph_back() -> None:
    """A written graph is read back equal; other files are refused in a sentence."""
    model, inputs = ready(Transformer)
    read = graph_of(model, inputs)
    again = Graph.from_json(read.to_json())
    assert alike(again, read)
    assert again.layers[0].name == read.layers[0].name
    assert Layer.from_key(read.layers[1].key).key == read.layers[1].key
    for text in ("", "{}", '{"format": "other", "version": 1}'):
        with pytest.raises(GraphError):
            Graph.from_json(text)


def test_a_capture_has_the_convolutions_of_the_model() -> None:
    """The bundled ResNet-50 capture has the convolutions, strides included, that PyTorch gives."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import resnet50
    finally:
        sys.path.pop(0)
    recorded = graph_of_profile(xsp.load(ROOT / "examples/captures/h100_resnet50.xsp"))
    model, inputs = resnet50.target(batch=32)
    read = graph_of(model, inputs)
    assert not recorded.dependencies_known
    for operator in ("convolution", "batch_norm", "linear", "add"):
        wanted = {
            layer.with_dtype("float16").key for layer in read.layers if layer.operator == operator
        }
        assert {layer.key for layer in recorded.layers if layer.operator == operator} == wanted
    assert [layer.name for layer in recorded.layers][:2] == ["conv1", "bn1"]


def test_a_new_capture_gives_its_graph() -> None:
    """A profile of this machine, without library calls, has strides from shapes."""
    model, inputs = ready(Convolutional)
    prof = xsp.measure(model, *inputs, levels="M/L", iterations=1, warmup=0, progress=False)
    recorded, read = graph_of_profile(prof), graph_of(model, inputs)
    wanted = {layer.key for layer in read.layers if layer.operator == "convolution"}
    assert {layer.key for layer in recorded.layers if layer.operator == "convolution"} == wanted


# ---- ONNX files that cannot be read ----


def made(nodes: list[Any], path: Path, shape: Any = (1, 4), domain: str = "") -> Path:
    """An ONNX file with these nodes between x and y."""
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "made",
        [onnx.helper.make_tensor_value_info("x", kind, shape)],
        [onnx.helper.make_tensor_value_info("y", kind, None)],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    opsets += [onnx.helper.make_opsetid(domain, 1)] if domain else []
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=opsets), str(path))
    return path


def test_damaged_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    """A missing, empty, foreign or cut ONNX file gives a GraphError that names it."""
    model, inputs = ready(Recurrent)
    whole = exported(model, inputs, tmp_path / "whole.onnx").read_bytes()
    contents = {"empty": b"", "foreign": b"PK\x03\x04 no model", "cut": whole[: len(whole) // 2]}
    for name, content in contents.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(GraphError, match=name):
            graph_of_onnx(path)
    with pytest.raises(GraphError, match="there is no file"):
        graph_of_onnx(tmp_path / "absent.onnx")


def test_dynamic_shapes_are_asked_for(tmp_path: Path) -> None:
    """A dynamic input is named with its open dimension; given a shape, the file is read."""
    relu = onnx.helper.make_node("Relu", ["x"], ["y"])
    path = made([relu], tmp_path / "open.onnx", ("batch", 4))
    with pytest.raises(GraphError, match=r"x=\(batch, 4\)"):
        graph_of_onnx(path)
    assert graph_of_onnx(path, shapes={"x": (3, 4)}).layers[0].inputs[0].shape == (3, 4)
    with pytest.raises(GraphError, match="no input 'z'"):
        graph_of_onnx(path, shapes={"z": (3, 4)})
    with pytest.raises(GraphError, match="3 sizes"):
        graph_of_onnx(path, shapes={"x": (3, 4, 5)})


def test_foreign_operators_and_value_dependent_shapes_are_named(tmp_path: Path) -> None:
    """An operator that is not ONNX's own, and a shape that depends on values, are named."""
    own = onnx.helper.make_node("Fancy", ["x"], ["y"], name="fancy", domain="com.example")
    with pytest.raises(GraphError, match=r"com\.example::Fancy"):
        graph_of_onnx(made([own], tmp_path / "own.onnx", domain="com.example"))
    nodes = [
        onnx.helper.make_node("NonZero", ["x"], ["places"], name="which"),
        onnx.helper.make_node("Cast", ["places"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    with pytest.raises(GraphError, match="'places'"):
        graph_of_onnx(made(nodes, tmp_path / "places.onnx"))


def test_the_files_of_packages_are_read() -> None:
    """ONNX files that packages carry are read whole, conditions on a given value included."""
    folder = os.environ.get("XSP_ONNX_PACKAGES")
    if not folder:
        pytest.skip("XSP_ONNX_PACKAGES names no folder with magika, silero_vad and rapidocr")
    voice = {"input": (1, 576), "state": (2, 1, 128)}
    ocr = "rapidocr_onnxruntime/models/"
    files: dict[str, dict[str, Any]] = {
        "magika/models/standard_v3_3/model.onnx": {"shapes": {"bytes": (1, 2048)}},
        ocr + "ch_PP-OCRv4_det_infer.onnx": {"shapes": {"x": (1, 3, 640, 640)}},
        ocr + "ch_PP-OCRv4_rec_infer.onnx": {"shapes": {"x": (1, 3, 48, 320)}},
        ocr + "ch_ppocr_mobile_v2.0_cls_infer.onnx": {"shapes": {"x": (1, 3, 48, 192)}},
        "silero_vad/data/silero_vad.onnx": {"shapes": voice, "values": {"sr": 16000}},
        "silero_vad/data/silero_vad_16k_op15.onnx": {"shapes": voice, "values": {"sr": 16000}},
    }
    for name, options in files.items():
        read = graph_of_onnx(Path(folder) / name, **options)
        assert len(read) >= 20, name
        assert all(each.shape for layer in read.layers for each in layer.outputs), name
    with pytest.raises(GraphError, match="--value"):
        graph_of_onnx(Path(folder) / "silero_vad/data/silero_vad.onnx", shapes=voice)


# ---- on the command line ----


def ran(*arguments: str) -> None:
    """`xsp graph` in this process."""
    with mock.patch.object(sys, "argv", ["xsp", "graph", *arguments]):
        main()


def test_the_command_compares_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`xsp graph` prints two graphs and what they share; of one it writes JSON and a drawing."""
    model, inputs = ready(Recurrent)
    path = exported(model, inputs, tmp_path / "one.onnx")
    written, drawing = tmp_path / "one.json", tmp_path / "one.html"
    with pytest.raises(SystemExit):
        ran(str(path), "-o", str(written), "--draw", str(drawing))
    assert "4 layers, 4 unique" in capsys.readouterr().out
    assert "lstm" in drawing.read_text()
    with pytest.raises(SystemExit):
        ran(str(path), str(written), "--unique")
    assert "1.00" in capsys.readouterr().out.split("Jaccard")[1]
    with pytest.raises(SystemExit, match="2"):
        ran(str(tmp_path / "none.onnx"))
    said = capsys.readouterr().err
    assert said.startswith("xsp: there is no file")
    assert len(said.splitlines()) == 1


class InBlocks(nn.Module):
    """Operators inside `with` blocks that torch.export keeps as graphs of their own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            places = x.exp()
        with torch.autocast("cpu", enabled=False):
            output: torch.Tensor = places.sin() * x
        return output


def test_layers_inside_blocks_are_read() -> None:
    """What runs under gradients or without autocast is in the graph as everything else is."""
    graph = graph_of(InBlocks(), (torch.randn(4),))
    assert graph.source == EXPORT
    assert [layer.operator for layer in graph.layers] == ["exp", "sin", "mul"]
