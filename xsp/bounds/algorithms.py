"""Every way in which the libraries here can compute a layer."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from xsp.bounds.roofs import PRECISIONS
from xsp.bounds.torch_calls import Call, can_call, torch_call
from xsp.graphs.layer import Layer
from xsp.graphs.work import is_product
from xsp.machine.torch_internals import mkldnn_enabled, set_mkldnn_enabled

TF32 = "tf32"


@dataclass(frozen=True)
class Candidate:
    """One algorithm for a layer. `prepare` makes tensors, plans and workspaces, and gives the call
    that is timed; it raises where the library cannot compute the layer so. `under` sets the flags
    that choose the algorithm, around all calls.
    """

    layer: Layer
    precision: str
    algorithm: str
    prepare: Callable[[], Call]
    under: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


def candidates(
    layer: Layer, precision: str, device: str, most: int | None = None
) -> list[Candidate]:
    """Every algorithm that is offered for a layer in its type and layout, computing in `precision`;
    of the plans of cuDNN and cuBLASLt the first `most`.

    On a GPU: what PyTorch chooses, with cuDNN's heuristics and with its trials; every plan of
    cuDNN (nvidia-cudnn-frontend) and of cuBLASLt (nvmath-python) where these packages are
    installed; every kernel of attention. On a CPU: oneDNN and PyTorch's own. Empty for an operator
    that PyTorch cannot be asked for.
    """
    if not can_call(layer):
        return []
    if device == "cpu":
        return list(_on_cpu(layer, precision))
    return list(_on_gpu(layer, precision, most))


def precisions(layer: Layer, device: str) -> list[str]:
    """How the layer's products can be computed without changing its types: float32 on a GPU also
    with TF32.
    """
    own = PRECISIONS.get(layer.dtype, layer.dtype)
    tensor_cores = device == "cuda" and layer.dtype == "float32" and is_product(layer)
    return [own, TF32] if tensor_cores and _has_tf32() else [own]


def tools() -> dict[str, str | None]:
    """Versions of the packages that offer algorithms; None where one is missing."""
    from xsp.machine.environment import version_of

    return {name: version_of(name) for name in ("nvidia-cudnn-frontend", "nvmath-python")}


def missing_tools(device: str) -> list[str]:
    """A sentence for each package without which algorithms are left out."""
    if device == "cpu":
        return []
    offers = {
        "nvidia-cudnn-frontend": "every plan of cuDNN",
        "nvmath-python": "every algorithm of cuBLASLt",
    }
    return [
        f"{name} is not installed: {offers[name]} could not be tried, and what PyTorch chooses "
        f"stands for the library's best (pip install {name})"
        for name, version in tools().items()
        if version is None
    ]


def _has_tf32() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8


def has_eight_bits(device: str) -> bool:
    """Whether the GPU multiplies 8-bit floats (compute capability 8.9)."""
    return device == "cuda" and torch.cuda.get_device_capability() >= (8, 9)


def _on_cpu(layer: Layer, precision: str) -> Iterator[Candidate]:
    if not is_product(layer):
        yield _torch(layer, precision, "torch", contextlib.nullcontext, "cpu")
        return
    for name, enabled in (("oneDNN", True), ("ATen", False)):
        yield _torch(layer, precision, name, functools.partial(_mkldnn, enabled), "cpu")


def _on_gpu(layer: Layer, precision: str, most: int | None) -> Iterator[Candidate]:
    products = precision == TF32
    if layer.operator == "attention":
        yield from _attentions(layer, precision)
        return
    yield _torch(layer, precision, "torch", lambda: _cuda_flags(products, False), "cuda")
    if layer.operator == "convolution":
        yield _torch(
            layer, precision, "torch cudnn.benchmark", lambda: _cuda_flags(products, True), "cuda"
        )
        from xsp.bounds.cudnn_plans import convolution_plans

        yield from _planned(convolution_plans(layer, precision, most), layer, precision)
    if layer.operator in {"linear", "matmul"}:
        from xsp.bounds.cublaslt_plans import product_plans

        yield from _planned(product_plans(layer, precision, most), layer, precision)


def _planned(
    plans: Sequence[tuple[str, Callable[[], Call]]], layer: Layer, precision: str
) -> Iterator[Candidate]:
    for name, prepare in plans:
        yield Candidate(layer, precision, name, prepare)


_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def _attentions(layer: Layer, precision: str) -> Iterator[Candidate]:
    for name, backend in _BACKENDS.items():
        under = functools.partial(sdpa_kernel, backend)
        yield _torch(layer, precision, f"attention {name}", under, "cuda")


def _torch(
    layer: Layer,
    precision: str,
    name: str,
    under: Callable[[], contextlib.AbstractContextManager[Any]],
    device: str,
) -> Candidate:
    """PyTorch's call, made under some flags."""

    def prepare() -> Call:
        call = torch_call(layer, device)
        assert call is not None  # noqa: S101 # `candidates` asked
        return call

    return Candidate(layer, precision, name, prepare, under)


@contextlib.contextmanager
def _mkldnn(enabled: bool) -> Iterator[None]:
    # torch.backends.mkldnn.flags also sets TF32, and warns that this CPU has none.
    before = mkldnn_enabled()
    set_mkldnn_enabled(enabled)
    try:
        yield
    finally:
        set_mkldnn_enabled(before)


@contextlib.contextmanager
def _cuda_flags(tf32: bool, trials: bool) -> Iterator[None]:
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32
    cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32 = trials, tf32, tf32
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32 = before
