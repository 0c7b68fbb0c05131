"""The models of the table: 42 of torchvision's image classifiers, with random weights."""

from __future__ import annotations

from typing import Any, NamedTuple

TORCHVISION = "torchvision"
"""Names all of them on the command line."""
PREFIX = "torchvision.models:"

_SIZES = {"inception_v3": 299}
_ARGUMENTS: dict[str, dict[str, Any]] = {
    # Their initialisation takes half a minute, and the weights are random either way.
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
}
NAMES = (
    "resnet18",
    "alexnet",
    "vgg16",
    "resnet50",
    "squeezenet1_0",
    "squeezenet1_1",
    "resnet34",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "googlenet",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "resnet101",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "regnet_x_1_6gf",
    "vit_b_32",
    "vit_b_16",
    "convnext_tiny",
    "efficientnet_b0",
    "vgg11",
    "inception_v3",
    "resnet152",
    "densenet121",
    "swin_t",
    "vgg13",
    "convnext_small",
    "efficientnet_b1",
    "vgg19",
    "vgg16_bn",
    "wide_resnet101_2",
)
"""Those that are quickly made and run first: where the time ends before the list, most of it was
evaluated."""


class Asked(NamedTuple):
    """A function that makes a module, its arguments, and the side of its square images."""

    function: str
    arguments: dict[str, Any]
    size: int


def asked(names: list[str] | tuple[str, ...], size: int) -> list[Asked]:
    """The models by the names of their functions; `torchvision` stands for all of its own."""
    found = []
    for name in names:
        functions = [PREFIX + each for each in NAMES] if name == TORCHVISION else [name]
        found += [_one(each, size) for each in functions]
    return found


def _one(function: str, size: int) -> Asked:
    name = function.rpartition(":")[2]
    arguments = _ARGUMENTS.get(name, {}) if function.startswith(PREFIX) else {}
    return Asked(function, arguments, _SIZES.get(name, size))
