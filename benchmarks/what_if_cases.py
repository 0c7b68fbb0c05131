"""Changes to real models, each with what is predicted of it: the cases of what_if.py."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import zoo
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import xsp
from xsp.bounds.asker import Asker
from xsp.bounds.findings import RUNS
from xsp.bounds.questions.conversions import conversions
from xsp.bounds.questions.fusion import fusion
from xsp.bounds.recorded import recording
from xsp.bounds.roofs import PRECISIONS
from xsp.bounds.running import measure_missing, this_machine
from xsp.bounds.variants import layouts
from xsp.bounds.wanted import Wanted, flags_now
from xsp.graphs.from_export import graph_of as read
from xsp.graphs.layer import Layer
from xsp.graphs.work import is_product

Call = Callable[[], Any]
Under = Callable[[], AbstractContextManager[Any]]


@dataclass
class Case:
    """A model with inputs, what is predicted of it, and the same work changed."""

    kind: str
    before: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    changed: Callable[[xsp.Profile], Mapping[str, Any]]
    after: Callable[[], Call]
    under: Under = nullcontext
    after_under: Under = nullcontext
    note: str = field(default="")


def zoo_model(name: str, device: str, batch: int | None = None, dtype: str = "") -> Any:
    """A model of the zoo with its inputs as args and kwargs."""
    entry = zoo.ZOO.get(name) or zoo.Entry(zoo.CNN, "torchvision", 32, zoo.torchvision(name))
    model, inputs = zoo.target(entry, batch or (entry.batch if device == "cuda" else 1), device)
    if dtype == "float32":
        model = model.float()
        inputs = _converted(inputs)
    args, kwargs = (inputs, {}) if isinstance(inputs, tuple) else ((), inputs)
    return model, args, kwargs


def _converted(inputs: Any) -> Any:
    def one(value: Tensor) -> Tensor:
        return value.float() if value.is_floating_point() else value

    if isinstance(inputs, tuple):
        return tuple(one(each) for each in inputs)
    return {name: one(each) for name, each in inputs.items()}


# ---- the kinds of change ----


def cuda_graph(name: str, device: str, batch: int) -> Case:
    """Question 4: launch the model as one CUDA graph."""
    model, args, kwargs = zoo_model(name, device, batch)

    def after() -> Call:
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(3):
                model(*args, **kwargs)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.no_grad(), torch.cuda.graph(graph):
            model(*args, **kwargs)
        return graph.replay

    return Case("CUDA graph", model, args, kwargs, lambda _: {"cuda_graph": "*"}, after)


def channels_last(name: str, device: str, store: Any) -> Case:
    """Question 6: convolutions, normalisations and pooling in NHWC, by the database."""
    model, args, kwargs = zoo_model(name, device)
    turned = copy.deepcopy(model).to(memory_format=torch.channels_last)
    given = tuple(each.to(memory_format=torch.channels_last) for each in args)
    graph = graph_of(model, args, kwargs)

    def changed(prof: xsp.Profile) -> Mapping[str, Any]:
        turned_ms = in_layouts(
            {layer.owner: layouts(layer) for layer in graph.layers}, store, device
        )
        answers = conversions(Asker(prof, recording(prof, RUNS)))
        gone = [name for each in answers for name in each.changed["gone"]]
        return {"gone": gone, "takes_ms": turned_ms}

    return Case("layout", model, args, kwargs, changed, lambda: lambda: turned(*given, **kwargs))


def folded(name: str, device: str, batch: int | None = None) -> Case:
    """Question 5: batch normalisation folded into convolutions. Both models are traced, so that
    they differ in nothing else.
    """
    from torch import fx
    from torch.fx.experimental.optimization import fuse

    model, args, kwargs = zoo_model(name, device, batch)
    traced, small = fx.symbolic_trace(copy.deepcopy(model)), fuse(copy.deepcopy(model))

    def changed(prof: xsp.Profile) -> Mapping[str, Any]:
        answers = fusion(Asker(prof, recording(prof, RUNS)))
        return next(each.changed for each in answers if "fold them" in each.advice)

    return Case("fusion", traced, args, kwargs, changed, lambda: lambda: small(*args, **kwargs))


class Waiting(nn.Module):
    """A model in which the host waits for the GPU after some of its children."""

    def __init__(self, model: nn.Module, places: list[nn.Module]) -> None:
        super().__init__()
        self.model = model
        self.waits = True
        self._wait: Call = torch.cuda.current_stream().synchronize
        for place in places:
            place.register_forward_hook(self._ask)

    def _ask(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        if self.waits:
            self._wait()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


@contextmanager
def without(owner: nn.Module, flag: str) -> Iterator[None]:
    """The flag of a model off."""
    setattr(owner, flag, False)
    try:
        yield
    finally:
        setattr(owner, flag, True)


def no_sync(name: str, device: str, kind: str, batch: int) -> Case:
    """Question 4: no synchronisation between the blocks of a model."""
    model, args, kwargs = zoo_model(name, device, batch)
    places = [each for each in model.modules() if type(each).__name__ == kind]
    waiting = Waiting(model, places)
    return Case(
        "no synchronisation",
        waiting,
        args,
        kwargs,
        lambda _: {"no_sync": "*"},
        lambda: lambda: waiting(*args, **kwargs),
        after_under=lambda: without(waiting, "waits"),
    )


def tensor_cores(name: str, device: str, store: Any, batch: int) -> Case:
    """Question 6: products of float32 with TF32, by the database."""
    model, args, kwargs = zoo_model(name, device, batch, dtype="float32")
    graph = graph_of(model, args, kwargs)
    return Case(
        "tensor cores",
        model,
        args,
        kwargs,
        lambda _: {"faster": with_tf32(graph, store, device)},
        lambda: lambda: model(*args, **kwargs),
        under=lambda: tf32(allowed=False),
        after_under=lambda: tf32(allowed=True),
    )


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """PyTorch's flags for products of float32 tensors."""
    products, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, cudnn.allow_tf32
    products.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, cudnn.allow_tf32 = before


