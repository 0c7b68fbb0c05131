"""A module as an ONNX file, exported once for each content of it and versions of the exporters."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from xsp.errors import WriteError
from xsp.evaluation.artifacts.store import checksum
from xsp.evaluation.extra import needed
from xsp.evaluation.predictors.predictor import LoadedModel
from xsp.machine.remarks import without_remarks

FILE, CHECKSUMS = "model.onnx", "checksums.json"
_EXPORTERS = ("torch", "onnx", "onnxscript")


@contextmanager
def exported(model: LoadedModel, options: dict[str, Any]) -> Iterator[Path]:
    """The model's file: the one kept in `model.exports`, made now where there is none; without such
    a folder, and where it cannot be told whether code has changed, a file that is gone afterwards.
    """
    with needed("exporting a module to ONNX", "onnx"):
        import onnx  # noqa: F401 - the exporter needs both, and says so in its own words
        import onnxscript  # noqa: F401 - likewise
    with _module(model, options) as (exporter, module, on_host):
        key = None if model.exports is None else _key(module, on_host)
        if model.exports is None or key is None:
            with tempfile.TemporaryDirectory(prefix="xsp-onnx-") as passing:
                yield _export(exporter, module, on_host, Path(passing))
            return
        folder = model.exports / key
        if not _whole(folder):
            _make(exporter, module, on_host, folder)
        yield folder / FILE


@contextmanager
def _module(model: LoadedModel, options: dict[str, Any]) -> Iterator[tuple[Any, Any, LoadedModel]]:
    """Exporter, module and model, on the host; the batch is fixed where the options say so."""
    from xsp.evaluation.predictors.exported import Exported

    fixed = {"batch": options["batch"]} if "batch" in options else {}
    on_host = replace(model, device="cpu", options=fixed)
    exporter = Exported()
    exporter.prepare(on_host)
    try:
        yield exporter, exporter.module(), on_host
    finally:
        exporter.unload()


def _export(exporter: Any, module: Any, model: LoadedModel, folder: Path) -> Path:
    import torch

    path = folder / FILE
    program = exporter.program(module, model)
    # About torchvision, which the exporter looks for and does not need.
    with without_remarks("torch.onnx"):
        torch.onnx.export(
            program,
            (),
            str(path),
            input_names=[each.name for each in model.inputs],
            output_names=[each.name for each in model.outputs],
            dynamo=True,
            verbose=False,
        )
    return path


def _make(exporter: Any, module: Any, model: LoadedModel, folder: Path) -> None:
    """Export into a folder that is whole or not there, whoever else does so too."""
    incoming = folder.with_name(f"incoming-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        incoming.mkdir(parents=True)
        _export(exporter, module, model, incoming)
        sums = {path.name: checksum(path) for path in incoming.iterdir()}
        (incoming / CHECKSUMS).write_text(json.dumps(sums))
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        with suppress(FileExistsError):
            incoming.rename(folder)
    except OSError as error:
        raise WriteError(
            f"the export cannot be kept in {str(folder)!r}: {error.strerror or error}; name "
            "another folder in XSP_ARTIFACTS, or check permissions and free space"
        ) from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _whole(folder: Path) -> bool:
    """Whether every file is as it was written."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text())
        return FILE in sums and all(checksum(folder / name) == sums[name] for name in sums)
    except (OSError, ValueError):
        return False


def _key(module: Any, model: LoadedModel) -> str | None:
    """Checksum of all that an export depends on: weights, structure, the files of code that define
    its modules, names and shapes, options, and versions. None where such a file is not to be had.
    """
    code, packages = _code(module)
    if None in code.values():
        return None
    content = {
        "state": _state(module),
        "structure": str(module),
        "code": code,
        "inputs": [asdict(each) for each in model.inputs],
        "outputs": [asdict(each) for each in model.outputs],
        "options": dict(model.options),
        "versions": {name: _version(name) for name in sorted({*_EXPORTERS, *packages})},
        "python": sys.version_info[:2],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _state(module: Any) -> str:
    """sha256 of every tensor of the state, with its name, type and shape."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # As bytes: numpy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(_byte()).numpy().data)
    return digest.hexdigest()


def _byte() -> Any:
    import torch

    return torch.uint8


def _code(module: Any) -> tuple[dict[str, str | None], set[str]]:
    """Checksums of the files that define its classes, PyTorch's own left out, and the packages that
    these files are of.
    """
    places = {type(each).__module__ for each in module.modules()}
    own = sorted(place for place in places if not place.startswith("torch."))
    packages = {place.partition(".")[0] for place in own}
    return {place: _file_checksum(place) for place in own}, packages


def _file_checksum(place: str) -> str | None:
    with suppress(OSError, TypeError, KeyError):
        return checksum(Path(inspect.getfile(sys.modules[place])))
    return None


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None
