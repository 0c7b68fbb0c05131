"""FLOPs of convolutions, counted as direct ones whatever algorithm runs."""

from __future__ import annotations

from math import isqrt, prod

from xsp.analysis.work.data_types import itemsize
from xsp.analysis.work.products.operands import Operands, Shape, UnknownWorkError, require


def convolution_module(layer: Operands) -> float:
    """2 N K P Q (C / groups) R S, or 2 N C H W (K / groups) R S where the convolution is
    transposed.

    Captures from before the filters' shape was recorded leave their size to the bytes of the
    parameters.
    """
    is_transposed = "Transpose" in layer.kind
    require(not layer.stored, "sparse filters")
    if layer.weight is not None and len(layer.weight) == 2 + int(layer.kind[-2]):
        along = layer.source if is_transposed else layer.output
        return 2.0 * prod(along) * prod(layer.weight[1:])
    require(not is_transposed, "filters of unknown shape")
    return 2.0 * prod(layer.output) * _weights_of_a_filter(layer)


def _weights_of_a_filter(layer: Operands) -> int:
    """From the bytes of the parameters. Depthwise filters are taken to be odd squares.

    Raises UnknownWorkError where the bytes do not tell: with half precision, which autocast may
    have made from wider parameters, and where they leave open whether there is a bias or whether
    there are groups.
    """
    data_type = layer.input_types[0]
    is_plain = data_type == layer.output_types[0] and data_type in {"float32", "float64"}
    require(is_plain, "parameters of another type")
    place = -1 - int(layer.kind[4])
    channels, filters = layer.inputs[0][place], layer.output[place]
    each, rest = divmod(layer.parameter_bytes, int(itemsize(data_type)) * filters)
    sizes = {size for size in (each, each - 1) if _is_filter(size, channels, filters)}
    require(rest == 0 and len(sizes) == 1, "parameters with several readings")
    return sizes.pop()


def _is_filter(size: int, channels: int, filters: int) -> bool:
    """Whether a filter can have so many weights: dense, or one channel deep."""
    is_dense = channels > 1 and size % channels == 0
    is_depthwise = channels == filters and isqrt(max(size, 0)) ** 2 == size and size % 2 == 1
    return size > 0 and (is_dense or is_depthwise)


def functional_convolution(layer: Operands) -> float:
    """2 for each weight of a filter and element of the output; of the input where the convolution
    is transposed. Groups and biases need not be known.
    """
    image, filters, output = layer.shape("input"), layer.shape("weight"), layer.output
    is_transposed = "transpose" in layer.kind or layer.options.get("transposed") is True
    require(not layer.stored, "sparse operands")
    require(
        layer.kind != "convolution" or "transposed" in layer.options or layer.has("transposed"),
        "a direction that is not recorded",
    )
    source, result = (output, image) if is_transposed else (image, output)
    place = 1 - len(filters)
    fits = filters[0] == result[place] and source[place] % filters[1] == 0
    require(fits, f"filters {filters} for {image}")
    return 2.0 * prod(result) * prod(filters[1:])


def time_batch_channel(layer: Operands) -> float:
    """`conv_tbc`: 2 K C for each element of the output, of filters (K, C, C_out)."""
    filters: Shape = layer.shape("weight")
    if len(filters) != 3:
        raise UnknownWorkError(f"filters {filters}")
    return 2.0 * prod(layer.output) * prod(filters[:2])