def attention(name: str, device: str, store: Any) -> Case:
    """Question 3: another attention kernel, by the database: one launch instead of several."""
    model, args, kwargs = zoo_model(name, device)
    graph = graph_of(model, args, kwargs)

    def changed(prof: xsp.Profile) -> Mapping[str, Any]:
        found = kernel_ratio(graph, store, device, "attention math", "attention flash")
        layers = prof.table("layers")
        rows = layers.loc[layers["type"] == "scaled_dot_product_attention", "name"]
        names = [str(each) for each in rows]
        return {"faster": dict.fromkeys(names, found), "cuda_graph": names}

    return Case(
        "algorithm",
        model,
        args,
        kwargs,
        changed,
        lambda: lambda: model(*args, **kwargs),
        under=lambda: sdpa_kernel(SDPBackend.MATH),
        after_under=lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION),
    )


class Moving(nn.Module):
    """A model that fetches a constant from the host in every call."""

    def __init__(self, model: nn.Module, like: Tensor) -> None:
        super().__init__()
        self.model = model
        self.there = torch.zeros_like(like, device="cpu")
        self.here = self.there.to(like.device)
        self.moves = True

    def forward(self, x: Tensor) -> Any:
        return self.model(x + (self.there.to(x.device) if self.moves else self.here))


def no_copy(name: str, device: str) -> Case:
    """Question 4: a constant that is on the GPU already."""
    model, args, kwargs = zoo_model(name, device)
    moving = Moving(model, args[0])
    return Case(
        "copies",
        moving,
        args,
        kwargs,
        lambda _: {"gone": "::to"},
        lambda: lambda: moving(*args, **kwargs),
        after_under=lambda: without(moving, "moves"),
    )


def graph_of(model: nn.Module, args: Any, kwargs: Any) -> Any:
    return read(model, args, kwargs)


