"""Question 5: normalisations that could be folded, and operations that could ride on others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from xsp.bounds.asker import Asker
from xsp.bounds.finding import Finding
from xsp.graphs.from_profile import graph_of_profile
from xsp.graphs.graph import Graph
from xsp.graphs.layer import Layer
from xsp.graphs.patterns import Neighbours

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_FOLLOWERS = frozenset(
    {"batch_norm", "relu", "clip", "silu", "gelu", "hardswish", "sigmoid", "tanh", "add", "mul"}
)
_ACTIVATIONS = ("relu", "clip", "silu", "hardswish", "gelu")


def fusion(asker: Asker) -> Iterator[Finding]:
    """Batch normalisations that could be folded, and operations that could ride on a product."""
    graph = graph_of_profile(asker.profile)
    norms = [] if _in_training(asker.profile) else _foldable(graph)
    if norms:
        yield _folded(asker, graph, norms)
    riders = [layer.owner for layer in graph.layers if layer.operator in _FOLLOWERS]
    if len(riders) > len(norms):
        yield asker.finding(
            5,
            riders[0],
            {"gone": asker.known(riders)},
            f"{len(riders)} element-wise layers read what another has just written: at most "
            "this, if all of them are fused into it",
            "let a compiler fuse them: torch.compile(model)",
            asker.lines(riders),
        )


def _foldable(graph: Graph) -> list[tuple[Layer, Layer]]:
    """Batch normalisations, each with the product before it."""
    near = Neighbours(graph)
    found = []
    for place in near.places("batch_norm"):
        before = near.before[place]
        if before and near.operator(before[0]) in {"convolution", "linear"}:
            found.append((graph.layers[before[0]], graph.layers[place]))
    return found


def _folded(asker: Asker, graph: Graph, norms: list[tuple[Layer, Layer]]) -> Finding:
    """On a GPU a convolution adds its bias in a kernel of its own: where it had none, folding
    leaves that kernel, which moves what an activation moves.
    """
    names = [norm.owner for _, norm in norms]
    bare = [norm for product, norm in norms if _gets_a_bias(asker, product)]
    changed = folded_away(asker, graph, names, bare)
    said = f"batch normalisations that follow a product: {len(norms)}"
    if bare:
        said += f"; {len(bare)} of them leave the addition of a bias"
    return asker.finding(
        5,
        names[0],
        changed,
        said,
        "fold them into its weights for inference: "
        "torch.nn.utils.fusion.fuse_conv_bn_eval, or torch.compile",
    )


def _gets_a_bias(asker: Asker, product: Layer) -> bool:
    return not asker.on_cpu and product.operator == "convolution" and len(product.weights) < 2


def folded_away(asker: Asker, graph: Graph, names: list[str], bare: list[Layer]) -> dict[str, Any]:
    """Arguments of what-if for normalisations that are gone, or of which the addition of a bias is
    left: launched from C++, and as long as an activation of the same size.
    """
    left = {norm.owner for norm in bare}
    gone = asker.known([name for name in names if name not in left])
    changed: dict[str, Any] = {"gone": gone} if gone else {}
    if bare:
        changed["no_framework"] = asker.known([norm.owner for norm in bare])
        times = _activation_ms(asker, graph)
        taken = {norm.owner: times.get(str(norm.inputs[0])) for norm in bare}
        changed["takes_ms"] = {name: ms for name, ms in taken.items() if ms is not None}
    return changed


def _activation_ms(asker: Asker, graph: Graph) -> dict[str, float]:
    """What an activation takes on the device, by its tensor, of those that the profile has."""
    tree = asker.profile.tree()
    rows = tree[(tree["level"] == "LAYER") & (tree["phase"] == "forward")]
    took = dict(zip(rows["name"], rows["device_ms"], strict=True))
    found: dict[str, float] = {}
    for layer in graph.layers:
        ms = took.get(layer.owner)
        if layer.operator in _ACTIVATIONS and ms is not None and ms > 0:
            found.setdefault(str(layer.inputs[0]), float(ms))
    return found


def _in_training(profile: ProfileData) -> bool:
    return bool((profile.table("layers")["phase"] == "backward").any())
