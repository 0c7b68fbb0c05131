"""Arrays to tensors and back, in the order and under the names of a model's manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from xsp.errors import EvaluationError
from xsp.evaluation.predictors.predictor import Batch, Outputs, Tensor


def to_tensors(
    batch: Batch, inputs: Sequence[Tensor], device: torch.device, dtype: torch.dtype | None
) -> list[torch.Tensor]:
    """The inputs in their order on the device, floating-point ones as `dtype` if one is given."""
    tensors = []
    for each in inputs:
        tensor = torch.from_numpy(np.require(batch[each.name], requirements=("C", "W"))).to(device)
        convert = dtype is not None and tensor.is_floating_point()
        tensors.append(tensor.to(dtype) if convert else tensor)
    return tensors


def to_arrays(returned: Any, outputs: Sequence[Tensor], model: str) -> Outputs:
    """What a module returned, by output: a tensor, a sequence of them, or a mapping by name.

    Copying waits for the device. Raises EvaluationError where an output is not there.
    """
    if isinstance(returned, Mapping):
        found = {each.name: returned.get(each.name) for each in outputs}
    else:
        values = returned if isinstance(returned, (tuple, list)) else (returned,)
        found = dict(zip((each.name for each in outputs), values, strict=False))
    arrays = {}
    for each in outputs:
        tensor = found.get(each.name)
        if not isinstance(tensor, torch.Tensor):
            raise EvaluationError(
                f"{model} returned no tensor for the output {each.name!r}: it returned "
                f"{_shown(returned)}"
            )
        arrays[each.name] = _array(tensor)
    return arrays


def undeclared(returned: Any, outputs: Sequence[Tensor]) -> tuple[str, ...]:
    """What a module returned beside its outputs: names in a mapping, places in a sequence."""
    if isinstance(returned, Mapping):
        known = {each.name for each in outputs}
        return tuple(
            repr(str(name))
            for name, value in returned.items()
            if value is not None and name not in known
        )
    values = returned if isinstance(returned, (tuple, list)) else (returned,)
    beyond = range(len(outputs), len(values))
    return tuple(
        f"value {place + 1} of {len(values)}" for place in beyond if values[place] is not None
    )


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    # numpy has no bfloat16.
    known = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return known.detach().cpu().numpy()


def _shown(returned: Any) -> str:
    if isinstance(returned, Mapping):
        return f"a mapping of {', '.join(map(str, returned))}"
    if isinstance(returned, (tuple, list)):
        return f"{len(returned)} values"
    return f"a {type(returned).__name__}"
