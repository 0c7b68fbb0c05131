"""Every execution plan that cuDNN offers for a convolution, through nvidia-cudnn-frontend."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from xsp.bounds.torch_calls import Call, operands, refused
from xsp.graphs.layer import Layer
from xsp.graphs.work import output_shape

_LEFT_OUT = ("deselect", "excluded")
"""What cuDNN says of a plan that its notes leave out."""
_TYPES = {"float16": "HALF", "bfloat16": "BFLOAT16", "float32": "FLOAT"}


def convolution_plans(
    layer: Layer, precision: str, most: int | None = None
) -> list[tuple[str, Callable[[], Call]]]:
    """A name and a preparation for each plan, at most `most`, in the order in which cuDNN expects
    them to be fast; empty without the package, and for convolutions that its graphs do not describe
    (transposed, other than two-dimensional, padded unevenly). Where cuDNN refuses the graph, the
    only preparation raises its reason.

    Plans for float32 tensors that use tensor cores round their inputs to TF32: they are those of
    "tf32", the others those of "fp32".
    """
    cudnn = _package()
    plain = len(layer.inputs[0].shape) == 4 and not layer.parameters.get("transposed")
    even = len(layer.parameters["padding"]) == 2
    if most == 0 or cudnn is None or not plain or not even or layer.dtype not in _TYPES:
        return []
    try:
        problem = _Problem(cudnn, layer, precision)
    except Exception as error:  # the library refuses; the reason is kept as this entry's failure
        return [("cuDNN", functools.partial(refused, error))]
    return [
        (f"cuDNN {name}", functools.partial(problem.prepared, number))
        for number, name in problem.plans(most)
    ]


@functools.cache
def _package() -> Any:
    try:
        import cudnn
    except ImportError:
        return None
    return cudnn


@functools.cache
def _handle() -> Any:
    """One for the process: a handle holds memory on the GPU."""
    return _package().create_handle()


class _Problem:
    """A convolution as a cuDNN graph with all of its plans, which share tensors and workspace."""

    def __init__(self, cudnn: Any, layer: Layer, precision: str) -> None:
        self._handle = _handle()
        self._workspace = torch.empty(1, device="cuda", dtype=torch.uint8)
        stream = torch.cuda.current_stream().cuda_stream
        cudnn.set_stream(handle=self._handle, stream=stream)
        inputs, weights = operands(layer, "cuda")
        source, weight = inputs[0], weights[0]
        shape = output_shape(layer)
        result = torch.empty(shape, dtype=source.dtype, device="cuda")
        if layer.layout != "contiguous":
            result = result.contiguous(memory_format=torch.channels_last)
        kind = getattr(cudnn.data_type, _TYPES[layer.dtype])
        floats = cudnn.data_type.FLOAT
        self._graph = cudnn.pygraph(
            handle=self._handle,
            io_data_type=kind,
            intermediate_data_type=floats,
            compute_data_type=floats,
        )
        x, w = self._graph.tensor_like(source), self._graph.tensor_like(weight)
        given = layer.parameters
        y = self._graph.conv_fprop(
            image=x,
            weight=w,
            padding=list(given["padding"]),
            stride=list(given["stride"]),
            dilation=list(given["dilation"]),
        )
        self._tensors = {x: source, w: weight}
        if len(weights) > 1:
            bias = weights[1].view(1, -1, 1, 1)
            b = self._graph.tensor_like(bias)
            y.set_data_type(floats)
            y = self._graph.bias(name="bias", input=y, bias=b)
            self._tensors[b] = bias
        y = self._followed(y, layer, inputs[1:], floats)
        y.set_output(True).set_data_type(kind)
        y.set_dim(list(shape)).set_stride(list(result.stride()))
        self._tensors[y] = self._result = result
        self._graph.validate()
        self._graph.build_operation_graph()
        modes = cudnn.heur_mode
        self._graph.create_execution_plans([modes.A, modes.B, modes.FALLBACK])
        if layer.dtype == "float32":
            self._only(cudnn.numerical_note, precision)

    def _only(self, notes: Any, precision: str) -> None:
        """Leave out plans of another precision, as PyTorch does with `cudnn.allow_tf32`."""
        if precision == "tf32":
            self._graph.select_numeric_notes([notes.TENSOR_CORE])
        else:
            self._graph.deselect_numeric_notes([notes.TENSOR_CORE, notes.DOWN_CONVERT_INPUTS])

    def plans(self, most: int | None) -> list[tuple[int, str]]:
        """Number and name of each plan that is not left out; what cannot be built otherwise is
        among them, and says so when it is prepared.
        """
        found: list[tuple[int, str]] = []
        for number in range(self._graph.get_execution_plan_count()):
            if most is not None and len(found) >= most:
                break
            try:
                self._graph.build_plan_at_index(number)
            except Exception as error:  # only its words tell a plan that was left out
                if any(word in str(error).lower() for word in _LEFT_OUT):
                    continue
            found.append((number, str(self._graph.get_plan_name_at_index(number))))
        return found

    def _followed(self, y: Any, layer: Layer, rest: list[torch.Tensor], floats: Any) -> Any:
        """What a fused kernel does with the result before it is written."""
        epilogue = layer.parameters.get("epilogue", [])
        activations = {"relu": "relu", "gelu": "gelu", "silu": "swish", "sigmoid": "sigmoid"}
        for name in epilogue:
            y.set_data_type(floats)
            if name == "add":
                residual = self._graph.tensor_like(rest[0])
                self._tensors[residual] = rest[0]
                y = self._graph.add(a=y, b=residual)
            else:
                y = getattr(self._graph, activations[name])(input=y)
        return y

    def prepared(self, number: int) -> Call:
        """Build a plan and give its execution."""
        self._graph.build_plan_at_index(number)
        needed = self._graph.get_workspace_size_plan_at_index(number)
        # One for all plans, which run one after another on one stream: each of their own would
        # fill the memory.
        if needed > len(self._workspace):
            self._workspace = torch.empty(needed, device="cuda", dtype=torch.uint8)
        execute, tensors, handle = self._graph.execute_plan_at_index, self._tensors, self._handle

        def run() -> torch.Tensor:
            execute(tensors, self._workspace, number, handle=handle)
            return self._result

        return run
