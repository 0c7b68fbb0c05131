"""Python that the manifests of accuracy.py name: models of packages as PyTorch modules. It is run
from the artifact store, so it imports nothing that lies beside it.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def _checked(path: str, sha256: str) -> Path:
    """A file of an installed package, if it is still the one that the manifest means."""
    found = Path(sysconfig.get_paths()["purelib"]) / path
    if hashlib.sha256(found.read_bytes()).hexdigest() != sha256:
        raise ValueError(f"{path} has another checksum than the manifest says")
    return found


# ---- ONNX as PyTorch ----


def converted(path: str, sha256: str) -> nn.Module:
    """An ONNX file as a module, by onnx2pytorch."""
    return _module(_checked(path, sha256))


def graph(path: str, sha256: str, shapes: str) -> nn.Module:
    """`converted` for inputs of these shapes (JSON, by name), as a graph of ATen operators.

    onnx2pytorch works out sizes in tensors, which neither compilers nor exporters can follow. ONNX
    Runtime works them out beforehand, and tracing makes numbers of what is left of them.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    sizes = json.loads(shapes)
    with tempfile.TemporaryDirectory() as folder:
        fixed = Path(folder, "fixed.onnx")
        inputs = _fix(_checked(path, sha256), sizes, fixed)
        module = _module(fixed)
    examples = [torch.zeros(sizes[each.name], dtype=_TYPES[each.type]) for each in inputs]
    with torch.no_grad():
        # What is read out of tensors here is sizes alone, which are constants by now.
        made: nn.Module = make_fx(module, pre_dispatch=True, _error_on_data_dependent_ops=False)(
            *examples
        )
    return made.eval()


_TYPES = {
    "tensor(float)": torch.float32,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
}


def _fix(path: Path, sizes: dict[str, list[int]], to: Path) -> list[Any]:
    """Write the model for inputs of these sizes, with constants folded; returns its inputs."""
    import onnx
    import onnxruntime
    from onnxruntime.tools.onnx_model_utils import make_input_shape_fixed

    model = onnx.load(path)
    for name, size in sizes.items():
        make_input_shape_fixed(model.graph, name, size)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(to)
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    found: list[Any] = session.get_inputs()
    return found


def _module(path: Path) -> nn.Module:
    import onnx_ir
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    with suppress(ImportError):
        # Where torchvision's wheel does not fit PyTorch's; needs benchmarks/ in PYTHONPATH.
        import plain_torchvision  # noqa: F401 - makes torchvision importable
    from onnx2pytorch import ConvertModel

    model = onnx_ir.load(path)
    # It looks for weights among the initializers; Paddle writes them as nodes.
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _keep_biases_apart(model)
    # `experimental`: more than one sample in a call.
    made: nn.Module = ConvertModel(onnx_ir.to_proto(model), experimental=True)
    return made.eval()


def _keep_biases_apart(model: Any) -> None:
    """onnx2pytorch makes a Linear of a product and the sum after it, also where the bias has
    several axes, which Linear cannot have; a node between them prevents that.
    """
    import onnx_ir

    for node in list(model.graph):
        if node.op_type != "MatMul":
            continue
        product = node.outputs[0]
        users = list(product.uses())
        same = onnx_ir.node("Identity", [product])
        model.graph.insert_after(node, same)
        for user, index in users:
            user.replace_input_with(index, same.outputs[0])


# ---- silero-vad's own TorchScript ----


class _Windows(nn.Module):
    """The package's model of one window, over a sequence of them: as its ONNX file for sequences
    has it.
    """

    def __init__(self, one: nn.Module) -> None:
        super().__init__()
        self.one = one

    def forward(self, input: Tensor, h: Tensor, c: Tensor) -> Tensor:  # noqa: A002 - as in ONNX
        state = torch.cat([h, c])
        found: list[Tensor] = []
        for place in range(input.shape[0]):
            probability, state = self.one(input[place : place + 1], state)
            found.append(probability[0])
        return torch.cat(found)


def silero_script(path: str, sha256: str) -> nn.Module:
    """The package's TorchScript of 16 kHz, in a loop over windows that is TorchScript too."""
    whole = torch.jit.load(str(_checked(path, sha256)))
    scripted: nn.Module = torch.jit.script(_Windows(whole._model))
    return scripted.eval()
