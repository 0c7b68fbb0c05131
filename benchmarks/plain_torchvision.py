"""torchvision's compiled operators in plain PyTorch, where they cannot be loaded: PyPI's wheels are
for CUDA and do not load beside a PyTorch without it.

Import this before torchvision. Slow, and exact enough for programs whose time is measured.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch.nn import functional

NAMESPACE = "torchvision"


def loads() -> bool:
    """Whether torchvision's own operators can be loaded."""
    found = importlib.util.find_spec(NAMESPACE)
    if found is None or found.origin is None:
        return False
    for library in Path(found.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return False
    return hasattr(torch.ops.torchvision, "nms")


def nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Boxes in order of their scores without those that overlap a better one by more than this."""
    left = scores.argsort(descending=True).tolist()
    kept: list[int] = []
    while left:
        best, left = left[0], left[1:]
        kept.append(best)
        if left:
            over = _overlap(boxes[best], boxes[left])
            left = [
                other
                for other, share in zip(left, over.tolist(), strict=True)
                if share <= threshold
            ]
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)


def _overlap(one: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    low = torch.maximum(one[:2], others[:, :2])
    high = torch.minimum(one[2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    area = (one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(dim=1)
    return shared / (area - shared).clamp(min=1e-9)


def roi_align(
    features: torch.Tensor,
    rois: torch.Tensor,
    scale: float,
    height: int,
    width: int,
    _sampling_ratio: int,
    _aligned: bool,
) -> torch.Tensor:
    """Each region sampled on a grid of height x width, one point a cell."""
    size = torch.tensor([features.shape[3], features.shape[2]], device=features.device)
    corners = rois[:, 1:].reshape(-1, 2, 2) * scale / size * 2 - 1
    down = torch.linspace(0, 1, height, device=features.device)
    across = torch.linspace(0, 1, width, device=features.device)
    low, extent = corners[:, :1], corners[:, 1:] - corners[:, :1]
    cells = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1).reshape(1, -1, 2)
    grid = (low + cells * extent).reshape(len(rois), height, width, 2)
    return functional.grid_sample(features[rois[:, 0].long()], grid, align_corners=False)


if not loads():
    # These are of operators that are not there.
    sys.modules["torchvision._meta_registrations"] = ModuleType("_meta_registrations")
    _library = torch.library.Library(NAMESPACE, "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define(
        "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, "
        "int pooled_width, int sampling_ratio, bool aligned) -> Tensor"
    )
    _library.impl("nms", nms, "CPU")
    _library.impl("roi_align", roi_align, "CPU")
    extension = importlib.import_module("torchvision.extension")
    vars(extension)["_has_ops"] = lambda: True
