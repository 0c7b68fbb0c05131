"""What the built-in steps before a model compute, one sample at a time."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsp.errors import EvaluationError
from xsp.evaluation.extra import needed
from xsp.evaluation.manifest import steps

Array = NDArray[Any]


def apply(chain: Iterable[steps.Step], value: Any) -> Array:
    """A column's value after these steps. Raises EvaluationError for one that does not fit."""
    for step in chain:
        try:
            value = _STEPS[type(step)](step, value)
        except EvaluationError:
            raise
        except (ValueError, TypeError, IndexError) as error:
            shape = getattr(value, "shape", type(value).__name__)
            raise EvaluationError(f"the step {step.label} cannot take {shape}: {error}") from error
    return np.asarray(value)


def _decode(step: steps.Decode, value: Any) -> Array:
    with needed("decoding images"):
        from PIL import Image, UnidentifiedImageError
    raw = value if isinstance(value, bytes) else np.asarray(value, np.uint8).tobytes()
    try:
        with Image.open(io.BytesIO(raw)) as image:
            pixels = np.array(image.convert("RGB" if step.colors == "rgb" else "L"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise EvaluationError(f"a sample is not an image that can be decoded ({error})") from error
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _resize(step: steps.Resize, value: Array) -> Array:
    """By torch's interpolation with antialiasing, within a grey level of Pillow's."""
    import torch

    height, width = _size(step, value.shape)
    planes = torch.from_numpy(np.ascontiguousarray(value)).float().permute(2, 0, 1)[None]
    smooth = {} if step.interpolation == "nearest" else {"antialias": True}
    made = torch.nn.functional.interpolate(
        planes, size=(height, width), mode=step.interpolation, **smooth
    )
    pixels = made[0].permute(1, 2, 0).numpy()
    if np.issubdtype(value.dtype, np.integer):
        limits = np.iinfo(value.dtype)
        pixels = np.rint(pixels).clip(limits.min, limits.max)
    return np.ascontiguousarray(pixels, value.dtype)


def _size(step: steps.Resize, shape: tuple[int, ...]) -> tuple[int, int]:
    if step.fit == "stretch":
        return step.height, step.width
    ratio = max(step.height / shape[0], step.width / shape[1])
    return max(round(shape[0] * ratio), step.height), max(round(shape[1] * ratio), step.width)


def _crop(step: steps.Crop, value: Array) -> Array:
    top, left = (value.shape[0] - step.height) // 2, (value.shape[1] - step.width) // 2
    if top < 0 or left < 0:
        raise ValueError(f"it is smaller than {step.height} x {step.width}")
    return value[top : top + step.height, left : left + step.width]


def _scale(step: steps.Scale, value: Array) -> Array:
    return np.asarray(value, np.float32) * np.float32(step.factor) + np.float32(step.offset)


def _normalize(step: steps.Normalize, value: Array) -> Array:
    mean, std = np.asarray(step.mean, np.float32), np.asarray(step.std, np.float32)
    return (np.asarray(value, np.float32) - mean) / std


def _transpose(step: steps.Transpose, value: Array) -> Array:
    return np.ascontiguousarray(np.transpose(value, step.axes))


def _reshape(step: steps.Reshape, value: Array) -> Array:
    return np.reshape(value, step.shape)


def _pad(step: steps.Pad, value: Array) -> Array:
    kept = np.asarray(value)[: step.length]
    widths = [(0, step.length - len(kept))] + [(0, 0)] * (kept.ndim - 1)
    return np.pad(kept, widths, constant_values=step.value)


def _cast(step: steps.Cast, value: Array) -> Array:
    return np.asarray(value, step.dtype)


_STEPS: dict[type[steps.Step], Callable[[Any, Any], Array]] = {
    steps.Decode: _decode,
    steps.Resize: _resize,
    steps.Crop: _crop,
    steps.Scale: _scale,
    steps.Normalize: _normalize,
    steps.Transpose: _transpose,
    steps.Reshape: _reshape,
    steps.Pad: _pad,
    steps.Cast: _cast,
}
