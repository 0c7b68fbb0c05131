"""Pools of models for benchmarks/bricks.py: by name, built with random weights."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

SMALL = (
    "example/resnet50",
    "example/gpt2",
    "own/unet",
    "own/recommender",
    "own/lstm",
    "own/residual_4",
    "own/residual_8",
    "own/encoder",
)
"""Models that need torch only."""
FAMILIES = (
    *(f"torchvision/resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"torchvision/vgg{depth}" for depth in (11, 13, 16, 19)),
    *(f"torchvision/vgg{depth}_bn" for depth in (11, 13, 16, 19)),
    *(f"torchvision/densenet{depth}" for depth in (121, 161, 169, 201)),
    *(f"torchvision/squeezenet1_{number}" for number in (0, 1)),
    "torchvision/mobilenet_v2",
    "torchvision/googlenet",
    "torchvision/inception_v3",
    "torchvision/alexnet",
    "torchvision/wide_resnet50_2",
    "torchvision/resnext50_32x4d",
)
"""Families as alike as the paper's."""
TEN = (
    "zoo/resnet50",
    "zoo/mobilenet_v2",
    "zoo/bert_base",
    "zoo/vit_b_16",
    "zoo/gpt2",
    "zoo/densenet121",
    "zoo/efficientnet_b0",
    "zoo/unet_diffusion",
    "zoo/lstm",
    "zoo/deit_small",
)
"""For a minute of a GPU."""
LARGE = ("zoo/resnet50@256", "zoo/vit_b_16@128", "zoo/gpt2@32")
"""Batches that keep a GPU longer than the host needs to launch them."""


EXTRA = (
    "torchvision/resnet18",
    "torchvision/mnasnet1_0",
    "own/encoder",
    "own/residual_4",
    "own/lstm",
)
"""Beside the zoo's 50, since some models cannot be taken apart or do not fit everywhere."""
LONG = (
    "unet_diffusion",
    "fasterrcnn_resnet50_fpn",
    "whisper_small",
    "llama_8_layers",
    "deeplabv3_resnet50",
    "mixtral_4_layers",
    "retinanet_resnet50_fpn",
    "fcn_resnet50",
    "maxvit_t",
    "gpt2",
    "opt_125m",
    "modernbert_base",
    "qwen3_8_layers",
    "r3d_18",
    "raft_small",
)
"""Of the zoo, what takes a CPU longest; it comes last, for the time that others do not need."""
TASKS = {
    "CNN": "images",
    "vision transformer": "images",
    "MLP": "images",
    "convolution and attention": "images",
    "detection": "detection and segmentation",
    "segmentation": "detection and segmentation",
    "optical flow": "video and generation",
    "video": "video and generation",
    "diffusion": "video and generation",
    "language": "language",
    "recurrent": "language",
    "speech": "speech, and images with text",
    "image and text": "speech, and images with text",
    "recommendation": "recommendation",
}
"""Tasks of the zoo's families."""
_TASK_OF = {
    "example/gpt2": "language",
    "own/encoder": "language",
    "own/lstm": "language",
    "own/recommender": "recommendation",
    "own/unet": "video and generation",
}


def task(name: str) -> str:
    """What a model is for."""
    source, _, own = name.partition("@")[0].partition("/")
    if source in {"zoo", "padded"}:
        from zoo import ZOO

        return TASKS[ZOO[own].family] if own in ZOO else ""
    return _TASK_OF.get(f"{source}/{own}", "images")


def pool(name: str) -> list[str]:
    """Names of the models of a pool. `diverse` is the zoo, with 50 models; `fifty` has a few more,
    so that 50 have a latency also where some cannot be run.
    """
    if name == "fifty":
        every = [*pool("diverse"), *EXTRA]
        return sorted(every, key=lambda each: each.removeprefix("zoo/") in LONG)
    if name == "diverse":
        from zoo import ZOO

        return [f"zoo/{each}" for each in ZOO]
    named = {"small": SMALL, "families": FAMILIES, "ten": TEN, "large": LARGE}
    if name not in named:
        raise SystemExit(
            f"--pool must be small, families, ten, large, diverse or fifty, not {name!r}"
        )
    return list(named[name])


def built(name: str, device: str, batch: int) -> tuple[Any, Any]:
    """A model in evaluation mode and its inputs; a name may end in a batch of its own, as in
    `zoo/resnet50@64`.
    """
    import torch

    torch.manual_seed(0)
    name, _, size = name.partition("@")
    batch = int(size or batch)
    source, _, own = name.partition("/")
    if source in {"zoo", "padded", "torchvision"} and find_spec("torchvision") is not None:
        # Before torchvision and what imports it: operators that its wheel may not bring.
        import plain_torchvision  # noqa: F401  (before torchvision)
    if source == "zoo":
        from zoo import ZOO, target

        return target(ZOO[own], batch, device)
    if source == "padded":
        return _padded(own, device, batch)
    if source == "torchvision":
        from torchvision import models

        extra = {"aux_logits": False, "init_weights": False}
        options = extra if own in {"googlenet", "inception_v3"} else {}
        module = models.get_model(own, weights=None, **options)
        pixels = 299 if own == "inception_v3" else 224
        inputs: Any = torch.rand(batch, 3, pixels, pixels)
    else:
        module, inputs = _own(own, batch)
    module = module.eval().requires_grad_(False).to(device)
    moved = [each.to(device) for each in ([inputs] if torch.is_tensor(inputs) else inputs)]
    return module, tuple(moved)


def _padded(name: str, device: str, batch: int) -> tuple[Any, Any]:
    """A language model of the zoo on text whose first token is padding: transformers then makes the
    same masks when the model is called as when it is traced.
    """
    import torch
    from zoo import ZOO, target

    model, inputs = target(ZOO[name], batch, device)
    if not isinstance(inputs, dict):
        raise TypeError(f"{name} takes no text, so it has no padding; take it as zoo/{name}")
    mask = torch.ones_like(inputs["input_ids"])
    mask[:, 0] = 0
    return model, {**inputs, "attention_mask": mask}


def _own(name: str, batch: int) -> tuple[Any, Any]:
    """Models of this project, of a size that a CPU runs in some ten milliseconds."""
    import torch
    from own_models import LSTMLanguageModel, Recommender, UNet
    from torch import nn

    if name in {"resnet50", "gpt2"}:
        return _example(name, batch)
    if name.startswith("residual_"):
        return _residual(int(name.rpartition("_")[2])), torch.rand(batch, 3, 112, 112)
    if name == "unet":
        text, step = torch.randn(batch, 77, 768), torch.full((batch,), 10)
        return UNet(width=64), (torch.randn(batch, 4, 32, 32), step, text)
    if name == "recommender":
        model = Recommender(tables=8, rows=20_000)
        return model, (torch.rand(batch, 13), torch.randint(0, 20_000, (8, batch, 10)))
    if name == "lstm":
        return LSTMLanguageModel(width=512), torch.randint(0, 10_000, (batch, 32))
    if name != "encoder":
        raise ValueError(f"there is no model own/{name} in benchmarks/bricks_pools.py")
    layer = nn.TransformerEncoderLayer(384, 6, 1536, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 6), torch.randn(batch, 128, 384)


def _example(name: str, batch: int) -> tuple[Any, Any]:
    import torch

    if name == "resnet50":
        from resnet50 import ResNet50

        return ResNet50(), torch.rand(batch, 3, 224, 224)
    from transformer import GPT2

    return GPT2(), torch.randint(0, 1000, (batch, 64))


def _residual(blocks: int) -> Any:
    from shared_bricks import Residual

    return Residual(blocks)
