"""The models of the table: image classifiers with random weights, most of them the paper's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

CLASSIFIERS = "classifiers"
"""Names all of them on the command line."""
TORCHVISION = "torchvision.models:"
TIMM = "timm:create_model"
"""Measured processes import it themselves: what imports torch's compiler asks for GPUs, and a fork
of it could use none."""


class Asked(NamedTuple):
    """A function that makes a module, its arguments, the side of its square images, and a name."""

    function: str
    arguments: dict[str, Any]
    size: int
    name: str


def _torchvision(*names: str, size: int = 224, **arguments: Any) -> list[Asked]:
    return [Asked(TORCHVISION + name, arguments, size, name) for name in names]


def _timm(*names: str) -> list[Asked]:
    return [
        Asked(TIMM, {"model_name": name}, 299 if "inception" in name else 224, name)
        for name in names
    ]


def _mobilenets(multiplier: float, *sizes: int) -> list[Asked]:
    return [
        Asked(
            "vision_models:mobilenet_v1",
            {"multiplier": multiplier},
            size,
            f"mobilenet_v1_{multiplier:g}_{size}",
        )
        for size in sizes
    ]


SIZES = (224, 192, 160, 128)
# The initialisation of GoogLeNet and Inception takes half a minute; weights are random either way.
EVERY = (
    *_torchvision("resnet18", "alexnet", "vgg16", "squeezenet1_1", "resnet50", "vgg19"),
    *_mobilenets(1.0, *SIZES),
    *_mobilenets(0.75, 224, 192),
    *_mobilenets(0.25, *SIZES),
    *_torchvision("mobilenet_v2", "resnet34", "mnasnet1_0", "vit_b_32"),
    *_mobilenets(0.75, 160, 128),
    *_mobilenets(0.5, *SIZES),
    *_torchvision("googlenet", init_weights=False),
    *_torchvision("resnext50_32x4d", "mobilenet_v3_small", "vit_b_16", "convnext_tiny"),
    *_torchvision("shufflenet_v2_x1_0", "mobilenet_v3_large", "wide_resnet50_2"),
    *_torchvision("regnet_y_400mf"),
    *_torchvision("inception_v3", size=299, init_weights=False),
    *_timm("resnetv2_50"),
    *_torchvision("efficientnet_b0", "resnet101"),
    *_timm("resnetv2_101"),
    *_torchvision("resnet152", "swin_t"),
    *_timm("inception_v4", "resnetv2_152"),
    *_timm("inception_resnet_v2"),
    *_torchvision("densenet121"),
)
"""Those that compile quickly come first: where the time ends before the list, most of it was
evaluated."""


def asked(names: Iterable[str], size: int) -> list[Asked]:
    """The models by their names: `classifiers` stands for all of the list, `module:function` for
    one that takes images of this side.
    """
    known = {each.name: each for each in EVERY}
    found: list[Asked] = []
    for name in names:
        if name == CLASSIFIERS:
            found += EVERY
        elif name in known:
            found.append(known[name])
        else:
            found.append(Asked(name, {}, size, name.rpartition(":")[2]))
    return found
