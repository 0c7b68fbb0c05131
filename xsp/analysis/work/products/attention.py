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
    fits = query[-1] == key[-1] and key[-2] == value[-2] and query[-2] == output[-2]
    if not fits:
        return nan
    return 2.0 * prod(output[:-1]) * key[-2] * (query[-1] + value[-1])


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
    query, key, value = (layer.shape(name) for name in ("query", "key", "value"))
    width = layer.option("embed_dim_to_check")
    require(not layer.has("static_k") and not layer.has("static_v"), "projected keys or values")
    positions = key[0] + layer.has("bias_k") + bool(layer.options.get("add_zero_attn"))
    projections = (prod(query) + prod(key) + prod(value) + prod(layer.output)) * width
    rows = prod(query[:-1])
    return 2.0 * projections + 4.0 * rows * positions * width
