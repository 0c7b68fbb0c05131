"""What `xsp graph` and `xsp bound` read: a target, an ONNX file, a capture or a graph's file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsp.errors import GraphError
from xsp.extras import require

if TYPE_CHECKING:
    from xsp.graphs.graph import Graph
    from xsp.measuring.measurable import Measurable

Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        help="Shape of an input that an ONNX file leaves open, such as input=1,3,224,224; again "
        "for each.",
    ),
]
Values = Annotated[
    list[str] | None,
    typer.Option(
        "--value", help="Value of an ONNX input on which a condition depends, such as sr=16000."
    ),
]


def graph_from(source: str, shapes: Sequence[str] = (), values: Sequence[str] = ()) -> Graph:
    """The graph of a target, an ONNX file, a capture or a file of `xsp graph -o`.

    Raises GraphError, CaptureError or TargetError, which say what is wrong with it.
    """
    kind = Path(source.partition(":")[0]).suffix
    if kind == ".onnx":
        from xsp.graphs.from_onnx import graph_of_onnx

        return graph_of_onnx(source, shapes=parsed_shapes(shapes), values=parsed_values(values))
    if shapes or values:
        raise GraphError(
            f"--shape and --value are for ONNX files, and {source!r} is not one; leave them out"
        )
    if kind == ".xsp":
        from xsp.graphs.from_profile import graph_of_profile
        from xsp.profiles import load

        return graph_of_profile(load(source))
    if kind == ".json":
        return _from_file(source)
    return graph_of_work(target_work(source), source)


def target_work(text: str) -> Measurable:
    """The call that a target makes; the same as for `xsp profile`."""
    require("torch")
    import torch

    from xsp.cli.target_file import TargetName
    from xsp.measuring.measurable import measurable

    name = TargetName.parsed(text)
    torch.manual_seed(0)
    return measurable(name.function()(), text)


def graph_of_work(work: Measurable, text: str) -> Graph:
    """The graph of a model with inputs.

    Where neither torch.export nor torch.fx can read it, it is run under the layer tracer, and the
    graph is that of the recorded layers.

    Raises GraphError for a callable that is not a model.
    """
    from torch import nn

    from xsp.graphs.from_export import graph_of

    if not isinstance(work.function, nn.Module):
        raise GraphError(
            f"{text!r} returns a callable, but a graph can only be read from a model: return "
            "(model, inputs), or record it with `xsp profile` and give the capture"
        )
    try:
        return graph_of(work.function, work.args, work.kwargs)
    except GraphError as error:
        return _recorded(work, error)


def _recorded(work: Measurable, refused: GraphError) -> Graph:
    from dataclasses import replace

    from xsp.graphs.from_profile import graph_of_profile
    from xsp.profiler import measure

    prof = measure(
        work.function,
        *work.args,
        levels="M/L",
        iterations=1,
        warmup=0,
        progress=False,
        **work.kwargs,
    )
    found = graph_of_profile(prof)
    return replace(
        found, notes=(f"{refused}; the layers are those of a recorded run", *found.notes)
    )


def _from_file(source: str) -> Graph:
    from xsp.graphs.graph import Graph

    try:
        text = Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GraphError(
            f"{source!r} cannot be read ({error}); give a file of `xsp graph -o`"
        ) from error
    return Graph.from_json(text)


def parsed_shapes(texts: Sequence[str]) -> dict[str, list[int]]:
    """`input=1,3,224,224` as name and sizes. Raises GraphError for anything else."""
    found = {}
    for text in texts:
        name, equals, sizes = text.partition("=")
        try:
            shape = [int(each) for each in sizes.split(",") if each.strip()]
        except ValueError:
            equals, shape = "", []
        if not name or not equals or any(size < 1 for size in shape):
            raise GraphError(f"a shape must be name=sizes, such as input=1,3,224,224, not {text!r}")
        found[name] = shape
    return found


def parsed_values(texts: Sequence[str]) -> dict[str, Any]:
    """`sr=16000` as name and number. Raises GraphError for anything else."""
    found: dict[str, Any] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            found[name] = float(number) if "." in number else int(number)
        except ValueError:
            raise GraphError(
                f"a value must be name=number, such as sr=16000, not {text!r}"
            ) from None
    return found
