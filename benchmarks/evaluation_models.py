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
    "alexnet",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "vgg16_bn",
    "squeezenet1_0",
    "squeezenet1_1",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "googlenet",
    "inception_v3",
    "convnext_tiny",
    "convnext_small",
    "vit_b_16",
    "vit_b_32",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "efficientnet_b0",
    "efficientnet_b1",
    "densenet121",
    "swin_t",
    "densenet169",
    "swin_s",
)
"""Quick ones first: where the time ends before the list, most of it was evaluated."""


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
