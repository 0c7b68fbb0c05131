"""torch's private names have four doors: what its compiler generated, Dynamo, its bindings, and
all else.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import xsp

ROOT = Path(xsp.__file__).parent
DOORS = [
    ROOT / "machine" / f"{name}_internals.py" for name in ("torch", "dynamo", "compiler", "binding")
]


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and len(name) > 1


def _dotted(node: ast.expr) -> list[str]:
    """`["torch", "_C", "x"]` of `torch._C.x`, empty for what does not begin with a name."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return [*inner, node.attr] if inner else []
    return []


def _names_of_torch(tree: ast.Module) -> list[str]:
    """Private names that a file reaches through `torch.…`, `nn.…`, an import or a string."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = _dotted(node)
            if dotted[:1] in (["torch"], ["nn"]):
                found += filter(_is_private, dotted[1:])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            named = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found += filter(_is_private, named)
        elif isinstance(node, ast.Constant) and str(node.value).startswith("torch._"):
            found.append(str(node.value))
    return found


def _behind_the_door() -> set[str]:
    """Private attributes and strings of the doors: those of modules, tensors and events."""
    nodes = [node for door in DOORS for node in ast.walk(ast.parse(door.read_text()))]
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    strings = {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {name for name in attributes | strings if name.isidentifier() and _is_private(name)}


def _used(tree: ast.Module, names: set[str]) -> list[str]:
    attributes = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and _dotted(node)[:1] != ["self"]
    ]
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [name for name in (*attributes, *strings) if name in names]


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(ROOT.rglob("*.py")) if path not in DOORS],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_other_module_uses_a_private_name_of_torch(path: Path) -> None:
    """A release of torch that moves a private name breaks one module of xsp and no other."""
    tree = ast.parse(path.read_text())
    assert not [*_names_of_torch(tree), *_used(tree, _behind_the_door())]


def test_the_search_finds_private_names() -> None:
    """The test above would see a private name written as an attribute, an import or a string."""
    source = "import torch\nfrom torch.utils._pytree import x\ntorch._C.y\nz = 'torch._dynamo'\n"
    assert set(_names_of_torch(ast.parse(source))) == {"_pytree", "_C", "torch._dynamo"}
    assert _used(ast.parse("module._buffers; 'torch'; n = '_call_impl'"), _behind_the_door()) == [
        "_buffers",
        "_call_impl",
    ]
