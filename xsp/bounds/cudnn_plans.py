"""Every execution plan that cuDNN offers for a convolution, through nvidia-cudnn-frontend."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from xsp.bounds.torch_calls import Call, operands, refused
from xsp.graphs.layer import Layer
from xsp.graphs.work import output_shape

_TYPES = {"float16": "HALF", "bfloat16": "BFLOAT16", "float32": "FLOAT"}


def convolution_plans(layer: Layer, precision: str) -> list[tuple[str, Callable[[], Call]]]:
    """A name and a preparation for each plan; empty without the package, and for convolutions that
    its graphs do not describe (transposed, other than two-dimensional, padded unevenly). Where
    cuDNN refuses the graph, the only preparation raises its reason.
    """
    cudnn = _package()
    plain = len(layer.inputs[0].shape) == 4 and not layer.parameters.get("transposed")
    even = len(layer.parameters["padding"]) == 2
    if cudnn is None or not plain or not even or layer.dtype not in _TYPES:
        return []
    try:
        problem = _Problem(cudnn, layer)
    except Exception as error:  # the library refuses; the reason is kept as this entry's failure
        return [("cuDNN", functools.partial(refused, error))]
    # With float32 tensors engines that use tensor cores say so; others compute in float32.
    wanted = [
        (number, name)
        for number, name in enumerate(problem.names)
        if layer.dtype != "float32" or ("tf32" in name.lower()) == (precision == "tf32")
    ]
    return [
        (f"cuDNN {name}", functools.partial(problem.prepared, number)) for number, name in wanted
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
    """A convolution as a cuDNN graph with all of its plans, which share tensors."""

    def __init__(self, cudnn: Any, layer: Layer) -> None:
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
        self._tensors[y] = result
        self._graph.validate()
        self._graph.build_operation_graph()
        modes = cudnn.heur_mode
        self._graph.create_execution_plans([modes.A, modes.B, modes.FALLBACK])
        self.names = [
            str(self._graph.get_plan_name_at_index(number))
            for number in range(self._graph.get_execution_plan_count())
        ]

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
        return lambda: execute(tensors, self._workspace, number, handle=handle)