def in_layouts(pairs: Mapping[str, Sequence[Layer]], store: Any, device: str) -> dict[str, float]:
    """By name, what PyTorch takes in ms for the second of two layers."""
    turned = {name: pair[1] for name, pair in pairs.items() if len(pair) == 2}
    wanted = {each.digest: Wanted(each, running(each), most=0) for each in turned.values()}
    measure_missing(store, list(wanted.values()), device, each_s=0.1, budget_s=20, progress=False)
    times = by_pytorch(store, device, list(turned.values()))
    found = {name: times.get((each.digest, running(each))) for name, each in turned.items()}
    return {name: ns / 1e6 for name, ns in found.items() if ns}


def running(layer: Layer) -> str:
    """How PyTorch computes the layer, with its flags as they are."""
    return flags_now().precision(layer)


def by_pytorch(store: Any, device: str, layers: Sequence[Layer]) -> dict[tuple[str, str], float]:
    """What PyTorch's choice takes in ns, by layer and precision."""
    return {
        (entry.layer.digest, entry.precision): entry.time_ns
        for entry in store.entries(this_machine(device), layers, "warm")
        if entry.algorithm == "torch" and entry.time_ns
    }


def with_tf32(graph: Any, store: Any, device: str) -> dict[str, float]:
    """By layer, how many times faster products are with TF32, as PyTorch computes both."""
    products = [each for each in graph.layers if is_product(each)]
    wanted = {
        (each.digest, precision): Wanted(each, precision, most=0)
        for each in products
        for precision in ("fp32", "tf32")
    }
    measure_missing(store, list(wanted.values()), device, each_s=0.1, budget_s=20, progress=False)
    times = by_pytorch(store, device, products)
    found = {}
    for layer in products:
        slow, fast = (times.get((layer.digest, one)) for one in ("fp32", "tf32"))
        if slow and fast:
            found[layer.owner] = slow / fast
    return found


def kernel_ratio(graph: Any, store: Any, device: str, slow: str, fast: str) -> float:
    """How many times faster one attention kernel is than another."""
    layer = next(each for each in graph.layers if each.operator == "attention")
    wanted = [Wanted(layer, PRECISIONS[layer.dtype])]
    measure_missing(store, wanted, device, each_s=0.25, progress=False)
    times = {
        entry.algorithm: entry.time_ns for entry in store.entries(this_machine(device), [layer])
    }
    slow_ns, fast_ns = times.get(slow), times.get(fast)
    if slow_ns is None or fast_ns is None:
        raise LookupError(f"{slow} or {fast} cannot compute {layer.name}")
    return float(slow_ns / fast_ns)


def cases(device: str, store: Any) -> dict[str, Callable[[], Case]]:
    """Every case by name, built when it is run."""
    return {
        "resnet50 batch 1: CUDA graph": lambda: cuda_graph("resnet50", device, 1),
        "bert_base batch 1: CUDA graph": lambda: cuda_graph("bert_base", device, 1),
        "mobilenet_v2 batch 8: CUDA graph": lambda: cuda_graph("mobilenet_v2", device, 8),
        "resnet50: channels last": lambda: channels_last("resnet50", device, store),
        "resnet50: folded": lambda: folded("resnet50", device),
        "mobilenet_v2: folded": lambda: folded("mobilenet_v2", device),
        "vgg16_bn batch 8: folded": lambda: folded("vgg16_bn", device, 8),
        "gpt2: no synchronisation": lambda: no_sync("gpt2", device, "GPT2Block", 8),
        "resnet50: no synchronisation": lambda: no_sync("resnet50", device, "Bottleneck", 32),
        "bert_base batch 64: TF32": lambda: tensor_cores("bert_base", device, store, 64),
        "resnet50 batch 64: TF32": lambda: tensor_cores("resnet50", device, store, 64),
        "deit_small: flash attention": lambda: attention("deit_small", device, store),
        "roberta_base: flash attention": lambda: attention("roberta_base", device, store),
        "resnet50: no copy": lambda: no_copy("resnet50", device),
    }
