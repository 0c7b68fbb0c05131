"""FLOPs of layers that are computed by products: one module per family, and the rules that name
them.
"""

from xsp.analysis.work.products.operands import Operands, Shape, Shapes
from xsp.analysis.work.products.rules import is_product, product_flops

__all__ = ["Operands", "Shape", "Shapes", "is_product", "product_flops"]
