"""FLOPs of attention: the products of queries with keys and of scores with values, and the
projections around them.
"""

from __future__ import annotations

from math import nan, prod

from xsp.analysis.work.products.operands import Operands, Shape, require


def attention_flops(query: Shape, key: Shape, value: Shape, output: Shape) -> float:
    """2 L S E for the scores and 2 L S E_v for the output, per batch and head; causal in full.

    From the dimensions of query (…, L, E), key (…, S, E), value (…, S, E_v) and output (…, L, E_v),
    whose batch and heads are those of all three, broadcast. NaN where they do not fit together.
    """
    inner, keys, rows = query[-1], key[-2], query[-2]
    fits = key[-1] == inner and value[-2] == keys and output[-2] == rows
    if not fits:
        return nan
    scores_and_output = inner + value[-1]
    return 2.0 * prod(output[:-1]) * keys * scores_and_output


def scaled_dot_product(layer: Operands) -> float:
    """`F.scaled_dot_product_attention`: as `attention_flops`."""
    query, key, value = (layer.shape(name) for name in ("query", "key", "value"))
    return attention_flops(query, key, value, layer.output)


def multi_head(layer: Operands) -> float:
    """`F.multi_head_attention_forward`, which `nn.MultiheadAttention` calls: a projection of query,
    key and value to E each, attention, and a projection of its output.

    Shapes are (L, N, E), or (L, E) without a batch. A learned key (`bias_k`) and one of zeros are
    a further position each.
    """
    require(not layer.has("static_k") and not layer.has("static_v"), "projected keys or values")
    query, key, value = (layer.shape(name) for name in ("query", "key", "value"))
    width = layer.option("embed_dim_to_check")
    positions = key[0] + layer.has("bias_k") + bool(layer.options.get("add_zero_attn"))
    projected = sum(prod(shape) for shape in (query, key, value, layer.output))
    rows = prod(query[:-1])
    return 2.0 * projected * width + 4.0 * rows * positions * width
