"""Fake NVIDIA libraries and programs that import them, compiled once; fixtures and helpers."""

from __future__ import annotations

import ctypes
import functools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xsp.levels._native import interpose
from xsp.levels.library.tracer import LibraryTracer

SOURCES = Path(__file__).with_name("native")

FLAVOURS = {
    "lazy": ["-Wl,-z,lazy"],
    "full relro": ["-Wl,-z,relro,-z,now"],
    "no plt": ["-fno-plt", "-Wl,-z,relro,-z,now"],
}
"""How an importer can reach a function: unresolved slot, read-only slot, read-only slot without a
PLT entry.
"""

PLAN = {
    "cudnnVersion": 91900,
    "operationGraph": {
        "finalizeMode": "CONV_FORWARD",
        "tensors": [
            {
                "name": "119",
                "dataType": "CUDNN_DATA_HALF",
                "dim": [32, 8, 3, 3],
                "stride": [72, 9, 3, 1],
            },
            {
                "name": "120",
                "dataType": "CUDNN_DATA_HALF",
                "dim": [2, 16, 14, 14],
                "stride": [3136, 196, 14, 1],
            },
            {
                "name": "121",
                "dataType": "CUDNN_DATA_HALF",
                "dim": [2, 32, 7, 7],
                "stride": [1568, 49, 7, 1],
            },
        ],
        "nodes": [
            {
                "operation": "CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR",
                "mathPrec": "CUDNN_DATA_FLOAT",
                "pad": [1, 1],
                "stride": [2, 2],
                "dilation": [1, 1],
                "X": "120",
                "W": "119",
                "Y": "121",
                "groupCount": 2,
            }
        ],
    },
    "engine": {"engineId": 28, "smVersion": 900, "knobChoices": {"CUDNN_KNOB_TYPE_TILE_SIZE": 3}},
}
"""What cuDNN 9.19 says of `conv2d(x, w, stride=2, padding=1, groups=2)` in fp16, shortened."""


def compile_library(
    output: Path, source: str, *options: str, libraries: tuple[str, ...] = ()
) -> Path:
    """A shared library made of one of the sources beside this file; it finds its own libraries in
    its folder.
    """
    compiler = ["c++"] if source.endswith(".cpp") else ["cc"]
    link = ["-L", str(output.parent), *(f"-l{name}" for name in libraries), "-Wl,-rpath,$ORIGIN"]
    command = [
        *compiler,
        "-O1",
        "-g",
        "-shared",
        "-fPIC",
        "-fexceptions",
        *options,
        str(SOURCES / source),
        *link,
    ]
    subprocess.run([*command, "-o", str(output)], check=True)
    return output


@pytest.fixture(scope="session")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libcublasLt, libcublas and libcudnn."""
    folder = tmp_path_factory.mktemp("fakes")
    compile_library(folder / "libcublasLt.so", "fake_cublasLt.c")
    compile_library(folder / "libcublas.so", "fake_cublas.c", libraries=("cublasLt",))
    text = json.dumps(json.dumps(PLAN))
    compile_library(folder / "libcudnn.so", "fake_cudnn.c", f"-DFAKE_PLAN_JSON={text}")
    return folder


@pytest.fixture(scope="session")
def build_importer(fakes: Path) -> Callable[[str, str], Path]:
    """A function that compiles an importer, once for each name."""

    @functools.cache
    def build(name: str, flavour: str) -> Path:
        options = FLAVOURS[flavour]
        return compile_library(
            fakes / f"{name}.so", "importer.c", *options, libraries=("cublas", "cublasLt", "cudnn")
        )

    return build


def load_importer(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.blend.restype = ctypes.c_double
    library.blend.argtypes = [ctypes.c_double, ctypes.c_int]
    library.many.argtypes = [ctypes.c_long]
    library.lt_matmul.argtypes = [ctypes.c_void_p] * 4
    library.execute.argtypes = [ctypes.c_void_p]
    return library


@pytest.fixture(params=list(FLAVOURS))
def any_importer(
    request: pytest.FixtureRequest, build_importer: Callable[[str, str], Path]
) -> ctypes.CDLL:
    """Each kind of importer in turn."""
    return load_importer(build_importer(request.param.replace(" ", "_"), request.param))


@pytest.fixture
def importer(build_importer: Callable[[str, str], Path]) -> ctypes.CDLL:
    """The kind of importer that PyTorch is."""
    return load_importer(build_importer("lazy", "lazy"))


@pytest.fixture
def no_slot_left_patched() -> Iterator[None]:
    """Fail a test that leaves a slot leading to a stub, and take no events over into the next."""
    yield
    assert interpose.functions().xsp_interpose_patched() == 0
    tracer = LibraryTracer()
    tracer.collect()
    tracer.lost()


def fake(fakes: Path, library: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(fakes / f"{library}.so"))


def address_of(library: ctypes.CDLL, name: str) -> int:
    return ctypes.addressof(ctypes.c_char.in_dll(library, name))


def received(fakes: Path, count: int) -> list[int]:
    """The arguments that the fake cuBLAS was last called with."""
    return list((ctypes.c_int64 * count).in_dll(fake(fakes, "libcublas"), "fake_arguments"))


def record(function: Callable[[], Any], **options: Any) -> tuple[LibraryTracer, dict[str, Any]]:
    """A stopped tracer and the events of one call of `function`."""
    tracer = LibraryTracer(**options)
    tracer.start()
    try:
        function()
    finally:
        tracer.stop()
    return tracer, tracer.collect()["library_events"]


def names(tracer: LibraryTracer, events: dict[str, Any]) -> list[str]:
    return [tracer.symbols[symbol] for symbol in events["symbol"]]
